use std::io;
use std::path::PathBuf;

use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::lower::{LowerError, Transient};
use crate::nix::store_path::StorePath;
use crate::remedy::{self, HasRemedy, Remedy, command};
use crate::sqlite::open;

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The lower store cannot be read.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Wanted paths that are not valid below.
    #[error("not valid in the lower store: {}", list(.0))]
    NotValid(Vec<StorePath>),
    /// Paths that something in a closure refers to, and that are not valid below.
    #[error(
        "incomplete in the lower store, which is damaged: {}",
        .0.iter().map(|(path, missing)| format!("{path} refers to {missing}, which is not valid"))
            .collect::<Vec<_>>().join("; ")
    )]
    Incomplete(Vec<(String, String)>),
    /// A derivation cannot be read, so its outputs are unknown.
    #[error(
        "cannot read the derivation {}: {what}; Nix cannot copy its metadata either",
        show_path(.path)
    )]
    Derivation {
        /// Its file in the lower store directory.
        path: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
    /// A file of the store cannot be used.
    #[error("cannot use {}: {source}", show_path(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a lower store told is more than any has.
    #[error(
        "the lower store has more than overstore takes: over 4194304 paths, or 4 GiB of metadata"
    )]
    TooMuch,
    /// The upper database loses what it had, again and again.
    #[error("rows of the upper database vanished again and again while the lower store was asked")]
    Restless,
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The upper database is not as Nix makes it.
    #[error(
        "the upper database {} is damaged or was tampered with: {what}",
        show_path(path)
    )]
    Tampered {
        /// The database.
        path: PathBuf,
        /// What was expected.
        what: String,
    },
    /// The upper database cannot be written.
    #[error("cannot write the upper database {}: {source}", show_path(.path))]
    Upper {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl HasRemedy for WarmError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Lower(error) => error.remedy(),
            Self::NotValid(_) => Remedy::say("add them there first").or("leave them out"),
            Self::Incomplete(_) => {
                Remedy::say("have its owner run `nix-store --verify --repair` there")
            }
            Self::Io { path, source } => {
                let remedy = remedy::of_file_system(source.kind(), path);
                match remedy.is_empty() {
                    true => LOOK.into(),
                    false => remedy,
                }
            }
            Self::Derivation { .. } => Remedy::say(
                "have its owner run `nix-store --verify --check-contents --repair` there",
            )
            .or("leave it out"),
            Self::Thread(_) => exhaustion::too_many_processes().1,
            Self::Tampered { .. } => LOOK.into(),
            Self::TooMuch => Remedy::say("see what answers there; copy some closures by their paths"),
            Self::Restless => Remedy::say("try again when the upper store is not being collected"),
            Self::Upper { source, path } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => Remedy::say(
                    "make room on its file system, and where temporary files are (`TMPDIR`, or /var/tmp)",
                )
                .run(command!["df", path]),
                _ => open::remedy_of(source, path),
            },
        }
    }
}

/// What helps where something is not as it should be.
const LOOK: &str = "see what is wrong with the store with `overstore check`";

/// Most items that a message lists.
pub(super) const MOST_LISTED: usize = 20;

fn list(paths: &[StorePath]) -> String {
    let shown: Vec<_> = paths
        .iter()
        .take(MOST_LISTED)
        .map(StorePath::as_str)
        .collect();
    let more = paths.len() - shown.len();
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    shown.join(", ") + &more
}

impl Transient for WarmError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Lower(error) if error.is_transient())
    }
}
