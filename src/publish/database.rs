//! The database of a generation, or of an image: copied from the live store's in one transaction, so
//! that it is one state of it, whatever Nix does meanwhile. A plain copy of the file would not be: rows
//! are in its write-ahead log, and are moved while it is copied.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::error::PublishError;
use crate::compare::Layer;
use crate::counts::Counts;
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::layout;
use crate::nix::schema::{self, SchemaObject};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe;
use crate::publish::verify::{Failed, Ids, Problems, Verifying};
use crate::sqlite::held::HeldConnection;
use crate::sqlite::open;

/// How long somebody who writes may keep us waiting.
const BUSY: Duration = Duration::from_secs(60);

/// The name that the live store's database is attached as.
const LIVE: &str = "live";

/// A database that is being made.
pub(super) struct Draft {
    connection: HeldConnection,
    path: PathBuf,
    /// What it is copied from, as messages call it.
    live: PathBuf,
    /// What is referred to by something else, once it was verified.
    referred: Option<Ids>,
}

/// What goes into it.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Everything that is valid.
    All,
    /// The closures of some paths.
    Closures {
        /// These have to be valid.
        paths: Vec<StorePath>,
        /// Of these, those that are valid.
        valid: Vec<StorePath>,
    },
}

/// What is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Copied {
    pub paths: u64,
    pub references: u64,
}

impl Draft {
    /// Begins a database in `directory`, which is at `path` and empty, from the one of the live store
    /// whose state directory is at `state`, as `symlinks` says: the state that it has now, until the
    /// draft is finished.
    pub(super) fn begin(
        directory: &OwnedFd,
        path: &Path,
        state: &Path,
        symlinks: Symlinks,
        use_sqlite_wal: bool,
    ) -> Result<Self, PublishError> {
        let live = layout::database(state);
        let mut draft = Self::make(directory, path, live.clone())?;
        let above = state.join(layout::DATABASE_DIRECTORY);
        let directory = safe_path::open_directory(&above, symlinks)
            .map_err(|error| PublishError::io("open", &above, error))?;
        open::attach_to_read(
            &mut draft.connection,
            LIVE,
            &directory,
            layout::DATABASE_FILE,
            use_sqlite_wal,
        )
        .map_err(|source| PublishError::Open { path: live, source })?;
        draft.batch("begin")?;
        Ok(draft)
    }

    /// Makes an empty database.
    fn make(directory: &OwnedFd, path: &Path, live: PathBuf) -> Result<Self, PublishError> {
        let path = path.join(layout::DATABASE_FILE);
        let make = || {
            let connection = open::to_make(directory, layout::DATABASE_FILE, BUSY)?;
            // It is synced when it is whole; before, it is nobody's. Without `main`, some of these
            // would be for the live store's database, too.
            connection.execute_batch(
                "pragma main.page_size = 4096; pragma main.journal_mode = off; \
                 pragma main.synchronous = off; pragma main.locking_mode = exclusive; \
                 pragma main.cache_size = -16384; pragma foreign_keys = off",
            )?;
            Ok(connection)
        };
        match make() {
            Ok(connection) => Ok(Self {
                connection,
                path,
                live,
                referred: None,
            }),
            Err(source) => Err(PublishError::Open { path, source }),
        }
    }

