//! What is read of a lower database.

use std::collections::HashSet;
use std::panic;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rusqlite::{Connection, OptionalExtension};

use super::WarmError;
use super::ids::runs;
use crate::escape::show;
use crate::lower::database::Database;
use crate::lower::sqlite::{read_row, text as read_text};
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// The ids of what a path refers to. In the order of the index, so that a tree that leads in a circle
/// is noticed.
const REFERENCES: &str = "select reference from lower.Refs indexed by sqlite_autoindex_Refs_1 \
                          where referrer = ? order by reference";

/// A path, and what its row says; or what is wrong with either.
type Row = (Result<StorePath, String>, Result<PathInfo, String>);

/// Hands the rows with these ids, in this order, to `each`. They are read ahead in a thread of their
/// own, since writing them takes a processor.
pub(super) fn rows(
    lower: &Database,
    store: &StoreDirectory,
    ids: &[i64],
    mut each: impl FnMut(
        i64,
        Result<StorePath, String>,
        Result<PathInfo, String>,
    ) -> Result<(), WarmError>,
) -> Result<(), WarmError> {
    const PIECES_AHEAD: usize = 4;
    let (sender, receiver) = sync_channel(PIECES_AHEAD);
    thread::scope(|scope| {
        let reading = thread::Builder::new()
            .spawn_scoped(scope, move || read_ahead(lower, store, ids, &sender))
            .map_err(WarmError::Thread)?;
        let mut rows = receiver.into_iter().flatten();
        let written = ids
            .iter()
            .zip(&mut rows)
            .try_for_each(|(&id, (path, info))| each(id, path, info));
        // The thread ends when nobody receives.
        drop(rows);
        let read = reading
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause));
        written.and(read)
    })
}

/// Reads the rows with these ids, until nobody wants more of them.
fn read_ahead(
    lower: &Database,
    store: &StoreDirectory,
    ids: &[i64],
    rows: &SyncSender<Vec<Row>>,
) -> Result<(), WarmError> {
    const PIECE: usize = 128;
    let error = |error| WarmError::from(lower.error(error));
    // Its own database is in memory and stays empty.
    let connection = Connection::open_in_memory().map_err(error)?;
    lower.attach(&connection, "lower")?;
    let reader = Reader {
        connection: &connection,
        lower,
        store,
    };
    let mut statement = reader.prepare(
        "select id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
         from lower.ValidPaths where id between ? and ? order by id",
    )?;
    let (mut piece, mut last) = (Vec::new(), None);
    for run in runs(ids) {
        let mut found = statement.query((run.first(), run.last())).map_err(error)?;
        for &id in run {
            let row = found.next().map_err(error)?;
            let Some(row) = row else {
                return Err(reader.no_row(id));
            };
            let row_id = row.get(0).map_err(error)?;
            lower.in_order(&mut last, row_id, "ValidPaths")?;
            if row_id != id {
                return Err(reader.no_row(id));
            }
            let path = read_text(row, 1).and_then(|path| store.parse(path));
            piece.push((path, read_row(row, 2, store)));
            if piece.len() == PIECE && rows.send(std::mem::take(&mut piece)).is_err() {
                return Ok(());
            }
        }
    }
    // Whether anybody wants the last ones is no matter.
    let _ = rows.send(piece);
    Ok(())
}

/// What is read of the attached database.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) lower: &'a Database,
    pub(super) store: &'a StoreDirectory,
}

impl<'a> Reader<'a> {
    fn error(&self, error: rusqlite::Error) -> WarmError {
        self.lower.error(error).into()
    }

