//! A file, or a directory with all that is in it, gone through by descriptor.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

/// How a directory inside is opened.
const INSIDE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Calls `visit` with the attributes of an entry of a directory and of everything in it. Follows no
/// symbolic link; what disappears meanwhile, or is not there, is passed over. Without recursion: a
/// tree may be deeper than the stack.
///
/// # Errors
/// When something cannot be read; and those of `visit`.
pub(crate) fn visit(
    directory: impl AsFd,
    name: impl Arg + Copy,
    mut visit: impl FnMut(&Stat) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut open = Vec::new();
    open.extend(enter(directory, name, &mut visit)?);
    while let Some(inner) = open.last_mut() {
        let Some(entry) = inner.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let next = enter(inner.fd()?, name, &mut visit)?;
        open.extend(next);
    }
    Ok(())
}

/// Visits one entry, and opens it if it is a directory.
fn enter(
    directory: impl AsFd,
    name: impl Arg + Copy,
    visit: &mut impl FnMut(&Stat) -> Result<(), Errno>,
) -> Result<Option<Dir>, Errno> {
    let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    visit(&stat)?;
    match is_directory(&stat) {
        true => list(openat(directory, name, INSIDE, Mode::empty())),
        false => Ok(None),
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
