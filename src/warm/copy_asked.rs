use std::collections::VecDeque;

use rusqlite::OptionalExtension;

use super::upper_writer::{Target, Upper, Writer};
use crate::lower::Source;
use crate::lower::sqlite::text as read_text;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::warm::error::MOST_LISTED;
use crate::warm::{Wanted, WarmError, Warmed};

/// Copies from any source, path by path, with as many questions open as it takes.
///
/// What is still to be asked is kept in a temporary table, which SQLite moves to a file when it
/// grows. Memory: 8 bytes a path of the closure.
pub(super) fn copy(
    target: Target<'_>,
    source: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let warmed = copy_asked(target, source, wanted)
        // Whatever went wrong may come from a change meanwhile.
        .map_err(|error| source.confirm().err().map_or(error, WarmError::from))?;
    target.upper.checkpoint();
    Ok(warmed)
}

fn copy_asked(
    target: Target<'_>,
    source: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let upper = target.upper;
    upper
        .connection
        .execute_batch(
            "drop table if exists temp.Wanted;
             drop table if exists temp.Present;
             create temp table Wanted (number integer primary key, path text unique not null,
                 id integer not null, root integer not null);
             create temp table Present (id integer primary key);
             pragma temp.cache_size = -8192",
        )
        .map_err(|error| upper.error(error))?;
    let transaction = upper.begin()?;
    let mut copy = Copy::new(target, wanted)?;
    copy.place_wanted(source, wanted)?;
    copy.all_placed(source, !matches!(wanted, Wanted::ValidClosures(_)))?;
    copy.add_present()?;
    let warmed = std::mem::take(&mut copy.warmed);
    drop(copy);
    source.confirm()?;
    transaction.commit().map_err(|error| upper.error(error))?;
    Ok(warmed)
}

struct Copy<'u> {
    upper: &'u Upper,
    store: &'u StoreDirectory,
    writer: Writer<'u>,
    /// The id of the first new row.
    first_new: i64,
    /// Whether everything is wanted, so that each path is placed for itself.
    all: bool,
    /// How many paths are in the table, numbered from 1.
    placed: i64,
    warmed: Warmed,
}

impl<'u> Copy<'u> {
    fn new(target: Target<'u>, wanted: Wanted<'_>) -> Result<Self, WarmError> {
        let writer = Writer::new(target)?;
        Ok(Copy {
            upper: target.upper,
            store: target.store,
            first_new: writer.next_id,
            writer,
            all: wanted == Wanted::All,
            placed: 0,
            warmed: Warmed::default(),
        })
    }

    /// Puts all that is wanted into the table.
    fn place_wanted(
        &mut self,
        source: &mut dyn Source,
        wanted: Wanted<'_>,
    ) -> Result<(), WarmError> {
        let (Wanted::Closures(paths) | Wanted::ValidClosures(paths)) = wanted else {
            // `each` of a source can only fail as a source does.
            let mut failed = None;
            source.all_paths(&mut |path| {
                if failed.is_none() {
                    failed = self.place(&path, true).err();
                }
                Ok(())
            })?;
            return failed.map_or(Ok(()), Err);
        };
        for path in paths {
            self.place(path, true)?;
        }
        Ok(())
    }

    /// The id that a path's row has or will have. Puts it among the wanted if it has none.
    fn place(&mut self, path: &StorePath, root: bool) -> Result<i64, WarmError> {
        let whole = self.writer.print(path);
        if let Some(id) = self.writer.id_of(&whole)? {
            self.warmed.present += u64::from(root);
            if self.all && root {
                self.warmed.prefixes.push(path.hash_prefix());
            } else if !self.all && id < self.first_new {
                self.upper
                    .connection
                    .prepare_cached("insert or ignore into temp.Present values (?)")
                    .and_then(|mut statement| statement.execute([id]))
                    .map_err(|error| self.upper.error(error))?;
            }
            return Ok(id);
        }
        let upper = self.upper;
        let prepare = |sql| {
            upper
                .connection
                .prepare_cached(sql)
                .map_err(|error| upper.error(error))
        };
        let waiting = prepare("select id from temp.Wanted where path = ?")?
            .query_row([path.as_str()], |row| row.get(0))
            .optional()
            .map_err(|error| upper.error(error))?;
        if let Some(id) = waiting {
            return Ok(id);
        }
        let id = self.writer.next_id;
        self.writer.next_id += 1;
        self.placed += 1;
        prepare("insert into temp.Wanted values (?, ?, ?, ?)")?
            .execute((self.placed, path.as_str(), id, root))
            .map_err(|error| upper.error(error))?;
        Ok(id)
    }

