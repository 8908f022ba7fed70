//! Roots that are programs: what they run from, have open, have mapped, or have in their
//! environment.
//!
//! Nix looks for text that begins with the store directory. So it does not see a program that runs
//! from a store whose merged directory is elsewhere. Here every component of such a path counts that
//! is the name of a store object: then it does not matter where, or in which mount namespace, the
//! store is mounted. That keeps now and then an object of another store's name, and loses none.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use super::CollectError;
use super::layers::Layer;
use super::root::{Root, RootKind, Roots};
use crate::config::Store;
use crate::linux::{processes, root::System};
use crate::nix::store_path::StorePath;

/// Settings of the kernel that name programs (`readFileRoots` in Nix).
const KERNEL: [&str; 3] = [
    "sys/kernel/modprobe",
    "sys/kernel/fbsplash",
    "sys/kernel/poweroff_cmd",
];

/// Adds what the processes of this machine keep.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn find(store: &Store, system: &System, found: &mut Roots) -> Result<(), CollectError> {
    let own = std::process::id();
    for pid in all(system)? {
        if pid == own {
            continue;
        }
        let process = Process { system, pid };
        let mut paths = BTreeSet::new();
        match process.look(store, &mut paths) {
            // Gone meanwhile, or a thread of the kernel.
            Ok(()) | Err(Errno::NOENT | Errno::SRCH) => {}
            Err(_) => found.unseen_processes += 1,
        }
        if paths.is_empty() {
            continue;
        }
        let name = processes::name(system, pid).unwrap_or_default();
        found.roots.extend(paths.into_iter().map(|path| Root {
            path,
            kind: RootKind::Process {
                pid,
                name: name.clone(),
            },
        }));
    }
    for file in KERNEL {
        let mut paths = BTreeSet::new();
        // Not every kernel has them.
        if let Ok(text) = system.read_proc(file) {
            in_text(&text, store.store.as_os_str().as_bytes(), &mut paths);
        }
        found.roots.extend(paths.into_iter().map(|path| Root {
            path,
            kind: RootKind::Kernel(PathBuf::from("/proc").join(file)),
        }));
    }
    Ok(())
}

fn all(system: &System) -> Result<Vec<u32>, CollectError> {
    processes::all(system).map_err(|source| CollectError::Roots {
        path: "/proc".into(),
        source,
    })
}

struct Process<'a> {
    system: &'a System,
    pid: u32,
}

impl Process<'_> {
    /// Hands each path that it runs from, is in, has open or has mapped to `each`, with the link
    /// below its directory in `/proc` that leads there.
    ///
    /// # Errors
    /// When it may not be looked at, or what it has mapped is more than is read (`FBIG`); the rest was
    /// handed over then.
    fn uses(&self, each: &mut dyn FnMut(&str, &[u8])) -> Result<(), Errno> {
        let mut refused = None;
        // What has ended meanwhile, or has none, keeps nothing.
        let mut note = |result: Result<(), Errno>| {
            if let Err(error @ (Errno::ACCESS | Errno::PERM | Errno::FBIG)) = result {
                refused = Some(error);
            }
        };
        let mut follow = |link: &str| {
            let target = readlinkat(
                self.system.proc(),
                format!("{}/{link}", self.pid),
                Vec::new(),
            )?;
            each(link, target.to_bytes());
            Ok(())
        };
        for link in ["exe", "cwd", "root"] {
            note(follow(link));
        }
        match names(self.system, &format!("{}/fd", self.pid)) {
            Ok(numbers) => {
                for number in numbers {
                    note(follow(&format!("fd/{number}")));
                }
            }
            Err(error) => note(Err(error)),
        }
        match self.read("maps") {
            Ok(maps) => {
                for line in maps.split(|&byte| byte == b'\n') {
                    if let Some((link, path)) = mapped(line) {
                        each(&link, path);
                    }
                }
            }
            Err(error) => note(Err(error)),
        }
        refused.map_or(Ok(()), Err)
    }

    fn look(&self, store: &Store, paths: &mut BTreeSet<StorePath>) -> Result<(), Errno> {
        let used = self.uses(&mut |_, path| components(path, paths));
        let environment = match self.read("environ") {
            Ok(text) => text,
            Err(error @ (Errno::ACCESS | Errno::PERM | Errno::FBIG)) => return Err(error),
            Err(_) => Vec::new(),
        };
        for directory in [&*store.store, &*store.real] {
            in_text(&environment, directory.as_os_str().as_bytes(), paths);
        }
        used
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.system
            .read_proc(&format!("{}/{file}", self.pid))
            .map_err(|error| match error.kind() {
                // These may say more than a number.
                io::ErrorKind::PermissionDenied => Errno::ACCESS,
                io::ErrorKind::NotFound => Errno::NOENT,
                _ => Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })
    }

    /// Whether what a link leads to is in the copy that was put aside, at this place in it. It is
    /// not where it is what the lower layer has there. The time of the last change is the one number
    /// that OverlayFS passes on as the layer has it, whatever the layers are.
    fn uses_copy(&self, link: &str, copies: &Copies<'_>, place: &[u8]) -> bool {
        // A user's file system may answer late or never: what the kernel knows of its files has to do.
        let look = |at: BorrowedFd<'_>, path: &[u8], flags| {
            let flags = flags | AtFlags::STATX_DONT_SYNC;
            let found = statx(at, path, flags, StatxFlags::CTIME)?;
            match StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::CTIME) {
                true => Ok((found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec)),
                false => Err(Errno::NODATA),
            }
        };
        let link = format!("{}/{link}", self.pid);
        let used = match look(self.system.proc(), link.as_bytes(), AtFlags::empty()) {
            Ok(used) => used,
            Err(Errno::NOENT | Errno::SRCH) => return false,
            Err(_) => return true,
        };
        let inside = |layer: &Layer| look(layer.fd().as_fd(), place, AtFlags::SYMLINK_NOFOLLOW);
        match (inside(copies.aside), inside(copies.lower)) {
            (Ok(copy), Ok(below)) => used == copy || used != below,
            _ => true,
        }
    }
}

