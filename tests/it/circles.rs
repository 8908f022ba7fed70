//! Databases whose trees of pages lead to the same page again and again: going through one would take
//! for ever, or all memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use overstore::testing::check;
use overstore::testing::check::Code;
use overstore::testing::config;
use overstore::testing::config::{Environment, MetadataSource};
use overstore::testing::counts::Counts;
use overstore::testing::linux::System;
use overstore::testing::lower::SqliteSource;
use overstore::testing::lower::{LowerError, Source};
use overstore::testing::nix::StoreDirectory;
use overstore::testing::nix::StorePath;
use overstore::testing::nix::schema;
use overstore::testing::observe;
use overstore::testing::observe::Depth;
use overstore::testing::warm::{Wanted, Warm, WarmError};
use rusqlite::Connection;
use tempfile::TempDir;

const PAGE: usize = 512;
/// Pages from a tree's root to its leaves: fewer than SQLite gives up at (20).
const LEVELS: usize = 15;
const NAME: &str = "00000000000000000000000000000001-object";

/// A database of Nix with one object that refers to itself.
fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(&format!("pragma page_size = {PAGE}; {}", schema::SQL))
        .unwrap();
    connection
        .execute(
            "insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)",
            (
                format!("/nix/store/{NAME}"),
                format!("sha256:{}", "0f".repeat(32)),
            ),
        )
        .unwrap();
    connection
        .execute("insert into Refs values (1, 1)", [])
        .unwrap();
    connection
}

/// Puts in the place of a tree one of which every page has many times the same child. Each of its
/// entries is the tree's only one.
fn endless(path: &Path, tree: &str) {
    let connection = Connection::open(path).unwrap();
    let root: u32 = connection
        .query_row(
            "select rootpage from sqlite_master where name = ?",
            [tree],
            |row| row.get(0),
        )
        .unwrap();
    drop(connection);
    let root = root as usize;
    let mut bytes = fs::read(path).unwrap();
    let leaf = bytes[(root - 1) * PAGE..root * PAGE].to_vec();
    let is_table = leaf[0] == 13;
    let start = usize::from(u16::from_be_bytes([leaf[8], leaf[9]]));
    // In the tree of a table, inner entries are row ids.
    let entry = match is_table {
        true => vec![1],
        false => leaf[start..=start + usize::from(leaf[start])].to_vec(),
    };
    let first = bytes.len() / PAGE + 1;
    for level in 0..LEVELS {
        let child = (first + level) as u32;
        let mut page = vec![0; PAGE];
        // Few enough that SQLite's own check does not give up.
        let count = 5;
        page[0] = if is_table { 5 } else { 2 };
        page[3..5].copy_from_slice(&(count as u16).to_be_bytes());
        page[8..12].copy_from_slice(&child.to_be_bytes());
        for cell in 0..count {
            let at = PAGE - (cell + 1) * (entry.len() + 4);
            page[12 + 2 * cell..14 + 2 * cell].copy_from_slice(&(at as u16).to_be_bytes());
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
            page[at + 4..at + 4 + entry.len()].copy_from_slice(&entry);
            page[5..7].copy_from_slice(&(at as u16).to_be_bytes());
        }
        match level {
            0 => bytes[(root - 1) * PAGE..root * PAGE].copy_from_slice(&page),
            _ => bytes.extend(page),
        }
    }
    bytes.extend(leaf);
    let pages = (bytes.len() / PAGE) as u32;
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    fs::write(path, bytes).unwrap();
}

/// Everything that is asked of a lower database.
fn read(path: &Path) -> Result<(), LowerError> {
    let object = StorePath::parse(NAME.as_bytes()).unwrap();
    let open = || SqliteSource::open(path, StoreDirectory::new(b"/nix/store"));
    let mut source = open()?;
    let results = [
        source.all_paths(&mut |_| Ok(())),
        source.tops(&mut |_| Ok(())),
        source.ask(&object),
        source.answer().map(drop),
        source.referrers(&object, 5).map(drop),
        source.is_valid(&object).map(drop),
        source.oldest(8).map(drop),
    ];
    results.into_iter().collect()
}

fn warm(lower: &Path, upper: &Path, wanted: Wanted<'_>) -> Result<(), WarmError> {
    let source = MetadataSource::Database {
        state: lower.to_owned(),
        read_only: true,
    };
    let warm = Warm {
        store: &StoreDirectory::new(b"/nix/store"),
        source: &source,
        objects: lower,
        database: upper,
        use_sqlite_wal: true,
        counts: &Counts::default(),
    };
    if wanted == Wanted::All {
        warm.tops()?;
    }
    warm.run(wanted, &|_| {}).map(drop)
}

/// Fails after a while, instead of waiting for ever.
#[track_caller]
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    let result = receiver.recv_timeout(Duration::from_secs(600));
    result.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// The state directories of a lower and an upper store.
struct Stores {
    directory: TempDir,
}

