//! Store objects as Nix leaves them: modes of reading alone, and the time 1 (`canonicalisePathMetaData`
//! in its `posix-fs-canonicalise.cc`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat, symlinkat,
    utimensat,
};

use crate::linux::descent::Descent;

/// Where an object is made, piece by piece, by descriptor. Nothing is replaced.
#[derive(Debug)]
pub(super) struct ObjectWriter<'d> {
    way: Descent<'d>,
}

impl<'d> ObjectWriter<'d> {
    /// In this directory.
    pub(super) fn to(directory: BorrowedFd<'d>) -> Self {
        Self {
            way: Descent::from(directory),
        }
    }

    /// Makes a directory, and goes into it.
    pub(super) fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        mkdirat(self.way.here(), name, Mode::RWXU)?;
        Ok(self.way.enter(name)?)
    }

    /// Finishes the directory that it is in, and goes back up.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        finish(self.way.here(), true)?;
        Ok(self.way.leave()?)
    }

    /// Makes an empty file, to be filled and finished.
    pub(super) fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(openat(self.way.here(), name, flags, mode)?))
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(&self, name: &[u8], target: &CStr) -> io::Result<()> {
        symlinkat(target, self.way.here(), name)?;
        let times = times();
        utimensat(self.way.here(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

/// Gives a file, or a directory (which can be entered, as a program can be run), its mode and time.
pub(super) fn finish(file: BorrowedFd<'_>, executable: bool) -> io::Result<()> {
    let mode = match executable {
        true => 0o555,
        false => 0o444,
    };
    fchmod(file, Mode::from_raw_mode(mode))?;
    Ok(futimens(file, &times())?)
}

fn times() -> Timestamps {
    let one = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: one,
        last_modification: one,
    }
}
