//! The publication of the lower store, and the generation of it that the store uses.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Code, Finding, Severity, move_away, up};
use crate::compare::{Lacking, Several};
use crate::config::Store;
use crate::escape::show_path;
use crate::lower::publication::path_of;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::observe::{LinkFacts, LowerFacts, Observed, PublicationFacts, UsedGeneration};
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
                    Remedy::say(
                        "correct `lower.publication`, if the link leads to the right publication",
                    )
                    .or(Remedy::say(
                        "if it was moved, or is another one now: move the link away, and have it made",
                    )
                    .run(move_away(store, link))
                    .run(up(store))),
                ),
        ),
        (LinkFacts::Generation(number), _) => {
            findings.extend(used(store, publication, facts, *number));
        }
    }
    findings
}

/// What is wrong with the generation in use.
fn used(
    store: &Store,
    publication: &Path,
    facts: &PublicationFacts,
    number: u64,
) -> Option<Finding> {
    let at = path_of(publication, number);
    let finding = |code| Finding::at(code, &at).remedy(store.command(["refresh"]));
    match (&facts.used, &facts.current) {
        (Err(why), _) => Some(unreadable(publication, why).severity(Severity::Error)),
        (Ok(None), Ok(current)) => Some(
            finding(Code::GenerationGone)
                .expected("the generation that this store uses")
                .found(format!("nothing; generation {current} is current")),
        ),
        (Ok(None), Err(why)) => Some(unreadable(publication, why).severity(Severity::Error)),
        (Ok(_), Err(why)) => Some(unreadable(publication, why)),
        (
            Ok(Some(UsedGeneration {
                retired_until: Some(until),
                ..
            })),
            Ok(current),
        ) => Some(
            finding(Code::GenerationRetired)
                .expected("a generation that stays")
                .found(format!(
                    "it is retired: its database goes after {}, and its objects with the owner's next \
                     collection; generation {current} is current",
                    date(*until)
                )),
        ),
        (Ok(Some(_)), Ok(current)) if *current != number => Some(
            finding(Code::GenerationBehind)
                .expected("the current generation")
                .found(format!("generation {current} is current")),
        ),
        _ => None,
    }
}

/// What keeps Nix from reading a generation, whose directory is `state`, below a store.
pub(crate) fn generation(store: &Store, state: &Path, facts: &LowerFacts) -> Vec<Finding> {
    let publication = store.lower.publication.as_deref().unwrap_or(state);
    let prepare = store
        .bare_command(["publish", "--check"])
        .with([publication.into(), "--prepare".into()]);
    super::for_owner(&store.lower.real, state, facts, &prepare, publication)
}

/// What an upper store needs, and generation `current` lacks; the last says how many are not listed.
pub(crate) fn lacking(
    store: &Store,
    before: u64,
    current: u64,
    lacking: &Several<Lacking>,
) -> Vec<Finding> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
    let finding = |lacking: &Lacking| {
        let referrers: Vec<String> = lacking.referrers.iter().map(print).collect();
        let who = match referrers.is_empty() {
            true => "the upper database has a row of it".to_owned(),
            false => format!("{} refers to it", referrers.join(", ")),
        };
        Finding::new(Code::GenerationLacks, print(&lacking.path))
            .expected(format!("as it is in generation {before}: {who}"))
            .found(match lacking.other {
                true => format!("other contents in generation {current}"),
                false => format!("nothing in generation {current}"),
            })
            .remedy(
                Remedy::say(format!(
                    "have the owner of the publication keep generation {before}, which this store goes \
                     on with, or publish that path again"
                ))
                .or(Remedy::say(format!(
                    "while generation {before} is kept: copy what is needed into the upper layer, and go \
                     on without it below"
                ))
                .run(store.command(["down"]))
                .run(store.command(["reconcile"]))),
            )
    };
    let mut findings: Vec<Finding> = lacking.first.iter().map(finding).collect();
    let more = lacking.count.saturating_sub(lacking.first.len() as u64);
    if let Some(last) = findings.last_mut()
        && more > 0
    {
        last.actual += &format!("; and {more} more like these");
    }
    findings
}

fn unreadable(publication: &Path, why: &Fault) -> Finding {
    Finding::at(Code::PublicationUnreadable, publication)
        .expected("a publication: its generations, and a link to the current one")
        .found(why.what.clone())
        .remedy(why.remedy.clone())
}

/// A time in seconds since 1970 as a day and a time of it, in UTC. Days to dates as in Howard Hinnant's
/// `civil_from_days`.
fn date(time: u64) -> String {
    let (days, second) = (time / 86400, time % 86400);
    // Days since the first of March of the year 0, in eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second % 3600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (time, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
        ] {
            assert_eq!(date(time), expected);
        }
    }
}
