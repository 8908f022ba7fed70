//! Setting a store up, again, checking it, and taking it down: overstore, and the shell.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::generator::Result;
use crate::inside::Place;
use crate::measure::{self, Times};

/// What is measured, in this order, each time from a machine without the store.
pub const PHASES: [&str; 4] = ["up, from nothing", "up, again", "check", "down"];

/// The measurements on one lower store.
#[derive(Serialize, Deserialize)]
pub struct Setup {
    pub file_system: String,
    /// Store paths in the lower store.
    pub paths: u32,
    /// One for each of [`PHASES`].
    pub overstore: Vec<Measured>,
    /// The same.
    pub shell: Vec<Measured>,
}

/// The measurements of one command.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    pub times: Times,
    /// KiB, as [`measure::peak`] gives it.
    pub peak: u64,
}

/// A way to do it: a command for each of [`PHASES`], and the directories that it uses.
struct Way {
    directory: PathBuf,
    commands: [Vec<String>; 4],
}

pub fn measure(places: &[Place], rounds: u32) -> Result<Vec<Setup>> {
    let mut setups = Vec::new();
    let mut ways = Vec::new();
    for place in places {
        for recipe in crate::recipes() {
            let lower = place.stores.join(recipe.name());
            let directory = place.scratch.join(recipe.paths.to_string());
            ways.push([overstore(&directory, &lower)?, shell(&directory, &lower)]);
            setups.push(Setup {
                file_system: place.file_system.clone(),
                paths: recipe.paths,
                overstore: vec![Measured::default(); PHASES.len()],
                shell: vec![Measured::default(); PHASES.len()],
            });
        }
    }
    // One more, before it counts: for what is loaded once, and for the memory.
    for round in 0..=rounds {
        eprint!("\rround {round} of {rounds}");
        for (setup, [overstore, shell]) in setups.iter_mut().zip(&ways) {
            let mut turns = [(overstore, &mut setup.overstore), (shell, &mut setup.shell)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (way, measured) in turns {
                way.run(round == 0, measured)?;
            }
        }
    }
    eprintln!();
    Ok(setups)
}

impl Way {
    fn run(&self, first: bool, measured: &mut [Measured]) -> Result<()> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir_all(&self.directory)?;
        // What this and earlier turns left to be written is not this command's.
        rustix::fs::syncfs(File::open(&self.directory)?)?;
        for ((words, measured), phase) in self.commands.iter().zip(measured).zip(PHASES) {
            // A database that was written a moment ago is not read before the clock of its file
            // system has moved on: nobody checks as soon as that.
            if phase == "check" {
                std::thread::sleep(Duration::from_millis(30));
            }
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .env("NIX_CONFIG", crate::support::FEATURES);
            if first {
                measured.peak = measure::peak(&command)?;
            } else {
                measured.times.push(measure::time(&mut command)?);
            }
        }
        Ok(())
    }
}

fn overstore(directory: &Path, lower: &Path) -> Result<Way> {
    let directory = directory.join("overstore");
    let description = directory.with_extension("toml");
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(
        &description,
        format!(
            "root = {:?}\nlower-store = {:?}\nupper-layer = {:?}\nworkdir = {:?}\n",
            directory.join("merged"),
            format!("{}?read-only=true", lower.display()),
            directory.join("upper"),
            directory.join("work"),
        ),
    )?;
    let description = description.display().to_string();
    let command = |name: &str| {
        ["overstore", name, &description]
            .map(str::to_owned)
            .to_vec()
    };
    let commands = ["up", "up", "check", "down"].map(command);
    Ok(Way {
        directory,
        commands,
    })
}

fn shell(directory: &Path, lower: &Path) -> Way {
    let directory = directory.join("shell");
    let (here, lower) = (directory.display(), lower.display());
    let real = format!("{here}/merged/nix/store");
    let make = format!("mkdir -p {real} {here}/upper {here}/work");
    let options = format!("lowerdir={lower}/nix/store,upperdir={here}/upper,workdir={here}/work");
    let mount = format!("mount -t overlay overlay -o {options} {real}");
    let check = format!(
        "nix store info --store 'local-overlay://?root={here}/merged\
         &lower-store={lower}?read-only=true&upper-layer={here}/upper'"
    );
    let commands = [
        format!("{make} && {mount} && {check}"),
        format!("{make} && (mountpoint -q {real} || {mount}) && {check}"),
        check,
        format!("umount {real}"),
    ];
    let commands = commands.map(|script| vec!["sh".to_owned(), "-c".to_owned(), script]);
    Way {
        directory,
        commands,
    }
}
