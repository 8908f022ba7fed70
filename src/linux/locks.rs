//! Locks of flock(2): taking one, within limits, and who holds it, as `/proc/locks` tells it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::file_identity::FileIdentity;
use super::processes;
use super::root::System;
use super::safe_path::Status;

/// The processes that hold a lock on a file or directory; those of other PID namespaces are left
/// out. `None` if the kernel does not tell.
///
/// The device that the table shows is not always the one that stat(2) does (btrfs). Where it shows
/// nothing of that device, the inode alone has to do. Reading the table can take 30 ms.
pub(crate) fn holders(system: &System, status: &Status) -> Option<Vec<u32>> {
    find_twice(|| system.read_proc("locks").ok(), status.identity)
}

/// The kernel hands the table out in pieces of at most 4 KiB, some 70 locks. Where one goes between two
/// pieces, those after it move up, and the next piece begins behind one that nobody has seen
/// (`locks_start` in its fs/locks.c). So where nothing is found, the table is read once more.
fn find_twice(mut read: impl FnMut() -> Option<Vec<u8>>, file: FileIdentity) -> Option<Vec<u32>> {
    let mut found = || Some(find(&String::from_utf8_lossy(&read()?), file));
    let first = found()?;
    if first.is_empty() {
        return found();
    }
    Some(first)
}

/// One holder, in words: `process 708 (nix-daemon)`, or `another process`.
pub(crate) fn holder_in_words(system: &System, status: &Status) -> String {
    match holders(system, status).unwrap_or_default().first() {
        Some(&pid) => processes::in_words(system, pid),
        None => "another process".to_owned(),
    }
}

/// Reads lines like `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131073 0 EOF`; those that wait have `->`
/// after the number. A process of another namespace shows as 0.
fn find(locks: &str, file: FileIdentity) -> Vec<u32> {
    let (major, minor) = (rustix::fs::major(file.dev), rustix::fs::minor(file.dev));
    let device = format!("{major:02x}:{minor:02x}");
    let held = locks.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else {
            return None;
        };
        let (on, ino) = place.rsplit_once(':')?;
        let (ino, pid): (u64, u32) = (ino.parse().ok()?, pid.parse().ok()?);
        (ino == file.ino).then_some((on == device, pid))
    });
    let held: Vec<(bool, u32)> = held.collect();
    let is_known = held.iter().any(|(on_device, _)| *on_device);
    held.into_iter()
        .filter(|(on_device, pid)| *on_device == is_known && *pid > 0)
        .map(|(_, pid)| pid)
        .collect()
}

/// How long to wait for what another process holds before saying so.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait at all.
pub(crate) const LIMIT: Duration = Duration::from_secs(5 * 60);

/// How long to wait between attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// Tries something until it gives a value, or `limit` is over: then `None`. `waiting` is called once,
/// if it takes longer than a second.
///
/// # Errors
/// Those of an attempt.
pub(crate) fn wait<T, E>(
    limit: Duration,
    waiting: &mut dyn FnMut(),
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let start = Instant::now();
    let (mut pause, longest) = PAUSES;
    let mut told = false;
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        let waited = start.elapsed();
        if waited >= limit {
            return Ok(None);
        }
        if !told && waited > PATIENCE {
            waiting();
            told = true;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// Tries to lock a file; `None` where another process has it locked.
///
/// # Errors
/// Those of flock(2).
pub(crate) fn attempt(file: impl AsFd, operation: FlockOperation) -> Result<Option<()>, Errno> {
    match retry_on_intr(|| flock(&file, operation)) {
        Ok(()) => Ok(Some(())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 708 00:1b:4242 0 EOF\n\
                     2: POSIX  ADVISORY  READ 709 00:1b:4242 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 710 08:01:42 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 711 08:01:42 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 0 08:01:42 0 EOF\n\
                     5: FLOCK  ADVISORY  READ 712 00:2a:42 0 EOF\n";
        let on = |major, minor, ino| FileIdentity {
            dev: rustix::fs::makedev(major, minor),
            ino,
        };
        assert_eq!(find(locks, on(0, 0x1b, 4242)), [708]);
        assert_eq!(find(locks, on(8, 1, 42)), [710]);
        assert_eq!(find(locks, on(0, 0x2a, 42)), [712]);
        // A device that the table does not show: that of a subvolume, perhaps.
        assert_eq!(find(locks, on(0, 0x2b, 4242)), [708]);
        assert_eq!(find(locks, on(0, 0x1b, 1)), [0; 0]);
    }

    #[test]
    fn a_line_that_was_skipped_is_read_the_second_time() {
        let file = FileIdentity {
            dev: rustix::fs::makedev(8, 1),
            ino: 42,
        };
        let (other, line) = (
            "1: FLOCK  ADVISORY  WRITE 1 08:01:41 0 EOF\n",
            "2: FLOCK  ADVISORY  WRITE 708 08:01:42 0 EOF\n",
        );
        let reads = |tables: &[&str]| {
            let mut tables = tables.iter();
            let read = || tables.next().map(|table| table.as_bytes().to_vec());
            (find_twice(read, file), tables.len())
        };
        assert_eq!(reads(&[other, line]), (Some(vec![708]), 0));
        assert_eq!(reads(&[line, other]), (Some(vec![708]), 1));
        // Not for ever.
        assert_eq!(reads(&[other, other, line]), (Some(vec![]), 1));
        assert_eq!(reads(&[]), (None, 0));
    }

    #[test]
    fn waiting_has_an_end() {
        let never = || Ok::<Option<()>, ()>(None);
        assert_eq!(wait(Duration::ZERO, &mut || (), never), Ok(None));
        let mut attempts = 0;
        let third = || {
            attempts += 1;
            Ok::<_, ()>((attempts == 3).then_some(attempts))
        };
        assert_eq!(wait(LIMIT, &mut || (), third), Ok(Some(3)));
    }
}
