//! Objects that are in both layers, kept apart.
//!
//! A directory that Nix makes in the merged store gets no opaque mark where nothing is below of its
//! name: the kernel makes one only where it has to hide something. When the lower store gets an object
//! of that name later, the two would show as one, a mixture of both, once the kernel looks again. So
//! whatever has it look again marks such directories first. What OverlayFS itself copied up is not
//! marked: that belongs together with what is below.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_path::Entry;
use crate::overlayfs::markers::{Marks, is_copied_up, is_opaque, make_opaque};
use crate::overlayfs::options::SuperOptions;

/// Marks the directories of the upper layer of a mounted overlay that have a lower one of the same name
/// and were made above. Layers that are not to be found from here by the paths that the overlay was
/// mounted with are left alone: they are somebody else's, or of another mount namespace.
///
/// # Errors
/// When a layer cannot be read, or a directory cannot be marked.
pub(super) fn of_mounted(options: &SuperOptions) -> Result<(), Errno> {
    let (Some(upper), [lower]) = (&options.upper, &options.lower[..]) else {
        return Ok(());
    };
    let open = |path: &Path, symlinks| safe_path::open_directory(path, symlinks);
    let (Ok(upper), Ok(lower)) = (open(upper, Symlinks::Refuse), open(lower, Symlinks::Follow))
    else {
        return Ok(());
    };
    let marks = Marks::with_userxattr(options.has("userxattr"));
    separate(&upper, &lower, marks)
}

/// The same for layers that are open.
pub(super) fn separate(upper: impl AsFd, lower: impl AsFd, marks: Marks) -> Result<(), Errno> {
    let is_directory = |layer: &dyn AsFd, name: &std::ffi::CStr| match statat(
        layer.as_fd(),
        name,
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode).is_dir()),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for entry in Dir::read_from(&upper)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_object = matches!(Entry::of(name.to_bytes()), Entry::StorePath(_));
        if !is_object || matches!(entry.file_type(), FileType::RegularFile | FileType::Symlink) {
            continue;
        }
        let object = match openat(&upper, name, flags, Mode::empty()) {
            Ok(object) => object,
            // No directory, or deleted meanwhile.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::NXIO) => continue,
            Err(errno) => return Err(errno),
        };
        if !is_opaque(&object, marks)?
            && !is_copied_up(&object, marks)?
            && is_directory(&lower, name)?
        {
            make_opaque(&object, marks)?;
        }
    }
    Ok(())
}
