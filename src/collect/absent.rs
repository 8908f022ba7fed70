//! Roots that cannot be seen now: Nix takes them for removed, and collects what they keep.
//!
//! `rm result` removes a root. A home directory that is not mounted removes none, and looks the
//! same to Nix.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::CollectError;
use crate::escape::show_path;
use crate::linux::root::System;
use crate::overlayfs::mountinfo::MountInfo;

/// Where mount units are, beside `fstab`.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/lib/systemd/system",
];

/// The largest file that is read for its mount points, in bytes.
const LARGEST: u64 = 1 << 20;

/// A link to a root that cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absent {
    /// The link, in `gcroots` or `profiles`.
    pub link: PathBuf,
    /// Where it leads.
    pub target: PathBuf,
    /// Why that may be there all the same.
    pub why: WhyAbsent,
}

/// Why something that is not there may only be out of sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WhyAbsent {
    /// A file system that should be mounted is not.
    NotMounted(PathBuf),
    /// The nearest directory that exists is empty, as a mount point without its mount is.
    Empty(PathBuf),
    /// It could not be looked at.
    Unreadable(String),
}

impl WhyAbsent {
    /// The reason in words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::NotMounted(point) => format!("{} is not mounted", show_path(point)),
            Self::Empty(directory) => format!(
                "{} is empty, as a directory is that nothing is mounted on",
                show_path(directory)
            ),
            Self::Unreadable(error) => error.clone(),
        }
    }
}

/// Where file systems should be mounted, and where they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    described: BTreeSet<PathBuf>,
    mounted: BTreeSet<PathBuf>,
}

impl Places {
    /// Reads `fstab`, mount units, and the mount table.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub(crate) fn read(system: &System) -> Result<Self, CollectError> {
        let table = system
            .read_proc("self/mountinfo")
            .and_then(|table| MountInfo::parse_all(&table).map_err(io::Error::other));
        let table = table.map_err(|source| CollectError::Roots {
            path: "/proc/self/mountinfo".into(),
            source,
        })?;
        let mut described: BTreeSet<PathBuf> = read("/etc/fstab".as_ref())
            .map(|text| fstab(&text))
            .unwrap_or_default();
        for directory in UNITS {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            for entry in entries {
                let path = entry.path();
                if path.extension() == Some(OsStr::new("mount")) {
                    described.extend(read(&path).and_then(|text| unit(&text)));
                }
            }
        }
        Ok(Self {
            described,
            mounted: table.into_iter().map(|mount| mount.mount_point).collect(),
        })
    }

    /// Why something that cannot be looked at may be there all the same; `None` when it is gone.
    pub(crate) fn why_absent(&self, target: &Path, error: &io::Error) -> Option<WhyAbsent> {
        if !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ) {
            return Some(WhyAbsent::Unreadable(error.to_string()));
        }
        let unmounted = target
            .ancestors()
            .find(|above| self.described.contains(*above) && !self.mounted.contains(*above));
        if let Some(point) = unmounted {
            return Some(WhyAbsent::NotMounted(point.to_owned()));
        }
        let nearest = target.ancestors().skip(1).find(|above| above.is_dir())?;
        let is_empty = std::fs::read_dir(nearest).is_ok_and(|mut names| names.next().is_none());
        is_empty.then(|| WhyAbsent::Empty(nearest.to_owned()))
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The mount points of an fstab(5).
fn fstab(text: &[u8]) -> BTreeSet<PathBuf> {
    let lines = text.split(|&byte| byte == b'\n');
    let points = lines.filter_map(|line| {
        let mut fields = line
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let source = fields.next()?;
        let point = fields.next()?;
        let kind = fields.next()?;
        (source[0] != b'#' && kind != b"swap" && point.starts_with(b"/"))
            .then(|| normal(&unescape(point)))
    });
    points.filter(|point| point != Path::new("/")).collect()
}

/// The mount point of a mount unit: systemd.mount(5).
fn unit(text: &[u8]) -> Option<PathBuf> {
    let lines = text.split(|&byte| byte == b'\n');
    let mut points = lines.filter_map(|line| line.trim_ascii().strip_prefix(b"Where="));
    let point = points.next_back()?.trim_ascii();
    (point.starts_with(b"/") && point != b"/" && !point.contains(&b'%')).then(|| normal(point))
}

/// Without a slash at the end.
fn normal(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path)).components().collect()
}

/// fstab(5) has spaces and the like in octal.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| {
            byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        match octal.map(|digits| {
            digits
                .iter()
                .fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'))
        }) {
            Some(code @ 0..=255) => {
                bytes.extend(u8::try_from(code));
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let table = b"# comment / x\n/dev/sda1 / ext4 defaults 0 1\n\
                      server:/home  /home/  nfs  noauto 0 0\nUUID=1 /with\\040space xfs\n\
                      /dev/sda2 none swap sw\nbroken\n";
        let points = fstab(table);
        let expected = ["/home", "/with space"].map(PathBuf::from);
        assert_eq!(points, BTreeSet::from(expected));
        assert_eq!(
            unit(b"[Mount]\nWhat=/dev/sdb\nWhere=/srv/\n"),
            Some("/srv".into())
        );
        assert_eq!(unit(b"[Mount]\nWhere=/home/%i\n"), None);
        assert_eq!(unit(b"[Unit]\n"), None);
    }

    #[test]
    fn what_is_gone_is_told_from_what_is_out_of_sight() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("home/project")).unwrap();
        std::fs::create_dir_all(at("empty")).unwrap();
        std::fs::write(at("home/project/file"), "").unwrap();
        let places = |described: &[&str], mounted: &[&str]| Places {
            described: described.iter().map(|name| at(name)).collect(),
            mounted: mounted.iter().map(|name| at(name)).collect(),
        };
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let none = places(&[], &[]);
        assert_eq!(none.why_absent(&at("home/project/result"), &gone), None);
        assert_eq!(
            none.why_absent(&at("empty/project/result"), &gone),
            Some(WhyAbsent::Empty(at("empty")))
        );
        let home = places(&["home"], &[]);
        assert_eq!(
            home.why_absent(&at("home/project/result"), &gone),
            Some(WhyAbsent::NotMounted(at("home")))
        );
        let mounted = places(&["home"], &["home"]);
        assert_eq!(mounted.why_absent(&at("home/project/result"), &gone), None);
        let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(none.why_absent(&at("home/result"), &forbidden).is_some());
    }
}
