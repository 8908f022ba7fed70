//! Who else uses the upper layer. With `index=off`, its default, OverlayFS lets two overlays share
//! one upper layer, and what happens then is undefined.

use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::rehearsal::{self, Rehearsed};
use crate::linux::locks;
use crate::linux::root::System;
use crate::linux::safe_path::{Reached, Symlinks};
use crate::observe::Usage;
use crate::overlayfs::options::MountOption;
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
/// cannot be probed here.
///
/// With `index=on` the kernel refuses to mount an overlay over a layer that another overlay writes
/// to. So one is mounted for a moment, whose lower layer is the upper one.
pub(crate) fn used_by_an_overlay(upper_layer: &Path) -> Option<bool> {
    let index = MountOption {
        name: "index".to_owned(),
        value: Some("on".to_owned()),
    };
    match rehearsal::mount_over(upper_layer, Symlinks::Refuse, &[index])? {
        Rehearsed::Mounted => Some(false),
        Rehearsed::Refused(Errno::BUSY, _) => Some(true),
        Rehearsed::Refused(..) => None,
    }
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
    use crate::linux::safe_path;

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
