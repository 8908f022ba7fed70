//! Stores of an ordinary user's own, at `/nix/store`, over the system's own store or another one.

use crate::support::{Daemon, Outcome, Run, World, sample, wait_until};

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

pub fn alice<'w, const N: usize>(world: &'w World, words: [&str; N]) -> Run<'w> {
    let run = world.overstore(words).by_alice();
    run.env("XDG_STATE_HOME", "/mnt/alice")
        .current_dir("/home/alice")
}

pub fn describe(world: &World, text: &str) {
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
        // What is of no use later is in memory where the user has such a place; otherwise it is here.
        world.ok(["rm", "-r", "/mnt/alice/overstore/mine/conf"]);
        world.ok(["install", "-d", "-o", "alice", "-m", "700", "/run/alice"]);
        let told = exec(&world, "echo $NIX_CONF_DIR").env("XDG_RUNTIME_DIR", "/run/alice");
        assert_eq!(told.ok(), "/run/alice/overstore/mine\n");
        assert!(!world.path("/mnt/alice/overstore/mine/conf").exists());
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
    // Also in the store that one is in already.
    let show = "nix --extra-experimental-features nix-command config show cores";
    let again = format!("overstore exec mine -- {show}; {show}");
    assert_eq!(exec(&world, &again).ok(), "3\n3\n");
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
    let mounts = world.ok(["cat", "/proc/self/mounts"]);
    let all = (0..50).map(|number| {
        let options: &[&str] = match number % 2 {
            0 => &[],
            _ => &["--dir", "/mnt/alice"],
        };
        // Nix takes most of the time.
        let script = match number % 5 {
            0 => "nix-store --add /etc/passwd",
            _ => "test -d $OVERSTORE_UPPER_LAYER",
        };
        ephemeral(&world, options, script).spawn()
    });
    let all: Vec<_> = all.collect();
    for outcome in all.into_iter().map(Outcome::of) {
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
    assert_eq!(world.ok(["cat", "/proc/self/mounts"]), mounts);
    assert_eq!(files(&world, "/mnt/alice"), "/mnt/alice\n");
    assert_eq!(files(&world, "/home/alice"), "/home/alice\n");
    assert_eq!(running_now(&world, "overstore"), [0; 0]);
}

/// `make soak`: a hundred at once, each of which adds a file. Beside that, and what its processes
/// take, none takes 2 MiB.
#[test]
#[ignore = "takes minutes: make soak"]
fn soak_a_hundred_ephemeral_stores_at_once() {
    for world in World::each() {
        let (_daemon, _) = with_system_store(&world);
        world.ok(["chown", "-R", "alice:", "/home/alice"]);
        let script = "nix-store --add /etc/passwd >/dev/null
            du -skx --exclude=upper ${OVERSTORE_STATE%/state}";
        let all = std::iter::repeat_with(|| ephemeral(&world, &[], script).spawn());
        let all: Vec<_> = all.take(100).collect();
        for outcome in all.into_iter().map(Outcome::of) {
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            let size = outcome.stdout();
            let size: u32 = size.split_whitespace().next().unwrap().parse().unwrap();
            assert!(size < 2048, "{size} KiB");
        }
        assert_eq!(running_now(&world, "overstore"), [0; 0]);
    }
}

/// Whichever process of it is killed, at whichever step: the others end, and the next one finds and
/// leaves nothing.
#[test]
pub(crate) fn an_ephemeral_store_that_is_killed_is_gone() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "-R", "alice:", "/home/alice", "/mnt/alice"]);
    let mounts = world.ok(["cat", "/proc/self/mounts"]);
    let options = ["--dir", "/mnt/alice"];
    let is_gone = || {
        let ended = || {
            ["overstore", "mksh", "sleep"]
                .iter()
                .all(|name| running_now(&world, name).is_empty())
        };
        wait_until("all has ended", ended);
        assert_eq!(world.ok(["cat", "/proc/self/mounts"]), mounts);
        ephemeral(&world, &options, "test -d $OVERSTORE_UPPER_LAYER").ok();
        assert_eq!(files(&world, "/mnt/alice"), "/mnt/alice\n");
    };
    // The one that was started, process 1, and the command, which is replaced by nothing else.
    for (name, number, code) in [
        ("overstore", 0, None),
        ("overstore", 1, Some(125)),
        ("mksh", 0, None),
    ] {
        let script = "mksh -c 'sleep 1000 & touch /tmp/in; wait'";
        let script = format!("exec {script}");
        let running = ephemeral(&world, &options, &script).spawn();
        wait_until("it runs", || world.path("/tmp/in").exists());
        let process = running_now(&world, name)[number].to_string();
        world.ok(["bash", "-c", &format!("kill -KILL {process}")]);
        let ended = Outcome::of(running);
        assert_eq!(ended.code(), code, "{name} {number}: {ended}");
        assert!(code.is_some() || ended.signal() == Some(9), "{ended}");
        world.ok(["rm", "/tmp/in"]);
        is_gone();
    }
    let traced = || {
        let run = world.overstore(["exec", "--ephemeral", "--dir", "/mnt/alice", "--", "true"]);
        run.by_alice().current_dir("/home/alice")
    };
    // In the order in which they are made.
    let points = [
        ("unshare", 1),
        ("move_mount", 1),
        ("move_mount", 20),
        ("mkdirat", 3),
        ("ftruncate", 1),
        ("renameat", 1),
        ("mount", 2),
        ("clone", 1),
        ("mount", 3),
        ("execve", 2),
        ("unlinkat", 3),
    ];
    for (call, nth) in sample(points.to_vec(), 11) {
        let killed = traced().killed_at(call, nth);
        assert!(
            matches!(
                (killed.code(), killed.signal()),
                (None, Some(9)) | (Some(0 | 125), None)
            ),
            "{call} {nth}: {killed}"
        );
        is_gone();
    }
}

