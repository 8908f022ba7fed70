//! `overstore units`: the generator's work for a system that is not running.

use std::path::Path;
use std::process::ExitCode;

use super::{Failure, description};
use crate::check;
use crate::cli;
use crate::config::Environment;
use crate::config::names::REMOUNT_HOOK;
use crate::escape::{show_path, unit_value};
use crate::observe;
use crate::remedy::{Fault, HasRemedy};
use crate::report;
use crate::systemd::generator::{conflict, publication_conflict};
use crate::systemd::output::{Output, OutputError};
use crate::systemd::publications::{DescribedPublication, publication_units};
use crate::systemd::units::{Described, Places, units};

pub(super) fn run(arguments: &cli::Units) -> Result<ExitCode, Failure> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(|error| Failure::doing("cannot find this program", error))?,
    };
    refuse_unusable_paths(&program, &arguments.variables)?;
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

    let mut wrong = 0;
    let stores = described_stores(arguments, &environment, &mut wrong)?;
    let publications = described_publications(arguments, &mut wrong)?;
    if wrong > 0 {
        return Err(Failure::refused(format!(
            "no units are written: {wrong} of {} descriptions cannot be used",
            arguments.files.len() + arguments.publication.len()
        )));
    }
    let mut files = units(&stores, places, &environment);
    files.extend(publication_units(&publications, places));
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

fn refuse_unusable_paths(program: &Path, variables: &Path) -> Result<(), Failure> {
    for (flag, path) in [("program", program), ("variables", variables)] {
        if !path.is_absolute() {
            return Err(Failure::refused(format!(
                "`--{flag}`: expected an absolute path, found `{}`",
                show_path(path)
            ))
            .remedy("begin it with `/`"));
        }
    }
    if unit_value(variables).is_none() {
        return Err(Failure::refused(format!(
            "`--variables`: expected a path that a unit can have, found `{}`",
            show_path(variables)
        ))
        .remedy(
            "name one in UTF-8, without line ends, and without a space or a backslash at its end",
        ));
    }
    Ok(())
}

/// The stores that can be used; the others are reported and counted.
fn described_stores(
    arguments: &cli::Units,
    environment: &Environment,
    wrong: &mut usize,
) -> Result<Vec<Described>, Failure> {
    let mut stores: Vec<Described> = Vec::new();
    for file in &arguments.files {
        let store = description::read_file(file, environment);
        let described = store.map(|store| Described {
            store,
            file: file.clone(),
        });
        match usable(file, described, |described| conflict(described, &stores))? {
            None => *wrong += 1,
            Some(described) => {
                report::warn(&check::description::findings(&described.store));
                stores.push(described);
            }
        }
    }
    Ok(stores)
}

/// As [`described_stores`], for publications.
fn described_publications(
    arguments: &cli::Units,
    wrong: &mut usize,
) -> Result<Vec<DescribedPublication>, Failure> {
    let mut publications: Vec<DescribedPublication> = Vec::new();
    for file in &arguments.publication {
        let publication = description::read_publication(file);
        let described = publication.map(|publication| DescribedPublication {
            publication,
            file: file.clone(),
        });
        let conflict = |it: &DescribedPublication| publication_conflict(it, &publications);
        match usable(file, described, conflict)? {
            None => *wrong += 1,
            Some(described) => publications.push(described),
        }
    }
    Ok(publications)
}

/// What was described, if it can be used; what is wrong with it, or with it beside the others, is
/// printed.
fn usable<T>(
    file: &Path,
    described: Result<T, Failure>,
    conflict: impl FnOnce(&T) -> Option<Fault>,
) -> Result<Option<T>, Failure> {
    match described {
        Ok(described) => match conflict(&described) {
            None => Ok(Some(described)),
            Some(Fault { what, remedy }) => {
                let what = format!("{}: {what}", show_path(file));
                super::print_error(None, &Fault::new(what).remedy(remedy));
                Ok(None)
            }
        },
        Err(failure) if failure.configuration().is_some() => {
            failure.report();
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn unwritten(error: OutputError) -> Failure {
    match error {
        OutputError::NotEmpty(_) => Failure::doing("no units are written", error).refusing(),
        OutputError::NotOurs(_) => {
            Failure::refused(format!("{error}; everything else was written")).remedy(error.remedy())
        }
        OutputError::Io { .. } => Failure::machine(error),
    }
}
