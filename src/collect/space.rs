//! What the deletion of objects frees, in real bytes.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::layers::Layer;
use crate::linux::file_identity::FileIdentity;
use crate::nix::layout;

const INSIDE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Adds up objects of the upper layer. A file with several links counts with the last one that goes.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    layer: &'a Layer,
    /// Links seen so far of files that have several, and those that are wanted.
    linked: HashMap<FileIdentity, (u64, u64)>,
    /// The files that have a link in `.links`, once that matters.
    optimised: Option<HashSet<u64>>,
}

impl<'a> Space<'a> {
    /// Nothing so far.
    pub(crate) fn new(layer: &'a Layer) -> Self {
        Self {
            layer,
            linked: HashMap::new(),
            optimised: None,
        }
    }

    /// The bytes that go with an object, after those that were added up before it. What disappears
    /// meanwhile counts as nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn add(&mut self, name: &str) -> Result<u64, Errno> {
        let layer = self.layer;
        let directory = layer.fd();
        let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut bytes = self.count(&stat)?;
        // Without recursion: a tree may be deeper than the stack.
        let mut open = Vec::new();
        if is_directory(&stat) {
            open.extend(enter(rustix::fs::openat(
                &directory,
                name,
                INSIDE,
                Mode::empty(),
            ))?);
        }
        while let Some(inner) = open.last_mut() {
            let Some(entry) = inner.read() else {
                open.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(inner.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            if is_directory(&stat) {
                let next = rustix::fs::openat(inner.fd()?, name, INSIDE, Mode::empty());
                open.extend(enter(next)?);
            }
            bytes += self.count(&stat)?;
        }
        Ok(bytes)
    }

    fn count(&mut self, stat: &Stat) -> Result<u64, Errno> {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let links = stat.st_nlink;
        if links < 2 || is_directory(stat) {
            return Ok(bytes);
        }
        let optimised = match &self.optimised {
            Some(optimised) => optimised,
            None => self.optimised.insert(optimised(self.layer)?),
        };
        let wanted = links - u64::from(optimised.contains(&stat.st_ino));
        let (seen, wanted) = self
            .linked
            .entry(FileIdentity::from(stat))
            .or_insert((0, wanted));
        *seen += 1;
        Ok(if seen == wanted { bytes } else { 0 })
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn enter(directory: Result<OwnedFd, Errno>) -> Result<Option<Dir>, Errno> {
    match directory {
        Ok(directory) => Dir::new(directory).map(Some),
        // Deleted meanwhile.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn optimised(layer: &Layer) -> Result<HashSet<u64>, Errno> {
    let opened = rustix::fs::openat(layer.fd().as_fd(), layout::LINKS, INSIDE, Mode::empty());
    let mut inodes = HashSet::new();
    if let Some(directory) = enter(opened)? {
        for entry in directory {
            inodes.insert(entry?.ino());
        }
    }
    Ok(inodes)
}
