//! What this machine has run out of, so that nothing is said of a store that could not be looked at.

use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

use crate::remedy::{HasRemedy, Remedy};

/// How many descriptors a command needs at most, but for `check --contents` with many processors.
const NEEDED: usize = 128;

/// The errors that say something of the machine, and nothing of what was looked at.
const OF_THE_MACHINE: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];

/// The first of them that a look at something ended with, or 0.
static NOTED: AtomicI32 = AtomicI32::new(0);

/// There are not enough descriptors.
#[derive(Debug, thiserror::Error)]
#[error("only {free} more files can be opened, and {NEEDED} may be needed: {source}")]
pub(crate) struct TooFewDescriptors {
    free: usize,
    source: io::Error,
}

impl HasRemedy for TooFewDescriptors {
    fn remedy(&self) -> Remedy {
        Remedy::say("raise the limit, as with `ulimit -n 1024`")
    }
}

/// A limit of this process that is too low for what is to be done.
#[derive(Debug, thiserror::Error)]
#[error("the limit {what} (`ulimit {option}`) is {limit} KiB, and {needed} KiB may be needed")]
pub(crate) struct TooLow {
    what: &'static str,
    option: &'static str,
    limit: u64,
    needed: u64,
}

impl HasRemedy for TooLow {
    fn remedy(&self) -> Remedy {
        let TooLow { option, needed, .. } = self;
        Remedy::say(format!(
            "raise the limit, as with `ulimit {option} {needed}`"
        ))
        .or(format!("do without it: `ulimit {option} unlimited`"))
    }
}

/// Bytes of memory that setting up a store takes at most, as `ulimit -v` counts them: the stacks of
/// threads are most of it.
const MEMORY: u64 = 64 << 20;

/// Bytes of the longest file that is made for a store: Nix's reserve, and then some.
const LONGEST_FILE: u64 = 16 << 20;

/// Expects limits in which a store can be set up: beyond that of memory a process ends without a word,
/// and beyond that of files by a signal.
///
/// # Errors
/// When one is lower.
pub(crate) fn expect_room() -> Result<(), TooLow> {
    for (resource, what, option, needed) in [
        (Resource::As, "of memory", "-v", MEMORY),
        (Resource::Fsize, "of a file's size", "-f", LONGEST_FILE),
    ] {
        if let Some(limit) = getrlimit(resource).current
            && limit < needed
        {
            return Err(TooLow {
                what,
                option,
                limit: limit >> 10,
                needed: needed >> 10,
            });
        }
    }
    Ok(())
}

/// What is meant where no process or thread could be started (EAGAIN of clone(2)), and what can be
/// done about it.
pub(crate) fn too_many_processes() -> (String, Remedy) {
    let limit = match getrlimit(Resource::Nproc).current {
        Some(limit) => format!("this user may have {limit} processes and threads (`ulimit -u`)"),
        None => "the machine has as many processes as it can have".to_owned(),
    };
    (
        format!("{limit}, or its control group may have no more (`pids.max`)"),
        Remedy::say("raise the limit, as with `ulimit -u 4096`").or("end other processes"),
    )
}

/// The remedy of a process or thread that could not be started, where that is a limit's doing.
pub(crate) fn remedy_of_processes(error: &io::Error) -> Remedy {
    match error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) {
        true => too_many_processes().1,
        false => Remedy::default(),
    }
}

/// Expects as many free descriptors as any command needs.
///
/// # Errors
/// When there are fewer.
pub(crate) fn expect_descriptors() -> Result<(), TooFewDescriptors> {
    let mut taken: Vec<OwnedFd> = Vec::with_capacity(NEEDED);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    while taken.len() < NEEDED {
        let next = match taken.last() {
            None => rustix::fs::open("/", flags, Mode::empty()),
            Some(last) => fcntl_dupfd_cloexec(last, 0),
        };
        match next {
            Ok(next) => taken.push(next),
            Err(errno) => {
                return Err(TooFewDescriptors {
                    free: taken.len(),
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

/// Notes what a look at something ended with.
pub(crate) fn note<T>(result: Result<T, Errno>) -> Result<T, Errno> {
    if let Err(errno) = &result
        && OF_THE_MACHINE.contains(errno)
    {
        let number = errno.raw_os_error();
        let _ = NOTED.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
    }
    result
}

/// The attributes of what is at a path, if anything can be seen there. What else that ends with is
/// noted.
pub(crate) fn look(path: &Path) -> Option<Metadata> {
    let found = std::fs::metadata(path);
    let number = found.as_ref().err().and_then(io::Error::raw_os_error);
    if let Some(number) = number {
        let _ = note::<()>(Err(Errno::from_raw_os_error(number)));
    }
    found.ok()
}

/// Expects that nothing was noted: otherwise what was seen is not what is there.
///
/// # Errors
/// The first error that was.
pub(crate) fn expect_none() -> io::Result<()> {
    match NOTED.load(Ordering::Relaxed) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}
