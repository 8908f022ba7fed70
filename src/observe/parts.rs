//! The parts of a store by what they are, whatever their paths: whether two are one, or inside one
//! another, and whether one is another store's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::mount_table::{MountTable, is_overlay};
use super::path::Visited;
use super::whereabouts::Whereabouts;
use super::{Claim, Overlap, PartFacts, Unread, environment, environment_of_target, hook};
use crate::config::names::DESCRIPTION_DIRECTORIES;
use crate::config::parts::{Part, Relation, Role, parts};
use crate::config::{self, Environment, Store};
use crate::escape::show_path;
use crate::linux::file_identity::FileIdentity;
use crate::linux::regular_file;
use crate::linux::root::System;
use crate::linux::safe_path::Symlinks;
use crate::overlayfs::mountinfo::{MountInfo, stack_at};
use crate::overlayfs::options::SuperOptions;

/// A part, and where it is.
struct Located {
    part: Part,
    whereabouts: Whereabouts,
}

/// Looks at where the parts are. Those `visited` already are not walked to once more.
pub(super) fn observe(
    system: &System,
    store: &Store,
    mounts: &MountTable,
    visited: &[&Visited],
) -> PartFacts {
    let is_mounted = !stack_at(&mounts.all, &store.real).is_empty();
    let located: Vec<Located> = parts(store)
        .into_iter()
        .filter_map(|part| {
            let whereabouts = match visited.iter().find(|it| it.place.path == part.path) {
                _ if part.role == Role::Merged && is_mounted => {
                    Whereabouts::of_mount_point(&part.path, mounts)
                }
                Some(visited) => Whereabouts::of_visited(visited, mounts),
                None => {
                    let symlinks = match part.role.is_lower() {
                        true => Symlinks::Follow,
                        false => Symlinks::Refuse,
                    };
                    Whereabouts::find(&part.path, symlinks, mounts)
                }
            };
            whereabouts.map(|whereabouts| Located { part, whereabouts })
        })
        .collect();
    let mut claims = claims_of_overlays(store, &located, mounts);
    let mut unread = Vec::new();
    for (file, other) in others(system, store, &mut unread) {
        claims.extend(claims_of_description(&file, &other, &located, mounts));
    }
    PartFacts {
        overlaps: overlaps(&located),
        claims,
        unread,
    }
}

fn overlaps(located: &[Located]) -> Vec<Overlap> {
    let mut overlaps = Vec::new();
    for (at, one) in located.iter().enumerate() {
        for (other_at, other) in located.iter().enumerate() {
            // Which of the lower store's are inside which is its owner's choice.
            if at == other_at || (one.part.role.is_lower() && other.part.role.is_lower()) {
                continue;
            }
            match one.whereabouts.relation(&other.whereabouts) {
                Some(Relation::Same) if at > other_at => {}
                Some(relation) => overlaps.push(Overlap {
                    part: one.part.clone(),
                    relation,
                    other: other.part.clone(),
                }),
                None => {}
            }
        }
    }
    overlaps
}

