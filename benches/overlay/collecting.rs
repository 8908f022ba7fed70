//! Collecting garbage and removing what is in both layers, beside Nix.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Contest, ROOT, Store, of_size, sql, with_root};

/// Objects above, half of which are garbage.
const ABOVE: u32 = 1_000;
/// Paths below.
const BELOW: u32 = 50_000;
/// Lower stores of these sizes show that the cost is not theirs.
const FLAT: [u32; 3] = [1_000, 50_000, 1_000_000];
/// Objects in both layers, each a directory with files.
const BOTH: u32 = 2_000;
const FILES: u32 = 4;
/// How often each command runs; Nix's collector, which takes minutes, runs once.
const ROUNDS: u32 = 3;

/// Without its cache off, Nix's collector fails.
const NO_CACHE: &str = "[parameters]\npath-info-cache-size = 0\n";

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Collecting {
    pub contests: Vec<Contest>,
    /// Seconds of processor time of a collection, with so many paths below.
    pub flat: BTreeMap<u32, Times>,
    /// KiB at most of a choice among a million rows.
    pub peak: u64,
}

/// The stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    let below = FLAT.into_iter().chain([BELOW]).map(of_size);
    below.chain([above(ABOVE), above(BELOW)])
}

/// A store whose objects are above: its names are of another seed.
fn above(paths: u32) -> Recipe {
    Recipe {
        seed: 3,
        paths,
        ..Recipe::default()
    }
}

pub fn measure(place: &Place) -> Result<Collecting> {
    let mut contests = Vec::new();
    unrooted(place, &mut contests)?;
    rooted(place, &mut contests)?;
    let flat = flat(place)?;
    why(place, &mut contests)?;
    both(place, &mut contests)?;
    Ok(Collecting {
        contests,
        flat,
        peak: peak(place)?,
    })
}

/// A store with objects above.
struct Filled<'p> {
    store: Store,
    place: &'p Place,
    above: u32,
}

impl<'p> Filled<'p> {
    fn new(place: &'p Place, name: &str, lower: &Path, above: u32) -> Result<Self> {
        let text = format!("{}?read-only=true", lower.display());
        let store = Store::new(place, name, &text, NO_CACHE)?;
        Ok(Self {
            store,
            place,
            above,
        })
    }

    /// Sets it up anew, with the objects above and a root for each of the first half: a path comes
    /// after all that it refers to, so the other half is garbage.
    fn anew(&self) -> Result<()> {
        self.store.anew()?;
        self.store.down();
        let from = self.place.stores.join(above(self.above).name());
        let copy = "cd \"$0\" && find . -mindepth 1 -maxdepth 1 ! -name .links -print0 \
                    | xargs -0 cp -a -t \"$1\"";
        measure::time(
            Command::new("sh")
                .args(["-c", copy])
                .args([&from.join("nix/store"), &self.store.directory.join("upper")]),
        )?;
        let rows = format!(
            "attach 'file:{}?immutable=1' as above;
             insert into ValidPaths select * from above.ValidPaths;
             insert into Refs select * from above.Refs;
             pragma wal_checkpoint(truncate);",
            from.join("nix/var/nix/db/db.sqlite").display()
        );
        sql(&self.store.database(), &rows)?;
        for (number, path) in self
            .paths(&format!("id <= {}", self.above / 2))?
            .iter()
            .enumerate()
        {
            self.root(&format!("above-{number}"), path)?;
        }
        measure::time(&mut self.store.overstore(&["up"]))?;
        Ok(())
    }

    fn root(&self, name: &str, path: &str) -> Result<()> {
        let roots = self.store.directory.join("merged/nix/var/nix/gcroots");
        Ok(symlink(path, roots.join(name))?)
    }

