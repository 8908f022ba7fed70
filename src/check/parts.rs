//! Parts that are one, or inside one another, or another store's, whatever their paths.

use std::path::Path;

use super::{Code, Finding, Part};
use crate::config::parts::{Relation, Role};
use crate::escape::show_path;
use crate::observe::{Claim, Observed, Overlap, PartFacts, Unread};
use crate::remedy::{Remedy, command};

pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let mut findings = mistaken(&observed.parts);
    // An ordinary user need not be able to read them, and can take nothing of theirs.
    if observed.machine.uid == 0 {
        findings.extend(observed.parts.unread.iter().map(unread));
    }
    findings
}

/// The parts that are where they may not be.
pub(crate) fn mistaken(facts: &PartFacts) -> Vec<Finding> {
    let wrong: Vec<(&Overlap, &str)> = facts
        .overlaps
        .iter()
        .filter_map(|overlap| {
            let why = overlap.part.why_not(overlap.relation, &overlap.other)?;
            Some((overlap, why))
        })
        .collect();
    let of_state = |overlap: &Overlap| {
        [&overlap.part, &overlap.other]
            .map(|part| part.role == Role::State)
            .contains(&true)
    };
    let of_its_content = |overlap: &Overlap| {
        [&overlap.part, &overlap.other]
            .map(|part| part.role == Role::StateContent)
            .contains(&true)
    };
    // Where the state directory is wrong, so is all that is in it.
    let state_is_wrong = wrong.iter().any(|(overlap, _)| of_state(overlap));
    let claimed = |role| facts.claims.iter().any(|claim| claim.part.role == role);
    let mut findings: Vec<Finding> = wrong
        .into_iter()
        .filter(|(overlap, _)| !(state_is_wrong && of_its_content(overlap)))
        .map(|(overlap, why)| overlapping(overlap, why))
        .collect();
    let claims = facts
        .claims
        .iter()
        .filter(|claim| !(claimed(Role::State) && claim.part.role == Role::StateContent));
    findings.extend(claims.map(claim));
    findings
}

fn overlapping(overlap: &Overlap, why: &str) -> Finding {
    let Overlap {
        part,
        relation,
        other,
    } = overlap;
    let how = match relation {
        Relation::Same => "is the same directory as",
        Relation::Inside => "is inside",
    };
    // What is to be changed is not the lower store.
    let (to_change, key) = match key(part.role) {
        Some(key) => (part, key),
        None => (other, key(other.role).unwrap_or("lower-store")),
    };
    Finding::at(Code::PartsOverlap, &to_change.path)
        .part(of(to_change.role))
        .expected("parts that are apart from each other, whatever paths lead to them")
        .found(format!(
            "{} {how} {}, {}, by way of a bind mount or a symbolic link",
            part.name,
            other.name,
            show_path(&other.path)
        ))
        .remedy(elsewhere(
            &format!("{why}; it is set by `{key}`"),
            &to_change.path,
        ))
}

fn claim(claim: &Claim) -> Finding {
    let how = match claim.relation {
        Some(Relation::Same) => "is",
        Some(Relation::Inside) => "is inside",
        None => "contains",
    };
    let key = key(claim.part.role).unwrap_or("lower-store");
    let what = format!("give each store a directory of its own; this one is set by `{key}`");
    Finding::at(Code::PartOfAnotherStore, &claim.part.path)
        .part(of(claim.part.role))
        .expected("a directory that no other store uses")
        .found(format!("{} {how} {}", claim.part.name, claim.whose))
        .remedy(elsewhere(&what, &claim.part.path))
}

fn unread(unread: &Unread) -> Finding {
    Finding::at(Code::DescriptionUnreadable, &unread.file)
        .expected("descriptions that can be read, so that no part of this store is another's")
        .found(&*unread.why)
        .remedy(
            Remedy::say("correct that description, or remove it; see what is wrong with it")
                .run(command!["overstore", "plan", unread.file]),
        )
}

fn elsewhere(what: &str, path: &Path) -> Remedy {
    Remedy::say(format!("{what}; see what is mounted there"))
        .run(command!["findmnt", "--target", path])
}

/// The part that a finding about a part belongs to.
fn of(role: Role) -> Part {
    match role {
        Role::Merged => Part::Mount,
        Role::UpperLayer => Part::UpperLayer,
        Role::WorkDirectory => Part::WorkDirectory,
        Role::State | Role::StateContent | Role::Log | Role::Socket => Part::State,
        Role::LowerDirectory | Role::LowerState | Role::LowerSocket => Part::LowerStore,
    }
}

/// The key that says where a part is. `None` for those of the lower store.
fn key(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Merged => "real",
        Role::UpperLayer => "upper-layer",
        Role::WorkDirectory => "workdir",
        Role::State | Role::StateContent => "state",
        Role::Log => "log",
        Role::Socket => "daemon.socket",
        Role::LowerDirectory | Role::LowerState | Role::LowerSocket => return None,
    })
}
