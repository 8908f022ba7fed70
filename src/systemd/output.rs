//! The directory that units are written to. It can be anybody's, and have anything in it: a file is
//! made new, or replaces one of overstore's own, and no link in it is followed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, readlinkat, symlinkat};
use rustix::io::Errno;

use super::units::{Content, Files, HEAD};
use crate::escape::show_path;
use crate::linux::new_directories;
use crate::linux::regular_file::{self, ReadError};
use crate::linux::safe_path::Symlinks;
use crate::records::atomic_file;
use crate::remedy::{HasRemedy, Remedy};

/// Why units were not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is something in the directory already.
    #[error("{} is not empty", show_path(.0))]
    NotEmpty(PathBuf),
    /// What is there is not overstore's.
    #[error("{} exists already, and was not made by overstore", show_path(.0))]
    NotOurs(PathBuf),
    /// The kernel's reason.
    #[error("cannot write {}: {source}", show_path(path))]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl HasRemedy for OutputError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotEmpty(_) => Remedy::say("name a directory that is missing or empty")
                .or("use `--force`, to replace overstore's own files there and nothing else"),
            Self::NotOurs(_) => {
                Remedy::say("name a directory that is missing or empty").or("move this file away")
            }
            Self::Io { .. } => {
                Remedy::say("name a directory that you may write to, with room in it")
            }
        }
    }
}

/// An open directory that units are written to.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    directory: OwnedFd,
}

impl Output {
    /// Opens a directory, which is made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub(crate) fn open(path: &Path) -> Result<Output, OutputError> {
        match new_directories::named(path) {
            Ok(directory) => Ok(Output {
                path: path.to_owned(),
                directory,
            }),
            Err(source) => Err(OutputError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Refuses a directory that has anything in it.
    ///
    /// # Errors
    /// When it is not empty, or cannot be read.
    pub(crate) fn expect_empty(&self) -> Result<(), OutputError> {
        let entries = Dir::read_from(&self.directory).map_err(|errno| self.error("", errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| self.error("", errno))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(OutputError::NotEmpty(self.path.clone()));
            }
        }
        Ok(())
    }

    /// Writes all of them that can be, and gives the first error.
    ///
    /// # Errors
    /// When one cannot be written, or when what is there is not overstore's own.
    pub(crate) fn write(&self, files: &Files) -> Result<(), OutputError> {
        let mut first = Ok(());
        for (name, content) in files {
            let written = self.put(name, content);
            first = first.and(written);
        }
        first
    }

    fn put(&self, path: &Path, content: &Content) -> Result<(), OutputError> {
        let failed = |errno: Errno| self.error(path, errno);
        let Some(name) = path.file_name() else {
            return Err(failed(Errno::INVAL));
        };
        let parent = match path.parent().filter(|parent| *parent != Path::new("")) {
            None => self
                .directory
                .try_clone()
                .map_err(|source| OutputError::Io {
                    path: self.path.clone(),
                    source,
                })?,
            Some(parent) => {
                new_directories::entry(&self.directory, parent.as_os_str()).map_err(failed)?
            }
        };
        match content {
            Content::Text(text) => {
                if !may_replace(&parent, name).map_err(failed)? {
                    return Err(OutputError::NotOurs(self.path.join(path)));
                }
                let name = name.to_str().ok_or_else(|| failed(Errno::INVAL))?;
                atomic_file::replace(&parent, name, |file| file.write_all(text.as_bytes())).map_err(
                    |source| OutputError::Io {
                        path: self.path.join(path),
                        source,
                    },
                )
            }
            Content::Link(target) => match symlinkat(target, &parent, name) {
                Err(Errno::EXIST) => match readlinkat(&parent, name, Vec::new()) {
                    Ok(found) if found.as_bytes() == target.as_os_str().as_bytes() => Ok(()),
                    _ => Err(OutputError::NotOurs(self.path.join(path))),
                },
                made => made.map_err(failed),
            },
        }
    }

    fn error(&self, path: impl AsRef<Path>, errno: Errno) -> OutputError {
        OutputError::Io {
            path: self.path.join(path),
            source: errno.into(),
        }
    }
}

/// Whether there is nothing, or a file that overstore made.
fn may_replace(directory: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    let mut head = [0; HEAD.len()];
    let read = regular_file::open_at(directory, name, Symlinks::Refuse)
        .and_then(|mut file| Ok(io::Read::read_exact(&mut file, &mut head)?));
    match read {
        Ok(()) => Ok(head == *HEAD.as_bytes()),
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(_) => Ok(false),
    }
}