/// Where a home directory is in memory, and where nothing can be written to it.
#[test]
fn home_directories_of_other_kinds() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    let mine = |script: &str| {
        let run = world.overstore(["exec", "mine", "--", "sh", "-c", script]);
        run.by_alice().current_dir("/home/alice").run()
    };
    let describe = "mount -t tmpfs -o mode=700,uid=1000,gid=1000 home /home/alice
        mkdir -p /home/alice/.config/overstore; touch /home/alice/.config/overstore/mine.toml
        chown -R alice: /home/alice";
    world.ok(["sh", "-ec", describe]);
    let added = mine("nix-store --add /etc/passwd");
    assert_eq!(added.code(), Some(0), "{added}");
    let kept = mine("cat /nix/store/*-passwd | head -c 4");
    assert_eq!(kept.stdout(), "root", "{kept}");
    world.ok(["rm", "-rf", "/home/alice/.local"]);
    world.ok(["mount", "-o", "remount,ro", "/home/alice"]);
    let told = mine("true");
    assert_eq!(told.code(), Some(125), "{told}");
    assert!(told.stderr().contains("Read-only file system"), "{told}");
    assert!(told.stderr().contains("remedy: "), "{told}");
    // Memory does not care.
    let added = ephemeral(
        &world,
        &[],
        "cat $(nix-store --add /etc/passwd) | head -c 4",
    )
    .ok();
    assert_eq!(added, "root");
    // What is left to do.
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    let elsewhere = exec(&world, "nix-store --add /etc/passwd").run();
    assert_eq!(elsewhere.code(), Some(0), "{elsewhere}");
}

/// A machine whose store directory is a mount of its own, as on NixOS.
#[test]
fn the_systems_store_directory_may_be_a_mount() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, shell) = with_system_store(&world);
    describe(&world, "");
    world.ok(["mount", "--bind", "/nix/store", "/nix/store"]);
    world.ok(["mount", "-o", "remount,bind,ro", "/nix/store"]);
    let script = SCRIPT.replace("@shell@", &shell);
    let mounts = "grep -c ' /nix/store ' /proc/self/mounts; ls /nix/var/nix/daemon-socket";
    for inside in [
        exec(&world, &script).run(),
        exec(&world, mounts).run(),
        ephemeral(&world, &[], &script).run(),
        ephemeral(&world, &[], mounts).run(),
    ] {
        assert_eq!(inside.code(), Some(0), "{inside}");
        let text = inside.stdout();
        let runs = text.contains("-program\nit runs\n/nix/store/");
        assert!(runs || text.starts_with("1\nsocket\n"), "{inside}");
    }
    let checked = alice(&world, ["check", "mine"]).run();
    assert_eq!(checked.code(), Some(0), "{checked}");
}

