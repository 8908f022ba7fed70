use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::nix::NixError;
use crate::escape::show_path;
use crate::lower::{LowerError, Transient};
use crate::remedy::{self, HasRemedy, Remedy, command};
use crate::warm::WarmError;

/// Why garbage could not be chosen or collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// A database or a daemon below cannot be read.
    #[error(transparent)]
    Source(#[from] LowerError),
    /// A layer cannot be read.
    #[error("cannot read {}: {source}", show_path(path))]
    Layer {
        /// What in it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state directory cannot be reached.
    #[error("cannot look for roots: {what}")]
    State {
        /// What is in the way.
        what: String,
    },
    /// Roots cannot be read. Not knowing one could lose what it keeps.
    #[error("cannot read the roots in {}: {source}", show_path(path))]
    Roots {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory of roots is deeper than any.
    #[error("{} is deeper in a directory of roots than Nix looks", show_path(path))]
    Deep {
        /// The directory.
        path: PathBuf,
    },
    /// What is removed cannot be put aside.
    #[error("cannot use {}: {source}", show_path(path))]
    Aside {
        /// The directory for it.
        path: PathBuf,
        /// What is in the way.
        source: io::Error,
    },
    /// The metadata of what roots need could not be copied.
    #[error("cannot copy the metadata of what roots lead to: {0}")]
    Warm(#[from] WarmError),
    /// Generations of a profile could not be deleted.
    #[error("cannot delete generations of {}: {said}", show_path(profile))]
    Generations {
        /// The profile.
        profile: PathBuf,
        /// Why.
        said: String,
    },
    /// Nix stopped for a reason that has nothing to do with a path.
    #[error("Nix stopped: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// Nix could not be asked.
    #[error(transparent)]
    Nix(#[from] NixError),
}

/// What helps where something is not as it should be.
const LOOK: &str = "see what is wrong with the store with `overstore check`";

impl HasRemedy for CollectError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Warm(error) => error.remedy(),
            Self::Nix(error) => error.remedy(),
            Self::Layer { path, source } | Self::Roots { path, source } => {
                remedy::of_io(source, path)
            }
            Self::State { .. } => LOOK.into(),
            Self::Aside { path, source } => {
                let known = remedy::of_file_system(source.kind(), path);
                known.some().unwrap_or_else(|| LOOK.into())
            }
            Self::Deep { path } => {
                Remedy::say("see what made it, and remove it if nobody needs it")
                    .run(command!["ls", "-lR", path])
            }
            Self::Generations { .. } | Self::Refused { .. } => {
                Remedy::say("do what Nix says, then run this again")
            }
        }
    }
}

impl CollectError {
    pub(super) fn layer(path: &Path, error: Errno) -> Self {
        Self::Layer {
            path: path.to_owned(),
            source: error.into(),
        }
    }

    /// Whether something was not written since there is no room for it. SQLite does not always say so.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            Self::Layer { source, .. }
            | Self::Aside { source, .. }
            | Self::Warm(WarmError::Io { source, .. }) => is_full(source),
            Self::Warm(WarmError::Upper { source, .. }) => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }

    pub(super) fn roots(path: &Path, error: Errno) -> Self {
        Self::Roots {
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

impl Transient for CollectError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_transient())
    }
}
