//! The overlay: mounted, compared with what it should show, and recorded.
//!
//! Everything is by descriptor: the layers are those that were walked ([`held_paths`]), the new mount
//! is attached to nothing at first, and its mount point is the directory that was walked. Attached
//! last, it is never seen before it was compared, and whoever is killed before leaves no mount.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::error::{Doing, Error, walked};
use super::mount_failure::{Cause, MountFailure};
use super::progress::{Progress, Tell};
use crate::escape::show_path;
use crate::linux::clock;
use crate::linux::held_paths::{self, HeldPath, with_held_paths};
use crate::linux::kernel_log::KernelLog;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Status, Symlinks};
use crate::plan::Overlay;
use crate::records::mount_record::{DirectoryIdentity, MountIdentity, Record};
use crate::remedy::{Fault, Remedy, command};

/// Mounts an overlay, compares it and, for a store of that name, records it. The caller holds the
/// locks.
///
/// # Errors
/// When the machine could not do it; nothing is mounted then.
pub(super) fn mount(
    overlay: &Overlay,
    record_for: Option<&str>,
    system: &System,
    tell: Tell<'_>,
) -> Result<(), Error> {
    let layers = Layers::open(overlay)?;
    let lower = DirectoryIdentity::of(&layers.lower).doing("look at", &overlay.options.lowerdir)?;
    let mount = layers.mount(overlay, system)?;
    let identity = MountIdentity::of(&mount).doing("look at", &overlay.real)?;
    let record = || match record_for {
        Some(store) => {
            let writes_to = [&layers.upper_layer, &layers.workdir].map(|it| it.status().identity);
            Record::new(store, identity, lower, writes_to, clock::now())
                .write(system, &overlay.real)
        }
        None => Ok(()),
    };
    // A record of a mount that is never made proves nothing, as long as no other mount can get the
    // same number. So it is written first: killed right after mounting, the next run knows the mount.
    let recorded = identity.is_never_given_again().then(record);
    layers.attach(&mount, overlay).inspect_err(|_| {
        detach(&mount, system);
        if record_for.is_some() {
            // What went wrong before is what matters; a record without a mount is no harm.
            let _ = Record::remove(system, &overlay.real);
        }
    })?;
    if let Err(error) = recorded.unwrap_or_else(record) {
        let store = record_for.unwrap_or_default();
        tell(Progress::Warning(&unrecorded(&overlay.real, store, &error)));
    }
    Ok(())
}

/// What is lost with the record of a mount.
fn unrecorded(real: &Path, store: &str, error: &std::io::Error) -> Fault {
    Fault::new(format!(
        "the mount at {} cannot be recorded in /run/overstore, so `overstore down` will not know it \
         for overstore's own: {error}",
        show_path(real),
    ))
    .remedy(Remedy::say("to take it away").run(command!["overstore", "down", "--unrecorded", store]))
}

/// The directories of an overlay, held open.
struct Layers {
    real: Reached,
    lower: Reached,
    upper_layer: Reached,
    workdir: Reached,
}

impl Layers {
    fn open(overlay: &Overlay) -> Result<Layers, Error> {
        let open = |path: &Path, symlinks| walked(path, safe_path::directory(path, symlinks));
        let (Some(above), Some(name)) = (overlay.real.parent(), overlay.real.file_name()) else {
            return Err(Error::Occupied(overlay.real.clone()));
        };
        let parent = open(above, Symlinks::Refuse)?;
        let real = walked(&overlay.real, parent.enter(name))?;
        if real.status().mount_id != parent.status().mount_id {
            return Err(Error::Occupied(overlay.real.clone()));
        }
        Ok(Layers {
            real,
            lower: open(&overlay.options.lowerdir, Symlinks::Follow)?,
            upper_layer: open(&overlay.options.upperdir, Symlinks::Refuse)?,
            workdir: open(&overlay.options.workdir, Symlinks::Refuse)?,
        })
    }

