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
pub(crate) use lower::{for_owner, silent as silent_daemon};
pub(crate) use publication::{generation, lacking};

use std::path::Path;

use crate::config::{SetUpFor, Store};
use crate::observe::{FileFacts, Identity, Observed};
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
    // A cause is told, and what follows from it is kept with it.
    let (consequences, mut findings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| pairing::explains(observed, finding.code));
    let mut losses = pairing::findings(store, observed);
    if let Some(loss) = losses.last_mut() {
        loss.explains(consequences);
    }
    findings.extend(losses);
    for_this_user(store, observed, causes::only(store, observed, findings))
}

/// Findings whose remedies the user who is told them can carry out. [`check`] gives no others.
pub(crate) fn for_this_user(
    store: &Store,
    observed: &Observed,
    mut findings: Vec<Finding>,
) -> Vec<Finding> {
    for finding in &mut findings {
        finding.remedy = remedy_for_this_user(store, observed, finding);
        for consequence in &mut finding.consequences {
            consequence.remedy = remedy_for_this_user(store, observed, consequence);
        }
    }
    findings
}

/// A remedy as it has to be carried out by the user who is told it: mounting takes root, or the
/// user's own namespaces.
fn remedy_for_this_user(store: &Store, observed: &Observed, finding: &Finding) -> Remedy {
    let remedy = finding.remedy.clone();
    // What is below is somebody else's.
    let is_of_others = finding.part == Part::LowerStore
        && !remedy.commands().all(|command| store.concerns(command));
    if store.set_up_for != SetUpFor::Everybody {
        return match is_of_others && observed.machine.uid != 0 {
            true => store.fit(remedy.by_root()),
            false => store.fit(remedy),
        };
    }
    if observed.machine.can_mount {
        return remedy;
    }
    match belongs_to(observed) {
        Owner::User if !is_of_others => store.in_namespaces(remedy),
        Owner::Nobody if remedy == Remedy::from(up(store)) => {
            Remedy::say("use it in a set-up of your own, which needs no root")
                .run(store.exec_instead(up(store)))
                .or(remedy.by_root())
        }
        _ => remedy.by_root(),
    }
}

/// Whose store it is, as far as there is one.
enum Owner {
    /// Nobody's: there is neither an upper layer nor a database.
    Nobody,
    /// The asking user's, who is not root.
    User,
    /// Somebody else's.
    Other,
}

fn belongs_to(observed: &Observed) -> Owner {
    let layer = observed.upper_layer.place.found.directory();
    let layer = layer.map(|stat| stat.uid);
    let database = match observed.database.file {
        FileFacts::File { uid, .. } => Some(uid),
        _ => None,
    };
    let uid = observed.machine.uid;
    let owners: Vec<u32> = [layer, database].into_iter().flatten().collect();
    match owners.is_empty() {
        true => Owner::Nobody,
        false if uid != 0 && owners.iter().all(|owner| *owner == uid) => Owner::User,
        false => Owner::Other,
    }
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

/// The command that unmounts the store. What `up` has no record of, `down` leaves alone unless it is
/// told to take it for the store's, which it does where it is of exactly the directories described.
fn down(store: &Store, observed: &Observed) -> CommandLine {
    let Some(overlay) = &observed.mount.overlay else {
        return store.command(["down"]);
    };
    let is_ours = !matches!(overlay.lower, Identity::Different(_))
        && [&overlay.upper, &overlay.workdir] == [&Identity::Same; 2];
    match (&overlay.recorded, is_ours) {
        (Some(_), _) => store.command(["down"]),
        (None, true) => store.command(["down", "--unrecorded"]),
        (None, false) => command!["umount", *store.real],
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
