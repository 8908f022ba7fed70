//! A local store's SQLite database, read while others may use it.
//!
//! SQLite itself cannot read such a database without touching it: its `mode=ro` opens the
//! write-ahead log and its index for writing and locks them, and fails where it may not;
//! `immutable=1` does neither, but does not see what is only in the log. A private copy of database
//! and log is right but costs what the store holds: half a gigabyte for a million paths, each time
//! anything is asked. So SQLite is given a file system of our own (`vfs`), in which the
//! database and the committed part of its log look like one file that never changes (`snapshot`,
//! `log`). Only the log is read beforehand, and four bytes are kept for each of its pages.
//!
//! Nothing stops others from writing meanwhile. What they append to the log is not seen. When they
//! move the log into the database, a later look ([`Database::confirm`]) finds the database's
//! modification time, size or header, or the log's header, changed: what was read is then to be
//! thrown away and read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use crate::escape::quote;
use crate::lower::LowerError;
use crate::nix::store_path::StorePath;
use crate::sqlite::hardening::{distrust, is_ordinary_table};
use crate::sqlite::snapshot::Snapshot;
use crate::sqlite::vfs::Exported;

/// One state of a lower store's database, to be attached to a connection.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    // Before the snapshot is let go, SQLite can no longer open it.
    exported: Exported,
    snapshot: Arc<Snapshot>,
}

impl Database {
    /// Takes the present state of the database at `path` (`${state}/db/db.sqlite`).
    ///
    /// # Errors
    /// When the database cannot be read as it is; see [`SnapshotError`].
    pub(crate) fn open(path: &Path) -> Result<Self, LowerError> {
        let snapshot = Arc::new(Snapshot::take(path)?);
        let exported = Exported::new(Arc::clone(&snapshot))
            .map_err(|error| LowerError::sqlite(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            exported,
            snapshot,
        })
    }

    /// Attaches it, read-only, as `name`, and sees that it has Nix's tables. The connection has to
    /// be one that takes URIs; afterwards it trusts no schema and takes no huge values.
    ///
    /// # Errors
    /// When SQLite refuses, or when the tables are not Nix's.
    pub(crate) fn attach(&self, connection: &Connection, name: &str) -> Result<(), LowerError> {
        // Whatever went wrong may come from a change meanwhile.
        self.try_attach(connection, name)
            .map_err(|error| self.confirm().err().unwrap_or(error))
    }

    fn try_attach(&self, connection: &Connection, name: &str) -> Result<(), LowerError> {
        let sqlite = |error| LowerError::sqlite(&self.path, error);
        distrust(connection).map_err(sqlite)?;
        connection
            .execute(&format!("attach ? as {name}"), [self.exported.uri()])
            .map_err(sqlite)?;
        for table in TABLES {
            if !is_nix(connection, name, table).map_err(sqlite)? {
                return Err(LowerError::NotNix {
                    path: self.path.clone(),
                    table: table.0.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Proves that all that was read since [`open`](Self::open) is one state of the database.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] when it is not.
    pub(crate) fn confirm(&self) -> Result<(), LowerError> {
        Ok(self.snapshot.confirm()?)
    }

    /// An error of reading it. Whatever went wrong may come from a change meanwhile.
    pub(crate) fn error(&self, source: rusqlite::Error) -> LowerError {
        let error = LowerError::sqlite(&self.path, source);
        self.confirm().err().unwrap_or(error)
    }

    /// Something that no database of Nix has.
    pub(crate) fn damaged(&self, what: String) -> LowerError {
        LowerError::Table {
            path: self.path.clone(),
            what,
        }
    }

    /// Expects each row to come after the last one.
    ///
    /// # Errors
    /// When it does not: `tree` is damaged.
    pub(crate) fn in_order(
        &self,
        last: &mut Option<i64>,
        now: i64,
        tree: &str,
    ) -> Result<(), LowerError> {
        match last.replace(now) {
            Some(last) if last >= now => {
                Err(self.damaged(format!("row {now} of {tree} is not in its place")))
            }
            _ => Ok(()),
        }
    }

    /// A row of it that Nix would not have written.
    pub(crate) fn wrong_row(&self, path: StorePath, what: String) -> LowerError {
        LowerError::Row {
            origin: quote(self.path.as_os_str().as_encoded_bytes()),
            path,
            what,
        }
    }
}

/// Nix's tables, each with how SQLite finds rows in it: what they are ordered by, and by which index.
const TABLES: [(&str, &str); 2] = [
    (
        "ValidPaths",
        "select (select group_concat(name || ' ' || lower(type)) \
         from pragma_table_xinfo('ValidPaths', ?1) where pk != 0) = 'id integer' \
         and (select group_concat(name) \
         from pragma_index_info('sqlite_autoindex_ValidPaths_1', ?1)) = 'path'",
    ),
    (
        "Refs",
        "select (select group_concat(name) \
         from pragma_index_info('sqlite_autoindex_Refs_1', ?1)) = 'referrer,reference' \
         and (select group_concat(name) \
         from pragma_index_info('IndexReference', ?1)) = 'reference'",
    ),
];

/// Whether a table is ordinary, and ordered as Nix's: without that, reading a damaged one may not end.
fn is_nix(connection: &Connection, schema: &str, table: (&str, &str)) -> rusqlite::Result<bool> {
    let (name, ordered) = table;
    let is_ordered = || {
        connection.query_row(ordered, [schema], |row| {
            Ok(row.get::<_, Option<bool>>(0)? == Some(true))
        })
    };
    Ok(is_ordinary_table(connection, schema, name)? && is_ordered()?)
}
