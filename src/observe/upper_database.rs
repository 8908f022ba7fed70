//! The upper database. It belongs to this store, so SQLite may lock it; nothing is written to it.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Row};

use crate::linux::regular_file;
use crate::linux::safe_path::{Reached, Symlinks};
use crate::nix::layout::DATABASE_FILE;
use crate::nix::schema::{self, SchemaObject};
use crate::observe::path::{self, Visited};
use crate::observe::{DatabaseContent, DatabaseFacts, Depth, FileFacts};
use crate::sqlite::hardening::is_ordinary_table;
use crate::sqlite::header;
use crate::sqlite::open::{self, OpenError};

/// How long somebody who writes may keep us waiting.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many violations a finding can use; more are not collected.
const MAXIMUM_VIOLATIONS: usize = 100;

/// The size in bytes above which a file with a number is something else.
const LONGEST_SMALL: u64 = 64;

/// Looks at the upper database in the directory `db`, which was visited.
pub(super) fn observe(db: &Visited, use_sqlite_wal: bool, depth: Depth) -> DatabaseFacts {
    let Some(directory) = &db.reached else {
        let file = match &db.place.found {
            crate::observe::Found::Missing { .. } => FileFacts::Missing,
            crate::observe::Found::Unreachable { errno, .. } => FileFacts::Unreachable(*errno),
            _ => FileFacts::Other("behind something that is not a safe directory".into()),
        };
        return DatabaseFacts {
            big_lock: file.clone(),
            reserved: file.clone(),
            schema: match &file {
                FileFacts::Missing => Ok(None),
                _ => Err("it cannot be reached".to_owned()),
            },
            file,
            content: None,
        };
    };
    let file = path::file(directory, DATABASE_FILE);
    let look_inside = matches!(depth, Depth::Check { .. })
        && matches!(&file, FileFacts::File { size, .. } if *size > 0);
    DatabaseFacts {
        schema: read_small(directory, "schema"),
        big_lock: path::file(directory, "big-lock"),
        reserved: path::file(directory, "reserved"),
        content: look_inside
            .then(|| content(directory, use_sqlite_wal).map_err(|error| error.to_string())),
        file,
    }
}

/// The text of a small file, if it is there.
fn read_small(directory: &Reached, name: &str) -> Result<Option<String>, String> {
    let read = regular_file::read_at(directory, name, Symlinks::Refuse, LONGEST_SMALL);
    match read.map_err(std::io::Error::from) {
        // What is not UTF-8 is no number either, and is shown so.
        Ok(content) => Ok(Some(
            String::from_utf8_lossy(&content).trim_end().to_owned(),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn content(directory: &Reached, use_sqlite_wal: bool) -> Result<DatabaseContent, OpenError> {
    let connection = open::to_read(directory, DATABASE_FILE, use_sqlite_wal, BUSY_TIMEOUT)?;
    let file = regular_file::open_at(directory, DATABASE_FILE, Symlinks::Refuse)
        .map_err(std::io::Error::from)?;
    let wal = header::has_write_ahead_log(&file)?;
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
    let (objects, migrations) = read_schema(connection, "main")?;
    Ok(schema::judge(&objects, &migrations))
}

/// The objects of a database that is attached as `name`, and the migrations that are recorded in it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_schema(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<(Vec<SchemaObject>, Vec<String>)> {
    // Text that is not UTF-8 is foreign, and shown so.
    let text = |row: &Row, column: usize| -> rusqlite::Result<Option<String>> {
        let bytes = row.get_ref(column)?.as_bytes_or_null()?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    let objects = connection
        .prepare(&format!("select type, name, sql from {name}.sqlite_master"))?
        .query_map([], |row| {
            Ok(SchemaObject {
                kind: text(row, 0)?.unwrap_or_default(),
                name: text(row, 1)?.unwrap_or_default(),
                sql: text(row, 2)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let migrations = match is_ordinary_table(connection, name, "SchemaMigrations")? {
        false => Vec::new(),
        true => connection
            .prepare(&format!("select migration from {name}.SchemaMigrations"))?
            .query_map([], |row| Ok(text(row, 0)?.unwrap_or_default()))?
            .collect::<rusqlite::Result<Vec<_>>>()?,
    };
    Ok((objects, migrations))
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
