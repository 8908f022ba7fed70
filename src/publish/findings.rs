//! What is wrong with a lower store, as findings for its owner.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::verify::{Problem, Problems};
use crate::check::{Code, Finding, Part};
use crate::escape::show_path;
use crate::nix::hash::render_sha256;
use crate::nix::layout::{self, STATE_DIR, STORE_DIR};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::nix::url::{StoreKind, StoreReference};
use crate::remedy::{CommandLine, Remedy, command};

/// The store that was verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified<'a> {
    /// The store directory, as store paths name it.
    pub store: &'a Path,
    /// Where it is.
    pub real: &'a Path,
    /// Its state directory.
    pub state: &'a Path,
    /// Whether Nix may change it: not the database of a generation.
    pub is_live: bool,
}

/// The findings of a lower store; the last says how many are not listed.
pub(crate) fn findings(problems: &Problems, verified: Verified<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = problems
        .first
        .iter()
        .map(|problem| verified.finding(problem))
        .collect();
    let more = problems.count.saturating_sub(problems.first.len() as u64);
    if let Some(last) = findings.last_mut()
        && more > 0
    {
        last.actual += &format!("; and {more} more like these");
    }
    findings
}

impl Verified<'_> {
    /// A command of Nix about one of its paths.
    fn nix(self, words: CommandLine, path: &str) -> CommandLine {
        let own = (Path::new(STORE_DIR), Path::new(STATE_DIR));
        let words = match self.is_live && (self.real, self.state) != own {
            false => words,
            true => {
                let url = StoreReference::new(StoreKind::Local)
                    .with("store", self.store.as_os_str().as_bytes())
                    .with("real", self.real.as_os_str().as_bytes())
                    .with("state", self.state.as_os_str().as_bytes());
                let url = url
                    .render_for_all()
                    .unwrap_or_else(|texts| texts.since_2_34);
                words.with(["--store".into(), url.into()])
            }
        };
        words.with([path.into()])
    }

    /// A repair of what is there and damaged: nobody knows what of it may still be of use.
    fn repair_damaged(self, path: &StorePath, repair: CommandLine) -> Remedy {
        let object = self.real.join(path.as_str());
        let kept = format!("{}.damaged", path.as_str());
        let beside = self.real.parent().unwrap_or(self.real).join(kept);
        Remedy::say(
            "keep a copy of it, then repair it in the live store, from a substituter that has it",
        )
        .run(command!["cp", "-a", object, beside])
        .run(repair)
        .or("delete what refers to it and is not needed, or publish without it")
    }

    fn finding(self, problem: &Problem) -> Finding {
        let directory = StoreDirectory::new(self.store.as_os_str().as_bytes());
        let print = |path: &StorePath| String::from_utf8_lossy(&directory.print(path)).into_owned();
        let nix_repair =
            |path: &StorePath| self.nix(command!["nix-store", "--repair-path"], &print(path));
        let repair = |path: &StorePath| {
            Remedy::say("in the live store, from a substituter that has it")
                .run(nix_repair(path))
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
                        .run(self.nix(
                            command![
                                "nix",
                                "--extra-experimental-features",
                                "nix-command",
                                "path-info",
                                "--json"
                            ],
                            path,
                        ))
                        .or(
                            "correct the row with the help of whoever wrote it, or delete the path",
                        ),
                ),
            Problem::Reference {
                referrer,
                reference,
            } => Finding::new(Code::LowerReferenceMissing, referrer.clone())
                .expected("the rows of everything that it refers to")
                .found(format!(
                    "a reference to row {reference} of {}, which is not there",
                    show_path(&layout::database(self.state))
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
                .remedy(self.repair_damaged(&damaged.path, nix_repair(&damaged.path))),
        }
    }
}
