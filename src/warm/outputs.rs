use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

use super::WarmError;
use crate::nix::derivation::parse_outputs;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// Most bytes of a derivation: the largest real ones have a few million.
const MOST_BYTES: u64 = 64 << 20;

/// The lower store directory, where derivations are read.
#[derive(Debug)]
pub(super) struct Objects {
    path: PathBuf,
    directory: OwnedFd,
}

impl Objects {
    pub(super) fn open(path: &Path) -> Result<Self, WarmError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(Self {
                path: path.to_owned(),
                directory,
            }),
            Err(error) => Err(WarmError::Io {
                path: path.to_owned(),
                source: error.into(),
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
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.directory,
            derivation.as_str(),
            flags,
            Mode::empty(),
        )?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "expected a regular file",
            ));
        }
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text)?;
        Ok(text)
    }
}
