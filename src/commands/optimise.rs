//! `overstore optimise`.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use super::gc::{print_not_remounted, require_as_described};
use super::{Failure, LongWork, OnInterrupt, Unit, load};
use crate::cli::{self, RootArgument};
use crate::collect::{CollectError, Optimised, Optimiser, Step};
use crate::config::Store;
use crate::escape::{counted, show};
use crate::linux::namespaces;
use crate::linux::root::System;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::remedy::Fault;
use crate::report::{LeftReport, ObjectReport, OptimiseReport, Outcome};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Optimise, json: bool) -> Result<ExitCode, Failure> {
    let loaded = load(&arguments.store, &RootArgument::default())?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    let report = optimise(
        &store,
        &system,
        arguments.trust_databases,
        arguments.dry_run,
        json,
    )?;
    report.print(json)?;
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// Optimises a store.
///
/// # Errors
/// When it is not as described, or the machine would not do it.
pub(super) fn optimise(
    store: &Store,
    system: &System,
    trust_databases: bool,
    dry_run: bool,
    json: bool,
) -> Result<OptimiseReport, Failure> {
    let optimiser = Optimiser {
        store,
        system,
        trust_databases,
    };
    let can_mount = namespaces::can_mount().unwrap_or(false);
    let mut restored = Vec::new();
    if can_mount && !dry_run {
        // Otherwise the store is not as described for want of them.
        restored = optimiser.restore().map_err(Failure::machine)?;
    }
    require_as_described(store, system, "optimised").inspect_err(|_| {
        let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
        for path in &restored {
            let path = directory.print(path);
            let path = show(&path);
            let what = format!("put back {path}: the lower store has lost its copy");
            super::print_warning(&Fault::new(what));
        }
    })?;
    if !can_mount && !dry_run {
        return Err(Failure::not_as_described(format!(
            "only root may optimise the store {}",
            store.name
        ))
        .remedy(format!(
            "run `{}` as root, or have `[gc]` in its description do it (`optimise = true`); a \
             store of `overstore exec` is optimised inside of it",
            store.command(["optimise"])
        )));
    }
    let done = with_progress(&optimiser, dry_run, json)?.map_err(Failure::machine)?;
    if let Some(why) = &done.remount {
        print_not_remounted(store, why);
    }
    restored.extend_from_slice(&done.restored);
    Ok(report(store, trust_databases, dry_run, done, &restored))
}

fn with_progress(
    optimiser: &Optimiser<'_>,
    dry_run: bool,
    json: bool,
) -> Result<Result<Optimised, CollectError>, Failure> {
    let manager = ServiceManager::from_environment();
    let left = "where an upper copy was removed, the lower one shows; the rest is unchanged";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    let mut tell = |step: Step<'_>| match step {
        Step::Found(objects) => {
            let text = format!("comparing {} in both layers", counted(objects, "object"));
            manager.working(&text);
            work.counted(text, Unit::Objects, objects);
        }
        Step::Done => work.counts().add(1),
        Step::Warning(fault) => super::print_warning(fault),
    };
    Ok(match dry_run {
        true => optimiser.plan(&mut tell),
        false => optimiser.run(&mut tell),
    })
}

fn report(
    store: &Store,
    trust_databases: bool,
    dry_run: bool,
    done: Optimised,
    restored: &[StorePath],
) -> OptimiseReport {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
    let with_reason = |path: &StorePath, reason: String| LeftReport {
        path: print(path),
        reason,
    };
    OptimiseReport {
        version: 1,
        store: store.name.clone(),
        outcome: match done.objects.is_empty() && restored.is_empty() {
            true => Outcome::Unchanged,
            false => Outcome::Done,
        },
        dry_run,
        trust_databases,
        bytes: done.objects.iter().map(|(_, bytes)| bytes).sum(),
        objects: ObjectReport::all(&directory, &done.objects),
        different: done
            .different
            .iter()
            .map(|(path, why)| with_reason(path, why.to_string()))
            .collect(),
        left: done
            .left
            .iter()
            .map(|(path, why)| with_reason(path, why.to_string()))
            .collect(),
        restored: restored.iter().map(print).collect(),
        free: done.free,
    }
}
