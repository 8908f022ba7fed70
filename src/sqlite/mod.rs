//! SQLite as Nix opens it, and as it is read here without a trace.

pub(crate) mod hardening;
pub(crate) mod header;
pub(crate) mod held;
pub(crate) mod open;
pub(crate) mod pending;
pub(crate) mod snapshot;
pub(crate) mod vfs;
pub(crate) mod wal;
