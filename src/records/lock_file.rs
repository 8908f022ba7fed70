//! What is locked in place of a directory, so that several runs at once do not disturb each other.
//!
//! Whoever can open a directory can lock it, and keep root waiting. So root locks a file of its own
//! instead, `/run/overstore/locks/DEVICE-INODE`, in a directory that nobody else can enter. An ordinary
//! user, who has no such place, locks the directory itself, and so does root where `/run` cannot be
//! written to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::mount_record;
use crate::linux::file_identity::FileIdentity;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Status};

/// The directory of the files, in that of the records.
const DIRECTORY: &str = "locks";

/// Something open that can be locked with flock(2) and stands for a directory.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: OwnedFd,
    /// The directory that the file is in, and its name there. `None` of the directory itself.
    entry: Option<(OwnedFd, String)>,
}

impl LockFile {
    /// Opens what stands for a directory, made where it is missing.
    ///
    /// # Errors
    /// Those of opening the directory itself.
    pub(crate) fn open(directory: &Reached, system: &System) -> io::Result<LockFile> {
        if safe_path::is_root()
            && let Ok(made) = LockFile::make(directory, system)
        {
            return Ok(made);
        }
        LockFile::of_directory(directory)
    }

    /// Opens what stands for a directory, to look who has locked it. `None` where nobody has since
    /// the last one let go of it.
    ///
    /// # Errors
    /// Those of openat(2).
    pub(crate) fn find(directory: &Reached, system: &System) -> io::Result<Option<LockFile>> {
        if !safe_path::is_root() {
            return LockFile::of_directory(directory).map(Some);
        }
        let Some(records) = mount_record::open_directory(system)? else {
            return Ok(None);
        };
        let locks = match open_locks(&records) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let name = name(directory);
        match open_file(&locks, &name, OFlags::empty()) {
            Ok(file) => Ok(Some(LockFile {
                file,
                entry: Some((locks, name)),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn make(directory: &Reached, system: &System) -> io::Result<LockFile> {
        let records = mount_record::make_directory(system)?;
        match mkdirat(&records, DIRECTORY, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let locks = open_locks(&records)?;
        let name = name(directory);
        let file = open_file(&locks, &name, OFlags::CREATE)?;
        Ok(LockFile {
            file,
            entry: Some((locks, name)),
        })
    }

    fn of_directory(directory: &Reached) -> io::Result<LockFile> {
        Ok(LockFile {
            file: directory.open()?,
            entry: None,
        })
    }

    /// Whether it still stands for the directory: whoever had it locked may have removed it.
    pub(crate) fn is_current(&self) -> bool {
        let Some((locks, name)) = &self.entry else {
            return true;
        };
        let named = statat(locks, name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = Status::of(&self.file);
        matches!((named, ours), (Ok(named), Ok(ours)) if FileIdentity::from(&named) == ours.identity)
    }

    /// Removes it. Only who has it locked may do that.
    pub(crate) fn remove(&self) {
        if let Some((locks, name)) = &self.entry {
            // One that stays is used by the next.
            let _ = unlinkat(locks, name, AtFlags::empty());
        }
    }

    /// The attributes of what is locked.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn status(&self) -> Result<Status, Errno> {
        Status::of(&self.file)
    }
}

impl From<OwnedFd> for LockFile {
    /// One that another process has opened, and that is that one's to remove.
    fn from(file: OwnedFd) -> LockFile {
        LockFile { file, entry: None }
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn name(directory: &Reached) -> String {
    let FileIdentity { dev, ino } = directory.status().identity;
    format!("{dev}-{ino}")
}

fn open_locks(records: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let locks = openat(records, DIRECTORY, flags, Mode::empty())?;
    let status = Status::of(&locks)?;
    match status.uid == 0 && status.mode & 0o077 == 0 {
        true => Ok(locks),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "not of root alone",
        )),
    }
}

fn open_file(locks: &OwnedFd, name: &str, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    openat(locks, name, flags, Mode::from_raw_mode(0o600))
}
