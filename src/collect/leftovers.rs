//! What interrupted work has left in the upper layer, and its removal where nobody can need it.
//!
//! Everything goes through the merged directory, as Nix does it: that is where Nix's locks are.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::CollectError;
use super::layers::{Kind, Layers};
use crate::linux::file_identity::FileIdentity;
use crate::linux::removal;
use crate::lower::sqlite::SqliteSource;
use crate::nix::store_path::{Entry, StorePath};

/// What is in the upper layer beside objects that have a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Directories in which Nix receives an object (`tmp-...`): in use while they are locked.
    pub temporary: Vec<String>,
    /// Lock files (`HASH-NAME.lock`): in use while they are locked.
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

    /// Removes temporary directories, lock files and whiteouts that nobody uses.
    ///
    /// # Errors
    /// When something that nobody uses cannot be removed.
    pub(crate) fn remove(&self, leftovers: &Leftovers) -> Result<Removed, CollectError> {
        let mut removed = Removed::default();
        let failed = |name: &[u8], source: io::Error| CollectError::Layer {
            path: self.path.join(OsStr::from_bytes(name)),
            source,
        };
        for name in &leftovers.temporary {
            let gone = self.remove_temporary(name);
            removed.temporary += u64::from(gone.map_err(|e| failed(name.as_bytes(), e))?);
        }
        for path in &leftovers.locks {
            let name = path.as_str();
            let gone = self.remove_lock(name);
            removed.locks += u64::from(gone.map_err(|e| failed(name.as_bytes(), e.into()))?);
        }
        for name in &leftovers.whiteouts {
            let gone = self.remove_whiteout(name);
            removed.whiteouts += u64::from(gone.map_err(|e| failed(name, e.into()))?);
        }
        Ok(removed)
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
    fn remove_lock(&self, name: &str) -> Result<bool, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Ok(false),
            Err(error) => return Err(error),
        };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let stat = rustix::fs::fstat(&file)?;
        let is_lock = rustix::fs::FileType::from_raw_mode(stat.st_mode)
            == rustix::fs::FileType::RegularFile
            && stat.st_size == 0;
        if !is_lock || !self.is_still(name, &stat)? {
            return Ok(false);
        }
        self.delete_lock(name, file)?;
        Ok(true)
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

    /// Makes and removes the name: OverlayFS takes the whiteout away with it. Nix makes nothing of
    /// that name meanwhile, since its lock is held.
    fn remove_whiteout(&self, name: &[u8]) -> Result<bool, Errno> {
        let lock = match StorePath::parse(name) {
            Ok(path) if path.locked().is_none() => match self.lock(&path)? {
                Some(lock) => Some(lock),
                None => return Ok(false),
            },
            _ => None,
        };
        let made = self.make(name);
        let gone = match made {
            Ok(file) => {
                if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
                    unlinkat(&self.directory, name, AtFlags::empty())?;
                    let mut file = file;
                    let _ = file.write_all(b"d");
                    true
                } else {
                    false
                }
            }
            // Somebody has made it meanwhile.
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        if let Some((name, file)) = lock {
            self.delete_lock(&name, file)?;
        }
        Ok(gone)
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
