//! Rules: a described store and the machine as observed, to findings. Pure: no file system, no
//! clock, no environment. One file an area.

mod causes;
mod code;
pub mod compare;
mod database;
pub mod description;
mod finding;
#[cfg(test)]
pub(crate) mod fixture;
mod layers;
mod lower;
mod mount;
pub(crate) mod nix;
mod pairing;
pub(crate) mod parts;
mod path;
mod publication;
mod state;
#[cfg(test)]
mod tests;

pub use code::Code;
pub(crate) use code::{Declaration, StopsUp};
pub use finding::Severity;
pub(crate) use finding::{Finding, Part};
pub(crate) use lower::for_owner;

use std::path::Path;

use crate::config::Store;
use crate::observe::Observed;
use crate::remedy::{CommandLine, Remedy, command};

/// Everything that is not as it should be, as far as it was looked at.
pub fn check(store: &Store, observed: &Observed) -> Vec<Finding> {
    let mut findings = description::findings(store);
    findings.extend(parts::findings(observed));
    findings.extend(publication::findings(store, observed));
    findings.extend(lower::findings(store, observed));
    findings.extend(layers::findings(store, observed));
    findings.extend(mount::findings(store, observed));
    findings.extend(state::findings(store, observed));
    findings.extend(database::findings(store, observed));
    findings.extend(nix::findings(store, observed));
    // A cause is told, and not what follows from it.
    findings.retain(|finding| !pairing::explains(observed, finding.code));
    findings.extend(pairing::findings(store, observed));
    findings = causes::only(store, observed, findings);
    for finding in &mut findings {
        finding.remedy = for_this_user(store, observed, finding);
    }
    findings
}

/// A remedy as it has to be carried out by the user who is told it: mounting takes root, or the
/// user's own namespaces.
fn for_this_user(store: &Store, observed: &Observed, finding: &Finding) -> Remedy {
    let remedy = finding.remedy.clone();
    if observed.machine.can_mount {
        return remedy;
    }
    let uid = observed.machine.uid;
    let layer = observed.upper_layer.place.found.directory();
    let ours = layer.is_none_or(|stat| stat.uid == uid);
    let is_up = remedy == Remedy::from(up(store));
    if !(is_up && ours) {
        return remedy.by_root();
    }
    let check = store.command(["check"]);
    Remedy::say("use it in a set-up of your own, which needs no root")
        .run(
            store
                .command(["exec"])
                .with(["--".into()])
                .with(check.words()),
        )
        .or(remedy.by_root())
}

/// Whether a finding of this code only follows from a loss that [`check`] tells.
pub(crate) fn follows_from_a_loss(observed: &Observed, code: Code) -> bool {
    pairing::explains(observed, code)
}

/// The command that sets the store up.
fn up(store: &Store) -> CommandLine {
    store.command(["up"])
}

/// The commands that mount the store again.
fn down_up(store: &Store, observed: &Observed) -> Remedy {
    Remedy::default().run(down(store, observed)).run(up(store))
}

/// The command that unmounts the store: what somebody else has mounted, `down` leaves alone.
fn down(store: &Store, observed: &Observed) -> CommandLine {
    let overlay = observed.mount.overlay.as_ref();
    match overlay.is_some_and(|overlay| overlay.recorded.is_none()) {
        true => command!["umount", *store.real],
        false => store.command(["down"]),
    }
}

/// The command that moves something out of the way, beside the upper layer: it may be somebody's.
/// What is there of that name already stays.
fn move_away(store: &Store, what: &Path) -> CommandLine {
    let beside = store.upper_layer.parent().unwrap_or(Path::new("/"));
    command!["mv", "-n", "--", what, beside]
}

/// The command that fixes owners and modes.
fn fix_permissions(store: &Store) -> CommandLine {
    store.command(["up", "--fix-permissions"])
}
