//! What Nix makes of the store.

use super::{Code, Finding};
use crate::config::Store;
use crate::escape::show;
use crate::observe::Observed;
use crate::remedy::{Remedy, command};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    [hook(store, observed), group(store, observed)]
        .into_iter()
        .flatten()
        .collect()
}

/// Links overstore, wherever it is installed, to the first argument.
const LINK_TO_OVERSTORE: &str = "ln -s \"$(command -v overstore)\" \"$0\"";

fn hook(store: &Store, observed: &Observed) -> Option<Finding> {
    let hook = store.remount_hook.as_deref()?;
    (observed.hook_runs == Some(false)).then(|| {
        Finding::at(Code::RemountHookMissing, hook)
            .expected(
                "a program that can be run, which Nix calls after it deleted what is in both \
                 layers",
            )
            .found("there is none")
            .remedy(
                Remedy::say("link overstore there")
                    .run(command!["sh", "-c", LINK_TO_OVERSTORE, hook])
                    .or("set `remount-hook`"),
            )
    })
}

fn group(store: &Store, observed: &Observed) -> Option<Finding> {
    let name = store.build_users_group.as_deref()?;
    let machine = &observed.machine;
    let concerns = machine.uid == 0 && !machine.user_namespace && machine.build_users_gid.is_none();
    concerns.then(|| {
        Finding::new(Code::BuildUsersGroupMissing, show(name.as_bytes()))
            .expected("the group that Nix builds with as root")
            .found("no such group: Nix as root cannot build")
            .remedy(
                "set `build-users-group` to an existing group, or to \"\" there and in nix.conf",
            )
    })
}

/// Nix did not open the store.
pub(crate) fn refuses(store: &Store, command: &str, message: &str) -> Finding {
    Finding::at(Code::NixRefuses, &store.real)
        .expected(format!("success of {command}"))
        .found(message)
        .remedy("mend what the findings above name first; then the message is Nix's own")
}
