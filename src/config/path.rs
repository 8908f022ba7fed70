//! Paths of a description.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Why a path cannot be in a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadPath {
    /// It is empty.
    Empty,
    /// It does not begin with a slash.
    Relative,
    /// It has a `..`.
    ParentDirectory,
    /// It has a byte 0.
    Nul,
    /// It is `/`.
    Root,
}

impl BadPath {
    /// What is wrong, in words.
    pub(super) fn what(self) -> &'static str {
        match self {
            BadPath::Empty => "is empty",
            BadPath::Relative => "is a relative path",
            BadPath::ParentDirectory => "has a `..`",
            BadPath::Nul => "has a byte 0, which no path can have",
            BadPath::Root => "is the root directory, which everything else is inside of",
        }
    }

    /// What to write instead.
    pub(super) fn help(self) -> &'static str {
        match self {
            BadPath::Empty | BadPath::Relative => {
                "write an absolute path, one that begins with `/`"
            }
            BadPath::ParentDirectory => {
                "write the path without `..`: Nix removes it from the text, the kernel follows the \
                 file system, and with symbolic links the two differ"
            }
            BadPath::Nul => "write the path without it",
            BadPath::Root => "write the path of a directory of its own",
        }
    }
}

/// A path in its one form: absolute, without `.`, doubled or trailing slashes, as Nix's `canonPath`
/// makes it. The root directory is no path of a description: see [`BadPath::Root`].
pub(super) fn absolute(bytes: &[u8]) -> Result<PathBuf, BadPath> {
    if bytes.is_empty() {
        return Err(BadPath::Empty);
    }
    if bytes.contains(&0) {
        return Err(BadPath::Nul);
    }
    let given = PathBuf::from(OsString::from_vec(bytes.to_vec()));
    if !given.is_absolute() {
        return Err(BadPath::Relative);
    }
    let mut path = PathBuf::from("/");
    for component in given.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return Err(BadPath::ParentDirectory),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path == Path::new("/") {
        Err(BadPath::Root)
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        assert_eq!(absolute(b"/a//b/./c/"), Ok(PathBuf::from("/a/b/c")));
        assert_eq!(absolute(b"/a/b..c/..."), Ok(PathBuf::from("/a/b..c/...")));
        assert_eq!(
            absolute(b"/\xff\n"),
            Ok(PathBuf::from(OsString::from_vec(b"/\xff\n".to_vec())))
        );
    }

    #[test]
    fn bad_paths_are_told_apart() {
        assert_eq!(absolute(b""), Err(BadPath::Empty));
        assert_eq!(absolute(b"a/b"), Err(BadPath::Relative));
        assert_eq!(absolute(b"./a"), Err(BadPath::Relative));
        assert_eq!(absolute(b"/a/../b"), Err(BadPath::ParentDirectory));
        assert_eq!(absolute(b"/a\0"), Err(BadPath::Nul));
        assert_eq!(absolute(b"//."), Err(BadPath::Root));
    }
}
