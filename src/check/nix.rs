//! What Nix makes of the store.

use super::{Code, Finding, Part, Severity};
use crate::config::Store;
use crate::escape::{shell_quote, show, show_path};
use crate::observe::Observed;

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    [hook(store, observed), group(store, observed)]
        .into_iter()
        .flatten()
        .collect()
}

fn hook(store: &Store, observed: &Observed) -> Option<Finding> {
    let hook = store.remount_hook.as_deref()?;
    (observed.hook_runs == Some(false)).then(|| Finding {
        code: Code::RemountHookMissing,
        severity: Severity::Error,
        part: Part::Nix,
        subject: show_path(hook).into_owned(),
        expected:
            "a program that can be run, which Nix calls after it deleted what is in both layers"
                .to_owned(),
        actual: "there is none".to_owned(),
        remedy: format!(
            "link overstore there: ln -s \"$(command -v overstore)\" {}; or set `remount-hook`",
            shell_quote(hook)
        ),
    })
}

fn group(store: &Store, observed: &Observed) -> Option<Finding> {
    let name = store.build_users_group.as_deref()?;
    let machine = &observed.machine;
    let concerns = machine.uid == 0 && !machine.user_namespace && machine.build_users_gid.is_none();
    concerns.then(|| Finding {
        code: Code::BuildUsersGroupMissing,
        severity: Severity::Note,
        part: Part::Nix,
        subject: show(name.as_bytes()).into_owned(),
        expected: "the group that Nix builds with as root".to_owned(),
        actual: "no such group: Nix as root cannot build".to_owned(),
        remedy: "set `build-users-group` to an existing group, or to \"\" there and in nix.conf"
            .to_owned(),
    })
}

/// Nix did not open the store.
pub(crate) fn refuses(store: &Store, command: &str, message: &str) -> Finding {
    Finding {
        code: Code::NixRefuses,
        severity: Severity::Error,
        part: Part::Nix,
        subject: show_path(&store.real).into_owned(),
        expected: format!("success of {command}"),
        actual: message.to_owned(),
        remedy: "mend what the findings above name first; then the message is Nix's own".to_owned(),
    }
}
