//! Symbolic links that are exchanged at once.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::atomic_file::DRAFT;

/// Puts a link in the place of one that is there.
///
/// # Errors
/// Those of symlinkat(2) and renameat(2): the one that is there stays.
pub(crate) fn replace(directory: impl AsFd, name: &OsStr, target: &Path) -> Result<(), Errno> {
    let mut draft = name.to_owned();
    draft.push(DRAFT);
    match unlinkat(&directory, &draft, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    symlinkat(target, &directory, &draft)?;
    renameat(&directory, &draft, &directory, name).inspect_err(|_| {
        // The error that matters is the first.
        let _ = unlinkat(&directory, &draft, AtFlags::empty());
    })
}
