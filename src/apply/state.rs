//! The state directory, as Nix makes it.

use std::path::Path;

use rustix::io::Errno;

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::layout;

/// Makes the directories that are missing and, for a new store, the link `gcroots/profiles`. Those
/// that are there are synced too: a run that was killed may have made them.
pub(super) fn make(state: &Path, new: bool, unsynced: &mut Unsynced) -> Result<(), Error> {
    for name in layout::STATE_DIRECTORIES {
        let path = state.join(name);
        let made = directory::make(&path, layout::DIRECTORY_MODE, None, unsynced)?;
        unsynced.add(&made, &path)?;
    }
    if !new {
        return Ok(());
    }
    let link = state.join(layout::PROFILES_LINK);
    let (Some(above), Some(name)) = (link.parent(), link.file_name()) else {
        return Ok(());
    };
    let directory = walked(above, safe_path::directory(above, Symlinks::Refuse))?;
    match rustix::fs::symlinkat(state.join(layout::PROFILES), &directory, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).doing("make the link", link),
    }
}
