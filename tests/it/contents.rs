//! `overstore check --contents` finds what `nix-store --verify --check-contents` finds.

use crate::support::World;
use serde_json::Value;

/// What `check` says with these arguments, and with which exit code.
fn check(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let outcome = world
        .overstore(["check", "example", "--json"])
        .args(arguments)
        .run();
    (
        outcome.code(),
        serde_json::from_str(&outcome.stdout()).unwrap(),
    )
}

fn damaged(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["code"] == "object-damaged")
        .map(|finding| finding["subject"].as_str().unwrap())
        .collect()
}

#[test]
fn damaged_objects_are_found_and_no_others() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower").paths();
        world.write(
            "/etc/overstore/example.toml",
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
        );
        world.overstore(["up", "example"]).ok();
        world.overstore(["warm", "example", "--all"]).ok();
        world.mkdir("/tmp/tree/a/empty");
        world.write("/tmp/tree/a/file", vec![7; 1_000_000]);
        world.write("/tmp/tree/a-file", "text");
        world.write("/tmp/tree/program", "#!/bin/sh\n");
        world.ok(["chmod", "+x", "/tmp/tree/program"]);
        world.ok(["ln", "-s", "a/file", "/tmp/tree/link"]);
        let url = world.overstore(["url", "example"]).ok();
        let add = |path: &str| {
            let store = url.trim_end();
            let added = world
                .nix(["nix-store", "--store", store, "--add", path])
                .ok();
            added.trim_end().rsplit('/').next().unwrap().to_owned()
        };
        let tree = add("/tmp/tree");
        add("/tmp/tree/a-file");
        let (code, report) = check(&world, &["--contents", "--lower"]);
        assert_eq!(code, Some(0), "{report}");

        let file = format!("/mnt/upper/{tree}/a/file");
        world.ok([
            "sh",
            "-c",
            &format!("printf x | dd of={file} seek=5 conv=notrunc bs=1"),
        ]);
        let below = format!(
            "/mnt/lower/nix/store/{}",
            lower[0].rsplit('/').next().unwrap()
        );
        // A file, of which the lower store has several.
        world.ok([
            "sh",
            "-c",
            &format!("chmod u+w {below} && echo x >> {below}"),
        ]);
        let (code, report) = check(&world, &["--contents"]);
        assert_eq!(code, Some(1));
        assert_eq!(damaged(&report), [format!("/mnt/upper/{tree}")]);
        let (_, report) = check(&world, &["--contents", "--lower"]);
        assert_eq!(damaged(&report).len(), 2);
        assert!(damaged(&report).contains(&below.as_str()));
        assert!(damaged(&check(&world, &[]).1).is_empty());
    }
}

#[test]
fn an_interrupted_run_tells_how_far_it_got() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/lower");
    world.write(
        "/etc/overstore/example.toml",
        "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
         upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
    );
    world.overstore(["up", "example"]).ok();
    let url = world.overstore(["url", "example"]).ok();
    for file in ["/tmp/small", "/tmp/large"] {
        world.write(file, file);
        let store = url.trim_end();
        let added = world
            .nix(["nix-store", "--store", store, "--add", file])
            .ok();
        if file == "/tmp/large" {
            // Sparse: it takes no space, and long to hash.
            let object = added.trim_end().replace("/nix/store", "/mnt/upper");
            world.ok(["truncate", "--size=1T", &object]);
        }
    }
    // Interrupted when it has read 200 MB, so it is in the middle of the large one, and long done with the
    // small one.
    let script = "(while [ -e /proc/$$ ] && awk '/^rchar/ { exit $2 >= 200000000 }' /proc/$$/io; do
              sleep 0.05
          done
          kill -INT $$) >/dev/null 2>&1 &
         exec overstore check example --json --contents";
    let outcome = world.command(["sh", "-c", script]).run();
    let report: Value = serde_json::from_str(&outcome.stdout()).unwrap();
    assert_eq!(report["outcome"], "failed");
    let failure = report["failure"].as_str().unwrap();
    assert_eq!(failure, "interrupted: 1 of 2 objects were hashed");
}
