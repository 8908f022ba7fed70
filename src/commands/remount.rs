//! `overstore remount`, and the same as Nix's `remount-hook`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::Failure;
use crate::cli;

pub(super) fn run(_arguments: &cli::Remount) -> Result<ExitCode, Failure> {
    Err(Failure::Machine("not written yet".to_owned()))
}

/// What Nix calls: `overstore-remount DIRECTORY`.
///
/// # Errors
/// Only when the remount failed.
pub fn hook(_arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    Err(Failure::Machine("not written yet".to_owned()))
}
