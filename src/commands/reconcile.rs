//! `overstore reconcile`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, Unit, load, private};
use crate::apply::{self, End, SetUp};
use crate::check::{self, Part, Severity};
use crate::cli::{self, RootArgument};
use crate::collect::{Programs, Roots};
use crate::config::{self, Store, WhenReplaced};
use crate::escape::{counted, show_path};
use crate::linux::namespaces;
use crate::linux::root::System;
use crate::lower::publication::{Publication, path_of};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe::{self, Depth};
use crate::plan::{Allowed, StepReport};
use crate::reconcile::{
    Fetcher, GiveUp, Missing, OldStores, ReconcileError, Reconciled, Reconciler, Step, WithoutRow,
    obstacles,
};
use crate::records::Memory;
use crate::remedy::{Fault, HasRemedy, Remedy};
use crate::report::{
    self, LeftReport, MissingReport, ObjectReport, Outcome, ReconcileReport, WithoutRowReport,
};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Reconcile, json: bool) -> Result<ExitCode, Failure> {
    let loaded = load(&arguments.store, &RootArgument::default())?;
    let super::Loaded { store, system } = private::beside(loaded)?;
    if !arguments.dry_run {
        needs_root(&store)?;
    }
    let (old, old_directories) = old_stores(&store, &arguments.old)?;
    let roots = roots(&store, &system, arguments.ignore_absent_roots)?;
    let over = over_current(&store)?;
    let programs = Programs {
        directory: arguments.nix.clone(),
    };
    let fetcher = Fetcher {
        store: &store,
        programs: &programs,
    };
    // Nix is asked only where the answer matters.
    let gives_up = arguments.drop_missing && (arguments.dry_run || !fetcher.has_substituters());
    let reconciler = Reconciler {
        store: &over,
        system: &system,
        old: &old,
        old_is_given: !arguments.old.is_empty(),
        give_up: GiveUp {
            missing: gives_up,
            upper: arguments.prefer_lower,
        },
        remove_without_rows: arguments.remove_without_rows,
        roots: &roots,
    };
    let manager = ServiceManager::from_environment();
    let mut lower_is_wrong = false;
    let (done, mounted) = match arguments.dry_run {
        true => {
            let done;
            (done, lower_is_wrong) = planned(&reconciler)?;
            (done, None)
        }
        false => {
            let whole = Whole {
                store: &store,
                reconciler,
                fetcher,
                drop_missing: arguments.drop_missing,
            };
            let left = "nothing is lost, and the store stays down until this is run again";
            let work = LongWork::begin(OnInterrupt::End(left), json)?;
            let (done, mounted) = whole.run(&manager, &work)?;
            drop(work);
            (done, Some(mounted))
        }
    };
    let mut report = report(&store, arguments.dry_run, &old_directories, &done);
    report.mounted = mounted;
    if mounted == Some(false) || lower_is_wrong {
        report.outcome = Outcome::NotAsDescribed;
    }
    report.print(json)?;
    for fault in faults(&store, &done) {
        super::print_error(Some(&store.name), &fault);
    }
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// What a run would do now, and whether the lower store keeps it from that. Whatever else would is told,
/// too; where it is also why nothing can be said, it is the error, as of a run.
fn planned(reconciler: &Reconciler<'_>) -> Result<(Reconciled, bool), Failure> {
    let store = reconciler.store;
    let observed =
        observe::observe(reconciler.system, store, Depth::Up).map_err(Failure::observing)?;
    let obstacles = obstacles(store, &observed, true);
    match reconciler.plan() {
        Ok(done) => {
            report::warn(&obstacles);
            // `up` puts others right.
            let is_wrong = obstacles.iter().any(|it| it.part == Part::LowerStore);
            Ok((done, is_wrong))
        }
        Err(error) if obstacles.is_empty() => Err(failure(store, error)),
        Err(_) => Err(failure(store, ReconcileError::NotAsDescribed(obstacles))),
    }
}

/// All of it, from the layers to what Nix fetches.
struct Whole<'a> {
    /// The store as it is described.
    store: &'a Store,
    /// What puts it right, over what it will be over.
    reconciler: Reconciler<'a>,
    /// What fetches what is missing.
    fetcher: Fetcher<'a>,
    /// Whether what is missing after that is given up.
    drop_missing: bool,
}

