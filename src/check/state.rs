//! The state directory and those in it.

use super::path::{self, Named};
use super::{Code, Finding, Part, Severity, fix_permissions, up};
use crate::config::Store;
use crate::nix::layout;
use crate::observe::{Found, Machine, Observed, Place, Stat};
use crate::remedy::{Remedy, command};

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
            // Nix writes everywhere below; the file system is mostly one.
            if place.path == *store.state
                || place.path == store.state.join(layout::DATABASE_DIRECTORY)
            {
                let unfit = unfit(store, place, stat);
                let told = |it: &Finding| it.code == Code::StateFileSystemUnfit;
                findings.extend(unfit.filter(|_| !findings.iter().any(told)));
            }
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

/// File systems of networks, and others that share no memory between processes as SQLite wants it for
/// a write-ahead log.
const WITHOUT_SHARED_MEMORY: &[&str] = &[
    "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "virtiofs", "fuse",
];

/// The file system cannot hold the database as Nix opens it.
fn unfit(store: &Store, place: &Place, stat: &Stat) -> Option<Finding> {
    let name = stat.fs.name.as_str();
    let finding = Finding::at(Code::StateFileSystemUnfit, &place.path);
    if stat.fs.read_only {
        return Some(
            finding
                .expected("a directory that can be written to: Nix opens no store without that")
                .found(format!("{name}, which is read-only there"))
                .remedy(
                    Remedy::say("find out why; make it writable, or name another with `state`")
                        .run(command!["findmnt", "--target", place.path]),
                ),
        );
    }
    let family = name.split('.').next().unwrap_or(name);
    (store.use_sqlite_wal && WITHOUT_SHARED_MEMORY.contains(&family)).then(|| {
        finding
            .severity(Severity::Warning)
            .expected("a local file system: SQLite's write-ahead log is made for those only")
            .found(name)
            .remedy(
                Remedy::say(
                    "turn the log off, and set `use-sqlite-wal = false` in nix.conf too; or name a \
                     directory on a local file system with `state`",
                )
                .and_set("database.use-sqlite-wal", "false"),
            )
    })
}
