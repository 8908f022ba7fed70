//! The upper database. It belongs to this store, so SQLite may lock it; nothing is written to it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};
use rustix::fs::{Mode, OFlags};

use crate::nix::schema::{self, SchemaObject};
use crate::observe::path::{self, Visited};
use crate::observe::{DatabaseContent, DatabaseFacts, Depth, FileFacts};
use crate::sqlite::hardening::{distrust, expect_files, is_ordinary_table};
use crate::sqlite::pending;

/// How long somebody who writes may keep us waiting.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many violations a finding can use; more are not collected.
const MAXIMUM_VIOLATIONS: usize = 100;

/// Looks at the upper database in the directory `db`, which was visited.
pub(super) fn observe(db: &Visited, use_sqlite_wal: bool, depth: Depth) -> DatabaseFacts {
    let Some(directory) = &db.reached else {
        let file = match &db.place.found {
            crate::observe::Found::Missing { .. } => FileFacts::Missing,
            crate::observe::Found::Unreachable { errno, .. } => FileFacts::Unreachable(*errno),
            _ => FileFacts::Other("behind something that is not a safe directory"),
        };
        return DatabaseFacts {
            big_lock: file.clone(),
            reserved: file.clone(),
            file,
            schema: None,
            content: None,
        };
    };
    let file = path::file(directory, "db.sqlite");
    let look_inside = matches!(depth, Depth::Check { .. })
        && matches!(&file, FileFacts::File { size, .. } if *size > 0);
    DatabaseFacts {
        schema: read_small(directory, "schema"),
        big_lock: path::file(directory, "big-lock"),
        reserved: path::file(directory, "reserved"),
        content: look_inside.then(|| {
            expect_files(directory, "db.sqlite")
                .map_err(Unreadable::from)
                .and_then(|()| content(&directory.path().join("db.sqlite"), use_sqlite_wal))
                .map_err(|error| error.to_string())
        }),
        file,
    }
}

fn read_small(directory: impl std::os::fd::AsFd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(64).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// Why a database could not be looked into.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

fn content(path: &Path, use_sqlite_wal: bool) -> Result<DatabaseContent, Unreadable> {
    let wal = is_wal(path)?;
    let connection = open(path, wal, use_sqlite_wal)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    distrust(&connection)?;
    let quick_check = quick_check(&connection)?;
    let schema = judge_schema(&connection)?;
    Ok(DatabaseContent {
        wal,
        // Rows of a damaged database cannot be compared.
        foreign_keys: match quick_check.is_empty() {
            true => match foreign_keys(&connection) {
                // Nor can those of other tables than Nix's.
                Err(_) if !schema.altered.is_empty() || !schema.missing.is_empty() => Vec::new(),
                violations => violations?,
            },
            false => Vec::new(),
        },
        schema,
        quick_check,
    })
}

fn judge_schema(connection: &Connection) -> rusqlite::Result<schema::Verdict> {
    // Text that is not UTF-8 is foreign, and shown so.
    let text = |row: &Row, column: usize| -> rusqlite::Result<Option<String>> {
        let bytes = row.get_ref(column)?.as_bytes_or_null()?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    let objects = connection
        .prepare("select type, name, sql from sqlite_master")?
        .query_map([], |row| {
            Ok(SchemaObject {
                kind: text(row, 0)?.unwrap_or_default(),
                name: text(row, 1)?.unwrap_or_default(),
                sql: text(row, 2)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let migrations = match is_ordinary_table(connection, "main", "SchemaMigrations")? {
        false => Vec::new(),
        true => connection
            .prepare("select migration from SchemaMigrations")?
            .query_map([], |row| Ok(text(row, 0)?.unwrap_or_default()))?
            .collect::<rusqlite::Result<Vec<_>>>()?,
    };
    Ok(schema::judge(&objects, &migrations))
}

/// Whether the header says that the database has a write-ahead log.
/// <https://sqlite.org/fileformat2.html#the_database_header>, offset 18.
fn is_wal(path: &Path) -> io::Result<bool> {
    let mut header = [0; 20];
    File::open(path)?.read_exact(&mut header)?;
    Ok(header[18] == 2)
}

/// Opens the database for reading, in the way that leaves the fewest traces.
fn open(path: &Path, wal: bool, use_sqlite_wal: bool) -> Result<Connection, Unreadable> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let mut uri = b"file:".to_vec();
    percent_encode(path.as_os_str().as_bytes(), &mut uri);
    let name = String::from_utf8_lossy(&uri).into_owned();
    if wal && is_at_rest(path)? {
        // Nobody has it open, and SQLite would make a log and its index just for us.
        let name = format!("{name}?immutable=1");
        return Ok(Connection::open_with_flags(name, flags)?);
    }
    // As Nix opens it: the locks of one way do not hold against those of the other.
    Ok(match use_sqlite_wal {
        true => Connection::open_with_flags(name, flags)?,
        false => Connection::open_with_flags_and_vfs(name, flags, c"unix-dotfile")?,
    })
}

/// Whether a database in WAL mode has neither content in its log nor the index that a process makes
/// that opens it.
fn is_at_rest(path: &Path) -> io::Result<bool> {
    let beside = |suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    if beside("-shm")?.is_some() {
        return Ok(false);
    }
    let log = beside("-wal")?;
    let pending = pending::pages(&File::open(path)?, log.as_ref(), None, true)?;
    Ok(pending == Some(0))
}

/// Writes a path into a `file:` URI.
fn percent_encode(path: &[u8], uri: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(byte),
            _ => uri.extend(format!("%{byte:02x}").into_bytes()),
        }
    }
}

fn quick_check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = format!("pragma quick_check({MAXIMUM_VIOLATIONS})");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut lines = match rows.collect::<rusqlite::Result<Vec<_>>>() {
        // Too much for the check to go on is damage too.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            vec![error.to_string()]
        }
        lines => lines?,
    };
    lines.retain(|line| line != "ok");
    Ok(lines)
}

fn foreign_keys(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("pragma foreign_key_check")?;
    let rows = statement.query_map([], |row| {
        let table: String = row.get(0)?;
        let rowid: Option<i64> = row.get(1)?;
        let parent: String = row.get(2)?;
        Ok(match rowid {
            Some(rowid) => format!("row {rowid} of {table} refers to a missing row of {parent}"),
            None => format!("a row of {table} refers to a missing row of {parent}"),
        })
    })?;
    rows.take(MAXIMUM_VIOLATIONS).collect()
}
