use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, ErrorCode, OptionalExtension, Transaction};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::ids::runs;
use crate::counts::Counts;
use crate::escape::show;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::nix::hash::render_sha256;
use crate::nix::layout::DATABASE_FILE;
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::sqlite::hardening::is_ordinary_table;
use crate::sqlite::held::HeldConnection;
use crate::sqlite::open::{self, OpenError};
use crate::warm::WarmError;
use crate::warm::outputs::Objects;

/// How long others may keep the database locked. A build that registers its outputs takes
/// milliseconds, a large import seconds.
const BUSY: Duration = Duration::from_secs(300);
/// How long they are waited for before that is said.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait between attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// The id of a path's row.
pub(super) const ID_OF: &str =
    "select id from main.ValidPaths indexed by sqlite_autoindex_ValidPaths_1 where path = ?";
/// As Nix sets it, in pages.
const AUTOCHECKPOINT: i64 = 40_000;
/// The tables that are written to.
const TABLES: [&str; 3] = ["ValidPaths", "Refs", "DerivationOutputs"];
/// The largest row id that is gone on from: none that Nix ever gives comes near.
const LARGEST_ID: i64 = 1 << 48;
/// Memory for pages, in KiB. Less makes a large copy write the same pages again and again.
const CACHE: i64 = 16 << 10;

/// The upper database, open for writing.
#[derive(Debug)]
pub(super) struct Upper {
    path: PathBuf,
    pub(super) connection: HeldConnection,
    directory: Reached,
    /// Shared, as Nix holds it while it has the store open. Taken when something is written: reading
    /// the lower store may take any time.
    big_lock: OnceCell<File>,
}

impl Upper {
    /// Opens the database in `directory`, which has to be there, with Nix's settings.
    pub(super) fn open(directory: &Path, use_sqlite_wal: bool) -> Result<Self, WarmError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| WarmError::Io { path, source }
        };
        let walked = safe_path::directory(directory, Symlinks::Refuse)
            .map_err(|obstacle| unusable(directory)(io::Error::other(obstacle)))?;
        let path = walked.path().join(DATABASE_FILE);
        let open = || {
            let connection = open::to_write(&walked, DATABASE_FILE, use_sqlite_wal, BUSY)?;
            connection.pragma_update(None, "foreign_keys", false)?;
            // What is reported as done survives a power cut.
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "cache_size", -CACHE)?;
            connection.pragma_update(None, "wal_autocheckpoint", AUTOCHECKPOINT)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| match error {
            OpenError::Io(source) => unusable(&path)(source),
            OpenError::Sqlite(source) => WarmError::Upper {
                path: path.clone(),
                source,
            },
        })?;
        let upper = Self {
            path,
            connection,
            directory: walked,
            big_lock: OnceCell::new(),
        };
        for table in TABLES {
            let ordinary = is_ordinary_table(&upper.connection, "main", table);
            if !ordinary.map_err(|error| upper.error(error))? {
                return Err(upper.tampered(format!("expected the table {table}, as Nix makes it")));
            }
        }
        upper.check_sequence()?;
        Ok(upper)
    }

    /// SQLite goes through this table at every insertion, for ever where its pages lead in a circle.
    fn check_sequence(&self) -> Result<(), WarmError> {
        let sql = "pragma main.quick_check('sqlite_sequence')";
        let checked = self.connection.query_row(sql, [], |row| row.get(0));
        match checked.map_err(|error| self.error(error))? {
            said if said == "ok" => Ok(()),
            said => Err(self.tampered(show(String::as_bytes(&said)).into_owned())),
        }
    }

    fn tampered(&self, what: String) -> WarmError {
        WarmError::Tampered {
            path: self.path.clone(),
            what,
        }
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> WarmError {
        WarmError::Upper {
            path: self.path.clone(),
            source,
        }
    }

    /// Begins the one transaction, as the only writer, under Nix's lock. Whoever is in the way is
    /// waited for, for five minutes each; `waiting` is told after a second.
    pub(super) fn begin(&self, waiting: &dyn Fn(&str)) -> Result<Transaction<'_>, WarmError> {
        if self.big_lock.get().is_none() {
            let lock = lock(&self.directory, waiting).map_err(|error| WarmError::Io {
                path: self.directory.path().join("big-lock"),
                source: error.into(),
            })?;
            let _ = self.big_lock.set(lock);
        }
        let begin = || {
            let immediate = rusqlite::TransactionBehavior::Immediate;
            Transaction::new_unchecked(&self.connection, immediate)
        };
        let begun = self
            .connection
            .busy_timeout(PATIENCE)
            .and_then(|()| begin())
            .or_else(|error| match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy) => {
                    waiting("another process, which writes to the upper database");
                    self.connection.busy_timeout(BUSY)?;
                    begin()
                }
                _ => Err(error),
            });
        begun.map_err(|error| self.error(error))
    }

    /// Moves the log into the database, as far as others let us: the next one to open the store
    /// need not go through it. What was committed is durable without.
    pub(super) fn checkpoint(&self) {
        let _ = self
            .connection
            .query_row("pragma main.wal_checkpoint(passive)", [], |_| Ok(()));
    }
}

