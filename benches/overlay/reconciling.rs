//! A store put right over another lower store, beside Nix's `--verify`, which only looks, and beside `cp`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Contest, Store, of_size, sql};

/// Rows above, all of them copied from below.
const ROWS: u32 = 50_000;
/// Rows of which memory is measured.
const GROWTH: [u32; 2] = [ROWS, 1_000_000];
/// One in so many rows is another one in the new lower store: every fourth of them has other contents,
/// one in four is gone, and of the others signatures and times differ.
const ONE_IN: u32 = 100;
/// Objects that are carried, each a directory with files.
const CARRIED: u32 = 2_000;
const FILES: u32 = 4;
const KIBIBYTES: u32 = 64;
/// How often each command runs.
const ROUNDS: u32 = 5;

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Reconciling {
    pub contests: Vec<Contest>,
    /// Seconds of processor time, and KiB at most, with so many rows.
    pub growth: BTreeMap<u32, (Times, u64)>,
}

/// The stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    GROWTH.into_iter().map(of_size)
}

pub fn measure(place: &Place) -> Result<Reconciling> {
    let (mut contests, mut growth) = (Vec::new(), BTreeMap::new());
    for rows in GROWTH {
        eprintln!("reconciling {rows} rows");
        let replaced = Replaced::new(place, rows)?;
        let mut seconds = Times::default();
        for _ in 0..ROUNDS.min(3) {
            replaced.again()?;
            let mut reconcile = replaced.store.overstore(&["reconcile"]);
            seconds.push(measure::processor_time(&mut reconcile)?);
        }
        replaced.again()?;
        let peak = measure::peak(&replaced.store.overstore(&["reconcile"]))?;
        growth.insert(rows, (seconds, peak));
        if rows == ROWS {
            contests.push(replaced.beside_nix()?);
        }
    }
    carrying(place, &mut contests)?;
    Ok(Reconciling { contests, growth })
}

/// A store whose lower store was replaced. Only its state is another one; the objects are the same.
struct Replaced {
    store: Store,
    /// What the store was like over the old one.
    before: PathBuf,
}

impl Replaced {
    fn new(place: &Place, rows: u32) -> Result<Self> {
        let name = format!("reconciling-{rows}");
        let lower = place.scratch.join(format!("{name}-lower"));
        let from = place.stores.join(of_size(rows).name());
        measure::time(
            Command::new("cp")
                .arg("-a")
                .args([&from.join("nix/var/nix"), &lower]),
        )?;
        let text = format!(
            "local?real={}&state={}&read-only=true",
            from.join("nix/store").display(),
            lower.display()
        );
        let store = Store::new(place, &name, &text, "")?;
        store.anew()?;
        measure::time(&mut store.overstore(&["warm", "--all"]))?;
        store.down();
        let before = place.scratch.join(format!("{name}-before"));
        copy(&store.directory, &before)?;
        let one_in = ONE_IN;
        let change = format!(
            "pragma foreign_keys = off;
             update ValidPaths set registrationTime = registrationTime + 1, sigs = 'new:c2ln'
                 where id = 1 or id % {one_in} = 0;
             update ValidPaths set hash = 'sha256:' || substr('{:064}' || id, -64)
                 where id % ({one_in} * 4) = 0 and ca is null;
             create temp table Gone as select id from ValidPaths v where id % ({one_in} * 4) = {one_in} and not exists
                 (select 1 from Refs where reference = v.id and referrer != v.id);
             delete from Refs where referrer in (select id from Gone);
             delete from ValidPaths where id in (select id from Gone);
             pragma wal_checkpoint(truncate);",
            0
        );
        sql(&lower.join("db/db.sqlite"), &change)?;
        Ok(Self { store, before })
    }

    /// As it was when the lower store was replaced.
    fn again(&self) -> Result<()> {
        self.store.down();
        fs::remove_dir_all(&self.store.directory)?;
        copy(&self.before, &self.store.directory)
    }

    fn beside_nix(&self) -> Result<Contest> {
        let (mut ours, mut nix) = <(Times, Times)>::default();
        for _ in 0..ROUNDS {
            self.again()?;
            ours.push(measure::time(&mut self.store.overstore(&["reconcile"]))?);
            self.again()?;
            measure::time(&mut self.store.overstore(&["up"]))?;
            nix.push(measure::time(&mut self.store.nix(&["--verify"]))?);
        }
        Ok(Contest {
            work: format!("`reconcile` of {ROWS} rows, 1 % changed"),
            against: "`nix-store --verify`, which changes nothing".to_owned(),
            ours,
            theirs: nix,
            aim: "at most 0.05".to_owned(),
        })
    }
}

