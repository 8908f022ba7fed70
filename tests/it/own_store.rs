//! Stores of an ordinary user's own, at `/nix/store`, over the system's own store or another one.

use crate::support::{Daemon, Outcome, Run, World, wait_until};

const SYSTEM_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// A program with its interpreter in the store below, added and then run by its path; and what is
/// built by it.
const SCRIPT: &str = r#"set -e
    printf '#!@shell@/bin/mksh\nprint it runs\n' >program; chmod +x program
    program=$(nix-store --add program); echo $program; $program
    nix-build --no-out-link -E 'derivation {
        name = "built";
        system = "x86_64-linux";
        builder = builtins.storePath "@shell@" + "/bin/mksh";
        args = [ "-c" "print something >$out" ];
    }'; pwd"#;

/// The store that everybody on the machine has, with its daemon, and a shell in it.
pub fn with_system_store(world: &World) -> (Daemon, String) {
    let lower = world.lower_store("/mnt/lower");
    let shell = lower.path("mksh-static");
    world.mkdir("/nix/var/nix/daemon-socket");
    world
        .nix([
            "nix",
            "copy",
            "--no-check-sigs",
            "--from",
            "/mnt/lower?read-only=true",
            "--to",
            "local",
            &shell,
        ])
        .ok();
    (world.nix_daemon("local", SYSTEM_SOCKET), shell)
}

/// `overstore exec mine -- sh -c SCRIPT` by alice, who has described nothing but that she has it.
fn exec<'w>(world: &'w World, script: &str) -> Run<'w> {
    alice(world, ["exec", "mine", "--", "sh", "-c", script])
}

fn alice<'w, const N: usize>(world: &'w World, words: [&str; N]) -> Run<'w> {
    let run = world.overstore(words).by_alice();
    run.env("XDG_STATE_HOME", "/mnt/alice")
        .current_dir("/home/alice")
}

fn describe(world: &World, text: &str) {
    world.mkdir("/home/alice/.config/overstore");
    world.write("/home/alice/.config/overstore/mine.toml", text);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "-R", "alice:", "/home/alice", "/mnt/alice"]);
}

#[test]
fn an_empty_description_is_a_store_over_the_systems_own() {
    for world in World::each() {
        let (_daemon, shell) = with_system_store(&world);
        describe(&world, "");
        // An empty directory could be where something is not mounted that has roots.
        world.write("/tmp/file", "");
        let before = world.ok(["cat", "/proc/self/mounts"]);
        let inside = exec(&world, &SCRIPT.replace("@shell@", &shell)).run();
        assert_eq!(inside.code(), Some(0), "{inside}");
        let text = inside.stdout();
        assert!(text.starts_with("/nix/store/"), "{inside}");
        assert!(text.contains("-program\nit runs\n/nix/store/"), "{inside}");
        assert!(text.ends_with("-built\n/home/alice\n"), "{inside}");
        assert!(!inside.stderr().contains("ignoring"), "{inside}");
        assert_eq!(world.ok(["cat", "/proc/self/mounts"]), before);
        let own = world.list("/mnt/alice/overstore/mine/upper");
        assert!(
            own.iter()
                .any(|name| name.to_string_lossy().ends_with("-built"))
        );
        assert!(
            !world
                .list("/nix/store")
                .iter()
                .any(|name| name.to_string_lossy().ends_with("-built"))
        );
        for words in [["check", "mine"], ["status", "mine"], ["gc", "mine"]] {
            let outcome = alice(&world, words).run();
            assert_eq!(outcome.code(), Some(0), "{outcome}");
        }
        let own = world.list("/mnt/alice/overstore/mine/upper");
        assert_eq!(own, [".links"]);
        for words in [["up", "mine"], ["down", "mine"]] {
            let refused = alice(&world, words).fails();
            assert_eq!(refused.code(), Some(2), "{refused}");
            assert!(
                refused.stderr().contains("overstore exec mine"),
                "{refused}"
            );
        }
        // Root has no store of that name, whatever the variables say.
        let root = world
            .overstore(["check", "mine"])
            .env("HOME", "/home/alice")
            .env("XDG_CONFIG_HOME", "/home/alice/.config")
            .fails();
        assert_eq!(root.code(), Some(2), "{root}");
    }
}

