//! `overstore refresh`.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, load, optimise, private};
use crate::apply::{self, Refresh, RefreshError, RemountError};
use crate::check;
use crate::cli::{self, RootArgument, StoreArgument};
use crate::config::{SetUpFor, Store};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::remedy::{Fault, HasRemedy, Remedy};
use crate::report::{Outcome, RefreshReport};
use crate::systemd::notify::ServiceManager;

/// What the kernel calls file systems that are images, whose content never changes (statfs(2)).
const IMAGES: [(u64, &str); 2] = [(0x7371_7368, "squashfs"), (0xE0F5_E1E2, "erofs")];

pub(super) fn run(
    arguments: &cli::Refresh,
    store: &StoreArgument,
    json: bool,
) -> Result<ExitCode, Failure> {
    let loaded = load(store, &RootArgument::default())?;
    let super::Loaded { store, system } = private::inside(loaded)?;
    let manager = ServiceManager::from_environment();
    let mut report = match store.lower.published() {
        Some((publication, link)) => {
            let refresh = Refresh {
                store: &store,
                system: &system,
                publication,
                link,
                dry_run: arguments.dry_run,
            };
            switch(&refresh, &manager, json)?
        }
        None => in_place(&store, &system, arguments.dry_run)?,
    };
    let wanted = store.refresh.as_ref().is_some_and(|it| it.optimise);
    if wanted && report.remounted {
        report.optimised = Some(optimise::optimise(&store, &system, false, false, json)?);
    }
    report.print(json)?;
    super::warn_if_deaf(&manager);
    Ok(ExitCode::from(report.outcome.exit_code()))
}

fn empty(store: &Store, dry_run: bool) -> RefreshReport {
    RefreshReport {
        version: 1,
        store: store.name.clone(),
        outcome: Outcome::Unchanged,
        dry_run,
        before: None,
        current: None,
        switched: false,
        remounted: false,
        compared: 0,
        findings: Vec::new(),
        optimised: None,
    }
}

/// To another generation.
fn switch(
    refresh: &Refresh<'_>,
    manager: &ServiceManager,
    json: bool,
) -> Result<RefreshReport, Failure> {
    let Refresh { store, .. } = *refresh;
    let left = "the store uses one of the two generations, complete";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    work.step("comparing the store with the current generation");
    let done = refresh.run(&mut |progress| work.tell(&progress, manager));
    drop(work);
    let done = done.map_err(|error| failure(store, error))?;
    let mut findings = done.findings;
    findings.extend(check::lacking(
        store,
        done.before,
        done.current,
        &done.lacking,
    ));
    Ok(RefreshReport {
        outcome: match (findings.is_empty(), done.switched) {
            (false, _) => Outcome::NotAsDescribed,
            (true, true) => Outcome::Done,
            (true, false) => Outcome::Unchanged,
        },
        before: Some(done.before),
        current: Some(done.current),
        switched: done.switched,
        remounted: done.remounted,
        compared: done.compared,
        findings,
        ..empty(store, refresh.dry_run)
    })
}

/// Of a lower store that grows where it is.
fn in_place(store: &Store, system: &System, dry_run: bool) -> Result<RefreshReport, Failure> {
    refuse_image(store)?;
    if !dry_run {
        apply::remount_aside(system, &store.real).map_err(|error| not_remounted(store, error))?;
    }
    Ok(RefreshReport {
        outcome: match dry_run {
            true => Outcome::Unchanged,
            false => Outcome::Done,
        },
        remounted: !dry_run,
        ..empty(store, dry_run)
    })
}

/// Why a store was not remounted; most often it is not up.
fn not_remounted(store: &Store, error: RemountError) -> Failure {
    let is_down = match &error {
        RemountError::Open { error, .. } => error.kind() == io::ErrorKind::NotFound,
        error => matches!(error, RemountError::NotAnOverlay { .. }),
    };
    match is_down {
        true => Failure::not_as_described(format!("the store {} is not up: {error}", store.name))
            .remedy(store.fit(Remedy::from(store.command(["up"])))),
        false => Failure::doing(format!("cannot refresh the store {}", store.name), error),
    }
}

/// What is in an image never changes: another one has to be mounted in its place.
fn refuse_image(store: &Store) -> Result<(), Failure> {
    let Some(kind) = image(&store.lower.real) else {
        return Ok(());
    };
    Err(Failure::not_as_described(format!(
        "the lower store directory {} is in an image ({kind}), whose content never changes",
        show_path(&store.lower.real)
    ))
    .remedy(format!(
        "{}, mount another image there, and put the store right over it (`{}`)",
        match store.set_up_for {
            SetUpFor::Everybody => format!("unmount the store (`{}`)", store.command(["down"])),
            SetUpFor::Processes | SetUpFor::Command => "end what runs in it".to_owned(),
        },
        store.command(["reconcile"])
    )))
}

/// What kind of image a directory is in, if it is.
fn image(directory: &Path) -> Option<&'static str> {
    let opened = safe_path::open_directory(directory, Symlinks::Follow).ok()?;
    let kind = rustix::fs::fstatfs(&opened).ok()?.f_type as u64;
    let mut images = IMAGES.into_iter();
    images.find_map(|(number, name)| (number == kind).then_some(name))
}

fn failure(store: &Store, error: RefreshError) -> Failure {
    let refused = error.is_refusal();
    let remedy = store.fit(error.remedy());
    let what = format!("the store {} stays as it is: {error}", store.name);
    let fault = Fault::new(what).remedy(remedy);
    match refused {
        true => Failure::not_as_described(fault.what).remedy(fault.remedy),
        false => Failure::of(fault),
    }
}
