//! Rows of the upper database that no longer fit the lower store: taken from it anew, or dropped.

use std::collections::{HashMap, VecDeque};

use super::error::WarmError;
use super::upper_writer::{Target, Upper, Writer};
use crate::lower::{self, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::StorePath;

/// How many paths are asked for at once.
const BATCH: usize = 256;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Rows that say now what the lower store says.
    pub replaced: u64,
    /// Rows that were added, since these refer to them.
    pub added: u64,
}

/// Has the rows of these paths say what the lower store says, with their references, and adds the rows
/// that these lead to. All in one transaction.
pub(super) fn replace(
    target: Target<'_>,
    source: &mut dyn Source,
    paths: &[StorePath],
) -> Result<Replaced, WarmError> {
    let upper = target.upper;
    let transaction = upper.begin(target.waiting)?;
    let mut work = Work {
        writer: Writer::new(target)?,
        source,
        added: HashMap::new(),
        open: VecDeque::new(),
        done: Replaced::default(),
    };
    for batch in paths.chunks(BATCH) {
        work.rows(batch)?;
    }
    while !work.open.is_empty() {
        let batch: Vec<_> = work.open.drain(..BATCH.min(work.open.len())).collect();
        work.new_rows(&batch)?;
    }
    let Work { source, done, .. } = work;
    source.confirm()?;
    transaction.commit().map_err(|error| upper.error(error))?;
    upper.checkpoint();
    Ok(done)
}

struct Work<'w> {
    writer: Writer<'w>,
    source: &'w mut dyn Source,
    /// The ids of rows that are still to be written.
    added: HashMap<StorePath, i64>,
    /// The paths of these.
    open: VecDeque<StorePath>,
    done: Replaced,
}

impl Work<'_> {
    fn rows(&mut self, paths: &[StorePath]) -> Result<(), WarmError> {
        let infos = lower::answers(self.source, paths)?;
        for (path, info) in paths.iter().zip(infos) {
            let Some(info) = info else {
                return Err(WarmError::NotValid(vec![path.clone()]));
            };
            let print = self.writer.print(path);
            // One that is gone from above by now needs nothing.
            if let Some(id) = self.writer.id_of(&print)? {
                self.writer.replace(id, path, &info)?;
                self.references(id, path, &info)?;
                self.done.replaced += 1;
            }
        }
        Ok(())
    }

    fn new_rows(&mut self, paths: &[StorePath]) -> Result<(), WarmError> {
        let infos = lower::answers(self.source, paths)?;
        for (path, info) in paths.iter().zip(infos) {
            let (Some(id), Some(info)) = (self.added.remove(path), info) else {
                return Err(WarmError::NotValid(vec![path.clone()]));
            };
            self.writer.path(id, path, &info)?;
            self.references(id, path, &info)?;
            self.done.added += 1;
        }
        Ok(())
    }

    fn references(&mut self, id: i64, path: &StorePath, info: &PathInfo) -> Result<(), WarmError> {
        for reference in &info.references {
            let other = match self.added.get(reference) {
                _ if reference == path => id,
                Some(&id) => id,
                None => match self.writer.id_of(&self.writer.print(reference))? {
                    Some(id) => id,
                    None => {
                        let new = self.writer.next_id;
                        self.writer.next_id += 1;
                        self.added.insert(reference.clone(), new);
                        self.open.push_back(reference.clone());
                        new
                    }
                },
            };
            self.writer.reference(id, other)?;
        }
        Ok(())
    }
}

/// Drops the rows of these paths, but for those that a row refers to which stays: how many went. What
/// goes with them by Nix's foreign keys goes: outputs of derivations, realisations.
pub(super) fn drop_rows(
    upper: &Upper,
    paths: impl Iterator<Item = String>,
    waiting: &dyn Fn(&str),
) -> Result<u64, WarmError> {
    let sqlite = |error| upper.error(error);
    let connection = &upper.connection;
    connection
        .execute_batch(
            "pragma foreign_keys = on; pragma temp_store = memory; \
             create temp table if not exists Going (id integer primary key); \
             delete from temp.Going",
        )
        .map_err(sqlite)?;
    let transaction = upper.begin(waiting)?;
    {
        let mut going = connection
            .prepare(
                "insert or ignore into temp.Going select id from main.ValidPaths \
                 indexed by sqlite_autoindex_ValidPaths_1 where path = ?",
            )
            .map_err(sqlite)?;
        for path in paths {
            going.execute([path]).map_err(sqlite)?;
        }
        let mut stays = connection
            .prepare(
                "delete from temp.Going where id in (select r.reference from temp.Going g \
                 cross join main.Refs r indexed by IndexReference on r.reference = g.id \
                 where r.referrer not in (select id from temp.Going))",
            )
            .map_err(sqlite)?;
        while stays.execute([]).map_err(sqlite)? > 0 {}
    }
    connection
        .execute(
            "delete from main.Refs where referrer in (select id from temp.Going)",
            [],
        )
        .map_err(sqlite)?;
    let dropped = connection
        .execute(
            "delete from main.ValidPaths where id in (select id from temp.Going)",
            [],
        )
        .map_err(sqlite)?;
    transaction.commit().map_err(sqlite)?;
    upper.checkpoint();
    Ok(dropped as u64)
}
