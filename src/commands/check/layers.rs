//! The layers and the upper database, compared.

use crate::check::{self, Code, Finding, Part, Severity};
use crate::compare::{self, Identity};
use crate::config::{MetadataSource, Store};
use crate::nix::path_set::PathSet;
use crate::observe::{FileFacts, Observed};
use crate::records::Memory;
use crate::remedy::{HasRemedy, Remedy};

/// Compares the layers and the upper database, where both are there. What is known already is not
/// found again.
pub(super) fn compare(store: &Store, observed: &Observed, known: &[Finding]) -> Vec<Finding> {
    if !can_be_compared(store, observed, known) {
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

/// Whether all is there that is compared.
fn can_be_compared(store: &Store, observed: &Observed, known: &[Finding]) -> bool {
    // A silent daemon would be waited for once more.
    let silent = known.iter().any(|it| it.code == Code::LowerDaemonSilent);
    let by_ssh = matches!(store.lower.source, MetadataSource::Ssh { .. });
    let database = matches!(observed.database.file, FileFacts::File { .. });
    let mut layers = [&observed.lower.directory, &observed.upper_layer.place].into_iter();
    !silent && !by_ssh && database && layers.all(|place| place.found.directory().is_some())
}

/// Whether the lower store is the one that the upper database was made for, as far as that is known.
fn lower_changed(store: &Store, observed: &Observed) -> Option<Finding> {
    let then = Memory::read(store).lower.and_then(|lower| lower.identity);
    let now = Identity::now(store, observed.lower.schema(), then.as_ref()).ok()??;
    check::compare::lower_changed(store, then.as_ref(), &now)
}

/// Whether a finding can be why the layers cannot be compared.
fn in_the_way(finding: &Finding) -> bool {
    finding.severity == Severity::Error
        && matches!(finding.part, Part::LowerStore | Part::UpperDatabase)
}
