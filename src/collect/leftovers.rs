//! What interrupted work has left in the upper layer, and its removal where nobody can need it.
//!
//! Everything goes through the merged directory, as Nix does it: that is where Nix's locks are.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::CollectError;
use super::layers::{Kind, Layers};
use super::root::Roots;
use crate::config::Store;
use crate::linux::file_identity::FileIdentity;
use crate::linux::removal;
use crate::linux::root::System;
use crate::lower::sqlite::SqliteSource;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::{Entry, StorePath};

/// What is in the upper layer beside objects that have a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Directories in which Nix receives an object (`tmp-...`): in use while they are locked.
    pub temporary: Vec<String>,
    /// Lock files (`HASH-NAME.lock`): in use while they are locked. By their names they can be
    /// objects, too.
    pub locks: Vec<StorePath>,
    /// Whiteouts below which the lower layer has nothing, by their names.
    pub whiteouts: Vec<Vec<u8>>,
    /// Objects that neither database knows, and what builds leave behind.
    pub unknown: Vec<StorePath>,
    /// How many objects have a row.
    pub with_row: u64,
}

impl Leftovers {
    /// Looks at every name in the upper layer.
    ///
    /// # Errors
    /// When a layer or the upper database cannot be read.
    pub(crate) fn find(layers: &Layers, rows: &SqliteSource) -> Result<Self, CollectError> {
        let mut found = Self::default();
        layers.upper.each(|name| {
            let bytes = name.to_bytes();
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Ok(());
            };
            let kind = layers.upper.look(text)?;
            if let Some((Kind::Whiteout, _)) = kind {
                if !layers.lower.has(text)? {
                    found.whiteouts.push(bytes.to_vec());
                }
                return Ok(());
            }
            match Entry::of(bytes) {
                Entry::Temporary if !layers.lower.has(text)? => {
                    found.temporary.push(text.to_owned());
                }
                Entry::StorePath(path) if rows.is_valid(&path)? => found.with_row += 1,
                Entry::StorePath(path) if layers.lower.has(text)? => drop(path),
                Entry::StorePath(path) if path.locked().is_some() => found.locks.push(path),
                Entry::StorePath(path) => found.unknown.push(path),
                Entry::Temporary | Entry::Links | Entry::Stranger(_) => {}
            }
            Ok(())
        })?;
        found.temporary.sort();
        found.locks.sort();
        found.whiteouts.sort();
        found.unknown.sort();
        Ok(found)
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Temporary directories.
    pub temporary: u64,
    /// Lock files.
    pub locks: u64,
    /// Whiteouts.
    pub whiteouts: u64,
}

impl Removed {
    /// As many as there are.
    pub(super) fn of(leftovers: &Leftovers) -> Self {
        Self {
            temporary: leftovers.temporary.len() as u64,
            locks: leftovers.locks.len() as u64,
            whiteouts: leftovers.whiteouts.len() as u64,
        }
    }
}

/// Whether a path has a row now, or a process of Nix uses what has its hash part.
///
/// # Errors
/// When the database or the temporary roots cannot be read.
pub(super) fn is_in_use(
    store: &Store,
    system: &System,
    path: &StorePath,
) -> Result<bool, CollectError> {
    let used = Roots::read_temporary(store, system)?;
    let mut parts = used.roots.iter().map(|root| root.path.hash_part());
    if used.unseen_processes > 0 || parts.any(|part| part == path.hash_part()) {
        return Ok(true);
    }
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let database = store.database();
    crate::lower::retry(
        || Ok(Box::new(SqliteSource::open(&database, directory.clone())?)),
        |rows| {
            let is_valid = rows.is_valid(path)?;
            rows.confirmed()?;
            Ok(is_valid)
        },
    )
}

/// The merged store directory, in which leftovers are removed.
#[derive(Debug)]
pub(crate) struct Merged {
    directory: OwnedFd,
    path: PathBuf,
}

