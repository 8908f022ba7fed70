//! What a write-ahead log has that its database has not, found out without opening the database:
//! opening it, even read-only, takes locks.
//!
//! The formats are SQLite's own: <https://sqlite.org/fileformat2.html#walformat> for the log,
//! <https://sqlite.org/walformat.html> for its index (`-shm`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::LogFacts;

const HEADER_SIZE: usize = 32;
const FRAME_HEADER_SIZE: usize = 24;
/// The two magic numbers: checksums of little-endian and of big-endian words.
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
/// The only version of the format there is, in the log and in its index.
const VERSION: u32 = 3_007_000;

/// Judges a log by its index, if there is one, else by its content: pages of committed transactions
/// that differ from the database's. Reads the whole log only in the second case, and only if
/// `thorough`; otherwise the answer is then `None`.
///
/// # Errors
/// Those of reading.
pub(super) fn judge(
    database: &File,
    log: Option<&File>,
    index: Option<&File>,
    thorough: bool,
) -> io::Result<Option<LogFacts>> {
    let Some(log) = log else {
        return Ok(Some(LogFacts::Empty));
    };
    let mut header = [0; HEADER_SIZE];
    let Some(header) = (match read_up_to(log, &mut header, 0)? {
        HEADER_SIZE => Header::parse(&header),
        _ => None,
    }) else {
        // SQLite ignores a log without a valid header.
        return Ok(Some(LogFacts::Empty));
    };
    if let Some(index) = index
        && let Some(pending) = index_pending(index, &header)?
    {
        return Ok(Some(pages(pending)));
    }
    if !thorough {
        return Ok(None);
    }
    differing(database, log, &header).map(|pending| Some(pages(pending)))
}

fn pages(pending: u64) -> LogFacts {
    match pending {
        0 => LogFacts::Empty,
        pending => LogFacts::Pending(pending),
    }
}

/// The header of a log.
struct Header {
    page_size: usize,
    salts: [u8; 8],
    checksum: Checksum,
}

impl Header {
    /// Reads a header, if it is valid.
    fn parse(bytes: &[u8; HEADER_SIZE]) -> Option<Header> {
        let mut checksum = match word(bytes, 0) {
            MAGIC_LITTLE => Checksum::new(false),
            MAGIC_BIG => Checksum::new(true),
            _ => return None,
        };
        checksum.add(&bytes[..24]);
        let page_size = word(bytes, 8) as usize;
        let valid = word(bytes, 4) == VERSION
            && page_size.is_power_of_two()
            && (512..=65536).contains(&page_size)
            && checksum.is(word(bytes, 24), word(bytes, 28));
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        valid.then_some(Header {
            page_size,
            salts,
            checksum,
        })
    }
}

/// How many frames the index says are not in the database yet; `None` if it is not the index of
/// this log.
fn index_pending(index: &File, header: &Header) -> io::Result<Option<u64>> {
    // Two copies of the header, then the state of checkpoints, whose first word is the number of
    // frames that are in the database.
    let mut bytes = [0; 100];
    if read_up_to(index, &mut bytes, 0)? != bytes.len() {
        return Ok(None);
    }
    let native =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut checksum = Checksum::new(cfg!(target_endian = "big"));
    checksum.add(&bytes[..40]);
    let valid = native(0) == VERSION
        && bytes[12] == 1
        && bytes[..48] == bytes[48..96]
        && checksum.is(native(40), native(44))
        && bytes[32..40] == header.salts;
    let (frames, copied) = (native(16), native(96));
    Ok((valid && copied <= frames).then(|| u64::from(frames - copied)))
}

/// How many pages of committed transactions in the log differ from the database's.
fn differing(database: &File, log: &File, header: &Header) -> io::Result<u64> {
    let mut checksum = header.checksum;
    let mut log = BufReader::with_capacity(1 << 18, log);
    log.read_exact(&mut [0; HEADER_SIZE])?;
    let mut frame = vec![0; FRAME_HEADER_SIZE + header.page_size];
    let mut page = vec![0; header.page_size];
    // Page number to whether it differs; those of a transaction that is not committed yet apart.
    let mut committed = BTreeMap::new();
    let mut uncommitted = BTreeMap::new();
    while read_frame(&mut log, &mut frame)? {
        checksum.add(&frame[..8]);
        checksum.add(&frame[FRAME_HEADER_SIZE..]);
        let valid = frame[8..16] == header.salts && checksum.is(word(&frame, 16), word(&frame, 20));
        let number = word(&frame, 0);
        if !valid || number == 0 {
            break;
        }
        let at = u64::from(number - 1) * header.page_size as u64;
        let read = read_up_to(database, &mut page, at)?;
        let differs = read != page.len() || page != frame[FRAME_HEADER_SIZE..];
        uncommitted.insert(number, differs);
        let database_pages = word(&frame, 4);
        if database_pages != 0 {
            committed.append(&mut uncommitted);
            // A transaction may have made the database shorter.
            committed.retain(|number, _| *number <= database_pages);
        }
    }
    Ok(committed.values().filter(|differs| **differs).count() as u64)
}

