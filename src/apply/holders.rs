//! Who keeps a mount busy.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::escape::{show, show_path};
use crate::linux::processes;
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
    let mut namespaces = BTreeSet::new();
    namespaces.extend(processes::mount_namespace(system, std::process::id()));
    let mut holders = Vec::new();
    let mut elsewhere = Vec::new();
    for pid in processes::all(system)? {
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
                name: processes::name(system, pid).unwrap_or_default(),
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
    /// Where it is, where its root directory is and what it runs.
    fn places(&self) -> Vec<String> {
        [
            ("cwd", "working directory"),
            ("root", "root directory"),
            ("exe", "program"),
        ]
        .into_iter()
        .filter(|(link, _)| {
            processes::mount_of_link(self.system, self.pid, link) == Some(self.mount.id)
        })
        .map(|(_, how)| how.to_owned())
        .collect()
    }

    fn open_files(&self) -> Vec<String> {
        let Process { system, pid, mount } = *self;
        processes::open_files(system, pid)
            .into_iter()
            .filter(|number| processes::mount_of_open_file(system, pid, number) == Some(mount.id))
            .map(
                |number| match processes::link(system, pid, &format!("fd/{number}")) {
                    Some(path) => format!("open file {number}: {}", show_path(&path)),
                    None => format!("open file {number}"),
                },
            )
            .collect()
    }

    /// What it has mapped into memory: the text of `maps` ends with the path.
    fn mapped_files(&self) -> Option<String> {
        let maps = processes::read(self.system, self.pid, "maps").ok()?;
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
        let namespace = processes::mount_namespace(self.system, self.pid)?;
        if !seen.insert(namespace) {
            return None;
        }
        let mounts =
            MountInfo::parse_all(&processes::read(self.system, self.pid, "mountinfo").ok()?)
                .ok()?;
        let mut mounts = mounts.iter();
        let other = mounts.find(|other| other.is_of_same_file_system(self.mount))?;
        let place = show_path(&other.mount_point);
        Some(format!("mounted at {place} in its mount namespace"))
    }
}
