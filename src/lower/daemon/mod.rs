//! A daemon's socket, spoken to in Nix's worker protocol.
//!
//! Known from Nix's `src/libstore/worker-protocol*.{hh,cc}` and `daemon.cc`,
//! versions 2.26 to 2.36, and tried against the daemons of 2.26 and 2.34.

mod connection;
mod error;
mod stream;
mod wire;

pub use connection::{DaemonInfo, probe};
pub use error::DaemonError;
