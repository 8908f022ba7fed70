//! `overstore down`.

use std::process::ExitCode;

use super::Failure;
use crate::cli;

pub(super) fn run(_arguments: &cli::Down, _json: bool) -> Result<ExitCode, Failure> {
    Err(Failure::Machine("not written yet".to_owned()))
}
