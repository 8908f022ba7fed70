//! Syncing to the disk.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// Syncs one file or directory. Where the file system has no notion of it (`EINVAL`), there is
/// nothing that could be lost later than now.
///
/// # Errors
/// Those of fsync(2).
pub(crate) fn sync(fd: impl AsFd) -> Result<(), Errno> {
    match rustix::fs::fsync(fd) {
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}
