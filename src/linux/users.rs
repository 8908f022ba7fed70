//! Users, groups and namespaces through the `nix` crate: what `rustix` lacks, or has only as
//! `unsafe`. No other file uses that crate.

use std::io;
use std::path::PathBuf;

use ::nix::sched::CloneFlags;
use ::nix::unistd::{Gid, Group, Uid, User};

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

/// Moves this thread into a mount namespace of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_mounts() -> io::Result<()> {
    Ok(::nix::sched::unshare(CloneFlags::CLONE_NEWNS)?)
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

/// This thread's group for file systems, until it is dropped: what it makes has that group from
/// the first moment.
pub(crate) struct FileSystemGroup(Gid);

impl FileSystemGroup {
    /// Sets it. Without `CAP_SETGID` the kernel leaves the group as it is, without a word.
    pub(crate) fn set(gid: u32) -> FileSystemGroup {
        FileSystemGroup(::nix::unistd::setfsgid(Gid::from_raw(gid)))
    }
}

impl Drop for FileSystemGroup {
    fn drop(&mut self) {
        ::nix::unistd::setfsgid(self.0);
    }
}
