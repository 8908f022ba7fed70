//! Locks on directories, so that several runs at once do not disturb each other.
//!
//! The work directory belongs to one store: an exclusive lock on it lets one set-up of that store
//! run at a time. The upper layer could be named by two stores: whoever mounts it holds an exclusive
//! lock on it meanwhile, and `overstore exec` does for as long as its command runs. Both are released
//! by the kernel when their holder ends, however it ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::error::{Doing, Error};
use crate::linux::locks::holder_in_words;
use crate::linux::root::System;
use crate::linux::safe_path::Reached;

/// How long to wait for a lock before saying so.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long somebody may hold the upper layer's lock who only looks whether it is locked.
const GLANCE: Duration = Duration::from_millis(300);

/// How long to wait between attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A lock held on a directory until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct DirectoryLock {
    directory: OwnedFd,
}

impl From<OwnedFd> for DirectoryLock {
    /// A lock that another process has taken, and that this one shares.
    fn from(directory: OwnedFd) -> DirectoryLock {
        DirectoryLock { directory }
    }
}

impl DirectoryLock {
    /// Waits for the lock on a directory. `waiting` is called once, if it takes longer than a second.
    ///
    /// # Errors
    /// When the directory cannot be opened or locked.
    pub(crate) fn wait(
        directory: &Reached,
        system: &System,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<DirectoryLock, Error> {
        let path = directory.path();
        let file = directory.open().doing("open", path)?;
        if !attempt(&file, PATIENCE).doing("lock", path)? {
            waiting(&holder_in_words(system, directory.status()));
            flock(&file, FlockOperation::LockExclusive).doing("lock", path)?;
        }
        Ok(DirectoryLock { directory: file })
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
        let file = directory.open().doing("open", path)?;
        if !attempt(&file, GLANCE).doing("lock", path)? {
            return Err(Error::UpperLocked {
                path: path.to_owned(),
                holder: holder_in_words(system, directory.status()),
            });
        }
        Ok(DirectoryLock { directory: file })
    }

    /// Leaves the lock to this process for as long as it lives, and to those that descend from it:
    /// the last one that ends releases it.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub(crate) fn leave_to_descendants(self) -> Result<(), Errno> {
        fcntl_setfd(&self.directory, FdFlags::empty())?;
        std::mem::forget(self.directory);
        Ok(())
    }
}

/// Tries to lock for some time; tells whether it worked.
fn attempt(file: impl AsFd, patience: Duration) -> Result<bool, Errno> {
    let start = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if start.elapsed() < patience => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
