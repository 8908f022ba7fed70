//! `overstore exec`.

use std::process::ExitCode;

use super::Failure;
use crate::cli;

pub(super) fn run(_arguments: &cli::Exec) -> Result<ExitCode, Failure> {
    Err(Failure::Machine("not written yet".to_owned()))
}
