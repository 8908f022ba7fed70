//! A generation beside SQLite's own copy of the database, and an image beside the tools that make
//! images of directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Contest, of_size, sql};
use crate::refreshing::ONE_ROOT;

/// Valid paths.
const SIZES: [u32; 2] = [50_000, 1_000_000];
/// How often each command runs, of the smaller store and of the larger one.
const ROUNDS: [u32; 2] = [7, 3];

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Publishing {
    pub contests: Vec<Contest>,
    pub sizes: Vec<Size>,
    /// What is in the images.
    pub objects: u64,
    /// Bytes of files in them.
    pub bytes: u64,
}

/// What a store of some size costs.
#[derive(Serialize, Deserialize)]
pub struct Size {
    pub paths: u32,
    /// Paths that nothing else refers to.
    pub roots: u64,
    pub with_roots: Times,
    pub with_one: Times,
    /// KiB, as [`measure::peak`] gives it.
    pub peak: u64,
}

/// The stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    SIZES.into_iter().map(of_size)
}

pub fn measure(place: &Place) -> Result<Publishing> {
    let (mut contests, mut sizes) = (Vec::new(), Vec::new());
    for (paths, rounds) in SIZES.into_iter().zip(ROUNDS) {
        eprintln!("publishing {paths} paths");
        sizes.push(generations(place, paths, rounds, &mut contests)?);
    }
    eprintln!("images");
    let tree = Tree::new(place)?;
    for (kind, plain) in [
        (
            "squashfs",
            &[
                "mksquashfs",
                "tree",
                "plain.squashfs",
                "-quiet",
                "-no-progress",
                "-noappend",
            ][..],
        ),
        (
            "erofs",
            &[
                "mkfs.erofs",
                "--quiet",
                "--all-root",
                "-T1",
                "-zlz4",
                "plain.erofs",
                "tree",
            ],
        ),
    ] {
        contests.push(tree.contest(kind, plain)?);
    }
    let objects = fs::read_dir(tree.directory.join("store/nix/store"))?.count() as u64 - 1;
    let used = Command::new("du")
        .args(["-s", "--apparent-size", "-B1"])
        .arg(tree.directory.join("store/nix/store"))
        .output()?;
    let used = String::from_utf8(used.stdout)?;
    let bytes = used.split_whitespace().next().unwrap_or("0").parse()?;
    Ok(Publishing {
        contests,
        sizes,
        objects,
        bytes,
    })
}

/// Generations of one store, each the first of its publication.
fn generations(
    place: &Place,
    paths: u32,
    rounds: u32,
    contests: &mut Vec<Contest>,
) -> Result<Size> {
    let live = Live::new(place, paths)?;
    let mut with_roots = Times::default();
    for _ in 0..rounds.min(3) {
        live.forget()?;
        with_roots.push(measure::time(&mut live.publish())?);
    }
    let json = fs::read_to_string(live.publication().join("current/overstore/generation.json"))?;
    let generation: serde_json::Value = serde_json::from_str(&json)?;
    sql(&live.database(), ONE_ROOT)?;
    let (mut ours, mut theirs) = <(Times, Times)>::default();
    let copy = live.directory.join("copy.sqlite");
    for _ in 0..rounds {
        live.forget()?;
        ours.push(measure::time(&mut live.publish())?);
        measure::time(&mut Command::new("sync"))?;
        theirs.push(sql(
            &live.database(),
            &format!("vacuum into '{}'", copy.display()),
        )?);
        fs::remove_file(&copy)?;
        measure::time(&mut Command::new("sync"))?;
    }
    live.forget()?;
    let peak = measure::peak(&live.publish())?;
    contests.push(Contest {
        work: format!("`publish` of {paths} paths, verified, one root"),
        against: "`VACUUM INTO` alone".to_owned(),
        ours: ours.clone(),
        theirs,
        aim: "at most 3".to_owned(),
    });
    fs::remove_dir_all(&live.directory)?;
    Ok(Size {
        paths,
        roots: generation["roots"].as_u64().unwrap_or_default(),
        with_roots,
        with_one: ours,
        peak,
    })
}

/// A live store: its state only, over the objects of one in the cache.
struct Live {
    directory: PathBuf,
}

