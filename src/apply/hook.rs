//! The remount hook in the state directory: a link to overstore, for Nix to call.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{AtFlags, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error};
use crate::linux::safe_path::Reached;
use crate::records::atomic_file::DRAFT;

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
        Ok(_) => replace(&directory, name, program),
        // What is there and is no link, nobody but its owner removes.
        Err(_) => symlinkat(program, &directory, name),
    }
    .doing("make the link", hook)?;
    unsynced.add(&directory, parent)
}

/// Puts a link in the place of one that is there.
fn replace(directory: &Reached, name: &OsStr, target: &Path) -> Result<(), Errno> {
    let mut draft = name.to_owned();
    draft.push(DRAFT);
    match unlinkat(directory, &draft, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    symlinkat(target, directory, &draft)?;
    renameat(directory, &draft, directory, name).inspect_err(|_| {
        // The error that matters is the first.
        let _ = unlinkat(directory, &draft, AtFlags::empty());
    })
}
