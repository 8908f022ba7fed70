//! What would go wrong is found before anything is made: `plan` says what `up` ends with, and what the
//! kernel would refuse to mount, or Nix to open, is a finding of both. `docs/reasons.md` has the table.

use serde_json::Value;

use crate::support::{Outcome, Snapshot, World};

const REAL: &str = "/mnt/m/nix/store";

/// The description of a store in `/mnt`, over the lower store in `/mnt/low`.
const DESCRIPTION: &str = "root = \"/mnt/m\"\nlower-store = \"/mnt/low?read-only=true\"\n\
                           upper-layer = \"/mnt/up\"\nworkdir = \"/mnt/work\"\n";

fn describe(world: &World, text: &str) {
    world.write("/etc/overstore/s.toml", text);
}

/// A World with a lower store, and a store over it that is described and nothing more.
fn described() -> Option<World> {
    let world = World::trixie()?;
    world.lower_store("/mnt/low");
    describe(&world, DESCRIPTION);
    Some(world)
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// What a command finds (without what fixes it), and its exit code.
fn found(world: &World, command: &str, user: Option<&str>) -> (Vec<String>, Option<i32>, Value) {
    let run = world.overstore([command, "s", "--json"]);
    let outcome = match user {
        Some(_) => run.by_alice().run(),
        None => run.run(),
    };
    let report = report(&outcome);
    let findings = report["findings"].as_array().unwrap().iter();
    let words = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        format!("{} {}: {}", text("code"), text("subject"), text("actual"))
    };
    (findings.map(words).collect(), outcome.code(), report)
}

/// The codes of what a command finds, and its exit code.
#[allow(dead_code)]
fn codes(world: &World, command: &str) -> (Vec<String>, Option<i32>) {
    let (found, exit_code, _) = found(world, command, None);
    let code = |words: &String| words.split(' ').next().unwrap().to_owned();
    (found.iter().map(code).collect(), exit_code)
}

/// `plan` changes nothing, and tells the findings, the steps and the exit code of `up`, which comes
/// after it; what `up` finds is given.
#[track_caller]
fn planned(world: &World, user: Option<&str>) -> (Vec<String>, Option<i32>) {
    let before = Snapshot::of(world.path("/mnt"));
    let (planned, plan_exit, plan) = found(world, "plan", user);
    before.assert_unchanged(world.path("/mnt"));
    let (ended, up_exit, up) = found(world, "up", user);
    assert_eq!((&planned, plan_exit), (&ended, up_exit), "{plan} {up}");
    if up["outcome"] != "failed" {
        assert_eq!(plan["steps"], up["steps"]);
    }
    if up_exit == Some(3) {
        assert_eq!(plan["failure"], up["failure"]);
    }
    let code = |words: &String| words.split(' ').next().unwrap().to_owned();
    (ended.iter().map(code).collect(), up_exit)
}

fn clean(world: &World) {
    world.run(["umount", REAL]);
    world.ok(["rm", "-rf", "/mnt/m", "/mnt/up", "/mnt/work"]);
}

#[test]
fn plan_says_what_up_ends_with() {
    let Some(world) = described() else { return };
    let without = |code: &str| (vec![code.to_owned()], Some(1));

    assert_eq!(planned(&world, Some("alice")).1, Some(3));
    assert_eq!(planned(&world, None), (vec![], Some(0)));
    // It is up.
    assert_eq!(planned(&world, None), (vec![], Some(0)));
    clean(&world);

    // Where the directories would be made decides, although they are not there.
    world.mkdir("/mnt/other");
    world.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "mode=755",
        "other",
        "/mnt/other",
    ]);
    describe(&world, &DESCRIPTION.replace("/mnt/work", "/mnt/other/work"));
    assert_eq!(planned(&world, None), without("workdir-elsewhere"));
    world.mkdir("/mnt/content");
    if world.image("squashfs", "/mnt/content", "/mnt/image") {
        let text = DESCRIPTION.replace("/mnt/work", "/mnt/image/work");
        describe(&world, &text.replace("/mnt/up", "/mnt/image/up"));
        assert_eq!(planned(&world, None), without("upper-file-system-unfit"));
    }
    // The root directory of this machine is an overlay.
    let text = DESCRIPTION.replace("/mnt/work", "/srv/work");
    describe(&world, &text.replace("/mnt/up", "/srv/up"));
    assert_eq!(planned(&world, None), without("upper-file-system-unfit"));

    // What does not stop it is told as well.
    if world.image("squashfs", "/mnt/low", "/mnt/low-image") {
        let image = DESCRIPTION.replace("/mnt/low?read-only=true", "/mnt/low-image");
        describe(&world, &image);
        assert_eq!(
            planned(&world, None),
            without("lower-not-described-read-only")
        );
        clean(&world);
    }
    world.ok([
        "mkdir",
        "-p",
        "/mnt/bare/nix/store/.links",
        "/mnt/bare/nix/var/nix",
    ]);
    describe(&world, &DESCRIPTION.replace("/mnt/low", "/mnt/bare"));
    assert_eq!(planned(&world, None), without("lower-database-missing"));
    clean(&world);
    describe(
        &world,
        &format!("{DESCRIPTION}remount-hook = \"/nowhere\"\n"),
    );
    assert_eq!(planned(&world, None), without("remount-hook-missing"));
    clean(&world);
    let risky = format!("{DESCRIPTION}[mount]\noptions = [\"volatile\"]\n");
    describe(&world, &risky);
    let warned = (vec!["mount-option-risky".to_owned()], Some(0));
    assert_eq!(planned(&world, None), warned);
    clean(&world);
    describe(
        &world,
        &format!("{DESCRIPTION}[permissions]\nbuild-users-group = \"none\"\n"),
    );
    assert_eq!(planned(&world, None).1, Some(0));
    clean(&world);
    describe(&world, &DESCRIPTION.replace("/mnt/low", "/mnt/nowhere"));
    assert_eq!(planned(&world, None).1, Some(1));
}
