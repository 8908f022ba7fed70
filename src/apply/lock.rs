//! Locks on directories, so that several runs at once do not disturb each other.
//!
//! The work directory belongs to one store: an exclusive lock on it lets one set-up of that store
//! run at a time. The upper layer could be named by two stores: whoever mounts it holds an exclusive
//! lock on it meanwhile, and `overstore exec` does for as long as its command runs. Both are released
//! by the kernel when their holder ends, however it ends. What is locked is a [`LockFile`].

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::error::{Doing, Error};
use crate::linux::locks::{self, LIMIT, attempt, holder_in_words};
use crate::linux::root::System;
use crate::linux::safe_path::Reached;
use crate::records::LockFile;

/// A lock held on a directory until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct DirectoryLock {
    /// `None` once it is left to others.
    held: Option<LockFile>,
}

/// The two locks of whoever sets a store up or changes it as a whole. The turn is given back last: who
/// waits for it takes the other one at once, and fails if it is held.
#[derive(Debug)]
#[must_use]
pub(crate) struct StoreLocks {
    /// That on the upper layer.
    pub upper_layer: DirectoryLock,
    _turn: DirectoryLock,
}

impl StoreLocks {
    /// Takes the lock on the upper layer too, for whoever has the one on the work directory.
    ///
    /// # Errors
    /// As for [`DirectoryLock::upper_layer`].
    pub(crate) fn with_turn(
        turn: DirectoryLock,
        upper_layer: &Reached,
        system: &System,
    ) -> Result<StoreLocks, Error> {
        Ok(StoreLocks {
            upper_layer: DirectoryLock::upper_layer(upper_layer, system)?,
            _turn: turn,
        })
    }
}

impl From<OwnedFd> for DirectoryLock {
    /// A lock that another process has taken, and that this one shares.
    fn from(file: OwnedFd) -> DirectoryLock {
        DirectoryLock {
            held: Some(file.into()),
        }
    }
}

impl DirectoryLock {
    /// Waits for the lock on a directory. `waiting` is called once, if it takes longer than a second.
    ///
    /// # Errors
    /// When the directory cannot be opened or locked, or is not free after five minutes.
    pub(crate) fn wait(
        directory: &Reached,
        system: &System,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<DirectoryLock, Error> {
        DirectoryLock::wait_for(LIMIT, directory, system, waiting)
    }

    fn wait_for(
        limit: Duration,
        directory: &Reached,
        system: &System,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<DirectoryLock, Error> {
        let path = directory.path();
        let mut file = open(directory, system, path)?;
        let mut told = || waiting(&holder(directory, system));
        let lock = FlockOperation::NonBlockingLockExclusive;
        let locked = locks::wait(limit, &mut told, || -> Result<_, Error> {
            if attempt(&file, lock).doing("lock", path)?.is_none() {
                return Ok(None);
            }
            if file.is_current() {
                return Ok(Some(()));
            }
            file = open(directory, system, path)?;
            Ok(None)
        })?;
        match locked {
            Some(()) => Ok(DirectoryLock { held: Some(file) }),
            None => Err(Error::NotReleased {
                path: path.to_owned(),
                holder: holder(directory, system),
                minutes: LIMIT.as_secs() / 60,
            }),
        }
    }

    /// Takes the lock on an upper layer, or fails if somebody holds it.
    ///
    /// # Errors
    /// [`Error::UpperLocked`], or when it cannot be opened or locked.
    pub(crate) fn upper_layer(
        directory: &Reached,
        system: &System,
    ) -> Result<DirectoryLock, Error> {
        let path = directory.path();
        let mut file = open(directory, system, path)?;
        let refused = || Error::UpperLocked {
            path: path.to_owned(),
            holder: holder(directory, system),
        };
        let locked = locks::wait(LIMIT, &mut || (), || {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            if attempt(&file, exclusive).doing("lock", path)?.is_some() {
                if file.is_current() {
                    return Ok(Some(()));
                }
                file = open(directory, system, path)?;
                return Ok(None);
            }
            // Who only looks whether it is locked shares it, for a moment.
            let shared = FlockOperation::NonBlockingLockShared;
            if attempt(&file, shared).doing("lock", path)?.is_none() {
                return Err(refused());
            }
            attempt(&file, FlockOperation::Unlock).doing("unlock", path)?;
            Ok(None)
        })?;
        match locked {
            Some(()) => Ok(DirectoryLock { held: Some(file) }),
            None => Err(refused()),
        }
    }

    /// Leaves the lock to this process for as long as it lives, and to those that descend from it:
    /// the last one that ends releases it.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub(crate) fn leave_to_descendants(mut self) -> Result<(), Errno> {
        if let Some(held) = &self.held {
            fcntl_setfd(held, FdFlags::empty())?;
        }
        std::mem::forget(self.held.take());
        Ok(())
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.remove();
        }
    }
}

fn open(directory: &Reached, system: &System, path: &Path) -> Result<LockFile, Error> {
    LockFile::open(directory, system).doing("open", path)
}

/// Who has a directory locked, in words.
fn holder(directory: &Reached, system: &System) -> String {
    let file = LockFile::find(directory, system).ok().flatten();
    match file.and_then(|file| file.status().ok()) {
        Some(status) => holder_in_words(system, &status),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::safe_path::{self, Symlinks};

    /// A directory in a scratch one, and a machine with a `/run` of its own.
    fn scratch() -> (tempfile::TempDir, Reached, System) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("run")).unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        let system = System::with_run(&path.join("run")).unwrap();
        let reached = safe_path::directory(&path.join("directory"), Symlinks::Refuse).unwrap();
        (root, reached, system)
    }

    #[test]
    fn who_is_waited_for_is_told_and_waiting_has_an_end() {
        let (_root, directory, system) = scratch();
        let wait = |limit| DirectoryLock::wait_for(limit, &directory, &system, &mut |_| ());
        let held = wait(LIMIT).unwrap();
        let error = wait(Duration::ZERO).unwrap_err().to_string();
        let holder = format!("process {}", std::process::id());
        assert!(error.contains(&holder), "{error}");
        assert!(error.contains("5 minutes"), "{error}");
        drop(held);
        drop(wait(Duration::ZERO).unwrap());
    }

    #[test]
    fn who_only_looks_is_no_holder() {
        let (_root, directory, system) = scratch();
        let look = LockFile::open(&directory, &system).unwrap();
        attempt(&look, FlockOperation::NonBlockingLockShared).unwrap();
        std::thread::scope(|scope| {
            let lock = scope.spawn(|| DirectoryLock::upper_layer(&directory, &system));
            attempt(&look, FlockOperation::Unlock).unwrap();
            let held = lock.join().unwrap().unwrap();
            let refused = DirectoryLock::upper_layer(&directory, &system).unwrap_err();
            assert!(matches!(refused, Error::UpperLocked { .. }), "{refused}");
            drop(held);
        });
        drop(DirectoryLock::upper_layer(&directory, &system).unwrap());
    }
}
