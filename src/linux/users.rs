//! Users, groups and namespaces through the `nix` crate: what `rustix` lacks, or has only as
//! `unsafe`. Nothing else uses that crate, but for the C library's calls in `sqlite/held`.
//!
//! A program that the C library is built into cannot look users up with it: glibc loads the system's
//! name services while the program runs, which works only with the very version that it was built
//! with. Such a program reads the system's files itself, and asks `getent` for what is not in them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::nix::sched::CloneFlags;
use ::nix::unistd::{Group, Uid, User};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::programs;
use super::regular_file::{self, ReadError};
use crate::escape::show;

/// Whether the C library is built into this program.
const IS_STATIC: bool = cfg!(target_feature = "crt-static");

/// How long the name services may take.
const LOOK_UP_TIME: Duration = Duration::from_secs(30);

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
    if IS_STATIC {
        let named = |entry: &[&[u8]]| entry[0] == name.as_bytes();
        let entry = entry(GROUPS, "group", name, named)?;
        return Ok(entry.and_then(|entry| number(entry.get(2)?)));
    }
    expect_file(GROUPS)?;
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// A user in words: by name where the system's database has one, escaped where it cannot be printed.
pub(crate) fn in_words(uid: u32) -> String {
    match user(uid) {
        Some(user) => show(user.name.as_encoded_bytes()).into_owned(),
        None => format!("user {uid}"),
    }
}

/// A user's home directory, as the system's database has it.
pub(crate) fn home(uid: u32) -> Option<PathBuf> {
    Some(user(uid)?.home)
}

/// A user's shell, as the system's database has it.
pub(crate) fn shell(uid: u32) -> Option<PathBuf> {
    let shell = user(uid)?.shell;
    (!shell.as_os_str().is_empty()).then_some(shell)
}

/// What is known of a user.
struct Known {
    name: OsString,
    home: PathBuf,
    shell: PathBuf,
}

fn user(uid: u32) -> Option<Known> {
    if IS_STATIC {
        let has_number = |entry: &[&[u8]]| entry.get(2).and_then(|it| number(it)) == Some(uid);
        let mut entry = entry(USERS, "passwd", &uid.to_string(), has_number).ok()??;
        let mut field = |at: usize| Some(OsString::from_vec(std::mem::take(entry.get_mut(at)?)));
        return Some(Known {
            name: field(0)?,
            home: field(5)?.into(),
            shell: field(6)?.into(),
        });
    }
    expect_file(USERS).ok()?;
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(Known {
        name: user.name.into(),
        home: user.dir,
        shell: user.shell,
    })
}

/// An entry of a database, as its fields: that of the system's file, or else the name services'.
fn entry(
    file: &str,
    database: &str,
    key: &str,
    is_it: impl Fn(&[&[u8]]) -> bool,
) -> io::Result<Option<Vec<Vec<u8>>>> {
    let content = match regular_file::read(Path::new(file), LONGEST) {
        Ok(content) => content,
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io::Error::other(format!("{file}: {error}"))),
    };
    if let Some(found) = entry_in(&content, &is_it) {
        return Ok(Some(found));
    }
    let mut getent = Command::new("getent");
    getent.args([database, "--", key]);
    // Where there is no `getent`, nor are there services that it would ask.
    match programs::run(getent, LOOK_UP_TIME) {
        Ok(said) => Ok(entry_in(&said.output, &is_it)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first entry that is meant, in a text such as passwd(5) and group(5) describe.
fn entry_in(text: &[u8], is_it: impl Fn(&[&[u8]]) -> bool) -> Option<Vec<Vec<u8>>> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        is_it(&fields).then(|| fields.iter().map(|field| field.to_vec()).collect())
    })
}

/// The number in a field.
fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Moves this thread into a mount namespace of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)
}

/// What unshare(2) says when nothing is asked of it.
///
/// # Errors
/// Those of whatever filters system calls.
pub(crate) fn unshare_nothing() -> Result<(), Errno> {
    unshare(CloneFlags::empty())
}

fn unshare(flags: CloneFlags) -> Result<(), Errno> {
    ::nix::sched::unshare(flags).map_err(errno)
}

fn errno(error: ::nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// Gives this thread a working directory, a root directory and a file mode creation mask of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_directories() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_FS)
}

/// Moves this process, which must have one thread, into a user namespace and a mount namespace of
/// its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_user_and_mounts() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
}

/// Starts a copy of this process as process 1 of a PID namespace of its own, which does `work` and
/// ends with what that returns; all others in the namespace are killed then. To be called while this
/// process has one thread.
///
/// # Errors
/// Those of clone(2).
pub(crate) fn start_process_1(work: impl FnMut() -> u8) -> Result<u32, Errno> {
    start_copy(work, CloneFlags::CLONE_NEWPID)
}

/// Has a copy of this process do `work`, and waits for its end: whether it came to one, and was not
/// ended by a signal. To be called while this process has one thread.
///
/// # Errors
/// Those of clone(2) and waitpid(2).
pub(crate) fn try_in_a_copy(work: impl FnMut() -> u8) -> Result<bool, Errno> {
    let copy = start_copy(work, CloneFlags::empty())?;
    let copy = Pid::from_raw(copy.cast_signed());
    loop {
        match waitpid(copy, WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(ended) => return Ok(ended.is_some_and(|(_, status)| status.exited())),
        }
    }
}

#[allow(unsafe_code)]
fn start_copy(mut work: impl FnMut() -> u8, flags: CloneFlags) -> Result<u32, Errno> {
    let mut stack = vec![0; STACK];
    // What clone(2) runs ends its thread when it returns, and no other ones.
    let run = Box::new(|| std::process::exit(work().into()));
    // SAFETY: the child has its own copy of this process's memory, so that neither disturbs the other;
    // there is one thread, so nothing is left locked by threads that the child lacks.
    let child = unsafe { ::nix::sched::clone(run, &mut stack, flags, Some(::nix::libc::SIGCHLD)) };
    Ok(child.map_err(errno)?.as_raw().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_in_the_files_of_the_system() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n\nbroken\nnixbld:x:30000:a,b\n";
        let named = |name: &'static str| move |it: &[&[u8]]| it[0] == name.as_bytes();
        let found = entry_in(text, named("root")).unwrap();
        assert_eq!(
            (&found[5][..], &found[6][..]),
            (&b"/root"[..], &b"/bin/sh"[..])
        );
        assert_eq!(entry_in(text, named("nixbld")).unwrap()[2], b"30000");
        assert_eq!(entry_in(text, named("nix")), None);
        assert_eq!(
            (number(b"30000"), number(b"-1"), number(b"")),
            (Some(30000), None, None)
        );
    }

    /// What a static program reads is what the C library would say.
    #[test]
    fn both_ways_to_look_up_agree() {
        let root = |it: &[&[u8]]| it.get(2).and_then(|it| number(it)) == Some(0);
        let own = entry(USERS, "passwd", "0", root).unwrap();
        let library = User::from_uid(Uid::from_raw(0)).unwrap();
        assert_eq!(
            own.map(|it| PathBuf::from(OsString::from_vec(it[5].clone()))),
            library.map(|it| it.dir)
        );
        let missing = "no-such-group-anywhere";
        let named = |it: &[&[u8]]| it[0] == missing.as_bytes();
        assert_eq!(entry(GROUPS, "group", missing, named).unwrap(), None);
        assert!(Group::from_name(missing).unwrap().is_none());
    }
}
