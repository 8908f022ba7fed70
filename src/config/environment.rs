//! What a description takes from the environment, as a value.

use std::path::PathBuf;

use crate::nix::layout;

/// What a description takes from the environment of the one who will open the store: the variables
/// that Nix reads, and what `auto` means. [`crate::observe::environment`] reads it off a machine.
///
/// The default is a machine without any of the variables, where `auto` is the local store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NIX_STATE_DIR`, if it is set and not empty.
    pub state_dir: Option<PathBuf>,
    /// `NIX_LOG_DIR`, likewise.
    pub log_dir: Option<PathBuf>,
    /// `NIX_STORE_DIR`, else `NIX_STORE`, likewise.
    pub store_dir: Option<PathBuf>,
    /// `NIX_DAEMON_SOCKET_PATH`, likewise.
    pub daemon_socket: Option<PathBuf>,
    /// What `auto` is for the user who runs overstore.
    pub auto: Auto,
    /// What `auto` is for root, who runs the daemon that serves a store.
    pub auto_for_root: Auto,
    /// The remount hook that is used unless the description names one: `overstore-remount` beside
    /// the running program. Where there is none, it is the link that `up` makes in the state
    /// directory.
    pub remount_hook: Option<PathBuf>,
    /// Where an ordinary user keeps stores of their own: what such a description leaves out is in a
    /// directory there that has the store's name. Nothing for stores of the system.
    pub own_stores: Option<PathBuf>,
}

/// What Nix opens as `auto` (source: `openStore`, the same in 2.26 and 2.34).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auto {
    /// `local`: the state directory can be read and written, or there is no daemon either.
    #[default]
    Local,
    /// `daemon`: it cannot, and the daemon's socket is there.
    Daemon,
    /// A local store with this root, in the user's home: neither the state directory nor the socket
    /// is there, and the user is not root.
    InHome(PathBuf),
}

impl Environment {
    /// The state directory of the system's own store.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(layout::STATE_DIR))
    }

    /// The socket of the system's daemon.
    pub fn socket(&self) -> PathBuf {
        match &self.daemon_socket {
            Some(socket) => socket.clone(),
            None => self.state_dir().join(layout::DAEMON_SOCKET),
        }
    }
}