    fn wanted(&self, number: i64) -> Result<(StorePath, i64, bool), WarmError> {
        let (path, id, root) = self
            .upper
            .connection
            .prepare_cached("select path, id, root from temp.Wanted where number = ?")
            .and_then(|mut statement| {
                statement.query_row([number], |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
                })
            })
            .map_err(|error| self.upper.error(error))?;
        let path = StorePath::parse(path.as_bytes())
            .map_err(|_| self.upper.error(rusqlite::Error::InvalidQuery))?;
        Ok((path, id, root))
    }

    /// Asks for everything that is wanted, and for what that refers to, and writes it.
    fn all_placed(
        &mut self,
        source: &mut dyn Source,
        roots_have_to_be_valid: bool,
    ) -> Result<(), WarmError> {
        let mut asked = VecDeque::new();
        let mut number = 0;
        let (mut invalid, mut missing) = (Vec::new(), Vec::new());
        loop {
            while number < self.placed && asked.len() < source.window() {
                number += 1;
                let wanted = self.wanted(number)?;
                source.ask(&wanted.0)?;
                asked.push_back(wanted);
            }
            let Some((path, id, root)) = asked.pop_front() else {
                break;
            };
            match source.answer()? {
                Some(info) => {
                    self.warmed.outputs += self.writer.path(id, &path, &info)?;
                    self.warmed.copied += 1;
                    self.warmed.prefixes.push(path.hash_prefix());
                    for reference in &info.references {
                        let reference = self.place(reference, false)?;
                        self.writer.reference(id, reference)?;
                        self.warmed.references += 1;
                    }
                }
                None if root => {
                    self.warmed.invalid += 1;
                    if roots_have_to_be_valid {
                        invalid.push(path);
                    }
                }
                None => missing.push((path, id)),
            }
            if missing.len() + invalid.len() > MOST_LISTED {
                break;
            }
        }
        if !invalid.is_empty() {
            return Err(WarmError::NotValid(invalid));
        }
        if !missing.is_empty() {
            return Err(self.incomplete(missing));
        }
        self.roots_that_are_referred_to()
    }

    /// Adds the closures of what was met and was there before: the upper database has all of them.
    fn add_present(&mut self) -> Result<(), WarmError> {
        let error = |error| self.upper.error(error);
        let mut statement = self
            .upper
            .connection
            .prepare(
                "with recursive Closure(id) as (select id from temp.Present \
                 union select reference from Closure join main.Refs on referrer = Closure.id) \
                 select path from Closure join main.ValidPaths using (id)",
            )
            .map_err(error)?;
        let mut rows = statement.query([]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            // What is no store path is none of those that `status` looks for.
            let path = read_text(row, 0).and_then(|path| self.store.parse(path));
            self.warmed
                .prefixes
                .extend(path.map(|path| path.hash_prefix()));
        }
        Ok(())
    }

    /// A root that is not valid, and that something in the closures refers to, leaves these
    /// incomplete.
    fn roots_that_are_referred_to(&self) -> Result<(), WarmError> {
        if self.warmed.invalid == 0 {
            return Ok(());
        }
        let dangling = self
            .upper
            .connection
            .prepare(
                "select w.path, w.id from temp.Wanted w where w.root \
                 and not exists (select 1 from main.ValidPaths v where v.id = w.id) \
                 and exists (select 1 from main.Refs r where r.reference = w.id)",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| {
                        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
                    })?
                    .take(MOST_LISTED)
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| self.upper.error(error))?;
        if dangling.is_empty() {
            return Ok(());
        }
        let missing = dangling
            .into_iter()
            .filter_map(|(path, id)| Some((StorePath::parse(path.as_bytes()).ok()?, id)));
        Err(self.incomplete(missing.collect()))
    }

    /// What is missing, with one path that refers to each.
    fn incomplete(&self, missing: Vec<(StorePath, i64)>) -> WarmError {
        let referrer = |id: i64| {
            self.upper
                .connection
                .query_row(
                    "select path from main.ValidPaths join main.Refs on id = referrer \
                     where reference = ?",
                    [id],
                    |row| row.get(0),
                )
                .unwrap_or_else(|_| "a path".to_owned())
        };
        WarmError::Incomplete(
            missing
                .into_iter()
                .map(|(path, id)| {
                    let whole = self.store.print(&path);
                    (referrer(id), String::from_utf8_lossy(&whole).into_owned())
                })
                .collect(),
        )
    }
}
