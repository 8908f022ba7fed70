//! Which file or directory something is, whatever its path.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Stat, Statx};
use serde::{Deserialize, Serialize};

/// The device and the inode: those of one file or directory, whatever path and mount lead there,
/// and as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The device, as `makedev` composes it.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
}

impl From<&Stat> for FileIdentity {
    fn from(stat: &Stat) -> FileIdentity {
        FileIdentity {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

impl From<&Statx> for FileIdentity {
    fn from(stat: &Statx) -> FileIdentity {
        FileIdentity {
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
        }
    }
}

impl From<&std::fs::Metadata> for FileIdentity {
    fn from(metadata: &std::fs::Metadata) -> FileIdentity {
        FileIdentity {
            dev: metadata.dev(),
            ino: metadata.ino(),
        }
    }
}

/// As in `JOURNAL_STREAM`.
impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::safe_path::{Symlinks, directory};

    #[test]
    fn every_call_gives_one_identity() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        let of_stat = FileIdentity::from(&rustix::fs::stat(&path).unwrap());
        let of_metadata = FileIdentity::from(&std::fs::metadata(&path).unwrap());
        let reached = directory(&path, Symlinks::Refuse).unwrap();
        assert_eq!(of_stat, of_metadata);
        assert_eq!(of_stat, reached.status().identity);
        let other = FileIdentity::from(&rustix::fs::stat(path.parent().unwrap()).unwrap());
        assert_ne!(of_stat, other);
    }
}
