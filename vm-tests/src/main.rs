//! Runs overstore's scenarios in virtual machines: real kernels, real systemd,
//! real Nix. What happens in a guest is in `scenarios/`, as shell scripts that do
//! not know this program; here is what happens around a guest. Selection, listing
//! and the report are libtest-mimic's: a test is a scenario on a guest.

mod accelerator;
mod cache;
mod image;
mod machine;
mod payload;
mod protocol;
mod qemu;
mod runner;
mod scenario;
mod skip;
mod virtiofs;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use libtest_mimic::{Completion, Trial};

use cache::Cache;
use image::Guest;
use runner::Runner;
use scenario::Scenario;

/// How many machines run at once unless `--test-threads` says otherwise: what two cores without KVM
/// can carry.
const MACHINES: usize = 2;

/// What takes this long hangs. Far above what anything takes on a busy machine: no verdict is to
/// depend on how fast the machine is.
const HANG: Duration = Duration::from_secs(15 * 60);

/// Runs overstore's scenarios in virtual machines.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    runner: libtest_mimic::Arguments,
    /// Further filters: a test runs if it contains any of them
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Break in each scenario what it says can be broken: it has to fail of that
    #[arg(long)]
    broken: bool,
    /// A tree to copy over the guests' own: what `make install DESTDIR=TREE` made
    #[arg(long, value_name = "TREE")]
    program: Option<PathBuf>,
    /// Where images and booted guests are kept
    #[arg(
        long,
        value_name = "DIRECTORY",
        env = "OVERSTORE_TEST_CACHE",
        default_value = "target/test-cache"
    )]
    cache: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Options::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guests = image::read_guests(&here.join("guests.toml"))?;
    let scenarios = read_scenarios(&here.join("scenarios"), &guests)?;
    let runner = Arc::new(Runner::new(
        guests,
        Cache::open(&arguments.cache)?,
        here,
        arguments.program,
        arguments.broken,
    )?);
    let mut trials = trials(&scenarios, &runner);
    let mut selection = arguments.runner;
    selection.test_threads.get_or_insert(MACHINES);
    select(&mut selection, arguments.filters, &mut trials);
    Ok(libtest_mimic::run(&selection, trials).exit_code())
}

fn read_scenarios(
    directory: &Path,
    guests: &BTreeMap<String, Guest>,
) -> Result<Vec<Arc<Scenario>>> {
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            let scenario = Scenario::read(&path)?;
            if let Some(unknown) = scenario
                .guests
                .iter()
                .find(|name| !guests.contains_key(*name))
            {
                bail!("{}: there is no guest '{unknown}'", scenario.name);
            }
            scenarios.push(Arc::new(scenario));
        }
    }
    Ok(scenarios)
}

/// The tests, `GUEST/SCENARIO`, from the one to begin with.
fn trials(scenarios: &[Arc<Scenario>], runner: &Arc<Runner>) -> Vec<Trial> {
    in_order(scenarios)
        .into_iter()
        .map(|(guest, scenario)| {
            let (guest, scenario) = (guest.to_owned(), Arc::clone(scenario));
            let name = format!("{guest}/{}", scenario.name);
            let cannot_be_broken = runner.broken && scenario.broken.is_none();
            let is_left_out = cannot_be_broken || scenario.by_hand;
            let runner = Arc::clone(runner);
            Trial::ignorable_test(name, move || match runner.run(&guest, &scenario) {
                Ok(None) => Ok(Completion::Completed),
                Ok(Some(reason)) => Ok(Completion::ignored_with(reason)),
                Err(error) => Err(format!("{error:#}").into()),
            })
            .with_ignored_flag(is_left_out)
        })
        .collect()
}

/// Long scenarios before short ones, so that both places are taken until the end; before all others
/// the longest of each guest, so that the guests are made ready side by side; and last those with
/// several machines, which take both places.
fn in_order(scenarios: &[Arc<Scenario>]) -> Vec<(&str, &Arc<Scenario>)> {
    let mut all: Vec<(&str, &Arc<Scenario>)> = scenarios
        .iter()
        .flat_map(|scenario| {
            scenario
                .guests
                .iter()
                .map(move |guest| (&**guest, scenario))
        })
        .collect();
    all.sort_by_key(|(guest, scenario)| {
        let length = scenario.length(guest);
        (scenario.machines.len(), Reverse(length), *guest)
    });
    let mut begun = Vec::new();
    let (mut first, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(guest, _)| {
        let is_first = !begun.contains(guest);
        begun.push(*guest);
        is_first
    });
    first.extend(rest);
    first
}

/// Leaves the tests that contain any filter: libtest-mimic itself takes only one.
fn select(selection: &mut libtest_mimic::Arguments, more: Vec<String>, trials: &mut Vec<Trial>) {
    if more.is_empty() {
        return;
    }
    let filters: Vec<libtest_mimic::Arguments> = selection
        .filter
        .take()
        .into_iter()
        .chain(more)
        .map(|filter| libtest_mimic::Arguments {
            filter: Some(filter),
            ..selection.clone()
        })
        .collect();
    trials.retain(|trial| !filters.iter().all(|filter| filter.is_filtered_out(trial)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, guests: &str, rest: &str) -> Arc<Scenario> {
        let text = format!("summary = 's'\nguests = {guests}\n{rest}");
        Arc::new(Scenario::parse(name, &text).unwrap())
    }

    #[test]
    fn guests_are_begun_first_and_two_machines_come_last() {
        let step = "[[step]]\nrun = 'a'\n";
        let scenarios = [
            scenario("short", "['a', 'b']", step),
            scenario("long", "['a']", &step.repeat(3)),
            scenario("medium", "['a', 'b']", &step.repeat(2)),
            scenario(
                "two",
                "['a']",
                "machines.x = {}\nmachines.y = {}\n[[step]]\nrun = 'a'\non = 'x'\n",
            ),
        ];
        let names: Vec<String> = in_order(&scenarios)
            .iter()
            .map(|(guest, scenario)| format!("{guest}/{}", scenario.name))
            .collect();
        assert_eq!(
            names,
            [
                "a/long", "b/medium", "a/medium", "a/short", "b/short", "a/two"
            ]
        );
    }

    #[test]
    fn any_of_several_filters_is_enough() {
        let left = |words: &[&str]| {
            let words = ["vm-tests"].iter().chain(words);
            let arguments = Options::parse_from(words);
            let mut trials: Vec<Trial> = ["sid/boot", "sid/reboot", "trixie/boot", "trixie/stop"]
                .map(|name| Trial::test(name, || Ok(())))
                .into();
            let mut selection = arguments.runner;
            select(&mut selection, arguments.filters, &mut trials);
            trials.retain(|trial| !selection.is_filtered_out(trial));
            let names: Vec<String> = trials.iter().map(|trial| trial.name().into()).collect();
            names.join(" ")
        };
        assert_eq!(left(&["/boot"]), "sid/boot trixie/boot");
        assert_eq!(left(&["/stop", "sid/"]), "sid/boot sid/reboot trixie/stop");
        assert_eq!(left(&["sid/boot", "stop", "--exact"]), "sid/boot");
        assert_eq!(
            left(&["boot", "stop", "--skip=sid"]),
            "trixie/boot trixie/stop"
        );
    }
}
