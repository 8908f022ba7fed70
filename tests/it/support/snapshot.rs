//! Proof that a directory was left alone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Files of more bytes are not read: a sparse one can claim any size. Their change times tell.
const LARGEST: u64 = 1 << 30;

/// Everything there is to see of a directory and what is below it, except access times: a change
/// that leaves two snapshots equal cannot be seen by anybody. The inode change time, which no
/// program can set, shows even what was undone again.
#[derive(PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

#[derive(PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    device: u64,
    inode: u64,
    links: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Seconds and nanoseconds.
    changed: (i64, i64),
    target: Option<PathBuf>,
    sha256: Option<Vec<u8>>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

impl Snapshot {
    /// Looks at `root`, which is not followed when it is a symbolic link, and all below it. For a
    /// directory in a World this is `world.path(...)`.
    pub fn of(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        let mut entries = BTreeMap::new();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let entry = Entry::of(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            if entry.kind == "directory" {
                for child in fs::read_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
                {
                    pending.push(child.expect("the directory can be read").path());
                }
            }
            let below = path.strip_prefix(root).expect("it is below the root");
            entries.insert(below.to_owned(), entry);
        }
        Self(entries)
    }

    /// What differs between this and a `later` snapshot, one line each; empty when nothing does.
    pub fn differences(&self, later: &Self) -> String {
        let mut text = String::new();
        for (path, before) in &self.0 {
            match later.0.get(path) {
                None => writeln!(text, "{path:?}: gone"),
                Some(after) if after == before => Ok(()),
                Some(after) => {
                    let before = before.fields();
                    let changed: Vec<_> = before
                        .iter()
                        .zip(after.fields())
                        .filter(|(old, new)| *old != new)
                        .map(|((name, old), (_, new))| format!("{name} {old} became {new}"))
                        .collect();
                    writeln!(text, "{path:?}: {}", changed.join(", "))
                }
            }
            .expect("writing to a string");
        }
        for path in later.0.keys().filter(|path| !self.0.contains_key(*path)) {
            writeln!(text, "{path:?}: new").expect("writing to a string");
        }
        text
    }

    /// Panics with the differences when `root` is not as it was in this snapshot.
    #[track_caller]
    pub fn assert_unchanged(&self, root: impl AsRef<Path>) {
        let root = root.as_ref();
        let differences = self.differences(&Self::of(root));
        assert!(
            differences.is_empty(),
            "{root:?} was changed:\n{differences}"
        );
    }

    /// The paths in it, relative to the root (which is the empty path), sorted.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = metadata.file_type();
        Ok(Self {
            kind: if kind.is_dir() {
                "directory"
            } else if kind.is_file() {
                "file"
            } else if kind.is_symlink() {
                "symbolic link"
            } else if kind.is_char_device() {
                "character device"
            } else if kind.is_socket() {
                "socket"
            } else {
                "something else"
            },
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            size: metadata.size(),
            device: metadata.rdev(),
            inode: metadata.ino(),
            links: metadata.nlink(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            target: kind.is_symlink().then(|| fs::read_link(path)).transpose()?,
            sha256: (kind.is_file() && metadata.len() <= LARGEST)
                .then(|| sha256(path))
                .transpose()?,
            attributes: attributes(path)?,
        })
    }

    /// Its fields by name, always in this order, as they are printed.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let time = |(seconds, nanoseconds)| format!("{seconds}.{nanoseconds:09}");
        vec![
            ("kind", self.kind.to_owned()),
            ("mode", format!("{:04o}", self.mode)),
            ("owner", format!("{}:{}", self.owner.0, self.owner.1)),
            ("size", self.size.to_string()),
            ("device", format!("{:x}", self.device)),
            ("inode", self.inode.to_string()),
            ("links", self.links.to_string()),
            ("modified", time(self.modified)),
            ("changed", time(self.changed)),
            ("target", format!("{:?}", self.target)),
            (
                "content",
                self.sha256.as_deref().map_or_else(String::new, hex),
            ),
            ("attributes", format!("{:?}", self.attributes)),
        ]
    }
}

fn sha256(path: &Path) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    io::copy(&mut file, &mut HashWriter(&mut hash))?;
    Ok(hash.finalize().to_vec())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The extended attributes, except where the file system has none.
fn attributes(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0_u8; 65536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0_u8; 65536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
            value.truncate(length);
            Ok((OsString::from_vec(name.to_vec()), value))
        })
        .collect()
}
