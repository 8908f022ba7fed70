//! Which paths the last `warm` copied or found there: `${state}/overstore/warmed-paths`, beside
//! the rest of the memory, which says by a hash which state of this file belongs to it.
//!
//! Eight bytes that tell the format and its version, then eight bytes a path: the numbers of a
//! [`PathSet`], ascending, the first byte of each the most significant.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;

use sha2::{Digest, Sha256};

use super::atomic_file::replace;
use crate::linux::regular_file;
use crate::linux::safe_path::Symlinks;
use crate::nix::hash::render_sha256;
use crate::nix::path_set::PathSet;

/// Its name.
const FILE: &str = "warmed-paths";

/// The format and its version.
const MAGIC: &[u8; 8] = b"warmed\n1";

/// More than any store has: of a file that says so, no memory is taken.
const MOST_PATHS: u64 = 1 << 26;

/// Bytes read or written at once.
const PIECE: usize = 64 << 10;

/// Writes it to overstore's own directory, at once or not at all: the hash of what was written.
pub(super) fn write(directory: impl AsFd, paths: &PathSet) -> io::Result<String> {
    replace(directory, FILE, |file| {
        let mut out = BufWriter::with_capacity(PIECE, file);
        let mut hash = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes)
        };
        write(MAGIC)?;
        for prefix in paths.prefixes() {
            write(&prefix.to_be_bytes())?;
        }
        out.flush()?;
        drop(out);
        Ok(render_sha256(&hash.finalize().into()))
    })
}

/// Reads it, if it has so many paths and this hash.
pub(super) fn read(directory: impl AsFd, paths: u64, hash: &str) -> io::Result<Option<PathSet>> {
    let mut file = regular_file::open_at(directory, FILE, Symlinks::Refuse)?;
    let size = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC || paths > MOST_PATHS {
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
