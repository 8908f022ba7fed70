//! A store brought to another generation of what is below, beside a remount.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Contest, of_size, sql};

/// Paths below: the cost is not theirs.
const FLAT: [u32; 2] = [1_000, 1_000_000];
/// New paths in each generation.
const NEW: u32 = 100;
/// How often each command runs.
const ROUNDS: u32 = 7;

/// Has the last path refer to all that nothing else refers to, so that one root keeps them: making
/// hundreds of thousands is not what is measured.
pub const ONE_ROOT: &str = "pragma foreign_keys = off; insert or ignore into Refs \
    select (select max(id) from ValidPaths), id from ValidPaths v \
    where id != (select max(id) from ValidPaths) \
    and not exists (select 1 from Refs where reference = v.id and referrer != v.id); \
    pragma wal_checkpoint(truncate);";

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Refreshing {
    pub contests: Vec<Contest>,
    /// Seconds of processor time of a refresh, with so many paths below.
    pub flat: BTreeMap<u32, Times>,
}

/// The stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    FLAT.into_iter().map(of_size)
}

pub fn measure(place: &Place) -> Result<Refreshing> {
    let (mut contests, mut flat) = (Vec::new(), BTreeMap::new());
    for paths in FLAT {
        eprintln!("a refresh over {paths} paths");
        let fleet = Fleet::new(place, paths)?;
        let mut refreshed = Times::default();
        for _ in 0..ROUNDS {
            fleet.back()?;
            refreshed.push(measure::processor_time(&mut fleet.overstore("refresh"))?);
        }
        flat.insert(paths, refreshed);
        let (mut ours, mut theirs) = <(Times, Times)>::default();
        for _ in 0..ROUNDS {
            ours.push(measure::processor_time(&mut fleet.overstore("refresh"))?);
            theirs.push(measure::processor_time(&mut fleet.overstore("remount"))?);
        }
        contests.push(Contest {
            work: format!("`refresh` with nothing new, {paths} paths below"),
            against: "`overstore remount`; processor time".to_owned(),
            ours,
            theirs,
            aim: "at most 2".to_owned(),
        });
    }
    Ok(Refreshing { contests, flat })
}

/// A publication of three generations, each with [`NEW`] paths more than the one before, and a store
/// over it that has gone from the first to the second.
struct Fleet {
    directory: PathBuf,
}

impl Fleet {
    fn new(place: &Place, paths: u32) -> Result<Self> {
        let directory = place.scratch.join(format!("refreshing-{paths}"));
        fs::create_dir_all(directory.join("live"))?;
        let fleet = Self { directory };
        let from = place.stores.join(of_size(paths).name());
        // Its state only: the objects stay where they are, and are all there from the beginning.
        let state = fleet.directory.join("live/state");
        let copy = Command::new("cp")
            .arg("-a")
            .args([&from.join("nix/var/nix"), &state])
            .output()?;
        if !copy.status.success() {
            return Err(String::from_utf8_lossy(&copy.stderr).into());
        }
        let real = from.join("nix/store");
        fs::write(
            fleet.directory.join("main.toml"),
            format!(
                "real = {real:?}\nstate = {state:?}\npublication = {:?}\n[include]\nall-valid = true\n",
                fleet.directory.join("publication")
            ),
        )?;
        fs::write(
            fleet.directory.join("above.toml"),
            format!(
                "root = {:?}\nupper-layer = {:?}\nworkdir = {:?}\n[lower]\nreal = {real:?}\n\
                 publication = {:?}\n",
                fleet.directory.join("merged"),
                fleet.directory.join("upper"),
                fleet.directory.join("work"),
                fleet.directory.join("publication")
            ),
        )?;
        let database = state.join("db/db.sqlite");
        let without = |first: u32| {
            format!(
                "pragma foreign_keys = off; delete from Refs where referrer > {first}; \
                 delete from ValidPaths where id > {first}; pragma wal_checkpoint(truncate);"
            )
        };
        let original = from.join("nix/var/nix/db/db.sqlite");
        let with = |last: u32| {
            let original = original.display();
            format!(
                "pragma foreign_keys = off; attach 'file:{original}?immutable=1' as whole; \
                 insert or ignore into ValidPaths select * from whole.ValidPaths where id <= {last}; \
                 insert or ignore into Refs select * from whole.Refs where referrer <= {last}; \
                 pragma wal_checkpoint(truncate);"
            )
        };
        sql(&database, &without(paths - 2 * NEW))?;
        sql(&database, ONE_ROOT)?;
        fleet.publish()?;
        measure::time(&mut fleet.overstore("up"))?;
        sql(&database, &with(paths - NEW))?;
        fleet.publish()?;
        measure::time(&mut fleet.overstore("refresh"))?;
        fs::copy(fleet.memory(), fleet.directory.join("memory"))?;
        sql(&database, &with(paths))?;
        fleet.publish()?;
        Ok(fleet)
    }

    fn own(&self) -> PathBuf {
        self.directory.join("merged/nix/var/nix/overstore")
    }

    fn memory(&self) -> PathBuf {
        self.own().join("state.json")
    }

    /// As it was on the second generation.
    fn back(&self) -> Result<()> {
        let link = self.own().join("generation");
        fs::remove_file(&link)?;
        symlink(self.directory.join("publication/generations/2"), &link)?;
        fs::copy(self.directory.join("memory"), self.memory())?;
        Ok(())
    }

    fn publish(&self) -> Result<()> {
        measure::time(
            Command::new("overstore")
                .arg("publish")
                .arg(self.file("main")),
        )?;
        Ok(())
    }

    fn overstore(&self, command: &str) -> Command {
        let mut run = Command::new("overstore");
        run.arg(command).arg(self.file("above"));
        run
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(format!("{name}.toml"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.overstore("down").output();
    }
}