#[test]
fn it_needs_no_nix_store_on_the_machine() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/lower");
    describe(&world, "lower-store = \"/mnt/lower?read-only=true\"\n");
    world.ok(["sh", "-c", "umount -R /nix && rm -rf /nix"]);
    let shell = lower.path("mksh-static");
    let inside = exec(&world, &SCRIPT.replace("@shell@", &shell)).run();
    assert_eq!(inside.code(), Some(0), "{inside}");
    let text = inside.stdout();
    assert!(text.contains("-program\nit runs\n/nix/store/"), "{inside}");
    assert!(text.ends_with("-built\n/home/alice\n"), "{inside}");
    let shown = exec(&world, "ls -d /etc/passwd /bin /home/alice").ok();
    assert_eq!(shown, "/bin\n/etc/passwd\n/home/alice\n");
    assert!(!world.path("/nix").exists());
    let second = exec(&world, "ls /nix/store | grep 'built$'").ok();
    assert!(second.ends_with("-built\n"));
}

#[test]
fn other_commands_join_what_is_running() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    let script = "nix-store --add /etc/passwd; touch in; while [ ! -e end ]; do sleep 0.01; done";
    let running = exec(&world, script).spawn();
    wait_until("it runs", || world.path("/home/alice/in").exists());
    for words in [["check", "mine"], ["status", "mine"], ["plan", "mine"]] {
        let outcome = alice(&world, words).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
    // What runs there is seen: a root of its own keeps what it has added.
    let kept = alice(&world, ["gc", "mine"]).run();
    assert_eq!(kept.code(), Some(0), "{kept}");
    world.write("/home/alice/end", "");
    let running = Outcome::of(running);
    assert_eq!(running.code(), Some(0), "{running}");
}

#[test]
fn which_store_is_used_is_not_left_to_settings() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    let store = "nix --extra-experimental-features nix-command config show store";
    let of_variable = exec(&world, store).env("NIX_CONFIG", "store = /elsewhere");
    let of_variable = of_variable.ok();
    assert!(of_variable.starts_with("local-overlay://"), "{of_variable}");
    world.mkdir("/home/alice/.config/nix");
    world.write("/home/alice/.config/nix/nix.conf", "store = /elsewhere\n");
    let of_file = exec(&world, store).ok();
    assert!(of_file.starts_with("local-overlay://"), "{of_file}");
    // The machine's settings are in force too.
    world.write("/home/alice/.config/nix/nix.conf", "");
    world.write("/etc/nix/nix.conf", "cores = 3\n");
    let cores = exec(
        &world,
        "nix --extra-experimental-features nix-command config show cores",
    )
    .ok();
    assert_eq!(cores, "3\n");
}

fn ephemeral<'w>(world: &'w World, options: &[&str], script: &str) -> Run<'w> {
    let run = world.overstore(["exec", "--ephemeral"]).args(options);
    run.args(["--", "sh", "-c", script])
        .by_alice()
        .current_dir("/home/alice")
}

