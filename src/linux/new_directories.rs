//! Directories that are made where they are missing, with those above them: each is a new name in one
//! that is held, so that nobody decides meanwhile where it is made.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::safe_path::{self, Obstacle, Reached, Symlinks};

/// Walks to a directory, which is made for this user alone where it is missing, as are those above it.
/// Links are followed; root makes nothing in a directory of somebody else.
///
/// # Errors
/// Those of the walk ([`safe_path::directory`]) and of mkdirat(2).
pub(crate) fn private(path: &Path) -> io::Result<Reached> {
    loop {
        let (missing, nearest) = match safe_path::directory(path, Symlinks::Follow) {
            Err(Obstacle::Missing { component, nearest }) => (component, nearest),
            walked => return Ok(walked?),
        };
        if safe_path::is_root() && !nearest.status().trusted() {
            return Err(Errno::PERM.into());
        }
        let name = missing.file_name().ok_or(Errno::NOENT)?;
        make(&nearest, name, 0o700)?;
    }
}

/// Opens the directory that whoever runs this has named, wherever it leads; it is made where it is
/// missing, as are those above it.
///
/// # Errors
/// Those of openat(2) and mkdirat(2).
pub(crate) fn named(path: &Path) -> io::Result<OwnedFd> {
    let held = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let start = if path.is_absolute() { "/" } else { "." };
    let mut here = openat(CWD, start, held, Mode::empty())?;
    for component in path.components() {
        if !matches!(component, Component::Normal(_) | Component::ParentDir) {
            continue;
        }
        let name = component.as_os_str();
        here = match openat(&here, name, held, Mode::empty()) {
            Err(Errno::NOENT) => {
                make(&here, name, 0o777)?;
                openat(&here, name, held | OFlags::NOFOLLOW, Mode::empty())?
            }
            opened => opened?,
        };
    }
    Ok(openat(&here, ".", READ, Mode::empty())?)
}

/// How a directory is opened whose entries are changed.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens a directory in a directory, which is made where it is missing. No link is followed.
///
/// # Errors
/// Those of mkdirat(2) and openat(2).
pub(crate) fn entry(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    make(&parent, name, 0o755)?;
    openat(parent, name, READ | OFlags::NOFOLLOW, Mode::empty())
}

fn make(parent: impl AsFd, name: &OsStr, mode: u32) -> Result<(), Errno> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_links_on_the_way_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("link")).unwrap();
        let made = private(&at("link/a/b")).unwrap();
        assert_eq!(made.path(), at("real/a/b"));
        assert_eq!(fs::metadata(at("real/a")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(private(&at("link/a/b")).unwrap().path(), made.path());
        named(&at("link/c/d")).unwrap();
        named(&at("link/c/d/../e")).unwrap();
        assert!(at("real/c/e").is_dir());
        // What leads nowhere is not made up.
        symlink("nowhere", at("dangling")).unwrap();
        named(&at("dangling/a")).unwrap_err();
        assert!(!at("nowhere").exists());
        let parent = fs::File::open(&root).unwrap();
        entry(&parent, OsStr::new("new")).unwrap();
        assert_eq!(
            entry(&parent, OsStr::new("link")).unwrap_err(),
            Errno::NOTDIR
        );
        fs::write(at("file"), "").unwrap();
        for path in ["file", "file/a"] {
            let error = private(&at(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{path}");
        }
    }
}
