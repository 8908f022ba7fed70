use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::WarmError;
use crate::linux::safe_path::{self, Obstacle, Reached, Symlinks};
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// Where the roots of warmed paths are, below the state directory's `gcroots`.
const DIRECTORY: &str = "overstore";
/// How often the directory is made anew while others remove it.
const TRIES: usize = 100;
/// How deep a directory of roots is looked into. Nix's own are three deep.
const DEEPEST: usize = 16;

/// How many links from one to the next are followed to the store.
const MOST_LINKS: usize = 32;

/// The roots that keep Nix's collector from undoing what was warmed: links in a directory of their
/// own, `${state}/gcroots/overstore`, each named after the store path that it points to.
#[derive(Debug)]
pub(crate) struct Roots {
    gcroots: PathBuf,
}

impl Roots {
    /// Those of the store with this state directory.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            gcroots: state.join(layout::ROOTS),
        }
    }

    /// The directory that they are in.
    pub(crate) fn directory(&self) -> PathBuf {
        self.gcroots.join(DIRECTORY)
    }

    /// Makes roots of these paths, those that are there already aside. They are durable when this
    /// returns.
    ///
    /// # Errors
    /// When the directory or a link in it cannot be made.
    pub(crate) fn keep(
        &self,
        paths: &[StorePath],
        store: &StoreDirectory,
    ) -> Result<(), WarmError> {
        let keep = || {
            let gcroots = self.gcroots()?;
            let mut tries = 0;
            loop {
                match self.try_keep(&gcroots, paths, store) {
                    // Somebody who forgets them has removed the directory meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                        tries += 1;
                    }
                    kept => return kept,
                }
            }
        };
        keep().map_err(|error: io::Error| self.error(error))
    }

    fn try_keep(
        &self,
        gcroots: &Reached,
        paths: &[StorePath],
        store: &StoreDirectory,
    ) -> io::Result<()> {
        match rustix::fs::mkdirat(gcroots, DIRECTORY, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Also where it is there: a run that was killed may have made it.
        rustix::fs::fsync(gcroots.open()?)?;
        let own = enter(gcroots, DIRECTORY)?.open()?;
        for path in paths {
            match rustix::fs::symlinkat(store.print(path), &own, path.as_str()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rustix::fs::fsync(own)?)
    }

    /// The paths that are kept.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn kept(&self) -> Result<Vec<StorePath>, WarmError> {
        let kept = || {
            let Some(own) = self.own()? else {
                return Ok(Vec::new());
            };
            let mut kept = Vec::new();
            for entry in Dir::read_from(&own)? {
                let Some(entry) = unless_missing(entry)? else {
                    break;
                };
                if let Ok(path) = StorePath::parse(entry.file_name().to_bytes()) {
                    kept.push(path);
                }
            }
            kept.sort();
            Ok(kept)
        };
        kept().map_err(|error: io::Error| self.error(error))
    }

    /// Removes all of these roots, and nothing else: how many there were.
    ///
    /// # Errors
    /// When the directory cannot be read or a link cannot be removed.
    pub(crate) fn forget(&self) -> Result<u64, WarmError> {
        let paths = self.kept()?;
        let forget = || {
            let mut forgotten = 0;
            let Some(own) = self.own()? else {
                return Ok(0);
            };
            for path in &paths {
                // What somebody else has removed meanwhile is forgotten, too.
                let stat = rustix::fs::statat(&own, path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
                let Some(stat) = unless_missing(stat)? else {
                    continue;
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    let removed = rustix::fs::unlinkat(&own, path.as_str(), AtFlags::empty());
                    forgotten += u64::from(unless_missing(removed)?.is_some());
                }
            }
            rustix::fs::fsync(&own)?;
            match rustix::fs::unlinkat(self.gcroots()?, DIRECTORY, AtFlags::REMOVEDIR) {
                // Somebody else's files stay.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(forgotten),
                Err(error) => Err(error.into()),
            }
        };
        forget().map_err(|error: io::Error| self.error(error))
    }

    /// The directory of these roots, if there is one.
    fn own(&self) -> io::Result<Option<OwnedFd>> {
        let open = || -> io::Result<_> { Ok(enter(&self.gcroots()?, DIRECTORY)?.open()?) };
        match open() {
            Ok(own) => Ok(Some(own)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state directory's `gcroots`, walked.
    fn gcroots(&self) -> io::Result<Reached> {
        safe_path::directory(&self.gcroots, Symlinks::Refuse).map_err(Obstacle::into)
    }

    fn error(&self, source: io::Error) -> WarmError {
        WarmError::Io {
            path: self.gcroots.join(DIRECTORY),
            source,
        }
    }
}

/// The store paths that the garbage-collector roots or profiles below a directory point to, as Nix
/// finds them: by links into the store, by links to such links elsewhere, and by files that are
/// named after a store path. Sorted; they need not be valid.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn find(path: &Path, store: &StoreDirectory) -> Result<Vec<StorePath>, WarmError> {
    find_except(path, None, store)
}

/// The same, without what is in one directory right below.
///
/// # Errors
/// As for [`find`].
pub(crate) fn find_except(
    path: &Path,
    except: Option<&str>,
    store: &StoreDirectory,
) -> Result<Vec<StorePath>, WarmError> {
    let io = |source: io::Error| WarmError::Io {
        path: path.to_owned(),
        source,
    };
    let mut found = Vec::new();
    let directory = rustix::fs::open(path, LISTING, Mode::empty()).map_err(|e| io(e.into()))?;
    walk(directory, path, except, 0, store, &mut found).map_err(|error| io(error.into()))?;
    found.sort();
    found.dedup();
    Ok(found)
}

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

fn walk(
    directory: OwnedFd,
    path: &Path,
    except: Option<&str>,
    depth: usize,
    store: &StoreDirectory,
    found: &mut Vec<StorePath>,
) -> Result<(), Errno> {
    for entry in Dir::read_from(&directory)? {
        // A directory that was removed has no entries.
        let Some(entry) = unless_missing(entry)? else {
            break;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..")
            || except.is_some_and(|except| name.to_bytes() == except.as_bytes())
        {
            continue;
        }
        // Roots come and go at any time: what has gone, or become something else, is none.
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = unless_missing(stat)? else {
            continue;
        };
        let entry_path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < DEEPEST => {
                let flags = LISTING | OFlags::NOFOLLOW;
                match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
                    Ok(below) => walk(below, &entry_path, None, depth + 1, store, found)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(errno),
                }
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(&directory, name, Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => continue,
                    Err(errno) => return Err(errno),
                };
                let target = path.join(std::ffi::OsStr::from_bytes(target.to_bytes()));
                found.extend(into_store(&target, store).or_else(|| {
                    let next = std::fs::read_link(&target).ok()?;
                    into_store(&target.parent()?.join(next), store)
                }));
            }
            FileType::RegularFile => found.extend(StorePath::parse(name.to_bytes()).ok()),
            _ => {}
        }
    }
    Ok(())
}

/// The store path that a path is, or lies in.
pub(crate) fn into_store(path: &Path, store: &StoreDirectory) -> Option<StorePath> {
    let path = path.as_os_str().as_bytes();
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    // The whole, or up to one of its slashes.
    slashes
        .map(|(at, _)| &path[..at])
        .chain([path])
        .find_map(|prefix| store.parse(prefix).ok())
}

/// What was done with an entry; `None` if it has gone meanwhile.
fn unless_missing<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// The store path that a path means: itself, what it lies in, or where its links lead.
pub(crate) fn resolve(path: &Path, store: &StoreDirectory) -> Option<StorePath> {
    let mut path = PathBuf::from(path);
    for _ in 0..MOST_LINKS {
        if let Some(found) = into_store(&path, store) {
            return Some(found);
        }
        let target = std::fs::read_link(&path).ok()?;
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    None
}

/// Takes one step down to a directory.
fn enter(above: &Reached, name: &str) -> io::Result<Reached> {
    let reached = above.enter(name.as_ref())?;
    match reached.status().kind {
        FileType::Directory => Ok(reached),
        _ => Err(Errno::NOTDIR.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a";

    fn store() -> StoreDirectory {
        StoreDirectory::new(b"/nix/store")
    }

    fn path(name: &str) -> StorePath {
        StorePath::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn paths_in_the_store_are_found() {
        for text in [
            format!("/nix/store/{NAME}"),
            format!("/nix/store/{NAME}/"),
            format!("/nix/store/{NAME}/bin/a"),
        ] {
            assert_eq!(into_store(Path::new(&text), &store()), Some(path(NAME)));
        }
        for text in ["", "/", "/nix/store", "/nix/store/x", "/home/a"] {
            assert_eq!(into_store(Path::new(text), &store()), None, "{text}");
        }
    }

    #[test]
    fn roots_are_made_and_removed_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let roots = Roots::of(state.path());
        assert!(roots.keep(&[path(NAME)], &store()).is_err());
        assert_eq!(roots.forget().unwrap(), 0);
        std::fs::create_dir(state.path().join("gcroots")).unwrap();
        for _ in 0..2 {
            roots.keep(&[path(NAME)], &store()).unwrap();
            assert_eq!(roots.kept().unwrap(), [path(NAME)]);
        }
        let own = state.path().join("gcroots/overstore");
        assert_eq!(find(&own, &store()).unwrap(), [path(NAME)]);
        std::fs::write(own.join("note"), "of somebody").unwrap();
        assert_eq!(roots.forget().unwrap(), 1);
        assert!(own.join("note").exists());
        std::fs::remove_file(own.join("note")).unwrap();
        assert_eq!(roots.forget().unwrap(), 0);
        assert!(!own.exists());
    }

    /// Security case P1.
    #[test]
    fn roots_are_made_and_removed_at_once() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join("gcroots")).unwrap();
        let roots = Roots::of(state.path());
        let names = ["", "1", "2", "3"].map(|end| path(&format!("{NAME}{end}")));
        std::thread::scope(|scope| {
            let forget = || (0..100).for_each(|_| assert!(roots.forget().is_ok()));
            scope.spawn(forget);
            scope.spawn(forget);
            for _ in 0..100 {
                roots.keep(&names, &store()).unwrap();
                roots.kept().unwrap();
            }
        });
    }

    /// Security case R1.
    #[test]
    fn roots_come_and_go_while_they_are_looked_for() {
        let state = tempfile::tempdir().unwrap();
        let at = |name: &str| state.path().join(name);
        let target = format!("/nix/store/{NAME}");
        std::os::unix::fs::symlink(&target, at("stays")).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::create_dir(at("user")).unwrap();
                    std::os::unix::fs::symlink(&target, at("user/goes")).unwrap();
                    std::fs::remove_dir_all(at("user")).unwrap();
                }
            });
            for _ in 0..300 {
                assert_eq!(find(state.path(), &store()).unwrap(), [path(NAME)]);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn roots_of_every_kind_are_found() {
        let state = tempfile::tempdir().unwrap();
        let at = |name: &str| state.path().join(name);
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at(name)).unwrap();
        std::fs::create_dir_all(at("gcroots/auto")).unwrap();
        link(&format!("/nix/store/{NAME}"), "gcroots/direct");
        link(&format!("/nix/store/{NAME}1/lib"), "gcroots/inside");
        link(&format!("/nix/store/{NAME}2"), "result");
        link(at("result").to_str().unwrap(), "gcroots/auto/indirect");
        link("../../result", "gcroots/auto/relative");
        link("/nowhere", "gcroots/dangling");
        link("/nix/store/short", "gcroots/wrong");
        link(".", "gcroots/circle");
        std::fs::write(at("gcroots").join(format!("{NAME}3")), "").unwrap();
        let expected = ["", "1", "2", "3"].map(|end| path(&format!("{NAME}{end}")));
        assert_eq!(find(&at("gcroots"), &store()).unwrap(), expected);
    }
}
