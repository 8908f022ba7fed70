use std::path::{Path, PathBuf};

use super::Transient;
use crate::escape::show_path;
use crate::nix::store_path::StorePath;
use crate::nix::worker_protocol::DaemonError;
use crate::remedy::{HasRemedy, Remedy};
use crate::sqlite::snapshot::SnapshotError;

/// Why a lower store's metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// Its database cannot be read as it is.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its daemon cannot be asked.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// SQLite cannot make sense of its database.
    #[error("cannot read the database {}: {source}", show_path(path))]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A table is missing, or is none that Nix makes.
    #[error(
        "{} is not a database of Nix: expected the table {table}, as Nix makes it",
        show_path(path)
    )]
    NotNix {
        /// The database.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// A table has something that no store has.
    #[error(
        "the database {} is damaged or was tampered with: {what}",
        show_path(path)
    )]
    Table {
        /// The database.
        path: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
    /// The metadata of a path is not what Nix could have written.
    #[error("the metadata of {path} in {origin} is wrong: {what}")]
    Row {
        /// The database or the socket.
        origin: String,
        /// The path.
        path: StorePath,
        /// What was expected, and what was found.
        what: String,
    },
    /// The daemon is on another machine.
    #[error("the metadata of a lower store at ssh://{authority} cannot be read from here")]
    Ssh {
        /// The authority of its URL: `user@host`.
        authority: String,
    },
}

impl HasRemedy for LowerError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Snapshot(error) => error.remedy(),
            Self::Daemon(error) => error.remedy(),
            Self::Sqlite { .. } | Self::Row { .. } => {
                Remedy::say("run `nix-store --verify` on that store, which says what is wrong")
            }
            Self::Ssh { .. } => Remedy::say("ask Nix itself").or("use a daemon's socket"),
            Self::NotNix { .. } => Remedy::say(
                "see whether it is the database of the store that is meant, and have its owner bring it \
                 back from a backup",
            ),
            Self::Table { .. } => Remedy::say("have its owner bring it back from a backup"),
        }
    }
}

impl LowerError {
    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite {
            path: path.to_owned(),
            source,
        }
    }
}

impl Transient for LowerError {
    /// Somebody wrote meanwhile.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Snapshot(error) if error.is_transient())
    }
}
