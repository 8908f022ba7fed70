//! Reports as entries of the journal.

use std::io;

use super::Report;
use crate::check::Severity;
use crate::systemd::journal::{Journal, Priority};

/// Sends a report: an entry a step, an entry a finding, with its code in the field `CODE`, and the
/// summary. The unit of a store adds the field `OVERSTORE_STORE` to all of them.
pub(super) fn send(journal: &Journal, report: &Report) -> io::Result<()> {
    for step in &report.steps {
        journal.send(Priority::Info, &format!("+ {}", step.text), &[])?;
    }
    for finding in &report.findings {
        let priority = match finding.severity {
            Severity::Error => Priority::Error,
            Severity::Warning => Priority::Warning,
            Severity::Note => Priority::Notice,
        };
        let code = finding.code.to_string();
        let message = format!(
            "[{code}] {}: expected {}; found {}; remedy: {}",
            finding.subject, finding.expected, finding.actual, finding.remedy
        );
        journal.send(priority, &message, &[("CODE", &code)])?;
    }
    for holder in &report.holders {
        let how = holder.how.join(", ");
        let message = format!("in use by process {} ({}): {how}", holder.pid, holder.name);
        journal.send(Priority::Error, &message, &[])?;
    }
    let priority = match report.outcome.exit_code() {
        0 => Priority::Info,
        _ => Priority::Error,
    };
    journal.send(priority, &report.summary(), &[])
}
