//! What is there: everything that looks at the machine, and nothing that changes it.

mod environment;
mod facts;
mod hook;
mod layer;
mod left;
mod lower;
mod machine;
mod mount_table;
mod names;
mod overlay;
mod pairing;
mod parts;
mod path;
mod publication;
mod rehearsal;
mod set_up;
mod shows;
mod upper_database;
mod upper_usage;
mod whereabouts;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use environment::{environment, environment_of_target};
pub(crate) use environment::{
    hook, own_caches, own_descriptions, own_runtime, own_stores, program_name,
};
pub(crate) use facts::*;
pub(crate) use lower::{ask as ask_daemon, observe_for_owner, observe_generation};
pub(crate) use publication::{look as generation_link, readers};
pub(crate) use set_up::{Member, members, shows};
pub(crate) use upper_database::read_schema;
pub(crate) use upper_usage::stays_used_by_an_overlay;

use crate::config::Store;
use crate::linux::exhaustion;
use crate::linux::root::System;
use crate::linux::safe_path::Symlinks;
use crate::nix::layout;
use crate::overlayfs::defaults::Defaults;
use crate::overlayfs::markers::{self, Marks};
use crate::overlayfs::mountinfo::MountInfo;
use mount_table::MountTable;
use overlay::Expected;
use path::Visited;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// As `up` needs it: few system calls, whatever the size of the store.
    Up,
    /// The same by a process that holds the locks of a set-up (`apply::DirectoryLock`): nobody else
    /// has locked the upper layer then, and asking costs time (`/proc/locks` stops the machine for
    /// milliseconds).
    UpLocked,
    /// As `check` does: into the upper database, at every name in the upper layer, at other mount
    /// namespaces, at the daemon.
    Check {
        /// Whether to look at every name in the lower store directory too.
        lower_names: bool,
    },
}

/// Looks at everything about a store.
///
/// # Errors
/// When `/proc` or the group database cannot be read. What is wrong with the store is no error but
/// part of the result.
pub fn observe(system: &System, store: &Store, depth: Depth) -> io::Result<Observed> {
    look(system, store, depth, None)
}

/// Looks again at what a process has set up that holds the locks of a set-up ever since it learnt
/// about the `rows` of the upper database: nobody has changed them, and to read them again costs
/// time (a database that was just written is read only after it has settled).
///
/// # Errors
/// As for [`observe`].
pub(crate) fn observe_made(system: &System, store: &Store, rows: Rows) -> io::Result<Observed> {
    look(system, store, Depth::UpLocked, Some(rows))
}

/// Looks at everything but the rows of the upper database, whose reading costs time: for a first look at
/// what will be looked at again.
///
/// # Errors
/// As for [`observe`].
pub(crate) fn observe_but_rows(system: &System, store: &Store) -> io::Result<Observed> {
    let unknown = Rows::Unknown(String::new());
    look(system, store, Depth::Up, Some(unknown))
}

/// Whether the overlay of a store is in effect.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn is_mounted(system: &System, store: &Store) -> io::Result<bool> {
    let mounts = MountTable::read(system)?;
    let expected = Expected {
        real: &path::visit(&store.real, Symlinks::Refuse, &mounts),
        lower: &lower::visit(&store.lower, &mounts),
        upper_layer: &layer::visit(&store.upper_layer, &mounts),
        workdir: None,
    };
    let facts = overlay::observe(system, &mounts, &expected, Depth::Up);
    Ok(facts.overlay.is_some())
}

