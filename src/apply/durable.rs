//! What has been changed and is not yet known to be on the disk.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use super::error::{Doing, Error};
use crate::linux::file_identity::FileIdentity;
use crate::linux::safe_path::Status;
use crate::linux::sync;

/// Directories with changes to be synced, together and late: the first `fsync(2)` of a journalling
/// file system writes for all of them, the others then cost nothing.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    directories: Vec<(FileIdentity, OwnedFd, PathBuf)>,
}

impl Unsynced {
    /// Remembers a directory that was made or in which an entry was made.
    pub(super) fn add(&mut self, directory: impl AsFd, path: &Path) -> Result<(), Error> {
        let identity = Status::of(&directory).doing("look at", path)?.identity;
        let known = |(other, ..): &(FileIdentity, OwnedFd, PathBuf)| *other == identity;
        if self.directories.iter().any(known) {
            return Ok(());
        }
        // A descriptor of a path alone (O_PATH) cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(directory, ".", flags, Mode::empty()).doing("open", path)?;
        self.directories.push((identity, fd, path.to_owned()));
        Ok(())
    }

    /// Syncs all of them.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        for (_, fd, path) in self.directories.drain(..) {
            sync(&fd, &path)?;
        }
        Ok(())
    }
}

/// Syncs one file or directory.
pub(super) fn sync(fd: impl AsFd, path: &Path) -> Result<(), Error> {
    sync::sync(fd).doing("sync", path)
}
