//! The upper database, made as Nix makes it.
//!
//! It is built complete in memory, written under a name of overstore's own, synced and renamed: a
//! `db.sqlite` that we made is never half a database. The `schema` file comes last, for it tells Nix
//! that the database is there: without it, Nix and the next run take up what they find. Source of
//! the names, modes, sizes and of the protocol of locks: Nix's `LocalStore`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::{Doing, Error, walked};
use crate::linux::locks::{self, LIMIT, attempt};
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::layout::{self, DATABASE_FILE, RESERVED_SIZE};
use crate::nix::schema;
use crate::records::atomic_file;
use crate::sqlite::header;
use crate::sqlite::open::{self, OpenError};

/// How long a Nix that has the database open may keep it locked.
const BUSY: Duration = Duration::from_secs(60);

/// What is kept free on the file system for Nix's collector, by a file that it then deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    /// The space that Nix keeps.
    Space,
    /// Nothing: the file is a hole, with which Nix is content. For a store that is never collected
    /// because it is gone before.
    Nothing,
}

/// Makes the upper database in `${state}/db`, which exists, or finishes one whose making was
/// interrupted. `waiting` is called once if another process holds Nix's lock for more than a second.
///
/// # Errors
/// When the machine could not do it.
pub(super) fn make(
    state: &Path,
    wal: bool,
    reserve: Reserve,
    waiting: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let path = state.join(layout::DATABASE_DIRECTORY);
    let directory = walked(&path, safe_path::directory(&path, Symlinks::Refuse))?
        .open()
        .doing("open", &path)?;
    let making = Making {
        directory,
        path,
        wal,
    };
    let Some(_lock) = making.lock(waiting)? else {
        return Ok(());
    };
    making.reserve(reserve)?;
    making.database()?;
    making.schema()
}

/// The directory it is made in.
struct Making {
    directory: OwnedFd,
    path: PathBuf,
    wal: bool,
}

impl Making {
    /// Takes Nix's lock on the whole database, exclusively as for a migration: no Nix has it open
    /// then. `None` if a Nix that had it open made the database meanwhile.
    fn lock(&self, waiting: &mut dyn FnMut(&str)) -> Result<Option<OwnedFd>, Error> {
        let path = self.path.join("big-lock");
        let file = self.own_file("big-lock", OFlags::RDWR)?;
        let mut told = || waiting("Nix, which has the upper database open");
        let locked = locks::wait(LIMIT, &mut told, || -> Result<_, Error> {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            match attempt(&file, exclusive).doing("lock", &path)? {
                Some(()) => Ok(Some(true)),
                None => Ok(self.is_made()?.then_some(false)),
            }
        })?;
        match locked {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => {
                return Err(Error::DatabaseInUse {
                    path: self.path.clone(),
                    minutes: LIMIT.as_secs() / 60,
                });
            }
        }
        Ok((!self.is_made()?).then_some(file))
    }

    /// Whether both files are there that Nix needs to open it.
    fn is_made(&self) -> Result<bool, Error> {
        let Some(database) = self.open(DATABASE_FILE)? else {
            return Ok(false);
        };
        let path = self.path.join(DATABASE_FILE);
        let empty = rustix::fs::fstat(&database).doing("look at", path)?.st_size == 0;
        Ok(!empty && self.open("schema")?.is_some())
    }

    /// Makes `reserved`. It need not be synced: Nix makes it again when it is missing.
    fn reserve(&self, what: Reserve) -> Result<(), Error> {
        let path = self.path.join("reserved");
        let file = self.own_file("reserved", OFlags::WRONLY)?;
        if what == Reserve::Nothing {
            return rustix::fs::ftruncate(&file, RESERVED_SIZE).doing("enlarge", &path);
        }
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED_SIZE) {
            Err(Errno::OPNOTSUPP) => fill(&mut File::from(file)).doing("write", &path),
            result => result.doing("allocate", &path),
        }
    }

    /// Opens a file for writing, or makes it. What is there has to be a file of this name alone: a
    /// pipe would make us wait, a hard link has us write into a file that is somewhere else.
    fn own_file(&self, name: &str, access: OFlags) -> Result<OwnedFd, Error> {
        let path = self.path.join(name);
        let flags = access | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, mode(0o600)).doing("open", &path)?;
        let found = rustix::fs::fstat(&file).doing("look at", &path)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        match regular && found.st_nlink == 1 {
            true => Ok(file),
            false => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "expected a file that has no other name: move away what is there",
            ))
            .doing("use", path),
        }
    }

    /// Makes `db.sqlite`, or completes one that a Nix began.
    fn database(&self) -> Result<(), Error> {
        let path = self.path.join(DATABASE_FILE);
        let failed = |source| Error::Database {
            path: path.clone(),
            source,
        };
        let image = image(self.wal).map_err(failed)?;
        match self.open(DATABASE_FILE)? {
            None => self.write(DATABASE_FILE, &image),
            Some(file) if is_image(&file, &image).doing("read", &path)? => Ok(()),
            Some(_) => complete(&self.directory, self.wal).map_err(|error| match error {
                OpenError::Io(source) => Error::Io {
                    action: "use",
                    path: path.clone(),
                    source,
                },
                OpenError::Sqlite(source) => failed(source),
            }),
        }
    }

    /// Makes the `schema` file, which makes the database one.
    fn schema(&self) -> Result<(), Error> {
        match self.open("schema")? {
            Some(_) => Ok(()),
            None => self.write("schema", schema::VERSION.to_string().as_bytes()),
        }
    }

    /// Opens a file for reading, if it is there.
    fn open(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).doing("open", self.path.join(name)),
        }
    }

    /// Writes a file: complete, on the disk and under its name, or not at all.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        atomic_file::replace_durably(&self.directory, name, |file| file.write_all(content))
            .doing("write", self.path.join(name))
    }
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// Fills `reserved` where the file system cannot allocate space ahead: with the letter that Nix
/// uses, and in pieces, for the memory's sake.
fn fill(file: &mut File) -> std::io::Result<()> {
    let piece = [b'X'; 16 << 10];
    for _ in 0..RESERVED_SIZE / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    Ok(())
}

/// The bytes of an empty database with Nix's schema.
fn image(wal: bool) -> rusqlite::Result<Vec<u8>> {
    let mut connection = Connection::open_in_memory()?;
    connection.execute_batch("pragma page_size = 4096")?;
    connection.execute_batch(schema::SQL)?;
    let mut image = connection.serialize("main")?.to_vec();
    // A database in memory cannot have a write-ahead log.
    if let Some(versions) = image.get_mut(header::FORMAT_VERSIONS) {
        versions.fill(match wal {
            true => header::WRITE_AHEAD_LOG,
            false => header::ROLLBACK_JOURNAL,
        });
    }
    Ok(image)
}

/// Whether a file has exactly this content.
fn is_image(file: impl AsFd, image: &[u8]) -> std::io::Result<bool> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let mut content = Vec::with_capacity(image.len() + 1);
    file.take(image.len() as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content == image)
}

/// Does to a database what Nix does to a new one: every statement of the schema leaves alone what is
/// there.
fn complete(directory: impl AsFd, wal: bool) -> Result<(), OpenError> {
    let connection = open::to_write(directory, DATABASE_FILE, wal, BUSY)?;
    let journal_mode = if wal { "wal" } else { "truncate" };
    connection.pragma_update(None, "journal_mode", journal_mode)?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(schema::SQL)?;
    Ok(connection.close()?)
}
