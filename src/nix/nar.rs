//! Hashing store objects as Nix does: SHA-256 of the NAR, without making one.
//!
//! The format is that of the Nix manual, "Nix Archive (NAR) format".

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::linux::descent::Descent;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// The hash of one object's NAR.
struct NarHasher<'p> {
    hash: Sha256,
    bytes: u64,
    buffer: Vec<u8>,
    /// Told how many bytes of files were read; whether to go on.
    progress: &'p (dyn Fn(u64) -> bool + Sync),
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
    let mut hasher = NarHasher {
        hash: Sha256::new(),
        bytes: 0,
        buffer: vec![0; CHUNK],
        progress,
    };
    hasher.text(b"nix-archive-1");
    hasher.object(directory, name.as_bytes())?;
    Ok((hasher.hash.finalize().into(), hasher.bytes))
}

impl NarHasher<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
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
    fn object(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
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
    ) -> io::Result<()> {
        let directory = descent.here();
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.texts(&[b"(", b"type"]);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.text(b"regular");
                if stat.st_mode & 0o100 != 0 {
                    self.texts(&[b"executable", b""]);
                }
                self.text(b"contents");
                let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(directory, name, open, Mode::empty())?;
                self.contents(File::from(file), stat.st_size as u64)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                self.texts(&[b"symlink", b"target", target.to_bytes()]);
            }
            FileType::Directory => {
                self.text(b"directory");
                descent.enter(name)?;
                let mut names = Vec::new();
                for entry in Dir::read_from(descent.here())? {
                    let name = entry?.file_name().to_bytes().to_owned();
                    if !matches!(&*name, b"." | b"..") {
                        names.push(name);
                    }
                }
                names.sort_unstable_by(|one, other| other.cmp(one));
                levels.push(names);
                return Ok(());
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it has a {other:?}, which no store object has"),
                ));
            }
        }
        self.text(b")");
        if descent.depth() > 0 {
            self.text(b")");
        }
        Ok(())
    }

    fn contents(&mut self, mut file: File, size: u64) -> io::Result<()> {
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
                left -= count as u64;
                if !(self.progress)(count as u64) {
                    return Err(io::Error::other("interrupted"));
                }
            }
            self.buffer = buffer;
            match count {
                Ok(0) => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(io::Error::new(kind, "a file became shorter"));
                }
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
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
