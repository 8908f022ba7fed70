use std::collections::HashSet;

use super::error::MOST_LISTED;
use super::ids::shift;
use super::upper_writer::{Target, Writer};
use crate::counts::Counts;
use crate::lower::database::Database;
use crate::warm::reader::{Reader, rows};
use crate::warm::{LeftOut, Wanted, WarmError, Warmed};

/// Copies from an attached database. Confirms before the commit that it did not change.
///
/// Memory: 33 bytes a path of the closure at most, and the upper database's cache.
pub(super) fn copy(
    target: Target<'_>,
    lower: &Database,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let upper = target.upper;
    lower.attach(&upper.connection, "lower")?;
    // The closure is gone through in its own order, not in that of the pages.
    upper
        .connection
        .pragma_update(Some("lower"), "cache_size", -8192)
        .map_err(|error| upper.error(error))?;
    let mut wrong_row = false;
    let mut result = copy_attached(target, lower, wanted, None, &mut wrong_row);
    if wrong_row {
        // Rows are looked at twice only where one is wrong.
        result = left_out(target, lower, wanted)
            .and_then(|out| copy_attached(target, lower, wanted, Some(out), &mut false));
    }
    let result = result
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

/// What is not copied: the ids of the rows that are wrong, and of all that refers to them.
struct Out {
    ids: HashSet<i64>,
    /// What is wrong, of the first ones.
    first: Vec<String>,
}

/// Looks for rows that are wrong among those that are wanted.
fn left_out(target: Target<'_>, lower: &Database, wanted: Wanted<'_>) -> Result<Out, WarmError> {
    let Target { upper, store, .. } = target;
    let reader = Reader {
        connection: &upper.connection,
        lower,
        store,
    };
    let mut copying = Copying {
        reader: &reader,
        counts: target.counts,
        warmed: Warmed::default(),
        wrong_row: &mut false,
    };
    let ids = copying.ids(wanted)?;
    let (mut wrong, mut first) = (Vec::new(), Vec::new());
    rows(lower, store, &ids, |id, path, info| {
        let why = match (path, info) {
            (Ok(_), Ok(_)) => return Ok(()),
            (Ok(path), Err(what)) => lower.wrong_row(path, what),
            (Err(what), _) => lower.damaged(what),
        };
        wrong.push(id);
        if first.len() < MOST_LISTED {
            first.push(why.to_string());
        }
        Ok(())
    })?;
    let ids = reader.all_that_refers_to(wrong)?;
    Ok(Out { ids, first })
}

fn copy_attached(
    target: Target<'_>,
    lower: &Database,
    wanted: Wanted<'_>,
    out: Option<Out>,
    wrong_row: &mut bool,
) -> Result<Warmed, WarmError> {
    let Target { upper, store, .. } = target;
    let reader = Reader {
        connection: &upper.connection,
        lower,
        store,
    };
    let mut copying = Copying {
        reader: &reader,
        counts: target.counts,
        warmed: Warmed::default(),
        wrong_row,
    };
    let mut ids = copying.ids(wanted)?;
    let whole = out.is_none();
    if let Some(out) = out {
        let before = ids.len();
        ids.retain(|id| !out.ids.contains(id));
        copying.warmed.left_out = LeftOut {
            count: (before - ids.len()) as u64,
            first: out.first,
        };
    }
    target.counts.begin(ids.len() as u64);
    let transaction = upper.begin(target.waiting)?;
    let mut writer = Writer::new(target)?;
    let first_new = writer.next_id;
    let shift = shift(&ids, first_new).filter(|_| whole);
    let upper_ids = copying.rows(&mut writer, &ids, shift)?;
    copying.warmed.references = match shift {
        Some(shift) if copying.warmed.present == 0 => {
            // Every reference has a row: a closure contains its references; for `All` it is checked.
            if wanted == Wanted::All {
                reader.all_references_lead_to(&ids)?;
            }
            writer.references_shifted(&ids, shift)?
        }
        _ => copying.references(&mut writer, &ids, &upper_ids, first_new)?,
    };
    drop(writer);
    lower.confirm()?;
    transaction.commit().map_err(|error| upper.error(error))?;
    Ok(copying.warmed)
}

/// One copy under way.
struct Copying<'a> {
    reader: &'a Reader<'a>,
    counts: &'a Counts,
    warmed: Warmed,
    /// Set where a row is wrong.
    wrong_row: &'a mut bool,
}

impl Copying<'_> {
    /// The ids below of all that is wanted and of what it refers to.
    fn ids(&mut self, wanted: Wanted<'_>) -> Result<Vec<i64>, WarmError> {
        let reader = self.reader;
        let (Wanted::Closures(paths) | Wanted::ValidClosures(paths)) = wanted else {
            return reader.all();
        };
        match reader.ids_of(paths) {
            Err(WarmError::NotValid(invalid)) if matches!(wanted, Wanted::ValidClosures(_)) => {
                self.warmed.invalid = invalid.len() as u64;
                let invalid: HashSet<_> = invalid.iter().collect();
                let valid: Vec<_> = paths
                    .iter()
                    .filter(|path| !invalid.contains(path))
                    .cloned()
                    .collect();
                reader.closure(reader.ids_of(&valid)?)
            }
            ids => reader.closure(ids?),
        }
    }

    /// Copies the rows with these ids that are not there, with ids larger by `shift` if there is one:
    /// the ids that they, and those that were there, have above.
    fn rows(
        &mut self,
        writer: &mut Writer<'_>,
        ids: &[i64],
        shift: Option<i64>,
    ) -> Result<Vec<i64>, WarmError> {
        let Reader { lower, store, .. } = *self.reader;
        let (warmed, wrong_row) = (&mut self.warmed, &mut *self.wrong_row);
        let counts = self.counts;
        let mut upper_ids = Vec::with_capacity(ids.len());
        warmed.prefixes.reserve_exact(ids.len());
        rows(lower, store, ids, |id, path, info| {
            counts.add(1);
            *wrong_row = path.is_err();
            let path = path.map_err(|what| lower.damaged(what))?;
            warmed.prefixes.push(path.hash_prefix());
            if !writer.was_empty
                && let Some(present) = writer.id_of(&writer.print(&path))?
            {
                upper_ids.push(present);
                warmed.present += 1;
                return Ok(());
            }
            *wrong_row = info.is_err();
            let info = info.map_err(|what| lower.wrong_row(path.clone(), what))?;
            let new = shift.map_or(writer.next_id, |shift| id + shift);
            writer.next_id = new + 1;
            warmed.outputs += writer.path(new, &path, &info)?;
            warmed.copied += 1;
            upper_ids.push(new);
            Ok(())
        })?;
        Ok(upper_ids)
    }

    /// Copies the references of all paths that are new, one by one: how many.
    fn references(
        &self,
        writer: &mut Writer<'_>,
        ids: &[i64],
        upper_ids: &[i64],
        first_new: i64,
    ) -> Result<u64, WarmError> {
        let mut statement = self.reader.reference_statement()?;
        let (mut copied, mut missing) = (0, Vec::new());
        for (&id, &upper_id) in ids.iter().zip(upper_ids) {
            if upper_id < first_new {
                // What is there already has all its references.
                continue;
            }
            self.reader.references(&mut statement, id, |reference| {
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
            Err(self.reader.incomplete(missing))
        }
    }
}
