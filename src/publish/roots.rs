//! The live store's collector: held off while a generation is made, and kept from its objects as long
//! as it is there.
//!
//! Roots are empty files in `gcroots/overstore-publications/ID/NUMBER` of the live store, each named
//! after a path that nothing else in the generation refers to: Nix takes such a file for a root, as it
//! does a link. A link would need a block of the disk for its target, which is too long for an inode:
//! 58,900 of them took 236 MiB and 1.8 s of processor time on ext4, the files 6 MiB and 1.0 s.
//!
//! One object that refers to all of them would be a single root; but it would be an object of the live
//! store itself, that Nix has to add and that is published in its turn, and it would stay in the store
//! until a collection after its generation.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::error::PublishError;
use super::tree::{LISTING, entries};
use crate::linux::locks::holder_in_words;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Status, Symlinks};
use crate::linux::sync;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::warm;

/// The directory of the roots of all publications, in `gcroots`.
const DIRECTORY: &str = "overstore-publications";

/// The collector's lock, in the state directory.
const LOCK: &str = "gc.lock";

const MODE: Mode = Mode::from_raw_mode(0o755);

/// The live store's collector, held off as Nix's own additions hold it off, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct HeldOff {
    _lock: OwnedFd,
}

impl HeldOff {
    /// Waits for a collection that is under way, and keeps others from beginning. `waiting` is called
    /// if one is.
    pub(super) fn new(
        state: &Path,
        system: &System,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, PublishError> {
        let path = state.join(LOCK);
        let directory = safe_path::open_directory(state, Symlinks::Refuse)
            .map_err(|error| PublishError::io("open", state, error))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut hold = || -> Result<OwnedFd, Errno> {
            let lock = openat(&directory, LOCK, flags, Mode::from_raw_mode(0o600))?;
            match flock(&lock, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => {
                    waiting(&holder_in_words(system, &Status::of(&lock)?));
                    flock(&lock, FlockOperation::LockShared)?;
                }
                locked => locked?,
            }
            Ok(lock)
        };
        let lock = hold().map_err(|errno| PublishError::io("lock", &path, errno))?;
        Ok(Self { _lock: lock })
    }
}

/// The roots of one publication in the live store.
#[derive(Debug)]
pub(super) struct Roots {
    gcroots: PathBuf,
    id: String,
}

impl Roots {
    pub(super) fn of(state: &Path, id: &str) -> Self {
        Self {
            gcroots: state.join(layout::ROOTS),
            id: id.to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.gcroots.join(DIRECTORY).join(&self.id)
    }

    fn error(&self, errno: impl Into<std::io::Error>) -> PublishError {
        PublishError::io("make roots in", &self.path(), errno)
    }

    /// The directory of the roots, made where it is missing.
    fn directory(&self) -> Result<OwnedFd, PublishError> {
        let make = |above: &OwnedFd, name: &str| -> Result<OwnedFd, Errno> {
            match rustix::fs::mkdirat(above, name, MODE) {
                Ok(()) => sync::sync(above)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            openat(above, name, LISTING, Mode::empty())
        };
        let gcroots = safe_path::open_directory(&self.gcroots, Symlinks::Refuse)
            .map_err(|error| PublishError::io("open", &self.gcroots, error))?;
        make(&gcroots, DIRECTORY)
            .and_then(|all| make(&all, &self.id))
            .map_err(|errno| self.error(errno))
    }

    /// Begins to make the roots of a generation.
    pub(super) fn begin(&self, number: u64) -> Result<Making<'_>, PublishError> {
        let above = self.directory()?;
        let name = number.to_string();
        let make = || {
            rustix::fs::mkdirat(&above, &name, MODE)?;
            openat(&above, &name, LISTING, Mode::empty())
        };
        let directory = make().map_err(|errno| self.error(errno))?;
        Ok(Making {
            roots: self,
            above,
            directory,
            count: 0,
        })
    }

    /// Removes the roots of generations that are not among `kept`.
    pub(super) fn keep_only(&self, kept: &[u64]) -> Result<(), PublishError> {
        let above = self.directory()?;
        for name in entries(&above).map_err(|errno| self.error(errno))? {
            let number = name.to_str().and_then(|it| it.parse().ok());
            if number.is_none_or(|number: u64| kept.contains(&number)) {
                continue;
            }
            let remove = || {
                let directory = openat(&above, &name, LISTING, Mode::empty())?;
                for root in entries(&directory)? {
                    unlinkat(&directory, root, AtFlags::empty())?;
                }
                unlinkat(&above, &name, AtFlags::REMOVEDIR)
            };
            remove().map_err(|errno| PublishError::io("remove roots in", &self.path(), errno))?;
        }
        Ok(())
    }
}

/// The roots of a generation, being made.
#[derive(Debug)]
pub(super) struct Making<'a> {
    roots: &'a Roots,
    above: OwnedFd,
    directory: OwnedFd,
    count: u64,
}

impl Making<'_> {
    /// Makes one.
    pub(super) fn root(&mut self, path: &StorePath) -> Result<(), PublishError> {
        self.count += 1;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o444);
        openat(&self.directory, path.as_str(), flags, mode)
            .map(drop)
            .map_err(|errno| self.roots.error(errno))
    }

    /// They are durable when this returns: how many they are.
    pub(super) fn finish(self) -> Result<u64, PublishError> {
        sync::sync(&self.directory)
            .and_then(|()| sync::sync(&self.above))
            .map_err(|errno| self.roots.error(errno))?;
        Ok(self.count)
    }
}

/// The store paths that the live store's own roots point to: those of publications are none of them,
/// or nothing that was ever published would be freed.
pub(super) fn own(state: &Path, store: &StoreDirectory) -> Result<Vec<StorePath>, PublishError> {
    let gcroots = state.join(layout::ROOTS);
    let mut found = warm::find_roots_except(&gcroots, Some(DIRECTORY), store)?;
    let profiles = state.join(layout::PROFILES);
    match warm::find_roots(&profiles, store) {
        Err(warm::WarmError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound => {}
        profiles => found.extend(profiles?),
    }
    found.sort();
    found.dedup();
    Ok(found)
}
