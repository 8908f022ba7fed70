//! What `up` remembers of a mount under `/run/overstore/` until the next boot: which lower store
//! directory it was made over.
//!
//! The overlay keeps what it was mounted over for as long as it lives, whatever is put at the same
//! path later. While it lives, no other directory has the same device and inode, so comparing these
//! tells a lower store that was swapped for another, even for an image of the same tree.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::atomic_file;
use crate::linux::file_identity::FileIdentity;
use crate::linux::root::System;
use crate::linux::safe_path::Status;
use crate::overlayfs::options::SuperOptions;

/// The version of the format that this program reads and writes.
const VERSION: u32 = 1;

/// The directory of the records, below `/run`.
const DIRECTORY: &str = "overstore";

/// More than any record has: what is longer is none.
const MAXIMUM_SIZE: u64 = 64 * 1024;

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): the number of a mount that no other mount has had since boot.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What `up` remembers of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The store's name, for people who read the file.
    pub store: String,
    /// The overlay that was mounted. `None` in a record that an interrupted run of an older version
    /// left, which proves nothing.
    pub overlay: Option<MountIdentity>,
    /// The lower store directory that it was mounted over.
    pub lower: DirectoryIdentity,
    /// The upper layer and the work directory that it was mounted with. `None` in a record of an older
    /// version.
    #[serde(default)]
    pub writes_to: Option<[FileIdentity; 2]>,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub time: Option<u64>,
}

/// Which mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountIdentity {
    /// The superblock's device.
    pub dev: u64,
    /// The mount's number, as in `/proc/self/mountinfo`; the kernel gives it to others later.
    pub mount_id: u64,
    /// The mount's number that no other has until the next boot, where the kernel tells it.
    pub unique_mount_id: Option<u64>,
}

/// Which directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryIdentity {
    /// Its device and inode.
    #[serde(flatten)]
    pub file: FileIdentity,
    /// `f_fsid` of the file system.
    pub fsid: u64,
}

impl MountIdentity {
    /// The identity of the mount that a descriptor is on.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn of(fd: impl AsFd) -> Result<MountIdentity, Errno> {
        let status = Status::of(&fd)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let unique = rustix::fs::statx(&fd, "", flags, MOUNT_ID_UNIQUE)?;
        let known = unique.stx_mask & MOUNT_ID_UNIQUE.bits() != 0;
        Ok(MountIdentity {
            dev: status.identity.dev,
            mount_id: status.mount_id,
            unique_mount_id: known.then_some(unique.stx_mnt_id),
        })
    }

    /// Whether no other mount can have this identity until the next boot (Linux 6.8).
    pub(crate) fn is_never_given_again(&self) -> bool {
        self.unique_mount_id.is_some()
    }

    /// Whether both are one mount, as far as can be told.
    pub(crate) fn is(&self, other: &MountIdentity) -> bool {
        self.dev == other.dev
            && self.mount_id == other.mount_id
            && match (self.unique_mount_id, other.unique_mount_id) {
                (Some(this), Some(that)) => this == that,
                _ => true,
            }
    }
}

impl DirectoryIdentity {
    /// The identity of the directory that a descriptor stands for.
    ///
    /// # Errors
    /// Those of statx(2) and statfs(2).
    pub(crate) fn of(fd: impl AsFd) -> Result<DirectoryIdentity, Errno> {
        Ok(DirectoryIdentity {
            file: Status::of(&fd)?.identity,
            fsid: fsid(&fd)?,
        })
    }
}

impl std::fmt::Display for DirectoryIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FileIdentity { dev, ino } = self.file;
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        write!(
            f,
            "inode {ino} of device {major}:{minor} (file system {:x})",
            self.fsid
        )
    }
}

/// `f_fsid` of the file system that a descriptor is on.
///
/// # Errors
/// Those of statvfs(3).
pub(crate) fn fsid(fd: impl AsFd) -> Result<u64, Errno> {
    Ok(rustix::fs::fstatvfs(fd)?.f_fsid)
}

impl Record {
    /// A record of a mount just made, or of one that is going to be attached.
    pub(crate) fn new(
        store: &str,
        overlay: MountIdentity,
        lower: DirectoryIdentity,
        writes_to: [FileIdentity; 2],
        time: u64,
    ) -> Record {
        Record {
            version: VERSION,
            store: store.to_owned(),
            overlay: Some(overlay),
            lower,
            writes_to: Some(writes_to),
            time: Some(time),
        }
    }

    /// Whether this is proof that an overlay, which its identity and the paths in its options tell, is
    /// the one recorded. Before Linux 6.8 the kernel gives the numbers of a mount to others after it,
    /// so there the directories have to be the same too.
    pub(crate) fn is_of(&self, mount: &MountIdentity, options: &SuperOptions) -> bool {
        let Some(overlay) = self.overlay.filter(|overlay| overlay.is(mount)) else {
            return false;
        };
        if overlay.is_never_given_again() && mount.is_never_given_again() {
            return true;
        }
        let identity = |path: &PathBuf| {
            rustix::fs::stat(path)
                .ok()
                .map(|it| FileIdentity::from(&it))
        };
        let now = [
            options.lower.first(),
            options.upper.as_ref(),
            options.work.as_ref(),
        ]
        .map(|path| path.and_then(identity));
        let then = self
            .writes_to
            .map(|[upper, work]| [self.lower.file, upper, work].map(Some));
        options.lower.len() == 1 && Some(now) == then
    }

