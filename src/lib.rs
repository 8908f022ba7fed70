//! Sets up, checks and looks after Nix's local-overlay stores.
//!
//! A description is read ([`config`]), the machine is observed ([`observe`]), the two are compared
//! ([`check`]), the difference is applied ([`apply`]), and the outcome is reported ([`report`]).
//! Knowledge of other systems' formats stands apart: [`nix`], [`overlayfs`], [`systemd`].

pub mod apply;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
mod distrust;
pub mod lower;
pub mod namespace;
pub mod nix;
pub mod observe;
pub mod overlayfs;
pub mod path_set;
pub mod path_walk;
pub mod report;
pub mod show;
pub mod system;
pub mod systemd;
pub mod warm;

#[cfg(test)]
#[path = "../tests/it/support/skip.rs"]
mod skip;