    /// Begins one in the same way from a registration in the file `path`, as `read` reads it into an
    /// empty database of Nix's schema.
    pub(super) fn from_registration(
        directory: &OwnedFd,
        at: &Path,
        path: &Path,
        read: impl FnOnce(&Connection, &str) -> Result<(), PublishError>,
    ) -> Result<Self, PublishError> {
        let draft = Self::make(directory, at, path.to_owned())?;
        // A database without a name is a file that nobody else can open, and goes with the connection.
        draft.batch(&format!("attach '' as {LIVE}"))?;
        draft.batch("begin")?;
        draft.batch(&schema::statements(LIVE))?;
        read(&draft.connection, LIVE)?;
        Ok(draft)
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> PublishError {
        PublishError::Sqlite {
            action: "copy",
            path: self.live.clone(),
            source,
        }
    }

    pub(super) fn batch(&self, sql: &str) -> Result<(), PublishError> {
        self.connection
            .execute_batch(sql)
            .map_err(|error| self.error(error))
    }

    /// Copies what is wanted, row by row as it is.
    pub(super) fn copy(
        &self,
        wanted: &Wanted,
        store: &StoreDirectory,
    ) -> Result<Copied, PublishError> {
        let objects = self.objects()?;
        let all = self.chooses_all(wanted, store)?;
        // Into tables and indexes that are empty, and without a trigger, SQLite copies the pages of all
        // rows as they are. Indexes of some of them are faster made afterwards.
        let kinds = match all {
            true => [&["table", "index"][..], &["trigger"]],
            false => [&["table"][..], &["index", "trigger"]],
        };
        self.define(&objects, kinds[0])?;
        for table in objects.iter().filter(|it| it.kind == "table") {
            self.rows(&table.name, all)?;
        }
        self.define(&objects, kinds[1])?;
        self.counts()
    }

    /// Chooses what is wanted: whether that is all that there is. Where it is not, the ids are in the
    /// table `chosen`.
    pub(super) fn chooses_all(
        &self,
        wanted: &Wanted,
        store: &StoreDirectory,
    ) -> Result<bool, PublishError> {
        let Wanted::Closures { paths, valid } = wanted else {
            return Ok(true);
        };
        self.choose(paths, valid, store)?;
        let all = "select (select count(*) from chosen) = (select count(*) from live.ValidPaths)";
        self.connection
            .query_row(all, [], |row| row.get(0))
            .map_err(|error| self.error(error))
    }

    /// Makes the objects of these kinds, in this order.
    pub(super) fn define(
        &self,
        objects: &[SchemaObject],
        kinds: &[&str],
    ) -> Result<(), PublishError> {
        for kind in kinds {
            for object in objects.iter().filter(|it| it.kind == *kind) {
                self.batch(&definition(object))?;
            }
        }
        Ok(())
    }

    /// How much is in it.
    pub(super) fn counts(&self) -> Result<Copied, PublishError> {
        let count = |table: &str| {
            self.connection
                .query_row(&format!("select count(*) from main.{table}"), [], |row| {
                    Ok(row.get::<_, i64>(0)?.unsigned_abs())
                })
                .map_err(|error| self.error(error))
        };
        Ok(Copied {
            paths: count("ValidPaths")?,
            references: count("Refs")?,
        })
    }

    /// The objects of the live schema that Nix makes.
    pub(super) fn objects(&self) -> Result<Vec<SchemaObject>, PublishError> {
        let (mut objects, migrations) =
            observe::read_schema(&self.connection, LIVE).map_err(|error| self.error(error))?;
        let verdict = schema::judge(&objects, &migrations);
        let known = [
            &verdict.missing,
            &verdict.altered,
            &verdict.unknown_migrations,
        ];
        if known.iter().any(|list| !list.is_empty()) {
            return Err(PublishError::Schema {
                path: self.live.clone(),
                verdict,
            });
        }
        objects.retain(SchemaObject::is_of_nix);
        Ok(objects)
    }

    /// Puts the ids of the closures into the table `chosen`.
    fn choose(
        &self,
        paths: &[StorePath],
        others: &[StorePath],
        store: &StoreDirectory,
    ) -> Result<(), PublishError> {
        self.batch(
            "create temp table start (id integer primary key); \
             create temp table chosen (id integer primary key)",
        )?;
        let mut invalid = Vec::new();
        let choose = |path: &StorePath| -> rusqlite::Result<bool> {
            let whole = store.print(path);
            let id: Option<i64> = self
                .connection
                .prepare_cached("select id from live.ValidPaths where path = ?")?
                .query_row([String::from_utf8_lossy(&whole)], |row| row.get(0))
                .optional()?;
            if let Some(id) = id {
                self.connection
                    .prepare_cached("insert or ignore into start values (?)")?
                    .execute([id])?;
            }
            Ok(id.is_some())
        };
        for path in paths {
            if !choose(path).map_err(|error| self.error(error))? {
                invalid.push(path.clone());
            }
        }
        for path in others {
            choose(path).map_err(|error| self.error(error))?;
        }
        if !invalid.is_empty() {
            return Err(PublishError::NotValid(invalid));
        }
        self.batch(
            "insert into chosen with recursive closure(id) as (select id from start union \
             select reference from live.Refs join closure on referrer = closure.id) \
             select id from closure order by id",
        )
    }

    /// Copies the rows of one table: all, or those of what is chosen.
    fn rows(&self, table: &str, all: bool) -> Result<(), PublishError> {
        let chosen = match table {
            _ if all => "",
            "ValidPaths" => "where id in (select id from chosen) order by id",
            "Refs" => "where referrer in (select id from chosen) order by referrer, reference",
            "DerivationOutputs" => "where drv in (select id from chosen) order by drv, id",
            "Realisations" => "where outputPath in (select id from chosen)",
            "RealisationsRefs" => {
                "where referrer in (select id from main.Realisations) and (realisationReference \
                 is null or realisationReference in (select id from main.Realisations))"
            }
            // What was built from what: true whatever is published.
            _ => "",
        };
        self.batch(&format!(
            "insert into main.{table} select * from live.{table} {chosen}"
        ))
    }

    /// Verifies what was copied.
    pub(super) fn verify(
        &mut self,
        store: &StoreDirectory,
        objects: &Layer,
        contents: Option<&Counts>,
    ) -> Result<Problems, PublishError> {
        let verifying = Verifying {
            connection: &self.connection,
            name: "main",
            store,
            objects,
        };
        let verified = verifying.run(contents).map_err(|failed| match failed {
            Failed::Sqlite(source) => self.error(source),
            Failed::Across(error) => PublishError::Across(error),
            Failed::Objects(errno) => PublishError::io("look at", &objects.path, errno),
        })?;
        self.referred = Some(verified.referred);
        Ok(verified.problems)
    }

    /// What nothing else in it refers to, once it was verified: roots of these keep all of it.
    /// References never lead in a circle, except to oneself.
    pub(super) fn tops(
        &self,
        store: &StoreDirectory,
        mut each: impl FnMut(StorePath) -> Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let mut statement = self
            .connection
            .prepare("select id, path from main.ValidPaths order by id")
            .map_err(|error| self.error(error))?;
        let mut rows = statement.query([]).map_err(|error| self.error(error))?;
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            let id = row.get(0).map_err(|error| self.error(error))?;
            if self.referred.as_ref().is_some_and(|ids| ids.has(id)) {
                continue;
            }
            let path: String = row.get(1).map_err(|error| self.error(error))?;
            match store.parse(path.as_bytes()) {
                Ok(path) => each(path)?,
                // It was verified before.
                Err(what) => {
                    let path = self.live.clone();
                    return Err(PublishError::Record { path, what });
                }
            }
        }
        Ok(())
    }