impl Whole<'_> {
    /// What was done, and whether the store is mounted then.
    fn run(
        &self,
        manager: &ServiceManager,
        work: &LongWork,
    ) -> Result<(Reconciled, bool), Failure> {
        let failed = |error| failure(self.store, error);
        let before = match self.store.lower.published() {
            None => already_done(&self.reconciler, manager, work)?,
            Some(_) => None,
        };
        let (mut done, mounted) = match before {
            Some(done) => (done, true),
            None => {
                let done = with_progress(&self.reconciler, manager, work).map_err(failed)?;
                if done.refused.is_empty() && done.missing.is_empty() {
                    go_on(self.store, self.reconciler.store)?;
                }
                let mounted = done.refused.is_empty()
                    && set_up(self.store, self.reconciler.system, manager, work)?;
                (done, mounted)
            }
        };
        if mounted && !done.missing.is_empty() && self.fetcher.has_substituters() {
            let last = Reconciler {
                give_up: GiveUp {
                    missing: self.drop_missing,
                    ..self.reconciler.give_up
                },
                ..self.reconciler
            };
            fetch(&self.fetcher, &last, &mut done, manager, work).map_err(failed)?;
            if done.missing.is_empty() {
                go_on(self.store, self.reconciler.store)?;
            }
        }
        Ok((done, mounted))
    }
}

/// The store as it is to be: over a publication, with its current generation below.
fn over_current(store: &Store) -> Result<Store, Failure> {
    let mut over = store.clone();
    if let Some((directory, _)) = store.lower.published() {
        let opened = Publication::open(directory).map_err(Failure::machine)?;
        let current = opened.current().map_err(Failure::machine)?;
        over.lower = over.lower.with_generation(path_of(directory, current));
    }
    Ok(over)
}

/// Has the store use the generation that it was reconciled with.
fn go_on(store: &Store, over: &Store) -> Result<(), Failure> {
    match (store.lower.published(), over.lower.state()) {
        (Some((_, link)), Some(generation)) => {
            apply::link_generation(link, generation).map_err(Failure::machine)
        }
        _ => Ok(()),
    }
}

/// What `up` does of it before it mounts the store, where the description says so: all, or nothing
/// where something would be missing afterwards. What keeps it from that is told, and no reason not to
/// go on.
pub(super) fn before_up(
    store: &Store,
    system: &System,
    manager: &ServiceManager,
    work: &LongWork,
) -> Option<StepReport> {
    let has_database = store.database().symlink_metadata().is_ok();
    if store.when_replaced != WhenReplaced::Reconcile || !has_database {
        return None;
    }
    let is_mounted = observe::is_mounted(system, store).ok()?;
    if is_mounted || !namespaces::can_mount().unwrap_or(false) {
        return None;
    }
    let reconcile = || {
        let (old, _) = old_stores(store, &[])?;
        let roots = Roots::read(store, system).map_err(Failure::machine)?;
        let reconciler = Reconciler {
            store,
            system,
            old: &old,
            old_is_given: false,
            give_up: GiveUp::default(),
            remove_without_rows: false,
            roots: &roots,
        };
        let mut step = |step| tell(step, manager, work);
        let done = reconciler.run(true, &mut step, &mut |progress| {
            work.tell(&progress, manager);
        });
        done.map_err(Failure::machine)
    };
    match reconcile() {
        Ok(done) if done.is_undone || done.is_nothing() => None,
        Ok(done) => {
            let report = report(store, false, &[], &done);
            Some(StepReport::reconcile(store, &report.parts()))
        }
        // `up` says so itself.
        Err(failure) => {
            let Fault { what, remedy } = failure.fault();
            let what = format!("the store is not reconciled with its lower store: {what}");
            super::print_warning(&Fault::new(what).remedy(remedy));
            None
        }
    }
}

fn needs_root(store: &Store) -> Result<(), Failure> {
    if namespaces::can_mount().unwrap_or(false) {
        return Ok(());
    }
    Err(
        Failure::not_as_described(format!("only root may reconcile the store {}", store.name))
            .remedy(Remedy::from(store.command(["reconcile"])).by_root()),
    )
}

/// What is left of a store that is mounted and has nothing else to be done: nothing, or what is missing.
/// An earlier run may have ended after it had mounted the store.
fn already_done(
    reconciler: &Reconciler<'_>,
    manager: &ServiceManager,
    work: &LongWork,
) -> Result<Option<Reconciled>, Failure> {
    let Reconciler { store, system, .. } = *reconciler;
    if !observe::is_mounted(system, store).map_err(Failure::observing)? {
        return Ok(None);
    }
    let observed = observe::observe(system, store, Depth::Up).map_err(Failure::observing)?;
    if observed.mount.overlay.is_none() || !obstacles(store, &observed, false).is_empty() {
        return Ok(None);
    }
    let done = reconciler.plan().map_err(|error| failure(store, error))?;
    let rest = Reconciled {
        missing: Vec::new(),
        ..done.clone()
    };
    let remember = || {
        let mut tell = |progress: apply::Progress<'_>| work.tell(&progress, manager);
        let known = reconciler.remember(&observed, &done, &mut tell);
        known.map_err(|error| failure(store, error))
    };
    let is_all = rest.is_nothing() && (!done.missing.is_empty() || remember()?);
    Ok(is_all.then_some(done))
}

