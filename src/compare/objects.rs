//! Whether the rows of the upper database have their objects.
//!
//! Every row is looked at: a sample could not tell that nothing is missing. It costs a listing of
//! the upper layer and one pass through the table; only what is not in the upper layer is looked for
//! below, by name, or in one listing where that is cheaper.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::layers::{MOST_REFERRERS, Missing, Several};
use crate::lower::sqlite::{OfOthers, SqliteSource};
use crate::lower::{self, LowerError, Source};
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::{Entry, StorePath};

/// So many names are looked for one by one; for more, the directory is listed.
const MOST_LOOKUPS: usize = 1000;

/// The rows of the upper database and their objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// All rows.
    pub rows: u64,
    /// Those whose object is in the upper layer.
    pub above: u64,
    /// Those whose object is in neither layer.
    pub missing: Several<Missing>,
    /// Those whose object is in the lower layer, and hidden by a whiteout.
    pub hidden: Several<StorePath>,
    /// Rows of another store directory.
    pub of_others: OfOthers,
}

/// The names of store objects in an upper layer.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Objects.
    pub objects: HashSet<StorePath>,
    /// Whiteouts: what is below of these names does not show.
    pub whiteouts: HashSet<StorePath>,
}

/// Why that could not be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    /// The upper database cannot be read.
    #[error(transparent)]
    Database(#[from] LowerError),
    /// A layer cannot be read.
    #[error("a layer cannot be read: {0}")]
    Layer(#[from] io::Error),
}

impl lower::Transient for ObjectsError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_transient())
    }
}

/// What a layer's directory holds of what is named as a store object.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn held(layer: impl AsFd) -> io::Result<Held> {
    let mut held = Held::default();
    each_held(layer, |path, is_whiteout| {
        match is_whiteout {
            true => held.whiteouts.insert(path),
            false => held.objects.insert(path),
        };
    })?;
    Ok(held)
}

/// Calls `visit` with what a layer's directory holds of what is named as a store object, and whether
/// it is a whiteout.
fn each_held(layer: impl AsFd, mut visit: impl FnMut(StorePath, bool)) -> io::Result<()> {
    for entry in Dir::read_from(&layer)? {
        let entry = entry?;
        if let Entry::StorePath(path) = Entry::of(entry.file_name().to_bytes())
            && !path.is_temporary()
        {
            let is_whiteout = is_whiteout(&layer, entry.file_name(), entry.file_type())?;
            visit(path, is_whiteout);
        }
    }
    Ok(())
}

fn is_whiteout(layer: impl AsFd, name: &std::ffi::CStr, kind: FileType) -> io::Result<bool> {
    match kind {
        FileType::Unknown => match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode).is_char_device()),
            Err(Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        },
        // Nothing in a store is a device.
        kind => Ok(kind.is_char_device()),
    }
}

/// Looks for the object of every row: in the directory of the upper layer, of which `held` tells what
/// was there a moment ago, if there is one, and in that of the lower one.
///
/// # Errors
/// When the database or a layer cannot be read.
pub(crate) fn objects(
    database: &Path,
    store: &StoreDirectory,
    held: &Held,
    upper: Option<BorrowedFd<'_>>,
    lower: impl AsFd,
) -> Result<Objects, ObjectsError> {
    lower::retry(
        || SqliteSource::open(database, store.clone()).map(Box::new),
        |source| {
            let mut objects = Objects::default();
            let mut below = Below::new(lower.as_fd());
            let (mut missing, mut failed) = (Vec::new(), None);
            source.all_paths(&mut |path| {
                objects.rows += 1;
                if held.objects.contains(&path) {
                    objects.above += 1;
                    return Ok(());
                }
                match below.has(&path) {
                    Ok(true) if held.whiteouts.contains(&path) => objects.hidden.push(path),
                    Ok(true) => {}
                    Ok(false) => missing.push(path),
                    Err(error) => failed = failed.take().or(Some(error)),
                }
                Ok(())
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            objects.of_others = source.of_others();
            objects.rows += objects.of_others.count;
            // Somebody may have been adding, or collecting, while we looked: a row comes after its
            // object.
            let looked_for = missing.len();
            let missing = match upper {
                Some(upper) => {
                    let mut still = Vec::new();
                    for path in missing {
                        if !has(upper, &path)? {
                            still.push(path);
                        }
                    }
                    still
                }
                None => missing,
            };
            objects.above += (looked_for - missing.len()) as u64;
            let now = match missing.is_empty() {
                true => None,
                false => Some(SqliteSource::open(database, store.clone())?),
            };
            for path in missing {
                if let Some(now) = &now
                    && now.is_valid(&path)?
                {
                    let referrers = match objects.missing.is_full() {
                        true => Vec::new(),
                        false => now.referrers(&path, MOST_REFERRERS)?,
                    };
                    objects.missing.push(Missing { path, referrers });
                } else {
                    objects.rows -= 1;
                }
            }
            source.confirmed()?;
            Ok(objects)
        },
    )
}

/// What the lower layer's directory has: looked for by name, and from some number on in a listing,
/// of which eight bytes a path are kept.
#[derive(Debug)]
pub(crate) struct Below<'a> {
    directory: BorrowedFd<'a>,
    lookups: usize,
    listed: Option<PathSet>,
}

impl<'a> Below<'a> {
    /// What this directory has.
    pub(crate) fn new(directory: BorrowedFd<'a>) -> Self {
        Self {
            directory,
            lookups: 0,
            listed: None,
        }
    }

    /// Whether it has an object.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn has(&mut self, path: &StorePath) -> io::Result<bool> {
        if self.looks_up() {
            self.lookups += 1;
            return has(self.directory, path);
        }
        self.has_prefix(path.hash_prefix())
    }

    /// Whether [`has`](Self::has) looks the next one up by its name, and does not only compare the
    /// first bits of its hash part.
    pub(crate) fn looks_up(&self) -> bool {
        self.lookups < MOST_LOOKUPS
    }

    /// Whether it has an object whose hash part begins with these bits: the directory is listed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn has_prefix(&mut self, prefix: u64) -> io::Result<bool> {
        if self.listed.is_none() {
            let mut prefixes = Vec::new();
            each_held(self.directory, |path, is_whiteout| {
                if !is_whiteout {
                    prefixes.push(path.hash_prefix());
                }
            })?;
            self.listed = Some(PathSet::new(prefixes));
        }
        let listed = self.listed.as_ref();
        Ok(listed.is_some_and(|listed| listed.contains(prefix)))
    }
}

/// Whether a layer's directory has an object.
fn has(directory: BorrowedFd<'_>, path: &StorePath) -> io::Result<bool> {
    match statat(directory, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(!FileType::from_raw_mode(stat.st_mode).is_char_device()),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
