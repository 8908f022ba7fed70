//! Names in a store directory, listed in the layers themselves: listing the merged directory costs
//! what the lower layer holds.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, RawDir, flock, openat};
use rustix::io::Errno;

use crate::linux::safe_path::Reached;
use crate::nix::store_path::Entry;

/// How many names a finding can use; more are not collected.
const MAXIMUM: usize = 100;

/// A name in a directory, and its type if the file system tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub name: OsString,
    pub kind: FileType,
}

/// The names at the top of a directory at which Nix's collector stops: at most a hundred, sorted.
///
/// # Errors
/// Those of reading the directory.
pub(super) fn strangers(directory: &Reached) -> Result<Vec<OsString>, Errno> {
    let mut strangers = Vec::new();
    list(directory.open()?, |name, kind| {
        // The collector takes a whiteout for nothing, as everybody above it does.
        if kind != FileType::CharacterDevice && Entry::of(name.as_bytes()).stops_collector() {
            strangers.push(name.to_owned());
        }
        match strangers.len() {
            MAXIMUM => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;
    strangers.sort();
    Ok(strangers)
}

/// The directories at the top of an upper layer in which Nix received an object and no longer does:
/// it holds a lock while it does, which is seen through the `merged` directory only. Where there is
/// none, nobody is at work.
///
/// # Errors
/// Those of reading the directory.
pub(super) fn left(upper: &Reached, merged: Option<&Reached>) -> Result<Vec<OsString>, Errno> {
    let mut left = first(upper.open()?, MAXIMUM, |name| {
        matches!(Entry::of(name.as_bytes()), Entry::Temporary)
    })?;
    left.retain(|name| {
        name.kind == FileType::Directory
            && merged.is_none_or(|merged| is_unused(merged, &name.name))
    });
    Ok(left.into_iter().map(|name| name.name).collect())
}

/// Whether nobody holds Nix's lock on a directory.
fn is_unused(merged: &Reached, name: &OsStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(merged, name, flags, Mode::empty())
        .is_ok_and(|it| flock(it, FlockOperation::NonBlockingLockShared).is_ok())
}

/// The first names that a directory lists, at most `count` of those that `wanted` takes, from the
/// first thousand.
///
/// # Errors
/// Those of reading the directory.
pub(super) fn first(
    directory: impl AsFd,
    count: usize,
    mut wanted: impl FnMut(&OsStr) -> bool,
) -> Result<Vec<Name>, Errno> {
    let mut names = Vec::new();
    let mut seen = 0;
    list(directory, |name, kind| {
        if wanted(name) {
            names.push(Name {
                name: name.to_owned(),
                kind,
            });
        }
        seen += 1;
        match names.len() >= count || seen >= 1000 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(names)
}

/// Calls `visit` with each name of a directory but `.` and `..`, until it breaks off.
fn list(
    directory: impl AsFd,
    mut visit: impl FnMut(&OsStr, FileType) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if visit(name, entry.file_type()).is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::safe_path::{Symlinks, directory};
    use std::fs;

    fn scratch(names: &[&str]) -> (tempfile::TempDir, Reached) {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(root.path().join(name), "").unwrap();
        }
        let reached = directory(&root.path().canonicalize().unwrap(), Symlinks::Refuse).unwrap();
        (root, reached)
    }

    #[test]
    fn strangers_are_what_is_no_store_path() {
        let (_root, reached) = scratch(&[
            "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-hello",
            "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-hello.lock",
            ".links",
            "nix-path-registration",
            "lost+found",
        ]);
        let strangers = strangers(&reached).unwrap();
        assert_eq!(strangers, ["lost+found", "nix-path-registration"]);
    }

    #[test]
    fn a_hundred_strangers_are_enough() {
        let names: Vec<String> = (0..300).map(|n| format!("stranger{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_root, reached) = scratch(&names);
        assert_eq!(strangers(&reached).unwrap().len(), 100);
    }

    #[test]
    fn the_first_names_are_those_wanted() {
        let (_root, reached) = scratch(&["a", "b", "c"]);
        let mut names = first(reached.open().unwrap(), 2, |name| name != "b").unwrap();
        names.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(names.len(), 2);
        assert_eq!(names[0].name, "a");
        assert_eq!(names[0].kind, FileType::RegularFile);
    }
}
