//! `overstore new`.

use std::process::ExitCode;

use super::Failure;

pub(super) fn run() -> Result<ExitCode, Failure> {
    Err(Failure::Machine("not written yet".to_owned()))
}
