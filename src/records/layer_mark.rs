//! The mark on an upper layer, which tells it from every other one: an extended attribute of its
//! directory. A file would stop Nix's collector, and `trusted.*` cannot be set in a user namespace.
//! `cp -a` keeps it; what loses it (tar, rsync without `-X`) loses OverlayFS's own attributes too.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::escape::show;

/// The attribute.
const ATTRIBUTE: &CStr = c"user.overstore.id";

/// More than any mark has.
const MAXIMUM_SIZE: usize = 64;

/// The mark on a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// This one.
    Is(String),
    /// None.
    None,
    /// The file system has no such attributes (tmpfs before Linux 6.6), or they cannot be read.
    Impossible,
}

/// Reads the mark of a directory.
pub(crate) fn read(directory: impl AsFd) -> Mark {
    let mut value = [0; MAXIMUM_SIZE];
    match fgetxattr(directory, ATTRIBUTE, &mut value) {
        Ok(length) => Mark::Is(show(&value[..length.min(MAXIMUM_SIZE)]).into_owned()),
        Err(Errno::NODATA) => Mark::None,
        Err(Errno::RANGE) => Mark::Is("one that overstore did not make".to_owned()),
        Err(_) => Mark::Impossible,
    }
}

/// Marks a directory. What comes back is the mark that it has then: none is possible where the file
/// system refuses it.
///
/// # Errors
/// When it fails for another reason.
pub(crate) fn write(directory: impl AsFd, id: &str) -> Result<Mark, Errno> {
    match fsetxattr(directory, ATTRIBUTE, id.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(Mark::Is(id.to_owned())),
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(Mark::Impossible),
        Err(error) => Err(error),
    }
}

/// A mark that no other layer has.
///
/// # Errors
/// When the kernel has no random numbers.
pub(crate) fn new() -> Result<String, Errno> {
    let mut bytes = [0; 16];
    // Up to 256 bytes come at once.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
