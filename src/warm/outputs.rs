use std::io;
use std::path::{Path, PathBuf};

use super::WarmError;
use crate::linux::regular_file;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::nix::derivation::parse_outputs;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// Most bytes of a derivation: the largest real ones have a few million.
const MOST_BYTES: u64 = 64 << 20;

/// The lower store directory, where derivations are read.
#[derive(Debug)]
pub(super) struct Objects {
    path: PathBuf,
    directory: Reached,
}

impl Objects {
    pub(super) fn open(path: &Path) -> Result<Self, WarmError> {
        match safe_path::directory(path, Symlinks::Follow) {
            Ok(directory) => Ok(Self {
                path: path.to_owned(),
                directory,
            }),
            Err(obstacle) => Err(WarmError::Io {
                path: path.to_owned(),
                source: obstacle.into(),
            }),
        }
    }

    /// The outputs of a derivation whose paths it knows, by name, in its order.
    pub(super) fn outputs(
        &self,
        derivation: &StorePath,
        store: &StoreDirectory,
    ) -> Result<Vec<(String, StorePath)>, WarmError> {
        self.read(derivation)
            .map_err(|error| error.to_string())
            .and_then(|text| parse_outputs(&text, store))
            .map_err(|what| WarmError::Derivation {
                path: self.path.join(derivation.as_str()),
                what,
            })
    }

    fn read(&self, derivation: &StorePath) -> io::Result<Vec<u8>> {
        // A store object may be a link to anywhere; a derivation never is one.
        let (name, links) = (derivation.as_str(), Symlinks::Refuse);
        Ok(regular_file::read_at(
            &self.directory,
            name,
            links,
            MOST_BYTES,
        )?)
    }
}
