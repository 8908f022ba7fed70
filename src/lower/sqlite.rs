use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::database::Database;
use super::summaries::{self, Key, Summary};
use crate::escape::show;
use crate::lower::{LowerError, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::path_info::RawPathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::sqlite::hardening::is_ordinary_table;

// Rows come in the order of a tree that is named, each with its place in it: in a tree that is damaged
// or was tampered with, pages can lead in a circle, and then that order is broken.

const BY_PATH: &str = "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
                       from lower.ValidPaths indexed by sqlite_autoindex_ValidPaths_1 \
                       where path = ?";
const REFERENCES: &str = "select reference, path \
                          from lower.Refs indexed by sqlite_autoindex_Refs_1 \
                          left join lower.ValidPaths on id = reference \
                          where referrer = ? order by reference";
const REFERRERS: &str = "select r.rowid, path, id \
                         from lower.Refs r indexed by IndexReference \
                         cross join lower.ValidPaths on id = referrer \
                         where reference = ? order by r.rowid";
const ALL: &str = "select id, path, true from lower.ValidPaths order by id";

/// Each output that a realisation names, behind its deriver.
const REALISED: &str = "select r.rowid, o.deriver, o.path from lower.Realisations r \
                        cross join lower.ValidPaths o on o.id = r.outputPath order by r.rowid";

const HIGHEST: &str = "select coalesce(max(id), 0) from lower.ValidPaths";

const OLDEST: &str = "select path, registrationTime from lower.ValidPaths order by id limit ?";

/// References never lead in a circle, except to oneself.
const TOPS: &str = "select id, path, not exists (select 1 from \
                    (select referrer from lower.Refs indexed by IndexReference \
                    where reference = id limit 2) where referrer != id) \
                    from lower.ValidPaths order by id";

/// A local store's database as a source.
#[derive(Debug)]
pub struct SqliteSource {
    // The connection goes before what it has attached.
    connection: Connection,
    database: Database,
    store: StoreDirectory,
    asked: VecDeque<StorePath>,
    others: RefCell<OfOthers>,
    /// Whether a reference to a row that is not there is an error.
    is_whole: bool,
}

/// Rows of another store directory that were passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfOthers {
    /// The path of the first, shown.
    pub first: Option<String>,
    /// How many they are.
    pub count: u64,
}

/// Rows of a lower database that Nix cannot read: paths as they are written, escaped, each with what
/// is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WrongRows {
    /// The first few.
    pub first: Vec<(String, String)>,
    /// All of them.
    pub count: u64,
}

/// Everything of every row.
const ROWS: &str = "select id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
                    from lower.ValidPaths order by id";

impl SqliteSource {
    /// Opens the database at `path` in its present state.
    ///
    /// # Errors
    /// When it cannot be read as it is, or is not Nix's.
    pub fn open(path: &Path, store: StoreDirectory) -> Result<Self, LowerError> {
        let database = Database::open(path)?;
        // The connection's own database is in memory and stays empty.
        let connection =
            Connection::open_in_memory().map_err(|error| LowerError::sqlite(path, error))?;
        database.attach(&connection, "lower")?;
        Ok(Self {
            connection,
            database,
            store,
            asked: VecDeque::new(),
            others: RefCell::default(),
            is_whole: false,
        })
    }

    /// The same, in which a row that refers to one that is not there is an error when it is asked for.
    pub(crate) fn whole(self) -> Self {
        Self {
            is_whole: true,
            ..self
        }
    }

    /// The rows of another store directory that were passed over so far.
    pub fn of_others(&self) -> OfOthers {
        self.others.borrow().clone()
    }

