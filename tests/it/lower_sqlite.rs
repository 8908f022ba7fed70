//! A lower store's database is read right, and not touched, whatever others do with it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use overstore::testing::lower::{LowerError, Source};
use overstore::testing::lower::{SnapshotError, SqliteSource};
use overstore::testing::nix::StorePath;
use overstore::testing::nix::schema;
use overstore::testing::nix::{PathInfo, StoreDirectory};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A database that Nix could have made, and a connection that writes to it.
struct Lower {
    _directory: TempDir,
    path: PathBuf,
    writer: Connection,
}

impl Lower {
    fn new(settings: &str) -> Lower {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch(settings).unwrap();
        writer.execute_batch(schema::SQL).unwrap();
        Lower {
            _directory: directory,
            path,
            writer,
        }
    }

    /// A write-ahead log that is only moved into the database when a test says so.
    fn with_log() -> Lower {
        Lower::new("pragma journal_mode = wal; pragma wal_autocheckpoint = 0")
    }

    fn add(&self, number: u64) {
        add(&self.writer, number);
    }

    fn open(&self) -> Result<SqliteSource, LowerError> {
        SqliteSource::open(&self.path, StoreDirectory::new(b"/nix/store"))
    }

    fn paths(&self) -> Vec<StorePath> {
        paths(&mut self.open().unwrap())
    }
}

fn add(connection: &Connection, number: u64) {
    connection
        .prepare_cached("insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)")
        .unwrap()
        .execute((format!("/nix/store/{}", path(number)), HASH))
        .unwrap();
}

fn path(number: u64) -> StorePath {
    let digits = format!("{number:032}");
    StorePath::parse(format!("{digits}-object").as_bytes()).unwrap()
}

fn paths(source: &mut SqliteSource) -> Vec<StorePath> {
    let mut paths = Vec::new();
    source
        .all_paths(&mut |path| {
            paths.push(path);
            Ok(())
        })
        .unwrap();
    source.confirm().unwrap();
    paths
}

fn info(source: &mut SqliteSource, path: &StorePath) -> Result<Option<PathInfo>, LowerError> {
    source.ask(path)?;
    source.answer()
}

fn is_changed(result: Result<(), LowerError>) -> bool {
    matches!(
        result,
        Err(LowerError::Snapshot(SnapshotError::Changed { .. }))
    )
}

#[test]
fn rows_in_the_log_are_read_and_uncommitted_ones_are_not() {
    let lower = Lower::with_log();
    lower.add(1);
    // Small enough to spill uncommitted pages into the log.
    lower
        .writer
        .execute_batch("pragma cache_size = 2; begin")
        .unwrap();
    (2..500).for_each(|number| lower.add(number));
    assert_eq!(lower.paths(), [path(1)]);
    lower.writer.execute_batch("commit").unwrap();
    assert_eq!(lower.paths().len(), 499);
}

#[test]
fn all_columns_take_their_normal_form() {
    let lower = Lower::with_log();
    (1..4).for_each(|number| lower.add(number));
    lower
        .writer
        .execute_batch(&format!(
            "update ValidPaths set deriver = '/nix/store/{}', narSize = 7, ultimate = 1,
                 sigs = 'b:x a:y', registrationTime = 5,
                 ca = 'fixed:md5:900150983cd24fb0d6963f7d28e17f72' where id = 3;
             update ValidPaths set deriver = '', sigs = '', ca = '', narSize = 0 where id = 2;
             insert into Refs values (3, 3), (3, 2), (3, 1)",
            path(1)
        ))
        .unwrap();
    let mut source = lower.open().unwrap();
    let full = info(&mut source, &path(3)).unwrap().unwrap();
    assert_eq!(full.deriver, Some(path(1)));
    assert_eq!((full.nar_size, full.registration_time), (7, 5));
    assert!(full.ultimate);
    assert_eq!(full.signatures, "a:y b:x");
    assert_eq!(
        full.content_address.as_deref(),
        Some("fixed:md5:3jgzhjhz9zjvbb0kyj7jc500ch")
    );
    assert_eq!(full.references, [path(1), path(2), path(3)]);
    let empty = info(&mut source, &path(2)).unwrap().unwrap();
    assert_eq!(empty, info(&mut source, &path(1)).unwrap().unwrap());
    assert_eq!(info(&mut source, &path(4)).unwrap(), None);
}

#[test]
fn a_later_commit_is_not_seen_and_does_no_harm() {
    let lower = Lower::with_log();
    lower.add(1);
    let mut source = lower.open().unwrap();
    lower.add(2);
    assert_eq!(paths(&mut source), [path(1)]);
    assert_eq!(lower.paths(), [path(1), path(2)]);
}