    /// The paths of the rows of which a condition holds.
    fn paths(&self, condition: &str) -> Result<Vec<String>> {
        let query = format!("select path from ValidPaths where {condition} order by id");
        let output = Command::new("sqlite3")
            .arg(self.store.database())
            .arg(query)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Fails unless exactly the garbage is gone.
    fn expect_collected(&self) -> Result<()> {
        let left = fs::read_dir(self.store.directory.join("upper"))?.count() as u32;
        // `.links` is one of them.
        match left == self.above / 2 + 1 {
            true => Ok(()),
            false => Err(format!("{left} entries are left").into()),
        }
    }

    fn collect(&self) -> Result<f64> {
        let seconds = measure::time(&mut self.store.overstore(&["gc"]))?;
        self.expect_collected()?;
        Ok(seconds)
    }
}

/// Where no root leads below.
fn unrooted(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("collecting over {BELOW} paths, none of them rooted");
    let lower = place.stores.join(of_size(BELOW).name());
    let filled = Filled::new(place, "unrooted", &lower, ABOVE)?;
    let (mut ours, mut nix) = <(Times, Times)>::default();
    for _ in 0..ROUNDS {
        filled.anew()?;
        ours.push(filled.collect()?);
    }
    filled.anew()?;
    nix.push(measure::time(&mut filled.store.nix(&["--gc"]))?);
    filled.expect_collected()?;
    contests.push(Contest {
        work: format!(
            "`gc`, {} of {ABOVE} objects garbage, {BELOW} below",
            ABOVE / 2
        ),
        against: "`nix-store --gc`, its cache off".to_owned(),
        ours,
        theirs: nix,
        aim: "at most 0.01".to_owned(),
    });
    Ok(())
}

/// Where a root leads to all that is below.
fn rooted(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("collecting over {BELOW} paths, all of them rooted");
    let lower = with_root(place, BELOW)?;
    let filled = Filled::new(place, "rooted-below", &lower, ABOVE)?;
    let anew = || {
        filled.anew()?;
        filled.root("below", ROOT)
    };
    let (mut cold, mut nix) = <(Times, Times)>::default();
    let (mut warm, mut delete) = <(Times, Times)>::default();
    for _ in 0..ROUNDS {
        anew()?;
        cold.push(filled.collect()?);
        anew()?;
        measure::time(filled.store.overstore(&["warm"]).arg(ROOT))?;
        warm.push(filled.collect()?);
        anew()?;
        let garbage = filled.paths(&format!("id > {}", ABOVE / 2))?;
        measure::time(filled.store.overstore(&["warm"]).arg(ROOT))?;
        delete.push(measure::time(
            filled.store.nix(&["--delete"]).args(garbage),
        )?);
        filled.expect_collected()?;
    }
    anew()?;
    nix.push(measure::time(&mut filled.store.nix(&["--gc"]))?);
    contests.push(Contest {
        work: format!("the same, all {BELOW} rooted above, cold"),
        against: "`nix-store --gc`".to_owned(),
        ours: cold,
        theirs: nix,
        aim: "at most 0.033".to_owned(),
    });
    contests.push(Contest {
        work: "the same, warm".to_owned(),
        against: "`nix-store --delete` of the garbage, known beforehand".to_owned(),
        ours: warm,
        theirs: delete,
        aim: "at most 2.5".to_owned(),
    });
    Ok(())
}

/// Processor time over lower stores of several sizes.
fn flat(place: &Place) -> Result<BTreeMap<u32, Times>> {
    let mut flat = BTreeMap::new();
    for below in FLAT {
        eprintln!("collecting over {below} paths");
        let lower = place.stores.join(of_size(below).name());
        let filled = Filled::new(place, &format!("flat-{below}"), &lower, ABOVE)?;
        let times: &mut Times = flat.entry(below).or_default();
        for _ in 0..5 {
            filled.anew()?;
            times.push(measure::processor_time(
                &mut filled.store.overstore(&["gc"]),
            )?);
            filled.expect_collected()?;
        }
    }
    Ok(flat)
}

/// What keeps an object that nothing refers to, and one that thousands refer to.
fn why(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("what keeps an object among {BELOW}");
    let lower = place.stores.join(of_size(FLAT[0]).name());
    let filled = Filled::new(place, "why", &lower, BELOW)?;
    filled.anew()?;
    let top = "id = (select max(id) from ValidPaths v where id not in \
               (select reference from Refs where referrer != reference))";
    let popular = "id = (select reference from Refs group by reference \
                   order by count(*) desc limit 1)";
    for (condition, what, aim) in [
        (top, "an object that nothing refers to", "at most 1"),
        (popular, "one with thousands of referrers", "at most 0.1"),
    ] {
        let paths = filled.paths(condition)?;
        let path = paths.first().ok_or("no such path")?;
        let (mut ours, mut nix) = <(Times, Times)>::default();
        for _ in 0..ROUNDS {
            ours.push(measure::time(
                filled.store.overstore(&["gc", "--why", path]).arg("--json"),
            )?);
            nix.push(measure::time(
                filled.store.nix(&["--query", "--roots"]).arg(path),
            )?);
        }
        contests.push(Contest {
            work: format!("`gc --why` of {what}, {BELOW} above"),
            against: "`nix-store --query --roots`".to_owned(),
            ours,
            theirs: nix,
            aim: aim.to_owned(),
        });
    }
    Ok(())
}

/// A lower store with [`BOTH`] objects, and a store over it that has copies of all of them.
struct Copies {
    objects: PathBuf,
    store: Store,
    image: PathBuf,
    /// An image without anything in it.
    empty: PathBuf,
}

impl Copies {
    fn new(place: &Place) -> Result<Self> {
        let lower = place.scratch.join("lower-both");
        let trees = place.scratch.join("trees");
        fs::create_dir(&trees)?;
        let make = format!(
            "set -e; cd \"$0\"
             for i in $(seq {BOTH}); do
                 mkdir tree-$i; for j in $(seq {FILES}); do head -c 16K /dev/urandom >tree-$i/$j; done
             done"
        );
        measure::time(Command::new("sh").arg("-c").arg(make).arg(&trees))?;
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&trees)? {
            names.push(entry?.path());
        }
        let mut add = Command::new("nix-store");
        add.arg("--add").args(&names).arg("--store").arg(&lower);
        add.env("NIX_CONFIG", crate::support::FEATURES);
        measure::time(&mut add)?;
        fs::remove_dir_all(&trees)?;
        sql(
            &lower.join("nix/var/nix/db/db.sqlite"),
            "pragma wal_checkpoint(truncate)",
        )?;
        let text = format!("{}?read-only=true", lower.display());
        Ok(Self {
            objects: lower.join("nix/store"),
            store: Store::new(place, "both", &text, NO_CACHE)?,
            image: place.scratch.join("both.ext4"),
            empty: place.scratch.join(crate::EMPTY),
        })
    }

