//! The `overstore` program: which of its names it was called by.

use std::path::Path;
use std::process::ExitCode;

use overstore::Cli;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let result = match Path::new(&name).file_name() {
        Some(name) if name == overstore::REMOUNT_HOOK => overstore::remount_hook(arguments),
        Some(name) if name == overstore::GENERATOR => return overstore::generator(arguments),
        _ => match Cli::read() {
            Ok(cli) => overstore::run(cli),
            Err(error) => return overstore::not_run(&error),
        },
    };
    result.unwrap_or_else(|failure| failure.report())
}
