//! `overstore plan`.

use std::process::ExitCode;

use super::{Failure, load};
use crate::cli;
use crate::observe::{self, Depth};
use crate::plan::{self, Step, StepReport};
use crate::report::{self, Outcome, Report};

pub(super) fn run(arguments: &cli::Plan, json: bool) -> Result<ExitCode, Failure> {
    let loaded = load(&arguments.store, &arguments.root)?;
    let observed =
        observe::observe(&loaded.system, &loaded.store, Depth::Up).map_err(Failure::observing)?;
    let mut report = Report::new(report::Command::Plan, &loaded.store.name);
    match plan::plan(&loaded.store, &observed, arguments.allowed.into()) {
        Ok(plan) => {
            report.steps = plan.steps.iter().map(Step::report).collect();
            let mounts = report.steps.iter().any(StepReport::is_mount);
            if mounts && loaded.store.warm.is_some() {
                report.steps.push(StepReport::warm(&loaded.store));
            }
            if !report.steps.is_empty() {
                report.outcome = Outcome::Done;
            }
        }
        Err(findings) => report.add_findings(findings),
    }
    super::finish(&report, json)
}
