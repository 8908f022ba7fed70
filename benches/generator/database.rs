//! The database, written in bulk: no journal while there is nothing to lose.

use std::path::Path;

use rusqlite::{Connection, Result, params};

use super::content::hex;
use super::{Row, STORE};

pub struct Database {
    connection: Connection,
    rows: u32,
}

impl Database {
    pub fn create(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "pragma page_size = 4096;
             pragma journal_mode = off;
             pragma synchronous = off;
             pragma locking_mode = exclusive;
             pragma foreign_keys = off;
             -- KiB: a million paths' indexes, filled in no order, fit in.
             pragma cache_size = -1000000;",
        )?;
        connection.execute_batch(overstore::testing::nix::schema::SQL)?;
        connection.execute_batch("begin")?;
        Ok(Self {
            connection,
            rows: 0,
        })
    }

    pub fn add(&mut self, row: &Row) -> Result<()> {
        let path = |base_name: &str| format!("{STORE}/{base_name}");
        self.rows += 1;
        self.connection
            .prepare_cached("insert into ValidPaths values (?, ?, ?, ?, ?, ?, ?, ?, ?)")?
            .execute(params![
                self.rows,
                path(&row.base_name),
                format!("sha256:{}", hex(&row.nar_hash)),
                row.registration_time,
                row.deriver.as_deref().map(path),
                i64::try_from(row.nar_size).ok(),
                row.ultimate.then_some(1),
                row.signature,
                row.content_address,
            ])?;
        let mut statement = self
            .connection
            .prepare_cached("insert into Refs values (?, ?)")?;
        for reference in &row.references {
            statement.execute([self.rows, *reference])?;
        }
        let mut statement = self
            .connection
            .prepare_cached("insert into DerivationOutputs values (?, ?, ?)")?;
        for (name, base_name) in &row.outputs {
            statement.execute(params![self.rows, name, path(base_name)])?;
        }
        Ok(())
    }

    /// Commits, and leaves the database in the journal mode that Nix wants, with an empty log.
    pub fn finish(self) -> Result<()> {
        self.connection.execute_batch("commit")?;
        for pragma in [
            "pragma journal_mode = wal",
            "pragma wal_checkpoint(truncate)",
        ] {
            self.connection.query_row(pragma, [], |_| Ok(()))?;
        }
        self.connection.close().map_err(|(_, error)| error)
    }
}
