//! Roots that are programs: what they run from, have open, have mapped, or have in their
//! environment.
//!
//! Nix looks for text that begins with the store directory. So it does not see a program that runs
//! from a store whose merged directory is elsewhere. Here every component of such a path counts that
//! is the name of a store object: then it does not matter where, or in which mount namespace, the
//! store is mounted. That keeps now and then an object of another store's name, and loses none.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::CollectError;
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
    let all = processes::all(system).map_err(|source| CollectError::Roots {
        path: "/proc".into(),
        source,
    })?;
    for pid in all {
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

struct Process<'a> {
    system: &'a System,
    pid: u32,
}

impl Process<'_> {
    fn look(&self, store: &Store, paths: &mut BTreeSet<StorePath>) -> Result<(), Errno> {
        let mut refused = None;
        // What has ended meanwhile, or has none, keeps nothing.
        let mut note = |result: Result<(), Errno>| {
            if let Err(error @ (Errno::ACCESS | Errno::PERM)) = result {
                refused = Some(error);
            }
        };
        for link in ["exe", "cwd", "root"] {
            note(self.link(link, paths));
        }
        match names(self.system, &format!("{}/fd", self.pid)) {
            Ok(numbers) => {
                for number in numbers {
                    note(self.link(&format!("fd/{number}"), paths));
                }
            }
            Err(error) => note(Err(error)),
        }
        let mut read = |file: &str| match self.system.read_proc(&format!("{}/{file}", self.pid)) {
            Ok(text) => text,
            Err(error) => {
                note(Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
                Vec::new()
            }
        };
        for line in read("maps").split(|&byte| byte == b'\n') {
            if let Some(start) = line.iter().position(|&byte| byte == b'/') {
                components(&line[start..], paths);
            }
        }
        let environment = read("environ");
        for directory in [&*store.store, &*store.real] {
            in_text(&environment, directory.as_os_str().as_bytes(), paths);
        }
        refused.map_or(Ok(()), Err)
    }

    fn link(&self, link: &str, paths: &mut BTreeSet<StorePath>) -> Result<(), Errno> {
        let path = format!("{}/{link}", self.pid);
        let target = readlinkat(self.system.proc(), path, Vec::new())?;
        components(target.to_bytes(), paths);
        Ok(())
    }
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
}
