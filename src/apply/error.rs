//! Why the machine would not do a step.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::mount_failure::{MountFailure, needs_root};
use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::linux::safe_path::Obstacle;
use crate::lower::LowerError;
use crate::remedy::{self, HasRemedy, Remedy, command};
use crate::sqlite::open;

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The machine could not be looked at.
    #[error("cannot look at this machine: {0}")]
    Observe(io::Error),
    /// Mounting is not permitted.
    #[error("mounting is not permitted here: it needs root (CAP_SYS_ADMIN)")]
    NotPermitted,
    /// Something is mounted already where the overlay should be.
    #[error("something is mounted at {} already", show_path(.0))]
    Occupied(PathBuf),
    /// A system call failed.
    #[error("cannot {action} {}: {source}", show_path(path))]
    Io {
        /// What was tried, as in "cannot ...".
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// A path of the store does not lead to where it should, or not safely.
    #[error("cannot use {}: {obstacle}", show_path(path))]
    Path {
        /// The path.
        path: PathBuf,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// A directory was exchanged for another while it was used.
    #[error(
        "{} was replaced by something else while the store was being set up; nothing stays \
         mounted",
        show_path(.0)
    )]
    Replaced(PathBuf),
    /// A new directory did not get the owner and mode it should have.
    #[error(
        "{} was made with owner {uid}:{gid} and mode {mode:04o} instead of {wanted_uid}:{wanted_gid} \
         and {wanted_mode:04o}: the file system does not keep them",
        show_path(path)
    )]
    NotKept {
        /// The directory.
        path: PathBuf,
        /// What it got.
        uid: u32,
        /// What it got.
        gid: u32,
        /// What it got.
        mode: u32,
        /// What it should have.
        wanted_uid: u32,
        /// What it should have.
        wanted_gid: u32,
        /// What it should have.
        wanted_mode: u32,
    },
    /// Others may write to the directory of the remount hook.
    #[error(
        "the remount hook is not linked in {} (owner {uid}, mode {mode:04o}): others could have Nix \
         run any program there",
        show_path(path)
    )]
    HookExposed {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// Another process has locked the upper layer.
    #[error(
        "the upper layer {} is locked by {holder}: it is in use by `overstore exec`, or another \
         store that shares it is being set up",
        show_path(path)
    )]
    UpperLocked {
        /// The upper layer.
        path: PathBuf,
        /// Who, in words.
        holder: String,
    },
    /// Another process has locked a directory and does not let go of it.
    #[error(
        "{} is still locked by {holder} after {minutes} minutes: another command of overstore is at \
         work on this store",
        show_path(path)
    )]
    NotReleased {
        /// The directory.
        path: PathBuf,
        /// Who, in words.
        holder: String,
        /// How long it was waited for.
        minutes: u64,
    },
    /// Nix does not let go of the upper database.
    #[error(
        "Nix still has the upper database in {} open after {minutes} minutes, so it cannot be made",
        show_path(path)
    )]
    DatabaseInUse {
        /// The directory of the database.
        path: PathBuf,
        /// How long it was waited for.
        minutes: u64,
    },
    /// The kernel refused to mount.
    #[error(transparent)]
    Mount(#[from] Box<MountFailure>),
    /// The rows of the upper database cannot be read.
    #[error("cannot read the upper database {}: {source}", show_path(path))]
    Rows {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: LowerError,
    },
    /// The database could not be made.
    #[error("cannot make the upper database {}: {source}", show_path(path))]
    Database {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl HasRemedy for Error {
    fn remedy(&self) -> Remedy {
        match self {
            Error::NotPermitted => needs_root(),
            Error::Occupied(path) => {
                Remedy::say("see what it is, and unmount it if nobody needs it")
                    .run(command!["findmnt", path])
                    .run(command!["umount", path])
            }
            // Of a thread that was to be started.
            Error::Io { source, .. } if source.kind() == ErrorKind::WouldBlock => {
                exhaustion::too_many_processes().1
            }
            Error::Io { path, source, .. } => remedy::of_io(source, path),
            Error::Replaced(_) => {
                Remedy::say("find out who changes the directories above it, then run this again")
            }
            Error::NotKept { .. } => Remedy::say(
                "put it on a file system that keeps owners and modes, such as ext4, xfs or btrfs",
            ),
            Error::HookExposed { path, .. } => Remedy::say("if it is to be root's alone")
                .run(command!["chown", "root:", path])
                .run(command!["chmod", "0755", path]),
            Error::UpperLocked { .. } => {
                Remedy::say("wait for it to end").or("give each store an upper layer of its own")
            }
            Error::NotReleased { .. } => {
                Remedy::say("see what it does, end it if it hangs, then run this again")
            }
            Error::DatabaseInUse { .. } => {
                Remedy::say("end what uses the store, then run this again")
            }
            Error::Mount(failure) => failure.remedy(),
            Error::Rows { source, .. } => source.remedy(),
            Error::Database { path, source } => open::remedy_of(source, path),
            Error::Observe(source) => remedy::of_io(source, Path::new("/proc")),
            Error::Path { obstacle, .. } => obstacle.remedy(),
        }
    }
}

/// Gives failing system calls the words that [`Error::Io`] wants.
pub(super) trait Doing<T> {
    fn doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            source: error.into(),
        })
    }
}

/// Gives walks that end at an obstacle the path they were meant for.
pub(super) fn walked<T>(path: &Path, result: Result<T, Obstacle>) -> Result<T, Error> {
    result.map_err(|obstacle| Error::Path {
        path: path.to_owned(),
        obstacle,
    })
}
