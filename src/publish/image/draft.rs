//! The directory beside an image, in which it is made.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, RenameFlags, openat, statat};
use rustix::io::Errno;

use super::super::error::PublishError;
use super::super::tree::{LISTING, entries, remove_tree};
use super::Format;
use crate::linux::file_identity::FileIdentity;
use crate::linux::locks::{self, LIMIT, attempt};
use crate::linux::safe_path::{self, Status, Symlinks};
use crate::linux::{regular_file, sync};
use crate::records::atomic_file;

/// Nobody else has anything to do with it.
const MODE: Mode = Mode::from_raw_mode(0o700);

/// A directory beside a file that is being made. It goes when this is dropped; what a killed run left of
/// it is removed by the next. One run at a time has it.
#[derive(Debug)]
pub(super) struct Draft {
    above: OwnedFd,
    file: PathBuf,
    name: OsString,
    /// The directory's own name.
    draft: OsString,
    pub(super) directory: OwnedFd,
    /// Another run's may have its name from then on.
    removed: bool,
}

impl Draft {
    /// Begins to make `file`, an absolute path. `waiting` is called if another run does it.
    pub(super) fn begin(file: &Path, waiting: &mut dyn FnMut()) -> Result<Self, PublishError> {
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(PublishError::io("make", file, Errno::ISDIR));
        };
        let above = safe_path::directory(parent, Symlinks::Follow)
            .map_err(|obstacle| PublishError::path(parent, obstacle))?
            .open()
            .map_err(|errno| PublishError::io("open", parent, errno))?;
        let mut draft = name.to_owned();
        draft.push(atomic_file::DRAFT);
        let path = parent.join(&draft);
        let locked = locks::wait(LIMIT, waiting, || {
            let Some(directory) = make(&above, &draft)? else {
                return Ok(None);
            };
            let lock = FlockOperation::NonBlockingLockExclusive;
            if attempt(&directory, lock)?.is_none() {
                return Ok(None);
            }
            // The run that had it may have removed it meanwhile.
            let current = match statat(&above, &draft, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => None,
                stat => Some(FileIdentity::from(&stat?)),
            };
            let ours = current == Some(Status::of(&directory)?.identity);
            Ok::<_, Errno>(ours.then_some(directory))
        });
        let directory = match locked.map_err(|errno| PublishError::io("make", &path, errno))? {
            Some(directory) => directory,
            None => return Err(PublishError::io("lock", &path, Errno::BUSY)),
        };
        let draft = Self {
            above,
            file: file.to_owned(),
            name: name.to_owned(),
            draft,
            directory,
            removed: false,
        };
        draft
            .empty()
            .map_err(|errno| PublishError::io("clear", &path, errno))?;
        Ok(draft)
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.file.with_file_name(&self.draft)
    }

    /// Sees that what is at the file's name may be replaced: nothing, or an image.
    pub(super) fn may_replace(&self, format: Format) -> Result<bool, PublishError> {
        let opened = regular_file::open_at(&self.above, &self.name, Symlinks::Refuse);
        let file = match opened.map_err(std::io::Error::from) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(PublishError::io("replace", &self.file, error)),
        };
        match format != Format::State && Format::is_image(&file) {
            true => Ok(true),
            false => Err(PublishError::NoImage(self.file.clone())),
        }
    }

    /// Gives what was made its name, durably. What was there is replaced only if there was an image
    /// before.
    pub(super) fn finish(mut self, made: &str, replace: bool) -> Result<(), PublishError> {
        let flags = match replace {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        let rename = || {
            match rustix::fs::renameat_with(&self.directory, made, &self.above, &self.name, flags) {
                // Not every file system knows flags; what was there before was looked at.
                Err(Errno::INVAL) if !replace => {
                    rustix::fs::renameat(&self.directory, made, &self.above, &self.name)?;
                }
                renamed => renamed?,
            }
            sync::sync(&self.above)
        };
        rename().map_err(|errno| PublishError::io("name", &self.file, errno))?;
        self.remove()
            .map_err(|errno| PublishError::io("remove", &self.path(), errno))
    }

    fn empty(&self) -> Result<(), Errno> {
        for entry in entries(&self.directory)? {
            remove_tree(&self.directory, &entry)?;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), Errno> {
        if self.removed {
            return Ok(());
        }
        self.empty()?;
        self.removed = true;
        rustix::fs::unlinkat(&self.above, &self.draft, AtFlags::REMOVEDIR)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // The next run does it otherwise.
        let _ = self.remove();
    }
}

/// Makes the directory, or opens the one that a run like this one has made; none where that has removed
/// it meanwhile.
fn make(above: impl AsFd, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    match rustix::fs::mkdirat(&above, name, MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let directory = match openat(above, name, LISTING, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let status = Status::of(&directory)?;
    let own = status.uid == rustix::process::geteuid().as_raw() && status.mode & 0o7777 == 0o700;
    own.then_some(Some(directory)).ok_or(Errno::EXIST)
}
