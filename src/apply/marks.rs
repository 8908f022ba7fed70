//! The marks on an upper layer: overstore's own on the directory itself, and OverlayFS's on the
//! directories in it that hide one of the lower store's.

use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};

use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use crate::compare::held;
use crate::config::Store;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::sqlite::SqliteSource;
use crate::lower::{LowerError, Source};
use crate::nix::nar;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::overlayfs::markers::{Marks, is_copied_up, is_opaque, make_opaque};
use crate::records::layer_mark::{self, Mark};

/// Marks the upper layer: with the mark that it had, or with a new one.
pub(super) fn mark(
    upper_layer: &Path,
    mark: Option<&str>,
    unsynced: &mut Unsynced,
) -> Result<Mark, Error> {
    let reached = safe_path::directory(upper_layer, Symlinks::Refuse);
    let reached = walked(upper_layer, reached)?;
    let directory = reached.open().doing("open", upper_layer)?;
    let mark = match mark {
        Some(mark) => mark.to_owned(),
        None => layer_mark::new().doing("make a mark for", upper_layer)?,
    };
    let marked = layer_mark::write(&directory, &mark).doing("mark", upper_layer)?;
    unsynced.add(&directory, upper_layer)?;
    Ok(marked)
}

/// What came of setting the marks again.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Directories that were marked.
    set: u64,
    /// Directories that are not what a database says unless they are mixed with the lower store's, or
    /// that no database knows: they were left as they are.
    left: u64,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} marked", self.set)?;
        match self.left {
            0 => Ok(()),
            left => write!(f, ", {left} left as they are"),
        }
    }
}

/// Marks each object of the upper layer opaque that is a directory, lies over a directory of the
/// lower store, and is by itself what its row says. What is not is left: that a directory was not
/// opaque, and is right together with the one below, cannot be told otherwise. What OverlayFS says of
/// that it copied it up belongs together with what is below.
pub(super) fn restore(store: &Store, userxattr: bool) -> Result<Restored, Error> {
    let upper = safe_path::directory(&store.upper_layer, Symlinks::Refuse);
    let upper = walked(&store.upper_layer, upper)?
        .open()
        .doing("open", &store.upper_layer)?;
    let lower = safe_path::directory(&store.lower.real, Symlinks::Follow);
    let lower = walked(&store.lower.real, lower)?;
    let (ours, other) = (
        Marks::with_userxattr(userxattr),
        Marks::with_userxattr(!userxattr),
    );
    // Opened when it is needed: one that was just written is read only after a while.
    let mut rows = None;
    let mut restored = Restored::default();
    let mut paths: Vec<_> = held(&upper)
        .doing("list", &store.upper_layer)?
        .objects
        .into_iter()
        .collect();
    paths.sort();
    for path in paths {
        if !is_directory(&upper, &path) {
            continue;
        }
        let whole = store.upper_layer.join(path.as_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let object = openat(&upper, path.as_str(), flags, Mode::empty()).doing("open", &whole)?;
        let has = |marks| is_opaque(&object, marks).doing("look at the marks of", &whole);
        let copied_up = || is_copied_up(&object, ours).doing("look at the marks of", &whole);
        if has(ours)? || !is_directory(&lower, &path) || copied_up()? {
            continue;
        }
        if !has(other)? {
            if rows.is_none() {
                rows = Some(database(store)?);
            }
            if !is_whole(rows.as_mut().and_then(Option::as_mut), store, &upper, &path)? {
                restored.left += 1;
                continue;
            }
        }
        make_opaque(&object, ours)
            .doing("set the extended attribute that makes opaque of", &whole)?;
        restored.set += 1;
    }
    if restored.set == 0 {
        return Ok(restored);
    }
    // All at once: there may be many.
    rustix::fs::syncfs(&upper).doing("sync", &store.upper_layer)?;
    Ok(restored)
}

/// The upper database, where there is one.
fn database(store: &Store) -> Result<Option<SqliteSource>, Error> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    match std::fs::symlink_metadata(store.database()) {
        Ok(metadata) if metadata.len() > 0 => SqliteSource::open(&store.database(), directory)
            .map(Some)
            .map_err(|error| unreadable(store, error)),
        _ => Ok(None),
    }
}

fn unreadable(store: &Store, source: LowerError) -> Error {
    Error::Rows {
        path: store.database(),
        source,
    }
}

fn is_directory(layer: impl AsFd, path: &StorePath) -> bool {
    statat(layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Whether an object is by itself what its row in the upper database says.
fn is_whole(
    database: Option<&mut SqliteSource>,
    store: &Store,
    upper: impl AsFd,
    path: &StorePath,
) -> Result<bool, Error> {
    let Some(database) = database else {
        return Ok(false);
    };
    let info = database.ask(path).and_then(|()| database.answer());
    let Some(info) = info.map_err(|error| unreadable(store, error))? else {
        return Ok(false);
    };
    match nar::hash(upper.as_fd(), path.as_str(), &|_| true) {
        Ok((hash, _)) => Ok(hash == info.nar_hash),
        Err(_) => Ok(false),
    }
}
