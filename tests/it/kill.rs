//! `up` and `down` killed at each of their steps, and run again: the other commands are in `sweeps`.

use std::collections::BTreeSet;

use crate::support::World;

/// What there is after `up`: every file's kind, owner, mode, size and content, and the mount. What
/// differs from run to run is left out: the times in overstore's memory, the numbers in its record.
/// So is `uuid=on`, which the kernel shows of the first overlay over an upper layer only, and a draft
/// of that memory: killed at the very last write, there is nothing left to do, and the
/// next write uses it again.
fn state(world: &World) -> String {
    let script = "set -e; cd /mnt/example; \
        find . \\( -path ./merged-store/nix/store -o -path ./store-a -o -name state.json.overstore-new \\) -prune -o -type f -printf '%y %m %U:%G %p ' -exec sh -c \
        'case $0 in *.json) echo;; *) md5sum <\"$0\";; esac' {} \\; -o -printf '%y %m %U:%G %p %l\\n' \
        | sort; ls /run/overstore; getfattr -h -d -m - --absolute-names store-b/.links 2>/dev/null || true; \
        grep ' /mnt/example' /proc/self/mounts | sed s/,uuid=on//";
    world.ok(["sh", "-c", script])
}

/// As before the first `up`.
fn fresh(world: &World) {
    world.ok(["sh", "-c", "umount /mnt/example/merged-store/nix/store 2>/dev/null; rm -rf /mnt/example/[!s]* /mnt/example/store-b /run/overstore"]);
}

#[test]
pub(crate) fn up_killed_at_any_step_is_finished_by_the_next() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let (outcome, trace) = example.command("up").traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let wanted = state(&world);
    let points = trace.kill_points();
    let kinds: BTreeSet<&str> = points.iter().map(|(call, _)| call.as_str()).collect();
    // If these are not there, the trace does not show what it should.
    for call in [
        "mkdirat",
        "symlinkat",
        "renameat",
        "mount",
        "fsetxattr",
        "fallocate",
        "write",
        "flock",
    ] {
        assert!(
            kinds.iter().any(|kind| kind.starts_with(call)),
            "{call}: {kinds:?}"
        );
    }
    assert!(points.len() > 40, "{points:?}");
    let mut kills = 0;
    for (call, nth) in &points {
        fresh(&world);
        let killed = example.command("up").killed_at(call, *nth);
        if killed.signal() == Some(9) {
            kills += 1;
        } else {
            // A call that another run makes less often: what waits tries a lock again, for example.
            assert_eq!(killed.code(), Some(0), "{call} {nth}: {killed}");
        }
        let again = example.run("up");
        assert_eq!(again.code(), Some(0), "killed at {call} {nth}: {again}");
        let found = state(&world);
        assert!(
            found == wanted,
            "killed at {call} {nth}: {found}\nshould be {wanted}"
        );
        let down = example.run("down");
        assert_eq!(
            down.code(),
            Some(0),
            "killed at {call} {nth}, the mount is not known to be ours: {down}"
        );
    }
    assert!(kills + 3 > points.len(), "{kills} of {}", points.len());
}

/// From the mount on, killed while metadata is copied: the next `up` copies it, and keeps it.
#[test]
fn up_killed_while_it_copies_metadata_up_is_finished_by_the_next() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("[warm]\nall = true\nkeep = true");
    let (outcome, trace) = example.command("up").traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let copied = || {
        let database = "/mnt/example/merged-store/nix/var/nix/db/db.sqlite";
        let query = "select path, hash, registrationTime, deriver, narSize, sigs from ValidPaths \
                     order by path; select count(*) from Refs; select count(*) from DerivationOutputs; \
                     pragma integrity_check";
        let rows = world.ok(["sqlite3", database, query]);
        (
            rows,
            world.list("/mnt/example/merged-store/nix/var/nix/gcroots/overstore"),
        )
    };
    let wanted = copied();
    assert!(
        wanted.0.lines().count() == 18 + 3 && !wanted.1.is_empty(),
        "{wanted:?}"
    );
    let points = trace.kill_points();
    // The main thread's comes first.
    let mount = points.iter().position(|(call, _)| call == "move_mount");
    let after = &points[mount.expect("it mounts")..];
    for call in ["pwrite64", "fsync", "symlinkat"] {
        assert!(
            after.iter().any(|(kind, _)| kind == call),
            "{call}: {after:?}"
        );
    }
    for (call, nth) in after {
        fresh(&world);
        let killed = example.command("up").killed_at(call, *nth);
        assert!(
            killed.signal() == Some(9) || killed.code() == Some(0),
            "{call} {nth}: {killed}"
        );
        let again = example.run("up");
        assert_eq!(again.code(), Some(0), "killed at {call} {nth}: {again}");
        assert_eq!(copied(), wanted, "killed at {call} {nth}: {again}");
        assert_eq!(
            example.up(),
            "example: is up, nothing changed\n",
            "killed at {call} {nth}"
        );
    }
}

#[test]
pub(crate) fn down_killed_at_any_step_is_finished_by_the_next() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let (outcome, trace) = example.command("down").traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let points = trace.kill_points();
    assert!(
        points.iter().any(|(call, _)| call == "umount2"),
        "{points:?}"
    );
    for (call, nth) in &points {
        example.up();
        let killed = example.command("down").killed_at(call, *nth);
        assert_eq!(killed.signal(), Some(9), "{call} {nth}: {killed}");
        let again = example.run("down");
        assert_eq!(again.code(), Some(0), "killed at {call} {nth}: {again}");
        assert!(world.records().is_empty(), "{call} {nth}");
        let memory = world.read("/mnt/example/merged-store/nix/var/nix/overstore/state.json");
        let memory: serde_json::Value = serde_json::from_slice(&memory).expect("JSON");
        assert!(memory["mounted"].is_null(), "{call} {nth}: {memory}");
    }
}
