//! What keeps an ordinary user from a store of one's own is told before anything is made: which limit,
//! filter or sandbox it is, and what is left to do.

use nix::libc;

use crate::own_store::with_system_store;
use crate::support::{Outcome, Run, World, wait_until};

/// What a filter does.
#[derive(Clone, Copy, Debug)]
enum Then {
    Fails(i32),
    Kills,
}

/// One of these flags, in the argument of this number.
#[derive(Clone, Copy)]
struct With(u32, u64);

/// What setpriv(1) takes as a filter of system calls (seccomp(2)): one call, with these flags if there
/// are any.
fn filter(call: libc::c_long, flags: Option<With>, then: Then) -> Vec<u8> {
    // linux/bpf_common.h, linux/seccomp.h.
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ARGUMENTS: u32 = 16;
    let action = match then {
        Then::Fails(errno) => 0x0005_0000 | errno as u32,
        Then::Kills => 0x8000_0000,
    };
    let mut steps = vec![(LOAD, 0, 0, 0)];
    match flags {
        None => steps.push((JUMP_IF_EQUAL, 0, 1, call as u32)),
        Some(With(argument, flags)) => steps.extend([
            (JUMP_IF_EQUAL, 0, 3, call as u32),
            (LOAD, 0, 0, ARGUMENTS + 8 * argument),
            (JUMP_IF_SET, 0, 1, flags as u32),
        ]),
    }
    steps.extend([(RETURN, 0, 0, action), (RETURN, 0, 0, 0x7fff_0000)]);
    let bytes = |(code, yes, no, value): (u16, u8, u8, u32)| {
        let [low, high] = code.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        [low, high, yes, no, a, b, c, d]
    };
    steps.into_iter().flat_map(bytes).collect()
}

/// Alice, a lower store, and her description of a store over it: all in one file system of hers, so
/// that anything that is made shows.
fn world() -> Option<World> {
    let world = World::trixie()?;
    world.lower_store("/mnt/lower");
    world.write(
        "/home/alice/.config/overstore/mine.toml",
        "lower-store = \"/mnt/lower?read-only=true\"\n",
    );
    world.ok(["chown", "-R", "alice:", "/home/alice"]);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    Some(world)
}

fn by_alice<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    let run = world.overstore(["exec"]).args(words).by_alice();
    run.env("XDG_STATE_HOME", "/mnt/alice")
        .env("XDG_CACHE_HOME", "/mnt/alice")
        .current_dir("/home/alice")
}

fn mine<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    by_alice(world, &["mine", "--"]).args(words)
}

fn ephemeral<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    let lower = "/mnt/lower?read-only=true";
    by_alice(world, &["--ephemeral", "--lower", lower, "--"]).args(words)
}

/// Both ways to have one.
fn both<'w>(world: &'w World) -> [Run<'w>; 2] {
    [mine(world, &["true"]), ephemeral(world, &["true"])]
}

/// It ends with overstore's own exit code, these words, and nothing made.
#[track_caller]
fn says(world: &World, outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code(), Some(125), "{outcome}");
    for word in words {
        assert!(outcome.stderr().contains(word), "no `{word}`: {outcome}");
    }
    assert!(outcome.stderr().contains("\nremedy: "), "{outcome}");
    let made = world.list("/mnt/alice");
    assert_eq!(made.len(), 0, "{made:?}");
}

#[test]
fn a_filter_of_system_calls_is_named() {
    let Some(world) = world() else { return };
    let under = [
        "setpriv",
        "--no-new-privs",
        "--seccomp-filter",
        "/tmp/filter",
    ];
    for (call, then) in [
        (libc::SYS_unshare, Then::Fails(libc::EPERM)),
        (libc::SYS_unshare, Then::Fails(libc::ENOSYS)),
        (libc::SYS_unshare, Then::Kills),
        (libc::SYS_mount, Then::Fails(libc::EPERM)),
        (libc::SYS_mount, Then::Kills),
        (libc::SYS_chroot, Then::Fails(libc::EPERM)),
        (libc::SYS_chroot, Then::Kills),
    ] {
        world.write("/tmp/filter", filter(call, None, then));
        for run in both(&world) {
            let outcome = run.under(under).run();
            let words = ["(seccomp)", "seccomp=unconfined", "SystemCallFilter="];
            says(&world, &outcome, &words);
        }
    }
    let processes = With(0, libc::CLONE_NEWPID as u64);
    let refused = filter(libc::SYS_clone, Some(processes), Then::Fails(libc::EPERM));
    world.write("/tmp/filter", refused);
    let outcome = ephemeral(&world, &["true"]).under(under).run();
    says(&world, &outcome, &["PID namespace", "(seccomp)"]);
    // One without is to be had all the same, and then another process may not join it.
    let script = "touch /tmp/in; while [ ! -e /tmp/end ]; do sleep 0.01; done";
    let running = mine(&world, &["sh", "-c", script]).under(under).spawn();
    wait_until("it runs", || world.path("/tmp/in").exists());
    let joining = filter(libc::SYS_setns, None, Then::Fails(libc::EPERM));
    world.write("/tmp/joining", joining);
    let mut under = under;
    under[3] = "/tmp/joining";
    let outcome = mine(&world, &["true"]).under(under).run();
    assert_eq!(outcome.code(), Some(125), "{outcome}");
    let told = outcome.stderr();
    assert!(told.contains("cannot join the set-up of process"), "{told}");
    assert!(told.contains("SystemCallFilter="), "{told}");
    world.write("/tmp/end", "");
    assert_eq!(Outcome::of(running).code(), Some(0));
}

