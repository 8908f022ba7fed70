//! What only follows from something else that was found, and is not told beside it: whoever fixes
//! the cause is rid of it.

use super::{Code, Finding, Part, up};
use crate::config::Store;
use crate::observe::{FileFacts, Found, Observed};
use crate::remedy::Remedy;

/// A line for each kind of cause: any of these codes, of any of these parts (any part if none is
/// named), and the codes that follow.
const TABLE: &[(&[Code], &[Part], &[Code])] = &[
    // An overlay of something else was mounted by somebody else.
    (
        &[
            Code::LowerdirDiffers,
            Code::UpperdirDiffers,
            Code::WorkdirDiffers,
        ],
        &[],
        &[Code::MountCheckFails, Code::MountOptionsDiffer],
    ),
    // What belongs to somebody else is not to be fixed by this user.
    (
        &[Code::NotYours],
        &[],
        &[
            Code::UpperPermissions,
            Code::StatePermissions,
            Code::DatabasePermissions,
            Code::LinksNotOpaque,
            Code::MarksLost,
            Code::DatabaseLost,
            Code::UpperReplaced,
            Code::ObjectsLost,
            Code::PathUnsafe,
            Code::NotChecked,
            Code::RemountHookMissing,
            Code::RemountHookUnsafe,
            Code::LayersUnreadable,
            Code::DatabaseUnreadable,
        ],
    ),
    // What the kernel says too.
    (&[Code::StackingTooDeep], &[], &[Code::MountRefused]),
    // What such a file system cannot keep.
    (
        &[Code::UpperFileSystemUnfit],
        &[],
        &[Code::LinksNotOpaque, Code::UpperPermissions],
    ),
    // The way to the state directory is the way to the database.
    (
        &[
            Code::PathUnsafe,
            Code::PathUnreachable,
            Code::NotChecked,
            Code::StateMissing,
        ],
        &[Part::State],
        &[
            Code::DatabaseMissing,
            Code::DatabaseUnreadable,
            Code::SchemaIncomplete,
        ],
    ),
];

/// The findings without those that follow from others among them.
pub(super) fn only(store: &Store, observed: &Observed, findings: Vec<Finding>) -> Vec<Finding> {
    let mut causes: Vec<Finding> = Vec::new();
    for finding in &findings {
        if !follows(finding, &findings) && !causes.iter().any(|cause| is_same(cause, finding)) {
            causes.push(finding.clone());
        }
    }
    if observed.mount.overlay.is_some() {
        return causes;
    }
    let up = Remedy::from(up(store));
    // What `up` does as soon as nothing keeps it from it.
    if causes.iter().any(|finding| finding.stops_up) {
        causes.retain(|finding| finding.stops_up || finding.remedy != up);
    } else if nothing_is_there(observed) {
        causes.retain(|finding| finding.remedy != up);
        causes.push(
            Finding::at(Code::NotSetUp, &store.real)
                .expected("the store as described")
                .found("nothing: it was never set up")
                .remedy(up),
        );
    }
    causes
}

/// Whether a line of the table names a cause of this finding among the others.
fn follows(finding: &Finding, all: &[Finding]) -> bool {
    let of = |causes: &[Code], parts: &[Part]| {
        all.iter().any(|cause| {
            // What `up` makes is the cause of nothing.
            let made = cause.code == Code::StateMissing && !cause.stops_up;
            causes.contains(&cause.code)
                && (parts.is_empty() || parts.contains(&cause.part))
                && !made
        })
    };
    TABLE.iter().any(|(causes, parts, consequences)| {
        consequences.contains(&finding.code) && of(causes, parts)
    })
}

/// Whether two findings are of one cause: one component of several paths, fixed by one command.
fn is_same(one: &Finding, other: &Finding) -> bool {
    let of_paths = [Code::PathUnsafe, Code::PathUnreachable, Code::NotChecked];
    of_paths.contains(&one.code)
        && one.code == other.code
        && one.actual == other.actual
        && one.remedy == other.remedy
        && (one.code == Code::PathUnsafe || one.subject == other.subject)
}

/// Whether there is neither an upper database, nor an object in the upper layer, nor a mount.
fn nothing_is_there(observed: &Observed) -> bool {
    let layer = match &observed.upper_layer.place.found {
        Found::Missing { .. } => true,
        Found::Directory(_) => observed.pairing.objects == 0,
        _ => false,
    };
    layer
        && observed.mount.stack.is_empty()
        && observed.mount.buried.is_empty()
        && observed.database.file == FileFacts::Missing
}
