//! What a command tells: text for people, JSON for scripts.

mod bug_report;
mod codes;
mod error;
mod gc;
mod journal;
mod list;
pub(crate) mod metrics;
mod optimise;
mod publish;
mod reconcile;
mod refresh;
mod secrets;
mod status;
mod text;
mod url;
mod warm;
mod wrap;

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use crate::apply::Holder;
use crate::check::{Finding, Severity};
use crate::plan::StepReport;
use crate::remedy::{Fault, Remedy};
use crate::systemd::journal::Journal;

pub(crate) use bug_report::{BugReport, Section};
pub(crate) use codes::CodesReport;
pub(crate) use error::ErrorReport;
pub(crate) use gc::{GcReport, KeptReport, LeftReport, ObjectReport, RemovedReport, WhyReport};
pub(crate) use list::{ListReport, ListedReport, OfStore, State, StoresReport};
pub(crate) use optimise::OptimiseReport;
pub(crate) use publish::{ImageReport, LowerCheckReport, PublishReport, PublishedReport};
pub(crate) use reconcile::{MissingReport, ReconcileReport, WithoutRowReport};
pub(crate) use refresh::RefreshReport;
pub(crate) use status::{
    CollectedReport, Content, FileSystemReport, GenerationReport, NowReport, OpenReport,
    RefreshedReport, SizesReport, StatusReport, WarmedReport,
};
pub(crate) use url::{UrlByVersion, UrlReport};
pub(crate) use warm::WarmReport;

/// The result of `up`, `down`, `plan` and `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    /// The version of this format: 1.
    pub version: u32,
    /// The command.
    pub command: Command,
    /// The store's name.
    pub store: String,
    /// How it went.
    pub outcome: Outcome,
    /// Whether the overlay is mounted now. Not told by `down` and `plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted: Option<bool>,
    /// The steps: done (`up`, `down`) or to be done (`plan`).
    pub steps: Vec<StepReport>,
    /// What is not as it should be: grouped by part from below upwards, the worst of each first.
    pub findings: Vec<Finding>,
    /// The processes that keep the mount busy, if that stopped `down`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Why the command stopped, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What fixes that.
    #[serde(flatten)]
    pub remedy: Option<Remedy>,
}

/// The commands whose result is a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    /// `overstore up`.
    Up,
    /// `overstore down`.
    Down,
    /// `overstore plan`.
    Plan,
    /// `overstore check`.
    Check,
}

/// How a command went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// What was asked for is done.
    Done,
    /// There was nothing to do.
    Unchanged,
    /// The store is not as described: at least one finding is an error.
    NotAsDescribed,
    /// The command line or the configuration is wrong.
    Refused,
    /// The machine would not do it.
    Failed,
}

impl Outcome {
    /// The exit code that says the same.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Outcome::Done | Outcome::Unchanged => 0,
            Outcome::NotAsDescribed => 1,
            Outcome::Refused => 2,
            Outcome::Failed => 3,
        }
    }
}

impl Report {
    /// A report of nothing so far.
    pub(crate) fn new(command: Command, store: &str) -> Report {
        Report {
            version: 1,
            command,
            store: store.to_owned(),
            outcome: Outcome::Unchanged,
            mounted: None,
            steps: Vec::new(),
            findings: Vec::new(),
            holders: Vec::new(),
            failure: None,
            remedy: None,
        }
    }

    /// The machine would not do it: why, and what fixes that.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.outcome = Outcome::Failed;
        self.failure = Some(fault.what);
        self.remedy = fault.remedy.some();
    }

    /// What it all amounts to, in one line.
    pub(crate) fn summary(&self) -> String {
        text::summary(self)
    }

    /// Adds findings, in the order in which reports show them; an error among them makes the
    /// outcome [`Outcome::NotAsDescribed`].
    pub(crate) fn add_findings(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.findings
            .sort_by_key(|finding| (finding.part, std::cmp::Reverse(finding.severity)));
        if self
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Error)
        {
            self.outcome = Outcome::NotAsDescribed;
        }
    }

    /// The text without colours.
    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = text::write(&mut text, self, None);
        anstream::adapter::strip_str(&String::from_utf8_lossy(&text)).to_string()
    }

    /// Prints the report to standard output, as JSON or as text; where that is the journal, as
    /// entries with priorities and codes.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        if !json && let Some(journal) = Journal::behind(io::stdout()) {
            return journal::send(&journal, self);
        }
        let columns = wrap::columns(io::stdout());
        print(self, json, |out| text::write(out, self, columns))
    }
}

/// Prints a result to standard output: as JSON, or as the text that is written for people.
///
/// # Errors
/// When standard output cannot be written to.
pub(crate) fn print<T: Serialize>(
    result: &T,
    json: bool,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // Standard output by itself writes line by line, and a long result has many.
    if json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, result)?;
        writeln!(out)?;
        out.flush()
    } else {
        let mut out = io::BufWriter::new(anstream::stdout().lock());
        text(&mut out)?;
        out.flush()
    }
}

/// Prints findings to standard error: for commands whose result is something else.
pub(crate) fn warn(findings: &[Finding]) {
    let columns = wrap::columns(io::stderr());
    let mut out = anstream::stderr().lock();
    for finding in findings {
        // Nothing is left to tell it to if standard error cannot be written to.
        let _ = text::write_finding(&mut out, finding, columns);
    }
}

#[cfg(test)]
mod tests;
