//! Other processes and their mount namespaces, by `/proc`. What this process may not look at is left
//! out.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags, openat, readlinkat, statat, statx};
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::root::System;
use crate::escape::show;

/// The numbers of all processes.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn all(system: &System) -> io::Result<Vec<u32>> {
    let names = names(system, ".")?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// One process of each mount namespace but ours.
pub(crate) fn one_of_each_other_mount_namespace(system: &System) -> impl Iterator<Item = u32> + '_ {
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    seen.extend(mount_namespace(system, std::process::id()));
    let processes = all(system).unwrap_or_default();
    processes.into_iter().filter(move |process| {
        mount_namespace(system, *process).is_some_and(|namespace| seen.insert(namespace))
    })
}

/// What tells a process's mount namespace from others.
pub(crate) fn mount_namespace(system: &System, process: u32) -> Option<Vec<u8>> {
    let link = link(system, process, "ns/mnt")?;
    Some(link.into_os_string().into_vec())
}

/// What tells a process's user namespace from others.
pub(crate) fn user_namespace(system: &System, process: u32) -> Option<Vec<u8>> {
    let link = link(system, process, "ns/user")?;
    Some(link.into_os_string().into_vec())
}

/// The user whose process it is; root where it may not be looked at (proc_pid(5)).
pub(crate) fn owner(system: &System, process: u32) -> Option<u32> {
    let name = process.to_string();
    let found = statat(system.proc(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(found.st_uid)
}

/// Whether a process was given a variable with this value when its program was started.
pub(crate) fn was_given(system: &System, process: u32, variable: &str, value: &str) -> bool {
    let assignment = format!("{variable}={value}");
    read(system, process, "environ").is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|given| given == assignment.as_bytes())
    })
}

/// The open file of a process that holds a lock of flock(2) on what has this inode, for this process to
/// hold it too: what a lock belongs to is the open file, whoever has it. `None` if it has no such file.
///
/// # Errors
/// Those of pidfd_getfd(2): ESRCH and EBADF if the process has let go of the file meanwhile.
pub(crate) fn share_lock(
    system: &System,
    process: u32,
    descriptor: impl AsFd,
    inode: u64,
) -> Result<Option<OwnedFd>, Errno> {
    let inode = format!(":{inode}");
    let number = open_files(system, process).into_iter().find(|number| {
        let info = read(system, process, &format!("fdinfo/{number}")).unwrap_or_default();
        String::from_utf8_lossy(&info).lines().any(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            matches!(fields[..], ["lock:", _, "FLOCK", _, "WRITE", _, file, ..] if file.ends_with(&inode))
        })
    });
    let Some(number) = number.and_then(|number| number.parse().ok()) else {
        return Ok(None);
    };
    pidfd_getfd(descriptor, number, PidfdGetfdFlags::empty()).map(Some)
}

/// Whether a process is ending, or has ended. One that is ending has closed its files before it leaves
/// its namespaces (`do_exit` in the kernel's `exit.c`).
pub(crate) fn is_ending(system: &System, process: u32) -> bool {
    // `PF_EXITING` of the kernel's `sched.h`.
    const EXITING: u64 = 4;
    let flags = || {
        let stat = read(system, process, "stat").ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // proc_pid_stat(5): the name, in parentheses, may have any. Flags are the ninth field.
        let (_, after) = stat.rsplit_once(')')?;
        after.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()
    };
    flags().is_none_or(|flags| flags & EXITING != 0)
}

/// Where a link below a process's directory in `/proc` leads, as text.
pub(crate) fn link(system: &System, process: u32, link: &str) -> Option<PathBuf> {
    let target = readlinkat(system.proc(), format!("{process}/{link}"), Vec::new()).ok()?;
    Some(std::ffi::OsString::from_vec(target.into_bytes()).into())
}

/// The number of the mount that a link below a process's directory leads to. Asks no file system
/// that could hang.
pub(crate) fn mount_of_link(system: &System, process: u32, link: &str) -> Option<u64> {
    let path = format!("{process}/{link}");
    statx(
        system.proc(),
        path,
        AtFlags::STATX_DONT_SYNC,
        StatxFlags::MNT_ID,
    )
    .map(|found| found.stx_mnt_id)
    .ok()
}

/// The number of the mount that an open file of a process is on (proc_pid_fdinfo(5)).
pub(crate) fn mount_of_open_file(system: &System, process: u32, number: &str) -> Option<u64> {
    let info = read(system, process, &format!("fdinfo/{number}")).ok()?;
    let text = std::str::from_utf8(&info).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// The numbers of a process's open files.
pub(crate) fn open_files(system: &System, process: u32) -> Vec<String> {
    names(system, &format!("{process}/fdinfo")).unwrap_or_default()
}

/// The content of a file below a process's directory in `/proc`.
///
/// # Errors
/// Those of opening and reading it.
pub(crate) fn read(system: &System, process: u32, file: &str) -> io::Result<Vec<u8>> {
    system.read_proc(&format!("{process}/{file}"))
}

/// What this process was told to do with signals.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OwnSignals {
    ignored: u64,
    blocked: u64,
}

impl OwnSignals {
    /// Whether a signal is ignored.
    pub(crate) fn ignores(self, number: i32) -> bool {
        has(self.ignored, number)
    }

    /// Whether a signal is blocked.
    pub(crate) fn blocks(self, number: i32) -> bool {
        has(self.blocked, number)
    }
}

/// Whether a mask of signals (proc_pid_status(5)) has one of them.
fn has(mask: u64, number: i32) -> bool {
    let bit = u32::try_from(number - 1).ok();
    bit.and_then(|bit| 1_u64.checked_shl(bit))
        .is_some_and(|bit| mask & bit != 0)
}

/// What this process was told to do with signals; nothing, where `/proc` does not tell.
pub(crate) fn own_signals() -> OwnSignals {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    OwnSignals {
        ignored: mask("SigIgn:").unwrap_or_default(),
        blocked: mask("SigBlk:").unwrap_or_default(),
    }
}

/// A process's name, escaped where it cannot be printed.
pub(crate) fn name(system: &System, process: u32) -> Option<String> {
    let name = read(system, process, "comm").ok()?;
    Some(show(name.trim_ascii_end()).into_owned())
}

/// A process in words: `process 708 (nix-daemon)`.
pub(crate) fn in_words(system: &System, process: u32) -> String {
    match name(system, process) {
        Some(name) => format!("process {process} ({name})"),
        None => format!("process {process}"),
    }
}

/// The names in a directory below `/proc`.
fn names(system: &System, directory: &str) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(system.proc(), directory, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if let Ok(name) = String::from_utf8(name)
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_among_all() {
        let run = tempfile::tempdir().unwrap();
        let system = System::with_run(run.path()).unwrap();
        assert!(all(&system).unwrap().contains(&std::process::id()));
        let mut others = one_of_each_other_mount_namespace(&system);
        assert!(!others.any(|process| process == std::process::id()));
    }
}