    /// Mounts an overlay of the layers that are held, whatever their paths lead to now, and attaches
    /// it nowhere.
    fn mount(&self, overlay: &Overlay, system: &System) -> Result<OwnedFd, Error> {
        let options = &overlay.options;
        let log = KernelLog::from_now(system);
        let refused = |errno, log, cause| {
            Error::from(Box::new(MountFailure::explain(overlay, errno, log, cause)))
        };
        let Some(text) = options.text().ok().and_then(|text| CString::new(text).ok()) else {
            return Err(refused(Errno::INVAL, log, None));
        };
        let held = |path, symlinks, directory| HeldPath {
            path,
            symlinks,
            directory,
        };
        let paths = [
            held(&options.lowerdir, Symlinks::Follow, &self.lower),
            held(&options.upperdir, Symlinks::Refuse, &self.upper_layer),
            held(&options.workdir, Symlinks::Refuse, &self.workdir),
        ];
        let mounted = with_held_paths(system.proc(), &paths, |at| {
            new_overlay(at, &text).map_err(|errno| (errno, Cause::from_mount_api(overlay)))
        });
        match mounted {
            Ok(Ok(mount)) => Ok(mount),
            Ok(Err((errno, cause))) => Err(refused(errno, log, cause)),
            Err(held_paths::Error::Replaced(path)) => Err(Error::Replaced(path)),
            Err(held_paths::Error::Path { path, obstacle }) => Err(Error::Path { path, obstacle }),
            Err(held_paths::Error::Nested { .. }) => Err(refused(Errno::INVAL, log, None)),
            Err(held_paths::Error::System { action, source }) => {
                let what = format!("cannot {action}: {source}");
                Err(io::Error::new(source.kind(), what)).doing("mount an overlay at", &overlay.real)
            }
        }
    }

    /// Attaches the mount to the merged store directory that is held open, if all paths still lead
    /// where they led before; then the merged one leads to the mount.
    fn attach(&self, mount: &OwnedFd, overlay: &Overlay) -> Result<(), Error> {
        let held = [
            (&overlay.options.lowerdir, &self.lower, Symlinks::Follow),
            (
                &overlay.options.upperdir,
                &self.upper_layer,
                Symlinks::Refuse,
            ),
            (&overlay.options.workdir, &self.workdir, Symlinks::Refuse),
            (&overlay.real, &self.real, Symlinks::Refuse),
        ];
        for (path, held, symlinks) in held {
            let now = safe_path::directory(path, symlinks);
            if !now.is_ok_and(|now| now.status().is_same_on_mount(held.status())) {
                return Err(Error::Replaced(path.clone()));
            }
        }
        let by_descriptor =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &self.real, "", by_descriptor)
            .doing("attach the overlay at", &overlay.real)?;
        let attached = Status::of(mount).doing("look at", &overlay.real)?;
        match safe_path::directory(&overlay.real, Symlinks::Refuse) {
            Ok(merged) if merged.status().is_same_on_mount(&attached) => Ok(()),
            _ => Err(Error::Replaced(overlay.real.clone())),
        }
    }
}

/// Mounts an overlay at a path of this thread's own namespace, and gives a copy of the mount that is
/// attached nowhere.
fn new_overlay(at: &Path, text: &CString) -> Result<OwnedFd, Errno> {
    rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), &**text)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, at, flags)
}

/// Takes a mount away again, if it was attached.
fn detach(mount: &OwnedFd, system: &System) {
    let path = format!("self/fd/{}", mount.as_raw_fd());
    let detach = || {
        let _entered = Entered::directory(system.proc(), Path::new("/proc"))?;
        rustix::mount::unmount(&path, UnmountFlags::DETACH).doing("unmount", &path)
    };
    // The caller is told what went wrong before; a mount that stays is found by the next
    // observation.
    let _ = detach();
}

/// Unmounts the topmost mount at a path, whose parent directory is reached without following links.
pub(super) fn unmount(path: &Path, flags: UnmountFlags) -> Result<Result<(), Errno>, Error> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Err(Errno::INVAL));
    };
    let parent = walked(above, safe_path::directory(above, Symlinks::Refuse))?;
    let _entered = Entered::directory(&parent, above)?;
    Ok(rustix::mount::unmount(name, flags))
}

/// The process's working directory is another one until this is dropped. So a directory can be
/// named by descriptor where a system call takes only a path.
struct Entered(OwnedFd);

impl Entered {
    fn directory(directory: impl AsFd, path: &Path) -> Result<Entered, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::open(".", flags, Mode::empty()).doing("leave for", path)?;
        rustix::process::fchdir(directory).doing("enter", path)?;
        Ok(Entered(before))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // It was the working directory before, so it can be that again.
        let _ = rustix::process::fchdir(&self.0);
    }
}
