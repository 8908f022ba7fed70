//! `overstore status`.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, description};
use crate::check::{self, Finding};
use crate::cli;
use crate::compare;
use crate::compare::Identity;
use crate::config::{MetadataSource, Store};
use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::linux::root::System;
use crate::lower::sqlite::SqliteSource;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::observe::{self, Depth, Observed};
use crate::records::Memory;
use crate::records::mount_record::Record;
use crate::report::{
    CollectedReport, Content, NowReport, Outcome, SizesReport, StatusReport, WarmedReport,
};
use crate::warm::Roots;

pub(super) fn run(arguments: &cli::Status, json: bool) -> Result<ExitCode, Failure> {
    let loaded = description::load(&arguments.store, &arguments.root)?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    let observed = observe::observe(&system, &store, Depth::Up).map_err(Failure::observing)?;
    // Remembered before the rows are read: what is warmed meanwhile has got its rows by then.
    let memory = Memory::read(&store);
    let warmed = memory.warmed_paths(&store);
    let across = compare::across(&store, warmed.as_ref().unwrap_or(&PathSet::default()));
    let (across, unreadable) = match across {
        Ok(across) => (Some(across), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let content = across.as_ref().map(|across| Content {
        objects: across.objects,
        objects_in_both_layers: across.both.count,
        own_rows: across.own_rows,
        copied_rows: across.copied_rows,
        rows_without_object: across.missing.count,
    });
    let mut findings = check::check(&store, &observed);
    if let Some(across) = &across {
        let mut of_layers = check::compare::findings(&store, across);
        of_layers.retain(|finding| !check::follows_from_a_loss(&observed, finding.code));
        findings.extend(of_layers);
    }
    let gone = warmed
        .zip(across)
        .map(|(warmed, across)| warmed.len().saturating_sub(across.rows_asked_for));
    let sizes = match arguments.sizes {
        true => Some(sizes(&store, content)?),
        false => None,
    };
    let (warm_roots, warm_roots_gone) = warm_roots(&store);
    // Who could not be asked before is not waited for once more.
    let lower_changed = match (content, &store.lower.bottom().source) {
        (None, MetadataSource::Daemon { .. }) => None,
        _ => lower_changed(&store, &memory, &observed),
    };
    findings.extend(lower_changed.clone().flatten());
    exhaustion::expect_none().map_err(Failure::observing)?;
    let now = NowReport::of(&findings);
    let wrong = arguments.exit_code && !now.errors.is_empty();
    let report = StatusReport {
        version: 1,
        store: store.name.clone(),
        check: store.command(["check"]).to_string(),
        real: show_path(&store.real).into_owned(),
        mounted: observed.mount.overlay.is_some(),
        mounted_since: mounted_since(&store, &system, &observed),
        upper_layer: show_path(&store.upper_layer).into_owned(),
        workdir: show_path(&store.workdir).into_owned(),
        database: show_path(&store.database()).into_owned(),
        lower_store: store.lower.given.clone(),
        lower_kind: match store.lower.source {
            MetadataSource::Database { .. } => "database",
            MetadataSource::Daemon { .. } => "daemon",
            MetadataSource::Overlay { .. } => "overlay",
            MetadataSource::Ssh { .. } => "ssh",
        },
        lower_real: show_path(&store.lower.real).into_owned(),
        lower_changed: lower_changed.as_ref().map(Option::is_some),
        content,
        unreadable,
        sizes,
        warm_roots,
        warm_roots_gone,
        warmed: memory.warmed.map(|warmed| WarmedReport {
            time: warmed.time,
            paths: warmed.paths,
            gone,
        }),
        collected: memory.collected.map(|collected| CollectedReport {
            time: collected.time,
            objects: collected.objects,
            bytes: collected.bytes,
            left: collected.left,
        }),
        now,
    };
    report.print(json)?;
    Ok(match wrong {
        true => ExitCode::from(Outcome::NotAsDescribed.exit_code()),
        false => ExitCode::SUCCESS,
    })
}

/// When `up` mounted the overlay that is in effect, in seconds since 1970.
pub(super) fn mounted_since(store: &Store, system: &System, observed: &Observed) -> Option<u64> {
    let overlay = observed.mount.overlay.as_ref()?;
    overlay.recorded.as_ref()?;
    Record::read(system, &store.real).ok()??.time
}

/// Whether the lower store is another than the one that the upper database was made for: what is
/// found then. `None` where that was not remembered.
fn lower_changed(store: &Store, memory: &Memory, observed: &Observed) -> Option<Option<Finding>> {
    let then = memory.lower.as_ref()?.identity.as_ref()?;
    let now = Identity::now(store, observed.lower.schema(), Some(then)).ok()??;
    // Looked at in another way then.
    if then.some.is_some() != now.some.is_some() {
        return None;
    }
    Some(check::compare::lower_changed(store, Some(then), &now))
}

/// How many roots keep warmed paths, and how many of these have no row.
fn warm_roots(store: &Store) -> (u64, u64) {
    let Ok(kept) = Roots::of(&store.state).kept() else {
        return (0, 0);
    };
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let gone = SqliteSource::open(&store.database(), directory).map_or(0, |database| {
        let gone = |path: &&_| matches!(database.is_valid(path), Ok(false));
        kept.iter().filter(gone).count() as u64
    });
    (kept.len() as u64, gone)
}

fn sizes(store: &Store, content: Option<Content>) -> Result<SizesReport, Failure> {
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::new(content.map_or(0, |content| content.objects));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} objects, {eta} left") {
        bar.set_style(style);
    }
    let sizes = compare::sizes(&store.upper_layer, &store.lower.real, || bar.inc(1))
        .map_err(|error| Failure::doing("cannot add up the upper layer", error))?;
    bar.finish_and_clear();
    Ok(SizesReport {
        upper_layer: sizes.upper_layer,
        in_both_layers: sizes.both,
    })
}
