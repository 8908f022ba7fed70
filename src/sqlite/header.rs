//! The header of an SQLite database. Source: <https://sqlite.org/fileformat2.html#the_database_header>.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the header.
pub(crate) const SIZE: usize = 100;

/// Where it says which version of the format is needed for writing, and which for reading.
pub(crate) const FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;

/// The version of a database with a rollback journal.
pub(crate) const ROLLBACK_JOURNAL: u8 = 1;

/// The version of a database with a write-ahead log.
pub(crate) const WRITE_AHEAD_LOG: u8 = 2;

/// Whether a database has a write-ahead log.
///
/// # Errors
/// Those of reading; `UnexpectedEof` where the file is shorter than a header.
pub(crate) fn has_write_ahead_log(database: &File) -> io::Result<bool> {
    let mut version = [0; 1];
    database.read_exact_at(&mut version, FORMAT_VERSIONS.start as u64)?;
    Ok(version == [WRITE_AHEAD_LOG])
}
