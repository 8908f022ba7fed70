//! The store's memory, written under the store's lock.

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use super::lock::DirectoryLock;
use crate::check::{self, Severity};
use crate::config::{MEMORY_FILE, Store};
use crate::linux::clock;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::nix::path_set::PathSet;
use crate::observe::Observed;
use crate::records::{Checked, Memory};

/// What a check finds now, to be remembered.
pub(super) fn checked(store: &Store, observed: &Observed) -> Checked {
    let findings = check::check(store, observed);
    let codes = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .map(|finding| finding.code.to_string())
            .collect()
    };
    Checked {
        time: clock::now(),
        errors: codes(Severity::Error),
        warnings: codes(Severity::Warning),
    }
}

/// Remembers that the metadata of these paths was copied now, under the store's lock; with
/// `after_mount`, that `up` did it after the mount of that time.
///
/// # Errors
/// When it cannot be locked or written.
pub(crate) fn remember_warmed(
    store: &Store,
    system: &System,
    paths: &PathSet,
    after_mount: Option<u64>,
) -> Result<(), Error> {
    let workdir = safe_path::directory(&store.workdir, Symlinks::Refuse);
    let workdir = walked(&store.workdir, workdir)?;
    let _turn = DirectoryLock::wait(&workdir, system, &mut |_| {})?;
    let mut memory = Memory::read(store);
    let directory = make(store)?;
    memory
        .remember_warmed(&directory, paths, after_mount)
        .doing("write", store.memory())?;
    write(&memory, store)
}

/// Writes a store's memory.
pub(super) fn write(memory: &Memory, store: &Store) -> Result<(), Error> {
    let directory = make(store)?;
    memory
        .write(&directory)
        .doing("write", store.memory().join(MEMORY_FILE))
}

/// The directory of overstore's own, made where it is missing.
fn make(store: &Store) -> Result<Reached, Error> {
    directory::make(&store.memory(), 0o755, None, &mut Unsynced::default())
}
