//! `overstore manual`: pages made from the command line's definition.

use std::process::ExitCode;

use super::Failure;
use crate::cli::{self, Manual};
use crate::escape::show_path;

/// Writes the manual pages, one for the program and one for each command.
pub(super) fn manual(arguments: &Manual) -> Result<ExitCode, Failure> {
    clap_mangen::generate_to(cli::command(), &arguments.directory).map_err(|error| {
        let what = format!(
            "cannot write the manual pages to {}",
            show_path(&arguments.directory)
        );
        Failure::doing(what, error).remedy("name a directory that exists and that you may write to")
    })?;
    Ok(ExitCode::SUCCESS)
}
