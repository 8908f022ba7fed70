//! `overstore completions` and `overstore manual`: made from the command line's definition.

use std::process::ExitCode;

use clap::CommandFactory;

use super::Failure;
use crate::cli::{Cli, Completions, Manual};
use crate::escape::show_path;

/// Prints a completion script.
pub(super) fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "overstore",
        &mut script,
    );
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manual pages, one for the program and one for each command.
pub(super) fn manual(arguments: &Manual) -> Result<ExitCode, Failure> {
    clap_mangen::generate_to(Cli::command(), &arguments.directory).map_err(|error| {
        let what = format!(
            "cannot write the manual pages to {}",
            show_path(&arguments.directory)
        );
        Failure::doing(what, error).remedy("name a directory that exists and that you may write to")
    })?;
    Ok(ExitCode::SUCCESS)
}
