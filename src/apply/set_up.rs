//! `up`: observe, compare, apply what is missing, observe again.

use std::collections::BTreeSet;
use std::path::Path;

use super::directory::{self, NoUmask};
use super::durable::Unsynced;
use super::error::{Error, walked};
use super::lock::DirectoryLock;
use super::progress::{Progress, Tell};
use super::{database, links, memory, mount, state};
use crate::check::Finding;
use crate::compare::Identity;
use crate::config::Store;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::observe::{self, Depth, Observed};
use crate::plan::{Step, StepReport, plan};
use crate::records::{LowerMemory, Memory, Mounted};

/// What is to be set up, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUp<'a> {
    /// The store as described.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// Whether existing directories get the owner and mode that Nix would give them.
    pub fix_permissions: bool,
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
    /// It was not begun, or not gone on with, because of these findings.
    Refused(Vec<Finding>),
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
            Progress::Warning(text) if !warned.insert(text.to_owned()) => {}
            other => tell(other),
        };
        let end = self
            .try_run(&mut steps, &mut upper_lock, &mut tell)
            .unwrap_or_else(|stop| match stop {
                Stop::Refused(findings) => End::Refused(findings),
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
        let planned = plan(self.store, &observed, self.fix_permissions);
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
            Err(findings) => return Err(Stop::Refused(findings)),
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
        let plan = plan(self.store, &observed, self.fix_permissions).map_err(Stop::Refused)?;
        if plan.steps.is_empty() {
            unsynced.sync()?;
            return Ok(End::Done(Box::new(observed)));
        }
        let mut remembered = Memory::read(self.store);
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
                self.remember(step, &mut remembered, &observed, tell);
            }
            self.apply(step, steps, &mut unsynced, tell)?;
        }
        unsynced.sync()?;
        let observed = self.observe(Depth::UpLocked)?;
        if self.remember {
            remembered.checked = Some(memory::checked(self.store, &observed));
            memory::write(&remembered, self.store, tell);
        }
        Ok(End::Done(Box::new(observed)))
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
    ) -> Result<(), Error> {
        let report = step.report();
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
            Step::MakeState { state, new } => state::make(state, *new, unsynced)?,
            Step::MakeDatabase { state, wal } => {
                database::make(state, *wal, &mut |holder| tell(Progress::Waiting(holder)))?;
            }
            Step::Mount(overlay) => {
                let record_for = self.remember.then_some(self.store.name.as_str());
                mount::mount(overlay, record_for, self.system, tell)?;
            }
        }
        steps.push(report);
        Ok(())
    }

    /// Writes down what a step is going to do, where that is remembered.
    fn remember(&self, step: &Step, remembered: &mut Memory, observed: &Observed, tell: Tell<'_>) {
        if !self.remember {
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

/// Why setting up stops.
enum Stop {
    Refused(Vec<Finding>),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}
