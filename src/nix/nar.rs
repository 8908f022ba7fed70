//! Hashing store objects as Nix does: SHA-256 of the NAR, without making one.
//!
//! The format is that of the Nix manual, "Nix Archive (NAR) format".

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

/// Deeper objects are refused rather than run out of descriptors.
const DEEPEST: usize = 500;
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
    hasher.node(directory, name.as_bytes(), 0)?;
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

    fn node(&mut self, directory: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.texts(&[b"(", b"type"]);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.text(b"regular");
                if stat.st_mode & 0o100 != 0 {
                    self.texts(&[b"executable", b""]);
                }
                self.text(b"contents");
                let file = rustix::fs::openat(directory, name, open, Mode::empty())?;
                self.contents(File::from(file), stat.st_size as u64)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                self.texts(&[b"symlink", b"target", target.to_bytes()]);
            }
            FileType::Directory => {
                self.text(b"directory");
                let opened =
                    rustix::fs::openat(directory, name, open | OFlags::DIRECTORY, Mode::empty())?;
                let mut names = Vec::new();
                for entry in Dir::read_from(&opened)? {
                    let name = entry?.file_name().to_bytes().to_owned();
                    if !matches!(&*name, b"." | b"..") {
                        names.push(name);
                    }
                }
                names.sort_unstable();
                for name in names {
                    self.texts(&[b"entry", b"(", b"name", &name, b"node"]);
                    self.node(opened.as_fd(), &name, depth + 1)?;
                    self.text(b")");
                }
            }
            other => {
                return Err(io::Error::other(format!(
                    "it has a {other:?}, which no store object has"
                )));
            }
        }
        self.text(b")");
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
                Ok(0) => return Err(io::Error::other("a file became shorter")),
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
}
