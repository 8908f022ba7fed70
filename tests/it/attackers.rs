//! Ordinary users who would have root do what it should not.

use crate::support::{Example, Outcome, Snapshot, World, soaks, wait_until};

/// The worked example with every part of it below a directory of its own, and a `victim` of root's.
/// `own` makes `/mnt/way` what the attacker may change.
fn on_the_way<'w>(world: &'w World, own: &str) -> Example<'w> {
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    let text = ["merged-store", "store-b", "workdir"]
        .iter()
        .fold(text, |text, part| {
            text.replace(&format!("/mnt/example/{part}"), &format!("/mnt/way/{part}"))
        });
    world.write(Example::CONFIGURATION, text);
    world.ok(["sh", "-ec", &format!(
        "mkdir -p /mnt/way/workdir /mnt/way/store-b/.links /mnt/way/merged-store/nix/store \
             /mnt/victim/work/work; cd /mnt/way/merged-store/nix; mkdir -p var/nix/db \
             var/nix/gcroots/per-user var/nix/profiles/per-user var/nix/temproots var/nix/overstore; \
             echo precious > /mnt/victim/work/work/file; ln -s /mnt/victim/work /mnt/way/link; {own}"
    )]);
    example
}

/// Runs `up` as often as the attack is known to need, while `alice` exchanges a directory for a link.
fn up_while_alice_exchanges(example: &Example<'_>, tries: u32) -> Outcome {
    let world = example.world;
    // 316: renameat2(2), 2: RENAME_EXCHANGE.
    let exchange = "chdir '/mnt/way'; $| = 1; print 'ready'; \
                    while (1) { syscall(316, -100, 'workdir', -100, 'link', 2) }";
    let mut alice = world.command(["perl", "-e", exchange]).by_alice().spawn();
    let mut ready = [0; 5];
    std::io::Read::read_exact(alice.stdout.as_mut().expect("piped"), &mut ready).expect("it runs");
    let outcome = world.run([
        "sh",
        "-c",
        &format!(
            "for try in $(seq {tries}); do overstore up example; \
             grep -q precious /mnt/victim/work/work/file || exit 99; overstore down example; done"
        ),
    ]);
    alice.kill().expect("a child of this test");
    alice.wait().expect("a child of this test");
    outcome
}

/// The ways in which alice may have changed the directory on the way.
const HERS: [&str; 2] = [
    "chown -R alice:alice /mnt/way",
    "chgrp alice /mnt/way; chmod 775 /mnt/way",
];

/// F1, won each time: the directory is exchanged after it was looked at, before it is mounted. With
/// b104179 the file is gone.
#[test]
fn the_kernel_empties_no_directory_that_is_exchanged_before_the_mount() {
    let Some(world) = World::trixie() else { return };
    for own in HERS {
        world.ok(["rm", "-rf", "/mnt/way", "/mnt/victim", "/mnt/example"]);
        let example = on_the_way(&world, own);
        let victim = Snapshot::of(world.path("/mnt/victim"));
        let outcome = match example.command("up").held_in_first_thread_at("mount", 1) {
            Err(ended) => ended,
            Ok(held) => {
                let exchange = "mv workdir kept && mv link workdir";
                let hers = world.command(["sh", "-ec", exchange]).by_alice();
                hers.current_dir("/mnt/way").ok();
                held.go_on()
            }
        };
        victim.assert_unchanged(world.path("/mnt/victim"));
        assert_eq!(outcome.code(), Some(1), "{own}: {outcome}");
        let refused = outcome.stdout().contains("[path-unsafe]");
        assert!(refused, "{own}: {outcome}");
    }
}

/// F1, as it was found. With b104179 the file is gone after some 230 tries in a directory of alice's own,
/// and at the first in one of a group that she is in.
#[test]
fn the_kernel_empties_no_directory_that_a_user_chooses() {
    let Some(world) = World::trixie() else { return };
    let tries = if soaks() { [300, 100] } else { [30, 10] };
    for (own, tries) in HERS.into_iter().zip(tries) {
        world.ok(["rm", "-rf", "/mnt/way", "/mnt/victim", "/mnt/example"]);
        let example = on_the_way(&world, own);
        let victim = Snapshot::of(world.path("/mnt/victim"));
        let outcome = up_while_alice_exchanges(&example, tries);
        assert_ne!(outcome.code(), Some(99), "{own}: the victim's file is gone");
        victim.assert_unchanged(world.path("/mnt/victim"));
        assert!(
            outcome.stdout().contains("[path-unsafe]"),
            "{own}: {outcome}"
        );
        assert!(!outcome.stdout().contains("is up"), "{own}: {outcome}");
    }
}