/// The roots of a store, all of which can be seen unless that is to be ignored.
fn roots(store: &Store, system: &System, ignore_absent: bool) -> Result<Roots, Failure> {
    let roots = Roots::read(store, system).map_err(Failure::machine)?;
    if ignore_absent || roots.absent.is_empty() {
        return Ok(roots);
    }
    Err(super::gc::absent(&roots.absent))
}

/// The old lower stores: those that are given, the one that is remembered, and the lower store
/// directory itself, in which there may still be what is no longer valid in it.
fn old_stores(
    store: &Store,
    given: &[std::ffi::OsString],
) -> Result<(OldStores, Vec<PathBuf>), Failure> {
    let (mut old, mut directories) = (OldStores::default(), Vec::new());
    for url in given {
        let directory = objects(store, url).map_err(|why| {
            Failure::refused(format!(
                "`--old {}` names no store: {why}",
                show_path(Path::new(url))
            ))
            .remedy("give its URL, its root, or the directory with its objects")
        })?;
        old.add(&directory).map_err(|error| {
            let what = format!("the old store {} cannot be read", show_path(&directory));
            Failure::doing(what, error)
                .refusing()
                .remedy("mount it, or leave `--old` out; what only it has is then missing")
        })?;
        directories.push(directory);
    }
    let remembered = Memory::read(store).lower.map(|lower| lower.store);
    let remembered = remembered.filter(|url| given.is_empty() && *url != store.lower.given);
    let remembered = remembered.and_then(|url| objects(store, OsStr::new(&url)).ok());
    for directory in remembered.into_iter().chain([store.lower.real.clone()]) {
        // One that is not there any more is no help.
        if !directories.contains(&directory) && old.add(&directory).is_ok() {
            directories.push(directory);
        }
    }
    Ok((old, directories))
}

/// The directory with the objects of a store.
fn objects(store: &Store, url: &OsStr) -> Result<PathBuf, String> {
    let real = config::objects_of(url.as_bytes(), &store.store)?;
    let itself = Path::new(url);
    // The directory with the objects, and not the root of a store.
    match itself.is_absolute() && !real.is_dir() && itself.is_dir() {
        true => Ok(itself.to_owned()),
        false => Ok(real),
    }
}

/// Tells how far it is.
fn tell(step: Step, manager: &ServiceManager, work: &LongWork) {
    match step {
        Step::Carrying(objects) => {
            let text = format!("carrying {}", counted(objects, "object"));
            manager.working(&text);
            work.counted(text, Unit::Objects, objects);
        }
        Step::Carried(objects) => {
            // Each has it wait longer.
            manager.working(&format!("carried {} more", counted(objects, "object")));
            work.counts().add(objects);
        }
        Step::Rows => {
            manager.working("writing rows");
            work.step("writing rows");
        }
    }
}

fn with_progress(
    reconciler: &Reconciler<'_>,
    manager: &ServiceManager,
    work: &LongWork,
) -> Result<Reconciled, ReconcileError> {
    work.step("comparing the upper store with the lower one");
    let mut step = |step| tell(step, manager, work);
    reconciler.run(false, &mut step, &mut |progress| {
        work.tell(&progress, manager);
    })
}

/// Has Nix fetch what is missing, and tells what still is.
fn fetch(
    fetcher: &Fetcher<'_>,
    reconciler: &Reconciler<'_>,
    done: &mut Reconciled,
    manager: &ServiceManager,
    work: &LongWork,
) -> Result<(), ReconcileError> {
    let missing: Vec<StorePath> = done.missing.iter().map(|it| it.path.clone()).collect();
    let text = format!("Nix fetches {}", counted(missing.len() as u64, "object"));
    manager.working(&text);
    work.step(text);
    done.fetched = fetcher.fetch(&missing)?;
    let schema = observe::observe(reconciler.system, reconciler.store, Depth::Up);
    let schema = schema
        .ok()
        .and_then(|it| it.lower.schema().map(str::to_owned));
    let left = reconciler.finish(schema.as_deref(), &mut |progress| {
        work.tell(&progress, manager);
    })?;
    let reasons: Vec<_> = std::mem::take(&mut done.missing);
    done.missing = left.missing;
    for missing in &mut done.missing {
        let before = reasons.iter().find(|it| it.path == missing.path);
        missing.why = before.and_then(|it| it.why.clone());
    }
    (done.depending, done.given_up) = (left.depending, left.given_up);
    Ok(())
}

