//! A store's database, opened as Nix opens it: `openSQLite` in its `sqlite.cc` and `openDB` in its
//! `local-store.cc`. With other locks than Nix's, nothing would keep the two apart.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::hardening::distrust;
use super::{header, pending};
use crate::escape::percent_encode;
use crate::linux::regular_file;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its files could not be looked at.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// SQLite says no.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Opens the database of a store to read it, in the way that leaves the fewest traces. Whoever does
/// has looked at its files before ([`expect_files`](super::hardening::expect_files)).
/// `use_sqlite_wal` is Nix's setting of that name, and `busy` how long others may keep the database
/// locked.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn to_read(
    path: &Path,
    use_sqlite_wal: bool,
    busy: Duration,
) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    Ok(if is_at_rest(path)? {
        // Nobody has it open, and SQLite would make a log and its index just for us.
        open(path, "?immutable=1", flags, true, busy)?
    } else {
        open(path, "", flags, use_sqlite_wal, busy)?
    })
}

/// The same to write to a database that is there.
///
/// # Errors
/// When SQLite refuses.
pub(crate) fn to_write(
    path: &Path,
    use_sqlite_wal: bool,
    busy: Duration,
) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    open(path, "", flags, use_sqlite_wal, busy)
}

fn open(
    path: &Path,
    query: &str,
    access: OpenFlags,
    use_sqlite_wal: bool,
    busy: Duration,
) -> rusqlite::Result<Connection> {
    let flags = access
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!(
        "file:{}{query}",
        percent_encode(path.as_os_str().as_bytes())
    );
    let connection = if use_sqlite_wal {
        Connection::open_with_flags(uri, flags)?
    } else {
        // For file systems whose locks cannot be relied on.
        Connection::open_with_flags_and_vfs(uri, flags, c"unix-dotfile")?
    };
    connection.busy_timeout(busy)?;
    distrust(&connection)?;
    Ok(connection)
}

/// Whether a database has a write-ahead log with neither content nor the index that a process makes
/// that opens it.
fn is_at_rest(path: &Path) -> io::Result<bool> {
    let database = regular_file::open(path)?;
    if !header::has_write_ahead_log(&database)? {
        return Ok(false);
    }
    let beside = |suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        match regular_file::open(Path::new(&path)).map_err(io::Error::from) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    if beside("-shm")?.is_some() {
        return Ok(false);
    }
    let log = beside("-wal")?;
    Ok(pending::pages(&database, log.as_ref(), None, true)? == Some(0))
}
