//! The upper layer and the work directory.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use super::mount_table::MountTable;
use super::path::{self, Visited};
use super::{Depth, Found, LayerFacts, Links, Machine, Usage, names};
use crate::linux::safe_path::{Reached, Symlinks};
use crate::nix::layout;
use crate::overlayfs::markers::{self, Marks};

/// File systems known to store the extended attributes that OverlayFS needs, `trusted.*` and
/// `user.*` alike.
const WITH_XATTRS: &[&str] = &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs"];

/// File systems known not to, or refused by OverlayFS as an upper layer for another reason
/// (`Documentation/filesystems/overlayfs.rst`, "Upper and Lower"): those of networks revalidate
/// their entries.
const WITHOUT_XATTRS: &[&str] = &[
    "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "vfat", "msdos", "exfat", "hfs", "hfsplus",
    "iso9660", "squashfs", "erofs", "cramfs", "romfs", "proc", "sysfs", "ramfs",
];

/// File systems that are not asked: an overlay cannot be an upper layer at all, and a tmpfs takes
/// more than it says (it has no `user.*` before Linux 6.6, and can do without for most things).
const NOT_ASKED: &[&str] = &["overlay", "tmpfs"];

/// Looks at a layer directory of an overlay whose marks are these.
pub(super) fn observe(
    visited: &Visited,
    machine: &Machine,
    marks: Marks,
    depth: Depth,
) -> LayerFacts {
    let directory = visited.reached.as_ref();
    // What is made there is on the same file system.
    let nearest = visited.reached_or_nearest();
    let file_system = match &visited.place.found {
        Found::Directory(stat) | Found::Missing { above: stat, .. } => Some(&stat.fs),
        _ => None,
    };
    let strangers = match (depth, directory) {
        (Depth::Check { .. }, Some(directory)) => names::strangers(directory).ok(),
        _ => None,
    };
    let known = file_system.and_then(|file_system| stores_xattrs(&file_system.name, marks));
    let ask = |marks| {
        let of_unknown = file_system.is_some_and(|it| !NOT_ASKED.contains(&it.name.as_str()));
        let nearest = nearest.filter(|_| machine.can_mount && of_unknown)?;
        markers::are_kept(nearest.open().ok()?, marks)
    };
    let xattrs = known.or_else(|| ask(marks));
    LayerFacts {
        place: visited.place.clone(),
        other_xattrs: match xattrs {
            Some(false) if known.is_none() => ask(marks.others()),
            _ => None,
        },
        xattrs,
        d_type: nearest.and_then(tells_types),
        unchangeable: directory.is_some_and(unchangeable),
        links: directory.map_or(Links::Missing, |directory| links(directory, machine, marks)),
        strangers,
        left: None,
        usage: Usage::Unknown,
    }
}

/// Walks to a layer directory.
pub(super) fn visit(path: &std::path::Path, mounts: &MountTable) -> Visited {
    path::visit(path, Symlinks::Refuse, mounts)
}

/// Whether a file system of this name stores the attributes; `None` if the name does not tell.
fn stores_xattrs(name: &str, marks: Marks) -> Option<bool> {
    match name {
        // `user.*` came to it with Linux 6.6, and can be left out of a kernel.
        "tmpfs" => (marks == Marks::Trusted).then_some(true),
        _ if WITH_XATTRS.contains(&name) => Some(true),
        _ if WITHOUT_XATTRS.contains(&name) => Some(false),
        _ => None,
    }
}

/// Whether a directory is immutable, or can only be added to.
fn unchangeable(directory: &Reached) -> bool {
    let marked = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let stat = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.intersects(marked))
}

/// Whether listings on the directory's file system tell the type of entries. `.` and `..` prove
/// nothing.
fn tells_types(directory: &Reached) -> Option<bool> {
    let of_first = |directory: OwnedFd| {
        let names = names::first(directory, 1, |_| true).ok()?;
        names.first().map(|name| name.kind != FileType::Unknown)
    };
    of_first(directory.open().ok()?).or_else(|| {
        // It is empty. The directory above is not, and on the same file system: the work directory
        // is on the upper layer's mount, too, and not in it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(directory, "..", flags, Mode::empty()).ok()?;
        let is_same = rustix::fs::fstat(&above).ok()?.st_dev == directory.status().identity.dev;
        is_same.then(|| of_first(above)).flatten()
    })
}

fn links(upper_layer: &Reached, machine: &Machine, marks: Marks) -> Links {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let links = match rustix::fs::openat(upper_layer, layout::LINKS, flags, Mode::empty()) {
        Ok(links) => links,
        Err(Errno::NOENT) => return Links::Missing,
        Err(Errno::NOTDIR | Errno::LOOP) => return Links::Other,
        Err(_) => return Links::Unknown,
    };
    match markers::is_opaque(&links, marks) {
        Ok(true) => Links::Opaque,
        // The kernel hides `trusted.*` from those who may not read it, as if it were not there.
        Ok(false) if marks == Marks::Trusted && !machine.can_mount => Links::Unknown,
        Ok(false) if markers::is_opaque(&links, marks.others()) == Ok(true) => Links::Foreign,
        Ok(false) => Links::Transparent,
        Err(_) => Links::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_judged_by_their_names() {
        assert_eq!(stores_xattrs("ext4", Marks::User), Some(true));
        assert_eq!(stores_xattrs("nfs4", Marks::Trusted), Some(false));
        assert_eq!(stores_xattrs("tmpfs", Marks::Trusted), Some(true));
        assert_eq!(stores_xattrs("tmpfs", Marks::User), None);
        assert_eq!(stores_xattrs("fuse.sshfs", Marks::Trusted), None);
    }
}
