//! The `overstore` program: arguments to command, error to exit code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use overstore::{cli::Cli, commands, systemd::generator};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let result = match Path::new(&name).file_name() {
        Some(name) if name == "overstore-remount" => commands::remount_hook(arguments),
        Some(name) if name == "overstore-generator" => return generator::main(arguments),
        _ => match Cli::try_parse() {
            Ok(cli) => commands::run(cli),
            Err(error) => return commands::not_run(&error),
        },
    };
    result.unwrap_or_else(|failure| failure.report())
}
