//! Reports as entries of the journal.

use std::io;

use super::Report;
use crate::check::Severity;
use crate::config::names::STORE_VARIABLE;
use crate::systemd::journal::{Journal, Priority};

/// Sends a report: an entry a step, an entry a finding, with its code in the field `CODE`, and the
/// summary. All have the store's name in the field `OVERSTORE_STORE`. The unit of a store wants it
/// added to what its processes write (`LogExtraFields=`), but the journal does not know the unit of a
/// process that has ended before it read the entry.
pub(super) fn send(journal: &Journal, report: &Report) -> io::Result<()> {
    let store = (STORE_VARIABLE, report.store.as_str());
    for step in &report.steps {
        journal.send(Priority::Info, &format!("+ {}", step.text), &[store])?;
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
        journal.send(priority, &message, &[store, ("CODE", &code)])?;
    }
    for holder in &report.holders {
        let how = holder.how.join(", ");
        let message = format!("in use by process {} ({}): {how}", holder.pid, holder.name);
        journal.send(Priority::Error, &message, &[store])?;
    }
    let priority = match report.outcome.exit_code() {
        0 => Priority::Info,
        _ => Priority::Error,
    };
    journal.send(priority, &report.summary(), &[store])
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::apply::Holder;
    use crate::check::{Code, Finding};
    use crate::report::Command;

    #[test]
    fn every_entry_tells_the_store_and_the_unit_itself() {
        let mut report = Report::new(Command::Down, "a");
        report.add_findings(vec![
            Finding::new(Code::MountMissing, "/a")
                .expected("b")
                .found("c")
                .remedy("d"),
        ]);
        report.holders.push(Holder {
            pid: 7,
            name: "e".to_owned(),
            how: Vec::new(),
        });
        report.fail(crate::remedy::Fault::new("f"));

        let (here, there) = UnixDatagram::pair().unwrap();
        send(&Journal::over(here, Some("overstore-a.service")), &report).unwrap();
        there.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut buffer = [0; 1000];
        while let Ok(length) = there.recv(&mut buffer) {
            entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(entries.len(), 3, "{entries:?}");
        for entry in entries {
            for field in [
                "OVERSTORE_STORE=a",
                "OBJECT_SYSTEMD_UNIT=overstore-a.service",
            ] {
                assert!(entry.lines().any(|line| line == field), "{field}: {entry}");
            }
        }
    }
}
