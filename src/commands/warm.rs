//! `overstore warm`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use super::{Failure, Loaded, LongWork, OnInterrupt, Unit, load, private};
use crate::apply::{self, Progress};
use crate::check;
use crate::cli::{self, RootArgument};
use crate::config::{Store, WarmAtUp};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::nix::layout;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe;
use crate::remedy::Remedy;
use crate::report::{self, Outcome, WarmReport};
use crate::systemd::notify::ServiceManager;
use crate::warm::{self, Roots, Wanted, Warm, WarmError};

pub(super) fn run(arguments: &cli::Warm, json: bool) -> Result<ExitCode, Failure> {
    let loaded = load(&arguments.store, &RootArgument::default())?;
    let Loaded { store, system } = private::inside(loaded)?;
    parts_are_its_own(&store, &system)?;
    let mut report = WarmReport::new(&store.name);
    if arguments.forget {
        report.forgets = true;
        report.forgotten = Roots::of(&store.state).forget().map_err(failure)?;
        report.print(json)?;
        return Ok(ExitCode::SUCCESS);
    }

    let wanted = WarmAtUp {
        all: arguments.all,
        paths: arguments.paths.clone(),
        roots: arguments.roots.clone(),
        keep: arguments.keep,
    };
    let left = "the copy is either complete or absent";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    let manager = ServiceManager::default();
    let meanwhile = Meanwhile {
        work: &work,
        manager: &manager,
    };
    copy(&store, &system, &wanted, &mut report, None, meanwhile)?;
    drop(work);
    report.print(json)?;
    let outcome = match report.left_out {
        0 => Outcome::Done,
        _ => Outcome::NotAsDescribed,
    };
    Ok(ExitCode::from(outcome.exit_code()))
}

/// Refuses a store whose state directory, or another part, is the lower store's or another store's.
fn parts_are_its_own(store: &Store, system: &System) -> Result<(), Failure> {
    let facts = observe::part_facts(system, store).map_err(Failure::observing)?;
    let mistaken = check::parts::mistaken(&facts);
    if mistaken.is_empty() {
        return Ok(());
    }
    report::warn(&mistaken);
    Err(Failure::not_as_described(format!(
        "a part of the store {} is not its own, so nothing was written",
        store.name
    ))
    .remedy(
        Remedy::say("follow what is printed above; see more of it").run(store.command(["check"])),
    ))
}

/// Who hears how far it is.
#[derive(Clone, Copy)]
pub(super) struct Meanwhile<'a> {
    /// People at a terminal.
    pub work: &'a LongWork,
    /// The service manager.
    pub manager: &'a ServiceManager,
}

/// Copies what is wanted, and makes roots of it where that is wanted too. `after_mount` is the time
/// of the mount after which `up` does it.
pub(super) fn copy(
    store: &Store,
    system: &System,
    wanted: &WarmAtUp,
    report: &mut WarmReport,
    after_mount: Option<u64>,
    meanwhile: Meanwhile<'_>,
) -> Result<(), Failure> {
    let Meanwhile { work, manager } = meanwhile;
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let mut paths = Vec::new();
    for path in &wanted.paths {
        paths.push(resolve(path, &directory)?);
    }
    let mut found = Vec::new();
    for root in &wanted.roots {
        found.extend(warm::find_roots(root, &directory).map_err(failure)?);
    }
    let database = store.state.join(layout::DATABASE_DIRECTORY);
    let warm = Warm {
        store: &directory,
        source: &store.lower.source,
        objects: &store.lower.real,
        database: &database,
        use_sqlite_wal: store.use_sqlite_wal,
        counts: work.counts(),
    };
    let mut prefixes = Vec::new();
    let waiting = |holder: &str| work.tell(&Progress::Waiting(holder), manager);
    let mut run = |wanted| -> Result<(), Failure> {
        work.counted("copying metadata from the lower store", Unit::Paths, 0);
        let mut warmed = warm.run(wanted, &waiting).map_err(failure)?;
        report.add(&warmed);
        prefixes.append(&mut warmed.prefixes);
        Ok(())
    };
    if wanted.all {
        run(Wanted::All)?;
    } else {
        if !paths.is_empty() {
            run(Wanted::Closures(&paths))?;
        }
        if !found.is_empty() {
            run(Wanted::ValidClosures(&found))?;
        }
    }
    if wanted.keep {
        work.step("making roots");
        // Nix passes over those of them that are not valid.
        paths.extend(found);
        if wanted.all {
            paths = warm.tops().map_err(failure)?;
        }
        Roots::of(&store.state)
            .keep(&paths, &directory)
            .map_err(failure)?;
        report.kept = paths.len() as u64;
    }
    apply::remember_warmed(
        store,
        system,
        &PathSet::new(prefixes),
        after_mount,
        &mut |progress| work.tell(&progress, manager),
    );
    Ok(())
}

/// The store path that an argument means: itself, what it lies in, or where its links lead.
pub(super) fn resolve(argument: &Path, store: &StoreDirectory) -> Result<StorePath, Failure> {
    warm::resolve(argument, store).ok_or_else(|| {
        Failure::refused(format!(
            "{} is neither a store path nor a link to one",
            show_path(argument)
        ))
        .remedy("give store paths, such as `nix path-info --all` lists")
    })
}

fn failure(error: WarmError) -> Failure {
    match error {
        WarmError::NotValid(_) => Failure::refused(error),
        error => Failure::machine(error),
    }
}
