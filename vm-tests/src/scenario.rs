//! Scenarios: what `scenario.toml` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::HANG;

/// The file, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    summary: String,
    guests: Vec<String>,
    #[serde(default)]
    by_hand: bool,
    #[serde(default)]
    initrd: Vec<String>,
    #[serde(default)]
    disks: BTreeMap<String, String>,
    #[serde(default = "one_machine")]
    machines: BTreeMap<String, MachineEntry>,
    broken: Option<Broken>,
    #[serde(rename = "step")]
    steps: Vec<StepEntry>,
}

/// Something broken on purpose, with which the scenario has to fail (`--broken`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Broken {
    /// What is broken, for people.
    pub what: String,
    /// The shell command that breaks it, in every machine before the first step.
    pub run: String,
    /// A part of what the scenario then fails with.
    pub fails_with: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineEntry {
    disks: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StepEntry {
    run: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    until_power_cut: bool,
    #[serde(default)]
    virtiofs: bool,
    power: Option<Power>,
    on: Option<String>,
    guests: Option<Vec<String>>,
}

fn one_machine() -> BTreeMap<String, MachineEntry> {
    BTreeMap::from([("machine".to_owned(), MachineEntry::default())])
}

/// What happens to a machine between two scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// A clean reboot.
    Reboot,
    /// A clean power-off.
    Off,
    /// A boot from its disks, after the power is gone.
    On,
    /// A start from the saved guest with a new root disk and its other disks as
    /// they were left.
    Restore,
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a script, which has to succeed.
    Run {
        script: PathBuf,
        arguments: Vec<String>,
    },
    /// Runs a script, and cuts the power at the moment it asks for. A script that
    /// ends before that has failed.
    RunUntilPowerCut {
        script: PathBuf,
        arguments: Vec<String>,
    },
    /// Changes what the machine's power does.
    Power(Power),
}

/// A step of a scenario.
#[derive(Debug)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// The machine it is done on.
    pub machine: String,
    /// Whether the lower store has to be plugged in before as the virtiofs file system `lower`. Not
    /// done where this machine cannot.
    pub virtiofs: bool,
    guests: Option<Vec<String>>,
}

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// The name of its directory.
    pub name: String,
    /// What it shows, in a line.
    pub summary: String,
    /// The guests that run it.
    pub guests: Vec<String>,
    /// Whether it runs only when it is asked for (`--ignored`): it measures, or takes long.
    pub by_hand: bool,
    /// Trees to add to the initrd, relative to the directory of all scenarios.
    pub initrd: Vec<PathBuf>,
    /// Its disks: names and sizes.
    pub disks: BTreeMap<String, String>,
    /// Its machines and their disks, in the order of their names.
    pub machines: BTreeMap<String, Vec<String>>,
    /// What can be broken to see it fail.
    pub broken: Option<Broken>,
    steps: Vec<Step>,
}

impl Scenario {
    /// Reads the scenario in a directory. Paths of scripts are relative to the
    /// directory of all scenarios.
    pub fn read(directory: &Path) -> Result<Self> {
        let file = directory.join("scenario.toml");
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .context("a scenario's directory has no name")?;
        let scenario = Self::parse(name, &text).with_context(|| file.display().to_string())?;
        scenario
            .check_scripts(directory)
            .with_context(|| file.display().to_string())?;
        Ok(scenario)
    }

    /// Every script that a step runs is there, and every script that is there (`1-NAME`) is run by a
    /// step.
    fn check_scripts(&self, directory: &Path) -> Result<()> {
        let run: BTreeSet<&Path> = self.steps.iter().filter_map(Step::script).collect();
        for script in &run {
            if !directory.with_file_name(script).is_file() {
                bail!("there is no {}", script.display());
            }
        }
        for entry in fs::read_dir(directory)? {
            let script = Path::new(&self.name).join(entry?.file_name());
            let name = script.file_name().and_then(|name| name.to_str());
            let is_numbered =
                name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_digit()));
            if is_numbered && !run.contains(script.as_path()) {
                bail!("no step runs {}", script.display());
            }
        }
        Ok(())
    }

    /// The scenario that a text describes.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let every_disk: Vec<String> = file.disks.keys().cloned().collect();
        let machines: BTreeMap<String, Vec<String>> = file
            .machines
            .into_iter()
            .map(|(name, entry)| (name, entry.disks.unwrap_or_else(|| every_disk.clone())))
            .collect();
        for disk in machines.values().flatten() {
            if !file.disks.contains_key(disk) {
                bail!("there is no disk '{disk}'");
            }
        }
        let steps = file
            .steps
            .into_iter()
            .map(|step| step.resolve(name, &machines))
            .collect::<Result<Vec<Step>>>()?;
        Ok(Self {
            name: name.to_owned(),
            summary: file.summary,
            guests: file.guests,
            by_hand: file.by_hand,
            initrd: file
                .initrd
                .iter()
                .map(|tree| Path::new(name).join(tree))
                .collect(),
            disks: file.disks,
            machines,
            broken: file.broken,
            steps,
        })
    }

    /// The steps for a guest, in their order.
    pub fn steps(&self, guest: &str) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| {
            step.guests
                .as_ref()
                .is_none_or(|guests| guests.iter().any(|name| name == guest))
        })
    }

    /// How long one of its steps may take. What measures is let take longer than what tests.
    pub fn patience(&self) -> Duration {
        if self.by_hand { 4 * HANG } else { HANG }
    }

    /// How long it is, roughly: a boot takes as long as several scripts.
    pub fn length(&self, guest: &str) -> usize {
        self.steps(guest)
            .map(|step| match step.action {
                Action::Power(Power::Reboot | Power::On) => 5,
                _ => 1,
            })
            .sum()
    }
}

