//! One state of a database in use by others, without a lock on it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::header;
use crate::escape::show_path;
use crate::linux::file_identity::FileIdentity;
use crate::linux::regular_file;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::remedy::{self, HasRemedy, Remedy};
use crate::sqlite::wal::{HEADER as LOG_HEADER, Log, read_full};

/// Longer than the clock that file systems take modification times from stands still (10 ms at
/// most): a change after a file has not changed for this long shows in its time.
const SETTLED: Duration = Duration::from_millis(20);
/// How often that is waited for.
const SETTLE_TRIES: usize = 50;
/// Bytes of a rollback journal's header that say whether it is one to be played back.
const JOURNAL_MAGIC: usize = 8;

/// Why a database could not be read as it is.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file of the database cannot be opened or read.
    #[error("cannot read {path}: {source}", path = show_path(path))]
    Io {
        /// The database or its log.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not a database.
    #[error("{path} is not an SQLite database: {what}", path = show_path(path))]
    NotADatabase {
        /// The database.
        path: PathBuf,
        /// What was expected, and what was found.
        what: &'static str,
    },
    /// A transaction is under way, or one was left unfinished by a crash.
    #[error(
        "{journal} holds an unfinished transaction, so {path} cannot be read without writing to it", journal = show_path(journal), path = show_path(path))]
    Unfinished {
        /// The database.
        path: PathBuf,
        /// Its rollback journal.
        journal: PathBuf,
    },
    /// Somebody wrote to the database while it was read.
    #[error("{path} changed while it was read", path = show_path(path))]
    Changed {
        /// The database.
        path: PathBuf,
    },
}

impl HasRemedy for SnapshotError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unfinished { .. } => Remedy::say(
                "run any Nix command on that store, which undoes the transaction, then try again",
            ),
            Self::Changed { .. } => Remedy::say("try again when nobody writes to that store")
                .or("use its daemon as the lower store"),
            Self::Io { path, source } => remedy::of_io(source, path),
            Self::NotADatabase { .. } => Remedy::say(
                "see whether it is the store's database, and have its owner bring it back from a backup",
            ),
        }
    }
}

impl SnapshotError {
    /// Whether another try can succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Changed { .. } | Self::Unfinished { .. })
    }
}

/// The database and the committed part of its write-ahead log, as they were at one moment.
///
/// Both are read in place. Writers only append to the log, which leaves this state as it is, until
/// they move the log into the database and begin the log anew: [`Snapshot::confirm`] tells.
#[derive(Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    database: File,
    log_file: Option<File>,
    log: Log,
    page_size: u64,
    mark: Mark,
}

/// What changes when the database changes underneath a snapshot.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    database: FileMark,
    /// Includes the change counter.
    header: [u8; header::SIZE],
    /// Identity and header (with the salts of this round) of the log; none when it is empty.
    log: Option<(FileIdentity, [u8; LOG_HEADER])>,
}

/// Not the change time: Nix moves it by opening the database. Writing moves both.
#[derive(Debug, PartialEq, Eq)]
struct FileMark {
    file: FileIdentity,
    bytes: u64,
    modified: (i64, i64),
}

