use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::error::MOST_LISTED;
use super::outputs::Objects;
use super::upper::{Upper, Writer};
use super::{Wanted, WarmError, Warmed};
use crate::lower::StoreDirectory;
use crate::lower::sqlite::{Database, read_row, read_text};
use crate::nix::store_path::StorePath;
use crate::show::show;

/// The ids of what a path refers to. In the order of the index, so that a tree that leads in a circle is
/// noticed.
const REFERENCES: &str = "select reference from lower.Refs indexed by sqlite_autoindex_Refs_1 \
                          where referrer = ? order by reference";

/// Copies from an attached database. Confirms before the commit that it did not change.
///
/// Memory: 33 bytes a path of the closure at most, and the upper database's cache.
pub(super) fn copy(
    upper: &Upper,
    lower: &Database,
    store: &StoreDirectory,
    objects: &Objects,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    lower.attach(&upper.connection, "lower")?;
    // The closure is gone through in its own order, not in that of the pages.
    upper
        .connection
        .pragma_update(Some("lower"), "cache_size", -8192)
        .map_err(|error| upper.error(error))?;
    let result = copy_attached(upper, lower, store, objects, wanted)
        // Whatever went wrong may come from a change meanwhile.
        .map_err(|error| lower.confirm().err().map_or(error, WarmError::from));
    // The next try attaches another state.
    upper.connection.flush_prepared_statement_cache();
    let detached = upper
        .connection
        .execute("detach lower", [])
        .map_err(|error| upper.error(error));
    let warmed = result?;
    detached?;
    upper.checkpoint();
    Ok(warmed)
}

fn copy_attached(
    upper: &Upper,
    lower: &Database,
    store: &StoreDirectory,
    objects: &Objects,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let reader = Reader {
        connection: &upper.connection,
        lower,
        store,
    };
    let mut warmed = Warmed::default();
    let ids = match wanted {
        Wanted::All => reader.all()?,
        Wanted::Closures(paths) => reader.closure(reader.ids_of(paths)?)?,
        Wanted::ValidClosures(paths) => match reader.ids_of(paths) {
            Ok(ids) => reader.closure(ids)?,
            Err(WarmError::NotValid(invalid)) => {
                warmed.invalid = invalid.len() as u64;
                let invalid: HashSet<_> = invalid.iter().collect();
                let valid: Vec<_> = paths
                    .iter()
                    .filter(|path| !invalid.contains(path))
                    .cloned()
                    .collect();
                reader.closure(reader.ids_of(&valid)?)?
            }
            Err(error) => return Err(error),
        },
    };

    let transaction = upper.begin()?;
    let mut writer = Writer::new(upper, store, objects)?;
    let first_new = writer.next_id;
    let shift = shift(&ids, first_new);
    let mut upper_ids = Vec::with_capacity(ids.len());
    warmed.prefixes.reserve_exact(ids.len());
    {
        let mut statement = reader.prepare(
            "select path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
             from lower.ValidPaths where id = ?",
        )?;
        for &id in &ids {
            let mut rows = statement.query([id]).map_err(|error| reader.error(error))?;
            let Some(row) = rows.next().map_err(|error| reader.error(error))? else {
                return Err(reader.no_row(id));
            };
            let path = read_text(row, 0)
                .and_then(|path| store.parse(path))
                .map_err(|what| lower.damaged(what))?;
            warmed.prefixes.push(path.hash_prefix());
            if !writer.was_empty
                && let Some(present) = writer.id_of(&writer.print(&path))?
            {
                upper_ids.push(present);
                warmed.present += 1;
                continue;
            }
            let info =
                read_row(row, 1, store).map_err(|what| lower.wrong_row(path.clone(), what))?;
            let new = shift.map_or(writer.next_id, |shift| id + shift);
            writer.next_id = new + 1;
            warmed.outputs += writer.path(new, &path, &info)?;
            warmed.copied += 1;
            upper_ids.push(new);
        }
    }

    warmed.references = match shift {
        Some(shift) if warmed.present == 0 => {
            // All that is referred to has got a row: a closure has it, and in everything it is
            // looked for.
            if wanted == Wanted::All {
                reader.all_references_lead_to(&ids)?;
            }
            writer.references_shifted(&ids, shift)?
        }
        _ => reader.copy_references(&mut writer, &ids, &upper_ids, first_new)?,
    };
    drop(writer);
    lower.confirm()?;
    transaction.commit().map_err(|error| upper.error(error))?;
    Ok(warmed)
}

/// How much larger the new ids are than those below: the gaps between them stay, so that all
/// references can be copied by SQLite itself. `None` where the ids are too far apart for that.
fn shift(ids: &[i64], first_new: i64) -> Option<i64> {
    const FAR: i64 = 1 << 40;
    let (first, last) = (*ids.first()?, *ids.last()?);
    let near = last.checked_sub(first)? < FAR && (0..FAR).contains(&first_new);
    (near && (-FAR..FAR).contains(&first)).then(|| first_new - first)
}

/// What is read of the attached database.
struct Reader<'a> {
    connection: &'a Connection,
    lower: &'a Database,
    store: &'a StoreDirectory,
}

impl<'a> Reader<'a> {
    fn error(&self, error: rusqlite::Error) -> WarmError {
        self.lower.error(error).into()
    }

    /// Hands the ids of what a path refers to, in order, to `each`.
    fn references(
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

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'a>, WarmError> {
        self.connection
            .prepare_cached(sql)
            .map_err(|error| self.error(error))
    }

    fn ids_of(&self, paths: &[StorePath]) -> Result<Vec<i64>, WarmError> {
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
    fn all(&self) -> Result<Vec<i64>, WarmError> {
        let mut statement = self.prepare("select id from lower.ValidPaths order by id")?;
        let mut rows = statement.query([]).map_err(|error| self.error(error))?;
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
    fn closure(&self, roots: Vec<i64>) -> Result<Vec<i64>, WarmError> {
        let mut statement = self.prepare(REFERENCES)?;
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

    /// Proves that every reference leads to one of these ids, which are all there are.
    fn all_references_lead_to(&self, ids: &[i64]) -> Result<(), WarmError> {
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

    /// Copies the references of all paths that are new, one by one: how many.
    fn copy_references(
        &self,
        writer: &mut Writer<'_>,
        ids: &[i64],
        upper_ids: &[i64],
        first_new: i64,
    ) -> Result<u64, WarmError> {
        let mut statement = self.prepare(REFERENCES)?;
        let (mut copied, mut missing) = (0, Vec::new());
        for (&id, &upper_id) in ids.iter().zip(upper_ids) {
            if upper_id < first_new {
                // What is there already has all its references.
                continue;
            }
            self.references(&mut statement, id, |reference| {
                match ids.binary_search(&reference) {
                    Ok(place) => writer.reference(upper_id, upper_ids[place])?,
                    Err(_) if missing.len() < MOST_LISTED => missing.push((id, reference)),
                    Err(_) => {}
                }
                copied += 1;
                Ok(())
            })?;
        }
        if missing.is_empty() {
            Ok(copied)
        } else {
            Err(self.incomplete(missing))
        }
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

    fn incomplete(&self, missing: Vec<(i64, i64)>) -> WarmError {
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
