//! `overstore gc`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, Unit, load, print_error};
use crate::apply;
use crate::check::{self, Severity};
use crate::cli::{self, RootArgument};
use crate::collect::{
    self, Absent, CollectError, Collected, Collector, Incomplete, Keep, Limits, Options, Programs,
    Progress, Roots, Why,
};
use crate::config::Store;
use crate::escape::{counted, show, show_path};
use crate::linux::namespaces;
use crate::linux::{clock, root::System};
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe::{self, Depth};
use crate::records::{self, Memory};
use crate::remedy::{Fault, Remedy};
use crate::report::{
    self, GcReport, KeptReport, LeftReport, ObjectReport, Outcome, RemovedReport, WhyReport,
};
use crate::systemd::notify::ServiceManager;
use crate::systemd::text::unit_name;

pub(super) fn run(
    arguments: &cli::Gc,
    store: &cli::StoreArgument,
    json: bool,
) -> Result<ExitCode, Failure> {
    let loaded = load(store, &RootArgument::default())?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    require_as_described(&store, &system, "collected")?;
    let manager = ServiceManager::from_environment();
    let programs = Programs {
        directory: arguments.nix.clone(),
    };
    if let Some(path) = &arguments.why {
        return why(&programs, &store, &system, path, json);
    }
    let daemon = way(arguments, &store)?;
    let keep = match daemon {
        // The daemon does not tell its own settings.
        Some(_) => Keep {
            derivations: true,
            outputs: true,
            realisations: true,
        },
        None => collect::keep(&programs),
    };
    let roots = Roots::read_seen(&store, &system).map_err(Failure::machine)?;
    // What an ordinary user cannot see, the daemon does.
    if daemon.is_none() && !arguments.ignore_absent_roots && !roots.absent.is_empty() {
        return Err(absent(&roots.absent));
    }
    let memory = Memory::read(&store);
    let warmed = match &store.warm {
        Some(_) => memory.warmed_paths(&store).unwrap_or_default(),
        None => PathSet::default(),
    };
    let deleting = records::deleted_paths::read(&store);
    let mut collector = Collector {
        store: &store,
        system: &system,
        programs: &programs,
        keep,
        warmed: &warmed,
        remembered_rows: memory.upper_layer.map_or(0, |layer| layer.rows),
        deleting: &deleting,
        options: options(&store, arguments, daemon.is_some()),
        roots: &roots,
    };
    let without;
    if let Some(cli::Generations(which)) = &arguments.delete_generations {
        delete_generations(&collector, which)?;
        without = Roots::read(&store, &system).map_err(Failure::machine)?;
        collector.roots = &without;
    }
    let collected = match arguments.dry_run {
        true => collector.plan(),
        false => with_progress(&collector, daemon, &manager, json)?,
    };
    let collected = match collected.map_err(Failure::machine)? {
        Ok(collected) => collected,
        Err(why) => return Err(incomplete(&store, &why)),
    };
    if let Some(why) = &collected.remount {
        print_not_remounted(&store, why);
    }
    let rows = collected.with_row;
    let (failed, deleting) = (collected.failed.clone(), collected.deleting.clone());
    let mut report = report(&store, arguments, keep, collected);
    report.unseen_directories = shown(&roots.unseen_directories);
    if !arguments.dry_run && daemon.is_none() {
        let remembered = remembered(&report);
        let mut tell = |progress: apply::Progress<'_>| super::tell(&progress, &manager);
        apply::remember_collected(&store, &system, &remembered, rows, &deleting, &mut tell);
    }
    report.print(json)?;
    if let Some((path, said)) = failed {
        print_error(Some(&store.name), &not_deleted(&store, &path, &said));
    }
    super::warn_if_deaf(&manager);
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// Deletes old generations of profiles, unless the collection after it would be refused.
fn delete_generations(collector: &Collector<'_>, which: &str) -> Result<(), Failure> {
    let store = collector.store;
    if let Err(why) = collector.plan().map_err(Failure::machine)? {
        return Err(incomplete(store, &why));
    }
    let left = collect::delete_generations(collector.programs, store, collector.keep, which);
    for others in left.map_err(Failure::machine)? {
        super::print_warning(&others.fault(which));
    }
    Ok(())
}

/// What Nix could not delete.
fn not_deleted(store: &Store, path: &StorePath, said: &str) -> Fault {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let path = directory.print(path);
    let what = format!("Nix could not delete {}: {said}", show(&path));
    let remedy = Remedy::say("see to what Nix says, and run this again; the rest is done");
    Fault::new(what).remedy(remedy.run(store.command(["gc"])))
}

/// The socket of the store's daemon, where the collection goes through that.
///
/// # Errors
/// When this user may not collect the store in any way.
fn way<'s>(arguments: &cli::Gc, store: &'s Store) -> Result<Option<&'s Path>, Failure> {
    if arguments.dry_run || namespaces::can_mount().unwrap_or(false) {
        return Ok(None);
    }
    // Elsewhere a program can run from it that the store's daemon does not see.
    let at_its_place = store.real.value == store.store.value;
    let Some(daemon) = store.daemon.as_ref().filter(|_| at_its_place) else {
        let what = format!("only root may collect the store {}", store.name);
        let remedy = format!(
            "run `{}` as root, or have the timer `overstore-gc@{}.timer` do it, which `[gc]` in \
             its description makes; a store of `overstore exec` is collected inside of it",
            store.command(["gc"]),
            unit_name(&store.name)
        );
        return Err(Failure::not_as_described(what).remedy(remedy));
    };
    if let Some(option) = arguments.needs_root() {
        let what = format!(
            "only root may collect the store {} with `{option}`",
            store.name
        );
        let remedy = format!("leave `{option}` out");
        return Err(Failure::not_as_described(what).remedy(remedy));
    }
    Ok(Some(&*daemon.socket))
}

