//! The overlay: mounted, compared with what it should show, and recorded.
//!
//! `mount(2)` takes the layers by path and follows symbolic links, and Nix compares the very text,
//! so descriptors cannot be passed. Paths that somebody else could change are refused beforehand
//! ([`safe_path`]); what the paths led to is held open, compared afterwards, and the mount undone on
//! a mismatch. The mount point itself is taken by descriptor.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, readlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::error::{Doing, Error, walked};
use super::mount_failure::MountFailure;
use super::progress::{Progress, Tell};
use crate::escape::{shell_quote, show_path};
use crate::linux::clock;
use crate::linux::kernel_log::KernelLog;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Status, Symlinks};
use crate::plan::Overlay;
use crate::records::mount_record::{DirectoryIdentity, MountIdentity, Record};

/// Mounts an overlay, compares it and, for a store of that name, records it. The caller holds the
/// locks.
///
/// # Errors
/// When the machine would not do it; nothing is mounted then.
pub(super) fn mount(
    overlay: &Overlay,
    record_for: Option<&str>,
    system: &System,
    tell: Tell<'_>,
) -> Result<(), Error> {
    let layers = Layers::open(overlay)?;
    let lower = DirectoryIdentity::of(&layers.lower).doing("look at", &overlay.options.lowerdir)?;
    let record = |mount: Option<MountIdentity>| match record_for {
        Some(store) => Record::new(store, mount, lower, clock::now()).write(system, &overlay.real),
        None => Ok(()),
    };
    // Killed after mounting, the next run finds that this mount was going to be made.
    let intended = record(None);
    let mount = || {
        layers.attach(overlay, system)?;
        let finish = || {
            let merged = layers.compare(overlay, system)?;
            MountIdentity::of(&merged).doing("look at", &overlay.real)
        };
        finish().inspect_err(|_| layers.detach(system))
    };
    let mounted = mount().inspect_err(|_| {
        if record_for.is_some() {
            // What went wrong before is what matters; a record without a mount is no harm.
            let _ = Record::remove(system, &overlay.real);
        }
    })?;
    // A record that says less does: what is intended is ours, too.
    if let Err(error) = record(Some(mounted))
        && intended.is_err()
    {
        tell(Progress::Warning(&unrecorded(&overlay.real, &error)));
    }
    Ok(())
}

/// What is lost with the record of a mount.
fn unrecorded(real: &Path, error: &std::io::Error) -> String {
    format!(
        "the mount at {} cannot be recorded in /run/overstore, so `overstore down` will not know it \
         for overstore's own: {error}\n\
         remedy: to take it away, `umount {}`",
        show_path(real),
        shell_quote(real)
    )
}

/// Records, for a store of that name, an overlay that is mounted already.
pub(super) fn record(
    overlay: &Overlay,
    store: &str,
    system: &System,
    tell: Tell<'_>,
) -> Result<(), Error> {
    let real = &overlay.real;
    let merged = walked(real, safe_path::directory(real, Symlinks::Refuse))?;
    let mount = MountIdentity::of(&merged).doing("look at", real)?;
    let lower = &overlay.options.lowerdir;
    let lower = walked(lower, safe_path::directory(lower, Symlinks::Follow))?;
    let lower = DirectoryIdentity::of(&lower).doing("look at", lower.path())?;
    let record = Record::new(store, Some(mount), lower, clock::now());
    if let Err(error) = record.write(system, real) {
        tell(Progress::Warning(&unrecorded(real, &error)));
    }
    Ok(())
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

    /// Mounts on the merged store directory that is held open, wherever its path leads now.
    fn attach(&self, overlay: &Overlay, system: &System) -> Result<(), Error> {
        let log = KernelLog::from_now(system);
        let refused = |errno, log| {
            Err(Error::from(Box::new(MountFailure::explain(
                overlay, errno, log,
            ))))
        };
        let Some(text) = overlay
            .options
            .text()
            .ok()
            .and_then(|text| CString::new(text).ok())
        else {
            return refused(Errno::INVAL, log);
        };
        let _entered = Entered::directory(&self.real)?;
        match rustix::mount::mount("overlay", ".", "overlay", MountFlags::empty(), &*text) {
            Ok(()) => Ok(()),
            Err(errno) => refused(errno, log),
        }
    }

    /// Whether all paths still lead where they led before, the merged one to the new mount. Gives
    /// the mount's root.
    fn compare(&self, overlay: &Overlay, system: &System) -> Result<Reached, Error> {
        let held = [
            (&overlay.options.lowerdir, &self.lower, Symlinks::Follow),
            (
                &overlay.options.upperdir,
                &self.upper_layer,
                Symlinks::Refuse,
            ),
            (&overlay.options.workdir, &self.workdir, Symlinks::Refuse),
        ];
        for (path, held, symlinks) in held {
            let now = safe_path::directory(path, symlinks);
            if !now.is_ok_and(|now| same(now.status(), held.status())) {
                return Err(Error::Replaced(path.clone()));
            }
        }
        let mounted = self.mounted(system)?;
        match safe_path::directory(&overlay.real, Symlinks::Refuse) {
            Ok(merged) if same(merged.status(), mounted.status()) => Ok(merged),
            _ => Err(Error::Replaced(overlay.real.clone())),
        }
    }

    /// The root of what is mounted on the merged store directory that is held open, by the path that
    /// leads there now.
    fn mounted(&self, system: &System) -> Result<Reached, Error> {
        let described = self.real.path();
        let link = format!("self/fd/{}", self.real.as_fd().as_raw_fd());
        let path = readlinkat(system.proc(), link, Vec::new()).doing("find", described)?;
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        match safe_path::directory(&path, Symlinks::Refuse) {
            Ok(reached) if reached.status().mount_id != self.real.status().mount_id => Ok(reached),
            _ => Err(Error::Replaced(described.to_owned())),
        }
    }

    /// Takes away again what was mounted on the merged store directory that is held open.
    fn detach(&self, system: &System) {
        let detach = || {
            let path = self.mounted(system)?.path().to_owned();
            unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?.doing("unmount", path)
        };
        // The caller is told what went wrong before; a mount that stays is found by the next
        // observation.
        let _ = detach();
    }
}

/// Unmounts the topmost mount at a path, whose parent directory is reached without following links.
pub(super) fn unmount(path: &Path, flags: UnmountFlags) -> Result<Result<(), Errno>, Error> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Err(Errno::INVAL));
    };
    let parent = walked(above, safe_path::directory(above, Symlinks::Refuse))?;
    let _entered = Entered::directory(&parent)?;
    Ok(rustix::mount::unmount(name, flags))
}

/// Whether both are one directory on one mount.
fn same(one: &Status, other: &Status) -> bool {
    (one.dev, one.ino, one.mount_id) == (other.dev, other.ino, other.mount_id)
}

/// The process's working directory is another one until this is dropped. So a directory can be
/// named by descriptor where a system call takes only a path.
struct Entered(OwnedFd);

impl Entered {
    fn directory(directory: &Reached) -> Result<Entered, Error> {
        let path = directory.path();
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