/// Namespaces that a sandbox allows no more of.
#[test]
fn limits_of_namespaces_are_named() {
    let Some(world) = world() else { return };
    for (name, of_both) in [
        ("max_user_namespaces", true),
        ("max_mnt_namespaces", true),
        ("max_pid_namespaces", false),
    ] {
        let limited = format!("echo 0 >/proc/sys/user/{name}; exec \"$@\"");
        // As in a container: a user namespace of the test's own, in which nobody has capabilities.
        let drop = "exec setpriv --bounding-set=-all --ambient-caps=-all --inh-caps=-all \"$@\"";
        let script = limited.replace("exec \"$@\"", drop);
        let under = [
            "unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            "--keep-caps",
        ];
        let under = under.into_iter().chain(["sh", "-c", &script, "sh"]);
        let [mine, ephemeral] = both(&world);
        let words = [
            format!("user.{name} is 0"),
            format!("sysctl user.{name}=15000"),
        ];
        let words = words.each_ref().map(String::as_str);
        if of_both {
            says(&world, &ephemeral.under(under.clone()).run(), &words);
            says(&world, &mine.under(under).run(), &words);
        } else {
            // It is made in a user namespace of its own already.
            let words = [
                "PID namespace",
                "around this process",
                "a larger user.max_pid_namespaces",
            ];
            says(&world, &ephemeral.under(under).run(), &words);
        }
    }
    // One around that: in here the setting is as if there were none.
    let script = "echo 1 >/proc/sys/user/max_user_namespaces
        exec unshare --user --map-user=1000 --map-group=1000 \"$@\"";
    let under = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
    ];
    for run in both(&world) {
        let outcome = run.under(under).run();
        says(
            &world,
            &outcome,
            &["around this process", "--disable-userns"],
        );
    }
}

/// Switches that this kernel lacks: their files are made, and so is what Debian's and Ubuntu's kernels
/// do, by filters that refuse what those refuse.
#[test]
fn a_switch_of_a_distribution_is_named() {
    let Some(world) = world() else { return };
    world.ok(["mount", "-t", "tmpfs", "none", "/proc/sys/kernel"]);
    let filtered = [
        "setpriv",
        "--no-new-privs",
        "--seccomp-filter",
        "/tmp/filter",
    ];
    for (name, off, call, flags) in [
        (
            "unprivileged_userns_clone",
            "0",
            libc::SYS_unshare,
            With(0, libc::CLONE_NEWUSER as u64),
        ),
        (
            "apparmor_restrict_unprivileged_userns",
            "1",
            libc::SYS_mount,
            With(3, libc::MS_PRIVATE),
        ),
    ] {
        let file = format!("/proc/sys/kernel/{name}");
        world.write(&file, off);
        let then = Then::Fails(libc::EACCES);
        world.write("/tmp/filter", filter(call, Some(flags), then));
        for run in both(&world) {
            let outcome = run.under(filtered).run();
            says(&world, &outcome, &[&format!("kernel.{name} is {off}")]);
        }
        world.ok(["rm", &file]);
    }
}

/// Of a user that nobody has mapped nothing can be mapped further.
#[test]
fn a_user_without_a_number_is_told() {
    let Some(world) = world() else { return };
    for run in both(&world) {
        let outcome = run.under(["unshare", "--user"]).run();
        says(&world, &outcome, &["has no number in the user namespace"]);
    }
}