    fn upper(&self) -> PathBuf {
        self.store.directory.join("upper")
    }

    /// Has all copies above, on a new file system.
    fn anew(&self) -> Result<()> {
        self.store.down();
        measure::new_file_system(&self.empty, &self.image, &self.store.directory)?;
        measure::time(&mut self.store.overstore(&["up"]))?;
        measure::time(&mut self.store.overstore(&["warm", "--all"]))?;
        self.store.down();
        let copy = "cd \"$0\" && find . -mindepth 1 -maxdepth 1 ! -name .links -print0 \
                    | xargs -0 cp -a -t \"$1\"";
        measure::time(
            Command::new("sh")
                .args(["-c", copy])
                .args([&self.objects, &self.upper()]),
        )?;
        // Nobody pays for the writing of what the other one is to delete.
        measure::time(&mut Command::new("sync"))?;
        measure::time(&mut self.store.overstore(&["up"]))?;
        Ok(())
    }

    fn away(&self) {
        self.store.down();
        // It need not be mounted.
        let _ = Command::new("umount").arg(&self.store.directory).output();
    }

    fn forget(&self) -> Result<()> {
        let drop = "sync; echo 3 >/proc/sys/vm/drop_caches";
        measure::time(Command::new("sh").args(["-c", drop]))?;
        Ok(())
    }

    fn diff(&self) -> Result<f64> {
        let mut compare = Command::new("diff");
        compare.args(["-r", "--no-dereference", "--exclude=.links"]);
        measure::time(compare.args([&self.upper(), &self.objects]))
    }

    fn optimise(&self, more: &[&str]) -> Result<f64> {
        let words = [&["optimise"], more].concat();
        let seconds = measure::time(&mut self.store.overstore(&words))?;
        match fs::read_dir(self.upper())?.count() {
            1 => Ok(seconds),
            left => Err(format!("{left} entries are left").into()),
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.away();
    }
}

/// Objects in both layers.
fn both(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("{BOTH} objects in both layers");
    let copies = Copies::new(place)?;
    let mut contest = |what: &str, against: &str, aim: &str, times: (Times, Times)| {
        contests.push(Contest {
            work: format!(
                "`optimise` of {BOTH} objects ({} files){what}",
                BOTH * FILES
            ),
            against: against.to_owned(),
            ours: times.0,
            theirs: times.1,
            aim: aim.to_owned(),
        });
    };
    let (mut cold, mut warm, mut trusting) = <((Times, Times), (Times, Times), _)>::default();
    for _ in 0..ROUNDS {
        copies.anew()?;
        copies.forget()?;
        cold.1.push(copies.diff()?);
        copies.forget()?;
        cold.0.push(copies.optimise(&[])?);
        copies.anew()?;
        warm.1.push(copies.diff()?);
        warm.0.push(copies.optimise(&[])?);
        copies.anew()?;
        let (ours, nix): &mut (Times, Times) = &mut trusting;
        ours.push(copies.optimise(&["--trust-databases"])?);
        copies.anew()?;
        nix.push(measure::time(&mut copies.store.nix(&["--optimise"]))?);
    }
    let diff = "`diff -r --no-dereference` of the same trees";
    contest(", read from the disk", diff, "at most 1.2", cold);
    contest(", in the page cache", diff, "at most 1.2", warm);
    let nix = "`nix-store --optimise`, which compares nothing";
    contest(", `--trust-databases`", nix, "at most 1", trusting);
    Ok(())
}

/// A choice among the rows of everything below.
fn peak(place: &Place) -> Result<u64> {
    let below = FLAT[FLAT.len() - 1];
    eprintln!("choosing among {below} rows");
    let lower = place.stores.join(of_size(below).name());
    let filled = Filled::new(place, "choosing", &lower, ABOVE)?;
    filled.anew()?;
    measure::time(&mut filled.store.overstore(&["warm", "--all"]))?;
    measure::peak(&filled.store.overstore(&["gc", "--dry-run"]))
}
