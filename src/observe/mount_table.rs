//! The mount table.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::linux::file_identity::FileIdentity;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::overlayfs::mountinfo::MountInfo;
use crate::overlayfs::options::SuperOptions;

/// The mounts of this mount namespace.
pub(super) struct MountTable {
    pub(super) all: Vec<MountInfo>,
    /// `/proc/self/mounts`, which Nix reads.
    pub(super) text: Vec<u8>,
}

impl MountTable {
    /// Reads the mount table.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn read(system: &System) -> io::Result<MountTable> {
        let all = MountInfo::parse_all(&system.read_proc("self/mountinfo")?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(MountTable {
            all,
            text: system.read_proc("self/mounts")?,
        })
    }

    /// The mount of that number.
    pub(super) fn by_id(&self, id: u64) -> Option<&MountInfo> {
        self.all.iter().find(|mount| mount.id == id)
    }

    /// How many overlays are stacked at a directory, as far as their options tell.
    pub(super) fn overlays_at(&self, directory: &Reached) -> u32 {
        self.overlays_on(directory.status().mount_id, 0)
    }

    fn overlays_on(&self, mount_id: u64, depth: u32) -> u32 {
        let Some(mount) = self.by_id(mount_id).filter(|mount| is_overlay(mount)) else {
            return 0;
        };
        // The kernel stacks two; more can only be a mistake of this search.
        if depth > 2 {
            return 0;
        }
        let options = SuperOptions::parse(&mount.super_options);
        let layers = options.lower.iter().chain(&options.upper);
        let below = layers
            .filter_map(|layer| safe_path::directory(layer, Symlinks::Follow).ok())
            .map(|layer| layer.status().mount_id)
            .filter(|id| *id != mount_id)
            .map(|id| self.overlays_on(id, depth + 1));
        1 + below.max().unwrap_or(0)
    }

    /// Mount points inside a directory.
    pub(super) fn inside<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Path> {
        let points = self.all.iter().map(|mount| mount.mount_point.as_path());
        points.filter(move |point| *point != directory && point.starts_with(directory))
    }

    /// Another overlay than `in_effect` that writes to a directory, in words.
    pub(super) fn other_writer(
        &self,
        directory: &Reached,
        in_effect: Option<&MountInfo>,
    ) -> Option<String> {
        find_writer(&self.all, directory, in_effect, Path::new("/"))
            .map(|mount| format!("the overlay at {}", show(&mount.mount_point)))
    }

    /// Another overlay than `in_effect` that writes to a directory, in another mount namespace that
    /// some process of this machine is in.
    pub(super) fn other_writer_elsewhere(
        &self,
        system: &System,
        upper: &Reached,
        in_effect: Option<&MountInfo>,
    ) -> Option<String> {
        crate::linux::processes::one_of_each_other_mount_namespace(system).find_map(|process| {
            let content = system.read_proc(&format!("{process}/mountinfo")).ok()?;
            let all = MountInfo::parse_all(&content).ok()?;
            let root = PathBuf::from(format!("/proc/{process}/root"));
            let mount = find_writer(&all, upper, in_effect, &root)?;
            Some(format!(
                "the overlay at {} in the mount namespace of process {process}",
                show(&mount.mount_point)
            ))
        })
    }
}

fn show(path: &Path) -> std::borrow::Cow<'_, str> {
    crate::escape::show_path(path)
}

/// Whether a mount is an overlay.
pub(super) fn is_overlay(mount: &MountInfo) -> bool {
    mount.fs_type == "overlay"
}

/// The overlay among `mounts`, another than `in_effect`, that writes to a directory: whose upper layer
/// or work directory it is, or is inside of. Paths of the options are taken below `root`.
fn find_writer<'a>(
    mounts: &'a [MountInfo],
    directory: &Reached,
    in_effect: Option<&MountInfo>,
    root: &Path,
) -> Option<&'a MountInfo> {
    let mut overlays = mounts
        .iter()
        .filter(|mount| is_overlay(mount))
        .filter(|mount| in_effect.is_none_or(|ours| !mount.is_of_same_file_system(ours)))
        .peekable();
    overlays.peek()?;
    // Everybody is inside of the root directory.
    let above: Vec<FileIdentity> = directory
        .path()
        .ancestors()
        .filter(|path| path.parent().is_some())
        .filter_map(|path| Some(FileIdentity::from(&rustix::fs::stat(path).ok()?)))
        .collect();
    let is_used = |path: &Path| {
        let here = path.strip_prefix("/").unwrap_or(path);
        match rustix::fs::stat(root.join(here)) {
            Ok(found) => above.contains(&FileIdentity::from(&found)),
            // Not to be found by that name any more: the text is all there is.
            Err(_) => directory.path().as_os_str().as_bytes() == path.as_os_str().as_bytes(),
        }
    };
    overlays.find(|mount| {
        let options = SuperOptions::parse(&mount.super_options);
        let written = [&options.upper, &options.work];
        written.into_iter().flatten().any(|path| is_used(path))
    })
}
