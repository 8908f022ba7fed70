//! The file that a bug report is written to: a new one, for its owner alone.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat, unlinkat};

use crate::commands::Failure;
use crate::escape::show_path;

/// Expects that nothing has this name yet: what takes its time is not done in vain.
pub(super) fn expect_none(path: &Path) -> Result<(), Failure> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(taken(path)),
        Err(_) => Ok(()),
    }
}

/// Makes a file and writes it. No link is followed on the way, and what is there is left alone; where it
/// cannot be written to its end, it is removed.
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
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(&parent, name, new, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::EXIST) => return Err(taken(path)),
        Err(errno) => return Err(failed(errno.into())),
    };
    let mut out = io::BufWriter::new(file);
    let written = write(&mut out)
        .and_then(|()| io::Write::flush(&mut out))
        .and_then(|()| out.get_ref().sync_all());
    written.map_err(|error| {
        // Half a report is none; what is left of it is not in the way of the next one for long.
        let _ = unlinkat(&parent, name, AtFlags::empty());
        failed(error)
    })
}

fn taken(path: &Path) -> Failure {
    Failure::refused(format!("{} exists already", show_path(path)))
        .remedy("remove it, or name another file with `--output`")
}