/// Limits of ulimit(1): whatever they are, it works or is told, and leaves nothing.
#[test]
fn limits_of_a_process_are_told() {
    let Some(world) = world() else { return };
    for (limit, words) in [
        ("--as=50000000", &["`ulimit -v`", "ulimit -v 65536"][..]),
        ("--fsize=1000000", &["`ulimit -f`", "ulimit -f 16384"]),
    ] {
        for run in both(&world) {
            says(&world, &run.under(["prlimit", limit]).run(), words);
        }
    }
    for run in both(&world) {
        let few = run.under(["prlimit", "--nofile=50"]).run();
        assert_eq!(few.code(), Some(3), "{few}");
        assert!(few.stderr().contains("ulimit -n"), "{few}");
    }
    // Processes are counted for each user on the whole machine: this one is nobody else's.
    let user = (1_000_000 + std::process::id()).to_string();
    world.ok(["chown", &user, "/mnt/alice"]);
    let of_another = |limit: u32| {
        let limit = format!("--nproc={limit}");
        let lower = "/mnt/lower?read-only=true";
        let run = world.overstore(["exec", "--ephemeral", "--lower", lower, "--", "true"]);
        let as_user = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
        ];
        run.under(["prlimit", &limit].into_iter().chain(as_user))
            .env("HOME", "/mnt/alice")
    };
    let mut refused = 0;
    for limit in 0..6 {
        let outcome = of_another(limit).run();
        if outcome.code() == Some(0) {
            continue;
        }
        refused += 1;
        let told = outcome.stderr();
        if told.starts_with("setpriv: ") {
            // What ran before has not quite ended: it was never started.
            continue;
        }
        assert!(matches!(outcome.code(), Some(125 | 126)), "{outcome}");
        assert!(told.contains("ulimit -u"), "{limit}: {told}");
    }
    assert!(0 < refused && refused < 6, "{refused}");
    assert_eq!(world.list("/mnt/alice").len(), 0);
}

/// A container without `CAP_SYS_ADMIN`: root in there has no more than a user has.
#[test]
fn root_without_its_capabilities_builds_in_a_store_of_its_own() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower");
        let shell = lower.path("mksh-static");
        let build = format!(
            "nix-build --no-out-link -E 'derivation {{
                name = \"built\"; system = \"x86_64-linux\";
                builder = builtins.storePath \"{shell}\" + \"/bin/mksh\";
                args = [ \"-c\" \"print something >$out\" ]; }}'"
        );
        let lower = "/mnt/lower?read-only=true";
        let built = world
            .overstore(["exec", "--ephemeral", "--lower", lower, "--", "sh", "-c"])
            .args([&build])
            .under([
                "setpriv",
                "--bounding-set=-sys_admin,-setuid,-setgid,-chown",
                "--inh-caps=-all",
            ])
            .run();
        assert_eq!(built.code(), Some(0), "{built}");
        assert!(built.stdout().ends_with("-built\n"), "{built}");
    }
}

/// Which it needs for that, since it is root.
#[test]
fn a_capability_of_root_that_is_missing_is_named() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/lower");
    let lower = "/mnt/lower?read-only=true";
    let told = world
        .overstore(["exec", "--ephemeral", "--lower", lower, "--", "true"])
        .under(["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .run();
    assert_eq!(told.code(), Some(125), "{told}");
    for words in [
        "CAP_SETFCAP",
        "remedy: ",
        "--userns=keep-id",
        "--cap-add=setfcap",
    ] {
        assert!(told.stderr().contains(words), "{words}: {told}");
    }
}

/// One in another: over what everybody has, not over what the outer one has added.
#[test]
fn stores_inside_one_another() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    world.write("/home/alice/.config/overstore/mine.toml", "");
    world.ok(["chown", "-R", "alice:", "/home/alice"]);
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    let add = "nix-store --add /etc/passwd";
    let inside =
        format!("{add}; overstore exec --ephemeral -- sh -c '{add}; ls -d $OVERSTORE_REAL'");
    for outer in [&["mine"][..], &["--ephemeral"]] {
        let outcome = by_alice(&world, outer)
            .args(["--", "sh", "-ec", &inside])
            .run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let told = outcome.stdout();
        assert_eq!(told.matches("-passwd\n").count(), 2, "{outcome}");
        assert!(told.ends_with("\n/nix/store\n"), "{outcome}");
    }
    // Its own store, from inside.
    let again = "overstore exec mine -- nix-store --check-validity $(nix-store --add /etc/passwd)";
    let outcome = mine(&world, &["sh", "-ec", again]).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    // Overlays stack twice.
    let third = "overstore exec --ephemeral -- overstore exec --ephemeral -- true";
    let outcome = mine(&world, &["sh", "-c", third]).run();
    assert_eq!(outcome.code(), Some(125), "{outcome}");
    assert!(
        outcome.stderr().contains("[stacking-too-deep]"),
        "{outcome}"
    );
}
