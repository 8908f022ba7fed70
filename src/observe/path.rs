//! Paths of the description: what is there, and on which file system.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatVfsMountFlags};
use rustix::io::Errno;

use super::mount_table::MountTable;
use crate::escape::show;
pub(super) use crate::linux::regular_file::kind_name;
use crate::linux::safe_path::{self, Obstacle, Reached, Status, Symlinks};
use crate::observe::{FileFacts, FileSystem, Found, Place, Stat};

/// A path, what is there, and a handle on it if it is a directory.
pub(super) struct Visited {
    pub place: Place,
    pub reached: Option<Reached>,
    /// The deepest ancestor that exists, where the directory is missing.
    pub nearest: Option<Reached>,
}

impl Visited {
    /// The directory, or where it would be made: the file system is the same.
    pub(super) fn reached_or_nearest(&self) -> Option<&Reached> {
        self.reached.as_ref().or(self.nearest.as_ref())
    }
}

/// Walks to a directory of the description.
pub(super) fn visit(path: &Path, symlinks: Symlinks, mounts: &MountTable) -> Visited {
    visited(path, safe_path::directory(path, symlinks), mounts)
}

/// Takes one step down from a directory that was visited.
pub(super) fn visit_below(above: &Visited, name: &str, mounts: &MountTable) -> Visited {
    let path = above.place.path.join(name);
    match &above.reached {
        Some(directory) => visited(&path, enter_directory(directory, name), mounts),
        None => Visited {
            place: Place {
                path,
                found: above.place.found.clone(),
            },
            reached: None,
            nearest: None,
        },
    }
}

fn enter_directory(directory: &Reached, name: &str) -> Result<Reached, Obstacle> {
    let reached = directory.enter(name.as_ref())?;
    let component = reached.path().to_owned();
    match reached.status().kind {
        FileType::Directory => Ok(reached),
        FileType::Symlink => Err(Obstacle::Symlink { component }),
        kind => Err(Obstacle::NotDirectory { component, kind }),
    }
}

fn visited(path: &Path, result: Result<Reached, Obstacle>, mounts: &MountTable) -> Visited {
    let (found, reached, nearest) = match result {
        Ok(reached) => match stat(&reached, mounts) {
            Ok(stat) => (Found::Directory(stat), Some(reached), None),
            Err(errno) => (unreachable(path, errno), None, None),
        },
        Err(Obstacle::Missing { nearest, .. }) => match stat(&nearest, mounts) {
            Ok(above) => {
                let path = nearest.path().to_owned();
                let missing = Found::Missing {
                    nearest: path,
                    above,
                };
                (missing, None, Some(*nearest))
            }
            Err(errno) => (unreachable(nearest.path(), errno), None, None),
        },
        Err(obstacle) => (found(path, obstacle), None, None),
    };
    Visited {
        place: Place {
            path: path.to_owned(),
            found,
        },
        reached,
        nearest,
    }
}

fn found(path: &Path, obstacle: Obstacle) -> Found {
    match obstacle {
        Obstacle::Missing { component, .. } => unreachable(&component, Errno::NOENT),
        Obstacle::NotDirectory { component, .. } if component != path => {
            unreachable(&component, Errno::NOTDIR)
        }
        Obstacle::NotDirectory { kind, .. } => Found::Other(kind_name(kind)),
        Obstacle::Symlink { component } => Found::Symlink {
            resolved: resolve(path, &component),
            component,
        },
        Obstacle::Unsafe { component, why } => Found::Unsafe { component, why },
        Obstacle::Unreachable { component, errno } => Found::Unreachable { component, errno },
    }
}

fn unreachable(component: &Path, errno: Errno) -> Found {
    Found::Unreachable {
        component: component.to_owned(),
        errno: errno.raw_os_error(),
    }
}

/// The path with the link at `component`, and those after it, followed.
fn resolve(path: &Path, component: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(component).ok()?;
    // What is below need not exist yet.
    std::fs::canonicalize(path).ok().or_else(|| {
        let target = std::fs::canonicalize(component).ok()?;
        Some(target.join(rest))
    })
}

fn stat(reached: &Reached, mounts: &MountTable) -> Result<Stat, Errno> {
    let status = reached.status();
    Ok(Stat {
        identity: status.identity,
        mode: status.mode,
        uid: status.uid,
        gid: status.gid,
        fs: file_system(reached, status, mounts)?,
    })
}

/// The file system that something is on.
fn file_system(fd: impl AsFd, status: &Status, mounts: &MountTable) -> Result<FileSystem, Errno> {
    let statvfs = rustix::fs::fstatvfs(&fd)?;
    let mount = mounts.by_id(status.mount_id);
    let name = match mount {
        Some(mount) => show(mount.fs_type.as_encoded_bytes()).into_owned(),
        None => format!("{:#x}", rustix::fs::fstatfs(&fd)?.f_type),
    };
    Ok(FileSystem {
        name,
        fsid: statvfs.f_fsid,
        mount_id: status.mount_id,
        read_only: statvfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        longest_name: statvfs.f_namemax,
        unbindable: mount.is_some_and(|mount| mount.optional.iter().any(|it| it == b"unbindable")),
    })
}

/// The file of a name in a directory, without following a symbolic link.
pub(super) fn file(directory: impl AsFd, name: &str) -> FileFacts {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => file_facts(&stat),
        Err(Errno::NOENT) => FileFacts::Missing,
        Err(errno) => FileFacts::Unreachable(errno.raw_os_error()),
    }
}

/// The facts of something that should be a file.
pub(super) fn file_facts(stat: &rustix::fs::Stat) -> FileFacts {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileFacts::File {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        kind => FileFacts::Other(kind_name(kind).into()),
    }
}
