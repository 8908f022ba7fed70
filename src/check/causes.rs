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

/// The findings that follow from none of the others, each with those that follow from it.
pub(super) fn only(store: &Store, observed: &Observed, findings: Vec<Finding>) -> Vec<Finding> {
    let mut causes: Vec<Finding> = Vec::new();
    let mut consequences: Vec<(&Finding, &Finding)> = Vec::new();
    for finding in &findings {
        if let Some(cause) = cause_of(finding, &findings) {
            consequences.push((cause, finding));
        } else if let Some(cause) = causes.iter_mut().find(|cause| is_same(cause, finding)) {
            cause.explains([finding.clone()]);
        } else {
            causes.push(finding.clone());
        }
    }
    for (cause, finding) in consequences {
        let of = |it: &&mut Finding| {
            it.code == cause.code && (it.subject == cause.subject || is_same(it, cause))
        };
        if let Some(cause) = causes.iter_mut().find(of) {
            cause.explains([finding.clone()]);
        }
    }
    if observed.mount.overlay.is_some() {
        return causes;
    }
    let up = Remedy::from(up(store));
    let is_done_by_up = |finding: &Finding| !finding.stops_up && finding.remedy == up;
    // What `up` does as soon as nothing keeps it from it.
    if causes.iter().any(|finding| finding.stops_up) {
        let (done, mut left): (Vec<_>, Vec<_>) = causes.into_iter().partition(is_done_by_up);
        if let Some(first) = left.iter_mut().find(|finding| finding.stops_up) {
            first.explains(done);
        }
        causes = left;
    } else if nothing_is_there(observed) {
        let (done, left): (Vec<_>, Vec<_>) = causes.into_iter().partition(is_done_by_up);
        let mut finding = Finding::at(Code::NotSetUp, &store.real)
            .expected("the store as described")
            .found("nothing: it was never set up")
            .remedy(up);
        finding.explains(done);
        causes = left;
        causes.push(finding);
    }
    causes
}

/// The first cause of a finding among the others that a line of the table names, which follows from
/// none itself.
fn cause_of<'f>(finding: &Finding, all: &'f [Finding]) -> Option<&'f Finding> {
    let mut cause = named(finding, all)?;
    // No chain is longer than all there is.
    for _ in all {
        match named(cause, all) {
            Some(further) => cause = further,
            None => break,
        }
    }
    Some(cause)
}

fn named<'f>(finding: &Finding, all: &'f [Finding]) -> Option<&'f Finding> {
    let lines = TABLE
        .iter()
        .filter(|(_, _, consequences)| consequences.contains(&finding.code));
    lines
        .flat_map(|(causes, parts, _)| {
            all.iter().filter(move |cause| {
                // What `up` makes is the cause of nothing.
                let made = cause.code == Code::StateMissing && !cause.stops_up;
                causes.contains(&cause.code)
                    && (parts.is_empty() || parts.contains(&cause.part))
                    && !made
            })
        })
        .next()
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
