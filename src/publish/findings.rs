//! What is wrong with a lower store, as findings for its owner.

use std::path::Path;

use super::verify::{Problem, Problems};
use crate::check::{Code, Finding, Part};
use crate::nix::hash::render_sha256;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::remedy::{Remedy, command};

/// The findings of a lower store whose database is at `database`; the last says how many are not
/// listed.
pub(crate) fn findings(
    problems: &Problems,
    store: &StoreDirectory,
    database: &Path,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = problems
        .first
        .iter()
        .map(|problem| finding(problem, store, database))
        .collect();
    let more = problems.count.saturating_sub(problems.first.len() as u64);
    if let Some(last) = findings.last_mut()
        && more > 0
    {
        last.actual += &format!("; and {more} more like these");
    }
    findings
}

fn finding(problem: &Problem, store: &StoreDirectory, database: &Path) -> Finding {
    let print = |path: &StorePath| String::from_utf8_lossy(&store.print(path)).into_owned();
    let repair = |path: &StorePath| {
        Remedy::say("in the live store, from a substituter that has it")
            .run(command!["nix-store", "--repair-path", print(path)])
            .or("delete what refers to it and is not needed, or publish without it")
    };
    match problem {
        Problem::NoObject(path) => Finding::new(Code::LowerRowWithoutObject, print(path))
            .expected("the object of a valid path")
            .found("nothing in the store directory")
            .remedy(repair(path)),
        Problem::NoStoreObject(path) => Finding::new(Code::LowerRowWithoutObject, print(path))
            .expected("a file, a directory or a symbolic link, which is what a store holds")
            .found("something else")
            .remedy(repair(path)),
        Problem::Row { path, what } => Finding::new(Code::LowerRowUnreadable, path.clone())
            .expected("a row that Nix can read")
            .found(what.clone())
            .remedy(
                Remedy::say("in the live store, see what Nix says of it")
                    .run(command!["nix", "path-info", "--json", path])
                    .or("correct the row with the help of whoever wrote it, or delete the path"),
            ),
        Problem::Reference {
            referrer,
            reference,
        } => Finding::new(Code::LowerReferenceMissing, referrer.clone())
            .expected("the rows of everything that it refers to")
            .found(format!(
                "a reference to row {reference} of {}, which is not there",
                crate::escape::show_path(database)
            ))
            .remedy(
                "bring the live store's database back from a backup, or register the path anew",
            ),
        Problem::Contents(damaged) => Finding::new(Code::ObjectDamaged, print(&damaged.path))
            .part(Part::LowerStore)
            .expected(render_sha256(&damaged.expected))
            .found(match &damaged.actual {
                Ok(hash) => render_sha256(hash),
                Err(why) => why.clone(),
            })
            .remedy(repair(&damaged.path)),
    }
}
