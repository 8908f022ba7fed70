//! The file that a bug report is written to: a new one, for its owner alone, and whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, linkat, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use crate::commands::Failure;
use crate::escape::show_path;

/// Expects that nothing has this name yet: what takes its time is not done in vain.
pub(super) fn expect_none(path: &Path) -> Result<(), Failure> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(taken(path)),
        Err(_) => Ok(()),
    }
}

/// Makes a file and writes it. No link is followed on the way, and what is there is left alone. It has
/// its name when it is whole; where the file system has no files without a name, it has it at once, and is
/// removed where it cannot be written to its end.
pub(super) fn write(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let what = format!("cannot write {}", show_path(path));
        Failure::doing(what, error)
            .remedy("name another file with `--output`, or `-` for standard output")
    };
    let Some(name) = path.file_name() else {
        return Err(
            Failure::refused(format!("`{}` has no name of a file", show_path(path)))
                .remedy("name a file with `--output`"),
        );
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let parent = openat2(CWD, parent, directory, Mode::empty(), resolve)
        .map_err(|errno| failed(errno.into()))?;
    let errno = |errno: Errno| match errno {
        Errno::EXIST => taken(path),
        errno => failed(errno.into()),
    };
    let (file, has_name) = make(&parent, name).map_err(errno)?;
    let mut out = io::BufWriter::new(file);
    let written = write(&mut out)
        .and_then(|()| io::Write::flush(&mut out))
        .and_then(|()| out.get_ref().sync_all());
    match written {
        Ok(()) if has_name => Ok(()),
        Ok(()) => {
            let file = format!("/proc/self/fd/{}", out.get_ref().as_raw_fd());
            linkat(CWD, file, &parent, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
        }
        Err(error) => {
            if has_name {
                // Half a report is none; what is left of it is not in the way of the next one for long.
                let _ = unlinkat(&parent, name, AtFlags::empty());
            }
            Err(failed(error))
        }
    }
}

/// Makes a file, and says whether it has its name already.
fn make(parent: impl AsFd, name: &OsStr) -> Result<(File, bool), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let unnamed = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match openat(&parent, ".", unnamed, mode) {
        Ok(file) => return Ok((file.into(), false)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((openat(&parent, name, new, mode)?.into(), true))
}

fn taken(path: &Path) -> Failure {
    Failure::refused(format!("{} exists already", show_path(path)))
        .remedy("remove it, or name another file with `--output`")
}