impl Stores {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stores = Self { directory };
        for state in ["lower", "upper"] {
            fs::create_dir_all(stores.state(state).join("db")).unwrap();
            fs::write(stores.state(state).join("db/big-lock"), "").unwrap();
        }
        drop(database(&stores.database("lower")));
        let upper = Connection::open(stores.database("upper")).unwrap();
        upper.execute_batch(schema::SQL).unwrap();
        stores
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn database(&self, name: &str) -> PathBuf {
        self.state(name).join("db/db.sqlite")
    }

    /// Copies into the upper database, everything or one closure.
    fn warm(&self, all: bool) -> Result<(), WarmError> {
        let (lower, upper) = (self.state("lower"), self.state("upper/db"));
        ends("warm", move || {
            let object = StorePath::parse(NAME.as_bytes()).unwrap();
            match all {
                true => warm(&lower, &upper, Wanted::All),
                false => warm(&lower, &upper, Wanted::Closures(&[object])),
            }
        })
    }
}

/// The codes of what `check` finds of the upper database.
fn check(stores: &Path) -> Vec<Code> {
    let at = stores.display();
    let text = format!(
        "root = '{at}/merged'\nstate = '{at}/upper'\nlower-store = '{at}/lower-store'\n\
         upper-layer = '{at}/layer'\nworkdir = '{at}/work'\n"
    );
    let store = config::parse("circles", "circles.toml", &text, &Environment::default()).unwrap();
    let system = System::here().unwrap();
    let depth = Depth::Check { lower_names: false };
    let observed = observe::observe(&system, &store, depth).unwrap();
    let findings = check::check(&store, &observed);
    findings.into_iter().map(|finding| finding.code).collect()
}

/// The trees of a database, and whether one that leads in a circle is met by reading everything, by
/// copying everything, and by copying a closure.
const TREES: [(&str, bool, bool, bool); 6] = [
    ("ValidPaths", true, true, false),
    ("Refs", false, false, false),
    ("sqlite_autoindex_ValidPaths_1", false, false, false),
    ("sqlite_autoindex_Refs_1", true, true, true),
    ("IndexReferrer", false, false, false),
    ("IndexReference", true, true, false),
];

#[test]
fn reading_and_copying_end() {
    for (tree, reading, all, closure) in TREES {
        let stores = Stores::new();
        let path = stores.database("lower");
        endless(&path, tree);
        let result = ends(tree, move || read(&path));
        assert_eq!(result.is_err(), reading, "{tree}: {result:?}");
        for (everything, fails) in [(true, all), (false, closure)] {
            let result = stores.warm(everything);
            assert_eq!(result.is_err(), fails, "{tree}: {result:?}");
            let upper = Connection::open(stores.database("upper")).unwrap();
            let rows: u32 = upper
                .query_row("select count(*) from Refs", [], |row| row.get(0))
                .unwrap();
            assert_eq!(rows, u32::from(!fails), "{tree}");
            let empty = "delete from Refs; delete from ValidPaths";
            upper.execute_batch(empty).unwrap();
        }
    }
}

/// Without Nix's order of rows, nothing is read.
#[test]
fn what_is_not_in_the_order_of_nix_is_refused() {
    for sql in [
        "drop index IndexReference",
        "drop index IndexReference; create index IndexReference on Refs (reference, referrer)",
        "drop table Refs; create table Refs (referrer, reference);
         create index IndexReference on Refs (reference)",
        "drop table Refs; create table Refs (referrer, reference, primary key (reference, referrer));
         create index IndexReference on Refs (reference)",
        "drop table ValidPaths;
         create table ValidPaths (id, path text unique, hash, registrationTime, deriver, narSize,
         ultimate, sigs, ca, primary key (id))",
        "drop table ValidPaths;
         create table ValidPaths (id integer primary key, path text, hash, registrationTime, deriver,
         narSize, ultimate, sigs, ca)",
    ] {
        let stores = Stores::new();
        let path = stores.database("lower");
        let connection = Connection::open(&path).unwrap();
        let sql = format!("pragma foreign_keys = 0; {sql}");
        connection.execute_batch(&sql).unwrap();
        drop(connection);
        let error = read(&path).unwrap_err();
        assert!(matches!(error, LowerError::NotNix { .. }), "{sql}: {error}");
    }
}

/// Trees of the upper database, when it is written to.
#[test]
fn copying_into_circles_ends() {
    let trees = TREES.map(|(tree, ..)| tree);
    for tree in trees.into_iter().chain(["sqlite_sequence"]) {
        for all in [true, false] {
            let stores = Stores::new();
            let path = stores.database("upper");
            fs::remove_file(&path).unwrap();
            let connection = database(&path);
            let other = "update ValidPaths set path = replace(path, '0', '2');
                         update sqlite_sequence set name = 'Others'";
            connection.execute_batch(other).unwrap();
            drop(connection);
            endless(&path, tree);
            let result = stores.warm(all);
            assert_eq!(result.is_err(), tree == "sqlite_sequence", "{result:?}");
            ends(tree, move || {
                let _ = read(&path);
            });
            let stores = stores.directory;
            let found = ends(tree, move || check(stores.path()));
            assert!(found.contains(&Code::DatabaseDamaged), "{tree}: {found:?}");
        }
    }
}
