//! overstore never changes a lower store, of whatever kind: no write, no lock, no open for writing.

use crate::support::{Example, Snapshot, World};

/// Runs every command over a lower store below `lower`, traced, and compares it before and after.
fn only_reads(example: &Example<'_>, lower: &str) {
    let world = example.world;
    let before = Snapshot::of(world.path(lower));
    let first = [&["plan"][..], &["up"], &["up"], &["check"]];
    let last = [&["check", "--lower"][..], &["plan"], &["down"], &["down"]];
    for words in first.into_iter().chain(READING).chain(last) {
        let command = words[0];
        let run = example.command(command).args(&words[1..]);
        let (outcome, trace) = run.traced();
        // What is found about the lower store is not the point here.
        assert!(
            matches!(outcome.code(), Some(0 | 1)),
            "{words:?}: {outcome}"
        );
        if command == "down" {
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            let changes = trace.changes_below(lower);
            assert!(
                changes.is_empty(),
                "down: {:?}",
                changes.iter().map(|call| &call.text).collect::<Vec<_>>()
            );
        } else {
            trace.assert_only_read(lower);
        }
        if command == "up" {
            assert_eq!(example.mounts("TARGET"), [Example::REAL], "{outcome}");
        }
        before.assert_unchanged(world.path(lower));
    }
    assert_warmed(world);
}

/// What reads the metadata or the contents of everything below.
const READING: [&[&str]; 6] = [
    &["warm", "--all", "--keep"],
    &["warm", "--all"],
    &["status"],
    &["status", "--sizes"],
    &["check", "--contents"],
    &["check", "--contents", "--lower"],
];

/// What these did is not nothing.
fn assert_warmed(world: &World) {
    let status = world.overstore(["status", "example", "--json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["warmed"]["gone"], 0, "{status}");
    assert!(status["warmed"]["paths"].as_u64() >= Some(18), "{status}");
    assert!(status["content"].is_object(), "{status}");
}

/// The example over another lower store.
fn over<'w>(world: &'w World, lower_store: &str) -> Example<'w> {
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    world.write(
        Example::CONFIGURATION,
        text.replace("\"/mnt/example/store-a?read-only=true\"", lower_store),
    );
    example
}

#[test]
fn a_local_store() {
    let Some(world) = World::trixie() else { return };
    only_reads(
        &over(&world, "\"/mnt/example/store-a\""),
        "/mnt/example/store-a",
    );
}

#[test]
fn a_local_store_read_only() {
    let Some(world) = World::trixie() else { return };
    only_reads(&world.example(""), "/mnt/example/store-a");
}

#[test]
fn a_local_store_with_rows_in_its_log() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    // A publisher that did not move its log into the database.
    let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
    world
        .command(["sqlite3", database])
        .stdin(
            ".dbconfig no_ckpt_on_close on\n\
             pragma journal_mode = wal;\n\
             update ValidPaths set registrationTime = registrationTime + 1;\n",
        )
        .ok();
    assert!(!world.read(format!("{database}-wal")).is_empty());
    only_reads(&example, "/mnt/example/store-a");
}

#[test]
fn a_local_store_on_a_read_only_mount() {
    let Some(world) = World::trixie() else { return };
    for lower_store in ["\"/mnt/read-only?read-only=true\"", "\"/mnt/read-only\""] {
        let example = over(&world, lower_store);
        world.mkdir("/mnt/read-only");
        world.ok(["mount", "--bind", "/mnt/example/store-a", "/mnt/read-only"]);
        world.ok(["mount", "-o", "remount,bind,ro", "/mnt/read-only"]);
        only_reads(&example, "/mnt/read-only");
        world.ok(["umount", "/mnt/read-only"]);
    }
}

#[test]
fn a_local_store_in_an_image() {
    let Some(world) = World::trixie() else { return };
    for kind in ["squashfs", "erofs"] {
        let at = format!("/mnt/{kind}");
        let example = over(&world, &format!("\"{at}?read-only=true\""));
        if world.image(kind, "/mnt/example/store-a", &at) {
            only_reads(&example, &at);
        }
    }
}

#[test]
fn a_store_behind_a_daemon() {
    let Some(world) = World::trixie() else { return };
    let example = over(
        &world,
        "\"unix:///run/lower.socket?root=/mnt/example/store-a\"",
    );
    // The daemon serves it read-only, so that what changes is not the daemon's doing.
    let daemon = world.nix_daemon(
        "local?root=/mnt/example/store-a&read-only=true",
        "/run/lower.socket",
    );
    only_reads(&example, "/mnt/example/store-a");
    drop(daemon);
}

#[test]
fn a_nested_store() {
    let Some(world) = World::trixie() else { return };
    let middle = world.example("");
    middle.up();
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    let url = middle.command("url").ok();
    world.write("/etc/overstore/middle.toml", &text);
    world.write(
        Example::CONFIGURATION,
        text.replace("/mnt/example/merged-store", "/mnt/top/merged-store")
            .replace("/mnt/example/store-b", "/mnt/top/upper")
            .replace("/mnt/example/workdir", "/mnt/top/work")
            .replace("/mnt/example/store-a?read-only=true", url.trim()),
    );
    let before = Snapshot::of(world.path("/mnt/example"));
    let words = [&["plan"][..], &["up"], &["up"], &["check"], &["plan"]];
    for words in words.into_iter().chain(READING).chain([&["down"][..]]) {
        let command = words[0];
        let run = world.overstore([command, "example"]).args(&words[1..]);
        let (outcome, trace) = run.traced();
        assert!(
            matches!(outcome.code(), Some(0 | 1)),
            "{words:?}: {outcome}"
        );
        if command == "down" {
            assert_warmed(&world);
        }
        if command == "up" {
            let mounts = world.run(["grep", "-c", "upperdir=/mnt/top/upper", "/proc/self/mounts"]);
            assert_eq!(mounts.stdout(), "1\n", "{outcome}");
        }
        let changes = trace.changes_below("/mnt/example");
        assert!(
            changes.is_empty(),
            "{command}: {:?}",
            changes.iter().map(|call| &call.text).collect::<Vec<_>>()
        );
        before.assert_unchanged(world.path("/mnt/example"));
    }
}