impl Snapshot {
    /// Takes the present state of the database at `path`.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub(crate) fn take(path: &Path) -> Result<Self, SnapshotError> {
        let files = Files::of(path)?;
        files.refuse_unfinished()?;
        let (mark, database, log_file) = Mark::take_settled(&files)?;
        let not_a_database = |what| SnapshotError::NotADatabase {
            path: path.to_owned(),
            what,
        };
        let log = match (&log_file, &mark.log) {
            (Some(file), Some((_, header))) => {
                Log::read(file, header).map_err(|source| SnapshotError::Io {
                    path: beside(path, "-wal"),
                    source,
                })?
            }
            _ => Log::default(),
        };
        let page_size = if log.has_content() {
            u64::from(log.page_size())
        } else {
            if mark.database.bytes == 0 {
                return Err(not_a_database("it is empty"));
            }
            page_size(&mark.header)
                .ok_or_else(|| not_a_database("expected a database's header at its beginning"))?
        };
        if mark.database.bytes != 0 && page_size != self::page_size(&mark.header).unwrap_or(0) {
            return Err(not_a_database(
                "its page size and that of its write-ahead log differ",
            ));
        }
        let snapshot = Self {
            path: path.to_owned(),
            database,
            log_file,
            log,
            page_size,
            mark,
        };
        // The log was read after its header was.
        snapshot.confirm()?;
        Ok(snapshot)
    }

    /// Proves that what was read so far is the one state that was taken.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] if it is not.
    pub(crate) fn confirm(&self) -> Result<(), SnapshotError> {
        let changed = || SnapshotError::Changed {
            path: self.path.clone(),
        };
        // By path again: another file may have taken its place, and a network file system asks
        // its server when a file is opened.
        let files = Files::of(&self.path).map_err(|_| changed())?;
        let (mark, ..) = Mark::take(&files).map_err(|_| changed())?;
        files.refuse_unfinished().map_err(|_| changed())?;
        // A log that was empty may have begun: it is appended to, the database is as it was.
        if mark.database == self.mark.database
            && mark.header == self.mark.header
            && (self.mark.log.is_none() || mark.log == self.mark.log)
        {
            Ok(())
        } else {
            Err(changed())
        }
    }

    /// Bytes of the database in this state.
    pub(crate) fn size(&self) -> u64 {
        if self.log.has_content() {
            u64::from(self.log.pages()) * self.page_size
        } else {
            self.mark.database.bytes
        }
    }

    /// Reads as from one file without a write-ahead log; returns how many bytes there were.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.size();
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            if at >= end {
                break;
            }
            let within = at % self.page_size;
            let wanted = (self.page_size - within)
                .min((buffer.len() - filled) as u64)
                .min(end - at);
            let part = &mut buffer[filled..filled + wanted as usize];
            let page = u32::try_from(at / self.page_size + 1)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let read = match (&self.log_file, self.log.offset_of(page)) {
                (Some(file), Some(start)) => read_full(file, part, start + within)?,
                _ => read_full(&self.database, part, at)?,
            };
            if read < part.len() {
                // A page that is only being added: it is not in the database yet.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (position, byte) in (at..).zip(part) {
                if position >= header::FORMAT_VERSIONS.end as u64 {
                    break;
                }
                let is_version = position >= header::FORMAT_VERSIONS.start as u64;
                if is_version && *byte == header::WRITE_AHEAD_LOG {
                    *byte = header::ROLLBACK_JOURNAL;
                }
            }
            filled += wanted as usize;
        }
        Ok(filled)
    }
}

impl Mark {
    /// A mark from which every later change differs: writing moves the modification time, once
    /// the clock that it is taken from has moved.
    fn take_settled(files: &Files<'_>) -> Result<(Self, File, Option<File>), SnapshotError> {
        let (mut mark, mut database, mut log) = Self::take(files)?;
        for _ in 0..SETTLE_TRIES {
            let (seconds, nanoseconds) = mark.database.modified;
            let age = SystemTime::UNIX_EPOCH
                .checked_add(Duration::new(
                    u64::try_from(seconds).unwrap_or(0),
                    u32::try_from(nanoseconds).unwrap_or(0),
                ))
                // A time in the future is of another machine's clock.
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > SETTLED) {
                return Ok((mark, database, log));
            }
            thread::sleep(SETTLED);
            let earlier = mark;
            (mark, database, log) = Self::take(files)?;
            if mark == earlier {
                return Ok((mark, database, log));
            }
        }
        Err(SnapshotError::Changed {
            path: files.path.to_owned(),
        })
    }

    fn take(files: &Files<'_>) -> Result<(Self, File, Option<File>), SnapshotError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::Io { path, source }
        };
        let path = files.path;
        let log_path = beside(path, "-wal");
        // The log first: whoever moves it into the database in between changes the database,
        // which is then read (and marked) as it is after that.
        let log_file = match files.open("-wal") {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(&log_path)(error)),
        };
        let mut log = None;
        if let Some(file) = &log_file {
            let metadata = file.metadata().map_err(io(&log_path))?;
            let mut header = [0; LOG_HEADER];
            let filled = read_full(file, &mut header, 0).map_err(io(&log_path))?;
            if filled == header.len() {
                log = Some((FileIdentity::from(&metadata), header));
            }
        }
        let database = files.open("").map_err(io(path))?;
        let metadata = database.metadata().map_err(io(path))?;
        let mut header = [0; header::SIZE];
        read_full(&database, &mut header, 0).map_err(io(path))?;
        let mark = Self {
            database: FileMark {
                file: FileIdentity::from(&metadata),
                bytes: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            },
            header,
            log,
        };
        Ok((mark, database, log_file))
    }
}

