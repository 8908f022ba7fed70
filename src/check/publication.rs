//! The publication of the lower store, and the generation of it that the store uses.

use std::path::Path;

use super::{Code, Finding, Severity, move_away, up};
use crate::config::Store;
use crate::escape::show_path;
use crate::observe::{LinkFacts, Observed, PublicationFacts};
use crate::remedy::{Fault, Remedy};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let facts = observed.lower.publication.as_ref();
    let Some(((publication, link), facts)) = store.lower.published().zip(facts) else {
        return Vec::new();
    };
    let unset = |found: String| {
        Finding::at(Code::GenerationUnset, link)
            .expected(format!(
                "a link to one of the generations of {}",
                show_path(publication)
            ))
            .found(found)
    };
    let mut findings = Vec::new();
    match (&facts.link, &facts.current) {
        // `up` makes it.
        (LinkFacts::Missing, Ok(_)) => findings.push(unset("nothing".to_owned()).remedy(up(store))),
        (LinkFacts::Missing, Err(why)) => {
            let finding = unreadable(publication, why).severity(Severity::Error);
            findings.push(finding.not_made_by_up());
        }
        (LinkFacts::Other(kind), _) => findings.push(
            unset(kind.clone().into_owned()).not_made_by_up().remedy(
                Remedy::say("move away what is there, and have it made")
                    .run(move_away(store, link))
                    .run(up(store)),
            ),
        ),
        (LinkFacts::Elsewhere(path), _) => findings.push(
            unset(format!("a link to {}", show_path(path)))
                .not_made_by_up()
                .remedy(
                    Remedy::say("correct `lower.publication`, if this is the right one")
                        .or("have the publication back where it was"),
                ),
        ),
        (LinkFacts::Generation(_), _) => findings.extend(used(store, publication, facts)),
    }
    findings
}

/// What is wrong with the generation in use.
fn used(store: &Store, publication: &Path, facts: &PublicationFacts) -> Option<Finding> {
    let _ = store;
    match (&facts.used, &facts.current) {
        (Err(why), _) => Some(unreadable(publication, why).severity(Severity::Error)),
        (Ok(_), Err(why)) => Some(unreadable(publication, why)),
        _ => None,
    }
}

fn unreadable(publication: &Path, why: &Fault) -> Finding {
    Finding::at(Code::PublicationUnreadable, publication)
        .expected("a publication: its generations, and a link to the current one")
        .found(why.what.clone())
        .remedy(why.remedy.clone())
}
