//! Removing a directory with all that is in it, and nothing of what is mounted there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

/// Removes the directory `name` of a directory, with all that is in it. Nothing is reached through
/// symbolic links or on other mounts, not even bind mounts of the same file system: where one is
/// found, the removal ends there.
///
/// # Errors
/// Those of the system calls: EXDEV for a mount.
pub(crate) fn remove_tree(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let directory = openat2(&parent, name, flags, Mode::empty(), resolve)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match unlinkat(&directory, entry.file_name(), AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(&directory, OsStr::from_bytes(name))?,
            // Somebody else has removed it.
            Err(Errno::NOENT) => {}
            removed => removed?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("gone/a/b")).unwrap();
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept/file"), "").unwrap();
        std::os::unix::fs::symlink(at("kept"), at("gone/a/link")).unwrap();
        let parent = fs::File::open(root.path()).unwrap();
        remove_tree(&parent, OsStr::new("gone")).unwrap();
        assert!(!at("gone").exists() && at("kept/file").exists());
        std::os::unix::fs::symlink(at("kept"), at("link")).unwrap();
        remove_tree(&parent, OsStr::new("link")).unwrap_err();
        assert!(at("kept/file").exists());
    }
}