/// The shared lock on Nix's `big-lock`. Waits while a Nix migrates the schema.
fn lock(directory: &Reached, waiting: &dyn Fn(&str)) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(directory, "big-lock", flags, Mode::empty())?;
    let (start, mut told) = (Instant::now(), false);
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(File::from(file)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if start.elapsed() < BUSY => {
                if !told && start.elapsed() > PATIENCE {
                    waiting("Nix, which changes the schema of the upper database");
                    told = true;
                }
                std::thread::sleep(PAUSE);
            }
            Err(Errno::WOULDBLOCK) => return Err(Errno::TIMEDOUT),
            Err(error) => return Err(error),
        }
    }
}

/// What rows are written for.
#[derive(Clone, Copy)]
pub(super) struct Target<'u> {
    /// The upper database.
    pub(super) upper: &'u Upper,
    /// The store directory that both stores have.
    pub(super) store: &'u StoreDirectory,
    /// The lower store directory.
    pub(super) objects: &'u Objects,
    /// Told who is waited for.
    pub(super) waiting: &'u dyn Fn(&str),
    /// Counts the paths.
    pub(super) counts: &'u Counts,
}

/// Writes rows as Nix does, within a transaction.
pub(super) struct Writer<'u> {
    target: Target<'u>,
    id_of: CachedStatement<'u>,
    path: CachedStatement<'u>,
    reference: CachedStatement<'u>,
    output: CachedStatement<'u>,
    /// The id that the next new row gets.
    pub(super) next_id: i64,
    /// Whether there was no row before.
    pub(super) was_empty: bool,
    /// Nix replaces a registration time of 0 by the present.
    now: i64,
}

