//! Whether a lower store is whole: every row can be read and has its object, every reference its row.
//! Nix itself cannot verify a store that is sealed.

use rusqlite::Connection;
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use crate::compare::{AcrossError, Damaged, Job, Layer, hash_each};
use crate::counts::Counts;
use crate::escape::show;
use crate::lower::sqlite::{read_row, text};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_object;
use crate::nix::store_path::StorePath;

/// How many problems are told one by one.
const MOST_TOLD: usize = 20;

/// Something that a store which is published may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A valid path has no object.
    NoObject(StorePath),
    /// What is there is nothing that a store can hold.
    NoStoreObject(StorePath),
    /// A row that Nix cannot read.
    Row {
        /// What it has as its path.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A row with a reference that leads to no row.
    Reference {
        /// The path of the row, or its number.
        referrer: String,
        /// The number of the row that is missing.
        reference: i64,
    },
    /// An object is not what its row says.
    Contents(Damaged),
}

/// The problems of a store: the first few, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    /// The first few.
    pub first: Vec<Problem>,
    /// All of them.
    pub count: u64,
}

impl Problems {
    pub(super) fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.first.len() < MOST_TOLD {
            self.first.push(problem);
        }
    }
}

/// A store that was gone through.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub problems: Problems,
    /// The ids of rows that something else refers to.
    pub referred: Ids,
}

/// A set of ids of rows. Those of a database are near each other, unless somebody wrote them by hand:
/// then each takes more room.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// A bit for each of the first ids.
    dense: Vec<u64>,
    others: std::collections::BTreeSet<i64>,
}

impl Ids {
    /// Smaller ids have a bit each, which take 16 MiB at most.
    const MOST_DENSE: i64 = (16 * 8) << 20;

    fn place(id: i64) -> Option<(usize, u64)> {
        let dense = usize::try_from(id).ok().filter(|_| id < Self::MOST_DENSE)?;
        Some((dense / 64, 1 << (dense % 64)))
    }

    fn add(&mut self, id: i64) {
        match Self::place(id) {
            Some((word, bit)) => {
                if self.dense.len() <= word {
                    // Not to twice of what there is.
                    self.dense.reserve_exact(word / 8 + 1024);
                    self.dense.resize(word + 1, 0);
                }
                self.dense[word] |= bit;
            }
            None => {
                self.others.insert(id);
            }
        }
    }

    pub(super) fn has(&self, id: i64) -> bool {
        match Self::place(id) {
            Some((word, bit)) => self.dense.get(word).is_some_and(|bits| bits & bit != 0),
            None => self.others.contains(&id),
        }
    }
}

/// A store to verify: its database, attached to a connection, and the directory of its objects.
pub(crate) struct Verifying<'a> {
    pub connection: &'a Connection,
    /// The name that the database is attached as.
    pub name: &'a str,
    pub store: &'a StoreDirectory,
    pub objects: &'a Layer,
}

/// Why it could not be told.
#[derive(Debug)]
pub(super) enum Failed {
    Sqlite(rusqlite::Error),
    Objects(Errno),
    Across(AcrossError),
}

impl From<AcrossError> for Failed {
    fn from(error: AcrossError) -> Self {
        Self::Across(error)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Verifying<'_> {
    /// Looks at every row, its object and its references; and with `contents`, at every byte.
    ///
    /// # Errors
    /// When the database or the directory cannot be read.
    pub(super) fn run(&self, contents: Option<&Counts>) -> Result<Found, Failed> {
        let mut verified = Found::default();
        let mut ids = Ids::default();
        let problems = &mut verified.problems;
        match contents {
            None => self.rows(problems, &mut ids, &mut |_| {})?,
            Some(counts) => {
                let (_, damaged) = hash_each([self.objects; 2], counts, |queue| {
                    self.rows(problems, &mut ids, queue)
                })?;
                for damaged in damaged {
                    problems.add(Problem::Contents(damaged));
                }
            }
        }
        self.references(&ids, &mut verified)?;
        Ok(verified)
    }

    /// Every row and its object; `queue` takes what is to be hashed.
    fn rows(
        &self,
        problems: &mut Problems,
        ids: &mut Ids,
        queue: &mut dyn FnMut(Job),
    ) -> Result<(), Failed> {
        let mut statement = self.connection.prepare(&format!(
            "select id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
             from {}.ValidPaths order by id",
            self.name
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            ids.add(row.get(0)?);
            let written = text(row, 1);
            let read = written
                .clone()
                .and_then(|path| self.store.parse(path))
                .and_then(|path| Ok((path, read_row(row, 2, self.store)?)));
            let (path, info) = match read {
                Ok(read) => read,
                Err(what) => {
                    let path = show(written.unwrap_or_default()).into_owned();
                    problems.add(Problem::Row { path, what });
                    continue;
                }
            };
            match statat(
                &self.objects.directory,
                path.as_str(),
                AtFlags::SYMLINK_NOFOLLOW,
            ) {
                Ok(stat) if store_object::can_be(FileType::from_raw_mode(stat.st_mode)) => {
                    queue(Job {
                        path,
                        upper: true,
                        expected: info.nar_hash,
                    });
                }
                Ok(_) => problems.add(Problem::NoStoreObject(path)),
                Err(Errno::NOENT) => problems.add(Problem::NoObject(path)),
                Err(errno) => return Err(Failed::Objects(errno)),
            }
        }
        Ok(())
    }

    /// References that lead nowhere, and those of no row.
    fn references(&self, ids: &Ids, verified: &mut Found) -> Result<(), Failed> {
        let name = self.name;
        // From the index alone, in its order. What the rows are is known: to ask the database for each
        // would take several times as long.
        let mut statement = self.connection.prepare(&format!(
            "select referrer, reference from {name}.Refs indexed by sqlite_autoindex_Refs_1"
        ))?;
        let mut path = self
            .connection
            .prepare(&format!("select path from {name}.ValidPaths where id = ?"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (referrer, reference): (i64, i64) = (row.get(0)?, row.get(1)?);
            if referrer != reference {
                verified.referred.add(reference);
            }
            if ids.has(referrer) && ids.has(reference) {
                continue;
            }
            let written = path.query_row([referrer], |row| {
                Ok(show(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned())
            });
            verified.problems.add(Problem::Reference {
                referrer: written.unwrap_or_else(|_| format!("row {referrer}")),
                reference,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_any_size_are_told_apart() {
        let ids = [
            0,
            1,
            63,
            64,
            1_000_000,
            Ids::MOST_DENSE - 1,
            Ids::MOST_DENSE,
            i64::MAX,
            -1,
        ];
        let mut set = Ids::default();
        for id in ids.iter().step_by(2) {
            set.add(*id);
        }
        for (place, id) in ids.into_iter().enumerate() {
            assert_eq!(set.has(id), place % 2 == 0, "{id}");
        }
        assert!(!set.has(i64::MIN));
    }
}
