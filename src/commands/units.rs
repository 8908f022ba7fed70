//! `overstore units`: the generator's work for a system that is not running.

use std::process::ExitCode;

use super::{Failure, description};
use crate::check;
use crate::cli;
use crate::config::names::REMOUNT_HOOK;
use crate::escape::{show_path, unit_value};
use crate::observe;
use crate::remedy::{Fault, HasRemedy};
use crate::report;
use crate::systemd::generator::conflict;
use crate::systemd::output::{Output, OutputError};
use crate::systemd::units::{Described, Places, units};

pub(super) fn run(arguments: &cli::Units) -> Result<ExitCode, Failure> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(|error| Failure::doing("cannot find this program", error))?,
    };
    for (flag, path) in [("program", &program), ("variables", &arguments.variables)] {
        if !path.is_absolute() {
            return Err(Failure::refused(format!(
                "`--{flag}`: expected an absolute path, found `{}`",
                show_path(path)
            ))
            .remedy("begin it with `/`"));
        }
    }
    if unit_value(&arguments.variables).is_none() {
        return Err(Failure::refused(format!(
            "`--variables`: expected a path that a unit can have, found `{}`",
            show_path(&arguments.variables)
        ))
        .remedy(
            "name one in UTF-8, without line ends, and without a space or a backslash at its end",
        ));
    }
    // What another system has is not looked at: there it is beside the program.
    let hook = match &arguments.program {
        Some(program) => Some(program.with_file_name(REMOUNT_HOOK)),
        None => observe::hook(),
    };
    let places = Places {
        program: &program,
        nix_daemon: &arguments.nix_daemon,
        variables: &arguments.variables,
        remount_hook: hook.as_deref(),
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
            Err(failure) if failure.configuration().is_some() => {
                failure.report();
                wrong += 1;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if let Some(Fault { what, remedy }) = conflict(&described, &stores) {
            let what = format!("{}: {what}", show_path(file));
            super::print_error(None, &Fault::new(what).remedy(remedy));
            wrong += 1;
            continue;
        }
        report::warn(&check::description::findings(&described.store));
        stores.push(described);
    }
    if wrong > 0 {
        return Err(Failure::refused(format!(
            "no units are written: {wrong} of {} descriptions cannot be used",
            arguments.files.len()
        )));
    }
    let files = units(&stores, places, &environment);
    let written = Output::open(&arguments.output).and_then(|output| {
        if !arguments.force {
            output.expect_empty()?;
        }
        output.write(&files)
    });
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(unwritten(error)),
    }
}

fn unwritten(error: OutputError) -> Failure {
    match error {
        OutputError::NotEmpty(_) => Failure::doing("no units are written", error).refusing(),
        OutputError::NotOurs(_) => {
            Failure::refused(format!("{error}; what else there was to be written is"))
                .remedy(error.remedy())
        }
        OutputError::Io { .. } => Failure::machine(error),
    }
}
