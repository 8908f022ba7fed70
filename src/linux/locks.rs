//! Who holds a lock of flock(2), as `/proc/locks` tells it.

use super::processes;
use super::root::System;
use super::safe_path::Status;

/// The processes that hold a lock on a file or directory; those of other PID namespaces are left
/// out. `None` if the kernel does not tell.
///
/// Found by the inode alone: the device that the table shows is not always the one that stat(2)
/// does (btrfs). Reading the table can take 30 ms.
pub(crate) fn holders(system: &System, status: &Status) -> Option<Vec<u32>> {
    let locks = system.read_proc("locks").ok()?;
    Some(find(&String::from_utf8_lossy(&locks), status.identity.ino))
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
fn find(locks: &str, ino: u64) -> Vec<u32> {
    locks
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else {
                return None;
            };
            let found: u64 = file.rsplit(':').next()?.parse().ok()?;
            let pid = pid.parse().ok()?;
            (found == ino && pid > 0).then_some(pid)
        })
        .collect()
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
                     4: FLOCK  ADVISORY  READ 0 08:01:42 0 EOF\n";
        assert_eq!(find(locks, 4242), [708]);
        assert_eq!(find(locks, 42), [710]);
        assert_eq!(find(locks, 1), [0; 0]);
    }
}