/// Nobody reaches another user's store: not its processes' namespaces, not its files.
#[test]
fn nobody_reaches_another_users_store() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    let script = "nix-store --add /etc/passwd; echo $$ >in.new; mv in.new in
        while [ ! -e end ]; do sleep 0.01; done";
    let running = exec(&world, script).spawn();
    wait_until("it runs", || world.path("/home/alice/in").exists());
    let process = String::from_utf8(world.read("/home/alice/in")).unwrap();
    let process = process.trim();
    let by_bob = |words: &[&str]| {
        world
            .command([
                "setpriv",
                "--reuid=41017",
                "--regid=41017",
                "--clear-groups",
            ])
            .args(words)
            .run()
    };
    for script in [
        format!("nsenter --target={process} --user --mount --preserve-credentials true"),
        format!("ls /proc/{process}/root/nix/store"),
        "ls /mnt/alice/overstore/mine/upper".to_owned(),
        "ls /mnt/alice/overstore/mine/state".to_owned(),
        "touch /mnt/alice/overstore/mine/upper/file".to_owned(),
        "XDG_STATE_HOME=/mnt/alice overstore exec /home/alice/.config/overstore/mine.toml -- true"
            .to_owned(),
    ] {
        let refused = by_bob(&["sh", "-c", &script]);
        assert_ne!(refused.code(), Some(0), "{script}: {refused}");
    }
    world.write("/home/alice/end", "");
    assert_eq!(Outcome::of(running).code(), Some(0));
}

/// The command has the terminal, the environment, the working directory and the signals that it would
/// have without.
#[test]
fn a_command_is_as_it_is_without() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    for words in ["mine", "--ephemeral"] {
        let by_script = |script: &str| {
            let run = world.command(["bash", "-c", script]).by_alice();
            run.env("XDG_STATE_HOME", "/mnt/alice")
                .env("OWN", "kept as it is")
                .current_dir("/etc")
                .run()
        };
        let told = by_script(&format!(
            "script -qec \"overstore exec {words} -- sh -c 'test -t 0 && test -t 1 && tty; pwd; \
             printenv OWN'\" /dev/null"
        ));
        let text = told.stdout().replace('\r', "");
        assert!(text.starts_with("/dev/pts/"), "{told}");
        assert!(text.ends_with("\n/etc\nkept as it is\n"), "{told}");
        // The keys of a terminal reach the whole process group; nohup's wish is kept.
        let told = by_script(&format!(
            "set -m; overstore exec {words} -- sh -c \
             'trap \"exit 6\" INT; touch /tmp/in; while :; do sleep 0.01; done' &
             while [ ! -e /tmp/in ]; do sleep 0.01; done; rm /tmp/in; kill -INT -- -$!; wait $!"
        ));
        assert_eq!(told.code(), Some(6), "{told}");
        let hangs_up = "'kill -HUP $$; echo lives'";
        let told = by_script(&format!("nohup overstore exec {words} -- sh -c {hangs_up}"));
        assert!(told.stdout().ends_with("lives\n"), "{told}");
        let told = by_script(&format!("overstore exec {words} -- sh -c {hangs_up}"));
        assert_eq!(told.signal(), Some(1), "{told}");
        // To overstore alone.
        let told = by_script(&format!(
            "overstore exec {words} -- sh -c \
             'trap \"exit 7\" HUP; touch /tmp/in; while :; do sleep 0.01; done' &
             while [ ! -e /tmp/in ]; do sleep 0.01; done; rm /tmp/in; kill -HUP $!; wait $!"
        ));
        assert_eq!(told.code(), Some(7), "{told}");
        let shell = world.overstore(["exec", words]).by_alice();
        let shell = shell
            .env("XDG_STATE_HOME", "/mnt/alice")
            .env("SHELL", "/bin/bash")
            .stdin("echo $OVERSTORE_STORE $BASH; exit 4\n")
            .run();
        assert_eq!(shell.code(), Some(4), "{shell}");
        let name = words.trim_start_matches('-');
        assert_eq!(shell.stdout(), format!("{name} /bin/bash\n"));
    }
}

/// What Nix remembers of what it has fetched is of this store, and ends with it.
#[test]
fn nixs_caches_are_inside() {
    for world in World::each() {
        let (_daemon, _) = with_system_store(&world);
        world.ok(["chown", "-R", "alice:", "/home/alice"]);
        let fetch = "nix-instantiate --eval -E \
            'builtins.readFile (builtins.fetchurl \"file:///etc/hostname\")' >&2; ls $NIX_CACHE_HOME";
        world.write("/etc/hostname", "here\n");
        let told = ephemeral(&world, &[], fetch).run();
        assert_eq!(told.code(), Some(0), "{told}");
        assert!(told.stdout().contains("fetcher-cache"), "{told}");
        assert!(!world.path("/home/alice/.cache").exists());
    }
}

