//! `overstore up`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::status::mounted_since;
use super::warm::Meanwhile;
use super::{Failure, Loaded, LongWork, OnInterrupt, load, private};
use crate::apply::{End, Progress, SetUp};
use crate::check::{self, Code, Finding, Severity};
use crate::cli;
use crate::config::{Store, WarmAtUp, WhenIncomplete};
use crate::escape::counted;
use crate::plan::StepReport;
use crate::records::Memory;
use crate::remedy::{CommandLine, Fault, Remedy, command};
use crate::report::{self, Outcome, Report, WarmReport};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Up, json: bool) -> Result<ExitCode, Failure> {
    // Before `--root` changes what the socket's path means.
    let manager = ServiceManager::from_environment();
    let loaded = load(&arguments.store, &arguments.root)?;
    private::refuse_own(&loaded.store)?;
    let set_up = SetUp {
        store: &loaded.store,
        system: &loaded.system,
        allowed: arguments.allowed.into(),
        remember: true,
        lasts: true,
    };
    let left = "what is done stays, and the next run does the rest";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    work.step("looking at the machine");
    let reconciled = super::reconcile::before_up(&loaded.store, &loaded.system, &manager, &work);
    let ended = set_up.run(&mut |progress| work.tell(&progress, &manager));
    let mut report = Report::new(report::Command::Up, &loaded.store.name);
    report.steps.extend(reconciled);
    report.steps.extend(ended.steps);
    if !report.steps.is_empty() {
        report.outcome = Outcome::Done;
    }
    match ended.end {
        End::Done(observed) => {
            report.mounted = Some(observed.mount.overlay.is_some());
            report.add_findings(check::check(&loaded.store, &observed));
            if let Some(wanted) = &loaded.store.warm {
                let mounted = mounted_since(&loaded.store, &loaded.system, &observed);
                let warmed = Memory::read(&loaded.store).warmed;
                // Once a mount, also where an earlier run was killed before it, or failed.
                let done =
                    mounted.is_some() && warmed.is_some_and(|warmed| warmed.after_mount == mounted);
                if !done || report.steps.iter().any(StepReport::is_mount) {
                    let meanwhile = Meanwhile {
                        work: &work,
                        manager: &manager,
                    };
                    warm(&loaded, wanted, mounted, &mut report, meanwhile);
                }
            }
        }
        End::Refused { findings, mounted } => {
            report.mounted = Some(mounted);
            report.add_findings(findings);
        }
        End::Failed(error) => report.fail(Fault::of(&error)),
    }
    drop(work);
    let summary = report.summary();
    let starts = arguments.unit && starts(&loaded.store, &report);
    match report.outcome {
        Outcome::Done | Outcome::Unchanged => manager.ready(&summary),
        _ if starts => manager.ready(&summary),
        _ => manager.status(&summary),
    }
    let code = super::finish(&report, json)?;
    manager.has_heard().map_err(Failure::machine)?;
    Ok(match starts {
        true => ExitCode::SUCCESS,
        false => code,
    })
}

/// Whether the store's unit counts as started: nothing is wrong, or the store is mounted and nothing
/// is worse than objects that are missing, and the description lets it start without them.
fn starts(store: &Store, report: &Report) -> bool {
    match report.outcome {
        Outcome::Done | Outcome::Unchanged => true,
        Outcome::NotAsDescribed => {
            let mut errors = report
                .findings
                .iter()
                .filter(|finding| finding.severity == Severity::Error);
            report.mounted == Some(true)
                && store.when_incomplete == WhenIncomplete::Start
                && errors.all(|finding| finding.code.is_of_a_missing_object())
        }
        Outcome::Refused | Outcome::Failed => false,
    }
}

/// Copies metadata, as the description wants it of a store that is mounted anew. The store is up
/// without it, so that a failure is a finding.
fn warm(
    loaded: &Loaded,
    wanted: &WarmAtUp,
    mounted: Option<u64>,
    report: &mut Report,
    meanwhile: Meanwhile<'_>,
) {
    let store = &loaded.store;
    let mut step = StepReport::warm(store);
    let Meanwhile { work, manager } = meanwhile;
    work.tell(&Progress::Step(&step), manager);
    let mut warmed = WarmReport::new(&store.name);
    match super::warm::copy(
        store,
        &loaded.system,
        wanted,
        &mut warmed,
        mounted,
        meanwhile,
    ) {
        Ok(()) => {
            step.text = format!("{}: {}", step.text, warmed.summary());
            report.steps.push(step);
            if report.outcome == Outcome::Unchanged {
                report.outcome = Outcome::Done;
            }
            if warmed.left_out > 0 {
                let wrong = warmed.wrong.join("; ");
                let paths = counted(warmed.left_out, "path");
                let found = format!("{paths} left out, whose metadata below is wrong: {wrong}");
                let owner = "have the lower store's owner run `nix-store --verify` there";
                report.add_findings(vec![warm_failed(store, found).remedy(Remedy::say(owner))]);
            }
        }
        Err(failure) => {
            let Fault { what, remedy } = failure.fault();
            let again = Remedy::say("once that is fixed, or `[warm]` is corrected, run it by hand");
            let remedy = remedy.or(again.run(by_hand(store, wanted)));
            report.add_findings(vec![warm_failed(store, what).remedy(remedy)]);
        }
    }
}

/// Not all was copied up that should be.
fn warm_failed(store: &Store, found: String) -> Finding {
    Finding::at(Code::WarmFailed, &store.database())
        .expected("the metadata that `warm` in the configuration names, copied")
        .found(found)
}

/// The command that does the same.
fn by_hand(store: &Store, wanted: &WarmAtUp) -> CommandLine {
    let mut options: Vec<OsString> = Vec::new();
    options.extend(wanted.all.then(|| "--all".into()));
    options.extend(wanted.keep.then(|| "--keep".into()));
    for directory in &wanted.roots {
        options.extend(["--roots".into(), directory.into()]);
    }
    command![store.program, "warm"]
        .with(options)
        .with(store.arguments.iter().cloned())
        .with(wanted.paths.iter().map(OsString::from))
}