/// Says that an overlay was not remounted. What was done is done all the same.
pub(super) fn print_not_remounted(store: &Store, why: &Fault) {
    let what = format!("the merged store was not remounted: {}", why.what);
    let fault = Fault::new(what).remedy(why.remedy.clone());
    print_error(Some(&store.name), &fault);
}

/// Says what keeps a path alive.
fn why(
    programs: &Programs,
    store: &Store,
    system: &System,
    path: &Path,
    json: bool,
) -> Result<ExitCode, Failure> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
    let path = super::warm::resolve(path, &directory)?;
    let found = collect::why(store, system, collect::keep(programs), &path);
    let (kept, unseen) = match found.map_err(Failure::machine)? {
        Why::Kept { by, unseen } => (by, unseen),
        Why::Below => {
            return Err(Failure::refused(format!(
                "{} is only in the lower store, which a collection does not touch",
                print(&path)
            ))
            .remedy("give the path of an object of the upper layer"));
        }
        Why::Unknown => {
            return Err(Failure::refused(format!(
                "{} is not valid in the store {}",
                print(&path),
                store.name
            ))
            .remedy(Remedy::say("list what is garbage").run(store.command(["gc", "--dry-run"]))));
        }
    };
    let report = WhyReport {
        version: 1,
        store: store.name.clone(),
        path: print(&path),
        alive: !kept.is_empty(),
        roots: kept
            .iter()
            .map(|kept| KeptReport {
                root: kept.root.kind.text(),
                by_way_of: kept.way.iter().map(print).collect(),
            })
            .collect(),
        unseen_directories: shown(&unseen),
    };
    report.print(json)?;
    Ok(ExitCode::SUCCESS)
}

/// Sees that nothing is wrong with the store; what is, is printed.
///
/// # Errors
/// When something is: the store is not `done` then.
pub(super) fn require_as_described(
    store: &Store,
    system: &System,
    done: &str,
) -> Result<(), Failure> {
    let observed = observe::observe(system, store, Depth::Up).map_err(Failure::observing)?;
    let mut errors = check::check(store, &observed);
    errors.retain(|finding| finding.severity == Severity::Error);
    report::warn(&errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Failure::not_as_described(format!(
        "the store {} is not as described, so it is not {done}",
        store.name
    ))
    .remedy(
        Remedy::say("follow what is printed above; see more of it").run(store.command(["check"])),
    ))
}

fn options(store: &Store, arguments: &cli::Gc, only_above: bool) -> Options {
    let before = arguments.older_than.map(|age| {
        let now = i64::try_from(clock::now()).unwrap_or(i64::MAX);
        now.saturating_sub(i64::try_from(age.seconds).unwrap_or(i64::MAX))
    });
    Options {
        limits: Limits {
            before,
            metadata: arguments.metadata,
            only_above,
        },
        min_free: arguments.min_free.map(|size| size.bytes),
        max_free: arguments.max_free.map(|size| size.bytes),
        accept_lost_rows: arguments.accept_lost_rows,
        leftovers: arguments.leftovers || store.gc.as_ref().is_some_and(|gc| gc.leftovers),
    }
}