impl Merged {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(real: &Path) -> Result<Self, CollectError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(real, flags, Mode::empty()) {
            Ok(directory) => Ok(Self {
                directory,
                path: real.to_owned(),
            }),
            Err(error) => Err(CollectError::layer(real, error)),
        }
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> impl AsFd + '_ {
        &self.directory
    }

    /// Removes temporary directories, lock files and whiteouts that nobody uses. `is_in_use` tells, under
    /// Nix's lock of a path, whether what is named like a lock file is needed as an object.
    ///
    /// # Errors
    /// When something that nobody uses cannot be removed.
    pub(crate) fn remove(
        &self,
        leftovers: &Leftovers,
        is_in_use: &mut dyn FnMut(&StorePath) -> Result<bool, CollectError>,
    ) -> Result<Removed, CollectError> {
        let mut removed = Removed::default();
        for name in &leftovers.temporary {
            let gone = self.remove_temporary(name);
            let gone = gone.map_err(|source| CollectError::Layer {
                path: self.path.join(name),
                source,
            })?;
            removed.temporary += u64::from(gone);
        }
        // Lock files of lock files come first: they are made and removed with those.
        for path in leftovers.locks.iter().rev() {
            removed.locks += u64::from(self.remove_lock(path, is_in_use)?);
        }
        for name in &leftovers.whiteouts {
            removed.whiteouts += u64::from(self.remove_whiteout(name)?);
        }
        Ok(removed)
    }

    fn failed(&self, name: &[u8], error: Errno) -> CollectError {
        CollectError::layer(&self.path.join(OsStr::from_bytes(name)), error)
    }

    /// Nix makes the directory, then locks it, and begins anew when it is gone by then.
    fn remove_temporary(&self, name: &str) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        match removal::remove_tree(&self.directory, OsStr::new(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a lock file as Nix does (`deleteLockFile`): who waits for it then reads a byte from it,
    /// and begins anew.
    ///
    /// By its name it can be an object (`HASH-yarn.lock`), which is empty until it is written, or for
    /// good. Who makes one has Nix's lock of it, also while it is registered.
    fn remove_lock(
        &self,
        path: &StorePath,
        is_in_use: &mut dyn FnMut(&StorePath) -> Result<bool, CollectError>,
    ) -> Result<bool, CollectError> {
        let name = path.as_str();
        let failed = |error| self.failed(name.as_bytes(), error);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::TXTBSY) => {
                return Ok(false);
            }
            Err(error) => return Err(failed(error)),
        };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err()
            || !self.is_lock_file(name, &file).map_err(failed)?
        {
            return Ok(false);
        }
        self.under_lock(path, || {
            let is_needed = is_in_use(path)? || !self.is_lock_file(name, &file).map_err(failed)?;
            if !is_needed {
                self.delete_lock(name, file).map_err(failed)?;
            }
            Ok(!is_needed)
        })
    }

    /// Whether an open file is one that Nix would take for a lock file, and still has this name. Nix
    /// makes no links to those, but it does to empty objects.
    fn is_lock_file(&self, name: &str, file: &File) -> Result<bool, Errno> {
        let stat = rustix::fs::fstat(file)?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_regular && stat.st_size == 0 && stat.st_nlink == 1 && self.is_still(name, &stat)?)
    }

    /// Does something while Nix makes nothing of this path. `false` where its lock is not to be had: by
    /// somebody who has it, or by what somebody has put there instead.
    fn under_lock(
        &self,
        path: &StorePath,
        work: impl FnOnce() -> Result<bool, CollectError>,
    ) -> Result<bool, CollectError> {
        let (name, file) = match self.lock(path) {
            Ok(Some(lock)) => lock,
            Ok(None) | Err(Errno::ISDIR | Errno::LOOP | Errno::NXIO) => return Ok(false),
            Err(error) => return Err(self.failed(path.lock_file().as_bytes(), error)),
        };
        let done = work();
        let deleted = self.delete_lock(&name, file);
        let done = done?;
        deleted.map_err(|error| self.failed(name.as_bytes(), error))?;
        Ok(done)
    }

    /// Removes a lock file that is held.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn delete_lock(&self, name: &str, mut file: File) -> Result<(), Errno> {
        unlinkat(&self.directory, name, AtFlags::empty())?;
        // Whoever waits sees by its size that the file is no lock any more.
        let _ = file.write_all(b"d");
        Ok(())
    }

    /// Whether a name still is what was opened.
    fn is_still(&self, name: &str, stat: &rustix::fs::Stat) -> Result<bool, Errno> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) => Ok(FileIdentity::from(&now) == FileIdentity::from(stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a whiteout. Nix makes nothing of its name meanwhile, since its lock is held.
    fn remove_whiteout(&self, name: &[u8]) -> Result<bool, CollectError> {
        let uncover = || self.uncover(name).map_err(|error| self.failed(name, error));
        match StorePath::parse(name) {
            Ok(path) => self.under_lock(&path, uncover),
            Err(_) => uncover(),
        }
    }

    /// Makes and removes the name: OverlayFS takes the whiteout away with it. As a lock file, somebody
    /// may take it meanwhile.
    fn uncover(&self, name: &[u8]) -> Result<bool, Errno> {
        let mut file = match self.make(name) {
            Ok(file) => file,
            // Somebody has made it meanwhile.
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error),
        };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        unlinkat(&self.directory, name, AtFlags::empty())?;
        let _ = file.write_all(b"d");
        Ok(true)
    }

    /// Takes Nix's lock of a path, unless somebody has it.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub(super) fn lock(&self, path: &StorePath) -> Result<Option<(String, File)>, Errno> {
        let name = path.lock_file();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(
            &self.directory,
            &name,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let stat = rustix::fs::fstat(&file)?;
        Ok((stat.st_size == 0 && self.is_still(&name, &stat)?).then_some((name, file)))
    }

    fn make(&self, name: &[u8]) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        openat(&self.directory, name, flags, mode).map(File::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Place {
        root: tempfile::TempDir,
        merged: Merged,
    }

    impl Place {
        fn with(files: &[&StorePath]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let place = Self {
                merged: Merged::open(root.path()).unwrap(),
                root,
            };
            for path in files {
                fs::write(place.at(path), "").unwrap();
            }
            place
        }

        fn at(&self, path: &StorePath) -> PathBuf {
            self.root.path().join(path.as_str())
        }

        /// Removes lock files: how many went, and the names that are left.
        fn remove(&self, locks: &[&StorePath], is_in_use: bool) -> (u64, Vec<String>) {
            let leftovers = Leftovers {
                locks: locks.iter().copied().cloned().collect(),
                ..Leftovers::default()
            };
            let mut ask = |path: &StorePath| {
                // Under Nix's lock of the path.
                assert!(self.root.path().join(path.lock_file()).exists());
                assert!(self.merged.lock(path).unwrap().is_none());
                Ok(is_in_use)
            };
            let removed = self.merged.remove(&leftovers, &mut ask).unwrap();
            let left = fs::read_dir(self.root.path()).unwrap();
            let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            (removed.locks, left.collect())
        }
    }

    fn path(name: &str) -> StorePath {
        StorePath::parse(format!("{:0>32}-{name}", "").as_bytes()).unwrap()
    }

    #[test]
    fn what_is_named_like_a_lock_is_asked_about_under_its_lock() {
        let [lock, second] = ["yarn.lock", "yarn.lock.lock"].map(path);
        let place = Place::with(&[&lock]);
        let kept = (0, vec![lock.to_string()]);
        // It was registered, or begun with, after the upper layer was looked at.
        assert_eq!(place.remove(&[&lock], true), kept);
        assert_eq!(place.remove(&[&lock], false), (1, vec![]));
        // Its own lock file may be a leftover, too.
        let place = Place::with(&[&lock, &second]);
        assert_eq!(place.remove(&[&lock, &second], false), (2, vec![]));
    }

    #[test]
    fn what_is_no_lock_file_stays() {
        let [lock, second] = ["yarn.lock", "yarn.lock.lock"].map(path);
        // An empty object that Nix has linked to others.
        let place = Place::with(&[&lock]);
        fs::hard_link(place.at(&lock), place.root.path().join("other")).unwrap();
        assert_eq!(place.remove(&[&lock], false).0, 0);
        assert_eq!(fs::read(place.root.path().join("other")).unwrap(), b"");
        // Where somebody has put something else in the place of its lock.
        let place = Place::with(&[&lock]);
        fs::create_dir(place.at(&second)).unwrap();
        assert_eq!(place.remove(&[&lock, &second], false).0, 0);
        assert!(place.at(&lock).exists() && place.at(&second).exists());
    }
}
