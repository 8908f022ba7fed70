//! Reports as text.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::wrap::wrap;
use super::{Command, Outcome, Report};
use crate::check::{Code, Finding, Severity};
use crate::escape::counted;

/// Writes a report for people. Styles are written as ANSI sequences; the stream strips them where
/// they are not wanted.
pub(super) fn write(
    out: &mut (impl Write + ?Sized),
    report: &Report,
    columns: Option<usize>,
) -> io::Result<()> {
    for step in &report.steps {
        let mark = if report.command == Command::Plan {
            "-"
        } else {
            "+"
        };
        let text = wrap(step.text.split(' '), 2, columns).replace('\n', "\n  ");
        writeln!(out, "{mark} {text}")?;
    }
    let mut part = None;
    let findings = match not_set_up(report) {
        true => &[],
        false => &report.findings[..],
    };
    for finding in findings {
        if part != Some(finding.part) {
            part = Some(finding.part);
            writeln!(out, "{}", bold(finding.part.as_str()))?;
        }
        write_finding(out, finding, columns)?;
    }
    writeln!(out, "{}", summary(report))
}

/// How far the text of a finding is indented.
const INDENT: usize = "    expected: ".len();

/// Writes a finding, its lines broken between words where there are that many `columns`.
pub(super) fn write_finding(
    out: &mut (impl Write + ?Sized),
    finding: &Finding,
    columns: Option<usize>,
) -> io::Result<()> {
    let style = severity_style(finding.severity);
    writeln!(
        out,
        "  {style}{}{style:#} [{}] {}",
        finding.severity.as_str(),
        finding.code,
        finding.subject
    )?;
    let wrapped = |text: &str| {
        let lines = text.split('\n');
        let lines = lines.map(|line| wrap(line.split(' '), INDENT, columns));
        lines.collect::<Vec<String>>().join("\n")
    };
    let remedy = finding.remedy.words();
    for (name, text) in [
        ("expected: ", wrapped(&finding.expected)),
        ("found:    ", wrapped(&finding.actual)),
        (
            "remedy:   ",
            wrap(remedy.iter().map(String::as_str), INDENT, columns),
        ),
    ] {
        // What has several lines stays in its column.
        let text = text.replace('\n', &format!("\n{:INDENT$}", ""));
        writeln!(out, "    {name}{text}")?;
    }
    Ok(())
}

/// Whether all there is to say is that the store was never set up: the last line does.
fn not_set_up(report: &Report) -> bool {
    report.command == Command::Check
        && matches!(&report.findings[..], [only] if only.code == Code::NotSetUp)
}

/// The last line: what it all amounts to.
pub(super) fn summary(report: &Report) -> String {
    let store = &report.store;
    if not_set_up(report)
        && let Some(finding) = report.findings.first()
    {
        return format!("{store}: was never set up; remedy: {}", finding.remedy);
    }
    let count = |severity| {
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let counts = match (errors, warnings) {
        (0, 0) => String::new(),
        (0, warnings) => format!(" ({})", counted(warnings as u64, "warning")),
        (errors, 0) => format!(" ({})", counted(errors as u64, "error")),
        (errors, warnings) => format!(
            " ({}, {})",
            counted(errors as u64, "error"),
            counted(warnings as u64, "warning")
        ),
    };
    match (report.command, report.outcome) {
        (Command::Up, Outcome::NotAsDescribed) => match report.mounted {
            Some(true) => format!("{store}: is mounted, and not as described{counts}"),
            _ => format!("{store}: is not mounted: not as described{counts}"),
        },
        (_, Outcome::NotAsDescribed) => format!("{store}: not as described{counts}"),
        (_, Outcome::Refused) => format!("{store}: refused{counts}"),
        (_, Outcome::Failed) => format!("{store}: failed{counts}"),
        (Command::Plan, Outcome::Unchanged) => format!("{store}: nothing to do{counts}"),
        (Command::Plan, Outcome::Done) => {
            format!(
                "{store}: {}{counts}",
                counted(report.steps.len() as u64, "step")
            )
        }
        (Command::Check, _) => format!("{store}: as described{counts}"),
        (Command::Down, Outcome::Unchanged) => format!("{store}: was not mounted{counts}"),
        (Command::Down, Outcome::Done) => format!("{store}: unmounted{counts}"),
        (_, Outcome::Unchanged) => format!("{store}: is up, nothing changed{counts}"),
        (_, Outcome::Done) => format!("{store}: is up{counts}"),
    }
}

fn severity_style(severity: Severity) -> Style {
    let color = match severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
        Severity::Note => AnsiColor::Cyan,
    };
    color.on_default().bold()
}

fn bold(text: &str) -> String {
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}
