//! Directories, made by descriptor: owner, group and mode are right from the first moment.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, RawMode, Uid, chmodat, chownat, mkdirat};
use rustix::io::Errno;

use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use crate::linux::safe_path::{self, Obstacle, Reached, Symlinks};
use crate::linux::users::FileSystemGroup;

/// The mode of parent directories.
const PARENT_MODE: u32 = 0o755;

/// Keeps the process's file mode creation mask at zero, so that new files and directories get the
/// mode that is asked for.
#[derive(Debug)]
pub(super) struct NoUmask(Mode);

impl NoUmask {
    pub(super) fn new() -> NoUmask {
        NoUmask(rustix::process::umask(Mode::empty()))
    }
}

impl Drop for NoUmask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

/// Makes a directory and its missing parents, unless it is there. What exists is left as it is.
/// Two processes may do this at once.
pub(super) fn make(
    path: &Path,
    mode: u32,
    gid: Option<u32>,
    unsynced: &mut Unsynced,
) -> Result<Reached, Error> {
    loop {
        let (component, nearest) = match safe_path::directory(path, Symlinks::Refuse) {
            Err(Obstacle::Missing { component, nearest }) => (component, nearest),
            result => return walked(path, result),
        };
        let Some(name) = component.file_name() else {
            return walked(path, Err(Obstacle::Missing { component, nearest }));
        };
        if component == path {
            make_entry(&nearest, name, mode, gid, unsynced)?;
        } else {
            make_entry(&nearest, name, PARENT_MODE, None, unsynced)?;
        }
    }
}

/// Has a directory synced that is there already, and the one that it is in.
pub(super) fn sync_later(path: &Path, unsynced: &mut Unsynced) -> Result<(), Error> {
    let directory = walked(path, safe_path::directory(path, Symlinks::Refuse))?;
    unsynced.add(&directory, path)?;
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let directory = walked(parent, safe_path::directory(parent, Symlinks::Refuse))?;
    unsynced.add(&directory, parent)
}

/// Makes one directory in a directory. The mask must be zero ([`NoUmask`]).
fn make_entry(
    parent: &Reached,
    name: &OsStr,
    mode: u32,
    gid: Option<u32>,
    unsynced: &mut Unsynced,
) -> Result<(), Error> {
    let path = parent.path().join(name);
    let made = {
        // The group comes from the thread's group for file systems: the directory never exists with
        // another one, not even for a process that is killed right here.
        let _group = gid.map(FileSystemGroup::set);
        mkdirat(parent, name, Mode::from_raw_mode(mode as RawMode))
    };
    match made {
        Ok(()) => {}
        // Somebody else was faster; the next walk looks at what they made.
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno).doing("make the directory", &path),
    }
    let new = walked(&path, parent.enter(name))?;
    settle(parent, name, &new, mode, gid)?;
    unsynced.add(&new, &path)?;
    unsynced.add(parent, parent.path())
}

/// Corrects what the parent directory passed on to the new one against our will: its group (the
/// set-group-ID bit, or the mount option `grpid`), or a mode from its default access control list.
fn settle(
    parent: &Reached,
    name: &OsStr,
    new: &Reached,
    mode: u32,
    gid: Option<u32>,
) -> Result<(), Error> {
    let wanted_uid = rustix::process::geteuid().as_raw();
    let wanted_gid = gid.unwrap_or(rustix::process::getegid().as_raw());
    let status = *new.status();
    if (status.uid, status.gid, status.mode) == (wanted_uid, wanted_gid, mode) {
        return Ok(());
    }
    set_permissions(parent, name, new.path(), mode, wanted_uid, wanted_gid)?;
    let status = walked(new.path(), parent.enter(name))?;
    let status = status.status();
    if (status.uid, status.gid, status.mode) == (wanted_uid, wanted_gid, mode) {
        return Ok(());
    }
    Err(Error::NotKept {
        path: new.path().to_owned(),
        uid: status.uid,
        gid: status.gid,
        mode: status.mode,
        wanted_uid,
        wanted_gid,
        wanted_mode: mode,
    })
}

/// Gives an existing directory an owner and a mode.
pub(super) fn fix_permissions(
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
    unsynced: &mut Unsynced,
) -> Result<(), Error> {
    let directory = walked(path, safe_path::directory(path, Symlinks::Refuse))?;
    set_permissions(&directory, OsStr::new("."), path, mode, uid, gid)?;
    unsynced.add(&directory, path)
}

/// Sets owner and mode of a directory entry. The owner first: changing it can take mode bits away.
fn set_permissions(
    parent: impl AsFd,
    name: &OsStr,
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(
        &parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .doing("change the owner of", path)?;
    chmodat(
        &parent,
        name,
        Mode::from_raw_mode(mode as RawMode),
        AtFlags::empty(),
    )
    .doing("change the mode of", path)
}
