//! The store's memory, written under the store's lock. It may get lost, so it is no reason to fail:
//! who cannot write it warns.

use std::collections::BTreeSet;

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use super::lock::DirectoryLock;
use super::progress::{Progress, Tell};
use crate::compare::Identity;
use crate::config::{MEMORY_FILE, Store};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::nix::path_set::PathSet;
use crate::nix::store_path::StorePath;
use crate::records::{Collected, LowerMemory, Memory, deleted_paths};
use crate::remedy::Fault;

/// Remembers that the metadata of these paths was copied now, under the store's lock; with
/// `after_mount`, that `up` did it after the mount of that time. Warns where that cannot be locked or
/// written.
pub(crate) fn remember_warmed(
    store: &Store,
    system: &System,
    paths: &PathSet,
    after_mount: Option<u64>,
    tell: Tell<'_>,
) {
    remember(store, system, "what was warmed", tell, |memory| {
        let directory = make(store)?;
        memory
            .remember_warmed(&directory, paths, after_mount)
            .doing("write", store.memory())
    });
}

/// Remembers, before it is done and so that it survives a power cut, that Nix is given these objects to
/// be deleted, and that so many have rows if it deletes them all: whoever finds fewer rows than there
/// were, or an object without one, knows what it was. Under the store's lock.
///
/// # Errors
/// When it cannot be locked or written: also because of a full disk, which is no reason not to delete.
pub(crate) fn remember_deleting(
    store: &Store,
    system: &System,
    paths: &BTreeSet<StorePath>,
    rows: u64,
    waiting: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let (_turn, mut memory) = lock(store, system, waiting)?;
    let directory = make(store)?.open().doing("open", store.memory())?;
    let written = deleted_paths::write(&directory, paths);
    written.doing("write", store.memory())?;
    if let Some(layer) = &mut memory.upper_layer {
        layer.rows = layer.rows.min(rows);
    }
    let written = memory.write_durably(&directory);
    written.doing("write", store.memory().join(MEMORY_FILE))
}

/// Remembers a collection of garbage, how many objects of the upper layer then have rows where that is
/// known, and what Nix has left of what it was given, under the store's lock. Warns where that cannot be
/// locked or written.
pub(crate) fn remember_collected(
    store: &Store,
    system: &System,
    collected: &Collected,
    rows: Option<u64>,
    deleting: &BTreeSet<StorePath>,
    tell: Tell<'_>,
) {
    remember(store, system, "of this collection", tell, |memory| {
        memory.collected = Some(*collected);
        let directory = make(store)?.open().doing("open", store.memory())?;
        let written = deleted_paths::write(directory, deleting);
        written.doing("write", store.memory())?;
        if let (Some(layer), Some(rows)) = (&mut memory.upper_layer, rows) {
            layer.rows = rows;
        }
        Ok(())
    });
}

/// Remembers how many objects of the upper layer have rows, given how many had, under the store's lock.
/// Warns where that cannot be locked or written.
pub(crate) fn remember_rows(
    store: &Store,
    system: &System,
    rows: impl FnOnce(u64) -> u64,
    tell: Tell<'_>,
) {
    remember(store, system, "what was optimised", tell, |memory| {
        if let Some(layer) = &mut memory.upper_layer {
            layer.rows = rows(layer.rows);
        }
        Ok(())
    });
}

/// Remembers that the upper database fits the lower store as that is now: under the store's lock, which
/// is taken where a machine is given. Warns where it cannot be locked or written.
pub(crate) fn remember_lower(
    store: &Store,
    identity: Option<Identity>,
    unlocked: Option<&System>,
    tell: Tell<'_>,
) {
    let lower = Some(LowerMemory {
        store: store.lower.given.clone(),
        identity,
    });
    match unlocked {
        Some(system) => remember(store, system, "of the lower store", tell, |memory| {
            memory.lower = lower;
            Ok(())
        }),
        None => {
            let mut memory = Memory::read(store);
            memory.lower = lower;
            write(&memory, store, tell);
        }
    }
}

/// Changes the memory under the store's lock. `what` is not known otherwise.
fn remember(
    store: &Store,
    system: &System,
    what: &str,
    tell: Tell<'_>,
    change: impl FnOnce(&mut Memory) -> Result<(), Error>,
) {
    let remember = || {
        let mut waiting = |holder: &str| tell(Progress::Waiting(holder));
        let (_turn, mut memory) = lock(store, system, &mut waiting)?;
        change(&mut memory)?;
        try_write(&memory, store)
    };
    if let Err(error) = remember() {
        let Fault { what: why, remedy } = Fault::of(&error);
        let fault = Fault::new(format!("`overstore status` will not know {what}: {why}"));
        tell(Progress::Warning(&fault.remedy(remedy)));
    }
}

/// Takes the store's lock, and reads the memory.
fn lock(
    store: &Store,
    system: &System,
    waiting: &mut dyn FnMut(&str),
) -> Result<(DirectoryLock, Memory), Error> {
    let workdir = safe_path::directory(&store.workdir, Symlinks::Refuse);
    let workdir = walked(&store.workdir, workdir)?;
    let turn = DirectoryLock::wait(&workdir, system, waiting)?;
    Ok((turn, Memory::read(store)))
}

/// Writes a store's memory, or warns that it cannot be written.
pub(super) fn write(memory: &Memory, store: &Store, tell: Tell<'_>) {
    if let Err(error) = try_write(memory, store) {
        let Fault { what: why, remedy } = Fault::of(&error);
        let fault = Fault::new(format!(
            "nothing is remembered of this run; nothing else is lost: {why}"
        ));
        tell(Progress::Warning(&fault.remedy(remedy)));
    }
}

fn try_write(memory: &Memory, store: &Store) -> Result<(), Error> {
    let directory = make(store)?;
    memory
        .write(&directory)
        .doing("write", store.memory().join(MEMORY_FILE))
}

/// The directory of overstore's own, made where it is missing.
fn make(store: &Store) -> Result<Reached, Error> {
    directory::make(&store.memory(), 0o755, None, &mut Unsynced::default())
}
