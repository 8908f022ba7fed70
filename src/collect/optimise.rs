//! Removes from the upper layer what the lower store has too.
//!
//! Nix's own `nix-store --optimise` does so behind OverlayFS's back and without comparing anything.
//! Here a copy goes only when both databases say the same of it and both copies are equal; and it goes
//! by way of the work directory: renamed there, which is one step and keeps it whole; the overlay
//! remounted, so that the lower copy shows; and deleted only when it does and nobody uses the upper
//! one any more. Whatever happens meanwhile, one of the two is whole, and programs that run go on.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Stat, statat};
use rustix::io::Errno;

use super::CollectError;
use super::aside::Aside;
use super::copies::{Difference, Judge, Rows};
use super::layers::{Kind, Layer, Layers};
use super::leftovers::Merged;
use super::processes::Copies;
use super::space::Space;
use crate::apply;
use crate::compare::Comparer;
use crate::config::Store;
use crate::linux::{descriptors, root::System};
use crate::nix::store_path::{Entry, StorePath};
use crate::remedy::Fault;

/// How many objects are dealt with by one sync and one remount at most. Each takes a descriptor for its
/// lock.
const BATCH: usize = 1024;

/// What was removed, or would be, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Optimised {
    /// Objects whose upper copy is gone, with the bytes that it took up.
    pub objects: Vec<(StorePath, u64)>,
    /// Objects that are different in the two layers, and stay in both.
    pub different: Vec<(StorePath, Difference)>,
    /// Objects whose upper copy a later run can remove.
    pub left: Vec<(StorePath, Left)>,
    /// Objects whose upper copy an earlier run had replaced, and that are back, since the lower store
    /// has no equal one any more.
    pub restored: Vec<StorePath>,
    /// Bytes free afterwards.
    pub free: u64,
    /// Why a remount failed, if one did.
    pub remount: Option<Fault>,
}

/// Why an upper copy that is not needed is still there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Left {
    /// Nix holds the lock of the path.
    #[error("Nix is working on it")]
    Locked,
    /// A process uses it.
    #[error("{0} uses the upper copy")]
    Process(String),
    /// The kernel still shows it.
    #[error("the merged store still shows the upper copy, because something uses it")]
    Shown,
    /// The overlay was not remounted.
    #[error("the merged store was not remounted")]
    NotRemounted,
    /// An earlier copy waits to be removed.
    #[error("something uses an earlier upper copy")]
    Earlier,
}

/// What it tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// So many objects are in both layers.
    Found(u64),
    /// One was dealt with.
    Done,
    /// Something is not as it should be.
    Warning(&'a Fault),
}

/// A store whose upper layer is to lose what the lower store has too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Optimiser<'a> {
    /// The store.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// Whether the copies are taken for equal where the databases agree.
    pub trust_databases: bool,
}

