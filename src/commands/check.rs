//! `overstore check`.

mod layers;
mod nix;

use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, description};
use crate::check::{self, Code};
use crate::cli;
use crate::compare;
use crate::config::Store;
use crate::linux::exhaustion;
use crate::linux::root::System;
use crate::observe::{self, Depth, Observed};
use crate::remedy::Fault;
use crate::report::{self, CodesReport, Outcome, Report};

/// What can be found at all.
pub(super) fn list(json: bool) -> Result<ExitCode, Failure> {
    CodesReport::new().print(json)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(
    arguments: &cli::Check,
    store: &cli::StoreArgument,
    json: bool,
) -> Result<ExitCode, Failure> {
    if arguments.nix && arguments.root.root.is_some() {
        return Err(Failure::refused(
            "--nix and --root exclude each other: Nix would open the store of the system to be \
             booted with this system's program and settings",
        )
        .remedy("leave one of them out"));
    }
    let loaded = description::load(store, &arguments.root)?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    let mut report = Report::new(report::Command::Check, &store.name);
    let observed = look(arguments, &store, &system, &mut report, json)?;
    exhaustion::expect_none().map_err(Failure::observing)?;
    if let Err(failure) = look_closer(arguments, &store, &observed, &mut report, json) {
        // What was found before is told all the same.
        report.fail(failure.fault());
    }
    super::finish(&report, json)
}

/// Looks at the machine, the layers and the databases.
fn look(
    arguments: &cli::Check,
    store: &Store,
    system: &System,
    report: &mut Report,
    json: bool,
) -> Result<Observed, Failure> {
    let work = LongWork::begin(OnInterrupt::End("nothing was changed"), json)?;
    work.step("looking at the machine");
    let depth = Depth::Check {
        lower_names: arguments.lower,
    };
    let observed = observe::observe(system, store, depth).map_err(Failure::observing)?;
    report.add_findings(check::check(store, &observed));
    work.step("comparing the layers with the databases");
    let across = layers::compare(store, &observed, &mut report.findings);
    report.add_findings(across);
    if arguments.lower {
        work.step("reading every row of the lower store");
        let wrong = layers::wrong_rows(store);
        report.add_findings(check::for_this_user(store, &observed, wrong));
    }
    Ok(observed)
}

/// What takes its time, or has others do something.
fn look_closer(
    arguments: &cli::Check,
    store: &Store,
    observed: &Observed,
    report: &mut Report,
    json: bool,
) -> Result<(), Failure> {
    let set_up = !report.findings.iter().any(|it| it.code == Code::NotSetUp);
    if arguments.contents && set_up {
        contents(store, observed, arguments.lower, report, json)?;
    }
    let well = matches!(report.outcome, Outcome::Done | Outcome::Unchanged);
    // Nix would make what is missing, in places that nobody meant, while the overlay is not there.
    if arguments.nix && well {
        let found = nix::open(store, observed)?;
        let found = found.into_iter().chain(check::nix::collector_fails(store));
        report.add_findings(check::for_this_user(store, observed, found.collect()));
    }
    Ok(())
}

/// Hashes the objects, with a progress bar; an interrupt ends it early, and the report tells how far
/// it got.
fn contents(
    store: &Store,
    observed: &Observed,
    lower: bool,
    report: &mut Report,
    json: bool,
) -> Result<(), Failure> {
    let found = super::with_hashing(json, |counts| compare::contents(store, lower, counts))?;
    let found = found.map_err(|error| Failure::doing("cannot hash the objects", error))?;
    let damaged = check::compare::damaged(store, &found);
    report.add_findings(check::for_this_user(store, observed, damaged));
    if found.interrupted {
        let why = format!(
            "interrupted: {} of {} objects were hashed",
            found.objects, found.of
        );
        report.fail(Fault::new(why));
    }
    Ok(())
}