#[test]
fn moving_the_log_into_the_database_is_noticed() {
    for mode in ["passive", "restart", "truncate"] {
        let lower = Lower::with_log();
        lower.add(1);
        let mut source = lower.open().unwrap();
        lower
            .writer
            .query_row(&format!("pragma wal_checkpoint({mode})"), [], |_| Ok(()))
            .unwrap();
        assert!(is_changed(source.confirm()), "{mode}");
        assert_eq!(lower.paths(), [path(1)]);
    }
}

#[test]
fn another_database_in_its_place_is_noticed() {
    let lower = Lower::new("");
    lower.add(1);
    let mut source = lower.open().unwrap();
    let copy = lower.path.with_extension("copy");
    fs::copy(&lower.path, &copy).unwrap();
    fs::rename(&copy, &lower.path).unwrap();
    assert!(is_changed(source.confirm()));
}

#[test]
fn a_write_in_place_is_noticed_even_within_a_clock_tick() {
    for _ in 0..20 {
        let lower = Lower::new("pragma journal_mode = delete");
        lower.add(1);
        let mut source = lower.open().unwrap();
        lower.add(2);
        assert!(is_changed(source.confirm()));
    }
}

#[test]
fn an_unfinished_transaction_is_told() {
    let lower = Lower::new("pragma journal_mode = delete");
    (1..100).for_each(|number| lower.add(number));
    lower
        .writer
        .execute_batch("pragma cache_size = 2; begin; update ValidPaths set hash = 'x' || hash")
        .unwrap();
    let error = lower.open().unwrap_err();
    assert!(
        matches!(
            error,
            LowerError::Snapshot(SnapshotError::Unfinished { .. })
        ),
        "{error}"
    );
    lower.writer.execute_batch("rollback").unwrap();
    assert_eq!(lower.paths().len(), 99);
}

#[test]
fn what_is_no_database_of_nix_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.sqlite");
    let open = || SqliteSource::open(&path, StoreDirectory::new(b"/nix/store")).unwrap_err();
    assert!(matches!(
        open(),
        LowerError::Snapshot(SnapshotError::Io { .. })
    ));
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        open(),
        LowerError::Snapshot(SnapshotError::Io { .. })
    ));
    fs::remove_dir(&path).unwrap();
    for content in [&b""[..], b"no database", &[0; 4096]] {
        fs::write(&path, content).unwrap();
        assert!(matches!(
            open(),
            LowerError::Snapshot(SnapshotError::NotADatabase { .. })
        ));
    }
    fs::remove_file(&path).unwrap();
    let connection = Connection::open(&path).unwrap();
    for tables in [
        "create table ValidPaths (id integer primary key)",
        "create table Refs (referrer); drop table ValidPaths;
         create view ValidPaths as select 1 as id",
        "drop view ValidPaths; create table ValidPaths
         (id integer primary key, path text as (hex(zeroblob(1000000000))))",
    ] {
        connection.execute_batch(tables).unwrap();
        let error = open();
        assert!(matches!(error, LowerError::NotNix { .. }), "{error}");
    }
}

#[test]
fn hostile_rows_are_errors() {
    for change in [
        "update ValidPaths set path = '/nix/store/../../etc/passwd'",
        "update ValidPaths set path = x'00ff'",
        "update ValidPaths set path = '/nix/store/' || path",
    ] {
        let lower = Lower::with_log();
        lower.add(1);
        lower.writer.execute_batch(change).unwrap();
        let result = lower.open().unwrap().all_paths(&mut |_| Ok(()));
        assert!(
            matches!(result, Err(LowerError::Table { .. })),
            "{change}: {result:?}"
        );
    }
    for change in [
        "update ValidPaths set hash = 'sha256:1'",
        "update ValidPaths set hash = 1",
        "update ValidPaths set narSize = -1",
        "update ValidPaths set narSize = 'many'",
        "update ValidPaths set registrationTime = 1.5",
        "update ValidPaths set deriver = '/etc/passwd'",
        "update ValidPaths set sigs = x'61'",
        "update ValidPaths set ca = 'fixed:'",
        "insert into ValidPaths (path, hash, registrationTime) values ('/etc', 'x', 1);
         insert into Refs values (1, 2)",
    ] {
        let lower = Lower::with_log();
        lower.add(1);
        lower.writer.execute_batch(change).unwrap();
        let result = info(&mut lower.open().unwrap(), &path(1));
        assert!(
            matches!(result, Err(LowerError::Row { .. })),
            "{change}: {result:?}"
        );
    }
    let lower = Lower::with_log();
    lower.add(1);
    lower
        .writer
        .execute_batch("update ValidPaths set sigs = zeroblob(50000000)")
        .unwrap();
    let result = info(&mut lower.open().unwrap(), &path(1));
    assert!(
        matches!(result, Err(LowerError::Sqlite { .. })),
        "{result:?}"
    );
}

