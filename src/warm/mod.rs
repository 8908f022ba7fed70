//! Copying the metadata of closures from the lower store into the upper database.
//!
//! Nix does that by itself, one path and one transaction at a time, whenever it asks whether a
//! path is valid. Here it is one transaction, and what is written is row for row what Nix writes
//! (`addValidPath` and `registerValidPaths` in its `local-store.cc`; tried against 2.26 and 2.34):
//! all columns in their normal form, the references, and the outputs of derivations as their `.drv`
//! files have them. Only the row ids are others.
//!
//! A lower store that is a database is attached, and its ids are mapped to new ones (`copy_attached`).
//! Every other kind is asked path by path (`copy_asked`).
//!
//! Foreign keys are off meanwhile: what they would prove row by row is proved once, since a
//! reference is only written when its path has a row, or will have one before the commit.

mod copy_asked;
mod copy_attached;
mod error;
mod ids;
mod outputs;
mod reader;
mod replace;
mod roots;
mod upper_writer;

pub use error::WarmError;
pub(crate) use replace::Replaced;
pub(crate) use roots::{Roots, find as find_roots, find_except as find_roots_except, resolve};

use std::path::Path;

use crate::config::MetadataSource;
use crate::counts::Counts;
use crate::lower;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use outputs::Objects;
use upper_writer::{Target, Upper, print};

/// Where to copy from and to.
#[derive(Debug, Clone, Copy)]
pub struct Warm<'a> {
    /// The store directory that both stores have.
    pub store: &'a StoreDirectory,
    /// The lower metadata source.
    pub source: &'a MetadataSource,
    /// The lower store directory: derivations are read there.
    pub objects: &'a Path,
    /// The directory of the upper database: `${state}/db`.
    pub database: &'a Path,
    /// Whether the upper database has a write-ahead log (`use-sqlite-wal`).
    pub use_sqlite_wal: bool,
    /// Counts the paths.
    pub counts: &'a Counts,
}

/// What to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Everything that is valid below.
    All,
    /// The closures of these paths, all of which have to be valid below.
    Closures(&'a [StorePath]),
    /// The closures of those among these paths that are valid below.
    ValidClosures(&'a [StorePath]),
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Paths whose metadata was copied.
    pub copied: u64,
    /// Paths looked at whose metadata was there already.
    pub present: u64,
    /// References copied.
    pub references: u64,
    /// Outputs of derivations copied.
    pub outputs: u64,
    /// Wanted paths that are not valid below; only with [`Wanted::ValidClosures`].
    pub invalid: u64,
    /// What was not copied since its metadata below is wrong, or that of something it refers to.
    pub left_out: LeftOut,
    /// The hash prefix of every path that has its metadata now: of those wanted, and all that these
    /// refer to. Some may be there more than once.
    pub prefixes: Vec<u64>,
}

/// Paths that were not copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// What is wrong with the first rows that are.
    pub first: Vec<String>,
}

impl Warm<'_> {
    /// What nothing else below refers to: with roots of these, all that is below is kept. Where only
    /// asking path by path would tell, everything.
    ///
    /// # Errors
    /// When the lower store cannot be read.
    pub fn tops(&self) -> Result<Vec<StorePath>, WarmError> {
        lower::retry(
            || lower::open(self.source, self.store),
            |source| {
                let mut tops = Vec::new();
                source.tops(&mut |path| {
                    tops.push(path);
                    Ok(())
                })?;
                source.confirm()?;
                Ok(tops)
            },
        )
    }

    /// Has the rows of these paths say what the lower store says, in one transaction. What their
    /// references need to be there is added.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn replace(
        &self,
        paths: &[StorePath],
        waiting: &dyn Fn(&str),
    ) -> Result<Replaced, WarmError> {
        if paths.is_empty() {
            return Ok(Replaced::default());
        }
        let target = Target {
            upper: &Upper::open(self.database, self.use_sqlite_wal)?,
            store: self.store,
            objects: &Objects::open(self.objects)?,
            waiting,
            counts: self.counts,
        };
        lower::retry(
            || lower::open_whole(self.source, self.store),
            |source| replace::replace(target, source, paths),
        )
    }

    /// Drops the rows of these paths, in one transaction: how many went. Those stay that a row refers
    /// to which is not among them.
    ///
    /// # Errors
    /// When the upper database cannot be written.
    pub(crate) fn drop_rows(
        &self,
        paths: &[StorePath],
        waiting: &dyn Fn(&str),
    ) -> Result<u64, WarmError> {
        if paths.is_empty() {
            return Ok(0);
        }
        let upper = Upper::open(self.database, self.use_sqlite_wal)?;
        let paths = paths.iter().map(|path| print(self.store, path));
        replace::drop_rows(&upper, paths, waiting)
    }

    /// Copies what is wanted, in one transaction: when this returns, all of it is durable, and
    /// after an error nothing of it is there. Holds the lock that Nix holds while it has the store
    /// open, and the database's lock for writing, while it writes, and not while it asks a daemon.
    /// `waiting` is told who is waited for.
    ///
    /// # Errors
    /// When something is not valid below or refers to what is not, when a source or a derivation
    /// cannot be read, and when the upper database cannot be written.
    pub fn run(&self, wanted: Wanted<'_>, waiting: &dyn Fn(&str)) -> Result<Warmed, WarmError> {
        let target = Target {
            upper: &Upper::open(self.database, self.use_sqlite_wal)?,
            store: self.store,
            objects: &Objects::open(self.objects)?,
            waiting,
            counts: self.counts,
        };
        match self.source {
            MetadataSource::Database { state, .. } => {
                let path = layout::database(state);
                lower::retry(
                    || Ok(Box::new(lower::database::Database::open(&path)?)),
                    |lower| copy_attached::copy(target, lower, wanted),
                )
            }
            other => lower::retry(
                || lower::open(other, self.store),
                |source| copy_asked::copy(target, source, wanted),
            ),
        }
    }
}