/// Sets the store up: whether it is mounted then. What is wrong is printed.
fn set_up(
    store: &Store,
    system: &System,
    manager: &ServiceManager,
    work: &LongWork,
) -> Result<bool, Failure> {
    let set_up = SetUp {
        store,
        system,
        allowed: Allowed::default(),
        remember: store.own.is_none(),
        lasts: true,
    };
    let ended = set_up.run(&mut |progress| work.tell(&progress, manager));
    let (mut findings, mounted) = match ended.end {
        End::Done(observed) => (
            check::check(store, &observed),
            observed.mount.overlay.is_some(),
        ),
        End::Refused { findings, mounted } => (findings, mounted),
        End::Failed(error) => return Err(Failure::machine(error)),
    };
    // What is missing is told by path.
    findings.retain(|it| it.severity == Severity::Error && !it.code.is_of_a_missing_object());
    report::warn(&findings);
    Ok(mounted)
}

fn failure(store: &Store, error: ReconcileError) -> Failure {
    let remedy = store.fit(error.remedy());
    match error {
        ReconcileError::NotAsDescribed(findings) => {
            report::warn(&findings);
            Failure::not_as_described(format!(
                "the store {} is not as described, so it is not reconciled",
                store.name
            ))
            .remedy(
                Remedy::say("follow what is printed above; see more of it")
                    .run(store.command(["check"])),
            )
        }
        error @ (ReconcileError::Mounted { .. }
        | ReconcileError::Open { .. }
        | ReconcileError::StoreDirectory { .. }) => Failure::not_as_described(error).remedy(remedy),
        ReconcileError::Locked(error @ apply::Error::UpperLocked { .. }) => {
            Failure::not_as_described(error).remedy(remedy)
        }
        error => Failure::machine(error).remedy(remedy),
    }
}

/// What is still wrong, and what fixes it.
fn faults(store: &Store, done: &Reconciled) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !done.refused.is_empty() {
        let what = "the lower store is damaged, so nothing was done";
        let owner = "have its owner run `nix-store --verify --check-contents --repair` there";
        faults.push(Fault::new(what).remedy(Remedy::say(owner)));
    }
    if !done.missing.is_empty() {
        let what = format!(
            "needed objects that cannot be found anywhere: {}; objects that depend on them: {}",
            done.missing.len(),
            done.depending.len()
        );
        let again = |why: &str, flag: &str| {
            Remedy::say(why)
                .run(store.command(["down"]))
                .run(store.command(["reconcile", flag]))
        };
        let given_up = again(
            "give them up, with all that depends on them",
            "--drop-missing",
        );
        let remedy = Remedy::say("name a store that still has them with `--old STORE`");
        faults.push(Fault::new(what).remedy(store.fit(remedy.or(given_up))));
    }
    faults
}

fn report(store: &Store, dry_run: bool, old: &[PathBuf], done: &Reconciled) -> ReconcileReport {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
    let prints = |paths: &[StorePath]| paths.iter().map(print).collect();
    let reasons = |paths: &[(StorePath, String)]| {
        let report = |(path, reason): &(StorePath, String)| LeftReport {
            path: print(path),
            reason: reason.clone(),
        };
        paths.iter().map(report).collect()
    };
    let missing = |it: &Missing| MissingReport {
        path: print(&it.path),
        referrers: prints(&it.referrers),
        reason: it.why.clone(),
    };
    let without_row = |it: &WithoutRow| WithoutRowReport {
        path: print(&it.path),
        bytes: it.bytes,
        hides: it.hides,
        removed: it.removed,
    };
    ReconcileReport {
        version: 1,
        store: store.name.clone(),
        outcome: match (
            done.missing.is_empty() && done.refused.is_empty(),
            done.is_nothing(),
        ) {
            (false, _) => Outcome::NotAsDescribed,
            (true, true) => Outcome::Unchanged,
            (true, false) => Outcome::Done,
        },
        dry_run,
        mounted: None,
        old: old
            .iter()
            .map(|path| show_path(path).into_owned())
            .collect(),
        rows_taken: prints(&done.taken),
        rows_described: done.described,
        carried: ObjectReport::all(&directory, &done.carried),
        carried_bytes: done.carried.iter().map(|(_, bytes)| bytes).sum(),
        fetched: prints(&done.fetched),
        missing: done.missing.iter().map(missing).collect(),
        depending: prints(&done.depending),
        rows_dropped: prints(&done.dropped),
        given_up: prints(&done.given_up),
        copies_removed: ObjectReport::all(&directory, &done.copies),
        hiding: reasons(&done.hiding),
        replaced: ObjectReport::all(&directory, &done.replaced),
        whiteouts_removed: prints(&done.whiteouts),
        without_rows: done.without_rows.iter().map(without_row).collect(),
        refused: reasons(&done.refused),
        free: done.free,
    }
}
