//! Having Nix fetch what no old store has: from its substituters, whose signatures it verifies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::ReconcileError;
use crate::collect::{Layers, Programs, Settings, keep, nix_config, nix_url};
use crate::config::Store;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// Nix, which fetches into a store that is mounted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetcher<'a> {
    /// The store.
    pub store: &'a Store,
    /// Where Nix's programs are.
    pub programs: &'a Programs,
}

impl Fetcher<'_> {
    /// Whether Nix on this machine has anything to fetch from, as far as it tells.
    pub(crate) fn has_substituters(&self) -> bool {
        let settings = Settings::of(self.programs);
        let substituters = settings.value("substituters");
        let has_some = substituters.is_some_and(|it| !it.trim_ascii().is_empty());
        has_some && settings.value("substitute") != Some(b"false")
    }

    /// Has Nix fetch these objects: those that the upper layer has afterwards. What Nix says of the
    /// others goes to standard error.
    ///
    /// # Errors
    /// When Nix cannot be run, or the upper layer cannot be read.
    pub(crate) fn fetch(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ReconcileError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let url = nix_url(self.programs, self.store);
        for path in paths {
            let mut nix = self.nix(&url);
            let whole = directory.print(path);
            nix.arg(OsStr::from_bytes(&whole));
            // One that it does not get is no reason not to try the next.
            nix.status().map_err(ReconcileError::Nix)?;
        }
        let layers = Layers::open(self.store)?;
        let mut fetched = Vec::new();
        for path in paths {
            if layers.upper.has(path.as_str())? {
                fetched.push(path.clone());
            }
        }
        Ok(fetched)
    }

    fn nix(&self, url: &str) -> Command {
        let mut nix = self.programs.command("nix-store");
        nix.args(["--store", url, "--repair-path"])
            .env("NIX_CONFIG", nix_config(self.store, keep(self.programs)))
            .env_remove("NIX_REMOTE")
            .stdout(Stdio::null());
        nix
    }
}
