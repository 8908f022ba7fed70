//! What objects take up on the disk.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::linux::file_identity::FileIdentity;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::tree;
use crate::nix::store_object;
use crate::nix::store_path::Entry;

/// What objects in the upper layer take up, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// All objects in the upper layer.
    pub upper_layer: u64,
    /// Those of them that the lower store has too.
    pub both: u64,
}

/// Adds up the disk space of all objects in the upper layer, a file with several links once. Calls
/// `progress` after each object. Costs a system call for each file in the upper layer.
///
/// # Errors
/// When a layer cannot be read. Objects that disappear meanwhile are passed over.
pub(crate) fn sizes(
    upper: &Path,
    lower: &Path,
    mut progress: impl FnMut(),
) -> std::io::Result<Sizes> {
    let upper = safe_path::open_directory(upper, Symlinks::Refuse)?;
    let lower = safe_path::open_directory(lower, Symlinks::Follow)?;
    let mut sizes = Sizes::default();
    let mut linked = HashSet::new();
    for entry in Dir::read_from(&upper)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(Entry::of(name.to_bytes()), Entry::StorePath(_)) {
            continue;
        }
        let below = rustix::fs::statat(&lower, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| store_object::can_be(FileType::from_raw_mode(stat.st_mode)));
        let bytes = size(upper.as_fd(), name, &mut linked)?;
        sizes.upper_layer += bytes;
        if below {
            sizes.both += bytes;
        }
        progress();
    }
    Ok(sizes)
}

/// The space of one file or directory and all in it.
fn size(
    directory: impl AsFd,
    name: &CStr,
    linked: &mut HashSet<FileIdentity>,
) -> Result<u64, Errno> {
    let mut bytes = 0;
    tree::visit(directory, name, |stat| {
        let is_linked = stat.st_nlink > 1 && !tree::is_directory(stat);
        if !is_linked || linked.insert(FileIdentity::from(stat)) {
            bytes += tree::bytes(stat);
        }
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn space_is_added_up_once() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let object = |layer: &str, name: &str| {
            let path = root
                .join(layer)
                .join(format!("7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-{name}"));
            fs::create_dir_all(path.join("a/b")).unwrap();
            fs::write(path.join("a/b/file"), [1; 100_000]).unwrap();
            path
        };
        let (one, two) = (object("upper", "one"), object("upper", "two"));
        object("lower", "two");
        fs::write(root.join("upper/stranger"), [1; 100_000]).unwrap();
        fs::hard_link(one.join("a/b/file"), one.join("again")).unwrap();
        std::os::unix::fs::symlink("/", two.join("link")).unwrap();
        let mut objects = 0;
        let sizes = sizes(&root.join("upper"), &root.join("lower"), || objects += 1).unwrap();
        assert_eq!(objects, 2);
        assert!((200_000..400_000).contains(&sizes.upper_layer), "{sizes:?}");
        assert!((100_000..200_000).contains(&sizes.both), "{sizes:?}");
    }
}