impl Optimiser<'_> {
    /// Says what a run would do now, and changes nothing.
    ///
    /// # Errors
    /// When a layer or a database cannot be read.
    pub(crate) fn plan(&self, tell: &mut dyn FnMut(Step<'_>)) -> Result<Optimised, CollectError> {
        let layers = Layers::open(self.store)?;
        let mut found = Optimised::default();
        let mut space = Space::new(&layers.upper);
        let judge = self.judge();
        let both = in_both(&layers)?;
        tell(Step::Found(both.len() as u64));
        for batch in both.chunks(BATCH) {
            let rows = batch.iter().zip(judge.rows(batch)?);
            let mut rest: VecDeque<(&StorePath, Rows)> = rows.collect();
            while !rest.is_empty() {
                let objects = rest.make_contiguous();
                let differences = judge.differences([&layers.upper, &layers.lower], objects);
                let count = differences.len();
                for ((path, _), difference) in rest.drain(..count).zip(differences) {
                    match difference {
                        None => found.objects.push((path.clone(), space.of(path)?)),
                        Some(difference) => found.different.push((path.clone(), difference)),
                    }
                    tell(Step::Done);
                }
            }
        }
        found.free = layers.upper.free()?;
        Ok(found)
    }

    /// Removes the upper copies of all objects that are in both layers, and those that earlier runs
    /// left.
    ///
    /// # Errors
    /// When a layer or a database cannot be read or changed.
    pub(crate) fn run(&self, tell: &mut dyn FnMut(Step<'_>)) -> Result<Optimised, CollectError> {
        let layers = Layers::open(self.store)?;
        let both = in_both(&layers)?;
        tell(Step::Found(both.len() as u64));
        self.remove(&layers, &both, tell)
    }

    /// The same for these objects. Until it has ended, all of them are remembered as gone: stopped in the
    /// middle, too many would be missed later.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn remove(
        &self,
        layers: &Layers,
        objects: &[StorePath],
        tell: &mut dyn FnMut(Step<'_>),
    ) -> Result<Optimised, CollectError> {
        let (all, mut before) = (objects.len() as u64, None);
        if all > 0 {
            self.remember(tell, |rows| {
                before = Some(rows);
                rows.saturating_sub(all)
            });
        }
        let done = self.remove_now(layers, objects, tell)?;
        if let Some(before) = before {
            let gone = done.objects.len() as u64;
            self.remember(tell, |_| before.saturating_sub(gone));
        }
        Ok(done)
    }

    fn remove_now(
        &self,
        layers: &Layers,
        objects: &[StorePath],
        tell: &mut dyn FnMut(Step<'_>),
    ) -> Result<Optimised, CollectError> {
        let merged = Merged::open(&self.store.real)?;
        let mut work = Work {
            optimiser: self,
            layers,
            merged: &merged,
            aside: Aside::open(self.store, self.system)?,
            space: Space::new(&layers.upper),
            done: Optimised::default(),
        };
        let most = descriptors::allow(BATCH);
        for batch in work.aside.names()?.chunks(most) {
            work.look_again(batch)?;
        }
        let mut rest = objects;
        while !rest.is_empty() {
            let (batch, _) = rest.split_at(rest.len().min(most));
            rest = &rest[work.batch(batch, tell)?..];
        }
        // Only now: while ext4 remembers files that were just deleted, it takes long to make the locks
        // of the next batch.
        work.aside.empty()?;
        let mut done = work.done;
        done.free = layers.upper.free()?;
        Ok(done)
    }

    fn remember(&self, tell: &mut dyn FnMut(Step<'_>), rows: impl FnOnce(u64) -> u64) {
        apply::remember_rows(self.store, self.system, rows, &mut |progress| {
            if let apply::Progress::Warning(fault) = progress {
                tell(Step::Warning(fault));
            }
        });
    }

    fn judge(&self) -> Judge<'_> {
        Judge {
            store: self.store,
            trust_databases: self.trust_databases,
        }
    }

    /// Puts those copies back into the upper layer that an earlier run left, and that are the only
    /// ones now, since the lower store has lost its own.
    ///
    /// # Errors
    /// When a layer cannot be read or changed.
    pub(crate) fn restore(&self) -> Result<Vec<StorePath>, CollectError> {
        if !Aside::exists(self.store) {
            return Ok(Vec::new());
        }
        let layers = Layers::open(self.store)?;
        let aside = Aside::open(self.store, self.system)?;
        let mut restored = Vec::new();
        for path in aside.names()? {
            let name = path.as_str();
            if !layers.lower.has(name)? && aside.put_back(&layers.upper, name)? {
                restored.push(path);
            }
        }
        if !restored.is_empty() {
            aside.sync(&layers.upper)?;
            // Where it is not mounted there is nothing to remount.
            let _ = remount(self.system, &self.store.real);
        }
        Ok(restored)
    }
}

struct Work<'a> {
    optimiser: &'a Optimiser<'a>,
    layers: &'a Layers,
    merged: &'a Merged,
    aside: Aside,
    /// What goes of the upper layer: one for all of it, since the first file with several links has all
    /// of `.links` read.
    space: Space<'a>,
    done: Optimised,
}

/// A copy that was put aside, with the bytes that it takes up.
type PutAside = (StorePath, u64);

impl Work<'_> {
    /// Deals with the upper copies of the first of these objects: gives of how many.
    fn batch(
        &mut self,
        paths: &[StorePath],
        tell: &mut dyn FnMut(Step<'_>),
    ) -> Result<usize, CollectError> {
        let Layers { upper, lower } = self.layers;
        let mut locks = Locks::new(self.merged, &self.optimiser.store.real);
        let (mut locked, mut others) = (Vec::new(), Vec::new());
        for (place, path) in paths.iter().enumerate() {
            match locks.take(path)? {
                // Otherwise it was collected meanwhile, or the lower store has lost it.
                true if is_object(upper, path)? && lower.has(path.as_str())? => {
                    locked.push((place, path.clone()));
                }
                true => {}
                false => others.push((place, path)),
            }
        }
        let (places, locked): (Vec<usize>, Vec<StorePath>) = locked.into_iter().unzip();
        let judge = self.optimiser.judge();
        let objects: Vec<_> = locked.iter().zip(judge.rows(&locked)?).collect();
        let differences = judge.differences([upper, lower], &objects);
        let end = match places.get(differences.len()) {
            Some(&place) => place,
            None => paths.len(),
        };
        for (_, path) in others.into_iter().filter(|(place, _)| *place < end) {
            self.done.left.push((path.clone(), Left::Locked));
        }
        let mut put_aside = Vec::new();
        for (path, difference) in locked.into_iter().zip(differences) {
            match difference {
                None => put_aside.extend(self.put_aside(path)?),
                Some(difference) => self.done.different.push((path, difference)),
            }
        }
        if !put_aside.is_empty() {
            self.show()?;
            self.give_up(put_aside)?;
        }
        for _ in 0..end {
            tell(Step::Done);
        }
        Ok(end)
    }

    /// Puts those copies back that earlier runs have left and that are needed again, and deletes the
    /// others.
    fn look_again(&mut self, paths: &[StorePath]) -> Result<(), CollectError> {
        let mut locks = Locks::new(self.merged, &self.optimiser.store.real);
        let mut locked = Vec::new();
        for path in paths {
            match locks.take(path)? {
                true => locked.push(path.clone()),
                false => self.done.left.push((path.clone(), Left::Locked)),
            }
        }
        let rows = self.optimiser.judge().rows(&locked)?;
        let (mut comparer, mut put_aside) = (Comparer::new(), Vec::new());
        for (path, rows) in locked.into_iter().zip(rows) {
            if self.is_needed(&path, &rows, &mut comparer)? {
                self.aside.put_back(&self.layers.upper, path.as_str())?;
                self.done.restored.push(path);
            } else {
                let bytes = Space::new(self.aside.replaced()).of(&path)?;
                put_aside.push((path, bytes));
            }
        }
        self.show()?;
        self.give_up(put_aside)
    }

    /// Puts an upper copy aside.
    fn put_aside(&mut self, path: StorePath) -> Result<Option<PutAside>, CollectError> {
        let upper = &self.layers.upper;
        let bytes = self.space.of(&path)?;
        if !self.aside.put(upper, path.as_str())? {
            self.done.left.push((path, Left::Earlier));
            return Ok(None);
        }
        Ok(Some((path, bytes)))
    }

    /// Has what was renamed on the disk, and the merged store show what is there now.
    fn show(&mut self) -> Result<(), CollectError> {
        self.aside.sync(&self.layers.upper)?;
        self.done.remount = remount(self.optimiser.system, &self.optimiser.store.real);
        Ok(())
    }

    /// Whether a copy that an earlier run put aside is the only good one again.
    fn is_needed(
        &self,
        path: &StorePath,
        rows: &Rows,
        comparer: &mut Comparer,
    ) -> Result<bool, CollectError> {
        let Layers { upper, lower } = self.layers;
        if rows.above.is_none() || is_object(upper, path)? {
            return Ok(false);
        }
        if !lower.has(path.as_str())? {
            return Ok(true);
        }
        let layers = [self.aside.replaced(), lower];
        let judge = self.optimiser.judge();
        Ok(judge.difference(layers, path, rows, comparer).is_some())
    }

    /// Gives those copies up that do not show any more and that nobody uses.
    fn give_up(&mut self, put_aside: Vec<(StorePath, u64)>) -> Result<(), CollectError> {
        let names = put_aside.iter().map(|(path, _)| path.as_str()).collect();
        let copies = Copies {
            aside: self.aside.replaced(),
            lower: &self.layers.lower,
        };
        let users = match self.done.remount {
            None => copies.users(self.optimiser.system, &names)?,
            Some(_) => Default::default(),
        };
        let mut unused = Vec::new();
        for (path, bytes) in put_aside {
            let why = if self.done.remount.is_some() {
                Some(Left::NotRemounted)
            } else if let Some(process) = users.get(path.as_str()) {
                Some(Left::Process(process.clone()))
            } else if !self.shows_another(&path)? {
                Some(Left::Shown)
            } else {
                None
            };
            match why {
                Some(why) => self.done.left.push((path, why)),
                None => unused.push((path, bytes)),
            }
        }
        self.aside
            .give_up(unused.iter().map(|(path, _)| path.as_str()))?;
        self.done.objects.extend(unused);
        Ok(())
    }

    /// Whether the merged directory shows what a layer has, and not the copy that was put aside. The
    /// rename has changed the time of that one's last change, and OverlayFS passes this time on from
    /// the layer that it shows, unlike the numbers of inodes.
    fn shows_another(&self, path: &StorePath) -> Result<bool, CollectError> {
        let look = |layer: &dyn AsFd| match statat(layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(stat) => Ok(Some(changed(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => {
                let path = self.optimiser.store.real.join(path.as_str());
                Err(CollectError::layer(&path, error))
            }
        };
        let shown = look(&self.merged.fd())?;
        let aside = look(&self.aside.replaced().fd())?;
        let layers = [
            look(&self.layers.lower.fd())?,
            look(&self.layers.upper.fd())?,
        ];
        Ok(shown.is_some() && shown != aside && layers.contains(&shown))
    }
}

fn changed(stat: &Stat) -> (i64, u64, u32, i64) {
    #[allow(
        clippy::useless_conversion,
        reason = "it is another type on other machines"
    )]
    let nanoseconds = u64::try_from(stat.st_ctime_nsec).unwrap_or(0);
    (stat.st_ctime, nanoseconds, stat.st_mode, stat.st_size)
}

/// Nix's locks of paths. They go with this.
struct Locks<'a> {
    merged: &'a Merged,
    /// Where that is.
    real: &'a Path,
    locks: Vec<(String, File)>,
}

impl<'a> Locks<'a> {
    fn new(merged: &'a Merged, real: &'a Path) -> Self {
        Self {
            merged,
            real,
            locks: Vec::new(),
        }
    }

    /// Takes one, unless somebody has it.
    fn take(&mut self, path: &StorePath) -> Result<bool, CollectError> {
        let lock = self.merged.lock(path);
        let lock =
            lock.map_err(|error| CollectError::layer(&self.real.join(path.lock_file()), error))?;
        let taken = lock.is_some();
        self.locks.extend(lock);
        Ok(taken)
    }
}

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        for (name, file) in self.locks.drain(..) {
            // A file that stays is a leftover, which the next collection removes.
            let _ = self.merged.delete_lock(&name, file);
        }
    }
}

fn is_object(layer: &Layer, path: &StorePath) -> Result<bool, CollectError> {
    Ok(matches!(
        layer.look(path.as_str())?,
        Some((Kind::Object, _))
    ))
}

/// The objects that both layers have.
fn in_both(layers: &Layers) -> Result<Vec<StorePath>, CollectError> {
    let mut both = BTreeSet::new();
    layers.upper.each(|name| {
        if let Entry::StorePath(path) = Entry::of(name.to_bytes())
            && !path.is_temporary()
            && layers.lower.has(path.as_str())?
            && is_object(&layers.upper, &path)?
        {
            both.insert(path);
        }
        Ok(())
    })?;
    Ok(both.into_iter().collect())
}

/// Has the kernel forget what it cached of the layers.
pub(super) fn remount(system: &System, real: &Path) -> Option<Fault> {
    apply::remount_aside(system, real)
        .err()
        .map(|error| Fault::of(&error))
}
