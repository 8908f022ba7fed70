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
    fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.first.len() < MOST_TOLD {
            self.first.push(problem);
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
    pub(super) fn run(&self, contents: Option<&Counts>) -> Result<Problems, Failed> {
        let mut problems = Problems::default();
        self.references(&mut problems)?;
        let Some(counts) = contents else {
            self.rows(&mut problems, &mut |_| {})?;
            return Ok(problems);
        };
        let (_, damaged) = hash_each([self.objects; 2], counts, |queue| {
            self.rows(&mut problems, queue)
        })?;
        for damaged in damaged {
            problems.add(Problem::Contents(damaged));
        }
        Ok(problems)
    }

    /// Every row and its object; `queue` takes what is to be hashed.
    fn rows(&self, problems: &mut Problems, queue: &mut dyn FnMut(Job)) -> Result<(), Failed> {
        let mut statement = self.connection.prepare(&format!(
            "select path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
             from {}.ValidPaths order by id",
            self.name
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let written = text(row, 0);
            let read = written
                .clone()
                .and_then(|path| self.store.parse(path))
                .and_then(|path| Ok((path, read_row(row, 1, self.store)?)));
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
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory | FileType::RegularFile | FileType::Symlink => {
                        queue(Job {
                            path,
                            upper: true,
                            expected: info.nar_hash,
                        });
                    }
                    _ => problems.add(Problem::NoStoreObject(path)),
                },
                Err(Errno::NOENT) => problems.add(Problem::NoObject(path)),
                Err(errno) => return Err(Failed::Objects(errno)),
            }
        }
        Ok(())
    }

    /// References that lead nowhere, and those of no row.
    fn references(&self, problems: &mut Problems) -> Result<(), Failed> {
        let name = self.name;
        // Each in the order of an index, so that the rows looked for are near each other.
        let mut statement = self.connection.prepare(&format!(
            "select referrer, reference from {name}.Refs r indexed by IndexReference \
             where not exists (select 1 from {name}.ValidPaths where id = r.reference) \
             union all select referrer, reference \
             from {name}.Refs r indexed by sqlite_autoindex_Refs_1 \
             where not exists (select 1 from {name}.ValidPaths where id = r.referrer)"
        ))?;
        let mut path = self
            .connection
            .prepare(&format!("select path from {name}.ValidPaths where id = ?"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let referrer: i64 = row.get(0)?;
            let written = path.query_row([referrer], |row| {
                Ok(show(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned())
            });
            problems.add(Problem::Reference {
                referrer: written.unwrap_or_else(|_| format!("row {referrer}")),
                reference: row.get(1)?,
            });
        }
        Ok(())
    }
}
