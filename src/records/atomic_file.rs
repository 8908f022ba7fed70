//! Files that are replaced at once or not at all: written under a draft name, then renamed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::linux::sync;

/// What a draft's name ends with.
pub(crate) const DRAFT: &str = ".overstore-new";

/// Replaces the file `name` in `directory` by what `write` writes. Nothing is synced. Only under a
/// lock, since all write the same draft; one that a killed process left is removed first.
///
/// # Errors
/// Those of making, writing and renaming it; the draft is removed then.
pub(crate) fn replace<T>(
    directory: impl AsFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    draft_and_rename(directory, name, write)
}

/// [`replace`], and the file and its directory are synced: when this returns, it survives a power
/// cut.
///
/// # Errors
/// As [`replace`].
pub(crate) fn replace_durably<T>(
    directory: impl AsFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let written = draft_and_rename(&directory, name, |file| {
        let written = write(file)?;
        sync::sync(&*file)?;
        Ok(written)
    })?;
    sync::sync(&directory)?;
    Ok(written)
}

fn draft_and_rename<T>(
    directory: impl AsFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let draft = format!("{name}{DRAFT}");
    // A new file, so that nothing that somebody put at the draft's name is written to.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || openat(&directory, &draft, flags, Mode::from_raw_mode(0o644));
    let made = match make() {
        Err(Errno::EXIST) => {
            unlinkat(&directory, &draft, AtFlags::empty())?;
            make()
        }
        made => made,
    };
    let mut file = File::from(made?);
    let written = write(&mut file).and_then(|written| {
        renameat(&directory, &draft, &directory, name)?;
        Ok(written)
    });
    if written.is_err() {
        // The error that matters is the first.
        let _ = unlinkat(&directory, &draft, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        let path = directory.path().join("a");
        replace(&fd, "a", |file| file.write_all(b"one")).unwrap();
        replace_durably(&fd, "a", |file| file.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let failed = replace(&fd, "a", |file| {
            file.write_all(b"three")?;
            Err::<(), _>(io::Error::other("full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_at_the_name_of_the_draft_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::hard_link(&victim, directory.path().join(format!("a{DRAFT}"))).unwrap();
        replace(&fd, "a", |file| file.write_all(b"one")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
    }
}
