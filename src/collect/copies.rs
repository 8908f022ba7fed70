//! Whether the upper and the lower copy of an object are the same: by both databases, and byte by byte.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CollectError;
use super::layers::Layer;
use crate::compare::Comparer;
use crate::config::Store;
use crate::escape::show_path;
use crate::linux::processors;
use crate::lower::{self, sqlite::SqliteSource};
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// After so many bytes of upper copies no other comparison is begun: locks of paths are held meanwhile.
const MOST_BYTES: u64 = 1 << 30;

/// In what two copies of an object, or what the databases say of it, are different.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    /// There is no row above.
    #[error("it is not valid in the upper database")]
    NotAbove,
    /// There is none below.
    #[error("it is not valid in the lower store")]
    NotBelow,
    /// The rows differ.
    #[error("the upper database and the lower store have different {0} of it")]
    Metadata(&'static str),
    /// The copies do.
    #[error("the copies differ{}", inside(.0))]
    Contents(PathBuf),
    /// One of them cannot be read.
    #[error("the copies cannot be compared: {0}")]
    Unreadable(String),
}

fn inside(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" in {}", show_path(path)),
    }
}

/// What the databases have of a path.
#[derive(Debug)]
pub(super) struct Rows {
    /// The upper one.
    pub above: Option<PathInfo>,
    /// The lower store's.
    pub below: Option<PathInfo>,
}

/// Who compares the copies of a store's objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    /// The store.
    pub store: &'a Store,
    /// Whether the copies are taken for equal where the databases agree.
    pub trust_databases: bool,
}

impl Judge<'_> {
    /// In what the copies in the two layers are different, of as many of these objects as can be
    /// compared in one go: of the first at least. By all processors.
    pub(super) fn differences(
        &self,
        layers: [&Layer; 2],
        objects: &[(&StorePath, Rows)],
    ) -> Vec<Option<Difference>> {
        let compared = AtomicU64::new(0);
        let found: Vec<OnceLock<Option<Difference>>> =
            objects.iter().map(|_| OnceLock::new()).collect();
        let count = processors::work_on(objects.len(), Comparer::new, |comparer, number| {
            let (path, rows) = &objects[number];
            let _ = found[number].set(self.difference(layers, path, rows, comparer));
            let size = rows.above.as_ref().map_or(0, |info| info.nar_size);
            let bytes = if self.trust_databases {
                0
            } else {
                u64::try_from(size).unwrap_or(0)
            };
            compared.fetch_add(bytes, Ordering::Relaxed) + bytes < MOST_BYTES
        });
        let unknown = || Some(Difference::Unreadable("nobody has looked".to_owned()));
        let found = found.into_iter().take(count);
        let found = found.map(|found| found.into_inner().unwrap_or_else(unknown));
        found.collect()
    }

    /// What the two databases have of these paths, in their order.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(super) fn rows(&self, paths: &[StorePath]) -> Result<Vec<Rows>, CollectError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.database();
        let above = lower::retry(
            || SqliteSource::open(&database, directory.clone()).map(Box::new),
            |source| {
                let answers = lower::answers(source, paths)?;
                source.confirmed()?;
                Ok::<_, CollectError>(answers)
            },
        )?;
        let below = lower::retry(
            || lower::open(&self.store.lower.source, &directory),
            |source| {
                let answers = lower::answers(source, paths)?;
                source.confirm()?;
                Ok::<_, CollectError>(answers)
            },
        )?;
        let rows = above.into_iter().zip(below);
        Ok(rows.map(|(above, below)| Rows { above, below }).collect())
    }

    /// In what the copies in the two layers are different.
    pub(super) fn difference(
        &self,
        layers: [&Layer; 2],
        path: &StorePath,
        rows: &Rows,
        comparer: &mut Comparer,
    ) -> Option<Difference> {
        let (above, below) = match (&rows.above, &rows.below) {
            (None, _) => return Some(Difference::NotAbove),
            (_, None) => return Some(Difference::NotBelow),
            (Some(above), Some(below)) => (above, below),
        };
        let metadata = [
            ("hashes", above.nar_hash == below.nar_hash),
            ("sizes", above.nar_size == below.nar_size),
            ("references", above.references == below.references),
        ];
        if let Some((what, _)) = metadata.iter().find(|(_, equal)| !equal) {
            return Some(Difference::Metadata(what));
        }
        if self.trust_databases {
            return None;
        }
        let [ours, lower] = layers.map(Layer::fd);
        match comparer.difference([ours.as_fd(), lower.as_fd()], path.as_str()) {
            Ok(place) => place.map(Difference::Contents),
            Err(error) => Some(Difference::Unreadable(error.to_string())),
        }
    }
}