    /// Whether a path has a row here.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool, LowerError> {
        let whole = self.store.print(path);
        self.connection
            .prepare_cached(BY_PATH)
            .and_then(|mut statement| statement.exists([String::from_utf8_lossy(&whole)]))
            .map_err(|error| self.database.error(error))
    }

    /// Hands the paths that `query` tells to `each`; it gives ids, in order, paths, and whether they
    /// are meant.
    fn paths(
        &self,
        query: &str,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.connection.prepare(query).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let mut last = None;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let id = row.get(0).map_err(sqlite)?;
            self.database.in_order(&mut last, id, "ValidPaths")?;
            if row.get(2).map_err(sqlite)? {
                if let Ok(path) = text(row, 1)
                    && self.store.is_of_another(path)
                {
                    let mut others = self.others.borrow_mut();
                    others.count += 1;
                    others.first.get_or_insert_with(|| show(path).into_owned());
                    continue;
                }
                let path = text(row, 1).and_then(|path| self.store.parse(path));
                each(path.map_err(|what| self.database.damaged(what))?)?;
            }
        }
        Ok(())
    }

    /// The rows that Nix cannot read, those of another store directory aside: the first `most`, and how
    /// many there are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn wrong_rows(&self, most: usize) -> Result<WrongRows, LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.connection.prepare(ROWS).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let (mut wrong, mut last) = (WrongRows::default(), None);
        while let Some(row) = rows.next().map_err(sqlite)? {
            let id = row.get(0).map_err(sqlite)?;
            self.database.in_order(&mut last, id, "ValidPaths")?;
            let written = text(row, 1);
            if matches!(&written, Ok(path) if self.store.is_of_another(path)) {
                continue;
            }
            let path = show(written.clone().unwrap_or_default()).into_owned();
            let read = written
                .and_then(|path| self.store.parse(path))
                .and_then(|_| read_row(row, 2, &self.store));
            let Err(what) = read else { continue };
            wrong.count += 1;
            if wrong.first.len() < most {
                wrong.first.push((path, what));
            }
        }
        Ok(wrong)
    }

    /// Paths that refer to a path, itself aside: the first `most`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn referrers(&self, path: &StorePath, most: usize) -> Result<Vec<StorePath>, LowerError> {
        let sqlite = |error| self.database.error(error);
        let whole = self.store.print(path);
        let mut statement = self.connection.prepare_cached(BY_PATH).map_err(sqlite)?;
        let id = statement.query_row([String::from_utf8_lossy(&whole)], |row| {
            row.get::<_, i64>(0)
        });
        let Some(id) = id.optional().map_err(sqlite)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(REFERRERS).map_err(sqlite)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let (mut referrers, mut last) = (Vec::new(), None);
        while referrers.len() < most
            && let Some(row) = rows.next().map_err(sqlite)?
        {
            let place = row.get(0).map_err(sqlite)?;
            self.database.in_order(&mut last, place, "IndexReference")?;
            if row.get::<_, i64>(2).map_err(sqlite)? != id {
                let referrer = text(row, 1).and_then(|path| self.store.parse(path));
                referrers
                    .push(referrer.map_err(|what| self.database.wrong_row(path.clone(), what))?);
            }
        }
        referrers.sort();
        Ok(referrers)
    }

    /// The paths that were registered first, `most` of them, as they are written, each with the time
    /// of that in seconds since 1970.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn oldest(&self, most: u32) -> Result<Vec<(PathBuf, i64)>, LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.connection.prepare(OLDEST).map_err(sqlite)?;
        let mut rows = statement.query([most]).map_err(sqlite)?;
        let mut oldest = Vec::new();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let path = text(row, 0).map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let described = path.and_then(|path| Ok((path, integer(row, 1)?)));
            oldest.push(described.map_err(|what| self.database.damaged(what))?);
        }
        Ok(oldest)
    }

    /// Proves that all that was read belongs to one state of the database.
    ///
    /// # Errors
    /// When it does not.
    pub fn confirmed(&self) -> Result<(), LowerError> {
        self.database.confirm()
    }

    fn read(&self, path: &StorePath) -> Result<Option<PathInfo>, LowerError> {
        let sqlite = |error| self.database.error(error);
        let whole = self.store.print(path);
        let whole = String::from_utf8_lossy(&whole);
        let mut statement = self.connection.prepare_cached(BY_PATH).map_err(sqlite)?;
        let Some((id, info)) = statement
            .query_row([&whole], |row| {
                Ok((row.get::<_, i64>(0), read_row(row, 1, &self.store)))
            })
            .optional()
            .map_err(sqlite)?
        else {
            return Ok(None);
        };
        let wrong_row = |what| self.database.wrong_row(path.clone(), what);
        let id = id.map_err(|_| wrong_row("expected an integer as its row id".to_owned()))?;
        let mut info = info.map_err(wrong_row)?;
        let mut statement = self.connection.prepare_cached(REFERENCES).map_err(sqlite)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let mut last = None;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let place = row.get(0).map_err(sqlite)?;
            self.database.in_order(&mut last, place, "Refs")?;
            if matches!(row.get_ref(1), Ok(ValueRef::Null)) {
                if self.is_whole {
                    let what = format!("it refers to row {place}, which is not there");
                    return Err(wrong_row(what));
                }
                continue;
            }
            let reference = text(row, 1).and_then(|path| self.store.parse(path));
            info.references.push(reference.map_err(wrong_row)?);
        }
        info.references.sort();
        Ok(Some(info))
    }
}

