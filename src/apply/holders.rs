//! Who keeps a mount busy.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use schemars::JsonSchema;
use serde::Serialize;

use crate::escape::{show, show_path};
use crate::linux::root::System;
use crate::overlayfs::mountinfo::MountInfo;

/// A process that uses a mount, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Holder {
    /// The process's number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// How it uses the mount: `working directory`, `open file 3`, ...
    pub how: Vec<String>,
}

/// Finds the processes that use a mount of this mount namespace; if there is none, those of other
/// mount namespaces that have the same file system mounted. What may not be looked at is left out.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn find(system: &System, mount: &MountInfo) -> io::Result<Vec<Holder>> {
    let own = readlinkat(system.proc(), "self/ns/mnt", Vec::new())?;
    let mut namespaces = BTreeSet::from([own.into_bytes()]);
    let mut holders = Vec::new();
    let mut elsewhere = Vec::new();
    for name in names(system, ".")? {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let process = Process { system, pid, mount };
        let mut how = process.places();
        how.extend(process.open_files());
        how.extend(process.mapped_files());
        let uses_it = !how.is_empty();
        how.extend(process.other_namespace(&mut namespaces));
        if !how.is_empty() {
            let holder = Holder {
                pid,
                name: process.name(),
                how,
            };
            match uses_it {
                true => holders.push(holder),
                false => elsewhere.push(holder),
            }
        }
    }
    // Services with namespaces of their own have copies of all mounts, and keep none of ours busy.
    Ok(match holders.is_empty() {
        true => elsewhere,
        false => holders,
    })
}

/// The mounts on top of directories of a mount: as long as they are there, it is busy.
pub(super) fn mounts_below(mounts: &[MountInfo], mount: &MountInfo) -> Vec<PathBuf> {
    mounts
        .iter()
        .filter(|other| other.parent == mount.id)
        .map(|other| other.mount_point.clone())
        .collect()
}

/// One process, and the mount it may use.
struct Process<'a> {
    system: &'a System,
    pid: u32,
    mount: &'a MountInfo,
}

impl Process<'_> {
    fn name(&self) -> String {
        let name = self.read("comm").unwrap_or_default();
        show(name.trim_ascii_end()).into_owned()
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.system.read_proc(&format!("{}/{file}", self.pid))
    }

    /// Where it is, where its root directory is and what it runs.
    fn places(&self) -> Vec<String> {
        [
            ("cwd", "working directory"),
            ("root", "root directory"),
            ("exe", "program"),
        ]
        .into_iter()
        .filter(|(link, _)| self.is_on_mount(link))
        .map(|(_, how)| how.to_owned())
        .collect()
    }

    /// Whether one of its links in `/proc` leads to the mount. Asks no file system that could hang.
    fn is_on_mount(&self, link: &str) -> bool {
        let path = format!("{}/{link}", self.pid);
        statx(
            self.system.proc(),
            path,
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::MNT_ID,
        )
        .is_ok_and(|found| found.stx_mnt_id == self.mount.id)
    }

    fn open_files(&self) -> Vec<String> {
        let numbers = names(self.system, &format!("{}/fdinfo", self.pid)).unwrap_or_default();
        numbers
            .into_iter()
            .filter(|number| {
                self.read(&format!("fdinfo/{number}"))
                    .is_ok_and(|info| mount_id(&info) == Some(self.mount.id))
            })
            .map(|number| match self.link(&format!("fd/{number}")) {
                Some(path) => format!("open file {number}: {}", show_path(&path)),
                None => format!("open file {number}"),
            })
            .collect()
    }

    fn link(&self, link: &str) -> Option<PathBuf> {
        let path = format!("{}/{link}", self.pid);
        let target = readlinkat(self.system.proc(), path, Vec::new()).ok()?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(
            target.to_bytes(),
        )))
    }

    /// What it has mapped into memory: the text of `maps` ends with the path.
    fn mapped_files(&self) -> Option<String> {
        let maps = self.read("maps").ok()?;
        let mut below = self.mount.mount_point.as_os_str().as_bytes().to_vec();
        below.push(b'/');
        let files: BTreeSet<&[u8]> = maps
            .split(|&byte| byte == b'\n')
            .filter_map(|line| {
                let start = line.iter().position(|&byte| byte == b'/')?;
                Some(&line[start..]).filter(|path| path.starts_with(&below))
            })
            .collect();
        let first = files.first()?;
        Some(match files.len() {
            1 => format!("mapped file {}", show(first)),
            count => format!("{count} mapped files, such as {}", show(first)),
        })
    }

    /// Whether it is the first process seen of another mount namespace that has the file system
    /// mounted too.
    fn other_namespace(&self, seen: &mut BTreeSet<Vec<u8>>) -> Option<String> {
        let link = format!("{}/ns/mnt", self.pid);
        let namespace = readlinkat(self.system.proc(), link, Vec::new()).ok()?;
        if !seen.insert(namespace.into_bytes()) {
            return None;
        }
        let mounts = MountInfo::parse_all(&self.read("mountinfo").ok()?).ok()?;
        let same =
            |other: &&MountInfo| (other.major, other.minor) == (self.mount.major, self.mount.minor);
        let other = mounts.iter().find(same)?;
        let place = show_path(&other.mount_point);
        Some(format!("mounted at {place} in its mount namespace"))
    }
}

/// The mount's number in the text of `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)).
fn mount_id(info: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(info).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// The names in a directory below `/proc`.
fn names(system: &System, directory: &str) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(system.proc(), directory, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if let Ok(name) = String::from_utf8(name)
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    Ok(names)
}
