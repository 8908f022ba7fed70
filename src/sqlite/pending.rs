//! What a write-ahead log has that its database has not, found out without opening the database:
//! opening it, even read-only, takes locks.
//!
//! The formats are SQLite's own: <https://sqlite.org/fileformat2.html#walformat> for the log,
//! <https://sqlite.org/walformat.html> for its index (`-shm`).

use std::fs::File;
use std::io;

use crate::sqlite::wal::{HEADER, Header, Log, VERSION, checksum, read_full};

/// How many pages the log has that its database has not: by its index, if there is one, else by its
/// content, as pages of committed transactions that differ from the database's. Reads the whole log only in the second case, and only if
/// `thorough`; otherwise the answer is then `None`.
///
/// # Errors
/// Those of reading.
pub(crate) fn pages(
    database: &File,
    log: Option<&File>,
    index: Option<&File>,
    thorough: bool,
) -> io::Result<Option<u64>> {
    let Some(log) = log else {
        return Ok(Some(0));
    };
    let mut bytes = [0; HEADER];
    let Some(header) = (match read_full(log, &mut bytes, 0)? {
        HEADER => Header::parse(&bytes),
        _ => None,
    }) else {
        // SQLite ignores a log without a valid header.
        return Ok(Some(0));
    };
    if let Some(index) = index
        && let Some(pending) = index_pending(index, &header)?
    {
        return Ok(Some(pending));
    }
    if !thorough {
        return Ok(None);
    }
    differing(database, log, &bytes).map(Some)
}

/// How many frames the index says are not in the database yet; `None` if it is not the index of
/// this log.
fn index_pending(index: &File, header: &Header) -> io::Result<Option<u64>> {
    // Two copies of the header, then the state of checkpoints, whose first word is the number of
    // frames that are in the database.
    let mut bytes = [0; 100];
    if read_full(index, &mut bytes, 0)? != bytes.len() {
        return Ok(None);
    }
    let native =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let sum = checksum(cfg!(target_endian = "big"), [0, 0], &bytes[..40]);
    let valid = native(0) == VERSION
        && bytes[12] == 1
        && bytes[..48] == bytes[48..96]
        && sum == [native(40), native(44)]
        && bytes[32..40] == header.salts;
    let (frames, copied) = (native(16), native(96));
    Ok((valid && copied <= frames).then(|| u64::from(frames - copied)))
}

/// How many pages of committed transactions in the log differ from the database's.
fn differing(database: &File, file: &File, header: &[u8; HEADER]) -> io::Result<u64> {
    let log = Log::read(file, header)?;
    let size = log.page_size() as usize;
    let (mut newer, mut older) = (vec![0; size], vec![0; size]);
    let mut differing = 0;
    for (page, offset) in log.committed() {
        let in_log = read_full(file, &mut newer, offset)?;
        let in_database = read_full(database, &mut older, u64::from(page - 1) * size as u64)?;
        differing += u64::from(in_log != in_database || newer != older);
    }
    Ok(differing)
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
    fn judgements(directory: &Path) -> (u64, u64) {
        let open = |suffix: &str| File::open(directory.join(format!("db.sqlite{suffix}"))).ok();
        let (database, log, index) = (open("").unwrap(), open("-wal"), open("-shm"));
        let by_content = pages(&database, log.as_ref(), None, true).unwrap().unwrap();
        let by_index = pages(&database, log.as_ref(), index.as_ref(), false).unwrap();
        (by_index.unwrap(), by_content)
    }

    #[test]
    fn rows_that_only_the_log_has_are_pending() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        let (by_index, by_content) = judgements(directory.path());
        assert!(matches!(by_index, n if n > 20), "{by_index:?}");
        assert!(matches!(by_content, n if n > 20), "{by_content:?}");
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
            let empty = (0, 0);
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
        assert!(matches!(by_index, 1..=4), "{by_index:?}");
        assert!(matches!(by_content, 1..=4), "{by_content:?}");
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
        assert_eq!(judgements(directory.path()).1, 0);
    }

    #[test]
    fn without_an_index_the_quick_judgement_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let connection = publisher(directory.path());
        add_rows(&connection);
        let open = |suffix: &str| File::open(directory.path().join(format!("db.sqlite{suffix}")));
        let (database, log) = (open("").unwrap(), open("-wal").unwrap());
        assert_eq!(pages(&database, Some(&log), None, false).unwrap(), None);
    }

    #[test]
    fn rubbish_is_no_log() {
        let directory = tempfile::tempdir().unwrap();
        drop(publisher(directory.path()));
        for rubbish in [&b""[..], b"short", &[7; 5000]] {
            fs::write(directory.path().join("db.sqlite-wal"), rubbish).unwrap();
            assert_eq!(judgements(directory.path()).1, 0);
        }
    }
}