fn look(system: &System, store: &Store, depth: Depth, rows: Option<Rows>) -> io::Result<Observed> {
    let machine = machine::observe(system, store, depth)?;
    let mounts = MountTable::read(system)?;
    let lower = lower::visit(&store.lower, &mounts);
    let upper = layer::visit(&store.upper_layer, &mounts);
    let workdir = layer::visit(&store.workdir, &mounts);
    let real = path::visit(&store.real, Symlinks::Refuse, &mounts);
    let expected = Expected {
        real: &real,
        lower: &lower,
        upper_layer: &upper,
        workdir: Some(&workdir),
    };
    let mount = overlay::observe(system, &mounts, &expected, depth);
    // Only `user.*` can be set in a user namespace.
    let marks = Marks::with_userxattr(machine.user_namespace || store.userxattr());
    let mut upper_layer = layer::observe(&upper, &machine, marks, depth);
    if let (Depth::Check { .. }, Some(upper)) = (depth, &upper.reached) {
        let merged = real.reached.as_ref().filter(|_| mount.overlay.is_some());
        upper_layer.left = names::left(upper, merged).ok();
    }
    upper_layer.usage = upper_usage(system, &mounts, &upper, &mount, depth);
    let mut work_facts = layer::observe(&workdir, &machine, marks, Depth::Up);
    work_facts.usage = work_usage(&mounts, &workdir, &mount);
    let left = match mount.overlay {
        Some(_) => LeftByMounts::default(),
        None => {
            let index = with_index(store, machine.overlay_defaults);
            left::observe(system, &lower, &upper, &workdir, marks, index)
        }
    };
    let asked = mount.overlay.is_none() && depth != Depth::UpLocked;
    let state = visit_state(&store.state, &mounts);
    let mut lower_facts = lower::observe(system, &mounts, &store.lower, &lower, depth);
    if let (Some(names), Some(upper)) = (&mut lower_facts.strangers, &upper.reached) {
        names.retain(|name| !markers::is_whiteout(upper, name).unwrap_or(false));
    }
    let database = upper_database::observe(&state.db, store.use_sqlite_wal, depth);
    let visited: Vec<&Visited> = [&lower, &upper, &workdir, &real]
        .into_iter()
        .chain(state.all())
        .collect();
    let parts = parts::observe(system, store, &mounts, &visited);
    let pairing = pairing::observe(store, &upper, &lower, &database, rows);
    exhaustion::expect_none()?;
    Ok(Observed {
        lower: lower_facts,
        upper_layer,
        workdir: work_facts,
        left,
        not_shown: not_shown(&mounts, [&lower, &upper]),
        refused: asked
            .then(|| refused(system, store, &machine, &lower))
            .flatten(),
        mount,
        database,
        pairing,
        state: state.into_places(),
        overlays_below: overlays_below(&mounts, [&lower, &upper]),
        parts,
        hook: store.remount_hook.as_deref().map(hook::observe),
        machine,
    })
}

/// The mount points in the layers: OverlayFS does not show what is mounted there.
fn not_shown(mounts: &MountTable, layers: [&Visited; 2]) -> Vec<PathBuf> {
    let reached = layers.into_iter().filter_map(|it| it.reached.as_ref());
    reached
        .flat_map(|layer| mounts.inside(layer.path()))
        .map(Path::to_owned)
        .collect()
}

/// How many overlays the deeper of the layers lies on: the kernel limits them.
fn overlays_below(mounts: &MountTable, layers: [&Visited; 2]) -> u32 {
    let reached = layers.into_iter().filter_map(Visited::reached_or_nearest);
    let depths = reached.map(|layer| mounts.overlays_at(layer));
    depths.max().unwrap_or(0)
}

/// The state directory, and those in it that Nix makes.
struct State {
    top: Visited,
    db: Visited,
    others: Vec<Visited>,
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Visited> {
        [&self.top, &self.db].into_iter().chain(&self.others)
    }

    fn into_places(self) -> Vec<Place> {
        [self.top, self.db]
            .into_iter()
            .chain(self.others)
            .map(|visited| visited.place)
            .collect()
    }
}

fn visit_state(state: &Path, mounts: &MountTable) -> State {
    let top = path::visit(state, Symlinks::Refuse, mounts);
    let db = path::visit_below(&top, layout::DATABASE_DIRECTORY, mounts);
    let mut others = Vec::new();
    for name in [layout::ROOTS, layout::PROFILES] {
        let directory = path::visit_below(&top, name, mounts);
        let per_user = path::visit_below(&directory, layout::PER_USER, mounts);
        others.extend([directory, per_user]);
    }
    others.push(path::visit_below(&top, layout::TEMPORARY_ROOTS, mounts));
    State { top, db, others }
}

/// Whether the overlay has an index, as far as can be told before it is mounted.
fn with_index(store: &Store, defaults: Option<Defaults>) -> bool {
    let value = |name: &str| {
        let mut options = store.mount_options.iter();
        let given = options.find(|option| option.name == name)?;
        given.value.as_deref().map(|value| value == "on")
    };
    let defaults = defaults.unwrap_or_default();
    let exported = value("nfs_export").unwrap_or(defaults.nfs_export);
    value("index").unwrap_or(defaults.index || exported)
}

/// Why the kernel would not mount the overlay, whatever its upper layer.
fn refused(system: &System, store: &Store, machine: &Machine, lower: &Visited) -> Option<String> {
    let lower = lower.reached.as_ref().filter(|_| machine.can_mount)?;
    let options = store.overlay_options(machine.user_namespace);
    rehearsal::refusal(system, lower.path(), Symlinks::Follow, &options)
}

