//! Something odd in the place of every file that is read or written: a pipe, a device, a socket, a
//! link, a directory, a huge file, garbage. Every command tells it, and none waits for it, reads it
//! without end, follows it or dies of it.

use crate::support::{Example, Outcome, World, sample};

/// What is in the way: its name, and the shell command that makes it at `$1`.
const ODD: &[(&str, &str)] = &[
    ("pipe", "mkfifo \"$1\""),
    ("zero", "ln -s /dev/zero \"$1\""),
    (
        "socket",
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die' \"$1\"",
    ),
    ("directory", "mkdir \"$1\"; touch \"$1/inside\""),
    ("loop", "ln -s \"$(basename \"$1\")\" \"$1\""),
    ("dangling", "ln -s /nowhere/at-all \"$1\""),
    ("secret", "ln -s /root/secret \"$1\""),
    (
        "huge",
        "truncate -s 1T \"$1\" 2>/dev/null || truncate -s 8G \"$1\"",
    ),
    ("empty", ": >\"$1\""),
    ("garbage", "head -c 5000 /bin/sh >\"$1\""),
    ("unreadable", "echo some >\"$1\"; chmod 0 \"$1\""),
];

/// Where it is put.
const PLACES: &[&str] = &[
    Example::CONFIGURATION,
    "/etc/overstore/example",
    "/etc/group",
    "/run/overstore",
    "/run/overstore/locks",
    "/run/overstore/*.json",
    "/mnt/example/store-a/nix/var/nix/db/schema",
    "/mnt/example/store-a/nix/var/nix/db/db.sqlite",
    "/mnt/example/store-a/nix/var/nix/db/db.sqlite-wal",
    "/mnt/example/store-a/nix/var/nix/db/db.sqlite-shm",
    "/mnt/example/store-a/nix/var/nix/db/db.sqlite-journal",
    "/mnt/example/store-a/nix/var/nix/db/reserved",
    "/mnt/example/store-a/nix/store",
    "/mnt/example/store-a/nix/store/.links",
    "/mnt/example/merged-store/nix/var/nix/db/schema",
    "/mnt/example/merged-store/nix/var/nix/db/schema.overstore-new",
    "/mnt/example/merged-store/nix/var/nix/db/db.sqlite",
    "/mnt/example/merged-store/nix/var/nix/db/db.sqlite.overstore-new",
    "/mnt/example/merged-store/nix/var/nix/db/db.sqlite-wal",
    "/mnt/example/merged-store/nix/var/nix/db/db.sqlite-shm",
    "/mnt/example/merged-store/nix/var/nix/db/db.sqlite-journal",
    "/mnt/example/merged-store/nix/var/nix/db/big-lock",
    "/mnt/example/merged-store/nix/var/nix/db/reserved",
    "/mnt/example/merged-store/nix/var/nix/gcroots",
    "/mnt/example/merged-store/nix/var/nix/gcroots/overstore",
    "/mnt/example/merged-store/nix/var/nix/overstore",
    "/mnt/example/merged-store/nix/var/nix/overstore/state.json",
    "/mnt/example/merged-store/nix/var/nix/overstore/state.json.overstore-new",
    "/mnt/example/merged-store/nix/var/nix/overstore/warmed-paths",
    "/mnt/example/merged-store/nix/var/nix/overstore/deleted-paths",
    "/mnt/example/store-b/.links",
    "/mnt/example/store-b/stranger",
    "/mnt/example/workdir",
    "/mnt/example/workdir/overstore",
    "/mnt/example/workdir/work/incompat",
];

/// The commands, from those that only look to those that change the store and take it down.
const COMMANDS: &[&[&str]] = &[
    &["check", "example"],
    &["check", "--lower", "--contents", "example"],
    &["status", "example"],
    &["plan", "example"],
    &["url", "example"],
    &["up", "example"],
    &["warm", "--all", "--keep", "example"],
    &["warm", "--forget", "example"],
    &["gc", "example"],
    &["optimise", "example"],
    &["list"],
    &["down", "example"],
    &["reconcile", "example"],
    &["down", "example"],
    &["up", "example"],
    &["exec", "example", "--", "true"],
];

/// A command ended by itself, with one of the documented codes, and showed nothing of the secret.
fn assert_well_behaved(outcome: &Outcome, what: &str) {
    assert!(
        matches!(outcome.code(), Some(0..=3 | 125)),
        "{what}: {outcome}"
    );
    for said in [&outcome.out, &outcome.err] {
        assert!(said.len() < 100_000, "{what}: {} bytes", said.len());
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains("panicked"), "{what}: {outcome}");
        assert!(!said.contains("the secret"), "{what}: {outcome}");
    }
    if outcome.code() != Some(0) {
        assert!(
            !outcome.out.is_empty() || !outcome.err.is_empty(),
            "{what}: {outcome}"
        );
    }
}

