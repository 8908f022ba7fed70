//! Whether two copies of an object are equal: in all that a NAR has of them, byte by byte.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

/// Deeper objects are refused rather than run out of descriptors.
const DEEPEST: usize = 300;
/// Bytes that are read of each copy at once.
const CHUNK: usize = 128 << 10;

/// Compares copies of objects, one after the other.
#[derive(Debug)]
pub(crate) struct Comparer {
    buffers: [Vec<u8>; 2],
}

impl Comparer {
    /// One that has compared nothing.
    pub(crate) fn new() -> Self {
        Self {
            buffers: [vec![0; CHUNK], vec![0; CHUNK]],
        }
    }

    /// Where the two copies of the object `name` in these directories differ first: the path in it,
    /// empty for the object itself. `None` when they are equal in types, names, targets of links,
    /// whether files can be run, and contents.
    ///
    /// # Errors
    /// When one of them cannot be read, or changes while it is.
    pub(crate) fn difference(
        &mut self,
        directories: [BorrowedFd<'_>; 2],
        name: &str,
    ) -> io::Result<Option<PathBuf>> {
        let name = CString::new(name)?;
        let mut found = None;
        let equal = self.equal(directories, &name, Path::new(""), 0, &mut found)?;
        Ok(if equal { None } else { found })
    }

    fn equal(
        &mut self,
        directories: [BorrowedFd<'_>; 2],
        name: &CString,
        path: &Path,
        depth: usize,
        found: &mut Option<PathBuf>,
    ) -> io::Result<bool> {
        let look = |at| rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
        let stats = [look(directories[0])?, look(directories[1])?];
        let kinds = stats
            .each_ref()
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        let equal = kinds[0] == kinds[1]
            && match kinds[0] {
                FileType::RegularFile => self.equal_files(directories, name, &stats)?,
                FileType::Symlink => {
                    let target = |at| rustix::fs::readlinkat(at, name, Vec::new());
                    target(directories[0])? == target(directories[1])?
                }
                FileType::Directory => {
                    return self.equal_directories(directories, name, path, depth, found);
                }
                // No store object has one.
                _ => false,
            };
        if !equal {
            *found = Some(path.to_owned());
        }
        Ok(equal)
    }

    fn equal_directories(
        &mut self,
        directories: [BorrowedFd<'_>; 2],
        name: &CString,
        path: &Path,
        depth: usize,
        found: &mut Option<PathBuf>,
    ) -> io::Result<bool> {
        if depth == DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        let opened = [
            open(directories[0], name, OFlags::DIRECTORY)?,
            open(directories[1], name, OFlags::DIRECTORY)?,
        ];
        let (ours, theirs) = (names(&opened[0])?, names(&opened[1])?);
        if let Some(name) = only_in_one(&ours, &theirs) {
            *found = Some(path.join(OsStr::from_bytes(name.as_bytes())));
            return Ok(false);
        }
        let inside = [opened[0].as_fd(), opened[1].as_fd()];
        for name in &ours {
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            if !self.equal(inside, name, &path, depth + 1, found)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn equal_files(
        &mut self,
        directories: [BorrowedFd<'_>; 2],
        name: &CString,
        stats: &[Stat; 2],
    ) -> io::Result<bool> {
        let can_be_run = |stat: &Stat| stat.st_mode & 0o100 != 0;
        if stats[0].st_size != stats[1].st_size || can_be_run(&stats[0]) != can_be_run(&stats[1]) {
            return Ok(false);
        }
        let mut files = [
            File::from(open(directories[0], name, OFlags::empty())?),
            File::from(open(directories[1], name, OFlags::empty())?),
        ];
        let mut left = u64::try_from(stats[0].st_size).unwrap_or(0);
        while left > 0 {
            let most = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            for (file, buffer) in files.iter_mut().zip(&mut self.buffers) {
                file.read_exact(&mut buffer[..most])?;
            }
            if self.buffers[0][..most] != self.buffers[1][..most] {
                return Ok(false);
            }
            left -= most as u64;
        }
        Ok(true)
    }
}

fn open(directory: BorrowedFd<'_>, name: &CString, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The first name that only one of two sorted lists has.
fn only_in_one<'n>(ours: &'n [CString], theirs: &'n [CString]) -> Option<&'n CString> {
    let at = ours
        .iter()
        .zip(theirs)
        .take_while(|(one, other)| one == other)
        .count();
    match (ours.get(at), theirs.get(at)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn every_difference_that_a_nar_has_is_found() {
        let root = tempfile::tempdir().unwrap();
        let make = |layer: &str| {
            let at = |path: &str| root.path().join(layer).join("object").join(path);
            fs::create_dir_all(at("d/empty")).unwrap();
            fs::write(at("a"), vec![7; CHUNK + 9]).unwrap();
            fs::write(at("d/program"), "#!/bin/sh\n").unwrap();
            fs::set_permissions(at("d/program"), PermissionsExt::from_mode(0o555)).unwrap();
            symlink("a", at("link")).unwrap();
        };
        let compare = || {
            let open = |layer: &str| fs::File::open(root.path().join(layer)).unwrap();
            let (one, other) = (open("one"), open("other"));
            Comparer::new()
                .difference([one.as_fd(), other.as_fd()], "object")
                .unwrap()
        };
        make("one");
        type Change = (&'static str, fn(&Path));
        let changes: [Change; 9] = [
            ("a", |at| {
                let mut content = vec![7; CHUNK + 9];
                content[CHUNK + 8] = 8;
                fs::write(at.join("a"), content).unwrap();
            }),
            ("a", |at| fs::write(at.join("a"), "short").unwrap()),
            ("a", |at| {
                fs::remove_file(at.join("a")).unwrap();
                fs::create_dir(at.join("a")).unwrap();
            }),
            ("d/program", |at| {
                let mode = PermissionsExt::from_mode(0o444);
                fs::set_permissions(at.join("d/program"), mode).unwrap();
            }),
            ("d/empty", |at| fs::remove_dir(at.join("d/empty")).unwrap()),
            ("d/more", |at| fs::write(at.join("d/more"), "").unwrap()),
            ("A", |at| fs::rename(at.join("a"), at.join("A")).unwrap()),
            ("link", |at| {
                fs::remove_file(at.join("link")).unwrap();
                symlink("b", at.join("link")).unwrap();
            }),
            ("", |at| {
                fs::remove_dir_all(at).unwrap();
                fs::write(at, "").unwrap();
            }),
        ];
        for (place, change) in changes {
            let _ = fs::remove_dir_all(root.path().join("other"));
            make("other");
            assert_eq!(compare(), None);
            change(&root.path().join("other/object"));
            assert_eq!(compare().as_deref(), Some(Path::new(place)));
        }
    }
}
