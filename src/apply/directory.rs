//! Directories, made by descriptor: owner, group and mode are right from the first moment.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, RawMode, RenameFlags, Uid, fchmod, fchown, mkdirat, openat,
    renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use crate::linux::safe_path::{self, Obstacle, Reached, Status, Symlinks};

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

/// Makes one directory in a directory: under a draft's name, with its owner and mode, and then
/// renamed. So it never exists otherwise, not even for a process that is killed right here, whatever
/// the directory above passes on: its group (the set-group-ID bit, or the mount option `grpid`), or
/// the mode of its default access control list.
fn make_entry(
    parent: &Reached,
    name: &OsStr,
    mode: u32,
    gid: Option<u32>,
    unsynced: &mut Unsynced,
) -> Result<(), Error> {
    let path = parent.path().join(name);
    remove_drafts(parent).doing("look for what interrupted runs left in", parent.path())?;
    let (draft, directory) = match make_draft(parent) {
        // Another run took it for one that an interrupted run left.
        Err(Errno::NOENT) => return Ok(()),
        result => result.doing("make the directory", &path)?,
    };
    let made = set_permissions(&directory, &path, mode, own_uid(), gid.unwrap_or(own_gid()))
        .and_then(|()| {
            match rename(parent, &draft, name) {
                // Somebody else was faster, or took the draft: the next walk looks at what there is.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT) => Ok(false),
                result => result.doing("make the directory", &path).map(|()| true),
            }
        });
    if !matches!(made, Ok(true)) {
        // What matters is why.
        let _ = unlinkat(parent, &draft, AtFlags::REMOVEDIR);
    }
    if made? {
        unsynced.add(&directory, &path)?;
        unsynced.add(parent, parent.path())?;
    }
    Ok(())
}

/// What the names of drafts begin with.
const DRAFT: &str = ".overstore-new-";

/// Makes a new directory that is nobody else's, under a name that nobody else has, and opens it.
fn make_draft(parent: &Reached) -> Result<(String, OwnedFd), Errno> {
    let mut number = 0;
    let draft = loop {
        let draft = format!("{DRAFT}{}-{number}", std::process::id());
        match mkdirat(parent, &draft, Mode::from_raw_mode(0o700)) {
            // Of a run in another PID namespace.
            Err(Errno::EXIST) => number += 1,
            result => break result.map(|()| draft)?,
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, &draft, flags, Mode::empty())?;
    Ok((draft, directory))
}

/// Gives a draft its name, unless something has it.
fn rename(parent: &Reached, draft: &str, name: &OsStr) -> Result<(), Errno> {
    match renameat_with(parent, draft, parent, name, RenameFlags::NOREPLACE) {
        // Network file systems. Without it, an empty directory is replaced by another, nothing else.
        Err(Errno::INVAL | Errno::NOSYS) => renameat(parent, draft, parent, name),
        result => result,
    }
}

/// Removes the drafts that interrupted runs left: they are empty. A run that is still at work makes
/// another.
fn remove_drafts(parent: &Reached) -> Result<(), Errno> {
    for entry in Dir::read_from(parent.open()?)? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(DRAFT.as_bytes()) {
            match unlinkat(parent, entry.file_name(), AtFlags::REMOVEDIR) {
                // Somebody else's, that only looks like one, stays.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Gives an existing directory an owner and a mode.
pub(super) fn fix_permissions(
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
    unsynced: &mut Unsynced,
) -> Result<(), Error> {
    let reached = walked(path, safe_path::directory(path, Symlinks::Refuse))?;
    let directory = reached.open().doing("open", path)?;
    set_permissions(&directory, path, mode, uid, gid)?;
    unsynced.add(&directory, path)
}

/// Sets owner and mode of an open directory. The owner first: changing it can take mode bits away.
fn set_permissions(
    directory: &OwnedFd,
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<(), Error> {
    let status = || Status::of(directory).doing("look at", path);
    let before = status()?;
    if (before.uid, before.gid) != (uid, gid) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchown(directory, Some(uid), Some(gid)).doing("change the owner of", path)?;
    }
    fchmod(directory, Mode::from_raw_mode(mode as RawMode)).doing("change the mode of", path)?;
    let after = status()?;
    if (after.uid, after.gid, after.mode) == (uid, gid, mode) {
        return Ok(());
    }
    Err(Error::NotKept {
        path: path.to_owned(),
        uid: after.uid,
        gid: after.gid,
        mode: after.mode,
        wanted_uid: uid,
        wanted_gid: gid,
        wanted_mode: mode,
    })
}
