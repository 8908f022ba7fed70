//! What is wrong with a path of the description, whichever it is.

use std::path::Path;

use crate::check::{Code, Finding, Part, Severity};
use crate::escape::{shell_quote, show_path};
use crate::linux::safe_path::Danger;
use crate::observe::{Found, Machine, Place};

/// A directory that the description names.
pub(super) struct Named<'a> {
    /// The part of the store that it belongs to.
    pub part: Part,
    /// What it is called: "the upper layer".
    pub what: &'a str,
    /// The key that sets it.
    pub key: &'a str,
    /// The code and severity of its absence.
    pub missing: (Code, Severity),
    /// What makes it.
    pub remedy: String,
}

/// What keeps a path from being the directory it should be.
pub(super) fn finding(place: &Place, named: &Named<'_>, machine: &Machine) -> Option<Finding> {
    let finding = |(code, severity): (Code, Severity), subject: &Path, actual, remedy| Finding {
        code,
        severity,
        part: named.part,
        subject: show_path(subject).into_owned(),
        expected: named.what.to_owned(),
        actual,
        remedy,
    };
    let path_unsafe = (Code::PathUnsafe, Severity::Error);
    Some(match &place.found {
        Found::Directory(_) => return None,
        Found::Missing { nearest } => finding(
            named.missing,
            &place.path,
            format!(
                "nothing: {} is the last directory of the path that exists",
                show_path(nearest)
            ),
            named.remedy.clone(),
        ),
        Found::Other(kind) => finding(
            (named.missing.0, Severity::Error),
            &place.path,
            (*kind).to_owned(),
            format!(
                "name another path with `{}`, or move what is there away",
                named.key
            ),
        ),
        Found::Symlink {
            component,
            resolved,
        } => finding(
            path_unsafe,
            &place.path,
            format!("{} is a symbolic link", show_path(component)),
            match resolved {
                Some(resolved) => format!(
                    "name it by its own path: `{} = \"{}\"`",
                    named.key,
                    show_path(resolved)
                ),
                None => format!(
                    "remove the link, which leads nowhere: rm {}",
                    shell_quote(component)
                ),
            },
        ),
        Found::Unsafe { component, why } => finding(
            path_unsafe,
            &place.path,
            format!("{} {why}", show_path(component)),
            secure(component, *why),
        ),
        Found::Unreachable { component, errno } => {
            return Some(unreachable(component, *errno, named, machine));
        }
    })
}

/// Takes from others what lets them replace a component.
fn secure(component: &Path, why: Danger) -> String {
    let parent = component.parent().unwrap_or(component);
    let command = match why {
        Danger::OpenDirectory => format!("chmod o-w {}", shell_quote(parent)),
        Danger::TheirDirectory { .. } | Danger::NothingThere { .. } => {
            format!("chown root {}", shell_quote(parent))
        }
        Danger::TheirEntry { .. } => format!("chown root {}", shell_quote(component)),
    };
    format!("name a path that nobody else can change, or see to it that this one is: {command}")
}

/// A component that could not be looked at.
fn unreachable(component: &Path, errno: i32, named: &Named<'_>, machine: &Machine) -> Finding {
    let error = std::io::Error::from_raw_os_error(errno);
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    if denied && machine.uid != 0 {
        return not_checked(named.part, component, &error.to_string());
    }
    Finding {
        code: Code::PathUnreachable,
        severity: Severity::Error,
        part: named.part,
        subject: show_path(component).into_owned(),
        expected: format!("{}, or the way to it", named.what),
        actual: error.to_string(),
        remedy: match errno {
            // ENOTCONN, ESTALE, EIO, EHOSTDOWN, ETIMEDOUT: the file system is gone.
            107 | 116 | 5 | 112 | 110 => format!(
                "see which file system it is on, and mount that again: findmnt --target {}",
                shell_quote(component)
            ),
            _ => format!("see what is there: namei -l {}", shell_quote(component)),
        },
    }
}

/// Something that this user may not look at.
pub(super) fn not_checked(part: Part, subject: &Path, why: &str) -> Finding {
    Finding {
        code: Code::NotChecked,
        severity: Severity::Note,
        part,
        subject: show_path(subject).into_owned(),
        expected: "leave to look at it".to_owned(),
        actual: why.to_owned(),
        remedy: "run this check as root".to_owned(),
    }
}
