//! A file system that runs out of room or of inodes at every point of a command: it ends by itself, says
//! so, and once there is room again the next one finishes.

use crate::support::{Example, Outcome, World, assert_says_why, sample};

/// The commands, in the order in which a store sees them.
const COMMANDS: &[&[&str]] = &[
    &["plan", "example"],
    &["up", "example"],
    &["check", "--lower", "example"],
    &["status", "example"],
    &["warm", "--all", "--keep", "example"],
    &["warm", "--forget", "example"],
    &["remount", "example"],
    &["gc", "example"],
    &["down", "example"],
    &["exec", "example", "--", "true"],
];

fn assert_ended(outcome: &Outcome, what: &str) {
    assert!(
        matches!(outcome.code(), Some(0..=3 | 125)),
        "{what}: {outcome}"
    );
    assert_says_why(outcome, what);
}

/// What the file system has in use: inodes, and blocks of 4 KiB.
fn used(world: &World) -> [u64; 2] {
    let said = world.ok(["stat", "-f", "-c", "%c %d %b %f %S", "/mnt/example"]);
    let numbers: Vec<u64> = said
        .split_whitespace()
        .map(|it| it.parse().expect("a number"))
        .collect();
    let [inodes, free_inodes, blocks, free, size] = numbers[..] else {
        panic!("{said}")
    };
    [inodes - free_inodes, (blocks - free) * size / 4096]
}

fn limit(world: &World, options: &str) {
    let options = format!("remount,{options}");
    world.ok(["mount", "-o", &options, "/mnt/example"]);
}

/// A disk without room gives the remedy too (security case W3).
#[test]
fn a_file_system_that_runs_out_at_any_point() {
    let Some(world) = World::trixie() else { return };
    world.mkdir("/mnt/example");
    let roomy = "size=512M,nr_inodes=100000";
    world.ok(["mount", "-t", "tmpfs", "-o", roomy, "store", "/mnt/example"]);
    let example = world.example("");
    let before = used(&world);
    example.up();
    example.command("warm").args(["--all", "--keep"]).ok();
    let after = used(&world);
    // Some more, for what is there only meanwhile.
    let levels = [0, 1].map(|kind| (before[kind]..after[kind] + 24).collect::<Vec<_>>());
    let mut told = 0;
    for (levels, name) in levels.into_iter().zip(["nr_inodes", "size"]) {
        for level in sample(levels, 10) {
            limit(&world, roomy);
            world.ok([
                "sh",
                "-c",
                "umount /mnt/example/merged-store/nix/store 2>/dev/null; cd /mnt/example; \
                 rm -rf merged-store workdir store-b /run/overstore",
            ]);
            let option = match name {
                "size" => format!("size={}k", level * 4),
                _ => format!("nr_inodes={level}"),
            };
            limit(&world, &option);
            for words in COMMANDS {
                let outcome = world.overstore(*words).run();
                assert_ended(&outcome, &format!("{option}: {words:?}"));
                let said = String::from_utf8_lossy(&outcome.err);
                // `gc` passes on what Nix says.
                let ours = words[0] != "gc" && outcome.code() == Some(3);
                let no_room = ["No space left on device", "disk I/O error"];
                if ours && no_room.iter().any(|it| said.contains(it)) {
                    assert!(
                        said.contains("make room on its file system"),
                        "{option}: {outcome}"
                    );
                    told += 1;
                }
            }
            limit(&world, roomy);
            for words in [
                &["up", "example"][..],
                &["warm", "--all", "example"],
                &["check", "example"],
            ] {
                let outcome = world.overstore(words).run();
                assert_eq!(outcome.code(), Some(0), "after {option}: {outcome}");
            }
            assert_eq!(example.mounts("fstype"), ["overlay"], "after {option}");
            world.ok(["test", "-d", Example::UPPER]);
        }
    }
    assert!(told > 0, "no command ran out of room");
}

/// Where the index of a log cannot grow, SQLite speaks of the disk, and not of room.
#[test]
fn a_log_without_room_is_a_full_disk() {
    let Some(world) = World::trixie() else { return };
    world.mkdir("/mnt/example");
    let options = "size=64M";
    world.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        options,
        "store",
        "/mnt/example",
    ]);
    let example = world.example("");
    example.up();
    let mut spoke_of_the_disk = false;
    for free in (0..=32).step_by(8) {
        let fill = format!(
            "cd /mnt/example; rm -f zeros merged-store/nix/var/nix/db/db.sqlite-*
             cat /dev/zero >zeros 2>/dev/null; truncate -s -{free}K zeros"
        );
        world.ok(["sh", "-c", &fill]);
        let outcome = example.command("warm").args(["--all"]).fails();
        assert_eq!(outcome.code(), Some(3), "{free}: {outcome}");
        let said = outcome.stderr();
        assert!(
            said.contains("make room on its file system"),
            "{free}: {outcome}"
        );
        assert!(!said.contains("dmesg"), "{free}: {outcome}");
        spoke_of_the_disk |= said.contains("disk I/O error");
    }
    assert!(spoke_of_the_disk, "SQLite has learnt to say it");
}
