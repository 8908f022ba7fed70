//! Files opened for reading so that nothing can make us wait, act, or read without end: what is at
//! the name is looked at first, then opened without blocking, then looked at again.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::exhaustion;
use super::safe_path::{self, Obstacle, Reached, Status, Symlinks};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Something else than a regular file: in words.
    #[error("expected a regular file, found {0}")]
    NotRegular(&'static str),
    /// It is longer than what is looked for ever is: the limit, in bytes.
    #[error("expected at most {0} bytes, found more")]
    TooLong(u64),
    /// Something in the way to it.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// The kernel's reason.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> ReadError {
        ReadError::Io(errno.into())
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        match error {
            ReadError::Io(error) => error,
            ReadError::Obstacle(obstacle) => obstacle.into(),
            other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}

/// Opens a regular file by a walk from the root directory: see [`safe_path`].
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn open_walked(path: &Path, symlinks: Symlinks) -> Result<File, ReadError> {
    open_entry(safe_path::walk_to_entry(path, symlinks)?)
}

/// Opens a regular file by a walk from a directory that was reached.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn open_walked_below(
    start: &Reached,
    path: &Path,
    symlinks: Symlinks,
) -> Result<File, ReadError> {
    open_entry(safe_path::walk_to_entry_below(start, path, symlinks)?)
}

/// Opens what a walk reached.
fn open_entry((reached, parent): (Reached, Option<Reached>)) -> Result<File, ReadError> {
    let kind = reached.status().kind;
    let (Some(parent), Some(name), FileType::RegularFile) =
        (parent, reached.path().file_name(), kind)
    else {
        return Err(ReadError::NotRegular(kind_name(kind)));
    };
    let file = open_at(&parent, name, Symlinks::Refuse)?;
    let (opened, walked) = (Status::of(&file)?, reached.status());
    match opened.identity == walked.identity {
        true => Ok(file),
        false => Err(ReadError::Io(io::Error::other(
            "another file took its place meanwhile",
        ))),
    }
}

/// Opens a regular file, by a path that may lead through links.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    open_at(CWD, path, Symlinks::Follow)
}

/// Opens a regular file in a directory. Its access time stays where we may leave it alone.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn open_at(
    directory: impl AsFd,
    name: impl AsRef<Path>,
    symlinks: Symlinks,
) -> Result<File, ReadError> {
    let name = name.as_ref();
    let (at, no_follow) = match symlinks {
        Symlinks::Refuse => (AtFlags::SYMLINK_NOFOLLOW, OFlags::NOFOLLOW),
        Symlinks::Follow => (AtFlags::empty(), OFlags::empty()),
    };
    // Opening a device does something, even if nothing is read from it.
    expect_regular(statat(&directory, name, at)?.st_mode)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | no_follow;
    let opened = match openat(&directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner and root may leave it alone.
        Err(Errno::PERM) => openat(&directory, name, flags, Mode::empty()),
        opened => opened,
    };
    let file = exhaustion::note(opened)?;
    expect_regular(fstat(&file)?.st_mode)?;
    Ok(File::from(file))
}

/// The content of a regular file of at most so many bytes, by a path that may lead through links.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    read_to_end(open(path)?, limit)
}

/// Whether something is the null device: its major and minor number are 1 and 3 (null(4)).
pub(crate) fn is_null(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3)
}

/// [`read`], of a file in a directory.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn read_at(
    directory: impl AsFd,
    name: impl AsRef<Path>,
    symlinks: Symlinks,
    limit: u64,
) -> Result<Vec<u8>, ReadError> {
    read_to_end(open_at(directory, name, symlinks)?, limit)
}

/// The rest of a file, of at most so many bytes.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn read_to_end(file: File, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(ReadError::TooLong(limit)),
        false => Ok(content),
    }
}

fn expect_regular(mode: rustix::fs::RawMode) -> Result<(), ReadError> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(()),
        other => Err(ReadError::NotRegular(kind_name(other))),
    }
}

/// What a file type is called in messages.
pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something of an unknown type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_files_of_a_size_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "1234").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        symlink("loop", at("loop")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let fifo = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, fifo, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        assert_eq!(read(&at("file"), 4).unwrap(), b"1234");
        assert_eq!(read(&at("link"), 4).unwrap(), b"1234");
        assert!(matches!(read(&at("file"), 3), Err(ReadError::TooLong(3))));
        for (name, kind) in [
            ("pipe", "a named pipe"),
            ("socket", "a socket"),
            ("zero", "a character device"),
            ("directory", "a directory"),
        ] {
            let read = read(&at(name), 4);
            assert!(
                matches!(read, Err(ReadError::NotRegular(found)) if found == kind),
                "{read:?}"
            );
        }
        let own = File::open(directory.path()).unwrap();
        let link = read_at(&own, "link", Symlinks::Refuse, 4);
        assert!(matches!(
            link,
            Err(ReadError::NotRegular("a symbolic link"))
        ));
        assert_eq!(read_at(&own, "file", Symlinks::Refuse, 4).unwrap(), b"1234");
        for name in ["loop", "missing", "file/below"] {
            assert!(
                matches!(read(&at(name), 4), Err(ReadError::Io(_))),
                "{name}"
            );
        }
    }
}