/// Reads one frame; `false` at the end of the log, or within a frame that was never finished.
fn read_frame(log: &mut impl Read, frame: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(frame) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's checksum, over pairs of words of either byte order.
#[derive(Clone, Copy)]
struct Checksum {
    big_endian: bool,
    sums: (u32, u32),
}

impl Checksum {
    fn new(big_endian: bool) -> Checksum {
        Checksum {
            big_endian,
            sums: (0, 0),
        }
    }

    /// Adds bytes, whose number is a multiple of eight.
    fn add(&mut self, bytes: &[u8]) {
        let (mut first, mut second) = self.sums;
        for pair in bytes.chunks_exact(8) {
            let low = [pair[0], pair[1], pair[2], pair[3]];
            let high = [pair[4], pair[5], pair[6], pair[7]];
            let (low, high) = match self.big_endian {
                true => (u32::from_be_bytes(low), u32::from_be_bytes(high)),
                false => (u32::from_le_bytes(low), u32::from_le_bytes(high)),
            };
            first = first.wrapping_add(low).wrapping_add(second);
            second = second.wrapping_add(high).wrapping_add(first);
        }
        self.sums = (first, second);
    }

    fn is(&self, first: u32, second: u32) -> bool {
        self.sums == (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::fs;
    use std::path::Path;

    fn publisher(directory: &Path) -> Connection {
        let connection = Connection::open(directory.join("db.sqlite")).unwrap();
        connection
            .execute_batch(
                "pragma page_size = 4096; pragma journal_mode = wal;
                 pragma wal_autocheckpoint = 0; create table t (x);",
            )
            .unwrap();
        connection
    }

    fn add_rows(connection: &Connection) {
        connection
            .execute_batch(
                "insert into t with recursive n(x) as (select 1 union all select x + 1 from n
                 where x < 1000) select randomblob(100) from n;",
            )
            .unwrap();
    }

    fn checkpoint(connection: &Connection, mode: &str) {
        let sql = format!("pragma wal_checkpoint({mode})");
        connection.query_row(&sql, [], |_| Ok(())).unwrap();
    }

    /// The judgement by the index, and the one by content; both have to know where there is one.
    fn judgements(directory: &Path) -> (LogFacts, LogFacts) {
        let open = |suffix: &str| File::open(directory.join(format!("db.sqlite{suffix}"))).ok();
        let (database, log, index) = (open("").unwrap(), open("-wal"), open("-shm"));
        let by_content = judge(&database, log.as_ref(), None, true).unwrap().unwrap();
        let by_index = judge(&database, log.as_ref(), index.as_ref(), false).unwrap();
        (by_index.unwrap(), by_content)
    }

    #[test]
    fn rows_that_only_the_log_has_are_pending() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        let (by_index, by_content) = judgements(directory.path());
        assert!(
            matches!(by_index, LogFacts::Pending(n) if n > 20),
            "{by_index:?}"
        );
        assert!(
            matches!(by_content, LogFacts::Pending(n) if n > 20),
            "{by_content:?}"
        );
    }

    #[test]
    fn a_checkpoint_leaves_nothing_pending_although_the_log_keeps_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        for mode in ["passive", "restart", "truncate"] {
            checkpoint(&connection, mode);
            let size = fs::metadata(directory.path().join("db.sqlite-wal"))
                .unwrap()
                .len();
            assert_eq!(size == 0, mode == "truncate");
            let empty = (LogFacts::Empty, LogFacts::Empty);
            assert_eq!(judgements(directory.path()), empty, "{mode}");
        }
    }

    #[test]
    fn rows_after_a_checkpoint_are_pending_again() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        checkpoint(&connection, "restart");
        connection
            .execute_batch("insert into t values (1)")
            .unwrap();
        let (by_index, by_content) = judgements(directory.path());
        assert!(matches!(by_index, LogFacts::Pending(1..=4)), "{by_index:?}");
        assert!(
            matches!(by_content, LogFacts::Pending(1..=4)),
            "{by_content:?}"
        );
    }

    #[test]
    fn a_transaction_without_its_commit_is_not_pending() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        checkpoint(&connection, "truncate");
        connection
            .execute_batch("pragma cache_size = 5; begin; insert into t values (zeroblob(90000));")
            .unwrap();
        let size = fs::metadata(directory.path().join("db.sqlite-wal"))
            .unwrap()
            .len();
        assert!(size > 50_000, "nothing was spilled: {size}");
        assert_eq!(judgements(directory.path()).1, LogFacts::Empty);
    }

    #[test]
    fn without_an_index_the_quick_judgement_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        let open = |suffix: &str| File::open(directory.path().join(format!("db.sqlite{suffix}")));
        let (database, log) = (open("").unwrap(), open("-wal").unwrap());
        assert_eq!(judge(&database, Some(&log), None, false).unwrap(), None);
    }

    #[test]
    fn rubbish_is_no_log() {
        let directory = tempfile::tempdir().unwrap();
        drop(publisher(directory.path()));
        for rubbish in [&b""[..], b"short", &[7; 5000]] {
            fs::write(directory.path().join("db.sqlite-wal"), rubbish).unwrap();
            assert_eq!(judgements(directory.path()).1, LogFacts::Empty);
        }
    }
}
