//! `up`: observe, compare, apply what is missing, observe again.

use std::collections::BTreeSet;
use std::path::Path;

use super::directory::{self, NoUmask};
use super::durable::Unsynced;
use super::error::{Error, walked};
use super::lock::DirectoryLock;
use super::progress::{Progress, Tell};
use super::{database, hook, links, marks, memory, mount, state};
use crate::check::Finding;
use crate::compare::{Identity, Objects};
use crate::config::Store;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::observe::{self, Depth, Observed, Pairing, Rows};
use crate::plan::{Allowed, Step, StepReport, plan};
use crate::records::layer_mark::Mark;
use crate::records::{LayerMemory, LowerMemory, Memory, Mounted};
use crate::remedy::Fault;

/// What is to be set up, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUp<'a> {
    /// The store as described.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// What may be done besides.
    pub allowed: Allowed,
    /// Whether the mount is for everybody and is remembered, or for this mount namespace alone.
    pub remember: bool,
}

/// How setting up ended. The steps are those that were done.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The steps done.
    pub steps: Vec<StepReport>,
    /// How it ended.
    pub end: End,
    /// The lock on the upper layer, if it was taken: dropping it releases it.
    pub upper_lock: Option<DirectoryLock>,
}

/// How setting up ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All is done; this is what there is now.
    Done(Box<Observed>),
    /// It was not begun, or not gone on with.
    Refused {
        /// Why.
        findings: Vec<Finding>,
        /// Whether the overlay is mounted all the same.
        mounted: bool,
    },
    /// The machine would not do it.
    Failed(Error),
}