impl<'u> Writer<'u> {
    pub(super) fn new(target: Target<'u>) -> Result<Self, WarmError> {
        let upper = target.upper;
        let prepare = |sql| {
            upper
                .connection
                .prepare_cached(sql)
                .map_err(|error| upper.error(error))
        };
        // Ids are never used again: those of deleted rows are in sqlite_sequence.
        let last: i64 = upper
            .connection
            .query_row(
                "select max(coalesce((select max(id) from main.ValidPaths), 0), \
                 coalesce((select seq from main.sqlite_sequence where name = 'ValidPaths'), 0))",
                [],
                |row| row.get(0),
            )
            .map_err(|error| upper.error(error))?;
        if !(0..=LARGEST_ID).contains(&last) {
            return Err(upper.tampered(format!("found the row id {last}")));
        }
        let was_empty = !upper
            .connection
            .prepare("select 1 from main.ValidPaths")
            .and_then(|mut statement| statement.exists([]))
            .map_err(|error| upper.error(error))?;
        let now = crate::linux::clock::now();
        Ok(Self {
            target,
            id_of: prepare(ID_OF)?,
            path: prepare(
                "insert into main.ValidPaths \
                 (id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca) \
                 values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            reference: prepare("insert into main.Refs (referrer, reference) values (?, ?)")?,
            output: prepare(
                "insert or replace into main.DerivationOutputs (drv, id, path) values (?, ?, ?)",
            )?,
            next_id: last + 1,
            was_empty,
            now: i64::try_from(now).unwrap_or(0),
        })
    }

    /// The whole path.
    pub(super) fn print(&self, path: &StorePath) -> String {
        print(self.target.store, path)
    }

    /// The id of a path's row, if it has one.
    pub(super) fn id_of(&mut self, path: &str) -> Result<Option<i64>, WarmError> {
        self.id_of
            .query_row([path], |row| row.get(0))
            .optional()
            .map_err(|error| self.target.upper.error(error))
    }

    /// Has the row with this id say this of its path, without references. Realisations stay with it.
    pub(super) fn replace(
        &mut self,
        id: i64,
        path: &StorePath,
        info: &PathInfo,
    ) -> Result<(), WarmError> {
        let upper = self.target.upper;
        let run =
            |sql: &str,
             parameters: &dyn Fn(&mut CachedStatement<'_>) -> rusqlite::Result<usize>| {
                let statement = upper.connection.prepare_cached(sql);
                statement
                    .and_then(|mut statement| parameters(&mut statement))
                    .map_err(|error| upper.error(error))
            };
        for sql in [
            "delete from main.Refs where referrer = ?",
            "delete from main.DerivationOutputs where drv = ?",
        ] {
            run(sql, &|statement| statement.execute([id]))?;
        }
        let time = self.time(info);
        run(
            "update main.ValidPaths set hash = ?2, registrationTime = ?3, deriver = ?4, narSize = ?5, \
             ultimate = ?6, sigs = ?7, ca = ?8 where id = ?1",
            &|statement| {
                statement.execute((
                    id,
                    render_sha256(&info.nar_hash),
                    time,
                    info.deriver
                        .as_ref()
                        .map(|deriver| print(self.target.store, deriver)),
                    (info.nar_size != 0).then_some(info.nar_size),
                    info.ultimate.then_some(1),
                    (!info.signatures.is_empty()).then_some(&info.signatures),
                    &info.content_address,
                ))
            },
        )?;
        self.outputs(id, path).map(drop)
    }

    /// The registration time to be written.
    fn time(&self, info: &PathInfo) -> i64 {
        match info.registration_time {
            0 => self.now,
            time => time,
        }
    }

    /// Writes the row of a path, and for a derivation those of its outputs: how many these are.
    pub(super) fn path(
        &mut self,
        id: i64,
        path: &StorePath,
        info: &PathInfo,
    ) -> Result<u64, WarmError> {
        let time = self.time(info);
        let signatures = (!info.signatures.is_empty()).then_some(&info.signatures);
        self.path
            .execute((
                id,
                print(self.target.store, path),
                render_sha256(&info.nar_hash),
                time,
                info.deriver
                    .as_ref()
                    .map(|deriver| print(self.target.store, deriver)),
                (info.nar_size != 0).then_some(info.nar_size),
                info.ultimate.then_some(1),
                signatures,
                &info.content_address,
            ))
            .map_err(|error| self.target.upper.error(error))?;
        self.outputs(id, path)
    }

    /// Writes the outputs of a derivation: how many.
    fn outputs(&mut self, id: i64, path: &StorePath) -> Result<u64, WarmError> {
        if !path.is_derivation() {
            return Ok(0);
        }
        let outputs = self.target.objects.outputs(path, self.target.store)?;
        for (name, output) in &outputs {
            self.output
                .execute((id, name, print(self.target.store, output)))
                .map_err(|error| self.target.upper.error(error))?;
        }
        Ok(outputs.len() as u64)
    }

    /// Copies the references of these paths from the attached database `lower`, whose ids become
    /// larger by `shift`: how many.
    pub(super) fn references_shifted(&self, ids: &[i64], shift: i64) -> Result<u64, WarmError> {
        let upper = self.target.upper;
        // After a conflict all is undone: so SQLite need not remember what each statement did.
        let mut copy = upper
            .connection
            .prepare_cached(
                "insert or rollback into main.Refs (referrer, reference) \
                 select referrer + ?3, reference + ?3 from lower.Refs \
                 indexed by sqlite_autoindex_Refs_1 where referrer between ?1 and ?2",
            )
            .map_err(|error| upper.error(error))?;
        let mut copied = 0;
        for run in runs(ids) {
            let rows = copy.execute((run.first(), run.last(), shift));
            copied += rows.map_err(|error| upper.error(error))? as u64;
        }
        Ok(copied)
    }

    /// Writes a reference between two rows, given by their ids.
    pub(super) fn reference(&mut self, referrer: i64, reference: i64) -> Result<(), WarmError> {
        self.reference
            .execute((referrer, reference))
            .map(drop)
            .map_err(|error| self.target.upper.error(error))
    }
}

/// A whole store path as text. It is ASCII, and the store directory came from text.
pub(super) fn print(store: &StoreDirectory, path: &StorePath) -> String {
    String::from_utf8(store.print(path))
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
