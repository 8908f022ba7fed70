use std::io;
use std::path::{Path, PathBuf};

use crate::apply;
use crate::check::Finding;
use crate::collect::CollectError;
use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::lower::{LowerError, Transient};
use crate::remedy::{self, CommandLine, HasRemedy, Remedy, command};
use crate::warm::WarmError;

/// Why a store could not be reconciled, or not looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A database or a daemon cannot be read.
    #[error(transparent)]
    Source(#[from] LowerError),
    /// A layer or roots cannot be read or changed.
    #[error(transparent)]
    Layers(#[from] CollectError),
    /// Something in a layer or in the old store cannot be read.
    #[error("cannot read {}: {source}", show_path(path))]
    Read {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something in the upper layer cannot be written.
    #[error("cannot write {}: {source}", show_path(path))]
    Write {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The upper database cannot be written.
    #[error(transparent)]
    Rows(#[from] WarmError),
    /// Somebody else has the store.
    #[error(transparent)]
    Locked(apply::Error),
    /// It is mounted.
    #[error("the store is mounted: {who}")]
    Mounted {
        /// Where.
        who: String,
        /// The command that unmounts it.
        down: CommandLine,
    },
    /// A Nix has it open.
    #[error("{} is locked by {holder}, which has the store open", show_path(path))]
    Open {
        /// Nix's lock.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// Something is wrong with it that is not put right by this.
    #[error("the store is not as described: {}", .0.first().map_or("", |it| it.code.as_str()))]
    NotAsDescribed(Vec<Finding>),
    /// The lower store has another store directory.
    #[error(
        "the paths of the lower store begin with {found}, and those of this store with {expected}"
    )]
    StoreDirectory {
        /// The lower store's, shown.
        found: String,
        /// This store's, shown.
        expected: String,
    },
    /// What has to be carried does not fit.
    #[error(
        "{} has {free} bytes free, and what has to be carried takes {needed}",
        show_path(path)
    )]
    Room {
        /// The upper layer.
        path: PathBuf,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nix could not be run.
    #[error("cannot run nix-store: {0}")]
    Nix(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

impl ReconcileError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

impl HasRemedy for ReconcileError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Layers(error) => error.remedy(),
            Self::Rows(error) => error.remedy(),
            Self::Locked(error) => error.remedy(),
            Self::Mounted { down, .. } => down.clone().into(),
            Self::Open { .. } => Remedy::say("end that process, or wait until it has ended"),
            Self::NotAsDescribed(_) => Remedy::say("follow what is printed above"),
            Self::StoreDirectory { .. } => {
                Remedy::say("name the right store as `lower-store`, or correct `store`")
            }
            Self::Room { path, .. } => {
                Remedy::say("make room on its file system").run(command!["df", path])
            }
            Self::Nix(_) => Remedy::say("install Nix, or put its `nix-store` on PATH"),
            Self::Read { path, source } | Self::Write { path, source } => {
                remedy::of_io(source, path)
            }
            Self::Thread(_) => exhaustion::too_many_processes().1,
        }
    }
}

impl Transient for ReconcileError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Layers(error) => error.is_transient(),
            _ => false,
        }
    }
}