/// Copies of objects that were in the upper layer, and what shows in their place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copies<'a> {
    /// The directory that they were put in.
    pub aside: &'a Layer,
    /// The lower store directory.
    pub lower: &'a Layer,
}

impl Copies<'_> {
    /// Which of the copies with these names a process still uses, each with one that does.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn users(
        &self,
        system: &System,
        copies: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, String>, CollectError> {
        let own = std::process::id();
        let mut users = BTreeMap::new();
        for pid in all(system)? {
            if pid == own {
                continue;
            }
            let process = Process { system, pid };
            // What may not be looked into is of nobody who can have the store open: root sees all,
            // and nobody else is in a mount namespace of one's own.
            let looked = process.uses(&mut |link, path| {
                for (name, place) in places(path) {
                    if copies.contains(name)
                        && !users.contains_key(name)
                        && process.uses_copy(link, self, place)
                    {
                        users.insert(name.to_owned(), processes::in_words(system, pid));
                    }
                }
            });
            // More than is read: it may use any of them.
            if looked == Err(Errno::FBIG) {
                for name in copies {
                    let name = (*name).to_owned();
                    users
                        .entry(name)
                        .or_insert_with(|| processes::in_words(system, pid));
                }
            }
        }
        Ok(users)
    }
}

/// The link and the path of a line of `/proc/PID/maps`.
fn mapped(line: &[u8]) -> Option<(String, &[u8])> {
    let path = &line[line.iter().position(|&byte| byte == b'/')?..];
    let range = line.split(|&byte| byte == b' ').next()?;
    let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let digits = |number: &str| number.trim_start_matches('0').to_owned();
    Some((format!("map_files/{}-{}", digits(start), digits(end)), path))
}

/// Every component of a path, each with the rest of the path from there on.
fn places(path: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let starts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    starts.filter_map(move |(at, _)| {
        let place = &path[at + 1..];
        let name = place.split(|&byte| byte == b'/').next()?;
        Some((std::str::from_utf8(name).ok()?, place))
    })
}

/// The components of a path that are names of store objects. What was deleted is marked as that at
/// its end.
fn components(path: &[u8], paths: &mut BTreeSet<StorePath>) {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    if path.starts_with(b"/") {
        let components = path.split(|&byte| byte == b'/');
        paths.extend(components.filter_map(|name| StorePath::parse(name).ok()));
    }
}

/// The store paths that a text mentions, in this directory.
pub(super) fn in_text(text: &[u8], directory: &[u8], paths: &mut BTreeSet<StorePath>) {
    let mut prefix = directory.to_vec();
    prefix.push(b'/');
    let mut rest = text;
    while let Some(at) = find_bytes(rest, &prefix) {
        rest = &rest[at + prefix.len()..];
        let allowed = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
        let length = rest.iter().take_while(allowed).count();
        paths.extend(StorePath::parse(&rest[..length]));
    }
}

fn find_bytes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

/// The names in a directory below `/proc`.
fn names(system: &System, directory: &str) -> Result<Vec<String>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(system.proc(), directory, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        if let Ok(name) = String::from_utf8(entry?.file_name().to_bytes().to_vec())
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a";

    #[test]
    fn objects_are_found_in_paths_and_texts() {
        let object = StorePath::parse(NAME.as_bytes()).unwrap();
        let expected = BTreeSet::from([object]);
        for path in [
            format!("/nix/store/{NAME}/bin/a"),
            format!("/mnt/merged/nix/store/{NAME}"),
            format!("/mnt/merged/nix/store/{NAME} (deleted)"),
        ] {
            let mut found = BTreeSet::new();
            components(path.as_bytes(), &mut found);
            assert_eq!(found, expected, "{path}");
        }
        let text = format!("A=1\0PATH=/bin:/nix/store/{NAME}/bin:/nix/store/short\0/nix/store/");
        let mut found = BTreeSet::new();
        in_text(text.as_bytes(), b"/nix/store", &mut found);
        assert_eq!(found, expected);
        in_text(text.as_bytes(), b"/other", &mut found);
        components(b"socket:[1234]", &mut found);
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_of_maps_name_links() {
        let line = b"00400000-00452000 r-xp 00000000 08:02 173521      /nix/store/x y";
        let expected = ("map_files/400000-452000".to_owned(), &b"/nix/store/x y"[..]);
        assert_eq!(mapped(line), Some(expected));
        assert_eq!(
            mapped(b"00400000-00452000 rw-p 00000000 00:00 0 [heap]"),
            None
        );
        let places: Vec<_> = places(b"/a/b (deleted)").collect();
        assert_eq!(places, [("a", &b"a/b"[..]), ("b", &b"b"[..])]);
    }
}
