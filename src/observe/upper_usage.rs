//! Who else uses the upper layer. With `index=off`, its default, OverlayFS lets two overlays share
//! one upper layer, and what happens then is undefined.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::rehearsal::{self, Rehearsed};
use crate::linux::locks;
use crate::linux::root::System;
use crate::linux::safe_path::{Reached, Symlinks};
use crate::observe::Usage;
use crate::overlayfs::options::MountOption;
use crate::records::LockFile;

/// How long an overlay may take to go that nobody has mounted any more. A rehearsal of another process
/// has a copy of all mounts that there were when it began, and keeps them until it ends.
pub(super) const GOING: Duration = Duration::from_secs(2);

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
fn used_by_an_overlay(upper_layer: &Path) -> Option<bool> {
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

/// Whether an overlay uses a directory as its upper layer, and goes on to for so long. `None` if that
/// cannot be probed here. `waiting` is called once, if it takes longer than a second.
pub(crate) fn stays_used_by_an_overlay(
    upper_layer: &Path,
    limit: Duration,
    waiting: &mut dyn FnMut(),
) -> Option<bool> {
    let unused = || match used_by_an_overlay(upper_layer) {
        Some(true) => Ok::<_, Infallible>(None),
        found => Ok(Some(found)),
    };
    let Ok(found) = locks::wait(limit, waiting, unused);
    found.unwrap_or(Some(true))
}

/// Which overlay uses the upper layer besides the one in effect, as far as that is known. One that is
/// seen nowhere may take `patience` to go.
pub(super) fn observe(
    directory: &Reached,
    in_effect: bool,
    patience: Duration,
    others: impl FnOnce() -> Option<String>,
) -> Usage {
    if let Some(other) = others() {
        return Usage::Mounted(other);
    }
    // The overlay in effect uses it, and the probe cannot tell that one from another.
    if in_effect {
        return Usage::Unknown;
    }
    match stays_used_by_an_overlay(directory.path(), patience, &mut || ()) {
        Some(true) => Usage::Mounted("an overlay in another mount namespace".to_owned()),
        Some(false) => Usage::Free,
        None => Usage::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::sync::mpsc;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;
    use crate::linux::{namespaces, safe_path};

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

    /// A copy of the mounts keeps an overlay that is unmounted everywhere else, for as long as it is
    /// there.
    #[test]
    fn an_overlay_that_goes_is_waited_for() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("root", "mounting needs it");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        std::thread::scope(|scope| scope.spawn(|| goes(&root)).join()).unwrap();
    }

    /// Moves its thread into a mount namespace of its own.
    fn goes(root: &Path) {
        namespaces::private_mounts().unwrap();
        mount("tmpfs", root, "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
        let [real, lower, upper, work] =
            ["real", "lower", "upper", "work"].map(|name| root.join(name));
        for directory in [&real, &lower, &upper, &work] {
            std::fs::create_dir(directory).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).unwrap();
        mount("overlay", &real, "overlay", MountFlags::empty(), &*options).unwrap();
        let (copied, is_copied) = mpsc::channel();
        let (end, is_over) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                namespaces::private_mounts().unwrap();
                copied.send(()).unwrap();
                let _ = is_over.recv();
            });
            is_copied.recv().unwrap();
            unmount(&real, UnmountFlags::empty()).unwrap();
            let now = stays_used_by_an_overlay(&upper, Duration::ZERO, &mut || ());
            assert_eq!(now, Some(true));
            // It goes while it is waited for.
            let mut end = Some(end);
            let later = stays_used_by_an_overlay(&upper, locks::LIMIT, &mut || end = None);
            assert_eq!(later, Some(false));
            assert!(end.is_none());
        });
    }
}
