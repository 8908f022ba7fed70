//! The stores of tests and benchmarks are what they claim to be.

#[path = "../../benches/generator/mod.rs"]
mod stores;

use std::path::Path;
use std::process::Command;

use crate::support::{Snapshot, World};
use rusqlite::Connection;
use stores::Recipe;
use tempfile::TempDir;

fn make(recipe: &Recipe) -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    recipe
        .make(directory.path())
        .expect("the store can be made");
    directory
}

/// The database of a store, as one that nobody writes to.
fn immutable(store: &Path) -> String {
    format!(
        "file:{}/nix/var/nix/db/db.sqlite?immutable=1",
        store.display()
    )
}

fn open(store: &Path) -> Connection {
    Connection::open(immutable(store)).expect("the database can be opened")
}

fn number(database: &Connection, query: &str) -> f64 {
    let value = database.query_row(query, [], |row| row.get(0));
    value.unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// SQLite does not find its files by the paths that lead into a World.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp can be run").success());
}

#[test]
fn a_recipe_always_makes_the_same() {
    let recipe = Recipe {
        derivations: true,
        ..Recipe::default()
    };
    let contents = |recipe: &Recipe| {
        let store = make(recipe);
        let database = std::fs::read(store.path().join("nix/var/nix/db/db.sqlite"));
        let paths: Vec<_> = Snapshot::of(store.path())
            .paths()
            .map(Path::to_owned)
            .collect();
        (database.expect("the database is there"), paths)
    };
    assert!(contents(&recipe) == contents(&recipe));
    assert!(contents(&recipe) != contents(&Recipe { seed: 2, ..recipe }));
}

#[test]
fn exactly_so_many_paths_are_made() {
    for derivations in [false, true] {
        for paths in 0..40 {
            let store = make(&Recipe {
                paths,
                derivations,
                ..Recipe::default()
            });
            let database = open(store.path());
            let rows = number(&database, "select 1.0 * count(*) from ValidPaths");
            assert_eq!(rows, f64::from(paths));
            let names = std::fs::read_dir(store.path().join("nix/store")).expect("it is there");
            // With `.links`.
            assert_eq!(names.count(), paths as usize + 1);
        }
    }
}

#[test]
fn references_are_as_in_nixpkgs() {
    for derivations in [false, true] {
        let objects = false;
        let store = make(&Recipe {
            paths: 20_000,
            derivations,
            objects,
            ..Recipe::default()
        });
        let database = open(store.path());
        let number = |query| number(&database, query);
        assert_eq!(
            number("select 1.0 * count(*) from pragma_foreign_key_check"),
            0.0
        );
        let mean = number("select count(*) / 20000.0 from Refs");
        assert!((9.0..12.0).contains(&mean), "{mean}");
        let without = number(
            "select count(*) / 20000.0 from ValidPaths where id not in (select referrer from Refs)",
        );
        assert!((0.1..0.25).contains(&without), "{without}");
        let most =
            number("select 1.0 * max(n) from (select count(*) n from Refs group by referrer)");
        assert!((200.0..=601.0).contains(&most), "{most}");
        let popular =
            number("select max(n) / 20000.0 from (select count(*) n from Refs group by reference)");
        assert!((0.15..0.5).contains(&popular), "{popular}");
        let own = number("select count(*) / 20000.0 from Refs where reference = referrer");
        assert!((0.05..0.3).contains(&own), "{own}");
        let cycles = number("select 1.0 * count(*) from Refs where reference > referrer");
        assert_eq!(cycles, 0.0);
    }
}

