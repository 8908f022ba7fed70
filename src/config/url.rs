//! From a description to the text that Nix takes: the store URL, the clients' URL, the experimental
//! features.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Lower, MetadataSource, Store};
use crate::nix::layout::STORE_DIR;
use crate::nix::url::{StoreKind, StoreReference};

/// Settings of a local-overlay store that `[parameters]` is for (2.26 to 2.36). Others are passed on
/// too: a newer Nix may have more.
pub(super) const PASSED_ON: &[&str] = &[
    "build-dir",
    "ignore-gc-delete-failure",
    "path-info-cache-size",
    "priority",
    "require-sigs",
    "system-features",
    "trusted",
    "use-roots-daemon",
    "want-mass-query",
];

impl Store {
    /// The store as Nix opens it: what [`StoreReference::render_for_all`] makes the store URL of.
    pub fn reference(&self) -> StoreReference {
        let mut reference = StoreReference::new(StoreKind::LocalOverlay);
        let mut set = |name, path: &Path| reference.set(name, path.as_os_str().as_bytes());
        if let Some(root) = &self.root {
            set("root", root);
        }
        for (name, path) in [
            ("store", &self.store),
            ("real", &self.real),
            ("state", &self.state),
            ("log", &self.log),
        ] {
            if path.given {
                set(name, path);
            }
        }
        reference.set("lower-store", self.lower.reference.clone());
        reference.set("upper-layer", self.upper_layer.as_os_str().as_bytes());
        if !self.check_mount.value {
            reference.set("check-mount", false);
        }
        if let Some(hook) = &self.remount_hook {
            reference.set("remount-hook", hook.as_os_str().as_bytes());
        }
        for (name, value) in &self.parameters {
            reference.set(name, value.as_str());
        }
        reference
    }

    /// The store as the users of its daemon open it. Nix needs to be told where the objects and the
    /// logs are, unless they are where every store of the system is.
    ///
    /// `socket` is the daemon's; `None` is the one the description says, else `system_socket`, which
    /// Nix knows by itself.
    pub fn client_reference(&self, socket: Option<&Path>, system_socket: &Path) -> StoreReference {
        let socket = socket
            .or(self.daemon.as_ref().map(|daemon| daemon.socket.as_path()))
            .unwrap_or(system_socket);
        let mut told = Vec::new();
        if let Some(root) = &self.root {
            told.push(("root", root.as_path()));
        }
        if self.store.value != Path::new(STORE_DIR) {
            told.push(("store", &self.store));
        }
        if self.real.given || (self.root.is_none() && self.real.value != self.store.value) {
            told.push(("real", &self.real));
        }
        if self.log.given {
            told.push(("log", &self.log));
        }
        let kind = if told.is_empty() && socket == system_socket {
            StoreKind::Daemon { socket: None }
        } else {
            StoreKind::Daemon {
                socket: Some(socket.as_os_str().as_bytes().to_vec()),
            }
        };
        let mut reference = StoreReference::new(kind);
        for (name, path) in told {
            reference.set(name, path.as_os_str().as_bytes());
        }
        reference
    }

    /// The experimental features that Nix needs to open the store.
    pub fn experimental_features(&self) -> Vec<&'static str> {
        let mut features = vec!["local-overlay-store"];
        let read_only = self.parameters.iter().any(|(name, value)| {
            name == "read-only" && matches!(value.as_str(), "true" | "yes" | "1")
        });
        if read_only
            || any(&self.lower, &|source| {
                matches!(
                    source,
                    MetadataSource::Database {
                        read_only: true,
                        ..
                    } | MetadataSource::Overlay {
                        read_only: true,
                        ..
                    }
                )
            })
        {
            features.push("read-only-local-store");
        }
        if any(&self.lower, &|source| {
            matches!(source, MetadataSource::Ssh { .. })
        }) {
            features.push("mounted-ssh-store");
        }
        features
    }
}

/// Whether the metadata source of a lower store, or of one below it, is of some kind.
fn any(lower: &Lower, is: &impl Fn(&MetadataSource) -> bool) -> bool {
    is(&lower.source)
        || matches!(&lower.source, MetadataSource::Overlay { lower, .. } if any(lower, is))
}
