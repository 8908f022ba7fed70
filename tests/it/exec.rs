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

    world.ok(["mv", Example::LOWER, "/mnt/example/elsewhere"]);
    let refused = fails(&["exec", "example", "--", "true"]);
    assert_eq!(refused.code(), Some(125), "{refused}");
    assert!(refused.stderr().contains("lower-missing"), "{refused}");
    assert!(
        refused.stderr().contains("correct `lower-store`"),
        "{refused}"
    );

    // Advice names what was typed.
    let lower = ["--lower", "/mnt/nowhere", "--", "true"];
    let refused = fails(&[&["exec", "--ephemeral"][..], &lower].concat());
    assert_eq!(refused.code(), Some(125), "{refused}");
    assert!(refused.stderr().contains("correct `--lower`"), "{refused}");
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

/// Runs until `/tmp/end` is there.
const UNTIL_END: &str = "touch /tmp/in; while [ ! -e /tmp/end ]; do sleep 0.01; done";

/// What it prints tells the namespaces and the overlay that it runs in.
const WHERE: &str = "{ readlink /proc/self/ns/mnt /proc/self/ns/user
    stat --format %d $OVERSTORE_REAL; pwd; }";

fn wait_for(world: &World, file: &str) {
    wait_until(&format!("{file} appears"), || world.path(file).exists());
}

/// Somebody who has a store called `example`.
struct User<'w> {
    world: &'w World,
    is_alice: bool,
}

impl<'w> User<'w> {
    fn exec(&self, script: &str) -> Run<'w> {
        let run = exec(self.world, script);
        if self.is_alice { run.by_alice() } else { run }
    }
}

/// Root and alice, each with a store of their own.
fn each_user(world: &World, test: impl Fn(&User<'_>)) {
    world.example("");
    let is_alice = false;
    test(&User { world, is_alice });
    world.ok(["sh", "-c", "rm -f /tmp/*"]);
    of_alice(world, "/mnt/lower?read-only=true");
    let is_alice = true;
    test(&User { world, is_alice });
}

fn text(world: &World, file: &str) -> String {
    String::from_utf8(world.read(file)).unwrap()
}

#[test]
fn a_second_exec_joins_the_first() {
    let Some(world) = World::trixie() else { return };
    let before = mounts(&world);
    each_user(&world, |user| {
        let first = format!("{WHERE} >/tmp/first; {UNTIL_END}");
        let first = user.exec(&first).current_dir("/etc").spawn();
        wait_for(&world, "/tmp/in");
        let second = user
            .exec(&format!("{WHERE}; nix-store --add /etc/passwd >&2; exit 3"))
            .current_dir("/etc")
            .run();
        assert_eq!(second.code(), Some(3), "{second}");
        assert_eq!(second.stdout(), text(&world, "/tmp/first"), "{second}");
        assert!(second.stdout().ends_with("/etc\n"), "{second}");
        // In a directory that is of the store, too.
        let inside = user.exec("cd $OVERSTORE_REAL && ls -d *-passwd").ok();
        assert!(inside.ends_with("-passwd\n"), "{inside}");
        let killed = user.exec("kill -TERM $$").run();
        assert_eq!(killed.signal(), Some(15), "{killed}");
        world.write("/tmp/end", "");
        assert_eq!(Outcome::of(first).code(), Some(0));
    });
    assert_eq!(mounts(&world), before);
}

#[test]
fn a_set_up_lasts_as_long_as_anybody_is_in_it() {
    let Some(world) = World::trixie() else { return };
    each_user(&world, |user| {
        // What a command leaves behind, with none of the files that it was given.
        let left = format!(
            "({WHERE} >/tmp/first; exec 3<&- 4<&- 5<&- 6<&-; {UNTIL_END}) >/tmp/log 2>&1 &"
        );
        user.exec(&left).current_dir("/tmp").ok();
        wait_for(&world, "/tmp/in");
        let joins = format!("{WHERE} >/tmp/second; touch /tmp/joined; {UNTIL_END}");
        let second = user.exec(&joins).current_dir("/tmp").spawn();
        wait_for(&world, "/tmp/joined");
        assert_eq!(text(&world, "/tmp/second"), text(&world, "/tmp/first"));
        if !user.is_alice {
            let up = world.overstore(["up", "example"]).fails();
            assert!(up.stderr().contains("is locked by"), "{up}");
        }
        world.write("/tmp/end", "");
        assert_eq!(Outcome::of(second).code(), Some(0));
        world.ok(["rm", "/tmp/joined"]);
        // The next one is alone again, once those have ended.
        wait_until("another is set up", || {
            user.exec(WHERE).current_dir("/tmp").ok() != text(&world, "/tmp/first")
        });
    });
}

#[test]
fn of_those_that_start_at_once_one_sets_up() {
    let Some(world) = World::trixie() else { return };
    each_user(&world, |user| {
        let all = std::iter::repeat_with(|| {
            user.exec("readlink /proc/self/ns/mnt; while [ ! -e /tmp/end ]; do sleep 0.01; done")
                .spawn()
        });
        let all: Vec<_> = all.take(20).collect();
        world.write("/tmp/end", "");
        for outcome in all.into_iter().map(Outcome::of) {
            assert_eq!(outcome.code(), Some(0), "{outcome}");
        }
    });
}

#[test]
fn nobody_else_is_joined() {
    let Some(world) = World::trixie() else { return };
    // Alice shows root a set-up of root's store, in namespaces that are hers.
    world.example("");
    let trap = "mount -t tmpfs none /mnt/example; cd /mnt/example
        mkdir -p store-a/nix/store store-b workdir merged-store/nix/store
        mount -t overlay overlay -o userxattr,lowerdir=/mnt/example/store-a/nix/store \\
            -o upperdir=/mnt/example/store-b,workdir=/mnt/example/workdir \\
            /mnt/example/merged-store/nix/store
        OVERSTORE_STORE=example exec sh -c 'touch /tmp/in; while [ ! -e /tmp/end ]; do sleep 0.01; done'";
    let alice = world
        .command(["unshare", "-Urm", "sh", "-e", "-c", trap])
        .by_alice()
        .spawn();
    wait_for(&world, "/tmp/in");
    let ours = exec(&world, "readlink /proc/self/ns/user").ok();
    assert_eq!(ours, world.ok(["readlink", "/proc/self/ns/user"]));
    world.write("/tmp/end", "");
    let alice = Outcome::of(alice);
    assert_eq!(alice.code(), Some(0), "{alice}");
}

#[test]
fn without_a_command_it_is_a_shell() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    let shell = world
        .overstore(["exec", "example"])
        .env("SHELL", "/bin/bash")
        .stdin("echo $OVERSTORE_STORE $BASH; exit 4\n")
        .run();
    assert_eq!(shell.code(), Some(4), "{shell}");
    assert_eq!(shell.stdout(), "example /bin/bash\n");
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
        text.contains("belongs to root") && text.contains("read-only = true"),
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
