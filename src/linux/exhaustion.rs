//! What this machine has run out of, so that nothing is said of a store that could not be looked at.

use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

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