/// Transactions that each add two rows, beside a reader: whatever is confirmed is whole.
#[test]
fn beside_a_busy_writer_only_whole_transactions_are_confirmed() {
    // The log moved all the time, and now and then.
    for (pages, pause, pairs) in [
        (20, Duration::ZERO, 5000_u64),
        (1000, Duration::from_millis(1), 1000),
    ] {
        let settings = &format!(
            "pragma journal_mode = wal; pragma wal_autocheckpoint = {pages};
             pragma synchronous = off"
        );
        let lower = Lower::new(settings);
        let mut last = 0;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let writer = Connection::open(&lower.path).unwrap();
                writer.execute_batch(settings).unwrap();
                for pair in 0..pairs {
                    writer.execute_batch("begin").unwrap();
                    add(&writer, 2 * pair);
                    add(&writer, 2 * pair + 1);
                    writer.execute_batch("commit").unwrap();
                    std::thread::sleep(pause);
                }
            });
            // Readers that are overtaken are not confirmed; the last one is not.
            while last < 2 * pairs {
                let was_over = writer.is_finished();
                let Ok(mut source) = lower.open() else {
                    assert!(!was_over);
                    continue;
                };
                let mut numbers = Vec::new();
                let read = source.all_paths(&mut |path| {
                    numbers.push(path);
                    Ok(())
                });
                if source.confirm().is_err() {
                    assert!(!was_over);
                    continue;
                }
                read.unwrap();
                let count = numbers.len() as u64;
                assert_eq!(count % 2, 0);
                assert!(numbers.into_iter().eq((0..count).map(path)));
                assert!(count >= last);
                assert!(!was_over || count == 2 * pairs);
                last = count;
            }
        });
    }
}