impl SetUp<'_> {
    /// Sets the store up. Two that do this to one store at once do it one after the other, and the
    /// second finds it done.
    pub(crate) fn run(&self, tell: Tell<'_>) -> Ended {
        let mut steps = Vec::new();
        let mut upper_lock = None;
        let mut warned = BTreeSet::new();
        // What is tried more than once is warned of once.
        let mut tell = |progress: Progress<'_>| match progress {
            Progress::Warning(fault) if !warned.insert(fault.what.clone()) => {}
            other => tell(other),
        };
        let end = self
            .try_run(&mut steps, &mut upper_lock, &mut tell)
            .unwrap_or_else(|stop| match stop {
                Stop::Refused(findings, mounted) => End::Refused { findings, mounted },
                Stop::Failed(error) => End::Failed(error),
            });
        Ended {
            steps,
            end,
            upper_lock,
        }
    }

    fn try_run(
        &self,
        steps: &mut Vec<StepReport>,
        upper_lock: &mut Option<DirectoryLock>,
        tell: Tell<'_>,
    ) -> Result<End, Stop> {
        let observed = self.observe(Depth::Up)?;
        let planned = plan(self.store, &observed, self.allowed);
        if planned.as_ref().is_ok_and(|plan| plan.steps.is_empty()) {
            return Ok(End::Done(Box::new(observed)));
        }
        if !observed.machine.can_mount {
            return Err(Error::NotPermitted.into());
        }
        let _no_umask = NoUmask::new();
        let mut unsynced = Unsynced::default();
        // An obstacle that is seen without the locks may be another set-up at work. But to have the
        // locks, what is locked has to be there.
        let first = match planned {
            Ok(plan) => plan.steps,
            Err(_) if are_there(&observed) => Vec::new(),
            Err(findings) => return Err(Stop::Refused(findings, is_mounted(&observed))),
        };
        let mut ready = |path: &Path, tell: Tell<'_>| -> Result<Reached, Error> {
            let makes = |step: &&Step| matches!(step, Step::MakeDirectory { path: made, .. } if made == path);
            if let Some(step) = first.iter().find(makes) {
                self.apply(step, steps, &mut unsynced, tell)?;
            }
            walked(path, safe_path::directory(path, Symlinks::Refuse))
        };
        let workdir = ready(&self.store.workdir, tell)?;
        let _turn = DirectoryLock::wait(&workdir, self.system, &mut |holder| {
            tell(Progress::Waiting(holder));
        })?;
        let upper_layer = ready(&self.store.upper_layer, tell)?;
        *upper_lock = Some(DirectoryLock::upper_layer(&upper_layer, self.system)?);

        let observed = self.observe(Depth::UpLocked)?;
        let plan = plan(self.store, &observed, self.allowed)
            .map_err(|findings| Stop::Refused(findings, is_mounted(&observed)))?;
        if plan.steps.is_empty() {
            unsynced.sync()?;
            return Ok(End::Done(Box::new(observed)));
        }
        let mut remembered = Memory::read(self.store);
        let mut mark = observed.pairing.mark.clone();
        for step in &plan.steps {
            if matches!(step, Step::MakeDatabase { .. }) {
                // The directories may be of a run that was killed before it synced them.
                for path in [
                    &self.store.workdir,
                    &self.store.upper_layer,
                    &*self.store.real,
                ] {
                    directory::sync_later(path, &mut unsynced)?;
                }
            }
            if let Step::MakeDatabase { .. } | Step::Mount(_) = step {
                // What these rely on is on the disk before they say that the store is there, and
                // they are remembered whenever this is killed.
                unsynced.sync()?;
                let layer = self.layer(&mark, &observed.pairing);
                self.remember(step, &mut remembered, layer, &observed, tell);
            }
            if let Some(written) = self.apply(step, steps, &mut unsynced, tell)? {
                mark = written;
            }
        }
        unsynced.sync()?;
        let rows = match observed.pairing.rows {
            // It was made since.
            Rows::NoDatabase => Rows::Known(Objects::default()),
            rows => rows,
        };
        let observed =
            observe::observe_made(self.system, self.store, rows).map_err(Error::Observe)?;
        Ok(End::Done(Box::new(observed)))
    }

    /// The upper layer as it is to be remembered.
    fn layer(&self, mark: &Mark, pairing: &Pairing) -> LayerMemory {
        let (lost, rows) = match &pairing.rows {
            Rows::Known(objects) => (objects.missing.count > 0, objects.above),
            Rows::NoDatabase | Rows::Unknown(_) => (false, 0),
        };
        LayerMemory {
            mark: match mark {
                Mark::Is(mark) => Some(mark.clone()),
                Mark::None | Mark::Impossible => None,
            },
            rows,
            accepted_loss: lost && (pairing.accepted_loss || self.allowed.loss()),
        }
    }

    fn observe(&self, depth: Depth) -> Result<Observed, Error> {
        observe::observe(self.system, self.store, depth).map_err(Error::Observe)
    }

    fn apply(
        &self,
        step: &Step,
        steps: &mut Vec<StepReport>,
        unsynced: &mut Unsynced,
        tell: Tell<'_>,
    ) -> Result<Option<Mark>, Error> {
        let mut report = step.report();
        let mut marked = None;
        tell(Progress::Step(&report));
        match step {
            Step::MakeDirectory { path, mode, gid } => {
                directory::make(path, *mode, *gid, unsynced)?;
            }
            Step::FixPermissions {
                path,
                mode,
                uid,
                gid,
            } => directory::fix_permissions(path, *mode, *uid, *gid, unsynced)?,
            Step::MakeLinksOpaque {
                upper_layer,
                userxattr,
            } => links::make_opaque(upper_layer, *userxattr, unsynced)?,
            Step::RestoreMarks { userxattr, .. } => {
                let restored = marks::restore(self.store, *userxattr)?;
                report.text = format!("{}: {restored}", report.text);
            }
            Step::MarkUpperLayer { upper_layer, mark } => {
                marked = Some(marks::mark(upper_layer, mark.as_deref(), unsynced)?);
            }
            Step::MakeState { state, new } => state::make(state, *new, unsynced)?,
            Step::MakeDatabase { state, wal } => {
                database::make(state, *wal, &mut |holder| tell(Progress::Waiting(holder)))?;
            }
            // The store works without it until an object is deleted that is in both layers, and a
            // finding says that it is missing.
            Step::LinkHook { hook, program } => {
                if let Err(error) = hook::link(hook, program, unsynced) {
                    tell(Progress::Warning(&Fault::of(&error)));
                    return Ok(None);
                }
            }
            Step::Mount(overlay) => {
                let record_for = self.remember.then_some(self.store.name.as_str());
                mount::mount(overlay, record_for, self.system, tell)?;
            }
        }
        steps.push(report);
        Ok(marked)
    }

    /// Writes down what a step is going to do, where that is remembered; which upper layer it is for,
    /// in any case.
    fn remember(
        &self,
        step: &Step,
        remembered: &mut Memory,
        layer: LayerMemory,
        observed: &Observed,
        tell: Tell<'_>,
    ) {
        let layer = Some(layer);
        let known = remembered.upper_layer == layer;
        remembered.upper_layer = layer;
        if !self.remember {
            if !known {
                memory::write(remembered, self.store, tell);
            }
            return;
        }
        match step {
            Step::MakeDatabase { .. } => {
                remembered.lower = Some(LowerMemory {
                    store: self.store.lower.given.clone(),
                    // What cannot be read is a finding, and no reason not to go on.
                    identity: Identity::of(self.store, observed.lower.schema())
                        .ok()
                        .flatten(),
                });
            }
            Step::Mount(overlay) => {
                remembered.mounted = Some(Mounted::new(
                    &overlay.real,
                    &overlay.options.text().unwrap_or_default(),
                ));
            }
            _ => return,
        }
        memory::write(remembered, self.store, tell);
    }
}

/// Whether the directories are there that are locked.
fn are_there(observed: &Observed) -> bool {
    [&observed.workdir, &observed.upper_layer]
        .iter()
        .all(|layer| layer.place.found.directory().is_some())
}

/// Whether the overlay is mounted.
fn is_mounted(observed: &Observed) -> bool {
    observed.mount.overlay.is_some()
}

/// Why setting up stops.
enum Stop {
    Refused(Vec<Finding>, bool),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}
