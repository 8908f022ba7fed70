//! A store's database, opened as Nix opens it: `openSQLite` in its `sqlite.cc` and `openDB` in its
//! `local-store.cc`. With other locks than Nix's, nothing would keep the two apart.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rusqlite::{ErrorCode, OpenFlags};
use rustix::fs::{Access, AtFlags, accessat};
use rustix::io::Errno;

use super::hardening::{distrust, expect_files};
use super::held::HeldConnection;
use super::{header, pending};
use crate::linux::regular_file;
use crate::linux::room;
use crate::linux::safe_path::Symlinks;
use crate::remedy::{self, Remedy, command};

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

impl OpenError {
    /// What helps, where it is the database at this path.
    pub(crate) fn remedy_at(&self, path: &Path) -> Remedy {
        match self {
            Self::Io(error) => remedy::of_io(error, path),
            Self::Sqlite(error) => remedy_of(error, path),
        }
    }
}

/// What helps against an error of SQLite's, where it is the database at this path. There is always
/// something: at least, where to look.
pub(crate) fn remedy_of(error: &rusqlite::Error, path: &Path) -> Remedy {
    let of_io = |errno: Errno| remedy::of_io(&errno.into(), path);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => of_io(Errno::NOSPC),
        Some(ErrorCode::ReadOnly) => of_io(Errno::ROFS),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => of_io(Errno::BUSY),
        // So it says, too, where a log or its index cannot be made, or cannot grow.
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure)
            if path.parent().is_some_and(room::is_used_up) =>
        {
            of_io(Errno::NOSPC)
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => of_io(Errno::ACCESS),
        Some(ErrorCode::OutOfMemory) => of_io(Errno::NOMEM),
        Some(ErrorCode::SystemIoFailure) => of_io(Errno::IO),
        _ => {
            Remedy::say("see what is wrong with it, and bring it back from a backup").run(command![
                "sqlite3",
                "-readonly",
                path,
                "pragma integrity_check"
            ])
        }
    }
}

/// Opens the database called `name` in a directory that was walked, to read it, in the way that
/// leaves the fewest traces. `use_sqlite_wal` is Nix's setting of that name, and `busy` how long
/// others may keep the database locked.
///
/// # Errors
/// See [`OpenError`]. One of its files being no regular file is an error, too.
pub(crate) fn to_read(
    directory: impl AsFd,
    name: &str,
    use_sqlite_wal: bool,
    busy: Duration,
) -> Result<HeldConnection, OpenError> {
    expect_files(&directory, name)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    Ok(if is_at_rest(&directory, name)? {
        // Nobody has it open, and SQLite would make a log and its index just for us.
        open(&directory, name, "?immutable=1", flags, true, busy)?
    } else {
        open(&directory, name, "", flags, use_sqlite_wal, busy)?
    })
}

/// The same where others may begin to write at any moment: as Nix does, with its locks, so that what is
/// read in one transaction is one state of it. Who may not write to the directory reads as with
/// [`to_read`].
///
/// # Errors
/// As for [`to_read`].
pub(crate) fn to_read_in_use(
    directory: impl AsFd,
    name: &str,
    use_sqlite_wal: bool,
    busy: Duration,
) -> Result<HeldConnection, OpenError> {
    if accessat(&directory, ".", Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        return to_read(directory, name, use_sqlite_wal, busy);
    }
    expect_files(&directory, name)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    Ok(open(&directory, name, "", flags, use_sqlite_wal, busy)?)
}

/// Makes a database called `name` in a directory that was walked, where nothing is.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn to_make(
    directory: impl AsFd,
    name: &str,
    busy: Duration,
) -> Result<HeldConnection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    Ok(open(&directory, name, "", flags, true, busy)?)
}

/// Attaches the database of a store in use as `schema`, to read it as Nix does: what is read in one
/// transaction is one state of it, whoever writes meanwhile.
///
/// # Errors
/// See [`OpenError`]. One of its files being no regular file is an error, too.
pub(crate) fn attach_to_read(
    connection: &mut HeldConnection,
    schema: &str,
    directory: impl AsFd,
    name: &str,
    use_sqlite_wal: bool,
) -> Result<(), OpenError> {
    expect_files(&directory, name)?;
    // The index of a log cannot be made where nobody may write; nobody writes there, either.
    let may_write = accessat(&directory, ".", Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let sealed = !may_write && is_at_rest(&directory, name)?;
    let query = match (sealed, use_sqlite_wal) {
        (true, _) => "?immutable=1",
        (false, true) => "?mode=ro",
        (false, false) => "?mode=ro&vfs=unix-dotfile",
    };
    Ok(connection.attach(directory.as_fd(), name, query, schema)?)
}

/// Attaches a database that nobody writes to any more.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn attach_sealed(
    connection: &mut HeldConnection,
    schema: &str,
    directory: impl AsFd,
    name: &str,
) -> Result<(), OpenError> {
    expect_files(&directory, name)?;
    Ok(connection.attach(directory.as_fd(), name, "?immutable=1", schema)?)
}

/// The same to write to a database that is there.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn to_write(
    directory: impl AsFd,
    name: &str,
    use_sqlite_wal: bool,
    busy: Duration,
) -> Result<HeldConnection, OpenError> {
    expect_files(&directory, name)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    Ok(open(&directory, name, "", flags, use_sqlite_wal, busy)?)
}

fn open(
    directory: impl AsFd,
    name: &str,
    query: &str,
    access: OpenFlags,
    use_sqlite_wal: bool,
    busy: Duration,
) -> rusqlite::Result<HeldConnection> {
    let flags = access
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let vfs = match use_sqlite_wal {
        true => c"unix",
        // For file systems whose locks cannot be relied on.
        false => c"unix-dotfile",
    };
    let connection = HeldConnection::open(directory.as_fd(), name, query, flags, vfs)?;
    connection.busy_timeout(busy)?;
    distrust(&connection)?;
    Ok(connection)
}

/// Whether a database has a write-ahead log with neither content nor the index that a process makes
/// that opens it.
fn is_at_rest(directory: impl AsFd, name: &str) -> io::Result<bool> {
    let open = |suffix: &str| {
        let name = format!("{name}{suffix}");
        regular_file::open_at(&directory, name, Symlinks::Refuse).map_err(io::Error::from)
    };
    let beside = |suffix: &str| match open(suffix) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let database = open("")?;
    if !header::has_write_ahead_log(&database)? || beside("-shm")?.is_some() {
        return Ok(false);
    }
    let log = beside("-wal")?;
    Ok(pending::pages(&database, log.as_ref(), None, true)? == Some(0))
}
