//! A lower store that is there already, looked at for its owner: sealed, or never published by us.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::PublishError;
use super::place;
use super::verify::{Failed, Problems, Verifying};
use crate::compare::Layer;
use crate::counts::Counts;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::sync;
use crate::lower;
use crate::lower::database::Database;
use crate::lower::publication::CURRENT;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::observe::{self, LowerFacts, SourceFacts};

/// A lower store: where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LowerStore {
    /// Its store directory.
    pub real: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
}

impl LowerStore {
    /// The one that a directory holds: the current generation of a publication, or a store with this
    /// root.
    ///
    /// # Errors
    /// When the directory is that of a publication, and what it is cannot be read.
    pub(crate) fn of(directory: &Path) -> Result<Self, PublishError> {
        Ok(match place::real_of(directory)? {
            Some(real) => Self {
                real,
                state: directory.join(CURRENT),
            },
            None => Self {
                real: directory.join("nix/store"),
                state: directory.join("nix/var/nix"),
            },
        })
    }

    /// Whether it is a store that Nix may change, and not a generation of a publication.
    pub(crate) fn is_live(&self, directory: &Path) -> bool {
        self.state != directory.join(CURRENT)
    }

    /// What consumers would find.
    ///
    /// # Errors
    /// When this machine cannot be looked at.
    pub(crate) fn observe(&self, system: &System) -> Result<LowerFacts, PublishError> {
        observe::observe_for_owner(system, &self.real, &self.state)
            .map_err(|error| PublishError::io("look at", &self.real, error))
    }

    /// Verifies every row, its object and its references; and with `contents`, every byte.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn verify(
        &self,
        store: &StoreDirectory,
        contents: Option<&Counts>,
    ) -> Result<Problems, PublishError> {
        let path = layout::database(&self.state);
        let objects = Layer {
            directory: safe_path::open_directory(&self.real, Symlinks::Follow)
                .map_err(|error| PublishError::io("open", &self.real, error))?,
            path: self.real.clone(),
        };
        lower::retry(
            || Ok(Box::new(Database::open(&path)?)),
            |database| {
                let sqlite = |source| PublishError::Sqlite {
                    action: "read",
                    path: path.clone(),
                    source,
                };
                let connection = Connection::open_in_memory().map_err(sqlite)?;
                database.attach(&connection, "lower")?;
                let verifying = Verifying {
                    connection: &connection,
                    name: "lower",
                    store,
                    objects: &objects,
                };
                let verified = verifying.run(contents).map_err(|failed| match failed {
                    Failed::Sqlite(source) => sqlite(source),
                    Failed::Across(error) => error.into(),
                    Failed::Objects(errno) => PublishError::io("look at", &self.real, errno),
                });
                // Whatever went wrong may come from a change meanwhile.
                database.confirm()?;
                Ok(verified?.problems)
            },
        )
    }

    /// Makes the directories and files that consumers' Nix wants to find and that are missing: which
    /// they were.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(crate) fn prepare(&self, facts: &LowerFacts) -> Result<Vec<PathBuf>, PublishError> {
        let SourceFacts::Database { missing, .. } = &facts.source else {
            return Ok(Vec::new());
        };
        for path in missing {
            let above = match path.strip_prefix(&self.state) {
                Ok(_) => &self.state,
                Err(_) => &self.real,
            };
            let below = path.strip_prefix(above).unwrap_or(path);
            make(above, below).map_err(|error| PublishError::io("make", path, error))?;
        }
        Ok(missing.clone())
    }
}

/// Makes a directory, or the file of reserved space, below one that is there, with what is missing on
/// the way.
fn make(above: &Path, below: &Path) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The state directory of a publication is behind its link.
    let mut here = safe_path::open_directory(above, Symlinks::Follow)?;
    let reserved = below == Path::new(layout::RESERVED);
    let names: Vec<&OsStr> = below.iter().collect();
    for (place, name) in names.iter().enumerate() {
        if reserved && place + 1 == names.len() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&here, *name, flags, Mode::from_raw_mode(0o600))?;
            std::fs::File::from(file).set_len(layout::RESERVED_SIZE)?;
            return Ok(sync::sync(&here)?);
        }
        match rustix::fs::mkdirat(&here, *name, Mode::from_raw_mode(layout::DIRECTORY_MODE)) {
            Ok(()) => sync::sync(&here)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        here = openat(&here, *name, flags, Mode::empty())?;
    }
    Ok(())
}