/// Real Nix takes every path's metadata up, which makes it parse the derivations and compute their
/// output paths; what it then has is what was below.
#[test]
fn nix_accepts_every_path() {
    let Some(world) = World::trixie() else { return };
    let recipe = Recipe {
        paths: 2000,
        derivations: true,
        ..Recipe::default()
    };
    let made = make(&recipe);
    copy(made.path(), &world.path("/mnt/lower"));
    let before = Snapshot::of(world.path("/mnt/lower"));
    world.ok([
        "mkdir",
        "-p",
        "/mnt/merged/nix/store",
        "/mnt/upper",
        "/mnt/work",
    ]);
    let options = "lowerdir=/mnt/lower/nix/store,upperdir=/mnt/upper,workdir=/mnt/work";
    world.ok([
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        options,
        "/mnt/merged/nix/store",
    ]);

    let paths: Vec<String> = {
        let lower = open(made.path());
        let mut query = lower
            .prepare("select path from ValidPaths")
            .expect("a right query");
        let rows = query
            .query_map([], |row| row.get(0))
            .expect("no parameters");
        rows.collect::<Result<_, _>>().expect("there are paths")
    };
    let url = "local-overlay://?root=/mnt/merged&lower-store=/mnt/lower?read-only=true\
               &upper-layer=/mnt/upper";
    world
        .nix(["nix-store", "--store", url, "--check-validity"])
        .args(&paths)
        .ok();

    let copied = TempDir::new().expect("a temporary directory");
    copy(
        &world.path("/mnt/merged/nix/var/nix/db"),
        &copied.path().join("db"),
    );
    let upper = Connection::open(copied.path().join("db/db.sqlite")).expect("Nix made it");
    upper
        .execute("attach ? as lower", [immutable(made.path())])
        .expect("it can be attached");
    for columns in [
        "path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca from SCHEMA.ValidPaths",
        "a.path, b.path from SCHEMA.Refs
            join SCHEMA.ValidPaths a on a.id = referrer
            join SCHEMA.ValidPaths b on b.id = reference",
        "p.path, o.id, o.path from SCHEMA.DerivationOutputs o
            join SCHEMA.ValidPaths p on p.id = drv",
    ] {
        let (above, below) = (
            columns.replace("SCHEMA", "main"),
            columns.replace("SCHEMA", "lower"),
        );
        for (one, other) in [(&above, &below), (&below, &above)] {
            let query = format!("select 1.0 * count(*) from (select {one} except select {other})");
            assert_eq!(number(&upper, &query), 0.0, "{query}");
        }
    }
    // Derivations are there as they are described.
    let derivations: Vec<_> = paths.iter().filter(|path| path.ends_with(".drv")).collect();
    assert!(derivations.len() > 100);
    world
        .nix(["nix-store", "--store", url, "--verify-path"])
        .args(derivations)
        .ok();
    before.assert_unchanged(world.path("/mnt/lower"));
}

/// Over such stores Nix's collector fails and frees nothing, and overstore's does not: should this fail,
/// Nix has been fixed.
#[test]
fn nix_cannot_collect_over_such_stores() {
    for world in World::each() {
        for seed in 1..=3 {
            let lower = format!("/mnt/lower-{seed}");
            let made = make(&Recipe {
                seed,
                paths: 300,
                ..Recipe::default()
            });
            copy(made.path(), &world.path(&lower));
            let at = |name: &str| format!("/mnt/{name}-{seed}");
            world.write(
                format!("/etc/overstore/s{seed}.toml"),
                format!(
                    "root = \"{}\"\nlower-store = \"{lower}?read-only=true\"\n\
                     upper-layer = \"{}\"\nworkdir = \"{}\"\n",
                    at("merged"),
                    at("upper"),
                    at("work")
                ),
            );
            let store = format!("s{seed}");
            world.overstore(["up", &store]).ok();
            let url = world.overstore(["url", &store]).ok().trim().to_owned();
            world.write("/tmp/garbage", &store);
            let nix = |words: &[&str]| world.nix(words).args(["--store", &url]);
            let garbage = nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
            let name = garbage.trim().rsplit('/').next().expect("a path");
            let is_there = || world.path(at("upper")).join(name).exists();
            let failed = nix(&["nix-store", "--gc"]).fails();
            assert!(failed.stderr().contains("is not valid"), "{failed}");
            assert!(is_there(), "{failed}");
            world.overstore(["gc", &store]).ok();
            assert!(!is_there());
        }
    }
}

#[test]
fn the_cache_makes_a_store_once() {
    let recipe = Recipe {
        paths: 10,
        ..Recipe::default()
    };
    let first = recipe.cached().expect("the store can be made");
    let before = Snapshot::of(&first);
    assert_eq!(recipe.cached().expect("the store is there"), first);
    before.assert_unchanged(&first);
}