/// Which parts of this store are, or are inside, what another overlay writes to.
fn claims_of_overlays(store: &Store, located: &[Located], mounts: &MountTable) -> Vec<Claim> {
    let ours: Vec<&MountInfo> = mounts
        .all
        .iter()
        .filter(|mount| is_overlay(mount) && mount.mount_point == *store.real)
        .collect();
    let mut claims = Vec::new();
    let mut seen: Vec<&MountInfo> = Vec::new();
    for mount in mounts.all.iter().filter(|mount| is_overlay(mount)) {
        // A bind mount shows the same overlay.
        if ours
            .iter()
            .chain(&seen)
            .any(|other| mount.is_of_same_file_system(other))
        {
            continue;
        }
        seen.push(mount);
        let options = SuperOptions::parse(&mount.super_options);
        let find = |path: Option<PathBuf>| {
            let path = path.filter(|path| path.is_absolute())?;
            let whereabouts = Whereabouts::find(&path, Symlinks::Follow, mounts)?;
            Some((path, whereabouts))
        };
        let (upper, work) = (find(options.upper), find(options.work));
        // That two have one upper layer is found where it is looked for in other mount namespaces too.
        let has_ours = |(_, theirs): &(PathBuf, Whereabouts)| {
            let mut layers = located
                .iter()
                .filter(|one| one.part.role == Role::UpperLayer);
            layers.any(|one| one.whereabouts.relation(theirs) == Some(Relation::Same))
        };
        if upper.as_ref().is_some_and(has_ours) {
            continue;
        }
        for (what, found) in [("upper layer", upper), ("work directory", work)] {
            let Some((path, theirs)) = found else {
                continue;
            };
            let whose = format!(
                "the {what} of the overlay at {}, {}",
                show_path(&mount.mount_point),
                show_path(&path)
            );
            for one in located.iter().filter(|one| !one.part.role.is_lower()) {
                let relation = one.whereabouts.relation(&theirs);
                let is_layer = matches!(one.part.role, Role::UpperLayer | Role::WorkDirectory);
                let around = is_layer && theirs.relation(&one.whereabouts).is_some();
                if relation.is_some() || around {
                    claims.push(Claim {
                        part: one.part.clone(),
                        relation,
                        whose: whose.clone(),
                    });
                }
            }
        }
    }
    claims
}

/// Which parts of this store are the state directory of another one.
fn claims_of_description(
    file: &Path,
    other: &Store,
    located: &[Located],
    mounts: &MountTable,
) -> Vec<Claim> {
    let Some(theirs) = Whereabouts::find(&other.state, Symlinks::Refuse, mounts) else {
        return Vec::new();
    };
    let is_theirs = |one: &&Located| {
        !one.part.role.is_lower() && one.whereabouts.relation(&theirs) == Some(Relation::Same)
    };
    let claims = located.iter().filter(is_theirs).map(|one| Claim {
        part: one.part.clone(),
        relation: Some(Relation::Same),
        whose: format!(
            "the state directory of the store that {} describes",
            show_path(file)
        ),
    });
    claims.collect()
}

/// The other stores that this machine has descriptions of.
fn others(system: &System, store: &Store, unread: &mut Vec<Unread>) -> Vec<(PathBuf, Store)> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in DESCRIPTION_DIRECTORIES {
        // A directory that is missing, or not readable, has none.
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let file = Path::new(directory).join(entry.file_name());
            if file.extension() == Some(OsStr::new("toml")) {
                files.entry(entry.file_name()).or_insert(file);
            }
        }
    }
    let mut environment = None;
    let mut others = Vec::new();
    for file in files.into_values() {
        match read(&file, system, store.file, &mut environment) {
            Ok(Some(other)) if !is_same_store(&other, store) => others.push((file, other)),
            Ok(_) => {}
            Err(why) => unread.push(Unread { file, why }),
        }
    }
    others
}

/// Reads a description, unless it is `ours` or describes nothing.
fn read(
    file: &Path,
    system: &System,
    ours: Option<FileIdentity>,
    environment: &mut Option<Environment>,
) -> Result<Option<Store>, String> {
    let found = rustix::fs::stat(file).map_err(|errno| errno.to_string())?;
    if Some(FileIdentity::from(&found)) == ours || regular_file::is_null(&found) {
        return Ok(None);
    }
    let content = regular_file::read(file, config::MAX_SIZE).map_err(|error| error.to_string())?;
    let text = config::text(&show_path(file), content)?;
    if text.is_empty() {
        return Ok(None);
    }
    let environment = environment.get_or_insert_with(|| match system.root() {
        Some(_) => environment_of_target(hook()),
        None => self::environment(),
    });
    match config::parse("", &show_path(file), &text, environment) {
        Ok(store) => Ok(Some(store)),
        Err(errors) => {
            let text = errors.to_string();
            Err(text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

/// Whether two descriptions are of one store: a copy of a description is no other store.
fn is_same_store(one: &Store, other: &Store) -> bool {
    let parts = |store: &Store| {
        [
            store.real.value.clone(),
            store.state.value.clone(),
            store.upper_layer.clone(),
            store.workdir.clone(),
        ]
    };
    parts(one) == parts(other)
}