fn with_progress(
    collector: &Collector<'_>,
    daemon: Option<&Path>,
    manager: &ServiceManager,
    json: bool,
) -> Result<Result<Result<Collected, Incomplete>, CollectError>, Failure> {
    let left = "what was deleted is gone; the rest is unchanged";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Waiting(holder) => super::tell(&apply::Progress::Waiting(holder), manager),
        Progress::Choosing => {
            manager.working("choosing what is garbage");
            work.step("choosing what is garbage");
        }
        Progress::Deleting(objects) => {
            let text = format!("Nix deletes {}", counted(objects, "object"));
            manager.working(&text);
            work.counted(text, Unit::Objects, objects);
        }
        Progress::Deleted => work.counts().add(1),
    };
    Ok(match daemon {
        Some(socket) => collector.run_through(socket, &mut tell),
        None => collector.run(&mut tell),
    })
}

pub(super) fn absent(absent: &[Absent]) -> Failure {
    let mut text = "some roots cannot be seen, and Nix would remove them for that:".to_owned();
    for root in absent {
        text += &format!(
            "\n  {} -> {}: {}",
            show_path(&root.link),
            show_path(&root.target),
            root.why.text()
        );
    }
    Failure::not_as_described(text).remedy(
        Remedy::say("mount what is missing")
            .or("remove these links, if they are not needed any more")
            .or("collect what they keep with `--ignore-absent-roots`"),
    )
}

fn incomplete(store: &Store, why: &Incomplete) -> Failure {
    let failure =
        Failure::not_as_described(format!("the store {} is not collected: {why}", store.name));
    failure.remedy(match why {
        Incomplete::NoRows { .. } => {
            Remedy::say("bring the database back from a backup; nothing was deleted")
        }
        Incomplete::FewerRows { .. } => {
            Remedy::say("bring the database back from a backup; nothing was deleted").or(
                "go on with `--accept-lost-rows`, if nothing is missed and the other objects are \
                 leftovers",
            )
        }
        Incomplete::NoObjects { .. } => Remedy::say(format!(
            "mount the disk of {}; nothing was deleted",
            show_path(&store.upper_layer)
        ))
        .or("name the right directory as `upper-layer`"),
    })
}

/// What `status` is to show of it.
fn remembered(report: &GcReport) -> records::Collected {
    records::Collected {
        time: clock::now(),
        objects: report.objects.len() as u64,
        bytes: report.bytes,
        left: (report.left.len() + report.in_both_layers.len() + report.unknown.len()) as u64,
    }
}

fn report(store: &Store, arguments: &cli::Gc, keep: Keep, collected: Collected) -> GcReport {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
    let below = arguments
        .min_free
        .is_some_and(|size| !arguments.dry_run && collected.free < size.bytes);
    GcReport {
        version: 1,
        store: store.name.clone(),
        outcome: match collected.objects.is_empty() && collected.optimised.is_empty() {
            _ if collected.failed.is_some() => Outcome::Failed,
            _ if below => Outcome::NotAsDescribed,
            true => Outcome::Unchanged,
            false => Outcome::Done,
        },
        dry_run: arguments.dry_run,
        keep_derivations: keep.derivations,
        keep_outputs: keep.outputs,
        roots: collected.roots,
        unseen_processes: collected.unseen_processes,
        unseen_directories: Vec::new(),
        enough_free: collected.enough_free,
        bytes: collected.objects.iter().map(|(_, bytes)| bytes).sum(),
        objects: ObjectReport::all(&directory, &collected.objects),
        rows: collected.rows,
        leftovers: removed(collected.removed),
        leftovers_for_root: removed(collected.for_root),
        left: collected
            .left
            .iter()
            .map(|(path, reason)| LeftReport {
                path: print(path),
                reason: reason.clone(),
            })
            .collect(),
        in_both_layers: collected.both.iter().map(print).collect(),
        optimised: collected
            .optimised
            .iter()
            .map(|(path, bytes)| ObjectReport {
                path: print(path),
                bytes: *bytes,
            })
            .collect(),
        kept_by_limits: collected.kept_by_limits,
        unknown: collected.unknown.iter().map(print).collect(),
        free: collected.free,
    }
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    let shown = paths.iter().map(|path| show_path(path).into_owned());
    shown.collect()
}

fn removed(removed: collect::Removed) -> RemovedReport {
    RemovedReport {
        temporary_directories: removed.temporary,
        lock_files: removed.locks,
        whiteouts: removed.whiteouts,
    }
}
