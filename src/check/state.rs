//! The state directory and those in it.

use super::path::{self, Named};
use super::{Code, Finding, Part, fix_permissions, up};
use crate::config::Store;
use crate::observe::{Found, Machine, Observed, Place, Stat};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in &observed.state {
        // What is wrong with the directory above is said once.
        let above = observed
            .state
            .iter()
            .find(|above| place.path.parent() == Some(&above.path));
        if above.is_some_and(|above| above.found.directory().is_none()) {
            continue;
        }
        let (key, below) = path::key(store, "state", &store.state);
        let named = Named {
            part: Part::State,
            what: "a directory for the store's state",
            key,
            below,
            // Nix makes those that it misses.
            missing: Code::StateMissing,
            made_by_up: true,
            remedy: up(store).into(),
        };
        findings.extend(path::finding(place, &named, &observed.machine));
        if let Found::Directory(stat) = &place.found {
            findings.extend(permissions(store, place, stat, &observed.machine));
        }
    }
    findings
}

fn permissions(store: &Store, place: &Place, stat: &Stat, machine: &Machine) -> Option<Finding> {
    // Older versions of Nix made the directories for users writable to everybody, with a sticky bit.
    let open = stat.mode & 0o022 != 0 && stat.mode & 0o1000 == 0;
    let foreign = stat.uid != 0 && stat.uid != machine.uid;
    (open || foreign).then(|| {
        Finding::at(Code::StatePermissions, &place.path)
            .expected("a directory that only its owner, who runs the store, can write to")
            .found(format!("owner {}, mode {:04o}", stat.uid, stat.mode))
            .remedy(fix_permissions(store))
    })
}
