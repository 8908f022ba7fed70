//! `overstore status`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, Unit, description};
use crate::check::{self, Finding};
use crate::cli;
use crate::compare;
use crate::compare::Identity;
use crate::config::{MetadataSource, Store};
use crate::escape::show_path;
use crate::linux::clock;
use crate::linux::exhaustion;
use crate::linux::root::System;
use crate::linux::safe_path;
use crate::lower::sqlite::SqliteSource;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::observe::{self, Depth, LinkFacts, Observed};
use crate::records::Memory;
use crate::records::mount_record::Record;
use crate::report::{
    CollectedReport, Content, FileSystemReport, GenerationReport, NowReport, OpenReport, Outcome,
    RefreshedReport, SizesReport, StatusReport, WarmedReport,
};
use crate::warm::Roots;

pub(super) fn run(
    arguments: &cli::Status,
    store: &cli::StoreArgument,
    json: bool,
) -> Result<ExitCode, Failure> {
    let loaded = description::load(store, &arguments.root)?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    let observed = observe::observe(&system, &store, Depth::Up).map_err(Failure::observing)?;
    let looked = Looked {
        // Remembered before the rows are read: what is warmed meanwhile has its rows by then.
        memory: Memory::read(&store),
        observed: &observed,
        store: &store,
        system: &system,
    };
    let compared = looked.compare();
    let sizes = match arguments.sizes {
        true => sizes(&store, compared.content, json)?,
        false => None,
    };
    let report = looked.report(compared, sizes);
    exhaustion::expect_none().map_err(Failure::observing)?;
    let wrong = arguments.exit_code && !report.now.errors.is_empty();
    report.print(json)?;
    Ok(match wrong {
        true => ExitCode::from(Outcome::NotAsDescribed.exit_code()),
        false => ExitCode::SUCCESS,
    })
}

/// A store that is looked at.
struct Looked<'a> {
    store: &'a Store,
    system: &'a System,
    observed: &'a Observed,
    memory: Memory,
}

/// What the layers and the upper database have, if they can be read.
#[derive(Default)]
struct Compared {
    content: Option<Content>,
    findings: Vec<Finding>,
    /// Warmed paths without a row.
    gone: Option<u64>,
    unreadable: Option<String>,
}

