//! `overstore up`.

use std::process::ExitCode;

use super::{Failure, load, tell};
use crate::apply::{End, SetUp};
use crate::check;
use crate::cli;
use crate::report::{Outcome, Report};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Up, json: bool) -> Result<ExitCode, Failure> {
    // Before `--root` changes what the socket's path means.
    let manager = ServiceManager::from_environment();
    let loaded = load(&arguments.store, &arguments.root)?;
    let set_up = SetUp {
        store: &loaded.store,
        system: &loaded.system,
        fix_permissions: arguments.fix_permissions,
        remember: true,
    };
    let ended = set_up.run(&mut |progress| tell(&progress, &manager));
    let mut report = Report::new("up", &loaded.store.name);
    if !ended.steps.is_empty() {
        report.outcome = Outcome::Done;
    }
    report.steps = ended.steps;
    match ended.end {
        End::Done(observed) => report.add_findings(check::check(&loaded.store, &observed)),
        End::Refused(findings) => report.add_findings(findings),
        End::Failed(error) => report.fail(error.to_string()),
    }
    let summary = report.summary();
    match report.outcome {
        Outcome::Done | Outcome::Unchanged => manager.ready(&summary),
        _ => manager.status(&summary),
    }
    super::finish(&report, json)
}
