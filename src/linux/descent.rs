//! Going down into a tree by descriptor, however deep it is, with few descriptors open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// How many directories are kept open: the ways up from deeper ones are opened again.
const HELD: usize = 8;

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A way down, from a directory that somebody else holds.
#[derive(Debug)]
pub(crate) struct Descent<'d> {
    start: BorrowedFd<'d>,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Device and inode, by which it is known again.
    identity: (u64, u64),
    /// None where it was let go.
    directory: Option<OwnedFd>,
}

impl<'d> Descent<'d> {
    /// Still at the beginning.
    pub(crate) fn from(start: BorrowedFd<'d>) -> Self {
        Self {
            start,
            levels: Vec::new(),
        }
    }

    /// How many steps down it is.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The directory it is in.
    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        let deepest = self.levels.last();
        match deepest.and_then(|level| level.directory.as_ref()) {
            Some(directory) => directory.as_fd(),
            None => self.start,
        }
    }

    /// Goes into a directory, without following a symbolic link.
    ///
    /// # Errors
    /// Those of openat(2).
    pub(crate) fn enter(&mut self, name: impl rustix::path::Arg) -> Result<(), Errno> {
        let directory = openat(self.here(), name, FLAGS, Mode::empty())?;
        self.push(directory)
    }

    /// Goes into a directory, without following a symbolic link, and without leaving the mount: a bind
    /// mount of the same file system is another one.
    ///
    /// # Errors
    /// Those of openat2(2): `EXDEV` where something is mounted there.
    pub(crate) fn enter_on_same_mount(
        &mut self,
        name: impl rustix::path::Arg,
    ) -> Result<(), Errno> {
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let directory = openat2(self.here(), name, FLAGS, Mode::empty(), resolve)?;
        self.push(directory)
    }

    fn push(&mut self, directory: OwnedFd) -> Result<(), Errno> {
        let identity = identity(&directory)?;
        if let Some(above) = self.levels.len().checked_sub(HELD) {
            self.levels[above].directory = None;
        }
        self.levels.push(Level {
            identity,
            directory: Some(directory),
        });
        Ok(())
    }

    /// Goes back up.
    ///
    /// # Errors
    /// `ESTALE` where a directory was moved meanwhile, and those of openat(2).
    pub(crate) fn leave(&mut self) -> Result<(), Errno> {
        let Some(Level { directory, .. }) = self.levels.pop() else {
            return Ok(());
        };
        if let (Some(above), Some(below)) = (self.levels.last_mut(), directory)
            && above.directory.is_none()
        {
            let directory = openat(below, "..", FLAGS, Mode::empty())?;
            if identity(&directory)? != above.identity {
                return Err(Errno::STALE);
            }
            above.directory = Some(directory);
        }
        Ok(())
    }
}

fn identity(directory: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn deep_down_and_up_again() {
        let root = tempfile::tempdir().unwrap();
        let start = File::open(root.path()).unwrap();
        let mut descent = Descent::from(start.as_fd());
        for _ in 0..3000 {
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(descent.here(), "d", mode).unwrap();
            descent.enter("d").unwrap();
        }
        let open = descent
            .levels
            .iter()
            .filter(|level| level.directory.is_some());
        assert_eq!((descent.depth(), open.count()), (3000, HELD));
        while descent.depth() > 0 {
            descent.leave().unwrap();
            assert!(rustix::fs::statat(descent.here(), "d", rustix::fs::AtFlags::empty()).is_ok());
        }
        // Deeper than `fs::remove_dir_all` can follow by path, and than it has descriptors for.
        for _ in 0..3000 {
            descent.enter("d").unwrap();
        }
        while descent.depth() > 0 {
            descent.leave().unwrap();
            rustix::fs::unlinkat(descent.here(), "d", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        }
    }

    /// Nobody leads us out of the tree by moving a directory of it.
    #[test]
    fn a_directory_that_was_moved_is_told() {
        let root = tempfile::tempdir().unwrap();
        let way = ["d"; HELD + 2].join("/");
        fs::create_dir_all(root.path().join("tree").join(&way)).unwrap();
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        let start = File::open(root.path().join("tree")).unwrap();
        let mut descent = Descent::from(start.as_fd());
        for _ in 0..HELD + 2 {
            descent.enter("d").unwrap();
        }
        fs::rename(
            root.path().join("tree/d/d/d"),
            root.path().join("elsewhere/d"),
        )
        .unwrap();
        let left = std::iter::repeat_with(|| descent.leave()).find(Result::is_err);
        assert_eq!(left, Some(Err(Errno::STALE)));
        // A link is not entered.
        std::os::unix::fs::symlink("d", root.path().join("tree/link")).unwrap();
        assert!(Descent::from(start.as_fd()).enter("link").is_err());
    }
}