impl Step {
    /// The script that it runs, if it runs one.
    fn script(&self) -> Option<&Path> {
        match &self.action {
            Action::Run { script, .. } | Action::RunUntilPowerCut { script, .. } => Some(script),
            Action::Power(_) => None,
        }
    }
}

impl StepEntry {
    fn resolve(self, scenario: &str, machines: &BTreeMap<String, Vec<String>>) -> Result<Step> {
        let machine = match self.on {
            Some(name) if !machines.contains_key(&name) => bail!("there is no machine '{name}'"),
            Some(name) => name,
            None => match machines.keys().next() {
                Some(name) if machines.len() == 1 => name.clone(),
                _ => bail!("a step has to say which machine it is on (`on`)"),
            },
        };
        let action = match (self.run, self.power) {
            (Some(script), None) => {
                let script = Path::new(scenario).join(script);
                let arguments = self.arguments;
                if self.until_power_cut {
                    Action::RunUntilPowerCut { script, arguments }
                } else {
                    Action::Run { script, arguments }
                }
            }
            (None, Some(power)) => Action::Power(power),
            _ => bail!("a step has either `run` or `power`"),
        };
        Ok(Step {
            action,
            machine,
            virtiofs: self.virtiofs,
            guests: self.guests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "summary = 's'\nguests = ['trixie', 'sid']\n";

    fn parse(text: &str) -> Result<Scenario> {
        Scenario::parse("name", &format!("{HEAD}{text}"))
    }

    #[test]
    fn a_scenario_has_one_machine_with_every_disk_unless_it_says_otherwise() {
        let scenario =
            parse("disks.data = '1G'\n[[step]]\nrun = '1-first'\n[[step]]\npower = 'reboot'")
                .unwrap();
        assert_eq!(scenario.machines["machine"], ["data"]);
        let steps: Vec<&Step> = scenario.steps("trixie").collect();
        assert_eq!(
            steps[0].action,
            Action::Run {
                script: "name/1-first".into(),
                arguments: Vec::new()
            }
        );
        assert_eq!(steps[1].action, Action::Power(Power::Reboot));
        assert_eq!(steps[1].machine, "machine");
    }

    #[test]
    fn a_step_can_be_for_some_guests_only() {
        let scenario = parse("[[step]]\nrun = 'a'\n[[step]]\nrun = 'b'\nguests = ['sid']").unwrap();
        assert_eq!(scenario.steps("trixie").count(), 1);
        assert_eq!(scenario.steps("sid").count(), 2);
    }

    #[test]
    fn steps_and_scripts_belong_together() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("name");
        fs::create_dir(&directory).unwrap();
        let write = |file: &str, text: &str| fs::write(directory.join(file), text).unwrap();
        let read = || Scenario::read(&directory).map_err(|error| format!("{error:#}"));

        write("scenario.toml", &format!("{HEAD}[[step]]\nrun = '1-first'"));
        assert!(read().unwrap_err().contains("there is no name/1-first"));
        write("1-first", "");
        write("store.sh", "");
        read().unwrap();
        write("2-second", "");
        assert!(read().unwrap_err().contains("no step runs name/2-second"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, expected) in [
            ("[[step]]\nrun = 'a'\npower = 'on'", "either"),
            ("[[step]]\narguments = []", "either"),
            ("[[step]]\nrun = 'a'\non = 'other'", "no machine 'other'"),
            (
                "machines.a = {}\nmachines.b = {}\n[[step]]\nrun = 'a'",
                "which machine",
            ),
            (
                "machines.a = { disks = ['d'] }\n[[step]]\nrun = 'a'",
                "no disk 'd'",
            ),
            ("[[step]]\nruns = 'a'", "unknown field"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
