//! Many paths that are remembered, in a file beside the rest of the memory, `${state}/overstore/NAME`.
//! The memory says by a hash which state of the file belongs to it.
//!
//! Eight bytes that tell the format and its version, then eight bytes a path: the numbers of a
//! [`PathSet`], ascending, the first byte of each the most significant.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;

use sha2::{Digest, Sha256};

use super::atomic_file::{replace, replace_durably};
use crate::linux::regular_file;
use crate::linux::safe_path::Symlinks;
use crate::nix::hash::render_sha256;
use crate::nix::path_set::PathSet;

/// One of these files.
#[derive(Debug)]
pub(super) struct PathFile {
    name: &'static str,
    /// The format and its version.
    magic: &'static [u8; 8],
}

/// What the last `warm` copied or found there.
pub(super) const WARMED: PathFile = PathFile {
    name: "warmed-paths",
    magic: b"warmed\n1",
};

/// What a collection has given to Nix.
pub(super) const DELETING: PathFile = PathFile {
    name: "deleted-paths",
    magic: b"delete\n1",
};

/// More than any store has: of a file that says so, no memory is taken.
const MOST_PATHS: u64 = 1 << 26;

/// Bytes read or written at once.
const PIECE: usize = 64 << 10;

impl PathFile {
    /// Writes it to overstore's own directory, at once or not at all: the hash of what was written.
    pub(super) fn write(&self, directory: impl AsFd, paths: &PathSet) -> io::Result<String> {
        replace(directory, self.name, |file| self.write_to(file, paths))
    }

    /// The same, so that it survives a power cut.
    pub(super) fn write_durably(
        &self,
        directory: impl AsFd,
        paths: &PathSet,
    ) -> io::Result<String> {
        replace_durably(directory, self.name, |file| self.write_to(file, paths))
    }

    fn write_to(&self, file: &mut File, paths: &PathSet) -> io::Result<String> {
        let mut out = BufWriter::with_capacity(PIECE, file);
        let mut hash = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes)
        };
        write(self.magic)?;
        for prefix in paths.prefixes() {
            write(&prefix.to_be_bytes())?;
        }
        out.flush()?;
        drop(out);
        Ok(render_sha256(&hash.finalize().into()))
    }

    /// Reads it, if it has so many paths and this hash.
    pub(super) fn read(
        &self,
        directory: impl AsFd,
        paths: u64,
        hash: &str,
    ) -> io::Result<Option<PathSet>> {
        let mut file = regular_file::open_at(directory, self.name, Symlinks::Refuse)?;
        let size = file.metadata()?.len();
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if magic != *self.magic || paths > MOST_PATHS {
            return Ok(None);
        }
        let rest = paths * PathSet::BYTES_A_PATH as u64;
        if size != magic.len() as u64 + rest {
            return Ok(None);
        }
        let mut found = Sha256::new();
        found.update(magic);
        let mut prefixes = Vec::with_capacity(usize::try_from(paths).unwrap_or(0));
        let mut file = BufReader::with_capacity(PIECE, file.take(rest));
        let mut prefix = [0; PathSet::BYTES_A_PATH];
        for _ in 0..paths {
            file.read_exact(&mut prefix)?;
            found.update(prefix);
            prefixes.push(u64::from_be_bytes(prefix));
        }
        let known = render_sha256(&found.finalize().into()) == hash;
        Ok(known.then(|| PathSet::new(prefixes)))
    }
}
