//! Garbage-collector roots, read as Nix reads them (`findRoots`, `findTempRoots` and
//! `findRuntimeRoots` in its `gc.cc`, 2.26 to 2.36), and without changing anything: Nix removes
//! links that lead to nothing, and stale files of temporary roots.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, openat, readlinkat_raw,
};
use rustix::io::Errno;

use super::CollectError;
use super::absent::{Absent, Places, WhyAbsent};
use super::processes;
use super::root::{Root, RootKind, Roots};
use crate::config::Store;
use crate::escape::show;
use crate::linux::namespaces;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// How deep a directory of roots is looked into. Nix's own are three deep.
const DEEPEST: usize = 32;
/// Linux makes no longer links (`PATH_MAX`).
const LONGEST_TARGET: usize = 4096;
/// Most bytes of a file of temporary roots: more than a million of them.
const LONGEST_TEMPORARY: u64 = 256 << 20;

impl Roots {
    /// Reads all roots of a store.
    ///
    /// # Errors
    /// When a directory of roots, or `/proc`, cannot be read.
    pub(crate) fn read(store: &Store, system: &System) -> Result<Self, CollectError> {
        Self::look(store, system, OnClosed::Fail)
    }

    /// Reads the roots of a store that this user may see, and notes the directories of roots that are
    /// closed: who may not mount deletes nothing without the daemon, which sees them all. For everybody
    /// else it is [`read`](Self::read).
    ///
    /// # Errors
    /// When a directory of roots, or `/proc`, cannot be read for another reason.
    pub(crate) fn read_seen(store: &Store, system: &System) -> Result<Self, CollectError> {
        let on_closed = match namespaces::can_mount() {
            Ok(false) => OnClosed::Note,
            _ => OnClosed::Fail,
        };
        Self::look(store, system, on_closed)
    }

    fn look(store: &Store, system: &System, on_closed: OnClosed) -> Result<Self, CollectError> {
        let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
        let state = open_state(store)?;
        let mut reader = Reader {
            store: &directory,
            state: &store.state,
            on_closed,
            places: Places::read(system)?,
            found: Self::default(),
        };
        for name in ["gcroots", "profiles"] {
            reader.directory(&state, name)?;
        }
        reader.temporary(&state)?;
        let mut found = reader.found;
        processes::find(store, system, &mut found)?;
        found.roots.sort();
        found.roots.dedup();
        Ok(found)
    }

    /// Reads temporary roots alone: what processes of Nix use now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn read_temporary(store: &Store, system: &System) -> Result<Self, CollectError> {
        let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
        let mut reader = Reader {
            store: &directory,
            state: &store.state,
            on_closed: OnClosed::Fail,
            places: Places::read(system)?,
            found: Self::default(),
        };
        reader.temporary(&open_state(store)?)?;
        Ok(reader.found)
    }
}

fn open_state(store: &Store) -> Result<OwnedFd, CollectError> {
    safe_path::directory(&store.state, Symlinks::Refuse)
        .and_then(|state| state.open().map_err(|error| state.unreachable(error)))
        .map_err(|obstacle| CollectError::State {
            what: obstacle.to_string(),
        })
}

/// What is done about a directory that this user may not look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnClosed {
    Fail,
    Note,
}

