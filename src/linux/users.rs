//! Users, groups and namespaces through the `nix` crate: what `rustix` lacks, or has only as
//! `unsafe`. No other file uses that crate.

use std::io;
use std::path::PathBuf;

use ::nix::sched::CloneFlags;
use ::nix::unistd::{Group, Uid, User};

/// The number of a group in the system's own database (and name services), if there is one.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn group(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// A user's home directory, as the system's database has it.
pub(crate) fn home(uid: u32) -> Option<PathBuf> {
    Some(User::from_uid(Uid::from_raw(uid)).ok()??.dir)
}

/// A user's shell, as the system's database has it.
pub(crate) fn shell(uid: u32) -> Option<PathBuf> {
    let shell = User::from_uid(Uid::from_raw(uid)).ok()??.shell;
    (!shell.as_os_str().is_empty()).then_some(shell)
}

/// Moves this thread into a mount namespace of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_mounts() -> io::Result<()> {
    Ok(::nix::sched::unshare(CloneFlags::CLONE_NEWNS)?)
}

/// Gives this thread a working directory, a root directory and a file mode creation mask of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_directories() -> io::Result<()> {
    Ok(::nix::sched::unshare(CloneFlags::CLONE_FS)?)
}

/// Moves this process, which must have one thread, into a user namespace and a mount namespace of
/// its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_user_and_mounts() -> io::Result<()> {
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    Ok(::nix::sched::unshare(flags)?)
}
