//! Directories to mount on, where there are none and none can be made: in a mount namespace of one's
//! own, on a tmpfs that shows all that was there before.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, mkdirat, openat, statat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use super::held_paths::scratch_file_system;

/// Makes an empty directory at `path`, and those above it, in this process's mount namespace, which
/// has to be its own. The deepest directory on the way that exists is covered by a tmpfs that shows
/// its entries; where that is the root directory, the working directory is the one of the same name
/// afterwards.
///
/// # Errors
/// Those of the system calls; EINVAL of pivot_root(2) where the root directory is no mount point, or
/// is the initial ramdisk.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let Some(existing) = path.ancestors().find(|path| path.is_dir()) else {
        return Err(io::ErrorKind::NotADirectory.into());
    };
    let missing = path.strip_prefix(existing).unwrap_or(path);
    if missing.as_os_str().is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let covered = openat(CWD, existing, flags, Mode::empty())?;
    let tmpfs = scratch_file_system()?;
    chmodat(&tmpfs, ".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
    // Kernels before 6.15 mount only on what is attached.
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tmpfs, "", &covered, "", onto)?;
    for entry in Dir::read_from(&covered)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            show(
                &covered,
                OsStr::from_bytes(entry.file_name().to_bytes()),
                &tmpfs,
            )?;
        }
    }
    let mut made = std::path::PathBuf::new();
    for component in missing.components() {
        made.push(component);
        mkdirat(&tmpfs, &made, Mode::from_raw_mode(0o755))?;
    }
    if existing == Path::new("/") {
        let here = std::env::current_dir();
        // The root directory itself is not covered by what is mounted on it.
        fchdir(&tmpfs)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        // One that was gone before has no name.
        chdir(here.as_deref().unwrap_or(Path::new("/")))?;
    }
    Ok(())
}

/// Shows an entry of a directory in another one.
fn show(from: &OwnedFd, name: &OsStr, to: &OwnedFd) -> io::Result<()> {
    let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            return Ok(rustix::fs::symlinkat(target, to, name)?);
        }
        FileType::Directory => mkdirat(to, name, Mode::from_raw_mode(0o755))?,
        _ => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(to, name, flags, Mode::from_raw_mode(0o644))?;
        }
    }
    let copy = open_tree(
        from.as_fd(),
        name,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
            | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&copy, "", to, name, flags)?)
}
