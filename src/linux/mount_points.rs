//! Directories to mount on, where there are none and none can be made: in a mount namespace of one's
//! own, on a tmpfs that shows all that was there before.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, mkdirat, openat, statat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use super::held_paths::scratch_file_system;
use super::safe_path::Status;

/// Makes an empty directory at each of the paths, which are absolute, without symbolic links, and none
/// inside another; and those above them. In this process's mount namespace, which has to be its own.
/// What is mounted at a path does not show there any more; a directory that is there already is left.
///
/// The deepest directory on the way that exists is covered by a tmpfs that shows its entries. Where that
/// is the root directory, or something is mounted at a path, there is a new root directory, and the
/// working directory is the one of the same name afterwards.
///
/// # Errors
/// Those of the system calls; EINVAL of pivot_root(2) where the root directory is no mount point, or
/// is the initial ramdisk.
pub(crate) fn make(paths: &[&Path]) -> io::Result<()> {
    let mut at_the_top = Vec::new();
    for path in paths {
        let Some(existing) = path.ancestors().find(|path| path.is_dir()) else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        match *path == existing {
            true if !is_mount_point(path)? => {}
            false if existing != Path::new("/") => drop(cover(existing, &[*path])?),
            _ => at_the_top.push(*path),
        }
    }
    if at_the_top.is_empty() {
        return Ok(());
    }
    let here = std::env::current_dir();
    let root = cover(Path::new("/"), &at_the_top)?;
    // The root directory itself is not covered by what is mounted on it.
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    // One that was gone before has no name.
    chdir(here.as_deref().unwrap_or(Path::new("/")))?;
    Ok(())
}

/// Whether something is mounted at a directory.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let mount = |path: &Path| -> io::Result<u64> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Status::of(openat(CWD, path, flags, Mode::empty())?)?.mount_id)
    };
    Ok(mount(path)? != mount(&path.join(".."))?)
}

/// Mounts a tmpfs over a directory, which shows its entries, with empty directories at paths below.
fn cover(directory: &Path, paths: &[&Path]) -> io::Result<OwnedFd> {
    let covered = openat(CWD, directory, DIRECTORY, Mode::empty())?;
    let tmpfs = scratch_file_system()?;
    chmodat(&tmpfs, ".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
    // Kernels before 6.15 mount only on what is attached.
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tmpfs, "", &covered, "", onto)?;
    let below = paths.iter().map(|path| path.strip_prefix(directory));
    let below: Vec<&Path> = below.map(|path| path.unwrap_or(Path::new(""))).collect();
    fill(&covered, &tmpfs, &below)?;
    Ok(tmpfs)
}

/// How directories are opened whose entries are shown.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Shows the entries of a directory in another one, but for the paths, where there are empty
/// directories.
fn fill(from: &OwnedFd, to: &OwnedFd, paths: &[&Path]) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let below: Vec<&Path> = paths
            .iter()
            .filter_map(|path| path.strip_prefix(name).ok())
            .collect();
        match below[..] {
            [] => show(from, name, to)?,
            [path] if path.as_os_str().is_empty() => {}
            _ => {
                mkdirat(to, name, Mode::from_raw_mode(0o755))?;
                let from = openat(from, name, DIRECTORY, Mode::empty())?;
                let to = openat(to, name, DIRECTORY, Mode::empty())?;
                fill(&from, &to, &below)?;
            }
        }
    }
    for path in paths {
        let mut made = PathBuf::new();
        for component in path.components() {
            made.push(component);
            match mkdirat(to, &made, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
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
