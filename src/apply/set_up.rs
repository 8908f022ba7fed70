//! `up`: observe, compare, apply what is missing, observe again.

use std::collections::BTreeSet;

use super::directory::NoUmask;
use super::error::Error;
use super::lock::{DirectoryLock, StoreLocks};
use super::progress::{Progress, Tell};
use super::work::{SetUp, Work};
use crate::check::{Code, Finding};
use crate::compare::Objects;
use crate::observe::{self, Depth, Observed, Rows};
use crate::plan::{Step, StepReport, plan};

/// How setting up ended. The steps are those that were done.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The steps done.
    pub steps: Vec<StepReport>,
    /// How it ended.
    pub end: End,
    /// The lock on the upper layer, if it was taken for a mount in this mount namespace alone, which others
    /// do not see: dropping it releases it.
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
        let mut upper_lock = None;
        let mut warned = BTreeSet::new();
        // What is tried more than once is warned of once.
        let mut tell = |progress: Progress<'_>| match progress {
            Progress::Warning(fault) if !warned.insert(fault.what.clone()) => {}
            other => tell(other),
        };
        let mut work = Work::new(*self, &mut tell);
        let end = match self.try_run(&mut work, &mut upper_lock) {
            Ok(observed) => End::Done(Box::new(observed)),
            Err(Stop::Refused(findings, mounted)) => End::Refused { findings, mounted },
            Err(Stop::Failed(error)) => End::Failed(error),
        };
        Ended {
            steps: work.done,
            end,
            upper_lock,
        }
    }

    fn try_run(
        &self,
        work: &mut Work<'_>,
        upper_lock: &mut Option<DirectoryLock>,
    ) -> Result<Observed, Stop> {
        let observed = match self.lasts {
            true => self.first_look()?,
            // Nobody else is at it, and what the kernel would refuse is asked where it does.
            false => self.observe(Depth::UpLocked)?,
        };
        let planned = plan(self.store, &observed, self.allowed);
        if planned.as_ref().is_ok_and(|plan| plan.steps.is_empty()) {
            return Ok(observed);
        }
        if !observed.machine.can_mount {
            return Err(Error::NotPermitted.into());
        }
        let _no_umask = NoUmask::new();
        // An obstacle that is seen without the locks may be another set-up at work. But to have the
        // locks, what is locked has to be there.
        let first = match planned {
            Ok(plan) => plan.steps,
            Err(findings) if are_there(&observed) && !findings.iter().any(is_of_parts) => {
                Vec::new()
            }
            Err(findings) => return Err(Stop::Refused(findings, is_mounted(&observed))),
        };
        let locks = self.lock(&first, work)?;
        let ended = match self.lasts {
            true => {
                let refused = observed.refused;
                let again = self.observe(Depth::UpLocked).map_err(Stop::Failed);
                again.and_then(|again| self.run_locked(work, Observed { refused, ..again }))
            }
            false => self.run_locked(work, observed),
        };
        if !self.remember {
            *upper_lock = Some(locks.upper_layer);
        }
        match ended {
            Err(Stop::Failed(error)) if !self.lasts => {
                Err(self.why_refused().unwrap_or(error.into()))
            }
            ended => ended,
        }
    }

    /// What stands in the way of a set-up that has failed, if that can be told.
    fn why_refused(&self) -> Option<Stop> {
        let observed = self.observe(Depth::Up).ok()?;
        let findings = plan(self.store, &observed, self.allowed).err()?;
        Some(Stop::Refused(findings, is_mounted(&observed)))
    }

    /// Takes the locks on this store's directories, which are made by those of the steps that make them.
    fn lock(&self, steps: &[Step], work: &mut Work<'_>) -> Result<StoreLocks, Error> {
        let workdir = work.directory(&self.store.workdir, steps)?;
        let turn = DirectoryLock::wait(&workdir, self.system, &mut |holder| {
            (work.tell)(Progress::Waiting(holder));
        })?;
        let upper_layer = work.directory(&self.store.upper_layer, steps)?;
        StoreLocks::with_turn(turn, &upper_layer, self.system)
    }

    /// Does what is left to be done, now that nobody else is at it.
    fn run_locked(&self, work: &mut Work<'_>, observed: Observed) -> Result<Observed, Stop> {
        let plan = plan(self.store, &observed, self.allowed)
            .map_err(|findings| Stop::Refused(findings, is_mounted(&observed)))?;
        work.apply(&plan.steps, &observed)?;
        if plan.steps.is_empty() {
            return Ok(observed);
        }
        let rows = match observed.pairing.rows {
            // It was made since.
            Rows::NoDatabase => Rows::Known(Objects::default()),
            rows => rows,
        };
        Ok(observe::observe_made(self.system, self.store, rows).map_err(Error::Observe)?)
    }

    /// Looks without the locks. The rows are not read where that is to be done under the locks anyway.
    fn first_look(&self) -> Result<Observed, Error> {
        let observed = observe::observe_but_rows(self.system, self.store);
        let observed = observed.map_err(Error::Observe)?;
        if !is_mounted(&observed) && are_there(&observed) {
            return Ok(observed);
        }
        self.observe(Depth::Up)
    }

    fn observe(&self, depth: Depth) -> Result<Observed, Error> {
        observe::observe(self.system, self.store, depth).map_err(Error::Observe)
    }
}

/// Whether a finding says that a part is not this store's own. No other set-up at work is why, and two
/// parts that are one directory cannot both be locked.
fn is_of_parts(finding: &Finding) -> bool {
    matches!(finding.code, Code::PartsOverlap | Code::PartOfAnotherStore)
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