    /// Reads the record about the mount at a merged store directory. `None` if there is none, or
    /// one of another version.
    ///
    /// # Errors
    /// When it cannot be read, is not one, or somebody else could have written it.
    pub(crate) fn read(system: &System, real: &Path) -> io::Result<Option<Record>> {
        let Some(directory) = open_directory(system)? else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = file_name(real);
        let file = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        refuse_foreign(&Status::of(&file)?, FileType::RegularFile)?;
        let mut text = Vec::new();
        File::from(file).take(MAXIMUM_SIZE).read_to_end(&mut text)?;
        let version: Version = serde_json::from_slice(&text)?;
        if version.version != VERSION {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Writes the record, replacing an older one at once or not at all. It need not outlive the
    /// machine, so nothing is synced.
    ///
    /// # Errors
    /// When it cannot be written, or its directory is somebody else's.
    pub(crate) fn write(&self, system: &System, real: &Path) -> io::Result<()> {
        let directory = make_directory(system)?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        atomic_file::replace(&directory, &file_name(real), |file| file.write_all(&text))
    }

    /// Removes the record about the mount at a merged store directory, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed, or its directory is somebody else's.
    pub(crate) fn remove(system: &System, real: &Path) -> io::Result<()> {
        let Some(directory) = open_directory(system)? else {
            return Ok(());
        };
        match rustix::fs::unlinkat(&directory, file_name(real), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What is read first, to know how to read the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The file name of the record about a merged store directory: a path fits into no file name.
fn file_name(real: &Path) -> String {
    let digest = Sha256::digest(real.as_os_str().as_bytes());
    let mut name: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
    name.push_str(".json");
    name
}

/// Opens the directory of the records, made where it is missing.
pub(super) fn make_directory(system: &System) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(system.run(), DIRECTORY, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(open_directory(system)?.ok_or(io::ErrorKind::NotFound)?)
}

/// Opens the directory of the records, if there is one.
pub(super) fn open_directory(system: &System) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(system.run(), DIRECTORY, flags, Mode::empty()) {
        Ok(directory) => {
            refuse_foreign(&Status::of(&directory)?, FileType::Directory)?;
            Ok(Some(directory))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Refuses what is not of the kind expected, or what others than root and ourselves could write.
fn refuse_foreign(status: &Status, kind: FileType) -> io::Result<()> {
    let ours = status.uid == 0 || status.uid == rustix::process::geteuid().as_raw();
    if status.kind == kind && ours && status.mode & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "not of root alone",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn record() -> Record {
        let overlay = MountIdentity {
            dev: 1,
            mount_id: 2,
            unique_mount_id: Some(3),
        };
        let lower = DirectoryIdentity {
            file: FileIdentity { dev: 4, ino: 5 },
            fsid: u64::MAX,
        };
        let writes_to = [6, 7].map(|ino| FileIdentity { dev: 4, ino });
        Record::new("example", overlay, lower, writes_to, 1_700_000_000)
    }

    fn scratch() -> (tempfile::TempDir, System) {
        let run = tempfile::tempdir().unwrap();
        let system = System::with_run(run.path()).unwrap();
        (run, system)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_removed() {
        let (_run, system) = scratch();
        let real = Path::new("/mnt/a/nix/store");
        assert_eq!(Record::read(&system, real).unwrap(), None);
        Record::remove(&system, real).unwrap();
        record().write(&system, real).unwrap();
        record().write(&system, real).unwrap();
        assert_eq!(Record::read(&system, real).unwrap(), Some(record()));
        assert_eq!(Record::read(&system, Path::new("/b")).unwrap(), None);
        Record::remove(&system, real).unwrap();
        assert_eq!(Record::read(&system, real).unwrap(), None);
    }

    #[test]
    fn a_record_of_another_version_is_none() {
        let (run, system) = scratch();
        let real = Path::new("/a");
        record().write(&system, real).unwrap();
        let file = run.path().join(DIRECTORY).join(file_name(real));
        fs::write(&file, r#"{"version": 2, "everything": "else"}"#).unwrap();
        assert_eq!(Record::read(&system, real).unwrap(), None);
        fs::write(&file, "{").unwrap();
        assert!(Record::read(&system, real).is_err());
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let (run, system) = scratch();
        let real = Path::new("/a");
        record().write(&system, real).unwrap();
        let directory = run.path().join(DIRECTORY);
        let file = directory.join(file_name(real));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Record::read(&system, real).is_err());
        fs::remove_file(&file).unwrap();
        symlink("elsewhere", &file).unwrap();
        assert!(Record::read(&system, real).is_err());
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(record().write(&system, real).is_err());
    }

    #[test]
    fn mounts_are_told_apart_by_what_is_known() {
        let one = record().overlay.unwrap();
        let later = MountIdentity {
            unique_mount_id: Some(9),
            ..one
        };
        let old_kernel = MountIdentity {
            unique_mount_id: None,
            ..one
        };
        assert!(one.is(&one));
        assert!(!one.is(&later));
        assert!(one.is(&old_kernel));
        assert!(!one.is(&MountIdentity { dev: 7, ..one }));
    }
}