struct Reader<'a> {
    store: &'a StoreDirectory,
    state: &'a Path,
    on_closed: OnClosed,
    places: Places,
    found: Roots,
}

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Reader<'_> {
    fn directory(&mut self, state: &OwnedFd, name: &str) -> Result<(), CollectError> {
        let path = self.state.join(name);
        match openat(state, name, LISTING, Mode::empty()) {
            Ok(directory) => self.walk(&directory, &path, 0),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(()),
            Err(error) => self.unread(&path, error),
        }
    }

    /// A directory that could not be read.
    fn unread(&mut self, path: &Path, error: Errno) -> Result<(), CollectError> {
        if error != Errno::ACCESS || self.on_closed == OnClosed::Fail {
            return Err(CollectError::roots(path, error));
        }
        self.found.unseen_directories.push(path.to_owned());
        Ok(())
    }

    fn walk(&mut self, directory: &OwnedFd, path: &Path, depth: usize) -> Result<(), CollectError> {
        let entries = match Dir::read_from(directory) {
            Ok(entries) => entries,
            Err(error) => return self.unread(path, error),
        };
        let mut target = [0; LONGEST_TARGET];
        for entry in entries {
            let entry = match entry {
                // The directory was removed.
                Err(Errno::NOENT) => break,
                entry => entry.map_err(|error| CollectError::roots(path, error))?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let here = path.join(OsStr::from_bytes(name.to_bytes()));
            let look = || -> Result<Option<FileType>, Errno> {
                match entry.file_type() {
                    // Not every file system says it while it lists.
                    FileType::Unknown => {}
                    known => return Ok(Some(known)),
                }
                match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
                    // Gone meanwhile.
                    Err(Errno::NOENT) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            match look().map_err(|error| CollectError::roots(&here, error))? {
                Some(FileType::Directory) if depth < DEEPEST => {
                    match openat(directory, name, LISTING, Mode::empty()) {
                        Ok(below) => self.walk(&below, &here, depth + 1)?,
                        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                        Err(error) => self.unread(&here, error)?,
                    }
                }
                Some(FileType::Directory) => {
                    return Err(CollectError::Deep { path: here });
                }
                Some(FileType::Symlink) => match readlinkat_raw(directory, name, &mut target) {
                    Ok(length) => self.link(path, &here, &target[..length]),
                    Err(Errno::NOENT | Errno::INVAL) => {}
                    Err(error) => return Err(CollectError::roots(&here, error)),
                },
                Some(FileType::RegularFile) => {
                    if let Ok(object) = StorePath::parse(name.to_bytes()) {
                        self.add(object, RootKind::Link(here));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A link that leads into the store, or to a link elsewhere that does.
    fn link(&mut self, directory: &Path, link: &Path, target: &[u8]) {
        if let Some(object) = in_store(self.store, target) {
            return self.add(object, RootKind::Link(link.to_owned()));
        }
        let target = normal(&directory.join(OsStr::from_bytes(target)));
        match std::fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let Ok(next) = std::fs::read_link(&target) else {
                    return;
                };
                if let Some(object) = in_store(self.store, next.as_os_str().as_bytes()) {
                    self.add(object, RootKind::Link(target));
                }
            }
            Ok(_) => {}
            Err(error) => {
                // Nix links root's first profile from `profiles/default` before there is one, in an
                // empty directory; the directory of the links itself is certainly there.
                let is_unmade = |why: &WhyAbsent| matches!(why, WhyAbsent::Empty(directory) if directory.starts_with(self.state));
                let why = self.places.why_absent(&target, &error);
                if let Some(why) = why.filter(|why| !is_unmade(why)) {
                    self.found.absent.push(Absent {
                        link: link.to_owned(),
                        target,
                        why,
                    });
                }
            }
        }
    }

    fn add(&mut self, path: StorePath, kind: RootKind) {
        self.found.roots.push(Root { path, kind });
    }

    /// What processes of Nix have said that they use: one file a process, which holds a lock on it
    /// as long as it lives.
    fn temporary(&mut self, state: &OwnedFd) -> Result<(), CollectError> {
        let path = self.state.join("temproots");
        let directory = match openat(state, "temproots", LISTING, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return self.unread(&path, error),
        };
        let entries = match Dir::read_from(&directory) {
            Ok(entries) => entries,
            Err(error) => return self.unread(&path, error),
        };
        for entry in entries {
            let entry = entry.map_err(|error| CollectError::roots(&path, error))?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(b".") {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let here = path.join(OsStr::from_bytes(name));
            let file = match openat(&directory, entry.file_name(), flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(Errno::NOENT | Errno::LOOP) => continue,
                // It belongs to somebody else: only Nix's daemon can read it.
                Err(Errno::ACCESS) => {
                    self.found.unseen_processes += 1;
                    continue;
                }
                Err(error) => return Err(CollectError::roots(&here, error)),
            };
            if !file.metadata().is_ok_and(|found| found.is_file()) {
                continue;
            }
            // Its owner is gone when nobody has it locked. The lock is let go at once.
            if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
                continue;
            }
            let mut text = Vec::new();
            (&file)
                .take(LONGEST_TEMPORARY)
                .read_to_end(&mut text)
                .map_err(|source| CollectError::Roots {
                    path: here.clone(),
                    source,
                })?;
            for path in text.split(|&byte| byte == 0) {
                if let Ok(object) = self.store.parse(path) {
                    self.add(object, RootKind::Temporary(show(name).into_owned()));
                }
            }
        }
        Ok(())
    }
}

/// The store path that a path in the store directory lies in, as the text says it.
pub(super) fn in_store(store: &StoreDirectory, path: &[u8]) -> Option<StorePath> {
    let mut end = store.as_bytes().len() + 1;
    end += path
        .get(end..)?
        .iter()
        .take_while(|&&byte| byte != b'/')
        .count();
    store.parse(path.get(..end)?).ok()
}

/// A path without `.`, `..` and doubled slashes, as its text says it: links are not looked at.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_store_is_told_by_its_text() {
        const NAME: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a";
        let store = StoreDirectory::new(b"/nix/store");
        let found = |path: &str| in_store(&store, path.as_bytes());
        let object = StorePath::parse(NAME.as_bytes()).ok();
        assert_eq!(found(&format!("/nix/store/{NAME}")), object);
        assert_eq!(found(&format!("/nix/store/{NAME}/bin/a")), object);
        for path in ["", "/", "/nix/store", "/nix/store/", "/nix/store/x", "/nix"] {
            assert_eq!(found(path), None, "{path}");
        }
        assert_eq!(found(&format!("/mnt/nix/store/{NAME}")), None);
        assert_eq!(normal(Path::new("/a/./b//../c")), Path::new("/a/c"));
        assert_eq!(normal(Path::new("/../a")), Path::new("/a"));
    }
}