/// A database and what SQLite keeps beside it, in one directory that was walked: what is read is not
/// the one file of this directory and the other of that.
struct Files<'p> {
    /// The path of the database.
    path: &'p Path,
    directory: Reached,
}

impl<'p> Files<'p> {
    fn of(path: &'p Path) -> Result<Self, SnapshotError> {
        let walk = || {
            let whole = std::path::absolute(path)?;
            let directory = whole.parent().unwrap_or(Path::new("/"));
            Ok(safe_path::directory(directory, Symlinks::Follow)?)
        };
        match walk() {
            Ok(directory) => Ok(Self { path, directory }),
            Err(source) => Err(SnapshotError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Opens a regular file for reading, which its directory's owner cannot have be somebody else's.
    fn open(&self, suffix: &str) -> io::Result<File> {
        let path = beside(self.path, suffix);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(regular_file::open_walked_below(
            &self.directory,
            Path::new(name),
            Symlinks::Follow,
        )?)
    }

    /// Refuses a database whose rollback journal has to be played back first.
    fn refuse_unfinished(&self) -> Result<(), SnapshotError> {
        let journal = beside(self.path, "-journal");
        let file = match self.open("-journal") {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(SnapshotError::Io {
                    path: journal,
                    source,
                });
            }
        };
        let mut magic = [0; JOURNAL_MAGIC];
        // An emptied or zeroed journal is a finished one.
        let filled = read_full(&file, &mut magic, 0).map_err(|source| SnapshotError::Io {
            path: journal.clone(),
            source,
        })?;
        if magic[..filled].iter().any(|byte| *byte != 0) {
            return Err(SnapshotError::Unfinished {
                path: self.path.to_owned(),
                journal,
            });
        }
        Ok(())
    }
}

/// The path of a file that SQLite keeps beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn page_size(header: &[u8; header::SIZE]) -> Option<u64> {
    if !header.starts_with(b"SQLite format 3\0") {
        return None;
    }
    match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => Some(65536),
        size if size.is_power_of_two() && size >= 512 => Some(size),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a database is called does not break out of the message's line.
    #[test]
    fn hostile_names_stay_in_their_line() {
        let path = PathBuf::from("/a\n\u{202e}b");
        let journal = path.clone();
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let (what, missing) = ("no header", source());
        for error in [
            SnapshotError::Io {
                path: path.clone(),
                source: missing,
            },
            SnapshotError::NotADatabase {
                path: path.clone(),
                what,
            },
            SnapshotError::Unfinished {
                path: path.clone(),
                journal,
            },
            SnapshotError::Changed { path },
        ] {
            let text = error.to_string();
            assert!(text.contains(r"/a\n\u{202e}b"), "{text}");
            assert!(!text.contains(['\n', '\u{202e}']), "{text}");
        }
    }
}
