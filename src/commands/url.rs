//! `overstore url`.

use std::process::ExitCode;

use super::Failure;
use super::load::description;
use crate::cli;

pub(super) fn run(arguments: &cli::Url, _json: bool) -> Result<ExitCode, Failure> {
    let store = description(&arguments.store)?;
    println!(
        "{}",
        store
            .reference()
            .render(crate::nix::url::UrlRules::Since2_34)
    );
    Ok(ExitCode::SUCCESS)
}
