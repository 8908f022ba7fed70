//! The two layers, looked at name by name: the merged directory is never listed, since that costs
//! what the lower store holds.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::CollectError;
use crate::config::Store;
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_object;

/// The two layers of a store.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The upper layer.
    pub upper: Layer,
    /// The lower store directory.
    pub lower: Layer,
}

impl Layers {
    /// Opens both.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub(crate) fn open(store: &Store) -> Result<Self, CollectError> {
        Ok(Self {
            upper: Layer::open(&store.upper_layer, Symlinks::Refuse)?,
            lower: Layer::open(&store.lower.real, Symlinks::Follow)?,
        })
    }
}

/// A layer's directory.
#[derive(Debug)]
pub(crate) struct Layer {
    directory: OwnedFd,
    path: std::path::PathBuf,
}

/// What a name in a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file, directory or link.
    Object,
    /// The mark that hides what is below.
    Whiteout,
}

impl Layer {
    fn open(path: &Path, symlinks: Symlinks) -> Result<Self, CollectError> {
        match safe_path::open_directory(path, symlinks) {
            Ok(directory) => Ok(Self::of(directory, path)),
            Err(source) => Err(CollectError::Layer {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// An open directory of this path.
    pub(super) fn of(directory: OwnedFd, path: &Path) -> Self {
        Self {
            directory,
            path: path.to_owned(),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> impl AsFd + '_ {
        &self.directory
    }

    /// What a name is, and when that last changed there, in seconds since 1970; `None` when there is
    /// nothing of the name.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn look(&self, name: &str) -> Result<Option<(Kind, i64)>, CollectError> {
        let stat = match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(CollectError::layer(&self.path.join(name), error)),
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
            _ => Kind::Object,
        };
        Ok(Some((kind, stat.st_ctime)))
    }

    /// Whether there is anything of this name.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn has(&self, name: &str) -> Result<bool, CollectError> {
        Ok(self.look(name)?.is_some())
    }

    /// Whether there is a store object of this name, and not a pipe, a socket or a device.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn has_object(&self, name: &str) -> Result<bool, CollectError> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(store_object::can_be(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(CollectError::layer(&self.path.join(name), error)),
        }
    }

    /// Hands every name to `visit`.
    ///
    /// # Errors
    /// When the layer cannot be listed, and what `visit` says.
    pub(crate) fn each(
        &self,
        mut visit: impl FnMut(&CStr) -> Result<(), CollectError>,
    ) -> Result<(), CollectError> {
        let entries =
            Dir::read_from(&self.directory).map_err(|e| CollectError::layer(&self.path, e))?;
        for entry in entries {
            let entry = entry.map_err(|error| CollectError::layer(&self.path, error))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                visit(entry.file_name())?;
            }
        }
        Ok(())
    }

    /// Bytes that are free on its file system for ordinary users.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub(crate) fn free(&self) -> Result<u64, CollectError> {
        let found = rustix::fs::fstatvfs(&self.directory)
            .map_err(|error| CollectError::layer(&self.path, error))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
