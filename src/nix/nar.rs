//! Hashing store objects as Nix does: SHA-256 of the NAR, without making one; and copying them, or
//! packing them into an archive, hashed meanwhile.
//!
//! The format is that of the Nix manual, "Nix Archive (NAR) format".

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::object_writer::ObjectWriter;
use super::tar_writer::TarWriter;
use crate::linux::descent::Descent;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Bytes that an entry of a directory takes in a NAR at least.
const SMALLEST_ENTRY: u64 = 100;

/// The hash of one object's NAR.
struct NarHasher<'p> {
    /// None where only the size is wanted.
    hash: Option<Sha256>,
    bytes: u64,
    buffer: Vec<u8>,
    /// Told how many bytes of files were read; whether to go on.
    progress: &'p (dyn Fn(u64) -> bool + Sync),
    /// Where a copy is made.
    copy: Copy<'p>,
    /// Most bytes that it may have.
    limit: u64,
}

/// Where a copy goes.
enum Copy<'p> {
    Nowhere,
    Directory(ObjectWriter<'p>),
    Archive(TarWriter<'p>),
}

/// Why there is no copy of an object.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The original cannot be read, changes while it is read, or has something that no NAR can have.
    Read(io::Error),
    /// The copy cannot be written.
    Write(io::Error),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<Errno> for CopyError {
    fn from(errno: Errno) -> Self {
        Self::Read(errno.into())
    }
}

/// Hashes the object `name` in a store directory: its hash, and the size of its NAR.
///
/// # Errors
/// When it cannot be read, changes while it is read, or has something that no NAR can have.
pub(crate) fn hash(
    directory: BorrowedFd<'_>,
    name: &str,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> io::Result<([u8; 32], u64)> {
    hash_within(directory, name, u64::MAX, progress)
}

/// The same of an object that should have `limit` bytes at most: where it turns out to have more, it
/// stops.
///
/// # Errors
/// As [`hash`]; and when it has more bytes.
pub(crate) fn hash_within(
    directory: BorrowedFd<'_>,
    name: &str,
    limit: u64,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> io::Result<([u8; 32], u64)> {
    let mut hasher = NarHasher::new(progress, Copy::Nowhere, limit);
    let hashed = hasher.whole(directory, name);
    hashed.map_err(|(CopyError::Read(error) | CopyError::Write(error))| error)?;
    Ok(hasher.finish())
}

/// Copies the object `name` of a store directory to the directory `to`, in which there is nothing of
/// that name, and hashes what is written meanwhile: its hash, and the size of its NAR. The copy has the
/// modes and times that Nix gives to objects, and no other attributes. Contents are shared with the
/// original where the file system can do that. Where it turns out to have more than `limit` bytes, it
/// stops. What was made stays then; nothing is synced.
///
/// # Errors
/// See [`CopyError`].
pub(crate) fn copy(
    directory: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    limit: u64,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<([u8; 32], u64), CopyError> {
    let writer = Copy::Directory(ObjectWriter::to(to));
    let mut hasher = NarHasher::new(progress, writer, limit);
    hasher.whole(directory, name)?;
    Ok(hasher.finish())
}

/// Packs objects into an archive, one after the other.
pub(crate) struct Packer<'p>(NarHasher<'p>);

impl<'p> Packer<'p> {
    /// Into this archive; with `hashed`, what is packed is hashed meanwhile.
    pub(crate) fn into(
        archive: TarWriter<'p>,
        hashed: bool,
        progress: &'p (dyn Fn(u64) -> bool + Sync),
    ) -> Self {
        let mut hasher = NarHasher::new(progress, Copy::Archive(archive), u64::MAX);
        if !hashed {
            hasher.hash = None;
        }
        Self(hasher)
    }

    /// Packs the object `name` of a store directory: its hash, if it was asked for.
    ///
    /// # Errors
    /// See [`CopyError`]; the copy is the archive.
    pub(crate) fn pack(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
    ) -> Result<Option<[u8; 32]>, CopyError> {
        self.0.whole(directory, name)?;
        self.0.bytes = 0;
        let hash = self.0.hash.as_mut();
        Ok(hash.map(|hash| hash.finalize_reset().into()))
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.0.copy {
            Copy::Archive(archive) => archive.finish(),
            Copy::Nowhere | Copy::Directory(_) => Ok(()),
        }
    }
}

impl<'p> NarHasher<'p> {
    fn new(
        progress: &'p (dyn Fn(u64) -> bool + Sync),
        copy: Copy<'p>,
        limit: u64,
    ) -> NarHasher<'p> {
        NarHasher {
            hash: Some(Sha256::new()),
            bytes: 0,
            buffer: vec![0; CHUNK],
            progress,
            copy,
            limit,
        }
    }

    /// An object, from the beginning of its NAR to the end.
    fn whole(&mut self, directory: BorrowedFd<'_>, name: &str) -> Result<(), CopyError> {
        self.text(b"nix-archive-1");
        self.object(directory, name.as_bytes())?;
        Ok(self.within_limit(0)?)
    }

    fn finish(self) -> ([u8; 32], u64) {
        let hash = self.hash.unwrap_or_default();
        (hash.finalize().into(), self.bytes)
    }

    /// Sees that so many bytes more are not too many.
    fn within_limit(&self, more: u64) -> io::Result<()> {
        match self.bytes.saturating_add(more) > self.limit {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "it has more than the {} bytes that it should have",
                    self.limit
                ),
            )),
            false => Ok(()),
        }
    }
}