impl Live {
    fn new(place: &Place, paths: u32) -> Result<Self> {
        let directory = place.scratch.join(format!("publishing-{paths}"));
        fs::create_dir_all(&directory)?;
        let live = Self { directory };
        let from = place.stores.join(of_size(paths).name());
        let state = live.directory.join("state");
        let mut copy = Command::new("cp");
        copy.arg("-a").args([&from.join("nix/var/nix"), &state]);
        measure::time(&mut copy)?;
        fs::write(
            live.description(),
            format!(
                "real = {:?}\nstate = {state:?}\npublication = {:?}\n[include]\nall-valid = true\n",
                from.join("nix/store"),
                live.publication()
            ),
        )?;
        Ok(live)
    }

    fn description(&self) -> PathBuf {
        self.directory.join("main.toml")
    }

    fn publication(&self) -> PathBuf {
        self.directory.join("publication")
    }

    fn database(&self) -> PathBuf {
        self.directory.join("state/db/db.sqlite")
    }

    fn publish(&self) -> Command {
        let mut command = Command::new("overstore");
        command.arg("publish").arg(self.description());
        command
    }

    /// Nothing was ever published.
    fn forget(&self) -> Result<()> {
        for directory in [
            self.publication(),
            self.directory.join("state/gcroots/overstore-publications"),
        ] {
            if directory.exists() {
                fs::remove_dir_all(directory)?;
            }
        }
        measure::time(&mut Command::new("sync"))?;
        Ok(())
    }
}

/// A store of real files, those of Debian's tree, and a directory that is an image of it, unpacked.
struct Tree {
    directory: PathBuf,
}

impl Tree {
    fn new(place: &Place) -> Result<Self> {
        let directory = place.scratch.join("images");
        fs::create_dir_all(&directory)?;
        let tree = Self { directory };
        let fill = "find /usr/share /usr/lib /usr/bin -mindepth 1 -maxdepth 1 -name '[a-z]*' \
                    ! -name '*[!a-zA-Z0-9._+-]*' -print0 \
                    | xargs -0 nix-store --store \"$0\" --add >/dev/null";
        let mut add = Command::new("sh");
        add.args(["-ec", fill]).arg(tree.store());
        add.env("NIX_CONFIG", crate::support::FEATURES);
        measure::time(&mut add)?;
        measure::time(&mut tree.image("state", "tree"))?;
        let copy = "find \"$0\" -mindepth 1 -maxdepth 1 ! -name .links -print0 \
                    | xargs -0 cp -a -t \"$1\"";
        let mut copied = Command::new("sh");
        copied
            .args(["-ec", copy])
            .arg(tree.store().join("nix/store"))
            .arg(tree.directory.join("tree/nix/store"));
        measure::time(&mut copied)?;
        Ok(tree)
    }

    fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    fn image(&self, kind: &str, file: impl AsRef<Path>) -> Command {
        let mut command = Command::new("overstore");
        command
            .args(["publish", "--image", kind])
            .arg(self.directory.join(file))
            .arg("--from")
            .arg(self.store())
            .arg("--all-valid");
        command
    }

    /// An image beside one of the unpacked directory.
    fn contest(&self, kind: &str, plain: &[&str]) -> Result<Contest> {
        let (mut ours, mut theirs) = <(Times, Times)>::default();
        let same = [
            "-all-root",
            "-b",
            "1048576",
            "-comp",
            "zstd",
            "-mkfs-time",
            "1",
        ];
        for _ in 0..3 {
            ours.push(measure::time(
                &mut self.image(kind, format!("ours.{kind}")),
            )?);
            measure::time(&mut Command::new("sync"))?;
            let mut command = Command::new(plain[0]);
            command.args(&plain[1..]).current_dir(&self.directory);
            if kind == "squashfs" {
                command.args(same);
            }
            theirs.push(measure::time(&mut command)?);
            measure::time(&mut Command::new("sync"))?;
        }
        Ok(Contest {
            work: format!("`publish --image {kind}`"),
            against: format!("`{}` of the same tree", plain[0]),
            ours,
            theirs,
            aim: "at most 1.1".to_owned(),
        })
    }
}
