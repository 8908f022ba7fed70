//! What Nix makes of the store.

use std::path::Path;

use super::{Code, Finding, up};
use crate::config::Store;
use crate::escape::{show, show_path};
use crate::observe::Observed;
use crate::remedy::{Remedy, command};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    [
        hook(store, observed),
        group(store, observed),
        automatic_collection(observed),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn hook(store: &Store, observed: &Observed) -> Option<Finding> {
    let (hook, facts) = (store.remount_hook.as_deref()?, observed.hook.as_ref()?);
    if !facts.runs {
        let finding = Finding::at(Code::RemountHookMissing, hook).expected(
            "a program that can be run, which Nix calls after it deleted what is in both layers",
        );
        let finding = match &facts.target {
            Some(target) => finding.found(format!(
                "a link to {}, which is no program that can be run",
                show_path(target)
            )),
            None => finding.found("no program that can be run"),
        };
        return Some(
            finding.remedy(match (store.hook_is_made(), &facts.program) {
                (true, _) => up(store).into(),
                (false, Some(program)) if facts.target.is_none() => {
                    Remedy::say("link overstore there")
                        .run(command!["ln", "-s", program, hook])
                        .or(OWN_HOOK)
                }
                (false, _) => Remedy::say(OWN_HOOK),
            }),
        );
    }
    let (component, why) = facts.unsafe_because.as_ref()?;
    let program = facts.program.as_deref();
    let beside_program = program.and_then(Path::parent) == hook.parent();
    Some(
        Finding::at(Code::RemountHookUnsafe, hook)
            .expected("a program that only root, or who runs the store, can replace: Nix runs it")
            .found(format!("{} {why}", show_path(component)))
            .remedy(match program {
                _ if store.hook_is_made() && component.starts_with(store.memory()) => {
                    command!["chmod", "go-w", store.memory()].into()
                }
                Some(program) if store.hook_is_made() || beside_program => {
                    let installed = "/usr/local/bin/overstore";
                    Remedy::say("install overstore where only root can write, and use that one")
                        .run(command!["install", program, installed])
                        .run(command![installed, "up"].with(store.arguments.iter().cloned()))
                }
                _ => Remedy::say(OWN_HOOK),
            }),
    )
}

const OWN_HOOK: &str = "leave `remount-hook` out of the description: `overstore up` then has a hook \
                        of its own";

/// Nix takes the size of a path that is only below from memory that was never set, so that it
/// believes at once to have freed enough (NixOS/nix issue 16269).
fn automatic_collection(observed: &Observed) -> Option<Finding> {
    let min_free = observed.machine.min_free.as_ref()?;
    Some(
        Finding::new(Code::AutomaticCollection, "min-free")
            .expected("collections of overstore's own (`[gc]`), where space may run out")
            .found(format!(
                "`min-free = {}` in nix.conf: on this store the collections that it starts free \
                 nothing",
                show(min_free.as_bytes())
            ))
            .remedy(
                Remedy::say("have overstore collect, on schedule and below a limit of free space")
                    .and_set("gc.schedule", "\"daily\""),
            ),
    )
}

/// Nix's own collector fails, unless its memory of valid paths is turned off.
pub(crate) fn collector_fails(store: &Store) -> Option<Finding> {
    let parameter = "path-info-cache-size";
    let off = (parameter.to_owned(), "0".to_owned());
    (!store.parameters.contains(&off)).then(|| {
        Finding::at(Code::CollectorFails, &store.real)
            .expected("garbage that is collected by overstore, or a Nix that remembers no paths")
            .found(
                "Nix's own collector (`nix-collect-garbage`, `nix-store --gc`) fails over a lower \
                 store whose objects refer to each other: \"path ... is not valid\"",
            )
            .remedy(
                Remedy::say("collect with `overstore gc`, or have Nix remember no paths")
                    .and_set(&format!("parameters.{parameter}"), "0"),
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

/// Nix did not open the store, of which nothing else is wrong.
pub(crate) fn refuses(store: &Store, observed: &Observed, command: &str, message: &str) -> Finding {
    let of_another =
        matches!(super::belongs_to(observed), super::Owner::Other) && observed.machine.uid != 0;
    Finding::at(Code::NixRefuses, &store.real)
        .expected(format!("success of {command}"))
        .found(message)
        .remedy(match of_another {
            true => super::layers::how_to_have_one(store),
            false => Remedy::say(
                "see what it says; nothing is wrong with the store, so the cause is in Nix's \
                 settings (nix.conf, `NIX_CONFIG`) or its environment",
            )
            .run(command!["nix", "config", "check"]),
        })
}
