//! `overstore plan`.

use std::process::ExitCode;

use super::{Failure, load, private};
use crate::apply;
use crate::cli;
use crate::observe::{self, Depth};
use crate::plan::{self, Step, StepReport};
use crate::remedy::Fault;
use crate::report::{self, Outcome, Report};

pub(super) fn run(arguments: &cli::Plan, json: bool) -> Result<ExitCode, Failure> {
    let loaded = private::beside(load(&arguments.store, &arguments.root)?)?;
    let observed =
        observe::observe(&loaded.system, &loaded.store, Depth::Up).map_err(Failure::observing)?;
    let mut report = Report::new(report::Command::Plan, &loaded.store.name);
    let nothing_to_do = match plan::plan(&loaded.store, &observed, arguments.allowed.into()) {
        Ok(plan) => {
            report.steps = plan.steps.iter().map(Step::report).collect();
            let mounts = report.steps.iter().any(StepReport::is_mount);
            if mounts && loaded.store.warm.is_some() {
                report.steps.push(StepReport::warm(&loaded.store));
            }
            if !report.steps.is_empty() {
                report.outcome = Outcome::Done;
            }
            report.add_findings(plan.findings);
            report.steps.is_empty()
        }
        Err(findings) => {
            report.add_findings(findings);
            false
        }
    };
    // `up` looks no further.
    if !nothing_to_do && !observed.machine.can_mount {
        report.fail(Fault::of(&apply::Error::NotPermitted));
    }
    super::finish(&report, json)
}