/// F1, F1b, F1c and their neighbours: every part, in every directory in which somebody else could
/// replace it, is refused before anything is made, changed or followed.
#[test]
fn root_uses_no_directory_in_which_others_could_replace_a_part() {
    let Some(world) = World::trixie() else { return };
    for own in [
        "chown alice /mnt/way",
        "chown -R alice /mnt/way",
        "chgrp alice /mnt/way; chmod 775 /mnt/way",
        "chgrp alice /mnt/way; chmod 2775 /mnt/way",
        "chgrp alice /mnt/way; chmod 3775 /mnt/way; chown alice /mnt/way/*",
        "chmod 777 /mnt/way",
        // The number that stands for users without one, where there are such: here it is a user's.
        "chown 65534 /mnt/way",
        "chown -R 65534 /mnt/way",
    ] {
        world.ok(["rm", "-rf", "/mnt/way", "/mnt/victim", "/mnt/example"]);
        let example = on_the_way(&world, own);
        let before = Snapshot::of(world.path("/mnt"));
        for command in ["up", "check"] {
            let outcome = example.run(command);
            assert_eq!(outcome.code(), Some(1), "{own}: {command}: {outcome}");
            let found = outcome.stdout().matches("[path-unsafe]").count();
            assert!(found >= 3, "{own}: {command}: {outcome}");
        }
        before.assert_unchanged(world.path("/mnt"));
    }
    // A sticky directory of a group's is one in which root's own stays.
    world.ok(["rm", "-rf", "/mnt/way", "/mnt/victim", "/mnt/example"]);
    on_the_way(&world, "chgrp alice /mnt/way; chmod 1775 /mnt/way").up();
}

/// F2: roots of another store are neither removed nor made.
#[test]
fn no_roots_are_changed_through_a_link() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("warm").args(["--all", "--keep"]).ok();
    world.ok([
        "sh",
        "-ec",
        &format!(
            "cp -a {state} /mnt/other; mv {state} /mnt/kept; ln -s /mnt/other {state}",
            state = Example::STATE,
        ),
    ]);
    let other = Snapshot::of(world.path("/mnt/other"));
    for arguments in [&["--forget"][..], &["--all", "--keep"]] {
        let outcome = example.command("warm").args(arguments).run();
        assert_eq!(outcome.code(), Some(3), "{arguments:?}: {outcome}");
        other.assert_unchanged(world.path("/mnt/other"));
    }
}

/// F4: what is at a name that root writes to is neither waited for nor written to.
#[test]
fn nothing_at_the_name_of_a_draft_is_opened() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    world.write("/mnt/secret", "precious");
    world.ok(["sh", "-ec", &format!("cp -a {} /mnt/state", Example::STATE)]);
    for name in [
        "overstore/state.json.overstore-new",
        "overstore/warmed-paths.overstore-new",
        "overstore/deleted-paths.overstore-new",
        "db/reserved",
        "db/big-lock",
        "db/schema.overstore-new",
        "db/db.sqlite.overstore-new",
    ] {
        for odd in ["mkfifo", "ln /mnt/secret"] {
            world.ok(["sh", "-ec", &format!(
                "rm -rf {state}; cp -a /mnt/state {state}; cd {state}; rm -f {name} db/schema db/db.sqlite*; \
                 {odd} {name}",
                state = Example::STATE,
            )]);
            let up = example.command("up").under(["timeout", "300"]).run();
            assert_ne!(up.code(), Some(124), "{odd} {name}: it waits");
            assert_eq!(world.read("/mnt/secret"), b"precious", "{odd} {name}: {up}");
            let drafts = name.ends_with("-new");
            assert_eq!(up.code() == Some(0), drafts, "{odd} {name}: {up}");
            example.run("down");
        }
    }
}

