//! The layers and the upper database, compared.

use std::os::unix::ffi::OsStrExt;

use crate::check::{self, Code, Finding, Part, Severity};
use crate::compare::{self, Identity};
use crate::config::{MetadataSource, Store};
use crate::lower::sqlite::{SqliteSource, WrongRows};
use crate::lower::{self, LowerError};
use crate::nix::layout;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::observe::{FileFacts, Observed};
use crate::records::Memory;
use crate::remedy::{HasRemedy, Remedy};

/// How many wrong rows are told one by one.
const MOST_TOLD: usize = 10;

/// Compares the layers and the upper database, where both are there. What is known already is not
/// found again, and what follows from that is kept there.
pub(super) fn compare(store: &Store, observed: &Observed, known: &mut [Finding]) -> Vec<Finding> {
    if !can_be_compared(store, observed, known) {
        return Vec::new();
    }
    match compare::across(store, &PathSet::default()) {
        Ok(across) => {
            let found = check::compare::findings(store, &across);
            let mut findings = check::for_this_user(store, observed, found);
            let told = |it: &Finding, finding: &Finding| {
                (it.code, &it.subject) == (finding.code, &finding.subject)
            };
            findings.retain(|finding| !known.iter().any(|it| told(it, finding)));
            let (consequences, mut findings): (Vec<_>, Vec<_>) = findings
                .into_iter()
                .partition(|finding| check::follows_from_a_loss(observed, finding.code));
            if let Some(loss) = known.iter_mut().find(|it| it.code.is_a_loss()) {
                loss.explains(consequences);
            }
            let changed = lower_changed(store, observed).into_iter().collect();
            findings.extend(check::for_this_user(store, observed, changed));
            findings
        }
        Err(error) => {
            let finding = Finding::at(Code::LayersUnreadable, &store.database())
                .expected("layers and databases that can be compared")
                .found(error.to_string())
                .remedy(error.remedy().or(Remedy::say(
                    "fix what is reported of the lower store and the upper database, then check again",
                )
                .run(store.command(["check"]))));
            // What is in the way was found already.
            match known.iter_mut().find(|it| in_the_way(it)) {
                Some(cause) => {
                    cause.explains([finding]);
                    Vec::new()
                }
                None => check::for_this_user(store, observed, vec![finding]),
            }
        }
    }
}

/// The rows of the lower databases that Nix cannot read. What keeps a database from being read is
/// found elsewhere.
pub(super) fn wrong_rows(store: &Store) -> Vec<Finding> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let (mut findings, mut source) = (Vec::new(), Some(&store.lower.source));
    while let Some(here) = source {
        let (state, below) = match here {
            MetadataSource::Database { state, .. } => (state, None),
            MetadataSource::Overlay { state, lower, .. } => (state, Some(&lower.source)),
            MetadataSource::Daemon { .. } | MetadataSource::Ssh { .. } => break,
        };
        let open = || SqliteSource::open(&layout::database(state), directory.clone()).map(Box::new);
        let wrong: Result<WrongRows, LowerError> = lower::retry(open, |source| {
            let wrong = source.wrong_rows(MOST_TOLD)?;
            source.confirmed()?;
            Ok(wrong)
        });
        if let Ok(wrong) = wrong {
            findings.extend(check::compare::lower_rows(&wrong));
        }
        source = below;
    }
    findings
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
