//! Sets up, verifies and maintains Nix's local-overlay stores.
//!
//! The way of the data is the layout: a description is read, the machine is observed, the two are
//! compared, the difference is applied, and the outcome is reported. Each folder uses only those
//! above it:
//!
//! - [`escape`]: foreign bytes as text for people, shells and units.
//! - [`remedy`]: what fixes something, as a value.
//! - [`counts`]: how far long work is.
//! - [`linux`]: the kernel's facts: safe paths, locks, processes, namespaces, users.
//! - [`sqlite`]: SQLite as Nix and we open it: hardening, header, write-ahead log, snapshot.
//! - [`overlayfs`]: OverlayFS: options, the mount table, opaque marks and whiteouts.
//! - [`nix`]: Nix's formats: URLs, store paths, schema, NAR, derivations, the worker protocol.
//! - [`config`]: TOML to a validated store; errors that point into the file. Pure.
//! - [`lower`]: lower metadata sources: databases, daemons, nested stores. Read-only.
//! - [`compare`]: layers against databases: rows, objects, contents, sizes, fingerprints.
//! - [`records`]: what overstore remembers: mount records, the store's memory.
//! - [`observe`]: the machine as it is. Changes nothing.
//! - [`check`]: rules: a store as described and as observed, to findings. Pure.
//! - [`plan`]: the steps from the machine as observed to the store as described. Pure.
//! - [`apply`]: what changes the machine: the steps, each safe to repeat.
//! - [`warm`]: metadata copied from the lower store into the upper database.
//! - [`collect`]: garbage of the upper layer: roots, choice, deletion through Nix.
//! - [`reconcile`]: an upper store over another lower store than before.
//! - [`publish`]: generations of a lower store, made by its owner: databases, roots, retirement.
//! - [`systemd`]: units, notifications, the journal.
//! - [`report`]: outcomes as text and as JSON.
//! - [`cli`]: the command line.
//! - [`commands`]: one file a command.

#![warn(unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
// Foreign text is shown escaped, by `escape`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod apply;
mod check;
mod cli;
mod collect;
mod commands;
mod compare;
mod config;
mod counts;
mod escape;
mod linux;
mod lower;
mod nix;
mod observe;
mod overlayfs;
mod plan;
mod publish;
mod reconcile;
mod records;
mod remedy;
mod report;
mod sqlite;
mod systemd;
pub mod testing;
mod warm;

pub use cli::Cli;
pub use commands::{not_run, remount_hook, run};
pub use config::names::{GENERATOR, REMOUNT_HOOK};
pub use systemd::generator::main as generator;

#[cfg(test)]
#[path = "../tests/it/support/skip.rs"]
#[allow(unreachable_pub, reason = "the integration tests use it too")]
mod skip;
