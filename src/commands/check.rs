//! `overstore check`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, ExitCode, Stdio};

use super::{Failure, description};
use crate::check::{self, Code, Finding, Part, Severity};
use crate::cli;
use crate::compare;
use crate::compare::Identity;
use crate::config::{MetadataSource, Store};
use crate::escape::show_lines;
use crate::linux::exhaustion;
use crate::nix::path_set::PathSet;
use crate::observe::{self, Depth};
use crate::records::Memory;
use crate::remedy::{Fault, HasRemedy, Remedy};
use crate::report::{self, CodesReport, Outcome, Report};

pub(super) fn run(arguments: &cli::Check, json: bool) -> Result<ExitCode, Failure> {
    let Some(store) = arguments.store.clone() else {
        // `--list`: the command line demands one of the two.
        CodesReport::new().print(json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let store = cli::StoreArgument { store };
    if arguments.nix && arguments.root.root.is_some() {
        return Err(Failure::refused(
            "--nix and --root exclude each other: Nix would open the store of the system to be \
             booted with this system's program and settings",
        )
        .remedy("leave one of them out"));
    }
    let loaded = description::load(&store, &arguments.root)?;
    let super::Loaded { store, system } = super::private::inside(loaded)?;
    let depth = Depth::Check {
        lower_names: arguments.lower,
    };
    let observed = observe::observe(&system, &store, depth).map_err(Failure::observing)?;
    let mut report = Report::new(report::Command::Check, &store.name);
    report.add_findings(check::check(&store, &observed));
    report.add_findings(across(&store, &observed, &report.findings));
    exhaustion::expect_none().map_err(Failure::observing)?;
    if let Err(failure) = look_closer(arguments, &store, &mut report) {
        // What was found before is told all the same.
        report.fail(failure.fault());
    }
    super::finish(&report, json)
}

/// What takes its time, or has others do something.
fn look_closer(arguments: &cli::Check, store: &Store, report: &mut Report) -> Result<(), Failure> {
    let set_up = !report.findings.iter().any(|it| it.code == Code::NotSetUp);
    if arguments.contents && set_up {
        contents(store, arguments.lower, report)?;
    }
    let well = matches!(report.outcome, Outcome::Done | Outcome::Unchanged);
    // Nix would make what is missing, in places that nobody meant, while the overlay is not there.
    if arguments.nix && well {
        report.add_findings(open_with_nix(store)?.into_iter().collect());
    }
    Ok(())
}

/// Compares the layers and the upper database, where both are there.
fn across(store: &Store, observed: &observe::Observed, known: &[Finding]) -> Vec<Finding> {
    // A silent daemon would be waited for once more.
    let silent = known.iter().any(|it| it.code == Code::LowerDaemonSilent);
    if silent || matches!(store.lower.source, MetadataSource::Ssh { .. }) {
        return Vec::new();
    }
    let there = [&observed.lower.directory, &observed.upper_layer.place];
    let database = matches!(observed.database.file, observe::FileFacts::File { .. });
    if !database || there.iter().any(|place| place.found.directory().is_none()) {
        return Vec::new();
    }
    match compare::across(store, &PathSet::default()) {
        Ok(across) => {
            let mut findings = check::compare::findings(store, &across);
            findings.retain(|finding| {
                let told =
                    |it: &Finding| (it.code, &it.subject) == (finding.code, &finding.subject);
                !check::follows_from_a_loss(observed, finding.code) && !known.iter().any(told)
            });
            findings.extend(lower_changed(store, observed));
            findings
        }
        // What is in the way was found already.
        Err(_) if known.iter().any(in_the_way) => Vec::new(),
        Err(error) => vec![
            Finding::at(Code::LayersUnreadable, &store.database())
                .expected("layers and databases that can be compared")
                .found(error.to_string())
                .remedy(error.remedy().or(Remedy::say(
                    "fix what is reported of the lower store and the upper database, then check again",
                )
                .run(store.command(["check"])))),
        ],
    }
}

/// Whether the lower store is the one that the upper database was made for, as far as that is known.
fn lower_changed(store: &Store, observed: &observe::Observed) -> Option<Finding> {
    let then = Memory::read(store).lower.and_then(|lower| lower.identity);
    let now = Identity::now(store, observed.lower.schema(), then.as_ref()).ok()??;
    check::compare::lower_changed(store, then.as_ref(), &now)
}

/// Hashes the objects, with a progress bar; an interrupt ends it early, and the report tells how far
/// it got.
fn contents(store: &Store, lower: bool, report: &mut Report) -> Result<(), Failure> {
    let found = super::with_hashing(|progress| compare::contents(store, lower, progress))?;
    let found = found.map_err(|error| Failure::doing("cannot hash the objects", error))?;
    report.add_findings(check::compare::damaged(store, &found));
    if found.interrupted {
        let why = format!(
            "interrupted: {} of {} objects were hashed",
            found.objects, found.of
        );
        report.fail(Fault::new(why));
    }
    Ok(())
}

/// Whether a finding can be why the layers cannot be compared.
fn in_the_way(finding: &Finding) -> bool {
    finding.severity == Severity::Error
        && matches!(finding.part, Part::LowerStore | Part::UpperDatabase)
}

/// Has the `nix` on `PATH` open the store.
fn open_with_nix(store: &Store) -> Result<Option<Finding>, Failure> {
    let url = store
        .reference()
        .render_for_all()
        .unwrap_or_else(|texts| texts.since_2_34);
    let features = store.experimental_features().join(" ");
    let mut command = Command::new("nix");
    command
        .args(["store", "info", "--store"])
        .arg(OsStr::from_bytes(url.as_bytes()))
        .arg("--extra-experimental-features")
        .arg(format!("nix-command {features}"))
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| {
        Failure::doing("cannot run nix", error).remedy("put Nix on PATH, or leave --nix out")
    })?;
    if output.status.success() {
        return Ok(None);
    }
    let message = show_lines(output.stderr.trim_ascii());
    Ok(Some(check::nix::refuses(
        store,
        "nix store info --store URL",
        &message,
    )))
}
