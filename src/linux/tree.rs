//! A file, or a directory with all that is in it, gone through by descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::descent::Descent;

/// How a directory inside is opened.
const INSIDE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Calls `visit` with the attributes of an entry of a directory and of everything in it. Follows no
/// symbolic link; what disappears meanwhile, or is not there, is passed over. However deep a tree is,
/// it takes few descriptors, and no memory but for the names of the directories that are still to be
/// gone into.
///
/// # Errors
/// When something cannot be read; and those of `visit`.
pub(crate) fn visit(
    directory: impl AsFd,
    name: impl Arg + Copy,
    mut visit: impl FnMut(&Stat) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let name = name.into_c_str()?.into_owned();
    let mut descent = Descent::from(directory.as_fd());
    let mut levels = Vec::new();
    levels.extend(enter(&mut descent, &name, &mut visit)?);
    while let Some(names) = levels.last_mut() {
        match names.pop() {
            Some(name) => levels.extend(enter(&mut descent, &name, &mut visit)?),
            None => {
                levels.pop();
                descent.leave()?;
            }
        }
    }
    Ok(())
}

/// Visits one entry; goes into it if it is a directory, and visits what is in that and is none. Gives
/// the names of those that are.
fn enter(
    descent: &mut Descent<'_>,
    name: &CStr,
    visit: &mut impl FnMut(&Stat) -> Result<(), Errno>,
) -> Result<Option<Vec<CString>>, Errno> {
    let is_outermost = descent.depth() == 0;
    if is_outermost && !look(descent.here(), name, visit)? {
        return Ok(None);
    }
    match descent.enter(name) {
        Ok(()) => {}
        // Deleted meanwhile, or replaced.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut directories = Vec::new();
    for entry in Dir::read_from(descent.here())? {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && look(descent.here(), name, visit)? {
            directories.push(name.to_owned());
        }
    }
    Ok(Some(directories))
}

/// Visits one entry: whether it is a directory.
fn look(
    directory: BorrowedFd<'_>,
    name: &CStr,
    visit: &mut impl FnMut(&Stat) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            visit(&stat)?;
            Ok(is_directory(&stat))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The inodes of the files that a directory lists; none if there is no such directory.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn inodes(directory: impl AsFd, name: impl Arg) -> Result<Vec<u64>, Errno> {
    match list(openat(directory, name, INSIDE, Mode::empty()))? {
        Some(listed) => listed.map(|entry| Ok(entry?.ino())).collect(),
        None => Ok(Vec::new()),
    }
}

fn list(directory: Result<OwnedFd, Errno>) -> Result<Option<Dir>, Errno> {
    match directory {
        Ok(directory) => Dir::new(directory).map(Some),
        // Deleted meanwhile, or replaced.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether these are the attributes of a directory.
pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The bytes that a file takes up on the disk.
pub(crate) fn bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