/// Security cases F4, F5, K1 and their neighbours.
#[test]
fn whatever_is_in_the_place_of_a_file_is_told_and_nothing_waits_for_it() {
    let Some(world) = World::trixie() else { return };
    world.write("/root/secret", "the secret\n");
    let cases: Vec<_> = PLACES
        .iter()
        .flat_map(|place| ODD.iter().map(move |odd| (place, odd)))
        // What a description links to is its owner's choice, and is shown where it is wrong.
        .filter(|(place, odd)| !(place.starts_with("/etc/overstore") && odd.0 == "secret"))
        .collect();
    let example = world.example("");
    example.up();
    example.command("down").ok();
    world.ok(["cp", "-a", "/mnt/example", "/mnt/saved"]);
    world.ok(["cp", "-a", "/etc/overstore", "/etc/group", "/mnt/saved"]);
    for (place, (name, make)) in sample(cases, 48) {
        let what = format!("{name} at {place}");
        world.ok([
            "sh",
            "-c",
            "umount -l /mnt/example/merged-store/nix/store 2>/dev/null; rm -rf /mnt/example \
             /run/overstore /etc/overstore; cp -a /mnt/saved /mnt/example; mv /mnt/example/overstore \
             /etc; cat /mnt/example/group >/etc/group; rm -f /mnt/example/group",
        ]);
        let put = format!(
            "for at in {place}; do rm -rf \"$at\"; mkdir -p \"$(dirname \"$at\")\"; set -- \"$at\"; {make}; done"
        );
        world.ok(["sh", "-c", &put]);
        for arguments in COMMANDS {
            let outcome = world.overstore(*arguments).run();
            assert_well_behaved(&outcome, &what);
        }
        world.ok(["grep", "-qx", "the secret", "/root/secret"]);
    }
    world.ok([
        "sh",
        "-c",
        "rm -f /etc/group; cp /mnt/saved/group /etc/group",
    ]);
}

/// Security case F5: it is told at once which file it is, and what it is.
#[test]
fn a_description_that_is_no_file_is_told() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    world.ok([
        "sh",
        "-c",
        "cd /etc/overstore; mkfifo pipe.toml; ln -s /dev/zero zero.toml; ln -s pipe.toml link.toml",
    ]);
    for (name, kind) in [
        ("pipe", "a named pipe"),
        ("link", "a named pipe"),
        ("zero", "a character device"),
    ] {
        for command in ["up", "down", "plan", "check", "status", "url"] {
            let outcome = world.overstore([command, name]).run();
            assert_eq!(outcome.code(), Some(2), "{outcome}");
            let file = format!("/etc/overstore/{name}.toml is {kind}");
            assert!(outcome.stderr().contains(&file), "{outcome}");
        }
    }
}

/// Security case F5: the groups of this system, which the C library reads.
#[test]
fn groups_of_this_system_that_are_no_file_are_told_by_name() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    for (make, kind) in [
        ("mkfifo /etc/group", "a named pipe"),
        ("ln -s /dev/zero /etc/group", "a character device"),
        ("truncate -s 1T /etc/group", "16777216 bytes"),
    ] {
        world.ok(["sh", "-c", &format!("rm -f /etc/group; {make}")]);
        for command in ["check", "up"] {
            let outcome = example.run(command);
            assert_eq!(outcome.code(), Some(3), "{make}: {outcome}");
            let said = outcome.stderr();
            assert!(
                said.contains("/etc/group: ") && said.contains(kind),
                "{make}: {outcome}"
            );
        }
    }
}

/// Security case F5: the groups of the system below `--root`.
#[test]
fn groups_that_are_no_file_or_no_text_are_told_by_name() {
    let Some(world) = World::trixie() else { return };
    let _lower = world.lower_store("/mnt/sysroot/mnt/example/store-a");
    world.write(
        "/mnt/sysroot/etc/overstore/example.toml",
        "root = \"/mnt/example/merged-store\"\nlower-store = \"/mnt/example/store-a?read-only=true\"\n\
         upper-layer = \"/mnt/example/store-b\"\nworkdir = \"/mnt/example/workdir\"\n\
         remount-hook = false\n",
    );
    let group = "/mnt/sysroot/etc/group";
    for (make, kind) in [
        (format!("mkfifo {group}"), "a named pipe"),
        (format!("ln -s /dev/zero {group}"), "expected"),
        (format!("truncate -s 1G {group}"), "16777216 bytes"),
    ] {
        world.ok(["mkdir", "-p", "/mnt/sysroot/dev"]);
        world.ok(["cp", "-a", "/dev/zero", "/mnt/sysroot/dev/zero"]);
        world.ok(["sh", "-c", &format!("rm -f {group}; {make}")]);
        for command in ["check", "up"] {
            let outcome = world
                .overstore([command, "--root", "/mnt/sysroot", "example"])
                .run();
            assert_eq!(outcome.code(), Some(3), "{make}: {outcome}");
            let said = outcome.stderr();
            assert!(
                said.contains("/etc/group: ") && said.contains(kind),
                "{make}: {outcome}"
            );
        }
    }
    // One line that is not UTF-8 is no reason not to read the others.
    world.ok(["rm", group]);
    world.write(group, b"b\xffd:x:7:\nnixbld:x:30000:\n");
    let up = world
        .overstore(["up", "--root", "/mnt/sysroot", "example"])
        .run();
    assert_eq!(up.code(), Some(0), "{up}");
    world.ok([
        "sh",
        "-c",
        "[ $(stat -c %g /mnt/sysroot/mnt/example/store-b) = 30000 ]",
    ]);
}
