//! Where the objects of the old lower store are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, statat};

use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_object;
use crate::nix::store_path::StorePath;

/// Directories with objects of lower stores of before, the best first. Nothing that is in them is
/// believed: an object counts when it hashes to what its row says.
#[derive(Debug, Default)]
pub(crate) struct OldStores {
    directories: Vec<(PathBuf, OwnedFd)>,
}

impl OldStores {
    /// Adds one: whether it could be opened.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn add(&mut self, directory: &Path) -> std::io::Result<()> {
        let opened = safe_path::open_directory(directory, Symlinks::Follow)?;
        self.directories.push((directory.to_owned(), opened));
        Ok(())
    }

    /// Those that have an object of this name.
    pub(super) fn with<'a>(
        &'a self,
        path: &'a StorePath,
    ) -> impl Iterator<Item = (&'a Path, BorrowedFd<'a>)> {
        let directories = self.directories.iter();
        directories
            .filter(|(_, directory)| {
                let found = statat(directory, path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
                found.is_ok_and(|stat| store_object::can_be(FileType::from_raw_mode(stat.st_mode)))
            })
            .map(|(path, directory)| (path.as_path(), directory.as_fd()))
    }
}
