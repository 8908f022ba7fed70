//! `overstore units`: the generator's work for a system that is not running.

use std::path::Path;
use std::process::ExitCode;

use super::{Failure, description};
use crate::check;
use crate::cli;
use crate::escape::show_path;
use crate::report;
use crate::systemd::generator::{conflict, write};
use crate::systemd::units::{Described, Places, units};

pub(super) fn run(arguments: &cli::Units) -> Result<ExitCode, Failure> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(|error| Failure::Machine(format!("cannot find this program: {error}")))?,
    };
    for (flag, path) in [("program", &program), ("variables", &arguments.variables)] {
        if !path.is_absolute() {
            return Err(Failure::Refused(format!(
                "`--{flag}`: expected an absolute path, found `{}`\nremedy: begin it with `/`",
                show_path(path)
            )));
        }
    }
    let places = Places {
        program: &program,
        nix_daemon: &arguments.nix_daemon,
        variables: &arguments.variables,
    };
    let environment = places.environment();

    let mut stores: Vec<Described> = Vec::new();
    let mut wrong = 0;
    for file in &arguments.files {
        let described = match description::read_file(file, &environment) {
            Ok(store) => Described {
                store,
                file: file.clone(),
            },
            Err(failure @ Failure::Configuration(_)) => {
                failure.report();
                wrong += 1;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if let Some(reason) = conflict(&described, &stores) {
            super::print_error(&format!("{}: {reason}", show_path(file)));
            wrong += 1;
            continue;
        }
        report::warn(&check::description::findings(&described.store));
        stores.push(described);
    }
    if wrong > 0 {
        return Err(Failure::Refused(format!(
            "no units are written: {wrong} of {} descriptions cannot be used",
            arguments.files.len()
        )));
    }
    let files = units(&stores, places, &environment);
    write(&arguments.output, &files).map_err(|error| unwritable(&arguments.output, &error))?;
    Ok(ExitCode::SUCCESS)
}

fn unwritable(output: &Path, error: &std::io::Error) -> Failure {
    Failure::Machine(format!(
        "cannot write the units to {}: {error}\nremedy: name a directory that has none of them yet, and that you may write to",
        show_path(output)
    ))
}
