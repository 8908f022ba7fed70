//! What is wrong with a path of the description, whichever it is.

use std::path::{Path, PathBuf};

use crate::check::{Code, Finding, Part, Severity};
use crate::config::{Setting, Store};
use crate::escape::show_path;
use crate::linux::safe_path::Danger;
use crate::observe::{Found, Machine, Place};
use crate::remedy::{Remedy, command};

/// A directory that the description names.
pub(super) struct Named<'a> {
    /// The part of the store that it belongs to.
    pub part: Part,
    /// What it is called: "the upper layer".
    pub what: &'a str,
    /// The key that sets it.
    pub key: &'a str,
    /// Where it is below what the key sets, if not at that: `real` below `root`.
    pub below: Option<PathBuf>,
    /// The code of its absence.
    pub missing: Code,
    /// Whether `up` makes it where it is missing.
    pub made_by_up: bool,
    /// What makes it.
    pub remedy: Remedy,
}

/// The key that sets a directory of the store, and where that is below what the key sets: `root`
/// unless it was given itself.
pub(super) fn key<'a>(
    store: &Store,
    key: &'a str,
    directory: &Setting<PathBuf>,
) -> (&'a str, Option<PathBuf>) {
    let below = store
        .root
        .as_ref()
        .filter(|_| !directory.given)
        .and_then(|root| directory.strip_prefix(root).ok());
    match below {
        Some(below) => ("root", Some(below.to_owned())),
        None => (key, None),
    }
}

/// What keeps a path from being the directory it should be.
pub(super) fn finding(place: &Place, named: &Named<'_>, machine: &Machine) -> Option<Finding> {
    let finding = |code| {
        Finding::at(code, &place.path)
            .part(named.part)
            .expected(named.what)
    };
    Some(match &place.found {
        Found::Directory(_) => return None,
        Found::Missing { nearest, .. } => {
            let finding = finding(named.missing)
                .found(format!(
                    "nothing: {} is the last directory of the path that exists",
                    show_path(nearest)
                ))
                .remedy(named.remedy.clone());
            match named.made_by_up {
                true => finding,
                false => finding.not_made_by_up(),
            }
        }
        Found::Other(kind) => finding(named.missing)
            .severity(Severity::Error)
            .not_made_by_up()
            .found(*kind)
            .remedy(format!(
                "name another path with `{}`, or move what is there away",
                named.key
            )),
        Found::Symlink {
            component,
            resolved,
        } => finding(Code::PathUnsafe)
            .found(format!("{} is a symbolic link", show_path(component)))
            .remedy(match resolved {
                Some(resolved) => {
                    let depth = named.below.iter().flat_map(|below| below.components());
                    let above = resolved.ancestors().nth(depth.count()).unwrap_or(resolved);
                    Remedy::say("name it by its own path")
                        .and_set(named.key, format!("\"{}\"", show_path(above)))
                }
                None => Remedy::say(
                    "mount what belongs where the link leads, and then name that path; see where \
                     it leads",
                )
                .run(command!["readlink", component]),
            }),
        Found::Unsafe { component, why } => finding(Code::PathUnsafe)
            .found(format!("{} {why}", show_path(component)))
            .remedy(secure(component, *why)),
        Found::Unreachable { component, errno } => unreachable(component, *errno, named, machine),
    })
}

/// Takes from others what lets them replace a component.
fn secure(component: &Path, why: Danger) -> Remedy {
    let parent = component.parent().unwrap_or(component);
    let command = match why {
        Danger::OpenDirectory => command!["chmod", "go-w", parent],
        Danger::GroupDirectory { .. } => command!["chmod", "g-w", parent],
        Danger::TheirDirectory { directory, .. } | Danger::NothingThere { directory } => {
            return Remedy::say(format!(
                "where the directories are meant to be user {directory}'s, so is the store: run \
                 `overstore exec` as that user"
            ))
            .or("name a path that nobody else can change")
            .or(Remedy::say(
                "where that directory is meant to be root's, give it to root",
            )
            .run(command!["chown", "root", parent]));
        }
        Danger::TheirLink { .. } => {
            return "have the link's owner link to what is that user's own, or name by its own path \
                    what the link leads to"
                .into();
        }
        Danger::TheirEntry { .. } => command!["chown", "root", component],
    };
    Remedy::say("name a path that nobody else can change, or make this one so").run(command)
}

/// A component that could not be looked at.
fn unreachable(component: &Path, errno: i32, named: &Named<'_>, machine: &Machine) -> Finding {
    let error = std::io::Error::from_raw_os_error(errno);
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    if denied && machine.uid != 0 {
        return not_checked(named.part, component, &error.to_string());
    }
    Finding::at(Code::PathUnreachable, component)
        .part(named.part)
        .expected(format!(
            "{}, or the directories that lead to it",
            named.what
        ))
        .found(error.to_string())
        .remedy(match errno {
            107 | 116 | 5 | 112 | 110 => {
                Remedy::say("see which file system it is on, and mount that again")
                    .run(command!["findmnt", "--target", component])
            }
            _ => Remedy::say("see what is there").run(command!["namei", "-l", component]),
        })
}

/// Something that this user may not look at.
pub(super) fn not_checked(part: Part, subject: &Path, why: &str) -> Finding {
    Finding::at(Code::NotChecked, subject)
        .part(part)
        .expected("permission to look at it")
        .found(why)
        .remedy("run this check as root")
}
