//! `make bench`: overstore beside the shell commands that do the same, in one run, on the same
//! directories, in turns. Writes the tables of `docs/benchmarks.md`. Never fails for being slow.
//!
//! This process makes the stores and a World; in there the same program, started with `--inside`,
//! measures, and gives the results back as JSON.

#[path = "../generator/mod.rs"]
mod generator;
#[allow(dead_code, unused_imports, reason = "it is there for the tests")]
#[path = "../../tests/it/support/mod.rs"]
mod support;

mod cache;
mod collecting;
mod document;
mod inside;
mod machine;
mod measure;
mod metadata;
mod own;
mod plot;
mod publishing;
mod reconciling;
mod refreshing;
mod setup;

use std::path::Path;
use std::process::{Command, Stdio};

use generator::{Recipe, Result};
use support::{Tree, World};

/// Numbers of store paths in the lower stores.
const SIZES: [u32; 2] = [1_000, 1_000_000];

/// How many turns, unless `OVERSTORE_BENCH_ROUNDS` says otherwise.
const ROUNDS: u32 = 30;

/// An image of a file system with nothing in it, in the scratch directory: the World has no program
/// that makes one.
const EMPTY: &str = "empty.ext4";

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--inside", process, cache, scratch, rounds] => {
            let (process, rounds) = (process.parse()?, rounds.parse()?);
            let results = inside::run(process, Path::new(cache), scratch, rounds)?;
            Ok(serde_json::to_writer(std::io::stdout(), &results)?)
        }
        ["--peak", ..] => measure::launch(&arguments[1..]),
        [.., "--bench"] | ["--bench", ..] => run(),
        _ => {
            println!("not measured: use `cargo bench --bench overlay`");
            Ok(())
        }
    }
}

fn run() -> Result<()> {
    let cache = generator::cache()?;
    let more = metadata::recipes()
        .chain([metadata::above()])
        .chain(collecting::recipes())
        .chain(refreshing::recipes())
        .chain(own::recipes())
        .chain(reconciling::recipes())
        .chain(publishing::recipes());
    for recipe in recipes().chain(more) {
        eprintln!("lower store of {} paths", recipe.paths);
        recipe.cached()?;
    }
    let world = World::trixie().ok_or("Debian 13's Nix is needed, and root")?;
    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&cache)?;
    measure::time(
        Command::new("mkfs.ext4")
            .args(["-q".as_ref(), scratch.path().join(EMPTY).as_os_str()])
            .arg("2G"),
    )?;
    let rounds = std::env::var("OVERSTORE_BENCH_ROUNDS").unwrap_or_else(|_| ROUNDS.to_string());
    let measure = |world: &World, part: &str| measure(world, &cache, scratch.path(), &rounds, part);
    let part = std::env::var("OVERSTORE_BENCH_PART").unwrap_or_default();
    let inside::Results {
        setups,
        least_peak,
        metadata,
        collecting,
        refreshing,
        own,
        publishing,
        reconciling,
        cache: older,
    } = measure(&world, &part)?;
    let machine = machine::describe(&world)?;
    if !setups.is_empty() {
        let text = document::setup(&setups, least_peak, &rounds);
        document::write("setting up", &format!("{machine}\n{text}"))?;
    }
    if let Some(metadata) = metadata {
        plot::write(&metadata.growth)?;
        let text = document::metadata(&metadata);
        document::write("metadata", &format!("{machine}\n{text}"))?;
    }
    if let Some(collecting) = collecting {
        let text = document::collecting(&collecting);
        document::write("collecting", &format!("{machine}\n{text}"))?;
    }
    if let Some(refreshing) = refreshing {
        let text = document::refreshing(&refreshing);
        document::write("refreshing", &format!("{machine}\n{text}"))?;
    }
    if let Some(own) = own {
        let text = document::own(&own);
        document::write("own", &format!("{machine}\n{text}"))?;
    }
    if let Some(publishing) = publishing {
        let text = document::publishing(&publishing);
        document::write("publishing", &format!("{machine}\n{text}"))?;
    }
    if let Some(reconciling) = reconciling {
        let text = document::reconciling(&reconciling);
        document::write("reconciling", &format!("{machine}\n{text}"))?;
    }
    if let Some(older) = older {
        let mut versions = vec![(world.ok(["nix", "--version"]), older)];
        drop(world);
        if let Some(tree) = Tree::sid() {
            let world = World::new(tree);
            let newer = measure(&world, "path-info-cache")?.cache;
            versions.push((world.ok(["nix", "--version"]), newer.unwrap_or_default()));
        }
        let text = document::cache(&versions);
        document::write("path infos", &format!("{machine}\n{text}"))?;
    }
    Ok(())
}

/// Measures in a World: one part, or all of them if none is named. `scratch` is in the cache.
fn measure(
    world: &World,
    cache: &Path,
    scratch: &Path,
    rounds: &str,
    part: &str,
) -> Result<inside::Results> {
    let inside = Command::new(std::env::current_exe()?)
        .arg("--inside")
        .arg(world.pid.to_string())
        .arg(cache)
        .arg(scratch.strip_prefix(cache)?)
        .arg(rounds)
        .env("OVERSTORE_BENCH_PART", part)
        .stdout(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    match inside.status.success() {
        true => Ok(serde_json::from_slice(&inside.stdout)?),
        false => Err(format!("measuring failed: {}", inside.status).into()),
    }
}

/// The lower stores, by ascending size.
fn recipes() -> impl Iterator<Item = Recipe> {
    SIZES.into_iter().map(|paths| Recipe {
        paths,
        ..Recipe::default()
    })
}
