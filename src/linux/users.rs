//! Users, groups and namespaces through the `nix` crate: what `rustix` lacks, or has only as
//! `unsafe`. No other file uses that crate.

use std::io;
use std::path::PathBuf;

use ::nix::sched::CloneFlags;
use ::nix::unistd::{Group, Uid, User};

/// The size in bytes of the stack of a process that is started as a copy of this one.
const STACK: usize = 1 << 20;

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

/// Starts a copy of this process as process 1 of a PID namespace of its own, which does `work` and
/// ends with what that returns; all others in the namespace are killed then. To be called while this
/// process has one thread.
///
/// # Errors
/// Those of clone(2).
#[allow(unsafe_code)]
pub(crate) fn start_process_1(mut work: impl FnMut() -> u8) -> io::Result<u32> {
    let mut stack = vec![0; STACK];
    // What clone(2) runs ends its thread when it returns, and no other ones.
    let run = Box::new(|| std::process::exit(work().into()));
    // SAFETY: the child has its own copy of this process's memory, so that neither disturbs the other;
    // there is one thread, so nothing is left locked by threads that the child lacks.
    let child = unsafe {
        ::nix::sched::clone(
            run,
            &mut stack,
            CloneFlags::CLONE_NEWPID,
            Some(::nix::libc::SIGCHLD),
        )
    }?;
    Ok(child.as_raw().cast_unsigned())
}
