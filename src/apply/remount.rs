//! Remounting the merged store: how the kernel is made to forget what it cached of the layers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use super::separate;
use crate::escape::{show, show_path};
use crate::linux::exhaustion;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::linux::users;
use crate::overlayfs::mountinfo::MountInfo;
use crate::overlayfs::options::SuperOptions;
use crate::remedy::{HasRemedy, Remedy, of_io};
use rustix::mount::{MountFlags, mount_remount};

/// Why a merged store was not remounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemountError {
    /// The directory could not be opened.
    #[error("cannot open {}: {error}", show_path(.path))]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no overlay at that directory.
    #[error("{} is not an OverlayFS mount (it is on {found})", show_path(.path))]
    NotAnOverlay {
        /// The directory.
        path: PathBuf,
        /// The file system type that is there.
        found: String,
    },
    /// The kernel refused.
    #[error("cannot remount {}: {error}", show_path(.path))]
    Refused {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Objects that are in both layers could not be kept apart.
    #[error("{} is not remounted: its objects cannot be told from the lower store's: {error}", show_path(.path))]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No mount namespace of one's own.
    #[error("cannot make a private mount namespace: {0}")]
    Namespace(io::Error),
    /// No thread could be started, or it ended.
    #[error("cannot remount in a thread: {0}")]
    Thread(#[source] io::Error),
    /// The mount table could not be read.
    #[error("cannot read the mount table: {0}")]
    MountTable(#[from] io::Error),
}

impl HasRemedy for RemountError {
    fn remedy(&self) -> Remedy {
        match self {
            RemountError::NotAnOverlay { .. } => {
                Remedy::say("name the merged store directory of a store that is up")
            }
            RemountError::Namespace(_) => Remedy::say("run it as root"),
            RemountError::Open { path, error }
            | RemountError::Mixed { path, error }
            | RemountError::Refused { path, error } => of_io(error, path),
            RemountError::Thread(error) => match exhaustion::remedy_of_processes(error).some() {
                Some(remedy) => remedy,
                None => Remedy::say("run this again"),
            },
            RemountError::MountTable(error) => of_io(error, Path::new("/proc/self/mountinfo")),
        }
    }
}

/// Remounts the overlay at `directory`. Moves this thread into a mount namespace of its own: nothing
/// but ending it makes sense afterwards.
///
/// Through `mount(2)`, since the mount API refuses to reconfigure an overlay. A remount replaces
/// the flags of the mount it is done through, which is why that mount is a copy in a private
/// namespace; the superblock, and with it what the kernel cached, is the same one everywhere. The
/// superblock's own flags are passed as they are.
///
/// # Errors
/// See [`RemountError`].
pub(crate) fn remount(system: &System, directory: &Path) -> Result<(), RemountError> {
    users::unshare_mounts().map_err(|errno| RemountError::Namespace(errno.into()))?;
    // Walked in the new namespace: only its own mounts can be remounted.
    let opened = std::path::absolute(directory)
        .and_then(|path| Ok(safe_path::directory(&path, Symlinks::Refuse)?))
        .map_err(|error| RemountError::Open {
            path: directory.to_owned(),
            error,
        })?;
    let mount = mount_of(system, &opened)?;
    if mount.fs_type != "overlay" {
        return Err(RemountError::NotAnOverlay {
            path: directory.to_owned(),
            found: show(mount.fs_type.as_encoded_bytes()).into_owned(),
        });
    }
    // What was added below since is seen from now on.
    let options = SuperOptions::parse(&mount.super_options);
    separate::of_mounted(&options).map_err(|error| RemountError::Mixed {
        path: directory.to_owned(),
        error: error.into(),
    })?;
    // By descriptor, so that it is the mount that was looked at.
    let target = PathBuf::from(format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd()));
    mount_remount(&target, superblock_flags(&mount), c"").map_err(|error| RemountError::Refused {
        path: directory.to_owned(),
        error: error.into(),
    })
}

/// [`remount`], in a thread of its own, so that this one goes on where it is.
///
/// # Errors
/// See [`RemountError`]; or that there is no thread.
pub(crate) fn remount_aside(system: &System, directory: &Path) -> Result<(), RemountError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, || remount(system, directory))
            .map_err(RemountError::Thread)?;
        let ended = || Err(RemountError::Thread(io::Error::other("it ended")));
        thread.join().unwrap_or_else(|_| ended())
    })
}

/// The mount that an open directory is on.
fn mount_of(system: &System, directory: &Reached) -> io::Result<MountInfo> {
    let number = directory.status().mount_id;
    // Of this thread: others may be in another mount namespace, where mounts have other numbers.
    MountInfo::parse_all(&system.read_proc("thread-self/mountinfo")?)
        .map_err(io::Error::other)?
        .into_iter()
        .find(|mount| mount.id == number)
        .ok_or_else(|| io::Error::other("the directory's mount is not in it"))
}

/// The superblock's flags that a remount would otherwise reset.
fn superblock_flags(mount: &MountInfo) -> MountFlags {
    [
        ("ro", MountFlags::RDONLY),
        ("sync", MountFlags::SYNCHRONOUS),
        ("dirsync", MountFlags::DIRSYNC),
        ("lazytime", MountFlags::LAZYTIME),
    ]
    .into_iter()
    .filter(|(name, _)| mount.super_option(name))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}
