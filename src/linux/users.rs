//! Users, groups and namespaces through the `nix` crate: what `rustix` lacks, or has only as
//! `unsafe`. Nothing else uses that crate, but for the C library's calls in `sqlite/held`.

use std::io;
use std::path::{Path, PathBuf};

use ::nix::sched::CloneFlags;
use ::nix::unistd::{Group, Uid, User};

use super::regular_file::{self, ReadError};

/// The size in bytes of the stack of a process that is started as a copy of this one.
const STACK: usize = 1 << 20;

/// Where a system has its groups.
pub(super) const GROUPS: &str = "/etc/group";
/// Where it has its users.
const USERS: &str = "/etc/passwd";
/// The size in bytes above which either is something else.
pub(super) const LONGEST: u64 = 16 << 20;

/// Expects what the C library reads to be a file that it can read to its end: it waits for a pipe,
/// and goes on reading a device for ever.
fn expect_file(path: &str) -> io::Result<()> {
    let looked = regular_file::open(Path::new(path)).and_then(|file| {
        match file.metadata()?.len() > LONGEST {
            true => Err(ReadError::TooLong(LONGEST)),
            false => Ok(()),
        }
    });
    match looked {
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        looked => looked.map_err(|error| io::Error::other(format!("{path}: {error}"))),
    }
}

/// The number of a group in the system's own database (and name services), if there is one.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn group(name: &str) -> io::Result<Option<u32>> {
    expect_file(GROUPS)?;
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// A user's home directory, as the system's database has it.
pub(crate) fn home(uid: u32) -> Option<PathBuf> {
    Some(user(uid)?.dir)
}

/// A user's shell, as the system's database has it.
pub(crate) fn shell(uid: u32) -> Option<PathBuf> {
    let shell = user(uid)?.shell;
    (!shell.as_os_str().is_empty()).then_some(shell)
}

fn user(uid: u32) -> Option<User> {
    expect_file(USERS).ok()?;
    User::from_uid(Uid::from_raw(uid)).ok()?
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