impl Looked<'_> {
    fn compare(&self) -> Compared {
        let store = self.store;
        let warmed = self.memory.warmed_paths(store);
        let across = match compare::across(store, warmed.as_ref().unwrap_or(&PathSet::default())) {
            Ok(across) => across,
            Err(error) => {
                return Compared {
                    unreadable: Some(error.to_string()),
                    ..Compared::default()
                };
            }
        };
        let mut findings = check::compare::findings(store, &across);
        findings.retain(|finding| !check::follows_from_a_loss(self.observed, finding.code));
        Compared {
            content: Some(Content {
                objects: across.objects,
                objects_in_both_layers: across.both.count,
                own_rows: across.own_rows,
                copied_rows: across.copied_rows,
                rows_without_object: across.missing.count,
            }),
            findings,
            gone: warmed.map(|warmed| warmed.len().saturating_sub(across.rows_asked_for)),
            unreadable: None,
        }
    }

    /// Whether the lower store is another than the one that the upper database was made for: what is
    /// found then. `None` where that was not remembered.
    fn lower_changed(&self, compared: &Compared) -> Option<Option<Finding>> {
        let store = self.store;
        // Who could not be asked before is not waited for once more.
        if compared.content.is_none()
            && matches!(store.lower.bottom().source, MetadataSource::Daemon { .. })
        {
            return None;
        }
        let then = self.memory.lower.as_ref()?.identity.as_ref()?;
        let now = Identity::now(store, self.observed.lower.schema(), Some(then)).ok()??;
        // Looked at in another way then.
        if then.some.is_some() != now.some.is_some() {
            return None;
        }
        Some(check::compare::lower_changed(store, Some(then), &now))
    }

    /// The generation of a publication that is in use.
    fn generation(&self) -> Option<GenerationReport> {
        let (publication, _) = self.store.lower.published()?;
        let facts = self.observed.lower.publication.as_ref()?;
        let used = facts.used.as_ref().ok().and_then(Option::as_ref);
        let readers = safe_path::is_root().then(|| observe::readers(self.system, publication));
        Some(GenerationReport {
            publication: show_path(publication).into_owned(),
            number: match facts.link {
                LinkFacts::Generation(number) => Some(number),
                _ => None,
            },
            time: used.map(|used| used.time),
            retired_until: used.and_then(|used| used.retired_until),
            current: facts.current.as_ref().ok().copied(),
            open: readers.map(|readers| {
                let open = |(number, processes)| OpenReport { number, processes };
                readers.into_iter().map(open).collect()
            }),
        })
    }

    /// Everything that is wrong now.
    fn now(&self, compared: &Compared, lower_changed: Option<&Finding>) -> NowReport {
        let mut findings = check::check(self.store, self.observed);
        let others = compared.findings.iter().chain(lower_changed).cloned();
        findings.extend(check::for_this_user(
            self.store,
            self.observed,
            others.collect(),
        ));
        NowReport::of(&findings)
    }

    fn report(self, compared: Compared, sizes: Option<SizesReport>) -> StatusReport {
        let store = self.store;
        let lower_changed = self.lower_changed(&compared);
        let now = self.now(&compared, lower_changed.as_ref().and_then(Option::as_ref));
        let (warm_roots, warm_roots_gone) = warm_roots(store);
        StatusReport {
            version: 1,
            time: clock::now(),
            store: store.name.clone(),
            outcome: match now.errors.is_empty() {
                true => Outcome::Unchanged,
                false => Outcome::NotAsDescribed,
            },
            check: store.command(["check"]).to_string(),
            real: show_path(&store.real).into_owned(),
            mounted: self.observed.mount.overlay.is_some(),
            mounted_since: mounted_since(store, self.system, self.observed),
            upper_layer: show_path(&store.upper_layer).into_owned(),
            workdir: show_path(&store.workdir).into_owned(),
            database: show_path(&store.database()).into_owned(),
            lower_store: store.lower.given.clone(),
            lower_kind: lower_kind(&store.lower.source),
            lower_real: show_path(&store.lower.real).into_owned(),
            generation: self.generation(),
            lower_changed: lower_changed.map(|finding| finding.is_some()),
            content: compared.content,
            unreadable: compared.unreadable,
            sizes,
            file_system: file_system(store),
            warm_roots,
            warm_roots_gone,
            warmed: self.memory.warmed.map(|warmed| WarmedReport {
                time: warmed.time,
                paths: warmed.paths,
                gone: compared.gone,
            }),
            refreshed: self.memory.compared.and_then(|compared| {
                Some(RefreshedReport {
                    time: compared.time?,
                    generation: compared.generation,
                })
            }),
            collected: self.memory.collected.map(|collected| CollectedReport {
                time: collected.time,
                objects: collected.objects,
                bytes: collected.bytes,
                left: collected.left,
            }),
            now,
        }
    }
}

fn lower_kind(source: &MetadataSource) -> &'static str {
    match source {
        MetadataSource::Database { .. } => "database",
        MetadataSource::Daemon { .. } => "daemon",
        MetadataSource::Overlay { .. } => "overlay",
        MetadataSource::Ssh { .. } => "ssh",
    }
}

/// When `up` mounted the overlay that is in effect, in seconds since 1970.
pub(super) fn mounted_since(store: &Store, system: &System, observed: &Observed) -> Option<u64> {
    let overlay = observed.mount.overlay.as_ref()?;
    overlay.recorded.as_ref()?;
    Record::read(system, &store.real).ok()??.time
}

/// The upper layer's file system, if there is an upper layer.
fn file_system(store: &Store) -> Option<FileSystemReport> {
    let facts = rustix::fs::statvfs(&*store.upper_layer).ok()?;
    Some(FileSystemReport {
        size: facts.f_blocks.saturating_mul(facts.f_frsize),
        free: facts.f_bavail.saturating_mul(facts.f_frsize),
    })
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

/// What the objects take up. A layer that is missing, as before a store is set up, takes up nothing
/// that could be told; a finding says that it is missing.
fn sizes(
    store: &Store,
    content: Option<Content>,
    json: bool,
) -> Result<Option<SizesReport>, Failure> {
    let work = LongWork::begin(OnInterrupt::End("nothing was changed"), json)?;
    let objects = content.map_or(0, |content| content.objects);
    work.counted("adding up the upper layer", Unit::Objects, objects);
    let counts = work.counts();
    let sizes = compare::sizes(&store.upper_layer, &store.lower.real, || counts.add(1));
    drop(work);
    match sizes {
        Ok(sizes) => Ok(Some(SizesReport {
            upper_layer: sizes.upper_layer,
            in_both_layers: sizes.both,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::doing("cannot add up the upper layer", error)),
    }
}