/// What shows of a file that somebody was there, the content apart.
fn traces(path: &Path) -> [i64; 8] {
    let metadata = fs::metadata(path).unwrap();
    [
        metadata.ino() as i64,
        metadata.size() as i64,
        metadata.atime(),
        metadata.atime_nsec(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

#[test]
fn a_database_at_rest_with_a_log_stays_as_it_is() {
    let lower = Lower::with_log();
    (0..100).for_each(|number| lower.add(number));
    // As a crash leaves it: a log with content, and nobody there.
    let rest = tempfile::tempdir().unwrap();
    let files = ["db.sqlite", "db.sqlite-wal"].map(|name| {
        let copy = rest.path().join(name);
        fs::copy(lower.path.with_file_name(name), &copy).unwrap();
        copy
    });
    let contents = files.each_ref().map(|file| fs::read(file).unwrap());
    let before = [rest.path(), &files[0], &files[1]].map(traces);
    let mut source = SqliteSource::open(&files[0], StoreDirectory::new(b"/nix/store")).unwrap();
    assert_eq!(paths(&mut source).len(), 100);
    drop(source);
    assert_eq!([rest.path(), &files[0], &files[1]].map(traces), before);
    assert_eq!(files.map(|file| fs::read(file).unwrap()), contents);
    assert_eq!(fs::read_dir(rest.path()).unwrap().count(), 2);
}

/// Does the reading for the test below, under `strace`.
#[test]
#[ignore = "run by no_lock_and_no_opening_for_writing"]
fn read_the_database_named_in_the_environment() {
    let path = PathBuf::from(std::env::var_os("OVERSTORE_TEST_DATABASE").unwrap());
    let mut source = SqliteSource::open(&path, StoreDirectory::new(b"/nix/store")).unwrap();
    assert_eq!(paths(&mut source).len(), 100);
}

#[test]
fn no_lock_and_no_opening_for_writing() {
    let lower = Lower::with_log();
    (0..100).for_each(|number| lower.add(number));
    let trace = lower.path.with_file_name("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lower_sqlite::read_the_database_named_in_the_environment",
            "--ignored",
        ])
        .env("OVERSTORE_TEST_DATABASE", &lower.path)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("strace has to be installed");
    assert!(status.success());
    let trace = fs::read_to_string(trace).unwrap();
    let touching: Vec<_> = trace
        .lines()
        .filter(|line| line.contains("db.sqlite"))
        .collect();
    assert!(
        touching.iter().any(|line| line.contains("pread64")),
        "nothing was traced"
    );
    for line in touching {
        let call = line
            .split('(')
            .next()
            .unwrap()
            .split(' ')
            .next_back()
            .unwrap();
        let harmless = match call {
            "open" | "openat" | "openat2" => {
                line.contains("O_RDONLY")
                    && !["O_RDWR", "O_WRONLY", "O_CREAT", "O_TRUNC"]
                        .iter()
                        .any(|flag| line.contains(flag))
            }
            "read" | "pread64" | "close" | "stat" | "lstat" | "fstat" | "statx" | "newfstatat"
            | "execve" | "access" | "lseek" => true,
            "fcntl" => !line.contains("LK"),
            _ => false,
        };
        assert!(harmless, "{line}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64),
    Remove(u64),
    RollBack(u64),
    Checkpoint(&'static str),
    Vacuum,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..300_u64).prop_map(Step::Add),
        2 => (1..300_u64).prop_map(Step::Remove),
        1 => (1..300_u64).prop_map(Step::RollBack),
        2 => prop_oneof![Just("passive"), Just("full"), Just("restart"), Just("truncate")]
            .prop_map(Step::Checkpoint),
        1 => Just(Step::Vacuum),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a writer did, we read what SQLite itself reads.
    #[test]
    fn reads_what_sqlite_reads(
        page_size in prop_oneof![Just(512), Just(4096), Just(65536)],
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let settings = format!(
            "pragma page_size = {page_size}; pragma cache_size = 5; pragma journal_mode = wal;
             pragma wal_autocheckpoint = 0; pragma synchronous = off"
        );
        let mut lower = Lower::new(&settings);
        let mut next = 0;
        for step in steps {
            let writer = &lower.writer;
            match step {
                Step::Add(count) => {
                    writer.execute_batch("begin").unwrap();
                    (next..next + count).for_each(|number| add(writer, number));
                    next += count;
                    writer.execute_batch("commit").unwrap();
                }
                Step::Remove(count) => {
                    writer.execute("delete from ValidPaths where id % 7 < 3 and id > ?",
                        [next.saturating_sub(count) as i64]).unwrap();
                }
                Step::RollBack(count) => {
                    writer.execute_batch("begin").unwrap();
                    (next..next + count).for_each(|number| add(writer, number));
                    writer.execute_batch("rollback").unwrap();
                }
                Step::Checkpoint(mode) => writer
                    .query_row(&format!("pragma wal_checkpoint({mode})"), [], |_| Ok(()))
                    .unwrap(),
                Step::Vacuum => writer.execute_batch("vacuum").unwrap(),
                Step::Reopen => {
                    lower.writer = Connection::open(&lower.path).unwrap();
                    lower.writer.execute_batch(&settings).unwrap();
                }
            }
            let expected = lower.writer
                .prepare("select path from ValidPaths order by id").unwrap()
                .query_map([], |row| row.get::<_, String>(0)).unwrap()
                .map(|path| path.unwrap().split_off("/nix/store/".len()))
                .collect::<Vec<_>>();
            let found = lower.paths();
            prop_assert!(
                found.iter().map(StorePath::as_str).eq(expected.iter().map(String::as_str)),
                "{} paths instead of {}", found.len(), expected.len()
            );
        }
    }

    /// Damage anywhere in the database or its log is an error or goes unnoticed, no more.
    #[test]
    fn damage_never_crashes(
        damage in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let lower = Lower::with_log();
        (0..200).for_each(|number| lower.add(number));
        lower.writer.execute_batch("insert into Refs select id, 1 from ValidPaths").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        let mut database = fs::read(&lower.path).unwrap();
        lower.writer.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())).unwrap();
        if database.len() < 8192 {
            database = fs::read(&lower.path).unwrap();
        }
        let mut log = fs::read(lower.path.with_extension("sqlite-wal")).unwrap();
        for (in_log, index, byte) in damage {
            let file = if in_log { &mut log } else { &mut database };
            let at = index.index(file.len());
            file[at] = byte;
        }
        log.truncate(cut.index(log.len()));
        fs::write(&path, database).unwrap();
        fs::write(path.with_extension("sqlite-wal"), log).unwrap();
        if let Ok(mut source) = SqliteSource::open(&path, StoreDirectory::new(b"/nix/store")) {
            let _ = source.all_paths(&mut |path| {
                assert!(!path.as_str().contains('/'));
                Ok(())
            });
            let _ = info(&mut source, &self::path(7));
        }
    }
}
