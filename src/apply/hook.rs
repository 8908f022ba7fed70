//! The remount hook in the state directory: a link to overstore, for Nix to call.

use std::path::Path;

use rustix::fs::{readlinkat, symlinkat};

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error};
use crate::records::atomic_link;

/// Makes the link, or has it lead to the running program again. The directory it is in is
/// overstore's own, and is made where it is missing.
///
/// # Errors
/// When others may write to that directory: whoever may could have Nix run anything.
pub(super) fn link(hook: &Path, program: &Path, unsynced: &mut Unsynced) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (hook.parent(), hook.file_name()) else {
        return Ok(());
    };
    let directory = directory::make(parent, 0o755, None, unsynced)?;
    let status = directory.status();
    if !status.trusted() || status.mode & 0o022 != 0 {
        return Err(Error::HookExposed {
            path: parent.to_owned(),
            uid: status.uid,
            mode: status.mode,
        });
    }
    match readlinkat(&directory, name, Vec::new()) {
        Ok(_) => atomic_link::replace(&directory, name, program),
        // What is there and is no link, nobody but its owner removes.
        Err(_) => symlinkat(program, &directory, name),
    }
    .doing("make the link", hook)?;
    unsynced.add(&directory, parent)
}
