//! What `overstore status` tells is what is there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::Value;
use support::{Snapshot, World};

fn status(world: &World, arguments: &[&str]) -> Value {
    let said = world
        .overstore(["status", "example", "--json"])
        .args(arguments)
        .ok();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_store_at_a_glance() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower").paths();
        world.write(
            "/etc/overstore/example.toml",
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
        );
        let before = Snapshot::of(world.path("/mnt"));
        let nothing = status(&world, &[]);
        before.assert_unchanged(world.path("/mnt"));
        assert_eq!(nothing["mounted"], false);
        assert!(nothing["content"].is_null());
        assert!(nothing["unreadable"].is_string());

        world.overstore(["up", "example"]).ok();
        let empty = status(&world, &[]);
        assert_eq!(empty["mounted"], true);
        assert_eq!(empty["lower-kind"], "database");
        assert_eq!(empty["lower-changed"], false);
        assert_eq!(empty["content"]["objects"], 0);
        assert_eq!(empty["content"]["copied-rows"], 0);
        let passed = |time: &Value| {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            since.as_secs() - time.as_u64().unwrap()
        };
        assert!(passed(&empty["checked"]["time"]) < 300);
        assert!(passed(&empty["mounted-since"]) < 300);
        assert!(empty["warmed"].is_null());

        world.overstore(["warm", "example", "--all", "--keep"]).ok();
        world.write("/tmp/added", vec![1; 300_000]);
        let url = world.overstore(["url", "example"]).ok();
        world
            .nix([
                "nix-store",
                "--store",
                url.trim_end(),
                "--add",
                "/tmp/added",
            ])
            .ok();
        let twice = lower[0].rsplit('/').next().unwrap();
        let below = format!("/mnt/lower/nix/store/{twice}");
        world.ok(["cp", "-a", &below, "/mnt/upper/"]);
        let before = ["/mnt/lower", "/mnt/upper"].map(|path| Snapshot::of(world.path(path)));
        let full = status(&world, &["--sizes"]);
        before[0].assert_unchanged(world.path("/mnt/lower"));
        before[1].assert_unchanged(world.path("/mnt/upper"));
        assert_eq!(full["content"]["objects"], 2);
        assert_eq!(full["content"]["objects-in-both-layers"], 1);
        assert_eq!(full["content"]["own-rows"], 2);
        assert_eq!(full["content"]["copied-rows"], lower.len() - 1);
        assert_eq!(full["content"]["rows-without-object"], 0);
        let bytes = |name: &str| full["sizes"][name].as_u64().unwrap();
        assert!(bytes("upper-layer") >= bytes("in-both-layers") + 300_000);
        assert!(full["warm-roots"].as_u64().unwrap() > 0);
        assert_eq!(full["warm-roots-gone"], 0);
        assert!(passed(&full["warmed"]["time"]) < 300);
        assert_eq!(full["warmed"]["paths"], lower.len());
        assert_eq!(full["warmed"]["gone-at-least"], 0);
        world.ok([
            "sqlite3",
            "/mnt/merged/nix/var/nix/db/db.sqlite",
            "delete from Refs; delete from DerivationOutputs; delete from ValidPaths",
        ]);
        let gone = status(&world, &[]);
        assert_eq!(gone["warm-roots-gone"], gone["warm-roots"]);
        assert_eq!(gone["warmed"]["gone-at-least"], lower.len());

        let text = world.overstore(["status", "example"]).ok();
        for part in [
            "/mnt/merged/nix/store (mounted ",
            " ago)\n",
            "last warmed           18 paths ",
            "last check            nothing wrong, ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
