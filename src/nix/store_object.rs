//! What a store object is on the disk.

use rustix::fs::FileType;

/// Whether a store object can be of this type: a directory, a file or a symbolic link. An archive of it
/// (and with that its hash) can have nothing else (source: `SourceAccessor::dumpPath`, "has an unsupported
/// type").
pub(crate) fn can_be(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::Directory | FileType::RegularFile | FileType::Symlink
    )
}