impl NarHasher<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.bytes += bytes.len() as u64;
    }

    fn padding(&mut self, length: u64) {
        let zeros = [0; 8];
        self.raw(&zeros[..(length.wrapping_neg() % 8) as usize]);
    }

    fn text(&mut self, text: &[u8]) {
        self.raw(&(text.len() as u64).to_le_bytes());
        self.raw(text);
        self.padding(text.len() as u64);
    }

    fn texts(&mut self, texts: &[&[u8]]) {
        texts.iter().for_each(|text| self.text(text));
    }

    /// An object, whole. Without recursion: a tree may be deeper than the stack.
    fn object(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), CopyError> {
        let mut descent = Descent::from(directory);
        // The names that are left of each directory on the way, the next one last.
        let mut levels: Vec<Vec<Vec<u8>>> = Vec::new();
        self.node(&mut descent, name, &mut levels)?;
        while let Some(names) = levels.last_mut() {
            if let Some(name) = names.pop() {
                self.texts(&[b"entry", b"(", b"name", &name, b"node"]);
                self.node(&mut descent, &name, &mut levels)?;
                continue;
            }
            levels.pop();
            descent.leave()?;
            match &mut self.copy {
                Copy::Nowhere => {}
                Copy::Directory(copy) => copy.leave().map_err(CopyError::Write)?,
                Copy::Archive(archive) => archive.leave(),
            }
            self.text(b")");
            if !levels.is_empty() {
                self.text(b")");
            }
        }
        Ok(())
    }

    /// One node: all of it where it is no directory; otherwise its beginning, and what is in it goes
    /// to `levels`.
    fn node(
        &mut self,
        descent: &mut Descent<'_>,
        name: &[u8],
        levels: &mut Vec<Vec<Vec<u8>>>,
    ) -> Result<(), CopyError> {
        let directory = descent.here();
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.within_limit(0)?;
        self.texts(&[b"(", b"type"]);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.text(b"regular");
                if stat.st_mode & 0o100 != 0 {
                    self.texts(&[b"executable", b""]);
                }
                self.text(b"contents");
                self.file(directory, name, &stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                match &mut self.copy {
                    Copy::Nowhere => Ok(()),
                    Copy::Directory(copy) => copy.symlink(name, &target),
                    Copy::Archive(archive) => archive.symlink(name, target.to_bytes()),
                }
                .map_err(CopyError::Write)?;
                self.texts(&[b"symlink", b"target", target.to_bytes()]);
            }
            FileType::Directory => {
                self.text(b"directory");
                descent.enter(name)?;
                match &mut self.copy {
                    Copy::Nowhere => Ok(()),
                    Copy::Directory(copy) => copy.enter(name),
                    Copy::Archive(archive) => archive.enter(name),
                }
                .map_err(CopyError::Write)?;
                let (mut names, mut length) = (Vec::new(), 0);
                for entry in Dir::read_from(descent.here())? {
                    let name = entry?.file_name().to_bytes().to_owned();
                    if !matches!(&*name, b"." | b"..") {
                        length += SMALLEST_ENTRY;
                        self.within_limit(length)?;
                        names.push(name);
                    }
                }
                names.sort_unstable_by(|one, other| other.cmp(one));
                levels.push(names);
                return Ok(());
            }
            other => {
                return Err(CopyError::Read(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it has a {other:?}, which no store object has"),
                )));
            }
        }
        self.text(b")");
        if descent.depth() > 0 {
            self.text(b")");
        }
        Ok(())
    }

    /// A regular file: its contents, and a copy of it.
    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, open, Mode::empty())?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.within_limit(size)?;
        let executable = stat.st_mode & 0o100 != 0;
        let made = match &mut self.copy {
            Copy::Nowhere => return self.contents(file, None, size),
            Copy::Directory(copy) => copy.file(name).map_err(CopyError::Write)?,
            Copy::Archive(archive) => {
                let begun = archive.file(name, executable, size);
                begun.map_err(CopyError::Write)?;
                self.contents(file, None, size)?;
                return match &mut self.copy {
                    Copy::Archive(archive) => archive.end_of_file(size).map_err(CopyError::Write),
                    Copy::Nowhere | Copy::Directory(_) => Ok(()),
                };
            }
        };
        // What is in the copy is hashed, whatever becomes of the original.
        if size > 0 && rustix::fs::ioctl_ficlone(&made, &file).is_ok() {
            if made.metadata().map_err(CopyError::Write)?.len() != size {
                return Err(CopyError::Read(io::Error::other(
                    "a file changed its length",
                )));
            }
            let shared = made.try_clone().map_err(CopyError::Write)?;
            self.contents(shared, None, size)?;
        } else {
            self.contents(file, Some(&made), size)?;
        }
        super::object_writer::finish(made.as_fd(), executable).map_err(CopyError::Write)
    }

    fn contents(
        &mut self,
        mut file: File,
        copy: Option<&File>,
        size: u64,
    ) -> Result<(), CopyError> {
        self.raw(&size.to_le_bytes());
        let mut left = size;
        while left > 0 {
            let mut buffer = std::mem::take(&mut self.buffer);
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = file.read(&mut buffer[..most]);
            if let Ok(count) = count {
                self.raw(&buffer[..count]);
                if let Some(mut copy) = copy {
                    let written = copy.write_all(&buffer[..count]);
                    written.map_err(CopyError::Write)?;
                }
                if let Copy::Archive(archive) = &mut self.copy {
                    archive.bytes(&buffer[..count]).map_err(CopyError::Write)?;
                }
                left -= count as u64;
                if !(self.progress)(count as u64) {
                    return Err(CopyError::Read(io::Error::other("interrupted")));
                }
            }
            self.buffer = buffer;
            match count {
                Ok(0) => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    let error = io::Error::new(kind, "a file became shorter");
                    return Err(CopyError::Read(error));
                }
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(CopyError::Read(error));
                }
                _ => {}
            }
        }
        self.padding(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    /// The hash that `nix-store --dump | sha256sum` gives for the same tree.
    #[test]
    fn a_tree_has_the_hash_that_nix_gives_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join("object").join(name);
        std::fs::create_dir_all(at("sub/empty")).unwrap();
        std::fs::write(at("b"), "content of b\n").unwrap();
        std::fs::write(at("sub/program"), "#!/bin/sh\n").unwrap();
        std::fs::write(at("empty"), "").unwrap();
        std::fs::set_permissions(at("sub/program"), PermissionsExt::from_mode(0o555)).unwrap();
        std::os::unix::fs::symlink("../b", at("sub/link")).unwrap();
        let directory = File::open(root.path()).unwrap();
        let (hash, bytes) = hash(directory.as_fd(), "object", &|_| true).unwrap();
        assert_eq!(
            (crate::nix::hash::render_sha256(&hash).as_str(), bytes),
            (
                "sha256:2932f0434a34c702b507ff907fa561ee12bdddf5fd281631190d2c27a604be1d",
                1240
            )
        );
        assert!(self::hash(directory.as_fd(), "object", &|_| false).is_err());
    }

    #[test]
    fn a_copy_is_what_was_hashed_in_nix_s_form() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join("object").join(name);
        std::fs::create_dir_all(at("sub/empty")).unwrap();
        std::fs::write(at("b"), vec![7; CHUNK + 5]).unwrap();
        std::fs::write(at("sub/program"), "#!/bin/sh\n").unwrap();
        let allow =
            |mode| std::fs::set_permissions(at("sub/program"), PermissionsExt::from_mode(mode));
        // Nix's sandbox, where packages run this test, lets nobody set these two bits.
        allow(0o6755).or_else(|_| allow(0o755)).unwrap();
        std::os::unix::fs::symlink("../b", at("sub/link")).unwrap();
        std::fs::create_dir(root.path().join("to")).unwrap();
        let from = File::open(root.path()).unwrap();
        let to = File::open(root.path().join("to")).unwrap();
        let (expected, bytes) = hash(from.as_fd(), "object", &|_| true).unwrap();
        let copied = copy(from.as_fd(), "object", to.as_fd(), bytes, &|_| true).unwrap();
        assert_eq!(copied, (expected, bytes));
        assert_eq!(hash(to.as_fd(), "object", &|_| true).unwrap(), copied);
        for (name, mode) in [("", 0o555), ("b", 0o444), ("sub/program", 0o555)] {
            let found = root.path().join("to/object").join(name);
            let found = found.symlink_metadata().unwrap();
            assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1), "{name}");
        }
        let link = root.path().join("to/object/sub/link");
        assert_eq!(link.symlink_metadata().unwrap().mtime(), 1);
        // Nothing is copied over something else, and no more than was expected.
        let copied = copy(from.as_fd(), "object", to.as_fd(), bytes, &|_| true);
        assert!(matches!(copied, Err(CopyError::Write(_))), "{copied:?}");
        std::fs::create_dir(root.path().join("other")).unwrap();
        let to = File::open(root.path().join("other")).unwrap();
        match copy(from.as_fd(), "object", to.as_fd(), bytes - 8, &|_| true) {
            Err(CopyError::Read(error)) => assert!(error.to_string().contains("more than")),
            other => panic!("{other:?}"),
        }
    }

    /// Security case N2.
    #[test]
    fn a_deep_tree_is_hashed_as_any_other() {
        const DEPTH: usize = 1500;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("d/".repeat(DEPTH));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        let mut expected = Vec::new();
        let mut text = |text: &[u8]| {
            expected.extend((text.len() as u64).to_le_bytes());
            expected.extend(text);
            expected.resize(expected.len().next_multiple_of(8), 0);
        };
        text(b"nix-archive-1");
        for name in std::iter::repeat_n(&b"d"[..], DEPTH - 1).chain([&b"file"[..]]) {
            for part in [
                &b"("[..],
                b"type",
                b"directory",
                b"entry",
                b"(",
                b"name",
                name,
                b"node",
            ] {
                text(part);
            }
        }
        for part in [&b"("[..], b"type", b"regular", b"contents", b"x", b")"] {
            text(part);
        }
        (0..2 * DEPTH).for_each(|_| text(b")"));
        let directory = File::open(root.path()).unwrap();
        let (hash, bytes) = hash(directory.as_fd(), "d", &|_| true).unwrap();
        assert_eq!(bytes, expected.len() as u64);
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&expected)));
    }
}
