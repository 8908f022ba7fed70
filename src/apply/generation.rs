//! The link of a store's own to the generation of a publication that lies below.

use std::path::Path;

use rustix::fs::readlinkat;

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error};
use crate::linux::sync;
use crate::records::atomic_link;

/// Has the link lead to a generation, at once and durably. The directory it is in is overstore's own,
/// and is made where it is missing.
///
/// # Errors
/// When it cannot be made, or something else than a link is there: nobody but its owner removes that.
pub(crate) fn link(link: &Path, generation: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else {
        return Ok(());
    };
    let mut unsynced = Unsynced::default();
    let directory = directory::make(parent, 0o755, None, &mut unsynced)?;
    unsynced.sync()?;
    match readlinkat(&directory, name, Vec::new()) {
        Err(rustix::io::Errno::NOENT) | Ok(_) => {
            atomic_link::replace(&directory, name, generation).doing("make the link", link)?;
        }
        Err(errno) => return Err(errno).doing("replace what is in the place of the link", link),
    }
    let opened = directory.open().doing("open", parent)?;
    sync::sync(opened).doing("sync", parent)
}
