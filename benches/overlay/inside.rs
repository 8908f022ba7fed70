//! The part that runs in a World: the places to measure in, and the measuring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::collecting::{self, Collecting};
use crate::generator::Result;
use crate::measure;
use crate::metadata::{self, Metadata};
use crate::own::{self, Own};
use crate::publishing::{self, Publishing};
use crate::reconciling::{self, Reconciling};
use crate::refreshing::{self, Refreshing};
use crate::setup::{self, Setup};

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Results {
    pub setups: Vec<Setup>,
    /// What [`measure::peak`] gives for a program that needs next to nothing: KiB.
    pub least_peak: u64,
    pub metadata: Option<Metadata>,
    pub collecting: Option<Collecting>,
    pub refreshing: Option<Refreshing>,
    pub own: Option<Own>,
    pub publishing: Option<Publishing>,
    pub reconciling: Option<Reconciling>,
    pub cache: Option<Vec<cache::Work>>,
}

/// A file system to measure on.
pub struct Place {
    pub file_system: String,
    /// Where the lower stores are, each by its recipe's name.
    pub stores: PathBuf,
    /// An empty directory for everything else.
    pub scratch: PathBuf,
}

/// Enters the World of `process` and measures. `scratch` is a directory in the cache.
pub fn run(process: u32, cache: &Path, scratch: &str, rounds: u32) -> Result<Results> {
    enter(process, cache)?;
    let disk = place("/mnt/disk", scratch)?;
    // All parts, unless one is named.
    let part = std::env::var("OVERSTORE_BENCH_PART").unwrap_or_default();
    let is_wanted = |name: &str| part.is_empty() || part == name;
    if is_wanted("setting-up") {
        copy_to_memory()?;
    }
    let metadata = is_wanted("metadata")
        .then(|| metadata::measure(&disk))
        .transpose()?;
    let collecting = is_wanted("collecting")
        .then(|| collecting::measure(&disk))
        .transpose()?;
    let refreshing = is_wanted("refreshing")
        .then(|| refreshing::measure(&disk))
        .transpose()?;
    let own = is_wanted("own").then(|| own::measure(&disk)).transpose()?;
    let publishing = is_wanted("publishing")
        .then(|| publishing::measure(&disk))
        .transpose()?;
    let reconciling = is_wanted("reconciling")
        .then(|| reconciling::measure(&disk))
        .transpose()?;
    let cache = is_wanted("path-info-cache")
        .then(|| cache::measure(&disk))
        .transpose()?;
    let setups = match is_wanted("setting-up") {
        true => setup::measure(&[disk, place("/mnt/memory", scratch)?], rounds)?,
        false => Vec::new(),
    };
    Ok(Results {
        setups,
        least_peak: measure::peak(&Command::new("true"))?,
        metadata,
        collecting,
        refreshing,
        own,
        publishing,
        reconciling,
        cache,
    })
}

/// From here on this process sees the World, and its children are in it: the cache at `/mnt/disk`,
/// and its stores not to be written to.
fn enter(process: u32, cache: &Path) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, cache, flags)?;
    let world = Path::new("/proc").join(process.to_string()).join("ns");
    let namespaces = [
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let namespaces = namespaces.map(|(name, flag)| (fs::File::open(world.join(name)), flag));
    for (file, flag) in namespaces {
        setns(file?, flag)?;
    }
    fs::create_dir("/mnt/disk")?;
    move_mount(
        tree,
        "",
        CWD,
        "/mnt/disk",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    for script in [
        "mount --bind /mnt/disk/stores /mnt/disk/stores",
        "mount -o remount,bind,ro /mnt/disk/stores",
        "mkdir -p /mnt/memory/stores",
    ] {
        measure::time(Command::new("sh").args(["-c", script]))?;
    }
    Ok(())
}

/// Copies the stores that are set up to `/mnt/memory`.
fn copy_to_memory() -> Result<()> {
    for recipe in crate::recipes() {
        let store = Path::new("/mnt/disk/stores").join(recipe.name());
        measure::time(
            Command::new("cp")
                .arg("-a")
                .arg(store)
                .arg("/mnt/memory/stores"),
        )?;
    }
    Ok(())
}

fn place(directory: &str, scratch: &str) -> Result<Place> {
    let found = Command::new("findmnt")
        .args(["-n", "-o", "FSTYPE", "-T", directory])
        .output()?;
    let directory = Path::new(directory);
    let scratch = directory.join(scratch);
    fs::create_dir_all(&scratch)?;
    Ok(Place {
        file_system: String::from_utf8(found.stdout)?.trim().to_owned(),
        stores: directory.join("stores"),
        scratch,
    })
}