    /// Hands what left or changed since the generation whose database is in `directory`, which is at
    /// `before`, to `each`: the path, and whether it is there still. Gives how many are new.
    pub(super) fn changes(
        &mut self,
        directory: &OwnedFd,
        before: &Path,
        mut each: impl FnMut(&str, bool) -> Result<(), PublishError>,
    ) -> Result<u64, PublishError> {
        let read = |error| PublishError::Sqlite {
            action: "read",
            path: before.to_owned(),
            source: error,
        };
        let file = layout::DATABASE_FILE;
        open::attach_sealed(&mut self.connection, "before", directory, file).map_err(|source| {
            PublishError::Open {
                path: before.join(file),
                source,
            }
        })?;
        let mut statement = self
            .connection
            .prepare(
                // Nearly every row is where it was: both tables are gone through side by side, and
                // only what is not found so is looked for by its path.
                "select b.path, n.path is not null from before.ValidPaths b \
                 left join main.ValidPaths s on s.id = b.id and s.path = b.path \
                 and s.hash = b.hash and coalesce(s.ca, '') = coalesce(b.ca, '') \
                 left join main.ValidPaths n on s.id is null and n.path = b.path \
                 where s.id is null and (n.path is null or n.hash != b.hash \
                 or coalesce(n.ca, '') != coalesce(b.ca, '')) order by b.path",
            )
            .map_err(read)?;
        let mut rows = statement.query([]).map_err(read)?;
        let mut left = 0_u64;
        while let Some(row) = rows.next().map_err(read)? {
            let path: String = row.get(0).map_err(read)?;
            let stays: bool = row.get(1).map_err(read)?;
            left += u64::from(!stays);
            each(&path, stays)?;
        }
        let count = |name: &str| -> rusqlite::Result<u64> {
            let sql = format!("select count(*) from {name}.ValidPaths");
            self.connection
                .query_row(&sql, [], |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
        };
        let (now, then) = (count("main").map_err(read)?, count("before").map_err(read)?);
        Ok((now + left).saturating_sub(then))
    }

    /// The connection: what is in the draft is `main`, what it is made from `live`.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends the copy: the file is whole, and has to be synced.
    pub(super) fn finish(self) -> Result<(), PublishError> {
        self.batch("commit")?;
        let path = self.path.clone();
        self.connection
            .close()
            .map_err(|source| PublishError::Sqlite {
                action: "write",
                path,
                source,
            })
    }
}

/// The statement that makes an object again.
fn definition(object: &SchemaObject) -> String {
    object.sql.clone().unwrap_or_default()
}
