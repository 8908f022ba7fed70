//! The steps of a set-up, done one after the other.

use std::path::Path;

use super::database::{self, Reserve};
use super::directory;
use super::durable::Unsynced;
use super::error::{Error, walked};
use super::progress::{Progress, Tell};
use super::{generation, hook, links, marks, memory, mount, state};
use crate::compare::Identity;
use crate::config::Store;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::observe::{Observed, Pairing, Rows};
use crate::plan::{Allowed, Step, StepReport};
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
    /// Whether the store outlives the processes that it is set up for.
    pub lasts: bool,
}

/// A set-up under way.
pub(super) struct Work<'a> {
    set_up: SetUp<'a>,
    /// The steps done.
    pub done: Vec<StepReport>,
    /// What of that is not known to be on the disk.
    unsynced: Unsynced,
    /// Is told what happens.
    pub tell: Tell<'a>,
}

impl<'a> Work<'a> {
    /// Nothing is done yet.
    pub(super) fn new(set_up: SetUp<'a>, tell: Tell<'a>) -> Work<'a> {
        Work {
            set_up,
            done: Vec::new(),
            unsynced: Unsynced::default(),
            tell,
        }
    }

    /// Reaches a directory, once it is made if one of the steps makes it.
    pub(super) fn directory(&mut self, path: &Path, steps: &[Step]) -> Result<Reached, Error> {
        let makes =
            |step: &&Step| matches!(step, Step::MakeDirectory { path: made, .. } if made == path);
        if let Some(step) = steps.iter().find(makes) {
            self.step(step)?;
        }
        walked(path, safe_path::directory(path, Symlinks::Refuse))
    }

    /// Does all steps; what they did is on the disk then. What they need to have been is remembered
    /// before those that rely on it.
    pub(super) fn apply(&mut self, steps: &[Step], observed: &Observed) -> Result<(), Error> {
        let mut remembered = Memory::read(self.set_up.store);
        let mut mark = observed.pairing.mark.clone();
        for step in steps {
            if matches!(step, Step::MakeDatabase { .. }) {
                self.sync_earlier_directories()?;
            }
            if let Step::MakeDatabase { .. } | Step::Mount(_) = step {
                // What these rely on is on the disk before they say that the store is there, and
                // they are remembered whenever this is killed.
                self.unsynced.sync()?;
                self.remember(step, &mut remembered, &mark, observed);
            }
            if let Some(written) = self.step(step)? {
                mark = written;
            }
        }
        self.unsynced.sync()
    }

    /// The directories may be of a run that was killed before it synced them.
    fn sync_earlier_directories(&mut self) -> Result<(), Error> {
        let store = self.set_up.store;
        for path in [&store.workdir, &store.upper_layer, &*store.real] {
            directory::sync_later(path, &mut self.unsynced)?;
        }
        Ok(())
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
            accepted_loss: lost && (pairing.accepted_loss || self.set_up.allowed.loss()),
        }
    }

    /// Does one step: the mark that the upper layer has since, if it was given one.
    fn step(&mut self, step: &Step) -> Result<Option<Mark>, Error> {
        let unsynced = &mut self.unsynced;
        let mut report = step.report();
        let mut marked = None;
        (self.tell)(Progress::Step(&report));
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
                let restored = marks::restore(self.set_up.store, *userxattr)?;
                report.text = format!("{}: {restored}", report.text);
            }
            Step::MarkUpperLayer { upper_layer, mark } => {
                marked = Some(marks::mark(upper_layer, mark.as_deref(), unsynced)?);
            }
            Step::MakeState { state, new } => state::make(state, *new, unsynced)?,
            Step::MakeDatabase { state, wal } => {
                let reserve = match self.set_up.lasts {
                    true => Reserve::Space,
                    false => Reserve::Nothing,
                };
                database::make(state, *wal, reserve, &mut |holder| {
                    (self.tell)(Progress::Waiting(holder))
                })?;
            }
            // The store works without it until an object is deleted that is in both layers, and a
            // finding says that it is missing.
            Step::LinkHook { hook, program } => {
                if let Err(error) = hook::link(hook, program, unsynced) {
                    (self.tell)(Progress::Warning(&Fault::of(&error)));
                    return Ok(None);
                }
            }
            Step::LinkGeneration { link, generation } => generation::link(link, generation)?,
            Step::Mount(overlay) => {
                // What was added below meanwhile does not mix with what is above.
                marks::restore(self.set_up.store, overlay.userxattr())?;
                let record_for = self
                    .set_up
                    .remember
                    .then_some(self.set_up.store.name.as_str());
                mount::mount(overlay, record_for, self.set_up.system, self.tell)?;
            }
        }
        self.done.push(report);
        Ok(marked)
    }

    /// Writes down what a step is going to do, where that is remembered; which upper layer it is for,
    /// in any case.
    fn remember(&mut self, step: &Step, remembered: &mut Memory, mark: &Mark, observed: &Observed) {
        let layer = Some(self.layer(mark, &observed.pairing));
        let known = remembered.upper_layer == layer;
        remembered.upper_layer = layer;
        if !self.set_up.remember {
            if !known {
                memory::write(remembered, self.set_up.store, self.tell);
            }
            return;
        }
        match step {
            Step::MakeDatabase { .. } => {
                remembered.lower = Some(LowerMemory {
                    store: self.set_up.store.lower.given.clone(),
                    // What cannot be read is a finding, and no reason not to go on.
                    identity: Identity::of(self.set_up.store, observed.lower.schema())
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
        memory::write(remembered, self.set_up.store, self.tell);
    }
}
