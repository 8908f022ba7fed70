//! What the kernel says of an overlay before it is mounted: with the options described, over the lower
//! store directory. What it would write to is a tmpfs of its own, and it is attached nowhere.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen,
    move_mount,
};

use crate::linux::held_paths::scratch_file_system;
use crate::linux::kernel_log::KernelLog;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{mount_log, namespaces};
use crate::overlayfs::options::MountOption;

/// The longest value that the mount API takes, without the zero byte after it.
const LONGEST_VALUE: usize = 255;

/// How it ended.
pub(super) enum Rehearsed {
    /// The kernel mounted it.
    Mounted,
    /// The kernel refused: the error number, and what the mount API's log says.
    Refused(Errno, Option<String>),
}

/// Why the kernel refuses an overlay over a directory with these options, if it does. `None` also
/// where it cannot be asked here.
pub(super) fn refusal(
    system: &System,
    lower: &Path,
    symlinks: Symlinks,
    options: &[MountOption],
) -> Option<String> {
    let mut values = options.iter().filter_map(|option| option.value.as_ref());
    if values.any(|value| value.len() > LONGEST_VALUE) {
        return None;
    }
    let log = KernelLog::from_now(system);
    match mount_over(lower, symlinks, options)? {
        Rehearsed::Mounted => None,
        Rehearsed::Refused(errno, said) => Some(
            said.or_else(|| log.about_overlays().map(|lines| lines.join("; ")))
                .unwrap_or_else(|| io::Error::from(errno).to_string()),
        ),
    }
}

/// Mounts an overlay over a directory, and lets go of it at once. A thread does it, in a mount
/// namespace and with a root directory of its own, which go with it. `None` where that is not to be
/// had: without root, in a `chroot` that is no mount point.
pub(super) fn mount_over(
    lower: &Path,
    symlinks: Symlinks,
    options: &[MountOption],
) -> Option<Rehearsed> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rehearsal".to_owned());
        let rehearsal = thread.spawn_scoped(scope, || try_over(lower, symlinks, options));
        rehearsal.ok()?.join().ok()?.ok()
    })
}

fn try_over(lower: &Path, symlinks: Symlinks, options: &[MountOption]) -> io::Result<Rehearsed> {
    namespaces::private_mounts().map_err(io::Error::other)?;
    // Reached again: the kernel takes no layer from a mount of another namespace.
    let reached = safe_path::directory(lower, symlinks)
        .map_err(|error| io::Error::other(error.to_string()))?;
    // Attached over the layer itself, whose descriptor still leads below it: kernels before 6.15
    // take no layer from a mount that is not attached.
    let scratch = scratch_file_system()?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o700))?;
    }
    let empty_path =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&scratch, "", &reached, "", empty_path)?;
    // Short names, since strings for the kernel are limited to 256 bytes here.
    rustix::process::fchdir(&scratch)?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(&reached)?;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let layers = [
        ("lowerdir", "."),
        ("upperdir", "/upper"),
        ("workdir", "/work"),
    ];
    let result = layers
        .iter()
        .map(|(name, value)| fsconfig_set_string(&overlay, *name, *value))
        .chain(options.iter().map(|option| match &option.value {
            Some(value) => fsconfig_set_string(&overlay, &option.name, value),
            None => fsconfig_set_flag(&overlay, &option.name),
        }))
        .find_map(Result::err)
        .map_or_else(|| fsconfig_create(overlay.as_fd()), Err);
    Ok(match result {
        Ok(()) => Rehearsed::Mounted,
        Err(errno) => Rehearsed::Refused(errno, mount_log::read(&overlay)),
    })
}
