//! Causes are told, and what follows from them is not told beside them.

use serde_json::Value;

use crate::support::{Example, World};

/// The codes that `check` finds, each with its part, in order.
fn found(world: &World) -> Vec<(String, String)> {
    let outcome = world.overstore(["check", "--json", "example"]).run();
    let report: Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let text = |it: &Value, key: &str| it[key].as_str().expect("a text").to_owned();
    let findings = report["findings"].as_array().expect("a list").iter();
    findings
        .map(|it| (text(it, "code"), text(it, "part")))
        .collect()
}

/// `check` finds exactly these codes; where it is the only one, `check` for people says it once.
#[track_caller]
fn only(world: &World, codes: &[&str]) -> String {
    let found: Vec<String> = found(world).into_iter().map(|(code, _)| code).collect();
    let outcome = world.overstore(["check", "example"]).run();
    assert_eq!(found, codes, "{outcome}");
    outcome.stdout()
}

/// What JSON has as following from the finding of a code: the codes.
fn consequences(world: &World, code: &str) -> Vec<String> {
    let outcome = world.overstore(["check", "--json", "example"]).run();
    let report: Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let mut findings = report["findings"].as_array().expect("a list").iter();
    let finding = findings.find(|it| it["code"] == code).expect("it is found");
    let consequences = finding["consequences"].as_array().into_iter().flatten();
    let code = |it: &Value| it["code"].as_str().expect("a code").to_owned();
    consequences.map(code).collect()
}

fn describe(world: &World, from: &str, to: &str) {
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    assert!(text.contains(from), "{text}");
    world.write(Example::CONFIGURATION, text.replace(from, to));
}

#[test]
fn a_store_that_was_never_set_up_is_one_line() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    let line = "example: was never set up; remedy: overstore up example\n";
    assert_eq!(only(&world, &["not-set-up"]), line);
    let status = world.overstore(["status", "example"]).ok();
    assert!(
        status.ends_with("now                   not-set-up; `overstore check example` says more\n"),
        "{status}"
    );
    assert!(!status.contains("content"), "{status}");
    let made = [
        "upper-missing",
        "workdir-missing",
        "mount-missing",
        "state-missing",
        "database-missing",
    ];
    assert_eq!(consequences(&world, "not-set-up"), made);
    // A store that is prepared by somebody, and empty, was not set up either.
    world.ok([
        "install",
        "-d",
        "-m",
        "1775",
        "-g",
        "nixbld",
        Example::UPPER,
    ]);
    world.mkdir(Example::WORKDIR);
    world.mkdir(Example::REAL);
    assert_eq!(only(&world, &["not-set-up"]), line);
    // What was set up once is not called that.
    world.overstore(["up", "example"]).ok();
    world.overstore(["down", "example"]).ok();
    only(&world, &["mount-missing"]);
}

#[test]
fn what_is_in_the_way_of_several_parts_is_told_once_for_what_fixes_it() {
    let Some(world) = World::trixie() else { return };
    // Everything below a symbolic link, nothing made yet (users.md 21).
    world.example("");
    world.ok(["mv", "/mnt/example", "/mnt/disk"]);
    world.ok(["ln", "-s", "/mnt/disk", "/mnt/example"]);
    // That Nix opens no lower store through a link is another matter.
    let through_links = [
        "lower-path-symlink",
        "path-unsafe",
        "path-unsafe",
        "path-unsafe",
    ];
    let text = only(&world, &through_links);
    assert!(!text.contains("database"), "{text}");
    for setting in [
        "`upper-layer = \"/mnt/disk/store-b\"`",
        "`workdir = \"/mnt/disk/workdir\"`",
        "`root = \"/mnt/disk/merged-store\"`",
    ] {
        assert_eq!(text.matches(setting).count(), 1, "{text}");
    }
    // The same where it was set up before.
    world.ok(["rm", "/mnt/example"]);
    world.ok(["mv", "/mnt/disk", "/mnt/example"]);
    world.overstore(["up", "example"]).ok();
    world.overstore(["down", "example"]).ok();
    world.ok(["mv", "/mnt/example", "/mnt/disk"]);
    world.ok(["ln", "-s", "/mnt/disk", "/mnt/example"]);
    only(&world, &through_links);

    // A directory that others may write to, above all parts.
    world.ok(["rm", "/mnt/example"]);
    world.ok(["mv", "/mnt/disk", "/mnt/example"]);
    world.ok(["chmod", "0777", "/mnt/example"]);
    let text = only(&world, &["path-unsafe"; 4]);
    assert!(!text.contains("database-"), "{text}");
}

#[test]
fn a_lower_store_that_is_not_there_is_one_finding() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    let lower = "/mnt/example/store-a";
    for (gone, up) in [
        (lower, false),
        ("/mnt/example/store-a/nix", false),
        (lower, true),
    ] {
        if up {
            world.overstore(["up", "example"]).ok();
            world.overstore(["down", "example"]).ok();
        }
        world.ok(["mv", gone, "/mnt/away"]);
        let text = only(&world, &["lower-missing"]);
        assert!(!text.contains("overstore up"), "{text}");
        world.ok(["mv", "/mnt/away", gone]);
    }
    // Its database alone is another matter.
    world.ok(["mv", "/mnt/example/store-a/nix/var", "/mnt/away"]);
    only(&world, &["lower-database-missing", "mount-missing"]);
    world.ok(["mv", "/mnt/away", "/mnt/example/store-a/nix/var"]);

    // A lower store that this user may not enter: one note, and nothing of a database.
    world.ok(["chmod", "0700", lower]);
    let outcome = world.overstore(["check", "example"]).by_alice().run();
    let text = outcome.stdout();
    assert_eq!(text.matches("[not-checked]").count(), 1, "{text}");
    assert!(!text.contains("load-db"), "{text}");
}

#[test]
fn an_overlay_of_something_else_is_not_told_by_its_options_too() {
    let Some(world) = World::trixie() else { return };
    world.example("[mount]\noptions = [\"xino=on\"]\n");
    world.overstore(["up", "example"]).ok();
    world.ok(["umount", Example::REAL]);
    world.ok(["cp", "-a", Example::LOWER, "/mnt/example/other"]);
    world.ok([
        "mount",
        "-t",
        "overlay",
        "other",
        "-o",
        "lowerdir=/mnt/example/other,upperdir=/mnt/example/store-b,workdir=/mnt/example/workdir",
        Example::REAL,
    ]);
    only(&world, &["lowerdir-differs"]);
}

#[test]
fn a_file_system_that_is_unfit_is_not_told_by_what_it_lacks() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    world.mkdir("/mnt/ram");
    world.ok(["mount", "-t", "tmpfs", "none", "/mnt/ram"]);
    world.mkdir("/mnt/ram/upper");
    world.mkdir("/mnt/ram/work");
    world.ok(["mount", "-o", "remount,ro", "/mnt/ram"]);
    describe(&world, Example::UPPER, "/mnt/ram/upper");
    describe(&world, Example::WORKDIR, "/mnt/ram/work");
    only(&world, &["upper-file-system-unfit"]);
}

#[test]
fn a_state_directory_that_is_something_else_is_not_told_by_its_database() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    world.overstore(["up", "example"]).ok();
    world.overstore(["down", "example"]).ok();
    world.ok(["mv", Example::STATE, "/mnt/away"]);
    world.write(Example::STATE, "");
    only(&world, &["state-missing"]);
    // For scripts it is all there.
    let follows = consequences(&world, "state-missing");
    assert_eq!(follows, ["database-unreadable", "mount-missing"]);
}
