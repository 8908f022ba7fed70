//! Where directories are on their file systems: which is another one, or inside another one, whatever
//! paths and bind mounts lead there.
//!
//! Two things tell it. The walk to a directory passed all those that it is inside of by its path, and
//! a directory is known by device and inode. Where a bind mount shows only what is below, the mount
//! table tells what of the file system that is; its device is the same for all subvolumes.

use std::path::{Path, PathBuf};

use super::mount_table::MountTable;
use super::path::Visited;
use crate::config::parts::Relation;
use crate::linux::safe_path::{self, Obstacle, Reached, Status, Symlinks};
use crate::overlayfs::mountinfo::MountInfo;

/// Where something is, or would be.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// What exists of it, and all that it is inside of: one for each component of its path.
    way: Vec<Status>,
    /// Its path without symbolic links.
    path: PathBuf,
    /// Whether the path ends before: the rest is missing, or something is mounted over it.
    is_partial: bool,
    /// Where it is on its file system.
    region: Option<Region>,
    /// What is mounted inside of it.
    inside: Vec<Region>,
}

/// A place on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    /// The superblock.
    device: (u32, u32),
    /// The path from the file system's own root directory.
    path: PathBuf,
    /// Where the mount is that shows it.
    mount_point: PathBuf,
}

impl Whereabouts {
    /// Walks to a path. `None` if it cannot be told where that leads.
    pub(super) fn find(
        path: &Path,
        symlinks: Symlinks,
        mounts: &MountTable,
    ) -> Option<Whereabouts> {
        match safe_path::walk(path, symlinks) {
            Ok(reached) => Some(Whereabouts::of(&reached, Path::new(""), mounts)),
            Err(Obstacle::Missing { component, nearest }) => {
                // With links on the way, the missing component has another path than the one given.
                let after = path.strip_prefix(&component).unwrap_or("".as_ref());
                let missing = joined(component.file_name()?.as_ref(), after);
                Some(Whereabouts::of(&nearest, &missing, mounts))
            }
            Err(_) => None,
        }
    }

    /// Where a directory of the description is.
    pub(super) fn of_visited(visited: &Visited, mounts: &MountTable) -> Option<Whereabouts> {
        if let Some(reached) = &visited.reached {
            return Some(Whereabouts::of(reached, Path::new(""), mounts));
        }
        let nearest = visited.nearest.as_ref()?;
        let missing = visited.place.path.strip_prefix(nearest.path()).ok()?;
        Some(Whereabouts::of(nearest, missing, mounts))
    }

    /// Where the directory is that something is mounted over.
    pub(super) fn of_mount_point(path: &Path, mounts: &MountTable) -> Option<Whereabouts> {
        let above = safe_path::directory(path.parent()?, Symlinks::Refuse).ok()?;
        Some(Whereabouts::of(&above, path.file_name()?.as_ref(), mounts))
    }

    fn of(reached: &Reached, rest: &Path, mounts: &MountTable) -> Whereabouts {
        let path = joined(reached.path(), rest);
        let mount = reached.status().mount_id;
        Whereabouts {
            way: reached.way().to_vec(),
            is_partial: !rest.as_os_str().is_empty(),
            region: mounts.by_id(mount).and_then(|mount| region(&path, mount)),
            inside: inside(&path, mount, mounts),
            path,
        }
    }

    /// How this lies to something else: whether it is that, or inside that.
    pub(super) fn relation(&self, other: &Whereabouts) -> Option<Relation> {
        let relation = |is_same| match is_same {
            true => Relation::Same,
            false => Relation::Inside,
        };
        if let Some(at) = self.passes(other) {
            return Some(relation(!self.is_partial && at + 1 == self.way.len()));
        }
        let (ours, theirs) = (self.region.as_ref()?, other.region.as_ref());
        if let Some(theirs) = theirs.filter(|theirs| ours.is_in(theirs))
            && !self.contradicts(ours, theirs, other)
        {
            return Some(relation(ours.path == theirs.path));
        }
        other
            .inside
            .iter()
            .any(|theirs| ours.is_in(theirs))
            .then_some(Relation::Inside)
    }

    /// At which depth the way to this passes something else, if it does.
    fn passes(&self, other: &Whereabouts) -> Option<usize> {
        if other.is_partial {
            return None;
        }
        let (theirs, depth) = (other.way.last()?, other.way.len());
        self.way.iter().enumerate().position(|(at, status)| {
            // File systems of networks may give an inode number twice. But on one mount, a directory
            // has one path.
            let elsewhere = status.mount_id == theirs.mount_id
                && (at + 1 != depth || !self.path.starts_with(&other.path));
            status.identity == theirs.identity && (!elsewhere || theirs.mount_id == 0)
        })
    }

    /// Whether the way to this shows that it does not pass something else, although the mount table
    /// says so. Network file systems can have several root directories, all called `/`.
    fn contradicts(&self, ours: &Region, theirs: &Region, other: &Whereabouts) -> bool {
        let count = |path: &Path| path.components().count();
        let depth = (count(&self.path) + count(&theirs.path)).saturating_sub(count(&ours.path));
        // What is above the directory that is mounted does not show.
        if other.is_partial || depth < count(&ours.mount_point) {
            return false;
        }
        let passed = depth.checked_sub(1).and_then(|at| self.way.get(at));
        match (passed, other.way.last()) {
            (Some(ours), Some(theirs)) => ours.identity != theirs.identity,
            _ => false,
        }
    }
}

/// Where a path is on the file system of a mount.
fn region(path: &Path, mount: &MountInfo) -> Option<Region> {
    let rest = path.strip_prefix(&mount.mount_point).ok()?;
    Some(Region {
        path: joined(&mount.root, rest),
        ..Region::of(mount)
    })
}

/// What is mounted inside a directory, by way of the mount that the directory is on.
fn inside(path: &Path, mount_id: u64, mounts: &MountTable) -> Vec<Region> {
    let below =
        |mount: &&MountInfo| mount.mount_point.starts_with(path) && mount.mount_point != path;
    let is_mounted_in_it = |mount: &&MountInfo| {
        let mut passed = 0;
        let mut here = Some(*mount);
        while let Some(mount) = here.filter(below)
            && passed < mounts.all.len()
        {
            if mount.parent == mount_id {
                return true;
            }
            passed += 1;
            here = mounts.by_id(mount.parent);
        }
        false
    };
    let found = mounts.all.iter().filter(below).filter(is_mounted_in_it);
    found.map(Region::of).collect()
}

fn joined(directory: &Path, rest: &Path) -> PathBuf {
    match rest.as_os_str().is_empty() {
        true => directory.to_owned(),
        false => directory.join(rest),
    }
}

impl Region {
    /// What a mount shows.
    fn of(mount: &MountInfo) -> Region {
        Region {
            device: (mount.major, mount.minor),
            path: mount.root.clone(),
            mount_point: mount.mount_point.clone(),
        }
    }

    fn is_in(&self, other: &Region) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}
