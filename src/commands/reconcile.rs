//! `overstore reconcile`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, load, private, progress};
use crate::apply::{self, End, SetUp};
use crate::check::{self, Severity};
use crate::cli::{self, RootArgument};
use crate::collect::Roots;
use crate::config::{self, Store};
use crate::escape::show_path;
use crate::linux::namespaces;
use crate::linux::root::System;
use crate::lower::publication::{Publication, path_of};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe::{self, Depth};
use crate::plan::Allowed;
use crate::reconcile::{
    GiveUp, Missing, OldStores, ReconcileError, Reconciled, Reconciler, Step, WithoutRow, obstacles,
};
use crate::records::Memory;
use crate::remedy::{Fault, Remedy};
use crate::report::{
    self, LeftReport, MissingReport, ObjectReport, Outcome, ReconcileReport, WithoutRowReport,
};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Reconcile, json: bool) -> Result<ExitCode, Failure> {
    let super::Loaded { store, system } = load(&arguments.store, &RootArgument::default())?;
    private::refuse_own(&store)?;
    if !arguments.dry_run {
        needs_root(&store)?;
    }
    let (old, old_directories) = old_stores(&store, &arguments.old)?;
    let roots = roots(&store, &system, arguments.ignore_absent_roots)?;
    let over = over_current(&store)?;
    let reconciler = Reconciler {
        store: &over,
        system: &system,
        old: &old,
        give_up: GiveUp {
            missing: arguments.drop_missing,
            upper: arguments.prefer_lower,
        },
        remove_without_rows: arguments.remove_without_rows,
        roots: &roots,
    };
    let manager = ServiceManager::from_environment();
    let (done, mounted) = match arguments.dry_run {
        true => {
            let observed =
                observe::observe(&system, &store, Depth::Up).map_err(Failure::observing)?;
            report::warn(&obstacles(&store, &observed));
            (reconciler.plan().map_err(|e| failure(&store, e))?, None)
        }
        false => {
            let done = with_progress(&reconciler, &manager).map_err(|e| failure(&store, e))?;
            if done.refused.is_empty() && done.missing.is_empty() {
                go_on(&store, &over)?;
            }
            let mounted = match done.refused.is_empty() {
                true => set_up(&store, &system, &manager)?,
                false => false,
            };
            (done, Some(mounted))
        }
    };
    let mut report = report(&store, arguments.dry_run, &old_directories, &done);
    report.mounted = mounted;
    if mounted == Some(false) && report.outcome != Outcome::NotAsDescribed {
        report.outcome = Outcome::NotAsDescribed;
    }
    report.print(json)?;
    for fault in faults(&store, &done) {
        super::print_error(Some(&store.name), &fault);
    }
    Ok(ExitCode::from(report.outcome.exit_code()))
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

fn needs_root(store: &Store) -> Result<(), Failure> {
    if namespaces::can_mount().unwrap_or(false) {
        return Ok(());
    }
    Err(
        Failure::not_as_described(format!("only root may reconcile the store {}", store.name))
            .remedy(Remedy::from(store.command(["reconcile"])).by_root()),
    )
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
            Failure::doing(what, error).refusing().remedy(
                "mount it, or leave `--old` out: what only it has is then nowhere to be had",
            )
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

fn with_progress(
    reconciler: &Reconciler<'_>,
    manager: &ServiceManager,
) -> Result<Reconciled, ReconcileError> {
    let bar = progress::objects(0);
    let mut tell = |step| match step {
        Step::Carrying(objects) => {
            manager.working(&format!("carrying {objects} objects"));
            bar.set_position(0);
            bar.set_length(objects);
        }
        Step::Carried(objects) => bar.inc(objects),
        Step::Rows => manager.working("writing rows"),
    };
    let done = reconciler.run(false, &mut tell, &mut |progress| {
        super::tell(&progress, manager);
    });
    bar.finish_and_clear();
    done
}

/// Sets the store up: whether it is mounted then. What is wrong is printed.
fn set_up(store: &Store, system: &System, manager: &ServiceManager) -> Result<bool, Failure> {
    let set_up = SetUp {
        store,
        system,
        allowed: Allowed::default(),
        remember: true,
    };
    let ended = set_up.run(&mut |progress| super::tell(&progress, manager));
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
        | ReconcileError::StoreDirectory { .. }) => Failure::not_as_described(error),
        ReconcileError::Locked(error @ apply::Error::UpperLocked { .. }) => {
            Failure::not_as_described(error)
        }
        error => Failure::machine(error),
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
            "{} objects are needed and nowhere to be had, and {} depend on them",
            done.missing.len(),
            done.depending.len()
        );
        let again = |why: &str, flag: &str| {
            Remedy::say(why)
                .run(store.command(["down"]))
                .run(store.command(["reconcile", flag]))
        };
        faults.push(Fault::new(what).remedy(
            Remedy::say("name a store that still has them with `--old STORE`").or(again(
                "give them up, with all that depends on them",
                "--drop-missing",
            )),
        ));
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