/// Copies a directory, and waits until it is on the disk.
fn copy(from: &Path, to: &Path) -> Result<()> {
    measure::time(Command::new("cp").arg("-a").args([from, to]))?;
    measure::time(Command::new("sync").arg("-f").arg(to))?;
    Ok(())
}

/// Objects carried out of the old store, and the same copied with `cp`.
fn carrying(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("carrying {CARRIED} objects");
    let old = place.scratch.join("carrying-old");
    let lower = place.scratch.join("carrying-lower");
    let objects = add_objects(place, &lower)?;
    let text = format!("{}?read-only=true", lower.display());
    let store = Store::new(place, "carrying", &text, "")?;
    store.anew()?;
    measure::time(&mut store.overstore(&["warm", "--all"]))?;
    let roots = store.directory.join("merged/nix/var/nix/gcroots");
    for (number, object) in objects.iter().enumerate() {
        symlink(object, roots.join(format!("carried-{number}")))?;
    }
    store.down();
    fs::rename(&lower, &old)?;
    copy(&place.stores.join(of_size(GROWTH[0]).name()), &lower)?;
    let before = place.scratch.join("carrying-before");
    copy(&store.directory, &before)?;
    let copied = place.scratch.join("carrying-copied");
    let empty = place.scratch.join(crate::EMPTY);
    let disks = ["ours", "theirs"].map(|name| place.scratch.join(format!("carrying-{name}.ext4")));
    let (mut ours, mut synced, mut plain) = <(Times, Times, Times)>::default();
    for _ in 0..ROUNDS {
        store.down();
        measure::new_file_system(&empty, &disks[0], &store.directory)?;
        copy(&before.join("."), &store.directory)?;
        let mut reconcile = store.overstore(&["reconcile", "--old"]);
        // The description comes last.
        let mut words: Vec<_> = reconcile.get_args().map(ToOwned::to_owned).collect();
        words.insert(2, old.clone().into());
        reconcile = Command::new(reconcile.get_program());
        ours.push(measure::time(reconcile.args(words))?);
        let carried = fs::read_dir(store.directory.join("upper"))?.count();
        if carried < CARRIED as usize {
            return Err(format!("{carried} objects were carried").into());
        }
        measure::new_file_system(&empty, &disks[1], &copied)?;
        let start = Instant::now();
        let copy = "cd \"$0\" && find . -mindepth 1 -maxdepth 1 ! -name .links -print0 \
                    | xargs -0 cp -a -t \"$1\"";
        let mut all = Command::new("sh");
        all.args(["-c", copy])
            .args([&old.join("nix/store"), &copied]);
        plain.push(measure::time(&mut all)?);
        measure::time(Command::new("sync").arg("-f").arg(&copied))?;
        synced.push(start.elapsed().as_secs_f64());
        measure::time(&mut Command::new("sync"))?;
    }
    store.down();
    for mounted in [&store.directory, &copied] {
        measure::time(Command::new("umount").arg(mounted))?;
    }
    let size = u64::from(CARRIED) * u64::from(FILES) * u64::from(KIBIBYTES) / 1024;
    for (against, theirs) in [
        ("`cp -a` of the same objects, and `sync -f`", synced),
        ("`cp -a`, which leaves them in memory", plain),
    ] {
        contests.push(Contest {
            work: format!("`reconcile` that carries {CARRIED} objects, {size} MiB"),
            against: against.to_owned(),
            ours: ours.clone(),
            theirs,
            aim: "at most 1.11".to_owned(),
        });
    }
    Ok(())
}

/// Adds the objects to a store: their paths.
fn add_objects(place: &Place, store: &Path) -> Result<Vec<String>> {
    let trees = place.scratch.join("carrying-trees");
    fs::create_dir(&trees)?;
    let make = format!(
        "set -e; cd \"$0\"
         for i in $(seq {CARRIED}); do
             mkdir tree-$i
             for j in $(seq {FILES}); do head -c {KIBIBYTES}K /dev/urandom >tree-$i/$j; done
         done"
    );
    measure::time(Command::new("sh").arg("-c").arg(make).arg(&trees))?;
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&trees)? {
        names.push(entry?.path());
    }
    let mut add = Command::new("nix-store");
    add.arg("--add").args(&names).arg("--store").arg(store);
    let output = add.env("NIX_CONFIG", crate::support::FEATURES).output()?;
    fs::remove_dir_all(&trees)?;
    let database = store.join("nix/var/nix/db/db.sqlite");
    sql(&database, "pragma wal_checkpoint(truncate)")?;
    let added = String::from_utf8(output.stdout)?;
    Ok(added.lines().map(str::to_owned).collect())
}
