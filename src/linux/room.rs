//! Whether a file system has room.

use std::path::Path;

use super::safe_path::{self, Symlinks};

/// With less than this free, in bytes, SQLite cannot make the index of a log, which grows by 32 KiB.
const LEAST: u64 = 32 << 10;

/// Whether the file system of a directory has next to nothing free: bytes, or files where it counts
/// them. `false` where it cannot be asked. What is kept for root is free for root alone.
pub(crate) fn is_used_up(directory: &Path) -> bool {
    is_short(directory, LEAST)
}

/// As [`is_used_up`], where less than this is next to nothing, in bytes.
pub(crate) fn is_short(directory: &Path, least: u64) -> bool {
    let Ok(directory) = safe_path::open_directory(directory, Symlinks::Follow) else {
        return false;
    };
    let Ok(found) = rustix::fs::fstatvfs(directory) else {
        return false;
    };
    let (blocks, files) = match rustix::process::geteuid().is_root() {
        true => (found.f_bfree, found.f_ffree),
        false => (found.f_bavail, found.f_favail),
    };
    blocks.saturating_mul(found.f_frsize) < least || found.f_files > 0 && files == 0
}