/// KS1: the upper layer has its group from the first moment, whatever the directory above passes on, and
/// without the capability to change this process's own group, as in the unit. With b104179 it is alice's
/// or root's, where `up` is killed right after it has made it.
#[test]
fn the_group_is_right_without_its_capability_and_below_a_set_group_id_directory() {
    let Some(world) = World::trixie() else { return };
    let example = on_the_way(&world, "true");
    let without = ["setpriv", "--bounding-set=-setgid", "--inh-caps=-setgid"];
    let up = || example.command("up").under(without);
    for mode in ["755", "2755"] {
        let fresh = || {
            world.ok([
                "sh",
                "-ec",
                &format!(
                    "rm -rf /mnt/way/* /mnt/way/.[!.]* /run/overstore; chgrp alice /mnt/way; \
                 chmod {mode} /mnt/way; mkdir /mnt/way/workdir"
                ),
            ]);
        };
        let look = ["stat", "--format=%U:%G %a", "/mnt/way/store-b"];
        fresh();
        let (outcome, trace) = up().traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(world.ok(look), "root:nixbld 1775\n");
        let owners = trace.nth_calls(|call| {
            let calls = ["fchown", "fchownat", "fchmod", "fchmodat"];
            calls.contains(&call.name.as_str()) && call.text.contains("store-b")
        });
        assert!(!owners.is_empty());
        for (call, nth) in owners {
            example.command("down").ok();
            fresh();
            let killed = up().killed_at(&call, nth);
            let what = format!("{mode}, killed at {call} {nth}");
            assert_eq!(killed.signal(), Some(9), "{what}: {killed}");
            let made = world.run(look).stdout();
            let right = made.is_empty() || made == "root:nixbld 1775\n";
            assert!(right, "{what}: {made}");
            let outcome = up().run();
            assert_eq!(outcome.code(), Some(0), "{what}: {outcome}");
            assert_eq!(world.ok(look), "root:nixbld 1775\n", "{what}");
        }
        example.command("down").ok();
    }
}

/// KS1: no kill leaves a directory with another owner or mode, or a draft that stays.
#[test]
fn a_kill_leaves_no_directory_half_made() {
    let Some(world) = World::trixie() else { return };
    let example = on_the_way(
        &world,
        "rm -r /mnt/way/*; chgrp alice /mnt/way; chmod 2755 /mnt/way",
    );
    let mut kills = 0;
    for call in ["mkdirat", "fchown", "fchmod", "renameat2"] {
        for nth in 1..=3 {
            let killed = example.command("up").killed_at(call, nth);
            kills += u32::from(killed.signal() == Some(9));
            let made = world.ok([
                "sh",
                "-c",
                "cd /mnt/way; for d in store-b workdir merged-store; \
                do [ ! -d $d ] || stat --format='%n %G %a' $d; done",
            ]);
            for line in made.lines() {
                let right = [
                    "store-b nixbld 1775",
                    "workdir root 755",
                    "merged-store root 755",
                ];
                assert!(right.contains(&line), "killed at {call} {nth}: {line}");
            }
            let again = example.run("up");
            assert_eq!(again.code(), Some(0), "killed at {call} {nth}: {again}");
            let left = world.ok([
                "sh",
                "-c",
                "ls -A /mnt/way /mnt/way/merged-store | grep -c overstore-new || :",
            ]);
            assert_eq!(left, "0\n", "killed at {call} {nth}");
            example.run("down");
            world.ok(["sh", "-c", "rm -rf /mnt/way/* /mnt/way/.[!.]*"]);
        }
    }
    assert!(kills >= 10, "{kills}");
}

