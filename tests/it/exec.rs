//! `overstore exec`: as root, and as an ordinary user in a user namespace.

use crate::support::{Example, Outcome, Run, World, wait_until};

/// `overstore exec example -- sh -c SCRIPT`.
fn exec<'w>(world: &'w World, script: &str) -> Run<'w> {
    let run = world.overstore(["exec", "example", "--", "sh", "-c", script]);
    run.env("NIX_CONFIG", "extra-experimental-features = nix-command")
}

/// The mounts that `/proc/self/mounts` lists, and those of an overlay that overstore made.
fn mounts(world: &World) -> String {
    world.ok(["cat", "/proc/self/mounts"])
}

/// A store of alice's over root's lower store, in `/mnt/alice`.
fn of_alice(world: &World, lower: &str) {
    world.lower_store("/mnt/lower");
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    world.write(
        "/etc/overstore/example.toml",
        format!(
            "root = \"/mnt/alice/merged-store\"\n\
             lower-store = \"{lower}\"\n\
             upper-layer = \"/mnt/alice/store-b\"\n\
             workdir = \"/mnt/alice/workdir\"\n"
        ),
    );
}

const EXPRESSION: &str = r#"derivation {
    name = "built";
    system = "x86_64-linux";
    builder = builtins.storePath "@shell@" + "/bin/mksh";
    args = [ "-c" "print something >$out" ];
}"#;

#[test]
fn root_gets_a_store_that_nobody_else_sees() {
    for world in World::each() {
        let example = world.example("");
        let before = mounts(&world);
        let inside = exec(
            &world,
            "set -e
             findmnt --noheadings --output FSTYPE,TARGET $OVERSTORE_REAL
             nix path-info $1; nix store info 2>&1
             nix-store --add $0; ls $OVERSTORE_UPPER_LAYER
             env | grep ^OVERSTORE_ | sort",
        )
        .args(["/etc/nix/nix.conf", &example.lower.path("hello-1.0")])
        .ok();
        assert!(inside.starts_with("overlay"), "{inside}");
        assert!(
            inside.contains(&example.lower.path("hello-1.0")),
            "{inside}"
        );
        assert!(inside.contains("Store URL: local-overlay"), "{inside}");
        assert_eq!(inside.matches("-nix.conf\n").count(), 2, "{inside}");
        let url = example.command("url").ok();
        for line in [
            "OVERSTORE_REAL=/mnt/example/merged-store/nix/store\n",
            "OVERSTORE_STATE=/mnt/example/merged-store/nix/var/nix\n",
            "OVERSTORE_STORE=example\n",
            "OVERSTORE_UPPER_LAYER=/mnt/example/store-b\n",
            &format!("OVERSTORE_URL={url}"),
        ] {
            assert!(inside.contains(line), "{line} in {inside}");
        }

        assert_eq!(mounts(&world), before);
        assert!(!world.path("/run/overstore").join("mounts").exists());
        assert!(example.mounts("TARGET").is_empty());
        // What was added stays: the next time, and for `up`.
        let again = exec(&world, "nix path-info --all").ok();
        assert!(again.contains("-nix.conf\n"), "{again}");
        example.up();
        assert_eq!(example.run("check").code(), Some(0));
    }
}

#[test]
fn the_command_s_end_is_its_own() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    assert_eq!(exec(&world, "exit 7").run().code(), Some(7));
    assert_eq!(exec(&world, "kill -TERM $$").run().signal(), Some(15));
    let echoed = exec(&world, "cat; echo to stderr >&2")
        .stdin("typed\n")
        .run();
    assert_eq!(echoed.stdout(), "typed\n");
    assert_eq!(echoed.stderr(), "to stderr\n");

    let fails = |words: &[&str]| world.overstore(words).fails();
    let missing = fails(&["exec", "example", "--", "no-such-command"]);
    assert_eq!(missing.code(), Some(127), "{missing}");
    assert!(missing.stderr().contains("no-such-command"), "{missing}");
    let no_program = fails(&["exec", "example", "--", "/etc/passwd"]);
    assert_eq!(no_program.code(), Some(126), "{no_program}");
    assert!(no_program.stderr().contains("/etc/passwd"), "{no_program}");
    assert_eq!(fails(&["exec", "another", "--", "true"]).code(), Some(2));
    assert_eq!(fails(&["exec", "example"]).code(), Some(2));

    world.ok(["mv", Example::LOWER, "/mnt/example/elsewhere"]);
    let refused = fails(&["exec", "example", "--", "true"]);
    assert_eq!(refused.code(), Some(125), "{refused}");
    assert!(refused.stderr().contains("lower-missing"), "{refused}");
}

#[test]
fn settings_that_are_there_already_stay() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("[database]\nuse-sqlite-wal = false");
    let config = exec(
        &world,
        "nix --extra-experimental-features nix-command config show",
    )
    .env("NIX_CONFIG", "cores = 3\nstore = /elsewhere\n")
    .env("NIX_REMOTE", "daemon")
    .ok();
    for line in [
        "cores = 3\n",
        "store = local-overlay://",
        "use-sqlite-wal = false\n",
    ] {
        assert!(config.contains(line), "{line} in {config}");
    }
    assert!(!config.contains("store = /elsewhere"));
}

