//! Where copies of the upper layer wait to be removed: a directory of overstore's own in the work
//! directory, beside the kernel's.
//!
//! A copy gets there, and back, by one rename. It is whole as long as it is in `replaced`; what is in
//! `removed` is being deleted, and nobody needs it. What is in `carried` is being made.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, mkdirat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::CollectError;
use super::layers::Layer;
use crate::apply::DirectoryLock;
use crate::config::Store;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::linux::{processors, removal, sync};
use crate::nix::store_path::StorePath;

/// In the work directory.
const DIRECTORY: &str = "overstore";
const REPLACED: &str = "replaced";
const REMOVED: &str = "removed";
const CARRIED: &str = "carried";

/// The directory, which nobody else uses meanwhile.
#[derive(Debug)]
pub(crate) struct Aside {
    replaced: Layer,
    removed: Layer,
    carried: Layer,
    _turn: DirectoryLock,
}

impl Aside {
    /// Whether a store has one.
    pub(crate) fn exists(store: &Store) -> bool {
        safe_path::directory(&store.workdir.join(DIRECTORY), Symlinks::Refuse).is_ok()
    }

    /// Opens the directory, makes it where it is missing, and waits until no other run uses it.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub(crate) fn open(store: &Store, system: &System) -> Result<Self, CollectError> {
        let path = store.workdir.join(DIRECTORY);
        let failed = |source: io::Error| CollectError::Aside {
            path: path.clone(),
            source,
        };
        let workdir = safe_path::directory(&store.workdir, Symlinks::Refuse);
        let workdir = workdir.map_err(|obstacle| failed(obstacle.into()))?;
        let directory = make(&workdir, DIRECTORY).map_err(failed)?;
        let turn = DirectoryLock::wait(&directory, system, &mut |_| {});
        let turn = turn.map_err(|error| failed(io::Error::other(error)))?;
        let layer = |name: &str| {
            let made = make(&directory, name).map_err(failed)?;
            let opened = made.open().map_err(|error| failed(error.into()))?;
            Ok::<_, CollectError>(Layer::of(opened, &path.join(name)))
        };
        let aside = Self {
            replaced: layer(REPLACED)?,
            removed: layer(REMOVED)?,
            carried: layer(CARRIED)?,
            _turn: turn,
        };
        aside.empty()?;
        Ok(aside)
    }

    /// The copies that are whole.
    pub(super) fn replaced(&self) -> &Layer {
        &self.replaced
    }

    /// Where objects are made that are carried into the upper layer. What is in it is not whole.
    pub(crate) fn carried(&self) -> &Layer {
        &self.carried
    }

    /// Deletes something of the upper layer. Killed in the middle, the next run goes on with it.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub(crate) fn remove(&self, upper: &Layer, name: &str) -> Result<(), CollectError> {
        rename(upper, &self.removed, name)?;
        delete(&self.removed, OsStr::new(name))
    }

    /// The names of the copies that are whole.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) fn names(&self) -> Result<Vec<StorePath>, CollectError> {
        let mut names = Vec::new();
        self.replaced.each(|name| {
            names.extend(StorePath::parse(name.to_bytes()));
            Ok(())
        })?;
        names.sort();
        Ok(names)
    }

    /// Puts a copy of the upper layer here: `false` where there is one already.
    ///
    /// # Errors
    /// When the kernel will not.
    pub(super) fn put(&self, upper: &Layer, name: &str) -> Result<bool, CollectError> {
        rename(upper, &self.replaced, name)
    }

    /// Puts a copy back into the upper layer: `false` where there is one again.
    ///
    /// # Errors
    /// When the kernel will not.
    pub(crate) fn put_back(&self, upper: &Layer, name: &str) -> Result<bool, CollectError> {
        rename(&self.replaced, upper, name)
    }

    /// Has it on the disk what was put where.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub(crate) fn sync(&self, upper: &Layer) -> Result<(), CollectError> {
        for layer in [upper, &self.replaced] {
            sync::sync(layer.fd()).map_err(|error| CollectError::layer(layer.path(), error))?;
        }
        Ok(())
    }

    /// Gives copies up: [`empty`](Self::empty) deletes them, or the next run.
    ///
    /// # Errors
    /// When the kernel will not.
    pub(super) fn give_up<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<(), CollectError> {
        for name in names {
            rename(&self.replaced, &self.removed, name)?;
        }
        Ok(())
    }

    /// Deletes what was given up, and what earlier runs had not finished, by all processors. Killed in
    /// the middle, the next run goes on with it.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub(super) fn empty(&self) -> Result<(), CollectError> {
        for layer in [&self.removed, &self.carried] {
            let mut names = Vec::new();
            layer.each(|name| {
                names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
                Ok(())
            })?;
            delete_all(layer, &names)?;
        }
        Ok(())
    }
}

/// Deletes entries of a directory, by all processors.
fn delete_all<N: AsRef<OsStr> + Sync>(layer: &Layer, names: &[N]) -> Result<(), CollectError> {
    let failed = OnceLock::new();
    processors::work_on(
        names.len(),
        || (),
        |(), number| match delete(layer, names[number].as_ref()) {
            Ok(()) => true,
            Err(error) => {
                let _ = failed.set(error);
                false
            }
        },
    );
    failed.into_inner().map_or(Ok(()), Err)
}

fn make(parent: &Reached, name: &str) -> io::Result<Reached> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(parent.enter(OsStr::new(name))?)
}

fn rename(from: &Layer, to: &Layer, name: &str) -> Result<bool, CollectError> {
    match renameat_with(from.fd(), name, to.fd(), name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(CollectError::layer(&from.path().join(name), error)),
    }
}

fn delete(layer: &Layer, name: &OsStr) -> Result<(), CollectError> {
    let failed = |source: io::Error| CollectError::Layer {
        path: layer.path().join(name),
        source,
    };
    let stat = match statat(layer.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let deleted = unlinkat(layer.fd(), name, AtFlags::empty());
        return deleted.map_err(|error| failed(error.into()));
    }
    removal::remove_tree(layer.fd(), name).map_err(failed)
}