impl Source for SqliteSource {
    fn ask(&mut self, path: &StorePath) -> Result<(), LowerError> {
        self.asked.push_back(path.clone());
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<PathInfo>, LowerError> {
        match self.asked.pop_front() {
            Some(path) => self.read(&path),
            None => Ok(None),
        }
    }

    fn window(&self) -> usize {
        1
    }

    fn all_paths(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        self.paths(ALL, each)
    }

    fn tops(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        self.paths(TOPS, each)
    }

    fn summaries(&mut self, key: &Key, most: u64) -> Result<Option<Vec<Summary>>, LowerError> {
        // An id is given once, so there are no more rows than that.
        let highest = self.connection.query_row(HIGHEST, [], |row| row.get(0));
        let highest: i64 = highest.map_err(|error| self.database.error(error))?;
        if u64::try_from(highest).is_ok_and(|highest| highest > most) {
            return Ok(None);
        }
        let attached = (&self.database, &self.connection, "lower");
        summaries::all(attached, self.store.as_bytes(), key).map(Some)
    }

    fn realised(
        &mut self,
        derivers: &BTreeSet<StorePath>,
    ) -> Result<Vec<(StorePath, StorePath)>, LowerError> {
        let sqlite = |error| self.database.error(error);
        // A store has the table once content-addressed derivations were on.
        if !is_ordinary_table(&self.connection, "lower", "Realisations").map_err(sqlite)? {
            return Ok(Vec::new());
        }
        let mut statement = self.connection.prepare(REALISED).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let (mut realised, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next().map_err(sqlite)? {
            let place = row.get(0).map_err(sqlite)?;
            self.database.in_order(&mut last, place, "Realisations")?;
            let path = |column| text(row, column).and_then(|path| self.store.parse(path));
            if let (Ok(deriver), Ok(output)) = (path(1), path(2))
                && derivers.contains(&deriver)
            {
                realised.push((deriver, output));
            }
        }
        Ok(realised)
    }

    fn confirm(&mut self) -> Result<(), LowerError> {
        self.database.confirm()
    }
}

/// Reads the columns hash, registrationTime, deriver, narSize, ultimate, sigs and ca of a row,
/// the first of them at `first`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn read_row(
    row: &Row<'_>,
    first: usize,
    store: &StoreDirectory,
) -> Result<PathInfo, String> {
    RawPathInfo {
        nar_hash: text(row, first)?,
        registration_time: integer(row, first + 1)?,
        deriver: text(row, first + 2)?,
        nar_size: integer(row, first + 3)?,
        // As Nix reads it: everything but 1 is no.
        ultimate: integer(row, first + 4)? == 1,
        signatures: text(row, first + 5)?,
        content_address: text(row, first + 6)?,
    }
    .normalize(store)
}

/// A column of text; nothing reads as empty.
pub(crate) fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], String> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(text)) => Ok(text),
        Ok(ValueRef::Null) => Ok(b""),
        Ok(other) => Err(wrong_type(row, column, "text", &other)),
        Err(error) => Err(error.to_string()),
    }
}

/// A column of integers; nothing reads as 0.
fn integer(row: &Row<'_>, column: usize) -> Result<i64, String> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(number)) => Ok(number),
        Ok(ValueRef::Null) => Ok(0),
        Ok(other) => Err(wrong_type(row, column, "an integer", &other)),
        Err(error) => Err(error.to_string()),
    }
}

fn wrong_type(row: &Row<'_>, column: usize, expected: &str, found: &ValueRef<'_>) -> String {
    let name = row.as_ref().column_name(column).unwrap_or("a column");
    format!(
        "expected {expected} in {name}, found {}",
        found.data_type().to_string().to_lowercase()
    )
}
