//! Removing a directory with all that is in it, and nothing of what is mounted there.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::descent::Descent;

/// A directory that is being removed, and is open.
struct Level {
    name: CString,
    /// The directories in it that are still to be removed.
    inside: Vec<CString>,
}

/// Removes the directory `name` of a directory, with all that is in it. Nothing is reached through
/// symbolic links or on other mounts, not even bind mounts of the same file system: where one is
/// found, the removal ends there. However deep the tree is, it takes few descriptors, and no memory but
/// for the names of the directories that are still to be removed.
///
/// # Errors
/// Those of the system calls: EXDEV for a mount, ESTALE where a directory was moved meanwhile.
pub(crate) fn remove_tree(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut descent = Descent::from(parent.as_fd());
    let name = CString::new(name.as_bytes())?;
    descent.enter_on_same_mount(&name)?;
    let inside = remove_files(descent.here())?;
    let mut levels = vec![Level { name, inside }];
    while let Some(level) = levels.last_mut() {
        match level.inside.pop() {
            Some(name) => match descent.enter_on_same_mount(&name) {
                Ok(()) => {
                    let inside = remove_files(descent.here())?;
                    levels.push(Level { name, inside });
                }
                // Somebody else has removed it.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            },
            None => {
                descent.leave()?;
                let removed = unlinkat(descent.here(), &level.name, AtFlags::REMOVEDIR);
                levels.pop();
                match removed {
                    Err(Errno::NOENT) if !levels.is_empty() => {}
                    removed => removed?,
                }
            }
        }
    }
    Ok(())
}

/// Removes what is in a directory and is none itself. Gives the names of the directories in it.
fn remove_files(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = match entry {
            // Somebody else has removed the directory.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name.to_owned()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(directories)
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

    /// Deeper than directories are held open, and than a path has bytes.
    #[test]
    fn the_depth_does_not_matter() {
        let root = tempfile::tempdir().unwrap();
        let parent = fs::File::open(root.path()).unwrap();
        let mut descent = Descent::from(parent.as_fd());
        for _ in 0..1000 {
            for name in ["deep", "wide"] {
                let mode = rustix::fs::Mode::RWXU;
                rustix::fs::mkdirat(descent.here(), name, mode).unwrap();
            }
            descent.enter("deep").unwrap();
        }
        remove_tree(&parent, OsStr::new("deep")).unwrap();
        remove_tree(&parent, OsStr::new("wide")).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