/// As on a machine where Nix was just installed.
#[test]
fn a_store_that_its_daemon_has_not_made_yet() {
    for world in World::each() {
        world.mkdir("/nix/var/nix/daemon-socket");
        let daemon = world.nix_daemon("local", SYSTEM_SOCKET);
        world.ok(["rm", "-rf", "/nix/store"]);
        let said = ephemeral(&world, &[], "cat $(nix-store --add /etc/hostname)").ok();
        assert_eq!(said, world.ok(["cat", "/etc/hostname"]));
        assert_eq!(world.list("/nix/store"), [".links"]);
        drop(daemon);
        world.ok(["rm", "-rf", "/nix/store"]);
        let told = ephemeral(&world, &[], "true").run();
        assert_eq!(told.code(), Some(125), "{told}");
        assert!(told.stderr().contains("nix-store --init"), "{told}");
    }
}

/// A daemon that does not let this user in.
#[test]
fn a_daemon_that_refuses_is_told_before() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/lower");
    world.mkdir("/nix/var/nix/daemon-socket");
    let conf = String::from_utf8(world.read("/etc/nix/nix.conf")).unwrap();
    world.write("/etc/nix/nix.conf", format!("{conf}allowed-users = root\n"));
    let daemon = world.nix_daemon("local", SYSTEM_SOCKET);
    describe(&world, "");
    let told = exec(&world, "true").run();
    assert_eq!(told.code(), Some(125), "{told}");
    let text = told.stderr();
    assert!(text.contains("[lower-daemon-silent]"), "{told}");
    assert!(text.contains("allowed-users"), "{told}");
    let told = ephemeral(&world, &[], "true").run();
    assert_eq!(told.code(), Some(125), "{told}");
    drop(daemon);
    let told = ephemeral(&world, &[], "true").run();
    assert_eq!(told.code(), Some(125), "{told}");
    assert!(
        told.stderr().contains("systemctl start nix-daemon"),
        "{told}"
    );
    // Somebody writes to what is described as read-only.
    let database = format!("{}/nix/var/nix/db/db.sqlite", lower.root);
    let write = [
        "pragma journal_mode = wal; create table more (a); insert into more values (1);",
        ".shell touch /tmp/in",
        ".shell while [ ! -e /tmp/end ]; do sleep 0.01; done",
    ]
    .join("\n");
    let writing = world.command(["sqlite3", &database]).stdin(write).spawn();
    wait_until("it is written to", || world.path("/tmp/in").exists());
    let read_only = ["--lower", "/mnt/lower?read-only=true"];
    let told = ephemeral(&world, &read_only, "true").run();
    assert_eq!(told.code(), Some(125), "{told}");
    assert!(told.stderr().contains("[lower-wal-pending]"), "{told}");
    world.write("/tmp/end", "");
    assert_eq!(Outcome::of(writing).code(), Some(0));
    let told = ephemeral(&world, &read_only, "true").run();
    assert_eq!(told.code(), Some(0), "{told}");
    // Its owner has a name.
    let told = ephemeral(&world, &["--lower", "/mnt/lower"], "true").run();
    assert_eq!(told.code(), Some(2), "{told}");
    let words = "belongs to root, and Nix, run by alice, would open it for writing";
    assert!(told.stderr().contains(words), "{told}");
}

/// Whatever looks at such a store, or works on it, does so from outside and without root.
#[test]
fn every_command_works_from_outside() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/lower");
    describe(&world, "lower-store = \"/mnt/lower?read-only=true\"\n");
    let added = exec(&world, "nix-store --add /etc/passwd").ok();
    let hello = lower.path("hello-1.0");
    for words in [
        &["check", "mine"][..],
        &["check", "--contents", "--lower", "--nix", "mine"],
        &["status", "mine"],
        &["status", "--sizes", "mine"],
        &["plan", "mine"],
        &["url", "mine"],
        &["list"],
        &["warm", "mine", &hello],
        &["refresh", "mine"],
        &["optimise", "mine"],
        &["reconcile", "--dry-run", "mine"],
        &["reconcile", "mine"],
        &["gc", "--why", added.trim(), "mine"],
        &["gc", "--dry-run", "mine"],
        &["gc", "mine"],
    ] {
        let run = world.overstore(words).by_alice();
        let outcome = run
            .env("XDG_STATE_HOME", "/mnt/alice")
            .current_dir("/home/alice")
            .run();
        assert_eq!(outcome.code(), Some(0), "{words:?}: {outcome}");
    }
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
