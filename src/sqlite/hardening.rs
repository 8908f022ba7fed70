//! What keeps an SQLite database that somebody has tampered with from doing harm. Source: "Defense
//! Against The Dark Arts" in SQLite's documentation (<https://sqlite.org/security.html>).

use std::io;
use std::os::fd::AsFd;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

/// Longest text of a row, in bytes: what is longer is an error, not memory.
const LONGEST_ROW: i32 = 1 << 20;

/// What SQLite keeps beside a database, and the database itself.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Has a connection trust no schema, run no trigger and no view, and take no huge values.
///
/// Nix's own triggers only act on rows that are deleted, which nobody does here.
///
/// # Errors
/// When SQLite refuses.
pub(crate) fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_ROW)?;
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    ] {
        connection.set_db_config(setting, value)?;
    }
    Ok(())
}

/// Whether this is an ordinary table, with row ids and without computed columns: nothing in it runs
/// when it is read.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn is_ordinary_table(
    connection: &Connection,
    schema: &str,
    table: &str,
) -> rusqlite::Result<bool> {
    connection.query_row(
        "select count(*) from pragma_table_list l \
         where l.schema = ?1 and l.name = ?2 and l.type = 'table' and l.wr = 0 and not exists \
         (select * from pragma_table_xinfo(?2, ?1) where hidden != 0)",
        (schema, table),
        |row| Ok(row.get::<_, i64>(0)? == 1),
    )
}

/// Refuses a database whose file, or one that SQLite would open beside it, is no regular file:
/// opening a named pipe waits for ever, and a symbolic link leads elsewhere.
///
/// # Errors
/// `InvalidInput` names the file.
pub(crate) fn expect_files(directory: impl AsFd, database: &str) -> io::Result<()> {
    for suffix in SUFFIXES {
        let name = format!("{database}{suffix}");
        match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("expected a regular file as {name}"),
                ));
            }
        }
    }
    Ok(())
}
