//! Runs overstore's scenarios in virtual machines: real kernels, real systemd,
//! real Nix. What happens in a guest is in `scenarios/`, as shell scripts that do
//! not know this program; here is what happens around a guest.

mod accelerator;
mod cache;
mod image;
mod machine;
mod payload;
mod protocol;
mod qemu;
mod report;
mod runner;
mod scenario;
mod schedule;
mod virtiofs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use cache::Cache;
use image::Guest;
use report::Report;
use runner::Runner;
use scenario::Scenario;

/// Runs overstore's scenarios in virtual machines.
#[derive(Parser)]
struct Arguments {
    /// Scenarios to run [default: all]
    scenarios: Vec<String>,
    /// Guests to run them on [default: all that a scenario names]
    #[arg(long = "guest")]
    guests: Vec<String>,
    /// List scenarios and guests
    #[arg(long)]
    list: bool,
    /// Break in each scenario what it says can be broken: it has to fail of that
    #[arg(long)]
    broken: bool,
    /// A tree to copy over the guests' own: what `make install DESTDIR=TREE` made
    #[arg(long, value_name = "TREE")]
    program: Option<PathBuf>,
    /// Write the results to FILE in the Test Anything Protocol
    #[arg(long, value_name = "FILE")]
    tap: Option<PathBuf>,
    /// Add what was skipped to FILE, as lines GUEST<tab>SCENARIO<tab>REASON
    #[arg(long, value_name = "FILE", env = "OVERSTORE_SKIPPED")]
    skipped: Option<PathBuf>,
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
    let arguments = Arguments::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guests = image::read_guests(&here.join("guests.toml"))?;
    let scenarios = read_scenarios(&here.join("scenarios"), &guests)?;
    if arguments.list {
        list(&scenarios, &guests);
        return Ok(ExitCode::SUCCESS);
    }
    let plan = plan(&arguments, &scenarios, &guests)?;
    let started = Instant::now();
    let scratch = tempfile::Builder::new().prefix("vm-tests-").tempdir()?;
    let payload = payload::make(
        &here.join("scenarios"),
        arguments.program.as_deref(),
        scratch.path(),
    )?;
    let runner = Runner::new(
        Cache::open(&arguments.cache)?,
        here.join("images"),
        scratch.path().to_owned(),
        payload,
        here.join("scenarios"),
        arguments.program.clone(),
        arguments.broken,
    );
    let length = plan.iter().map(|(_, scenarios)| scenarios.len()).sum();
    let report = Mutex::new(Report::new(length));
    let boots = schedule::run(&plan, &guests, &runner, &report)?;
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.finish();
    let columns: Vec<String> = plan.iter().map(|(name, _)| (*name).to_owned()).collect();
    println!("\n{}", report.table(&columns));
    println!(
        "\n{} real boots, {:.0} s in all",
        boots + report.boots(),
        started.elapsed().as_secs_f64()
    );
    if let Some(file) = &arguments.tap {
        fs::write(file, report.tap()).with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(file) = &arguments.skipped {
        report.append_skipped(file)?;
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read_scenarios(directory: &Path, guests: &BTreeMap<String, Guest>) -> Result<Vec<Scenario>> {
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
            scenarios.push(scenario);
        }
    }
    scenarios.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(scenarios)
}

/// The scenarios to run, by guest.
fn plan<'a>(
    arguments: &Arguments,
    scenarios: &'a [Scenario],
    guests: &'a BTreeMap<String, Guest>,
) -> Result<Vec<(&'a str, Vec<&'a Scenario>)>> {
    for name in &arguments.scenarios {
        if !scenarios.iter().any(|scenario| &scenario.name == name) {
            bail!("there is no scenario '{name}'; --list shows them");
        }
    }
    for name in &arguments.guests {
        if !guests.contains_key(name) {
            bail!("there is no guest '{name}'; --list shows them");
        }
    }
    let chosen = |chosen: &[String], name: &str| {
        chosen.is_empty() || chosen.iter().any(|other| other == name)
    };
    let plan: Vec<_> = guests
        .keys()
        .filter(|guest| chosen(&arguments.guests, guest))
        .map(|guest| {
            let scenarios: Vec<&Scenario> = scenarios
                .iter()
                .filter(|scenario| chosen(&arguments.scenarios, &scenario.name))
                .filter(|scenario| scenario.guests.iter().any(|name| name == guest))
                .collect();
            (guest.as_str(), scenarios)
        })
        .filter(|(_, scenarios)| !scenarios.is_empty())
        .collect();
    if plan.is_empty() {
        bail!("none of these guests runs any of these scenarios");
    }
    Ok(plan)
}

fn list(scenarios: &[Scenario], guests: &BTreeMap<String, Guest>) {
    for (name, guest) in guests {
        println!("guest    {name:<18} {}", guest.description);
    }
    for scenario in scenarios {
        println!(
            "scenario {:<18} {} ({})",
            scenario.name,
            scenario.summary,
            scenario.guests.join(", ")
        );
    }
}
