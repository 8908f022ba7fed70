//! Paths that lead to directories which were walked and are held, for system calls that take a path
//! and keep its text.
//!
//! OverlayFS takes its layers by path, Nix compares the very text, and whoever may rename a directory
//! on the way decides what the kernel finds there. So the call is made by a thread with mounts and a
//! root directory of its own: a tmpfs in which the directories on the way are new ones, of nobody
//! else, and the last component of each path is a link to a descriptor. The kernel takes no layer
//! from another mount namespace, so the thread walks the paths again in its own and uses what it
//! finds only if it is the directory that is held. It works on Linux 5.2 and later, in user
//! namespaces, and below a changed root directory that is no mount point. With the thread, all of it
//! goes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
    open_tree,
};

use super::safe_path::{self, Obstacle, Reached, Status, Symlinks};
use super::users;
use crate::escape::show_path;

/// A path, and the directory that it has to lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldPath<'a> {
    /// The path, absolute.
    pub path: &'a Path,
    /// Whether it may lead through symbolic links.
    pub symlinks: Symlinks,
    /// The directory that it led to.
    pub directory: &'a Reached,
}

/// Why paths could not be held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A path leads to another directory than before.
    #[error("{} leads to another directory than before", show_path(.0))]
    Replaced(PathBuf),
    /// A path cannot be walked any more.
    #[error("cannot use {}: {obstacle}", show_path(path))]
    Path {
        /// The path.
        path: PathBuf,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// A path is another one, or inside it.
    #[error("{} is inside {}, or is the same", show_path(inner), show_path(outer))]
    Nested {
        /// The inner one.
        inner: PathBuf,
        /// The outer one.
        outer: PathBuf,
    },
    /// The kernel would not do it.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as in "cannot ...".
        action: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

/// Runs `work` in a thread for which each of the paths leads to the directory that is held, whatever
/// anybody does to the directories on the way. It is given the path of an empty directory for it to
/// mount something on. Nothing else of the machine is there.
///
/// # Errors
/// See [`Error`]; nothing was run then.
pub(crate) fn with_held_paths<T: Send>(
    proc: BorrowedFd<'_>,
    paths: &[HeldPath<'_>],
    work: impl FnOnce(&Path) -> T + Send,
) -> Result<T, Error> {
    for (at, inner) in paths.iter().enumerate() {
        for (other, outer) in paths.iter().enumerate() {
            if at != other && inner.path.starts_with(outer.path) {
                return Err(Error::Nested {
                    inner: inner.path.to_owned(),
                    outer: outer.path.to_owned(),
                });
            }
        }
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("held-paths".to_owned())
            .spawn_scoped(scope, || {
                let _held = enter(proc, paths)?;
                Ok(work(&unused("mount", paths)))
            })
            .doing("start a thread")?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Gives this thread the mounts and the root directory. What is returned has to live as long as they
/// are used.
fn enter(proc: BorrowedFd<'_>, paths: &[HeldPath<'_>]) -> Result<Vec<Reached>, Error> {
    // Of this thread alone, before its working directory is changed.
    users::unshare_directories().doing("leave the working directory")?;
    // The working directory follows into the new namespace. `/proc` is a mount of its own, whatever
    // the root directory is, so that it can be made private without the others.
    rustix::process::fchdir(proc).doing("enter /proc")?;
    let before = mount_id().doing("look at /proc")?;
    users::unshare_mounts().doing("make a private mount namespace")?;
    if mount_id().doing("look at /proc")? == before {
        // Of another namespace than this thread's was, it did not follow, and is not ours to change.
        return Err(io::Error::other("it is of another mount namespace")).doing("use /proc");
    }
    mount_change(".", MountPropagationFlags::PRIVATE).doing("make /proc private")?;
    let held = paths
        .iter()
        .map(walk_again)
        .collect::<Result<Vec<_>, _>>()?;

    let proc = open_tree(
        CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .doing("copy the mount of /proc")?;
    let tmpfs = scratch_file_system().doing("make a tmpfs")?;
    let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tmpfs, "", CWD, ".", from_descriptor).doing("mount a tmpfs")?;
    let root = Path::new("root");
    let proc_path = unused("proc", paths);
    make_directories(&tmpfs, &below(root, &proc_path))?;
    move_mount(&proc, "", &tmpfs, below(root, &proc_path), from_descriptor).doing("mount /proc")?;
    make_directories(&tmpfs, &below(root, &unused("mount", paths)))?;
    for (path, held) in paths.iter().zip(&held) {
        let link = below(root, path.path);
        make_directories(&tmpfs, link.parent().unwrap_or(root))?;
        let descriptor = proc_path.join(format!("self/fd/{}", held.as_fd().as_raw_fd()));
        rustix::fs::symlinkat(descriptor, &tmpfs, link).doing("make a link")?;
    }
    rustix::process::fchdir(&tmpfs)
        .and_then(|()| rustix::process::chroot(root))
        .and_then(|()| rustix::process::chdir("/"))
        .doing("change the root directory")?;
    Ok(held)
}

/// The number of the mount that the working directory is on.
fn mount_id() -> io::Result<u64> {
    let here = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Status::of(here)?.mount_id)
}

/// Walks a path in this thread's own namespace.
fn walk_again(held: &HeldPath<'_>) -> Result<Reached, Error> {
    let found = safe_path::directory(held.path, held.symlinks).map_err(|obstacle| Error::Path {
        path: held.path.to_owned(),
        obstacle,
    })?;
    if found.status().identity != held.directory.status().identity {
        return Err(Error::Replaced(held.path.to_owned()));
    }
    Ok(found)
}

/// An absolute path, below another directory.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a directory and those above it, where they are missing.
fn make_directories(at: &OwnedFd, path: &Path) -> Result<(), Error> {
    let mut made = PathBuf::new();
    for name in path.components() {
        made.push(name);
        match mkdirat(at, &made, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            result => result.doing("make a directory on a tmpfs")?,
        }
    }
    Ok(())
}

/// A path at the top that none of the paths leads through.
fn unused(name: &str, paths: &[HeldPath<'_>]) -> PathBuf {
    let mut path = Path::new("/").join(name);
    while paths.iter().any(|held| held.path.starts_with(&path)) {
        path.as_mut_os_string().push("-");
    }
    path
}

/// A new tmpfs, attached nowhere.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2).
pub(crate) fn scratch_file_system() -> io::Result<OwnedFd> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(tmpfs.as_fd(), "mode", "0700")?;
    fsconfig_create(tmpfs.as_fd())?;
    Ok(fsmount(
        &tmpfs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// Gives failing system calls the words that [`Error::System`] wants.
trait Doing<T> {
    fn doing(self, action: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::System {
            action,
            source: error.into(),
        })
    }
}