/// F3, V1: whoever can open a directory can lock it, and nothing of root's waits for that.
#[test]
fn no_lock_of_a_user_keeps_root_waiting() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    let holders = [Example::UPPER, Example::WORKDIR].map(|directory| {
        let held = format!("/tmp/held{}", directory.replace('/', "-"));
        let script = format!("touch {held}; exec sleep infinity");
        let holder = world
            .command(["flock", "--no-fork", directory, "sh", "-c", &script])
            .by_alice()
            .spawn();
        wait_until("alice has it locked", || world.path(&held).exists());
        holder
    });
    for command in [
        &["up", "example"][..],
        &["check", "example"],
        &["warm", "--all", "--keep", "example"],
        &["down", "example"],
        &["exec", "example", "--", "true"],
    ] {
        let outcome = world.overstore(command.iter().copied()).run();
        assert_eq!(outcome.code(), Some(0), "{command:?}: {outcome}");
        assert!(
            !outcome.stderr().contains("waiting"),
            "{command:?}: {outcome}"
        );
    }
    // Where root's locks are, she cannot even look.
    let look = world
        .command(["ls", "/run/overstore/locks"])
        .by_alice()
        .run();
    assert_ne!(look.code(), Some(0), "{look}");
    for mut holder in holders {
        holder.kill().expect("a child of this test");
        holder.wait().expect("a child of this test");
    }
}

/// A description that others may write is used, and not without a word.
#[test]
fn a_description_that_others_may_write_is_warned_of() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    let text = world.read(Example::CONFIGURATION);
    let warning = |file: &str| {
        let outcome = world.overstore(["plan", file]).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        outcome.stderr()
    };
    assert_eq!(warning("example"), "");
    world.ok(["install", "-d", "-o", "alice", "/mnt/hers"]);
    world.ok(["install", "-d", "-m", "777", "/mnt/open"]);
    for (file, spoil, who) in [
        (
            "/etc/overstore/example.toml",
            "chmod 664",
            "its mode is 0664",
        ),
        (
            "/etc/overstore/example.toml",
            "chown alice",
            "belongs to user",
        ),
        ("/mnt/hers/example.toml", "true", "in a directory of user"),
        ("/mnt/open/example.toml", "true", "everybody may write to"),
    ] {
        world.write(file, &text);
        world.ok(["sh", "-c", &format!("{spoil} {file}")]);
        let said = warning(file);
        assert!(
            said.starts_with("warning: users other than root can write to"),
            "{said}"
        );
        assert!(said.contains(who), "{said}");
        world.ok(["sh", "-c", &format!("chown root {file}; chmod 644 {file}")]);
    }
    // An ordinary user's is that user's.
    world.ok([
        "install",
        "-o",
        "alice",
        "-m",
        "664",
        Example::CONFIGURATION,
        "/tmp/hers.toml",
    ]);
    let hers = world.overstore(["url", "/tmp/hers.toml"]).by_alice().run();
    assert_eq!(hers.code(), Some(0), "{hers}");
    assert!(!hers.stderr().contains("others than root"), "{hers}");
}

/// The user number 65534 is trusted in namespaces in which it is nobody's own, and in no others; what a
/// system that is not running has in its `/proc` says nothing of this one.
#[test]
fn a_system_of_the_overflow_user_is_not_trusted() {
    let Some(world) = World::trixie() else { return };
    let _lower = world.lower_store("/mnt/sysroot/mnt/example/store-a");
    world.write(
        "/mnt/sysroot/etc/overstore/example.toml",
        "root = \"/mnt/example/merged-store\"\nlower-store = \"/mnt/example/store-a?read-only=true\"\n\
         upper-layer = \"/mnt/example/store-b\"\nworkdir = \"/mnt/example/workdir\"\n\
         remount-hook = false\n[permissions]\nbuild-users-group = \"\"\n",
    );
    for map in ["0 1000 1\n", "", "1000 1000 1\n"] {
        world.write("/mnt/sysroot/proc/self/uid_map", map);
        world.ok([
            "chown",
            "65534",
            "/mnt/sysroot",
            "/mnt/sysroot/mnt",
            "/mnt/sysroot/mnt/example",
        ]);
        let before = Snapshot::of(world.path("/mnt"));
        for command in ["up", "check", "plan"] {
            let said = world
                .overstore([command, "--root", "/mnt/sysroot", "example"])
                .run();
            assert_eq!(said.code(), Some(1), "{said}");
            assert!(said.stdout().contains("[path-unsafe]"), "{said}");
            assert!(said.stdout().contains("65534"), "{said}");
        }
        before.assert_unchanged(world.path("/mnt"));
    }
    world.ok(["chown", "-R", "root", "/mnt/sysroot"]);
    world
        .overstore(["up", "--root", "/mnt/sysroot", "example"])
        .ok();
}