    /// Hands the ids of what a path refers to, in order, to `each`.
    pub(super) fn references(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        id: i64,
        mut each: impl FnMut(i64) -> Result<(), WarmError>,
    ) -> Result<(), WarmError> {
        let mut rows = statement.query([id]).map_err(|error| self.error(error))?;
        let mut last = None;
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            let reference = row.get(0).map_err(|error| self.error(error))?;
            self.lower.in_order(&mut last, reference, "Refs")?;
            each(reference)?;
        }
        Ok(())
    }

    /// The statement for [`references`](Self::references).
    pub(super) fn reference_statement(&self) -> Result<rusqlite::CachedStatement<'a>, WarmError> {
        self.prepare(REFERENCES)
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'a>, WarmError> {
        self.connection
            .prepare_cached(sql)
            .map_err(|error| self.error(error))
    }

    pub(super) fn ids_of(&self, paths: &[StorePath]) -> Result<Vec<i64>, WarmError> {
        let mut statement = self.prepare(
            "select id from lower.ValidPaths indexed by sqlite_autoindex_ValidPaths_1 where path = ?",
        )?;
        let (mut ids, mut invalid) = (Vec::new(), Vec::new());
        for path in paths {
            let whole = self.store.print(path);
            let id = statement
                .query_row([String::from_utf8_lossy(&whole)], |row| row.get(0))
                .optional()
                .map_err(|error| self.error(error))?;
            match id {
                Some(id) => ids.push(id),
                None => invalid.push(path.clone()),
            }
        }
        if invalid.is_empty() {
            Ok(ids)
        } else {
            Err(WarmError::NotValid(invalid))
        }
    }

    /// All ids, in order.
    pub(super) fn all(&self) -> Result<Vec<i64>, WarmError> {
        // Rows of another store directory are no paths of this store, for Nix neither.
        let mut statement = self.prepare(
            "select id from lower.ValidPaths \
             where not (typeof(path) = 'text' and path glob '/*/*' and substr(path, 1, ?1) != ?2) \
             order by id",
        )?;
        let directory = [self.store.as_bytes(), b"/"].concat();
        let directory = String::from_utf8_lossy(&directory);
        let mut rows = statement
            .query((directory.chars().count() as i64, &*directory))
            .map_err(|error| self.error(error))?;
        let (mut ids, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            let id = row.get(0).map_err(|error| self.error(error))?;
            self.lower.in_order(&mut last, id, "ValidPaths")?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// The ids of everything that these refer to, themselves included, in order. They need not have
    /// rows.
    pub(super) fn closure(&self, roots: Vec<i64>) -> Result<Vec<i64>, WarmError> {
        let mut statement = self.reference_statement()?;
        let mut seen: HashSet<i64> = HashSet::new();
        let mut pending = Vec::new();
        for root in roots {
            if seen.insert(root) {
                pending.push(root);
            }
        }
        while let Some(id) = pending.pop() {
            self.references(&mut statement, id, |reference| {
                if seen.insert(reference) {
                    pending.push(reference);
                }
                Ok(())
            })?;
        }
        let mut ids: Vec<_> = seen.into_iter().collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The ids of all that refers to these, themselves included.
    pub(super) fn all_that_refers_to(&self, ids: Vec<i64>) -> Result<HashSet<i64>, WarmError> {
        let mut statement = self.prepare(
            "select rowid, referrer from lower.Refs indexed by IndexReference \
             where reference = ? order by rowid",
        )?;
        let mut seen: HashSet<i64> = ids.iter().copied().collect();
        let mut pending = ids;
        while let Some(id) = pending.pop() {
            let mut rows = statement.query([id]).map_err(|error| self.error(error))?;
            let mut last = None;
            while let Some(row) = rows.next().map_err(|error| self.error(error))? {
                let row_id = row.get(0).map_err(|error| self.error(error))?;
                self.lower.in_order(&mut last, row_id, "IndexReference")?;
                let referrer = row.get(1).map_err(|error| self.error(error))?;
                if seen.insert(referrer) {
                    pending.push(referrer);
                }
            }
        }
        Ok(seen)
    }

    /// Proves that every reference leads to one of these ids, which are all there are.
    pub(super) fn all_references_lead_to(&self, ids: &[i64]) -> Result<(), WarmError> {
        // In the order of the index, so that one look at the ids is enough.
        let mut statement = self.prepare(
            "select reference, rowid from lower.Refs indexed by IndexReference \
             order by reference, rowid",
        )?;
        let mut rows = statement.query([]).map_err(|error| self.error(error))?;
        let (mut place, mut last) = (0, None);
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            let reference: i64 = row.get(0).map_err(|error| self.error(error))?;
            let row_id: i64 = row.get(1).map_err(|error| self.error(error))?;
            if last.replace((reference, row_id)) >= Some((reference, row_id)) {
                let what = format!("row {row_id} of IndexReference is not in its place");
                return Err(self.lower.damaged(what).into());
            }
            while ids.get(place).is_some_and(|id| *id < reference) {
                place += 1;
            }
            if ids.get(place) != Some(&reference) {
                return Err(self.no_row(reference));
            }
        }
        Ok(())
    }

    /// Something refers to a row that is not there.
    fn no_row(&self, id: i64) -> WarmError {
        self.connection
            .query_row(
                "select referrer from lower.Refs indexed by IndexReference where reference = ?",
                [id],
                |row| row.get(0),
            )
            .map_or_else(
                |error| self.error(error),
                |referrer| self.incomplete(vec![(referrer, id)]),
            )
    }

    /// References lead to rows that are not there: each a referrer and a reference.
    pub(super) fn incomplete(&self, missing: Vec<(i64, i64)>) -> WarmError {
        let name = |id: i64| {
            self.connection
                .query_row(
                    "select path from lower.ValidPaths where id = ?",
                    [id],
                    |row| Ok(read_text(row, 0).map(|path| show(path).into_owned())),
                )
                .ok()
                .and_then(Result::ok)
                .unwrap_or_else(|| format!("row {id}"))
        };
        WarmError::Incomplete(
            missing
                .into_iter()
                .map(|(id, reference)| (name(id), name(reference)))
                .collect(),
        )
    }
}