/// The processes that have a name, in the order of their numbers.
fn running_now(world: &World, name: &str) -> Vec<u32> {
    let all = world.list("/proc").into_iter();
    let mut numbers: Vec<u32> = all
        .filter_map(|process| process.to_str()?.parse().ok())
        .filter(|process| {
            let comm = world.path(format!("/proc/{process}/comm"));
            std::fs::read_to_string(comm).is_ok_and(|found| found.trim_end() == name)
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// All that is below a directory.
fn files(world: &World, directory: &str) -> String {
    world.ok(["find", directory, "-not", "-name", ".*"])
}

#[test]
fn an_ephemeral_store_leaves_nothing_behind() {
    for world in World::each() {
        let (_daemon, shell) = with_system_store(&world);
        world.ok(["chown", "-R", "alice:", "/home/alice"]);
        world.mkdir("/mnt/alice");
        world.ok(["chown", "alice:", "/mnt/alice"]);
        let mounts = world.ok(["cat", "/proc/self/mounts"]);
        let store = world.list("/nix/store");
        for options in [&[][..], &["--dir", "/mnt/alice"]] {
            let script = SCRIPT.replace("@shell@", &shell);
            let script = format!("cd $(mktemp -d -p /tmp); {script}; (sleep 1000 &); exit 7");
            let outcome = ephemeral(&world, options, &script).run();
            assert_eq!(outcome.code(), Some(7), "{outcome}");
            let text = outcome.stdout();
            assert!(text.contains("-program\nit runs\n/nix/store/"), "{outcome}");
            assert!(!outcome.stderr().contains("ignoring"), "{outcome}");
            assert_eq!(world.ok(["cat", "/proc/self/mounts"]), mounts);
            assert_eq!(world.list("/nix/store"), store);
            assert_eq!(files(&world, "/home/alice"), "/home/alice\n");
            assert_eq!(files(&world, "/mnt/alice"), "/mnt/alice\n");
            assert_eq!(running_now(&world, "sleep"), [0; 0]);
        }
        // Two know nothing of each other.
        let added = ephemeral(&world, &[], "nix-store --add /etc/passwd").ok();
        let script = format!("nix-store --check-validity {added}");
        assert_eq!(ephemeral(&world, &[], &script).run().code(), Some(1));
    }
}

#[test]
fn an_ephemeral_store_ends_with_what_it_was_made_for() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "-R", "alice:", "/home/alice", "/mnt/alice"]);
    let signal = ephemeral(&world, &[], "kill -USR1 $$").run();
    assert_eq!(signal.signal(), Some(10), "{signal}");
    let none = world.overstore(["exec", "--ephemeral", "--", "no-such-command"]);
    assert_eq!(none.by_alice().fails().code(), Some(127));
    let both = world.overstore(["exec", "--ephemeral", "mine"]).fails();
    assert_eq!(both.code(), Some(2), "{both}");
    for (signal, code) in [("TERM", Some(5)), ("KILL", None)] {
        let script = "trap 'exit 5' TERM; sleep 1000 & touch /tmp/in; wait";
        let running = ephemeral(&world, &["--dir", "/mnt/alice"], script).spawn();
        wait_until("it runs", || world.path("/tmp/in").exists());
        // The first of them is the one that was started.
        let processes = running_now(&world, "overstore");
        world.ok(["bash", "-c", &format!("kill -{signal} {}", processes[0])]);
        let ended = Outcome::of(running);
        assert_eq!(ended.code(), code, "{ended}");
        wait_until("all has ended", || running_now(&world, "sleep").is_empty());
        world.ok(["rm", "/tmp/in"]);
    }
    // What was left by the one that was killed is removed by the next.
    assert_ne!(files(&world, "/mnt/alice"), "/mnt/alice\n");
    ephemeral(&world, &["--dir", "/mnt/alice"], "true").ok();
    assert_eq!(files(&world, "/mnt/alice"), "/mnt/alice\n");
}

#[test]
fn many_ephemeral_stores_at_once() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "-R", "alice:", "/home/alice", "/mnt/alice"]);
    let script = "nix-store --add /etc/passwd";
    let all = (0..20).map(|number| {
        let options: &[&str] = if number % 2 == 0 {
            &[]
        } else {
            &["--dir", "/mnt/alice"]
        };
        ephemeral(&world, options, script).spawn()
    });
    let all: Vec<_> = all.collect();
    for outcome in all.into_iter().map(Outcome::of) {
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
    assert_eq!(files(&world, "/mnt/alice"), "/mnt/alice\n");
}

#[test]
fn the_store_below_is_not_removed_with_an_ephemeral_one() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    let before = world.list("/nix/store");
    // As root, who could.
    let root = world.overstore(["exec", "--ephemeral", "--dir", "/mnt/root", "--"]);
    let script = "nix-store --add /etc/passwd; touch /tmp/in; sleep 1000";
    let killed = root.clone().args(["sh", "-c", script]).spawn();
    wait_until("it runs", || world.path("/tmp/in").exists());
    let processes = running_now(&world, "overstore");
    world.ok(["bash", "-c", &format!("kill -KILL {}", processes[0])]);
    assert_ne!(Outcome::of(killed).code(), Some(0));
    wait_until("all has ended", || running_now(&world, "sleep").is_empty());
    let next = root.args(["nix-store", "--add", "/etc/passwd"]).run();
    assert_eq!(next.code(), Some(0), "{next}");
    assert_eq!(world.list("/nix/store"), before);
    assert_eq!(files(&world, "/mnt/root"), "/mnt/root\n");
}
