//! What OverlayFS leaves in an upper layer: whiteouts, and the mark of an opaque directory.
//! Source: "whiteouts and opaque directories" in the kernel's `Documentation/filesystems/overlayfs.rst`.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Stat, XattrFlags, fgetxattr, fsetxattr, statat};
use rustix::io::Errno;

/// Whose extended attributes an overlay keeps its marks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `trusted.overlay.*`: what only root can set or see.
    Trusted,
    /// `user.overlay.*`: with the mount option `userxattr`, which an overlay in a user namespace has.
    User,
}

impl Marks {
    /// Those of an overlay that is mounted with `userxattr`, or without.
    pub(crate) fn with_userxattr(userxattr: bool) -> Marks {
        match userxattr {
            true => Marks::User,
            false => Marks::Trusted,
        }
    }

    /// The other ones.
    pub(crate) fn others(self) -> Marks {
        match self {
            Marks::Trusted => Marks::User,
            Marks::User => Marks::Trusted,
        }
    }

    fn opaque(self) -> &'static CStr {
        match self {
            Marks::Trusted => c"trusted.overlay.opaque",
            Marks::User => c"user.overlay.opaque",
        }
    }
}

/// Whether an entry of an upper layer was copied up from below, rather than made above: OverlayFS says
/// so of everything that it copies (`ovl_set_origin` in the kernel's `copy_up.c`, also where the lower
/// file system has no file handles).
///
/// # Errors
/// Those of fgetxattr(2), but for an attribute that is missing.
pub(crate) fn is_copied_up(entry: impl AsFd, marks: Marks) -> Result<bool, Errno> {
    let name = match marks {
        Marks::Trusted => c"trusted.overlay.origin",
        Marks::User => c"user.overlay.origin",
    };
    match fgetxattr(entry, name, &mut [0_u8; 0][..]) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether a directory of an upper layer is opaque: the directory of the same name below it does not
/// show. The kernel hides `trusted.*` from those who may not read it, as if it were not there.
///
/// # Errors
/// Those of fgetxattr(2), but for an attribute that is missing.
pub(crate) fn is_opaque(directory: impl AsFd, marks: Marks) -> Result<bool, Errno> {
    let mut value = [0_u8; 16];
    match fgetxattr(directory, marks.opaque(), &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What an index remembers that it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remembers {
    /// The lower layer: an attribute of the upper layer directory.
    Lower,
    /// The upper layer: an attribute of the index directory.
    Upper,
}

/// The directory that an attribute of an indexed overlay remembers: how the kind of its file handle is
/// called, and the handle's bytes. `None` where there is no such attribute, or it is of another form
/// (source: `struct ovl_fb`).
pub(crate) fn remembered(
    directory: impl AsFd,
    marks: Marks,
    which: Remembers,
) -> Option<(u8, Vec<u8>)> {
    let attribute = match (marks, which) {
        (Marks::Trusted, Remembers::Lower) => c"trusted.overlay.origin",
        (Marks::Trusted, Remembers::Upper) => c"trusted.overlay.upper",
        (Marks::User, Remembers::Lower) => c"user.overlay.origin",
        (Marks::User, Remembers::Upper) => c"user.overlay.upper",
    };
    let mut value = [0_u8; 256];
    let length = fgetxattr(directory, attribute, &mut value[..]).ok()?;
    match &value[..length] {
        // Version, magic number, length, flags, kind, a UUID; then the handle.
        [0, 0xfb, stated, _, kind, rest @ ..] if usize::from(*stated) == length => {
            Some((*kind, rest.get(16..)?.to_vec()))
        }
        _ => None,
    }
}

/// Whether a file system takes such marks: asked without leaving one, by replacing an attribute that
/// is not there. `None` if that cannot be told.
pub(crate) fn are_kept(directory: impl AsFd, marks: Marks) -> Option<bool> {
    let attribute = match marks {
        Marks::Trusted => c"trusted.overlay.overstore-probe",
        Marks::User => c"user.overlay.overstore-probe",
    };
    match fsetxattr(directory, attribute, b"y", XattrFlags::REPLACE) {
        Ok(()) | Err(Errno::NODATA) => Some(true),
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Some(false),
        Err(_) => None,
    }
}

/// Makes a directory of an upper layer opaque. Where the layer is mounted, it counts from the next
/// remount on.
///
/// # Errors
/// Those of fsetxattr(2).
pub(crate) fn make_opaque(directory: impl AsFd, marks: Marks) -> Result<(), Errno> {
    fsetxattr(directory, marks.opaque(), b"y", XattrFlags::empty())
}

/// Whether a name in an upper layer is a whiteout: what is below does not show.
///
/// # Errors
/// Those of statat(2).
pub(crate) fn is_whiteout(upper_layer: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    statat(upper_layer, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| is_whiteout_stat(&stat))
}

/// The same for what was looked at already: a character device with the number 0:0.
pub(crate) fn is_whiteout_stat(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
