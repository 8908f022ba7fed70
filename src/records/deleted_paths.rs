//! What a collection has given to Nix to be deleted, and did not see deleted:
//! `${state}/overstore/deleted-paths`, the objects' names, one a line. It is there only while that is
//! something.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::atomic_file::replace_durably;
use crate::config::Store;
use crate::linux::regular_file;
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_path::StorePath;

/// Its name.
const FILE: &str = "deleted-paths";

/// More bytes than any has: what is longer is none.
const MAXIMUM_SIZE: u64 = 64 << 20;

/// Writes it to `directory`, overstore's own in the state directory, so that it survives a power cut;
/// removes it where nothing is to be remembered.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(directory: impl AsFd, paths: &BTreeSet<StorePath>) -> io::Result<()> {
    if paths.is_empty() {
        return match unlinkat(directory, FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    replace_durably(directory, FILE, |file| {
        let mut out = BufWriter::new(file);
        for path in paths {
            writeln!(out, "{}", path.as_str())?;
        }
        out.flush()
    })
}

/// What a store has there: nothing, where it cannot be read.
pub(crate) fn read(store: &Store) -> BTreeSet<StorePath> {
    let read = || {
        let directory = safe_path::directory(&store.memory(), Symlinks::Refuse).ok()?;
        regular_file::read_at(&directory, FILE, Symlinks::Refuse, MAXIMUM_SIZE).ok()
    };
    let text = read().unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| StorePath::parse(line).ok())
        .collect()
}
