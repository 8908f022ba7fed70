//! A store of which all parts are directories of one temporary directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use overstore::testing::config;
use overstore::testing::config::{Environment, Store};
use overstore::testing::counts::Counts;
use overstore::testing::nix::StoreDirectory;
use overstore::testing::nix::schema;
use overstore::testing::warm::{Wanted, Warm, WarmError, Warmed};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::Files;

/// A few names of store objects.
pub const NAMES: [&str; 4] = [
    "00000000000000000000000000000000-a",
    "11111111111111111111111111111111-b",
    "22222222222222222222222222222222-c.drv",
    "33333333333333333333333333333333-d",
];

/// The whole path of one of them.
pub fn path(index: u8) -> String {
    format!("/nix/store/{}", NAMES[usize::from(index) % NAMES.len()])
}

/// A place for a store, used again and again.
pub struct Scratch {
    directory: TempDir,
    empty: Vec<u8>,
    /// The store's description.
    pub store: Store,
}

impl Scratch {
    /// Makes the directories.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for below in ["merged/nix/store", "state/db", "lower/nix/store"] {
            fs::create_dir_all(directory.path().join(below)).expect("a directory");
        }
        for below in ["upper", "work", "lower/nix/var/nix/db"] {
            fs::create_dir_all(directory.path().join(below)).expect("a directory");
        }
        let root = directory.path().display();
        let text = format!(
            "root = '{root}/merged'\nstate = '{root}/state'\n\
             lower-store = '{root}/lower?read-only=true'\n\
             upper-layer = '{root}/upper'\nworkdir = '{root}/work'\n"
        );
        let store = config::parse("fuzz", "fuzz.toml", &text, &Environment::default());
        let mut connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch(schema::SQL).expect("Nix's tables");
        let empty = connection.serialize("main").expect("a database").to_vec();
        let scratch = Self {
            directory,
            empty,
            store: store.unwrap_or_else(|errors| panic!("{errors}")),
        };
        scratch.write("state/db/schema", b"10");
        scratch.write("lower/nix/var/nix/db/schema", b"10");
        scratch.write("state/db/big-lock", b"");
        scratch
    }

    /// Writes a file, as if long ago: then nobody waits for the clock to move.
    pub fn write(&self, below: &str, bytes: &[u8]) {
        let path = self.path(below);
        fs::write(&path, bytes)
            .and_then(|()| fs::File::open(&path)?.set_modified(SystemTime::UNIX_EPOCH))
            .expect("a file");
    }

    /// A path below the temporary directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Puts a database with its log in its place, or an empty one of Nix.
    pub fn database(&self, state: &str, files: Option<&Files>) {
        let place = format!("{state}/db/db.sqlite");
        for suffix in ["-shm", "-journal", "-wal"] {
            let _ = fs::remove_file(self.path(&format!("{place}{suffix}")));
        }
        match files {
            None => self.write(&place, &self.empty),
            Some(files) => {
                self.write(&place, &files.database);
                if !files.log.is_empty() {
                    self.write(&format!("{place}-wal"), &files.log);
                }
            }
        }
    }

    /// Copies metadata up.
    pub fn warm(&self, wanted: Wanted<'_>) -> Result<Warmed, WarmError> {
        let lower = &self.store.lower;
        let warm = Warm {
            store: &StoreDirectory::new(b"/nix/store"),
            source: &lower.source,
            objects: &lower.real,
            database: &self.store.state.join("db"),
            use_sqlite_wal: self.store.use_sqlite_wal,
            counts: &Counts::default(),
        };
        if wanted == Wanted::All {
            let _ = warm.tops();
        }
        warm.run(wanted, &|_| {})
    }

    /// What Nix would rely on after a copy into an empty database.
    pub fn expect_whole(&self) {
        let path: &Path = &self.store.database();
        let connection = Connection::open(path).expect("the upper database");
        let text = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).expect("a statement");
            let rows = statement.query_map([], |row| row.get(0));
            let rows = rows.expect("rows").collect::<Result<_, _>>();
            rows.expect("text")
        };
        assert_eq!(text("pragma integrity_check"), ["ok"]);
        assert!(text("pragma foreign_key_check").is_empty());
        let store = StoreDirectory::new(b"/nix/store");
        for path in text(
            "select path from ValidPaths union select path from DerivationOutputs
             union select deriver from ValidPaths where deriver is not null",
        ) {
            store.parse(path.as_bytes()).expect("a store path");
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
