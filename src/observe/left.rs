//! What earlier mounts left in the layers, as far as it decides about the next one.

use std::ffi::OsString;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};

use super::names;
use super::path::Visited;
use super::{Found, LeftByMounts};
use crate::linux::file_handle::FileHandle;
use crate::linux::root::System;
use crate::linux::safe_path::Reached;
use crate::overlayfs::markers::{self, Marks, Remembers};

/// File systems whose file handles the kernel can follow. On others it uses no index.
const WITH_HANDLES: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "tmpfs", "squashfs", "erofs",
];

/// How many names a finding can use.
const MAXIMUM: usize = 10;

/// Looks at the layers of an overlay that is to be mounted, with an index or without.
pub(super) fn observe(
    system: &System,
    lower: &Visited,
    upper: &Visited,
    workdir: &Visited,
    marks: Marks,
    index: bool,
) -> LeftByMounts {
    let Some(work) = &workdir.reached else {
        return LeftByMounts::default();
    };
    let mut left = LeftByMounts {
        incompatible: incompatible(work),
        ..LeftByMounts::default()
    };
    if index {
        let upper_layer = upper.reached.as_ref().and_then(|upper| upper.open().ok());
        left.index_over_another =
            upper_layer.is_some_and(|it| is_another(system, it, marks, Remembers::Lower, lower));
        left.index_of_another = below(work, "index")
            .is_some_and(|it| is_another(system, it, marks, Remembers::Upper, upper));
    }
    left
}

/// The names in `work/incompat`: with any, the kernel mounts nothing (source:
/// `ovl_workdir_cleanup_recurse`).
fn incompatible(work: &Reached) -> Vec<OsString> {
    let incompatible = below(work, "work").and_then(|work| below(&work, "incompat"));
    let names = incompatible.and_then(|it| names::first(it, MAXIMUM, |_| true).ok());
    names
        .unwrap_or_default()
        .into_iter()
        .map(|name| name.name)
        .collect()
}

fn below(directory: impl AsFd, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty()).ok()
}

/// Whether a directory remembers another one than what it will be mounted with.
fn is_another(
    system: &System,
    directory: OwnedFd,
    marks: Marks,
    which: Remembers,
    described: &Visited,
) -> bool {
    let (Found::Directory(stat), Some(reached)) = (&described.place.found, &described.reached)
    else {
        return false;
    };
    if !WITH_HANDLES.contains(&stat.fs.name.as_str()) {
        return false;
    }
    let Some((kind, bytes)) = markers::remembered(directory, marks, which) else {
        return false;
    };
    FileHandle::of(system, reached).is_some_and(|now| (now.kind, now.bytes) != (kind, bytes))
}
