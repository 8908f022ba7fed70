//! A daemon's socket, spoken to in Nix's worker protocol.
//!
//! The protocol is known from Nix's `worker-protocol*.{hh,cc}` and `daemon.cc`, versions 2.26 to
//! 2.36, and was tried against the daemons of 2.26 and 2.34.
//!
//! Why a client of our own:
//! - The `nix` program does not pipeline, so it is as slow as what it would replace; it needs Nix
//!   on the machine, experimental features, and its JSON has changed between versions.
//! - Of the crates that speak the protocol, nix-daemon (EUPL, tokio) and nix-remote (serving and
//!   proxying) send one request and wait for its answer, and nix-compat (GPL) is a preview.
//! - What is needed here is three requests out of fifty, and answers that are checked as hostile
//!   input: a few hundred lines without further dependencies.
//!
//! Only questions that a daemon answers without writing are asked: `QueryPathInfo` and
//! `QueryAllValidPaths`. `IsValidPath` is not one: behind the socket of an overlay store it copies
//! metadata.

pub(crate) mod connection;
mod error;
pub(crate) mod stream;
pub(crate) mod wire;

pub use connection::probe;
pub(crate) use error::DaemonError;
