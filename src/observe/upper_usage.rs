//! Who else uses the upper layer. With `index=off`, its default, OverlayFS lets two overlays share
//! one upper layer, and what happens then is undefined.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsopen, move_mount,
};

use crate::linux::held_paths::scratch_file_system;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::linux::{locks, namespaces};
use crate::observe::Usage;
use crate::records::LockFile;

/// Whether another process holds overstore's lock on a directory. Tries the lock for an instant.
pub(super) fn locked(system: &System, directory: &Reached) -> Option<Vec<u32>> {
    let file = LockFile::find(directory, system).ok()??;
    match locks::attempt(&file, FlockOperation::NonBlockingLockShared) {
        Ok(None) => {
            let status = file.status().ok()?;
            let mut holders = locks::holders(system, &status).unwrap_or_default();
            let ours = std::process::id();
            let ours_only = holders.contains(&ours);
            holders.retain(|pid| *pid != ours);
            (!ours_only).then_some(holders)
        }
        _ => None,
    }
}

/// Whether any overlay, in any mount namespace, uses a directory as its upper layer. `None` if that
/// cannot be probed here: without root, in a user namespace, in a `chroot` that is no mount point.
///
/// With `index=on` the kernel refuses to mount an overlay over a layer that another overlay writes
/// to. So one is mounted for a moment, attached nowhere: the upper layer is its lower one, and what
/// it writes to is a tmpfs of its own. A thread does it, in a mount namespace and with a root
/// directory of its own, which go with it.
pub(super) fn used_by_an_overlay(upper_layer: &Path) -> Option<bool> {
    std::thread::scope(|scope| {
        let probe = std::thread::Builder::new()
            .name("usage".to_owned())
            .spawn_scoped(scope, || mount_over(upper_layer))
            .ok()?;
        match probe.join().ok()? {
            Ok(()) => Some(false),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Some(true),
            Err(_) => None,
        }
    })
}

/// Mounts an overlay over a directory, and lets go of it at once.
fn mount_over(upper_layer: &Path) -> io::Result<()> {
    namespaces::private_mounts().map_err(io::Error::other)?;
    // Reached again: the kernel takes no layer from a mount of another namespace.
    let reached = safe_path::directory(upper_layer, Symlinks::Refuse)
        .map_err(|error| io::Error::other(error.to_string()))?;
    // Attached over the layer itself, whose descriptor still leads below it: kernels before 6.15
    // take no layer from a mount that is not attached.
    let scratch = scratch_file_system()?;
    let empty_path =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&scratch, "", &reached, "", empty_path)?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o700))?;
    }
    // Short names, since strings for the kernel are limited to 256 bytes here.
    rustix::process::fchdir(&scratch)?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(&reached)?;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (option, value) in [
        ("lowerdir", "."),
        ("upperdir", "/upper"),
        ("workdir", "/work"),
        ("index", "on"),
    ] {
        fsconfig_set_string(&overlay, option, value)?;
    }
    Ok(fsconfig_create(overlay.as_fd())?)
}

/// Which overlay uses the upper layer besides the one in effect, as far as that is known.
pub(super) fn observe(
    directory: &Reached,
    in_effect: bool,
    others: impl FnOnce() -> Option<String>,
) -> Usage {
    if let Some(other) = others() {
        return Usage::Mounted(other);
    }
    // The overlay in effect uses it, and the probe cannot tell that one from another.
    if in_effect {
        return Usage::Unknown;
    }
    match used_by_an_overlay(directory.path()) {
        Some(true) => Usage::Mounted("an overlay in another mount namespace".to_owned()),
        Some(false) => Usage::Free,
        None => Usage::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_lock_is_not_somebody_elses() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        let reached = safe_path::directory(&path, Symlinks::Refuse).unwrap();
        let run = tempfile::tempdir().unwrap();
        let system = System::with_run(run.path()).unwrap();
        assert_eq!(locked(&system, &reached), None);
        let ours = LockFile::open(&reached, &system).unwrap();
        rustix::fs::flock(&ours, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(locked(&system, &reached), None);
    }
}
