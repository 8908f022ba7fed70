//! Small directories: gone through, synced, removed.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::linux::sync;

/// How a directory is opened whose entries are read.
pub(super) const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes an entry of a directory, and all that is in it: no deeper than a generation is.
pub(super) fn remove_tree(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let below = openat(&directory, name, LISTING, Mode::empty())?;
    for entry in entries(&below)? {
        remove_tree(&below, &entry)?;
    }
    unlinkat(&directory, name, AtFlags::REMOVEDIR)
}

/// The names in a directory.
pub(super) fn entries(directory: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Syncs a directory, and all that is in it.
pub(super) fn sync_tree(directory: impl AsFd) -> Result<(), Errno> {
    for name in entries(&directory)? {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = openat(&directory, &name, flags, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) {
            FileType::Directory => sync_tree(entry)?,
            _ => sync::sync(entry)?,
        }
    }
    sync::sync(directory)
}