#[test]
fn a_store_is_in_one_exec_at_a_time() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let wait = |file: &str| {
        wait_until(&format!("{file} appears"), || world.path(file).exists());
    };
    let until_end = "touch /tmp/in; while [ ! -e /tmp/end ]; do sleep 0.01; done";
    let first = exec(&world, until_end).spawn();
    wait("/tmp/in");
    for second in [exec(&world, "true"), example.command("up")] {
        let second = second.fails();
        let text = second.stderr();
        assert!(text.contains("is locked by process"), "{second}");
        assert!(text.contains("`overstore exec`"), "{second}");
    }
    assert_eq!(exec(&world, "true").run().code(), Some(125));
    assert!(example.mounts("TARGET").is_empty());
    world.write("/tmp/end", "");
    assert_eq!(Outcome::of(first).code(), Some(0));
    exec(&world, "rm /tmp/in /tmp/end").ok();

    // Also as long as what a command leaves behind uses the store.
    exec(&world, &format!("({until_end}) >/tmp/log 2>&1 &")).ok();
    wait("/tmp/in");
    let second = exec(&world, "true").fails();
    assert!(second.stderr().contains("is locked by"), "{second}");
    world.write("/tmp/end", "");
    wait_until("the lock is free", || {
        exec(&world, "true").run().code() == Some(0)
    });
}

#[test]
fn a_store_that_is_up_is_used_as_it_is() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let [before] = &example.mounts("ID,OPTIONS")[..] else {
        panic!("one mount")
    };
    let both =
        std::iter::repeat_with(|| exec(&world, "nix path-info --all | wc -l; sleep 0.3").spawn());
    for outcome in both
        .take(2)
        .collect::<Vec<_>>()
        .into_iter()
        .map(Outcome::of)
    {
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
    assert_eq!(&example.mounts("ID,OPTIONS")[0], before);
    example.command("down").ok();
}

#[test]
fn alice_builds_and_collects_garbage_in_a_store_of_her_own() {
    for world in World::each() {
        of_alice(&world, "/mnt/lower?read-only=true");
        let before = crate::support::Snapshot::of(world.path("/mnt/lower"));
        let outside = mounts(&world);
        let shell = world.ok(["sh", "-c", "ls -d /mnt/lower/nix/store/*-mksh-static"]);
        let shell = shell.trim().trim_start_matches("/mnt/lower");
        world.write("/tmp/built.nix", EXPRESSION.replace("@shell@", shell));
        let script = "set -e
            id -u; grep -c userxattr /proc/self/mounts
            nix-store --add /etc/passwd
            nix-build --no-out-link /tmp/built.nix
            cat $OVERSTORE_REAL/*-built
            nix-store --gc
            ls $OVERSTORE_UPPER_LAYER";
        let inside = exec(&world, script).by_alice().current_dir("/tmp").run();
        assert_eq!(inside.code(), Some(0), "{inside}");
        let text = inside.stdout();
        assert!(text.starts_with("1000\n1\n"), "{inside}");
        assert!(
            text.contains("-passwd\n") && text.contains("-built\n"),
            "{inside}"
        );
        assert!(text.contains("\nsomething\n"), "{inside}");
        assert!(text.contains("store paths deleted"), "{inside}");
        assert!(!text.ends_with("-built\n"), "{inside}");
        assert!(
            world
                .list("/mnt/alice/store-b")
                .iter()
                .all(|name| name == ".links")
        );

        assert_eq!(mounts(&world), outside);
        assert_eq!(world.list("/mnt/alice/merged-store/nix/store").len(), 0);
        // Nix's collector reads the lower database and the access time is the only trace of it.
        before.assert_unchanged(world.path("/mnt/lower"));
        let kept =
            "nix-store --add /etc/group >/dev/null; nix-store --verify --check-contents; exit 9";
        let again = exec(&world, kept).by_alice().run();
        assert_eq!(again.code(), Some(9), "{again}");
    }
}

#[test]
fn alice_needs_a_lower_store_that_nix_does_not_write_to() {
    let Some(world) = World::trixie() else { return };
    of_alice(&world, "/mnt/lower");
    let refused = exec(&world, "true").by_alice().fails();
    assert_eq!(refused.code(), Some(2), "{refused}");
    let text = refused.stderr();
    assert!(
        text.contains("belongs to user 0") && text.contains("read-only = true"),
        "{text}"
    );
    assert_eq!(world.list("/mnt/alice").len(), 0);
}

#[test]
fn who_may_not_make_user_namespaces_is_told_what_forbids_it() {
    let Some(world) = World::trixie() else { return };
    of_alice(&world, "/mnt/lower?read-only=true");

    // The limit of a user namespace of the test's own.
    let limited = exec(&world, "true")
        .under([
            "unshare", "--user", "--map-root-user", "sh", "-c",
            "echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"",
            "sh",
        ])
        .fails();
    assert_eq!(limited.code(), Some(125), "{limited}");
    let text = limited.stderr();
    assert!(text.contains("user.max_user_namespaces is 0"), "{text}");
    assert!(text.contains("sysctl user.max_user_namespaces"), "{text}");

    // In a chroot(2) the kernel allows none.
    world.mkdir("/mnt/jail");
    world.ok(["mount", "--rbind", "/", "/mnt/jail"]);
    let jailed = exec(&world, "true")
        .under(["chroot", "--userspec=alice", "/mnt/jail"])
        .fails();
    assert_eq!(jailed.code(), Some(125), "{jailed}");
    assert!(jailed.stderr().contains("chroot"), "{jailed}");
}