/// Our own overlay, be it in effect or hidden. One that writes to something else is not it.
fn own_overlay(mount: &MountFacts) -> Option<&MountInfo> {
    match &mount.overlay {
        Some(overlay) => {
            Some(&overlay.info).filter(|_| !matches!(overlay.upper, Identity::Different(_)))
        }
        None => [&mount.stack, &mount.buried]
            .into_iter()
            .flatten()
            .find(|mount| mount.fs_type == "overlay"),
    }
}

/// Who else has the work directory.
fn work_usage(mounts: &MountTable, workdir: &Visited, mount: &MountFacts) -> Usage {
    // The one in effect is told as what it is, also where it has another upper layer.
    let in_effect = mount.overlay.as_ref().map(|overlay| &overlay.info);
    let ours = in_effect.or_else(|| own_overlay(mount));
    match &workdir.reached {
        Some(workdir) => mounts
            .other_writer(workdir, ours)
            .map_or(Usage::Unknown, Usage::Mounted),
        None => user_of_nearest(mounts, workdir),
    }
}

/// Who has the directory in which a missing one would be made.
fn user_of_nearest(mounts: &MountTable, missing: &Visited) -> Usage {
    missing
        .nearest
        .as_ref()
        .and_then(|nearest| mounts.other_writer(nearest, None))
        .map_or(Usage::Unknown, Usage::Mounted)
}

fn upper_usage(
    system: &System,
    mounts: &MountTable,
    upper: &Visited,
    mount: &MountFacts,
    depth: Depth,
) -> Usage {
    let Some(directory) = &upper.reached else {
        return user_of_nearest(mounts, upper);
    };
    let ours = own_overlay(mount);
    // Where our own overlay is in effect, nobody but `overstore exec` around this process can hold
    // the lock for long: whoever is elsewhere waits for that overlay to go.
    let in_effect = mount.overlay.is_some() && ours.is_some();
    if !in_effect
        && depth != Depth::UpLocked
        && let Some(pids) = upper_usage::locked(system, directory)
    {
        return Usage::Locked(pids);
    }
    // Where it is going to be mounted, one that is just going is no obstacle.
    let patience = match depth {
        Depth::UpLocked => upper_usage::GOING,
        Depth::Up | Depth::Check { .. } => Duration::ZERO,
    };
    upper_usage::observe(directory, ours.is_some(), patience, || {
        mounts
            .other_writer(directory, ours)
            .or_else(|| match depth {
                Depth::Up | Depth::UpLocked => None,
                Depth::Check { .. } => mounts.other_writer_elsewhere(system, directory, ours),
            })
    })
}

/// Looks at where the parts of a store are, and at nothing else.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn part_facts(system: &System, store: &Store) -> io::Result<PartFacts> {
    Ok(parts::observe(
        system,
        store,
        &MountTable::read(system)?,
        &[],
    ))
}

/// How the overlay at the merged store directory differs from one of exactly the directories
/// described, if it does, as far as can be told.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn differs(system: &System, store: &Store) -> io::Result<Option<String>> {
    let mounts = MountTable::read(system)?;
    let expected = Expected {
        real: &path::visit(&store.real, Symlinks::Refuse, &mounts),
        lower: &lower::visit(&store.lower, &mounts),
        upper_layer: &layer::visit(&store.upper_layer, &mounts),
        workdir: Some(&layer::visit(&store.workdir, &mounts)),
    };
    let depth = Depth::Check { lower_names: false };
    let facts = overlay::observe(system, &mounts, &expected, depth);
    let Some(overlay) = facts.overlay else {
        return Ok(Some("no overlay is in effect there".to_owned()));
    };
    // An empty lower store directory has nothing to compare but its path.
    let is_empty = expected.lower.reached.is_some() && overlay.lower == Identity::Unknown;
    let compared = [
        ("the lower store directory", &overlay.lower, is_empty),
        ("the upper layer", &overlay.upper, false),
        ("the work directory", &overlay.workdir, false),
    ];
    Ok(compared
        .into_iter()
        .find_map(|(what, identity, known)| match identity {
            Identity::Same => None,
            Identity::Unknown if known => None,
            Identity::Unknown => Some(format!("overstore cannot tell whether it has {what}")),
            Identity::Different(how) => Some(format!("{what}: {how}")),
        }))
}
