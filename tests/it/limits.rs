//! What a machine runs out of, and inputs of a size that no real one has: a command says so, and says
//! nothing wrong of the store.

use std::os::unix::net::UnixDatagram;

use crate::support::World;

/// Security case L1.
#[test]
fn few_file_descriptors_are_no_fault_of_the_store() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    for limit in [3, 10, 64, 130] {
        for command in ["check", "status", "plan", "up", "url", "down"] {
            let limit = format!("--nofile={limit}");
            let outcome = example.command(command).under(["prlimit", &limit]).run();
            // With three of them, not even the program's libraries can be loaded.
            assert!(
                matches!(outcome.code(), Some(3 | 127)),
                "{limit}: {outcome}"
            );
            assert!(!outcome.stdout().contains(" ["), "{limit}: {outcome}");
            if outcome.code() == Some(3) {
                let said = outcome.stderr();
                assert!(said.contains("more files can be opened"), "{outcome}");
                assert!(said.contains("ulimit -n"), "{outcome}");
            }
        }
    }
    assert_eq!(example.mounts("fstype"), ["overlay"]);
}

/// Security case L1: descriptors, or memory, that are gone in the middle. What is said is what would
/// have been said, or nothing is.
#[test]
fn what_runs_out_in_the_middle_is_no_fault_of_the_store() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    for arguments in [
        &["check", "--lower", "--contents", "example"][..],
        &["status", "--sizes", "example"],
    ] {
        let whole = world.overstore(arguments).run();
        assert_eq!(whole.code(), Some(0), "{whole}");
        let (_, trace) = world.overstore(arguments).traced();
        for (call, error) in [
            ("openat", "EMFILE"),
            ("openat", "ENFILE"),
            ("statx", "ENOMEM"),
        ] {
            let calls = trace.calls.iter().filter(|it| it.name == call).count();
            assert!(calls > 10, "{calls} of {call}");
            let points: Vec<_> = (1..=calls).collect();
            for nth in crate::support::sample(points, 12) {
                let outcome = world
                    .overstore(arguments)
                    .under([
                        "strace",
                        "--follow-forks",
                        "--output=/dev/null",
                        "--quiet=all",
                        &format!("--trace={call}"),
                        &format!("--inject={call}:error={error}:when={nth}"),
                    ])
                    .run();
                let what = format!("{error} of {call} {nth}");
                match outcome.code() {
                    Some(0) => {}
                    // The loader could not load a library.
                    Some(127) => continue,
                    code => assert_eq!(code, Some(3), "{what}: {outcome}"),
                }
                let said = outcome.stdout();
                assert!(!said.contains("  error ["), "{what}: {outcome}");
            }
        }
    }
}

/// Security case P2.
#[test]
fn threads_that_cannot_be_started_are_told() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.overstore(["warm", "--all", "example"]).ok();
    world.ok([
        "sqlite3",
        "/mnt/example/merged-store/nix/var/nix/db/db.sqlite",
        "delete from Refs; delete from DerivationOutputs; delete from ValidPaths",
    ]);
    let without_threads = |arguments: &[&str]| {
        world
            .overstore(arguments)
            .env("NOTIFY_SOCKET", "/run/notify")
            .under([
                "strace",
                "--follow-forks",
                "--output=/dev/null",
                "--quiet=all",
                "--trace=clone,clone3",
                "--inject=clone,clone3:error=EAGAIN",
            ])
            .run()
    };
    let _listens = UnixDatagram::bind(world.path("/run/notify")).expect("a tmpfs");
    for arguments in [
        &["check", "--contents", "example"][..],
        &["check", "--contents", "--lower", "example"],
        &["warm", "--all", "example"],
    ] {
        let outcome = without_threads(arguments);
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        let said = format!("{}{}", outcome.stdout(), outcome.stderr());
        assert!(said.contains("cannot start a thread"), "{outcome}");
    }
    let plain = without_threads(&["status", "example"]);
    assert_eq!(plain.code(), Some(0), "{plain}");
    let down = without_threads(&["down", "example"]);
    assert_eq!(down.code(), Some(0), "{down}");
    let up = without_threads(&["up", "example"]);
    assert_eq!(up.code(), Some(3), "{up}");
    assert!(up.stderr().contains("start a thread"), "{up}");
}

/// Security case N1.
#[test]
fn a_service_manager_that_does_not_read_is_told() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let socket = UnixDatagram::bind(world.path("/run/notify")).expect("a tmpfs");
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a socket");
    while sender
        .send_to(b"STATUS=full\n", world.path("/run/notify"))
        .is_ok()
    {}
    let under = |command: &str| {
        example
            .command(command)
            .env("NOTIFY_SOCKET", "/run/notify")
            .run()
    };
    let up = under("up");
    assert_eq!(up.code(), Some(3), "{up}");
    assert!(
        up.stderr()
            .contains("the service manager has taken no message"),
        "{up}"
    );
    // What was to be done is done all the same.
    assert_eq!(example.mounts("fstype"), ["overlay"]);
    drop(socket);
    // Nobody listens any more, which is nothing to wait for.
    let down = under("down");
    assert_eq!(
        (down.code(), down.stderr().as_str()),
        (Some(0), ""),
        "{down}"
    );
}

/// Security case N2: an object whose NAR is what its row says is not damaged, however deep it is.
/// (Nix 2.26 overflows its stack where it adds one, and hashes one that is there.)
#[test]
fn an_object_of_many_directories_is_none_of_damage() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let make =
        "name=00000000000000000000000000000000-deep; at=/mnt/example/merged-store/nix/store/$name
        d=$(printf 'd/%.0s' $(seq 600)); mkdir -p $at/$d; echo x >$at/$d/file
        hash=$(nix-store --dump $at | sha256sum | cut -d' ' -f1)
        sqlite3 /mnt/example/merged-store/nix/var/nix/db/db.sqlite \
          \"insert into ValidPaths (path, hash, registrationTime) \
          values ('/nix/store/$name', 'sha256:$hash', 1)\"";
    world.ok(["bash", "-ec", make]);
    for arguments in [
        &["check", "--contents", "example"][..],
        &["status", "--sizes", "example"],
    ] {
        let outcome = world
            .overstore(arguments)
            .under(["prlimit", "--nofile=200"])
            .run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert!(!outcome.stdout().contains("object-damaged"), "{outcome}");
    }
}

/// An object that this user may not read is no damaged one either.
#[test]
fn an_object_that_may_not_be_read_is_none_of_damage() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let object = example.lower.path("chain-3");
    world.overstore(["warm", "--all", "example"]).ok();
    let in_lower = format!("/mnt/example/store-a{object}");
    world.ok([
        "sh",
        "-c",
        &format!("chmod 0 $(find {in_lower} -type f | head -1) {in_lower}"),
    ]);
    let check = world
        .overstore(["check", "--contents", "--lower", "example"])
        .by_alice()
        .run();
    assert_eq!(check.code(), Some(3), "{check}");
    let said = format!("{}{}", check.stdout(), check.stderr());
    assert!(!said.contains("object-damaged"), "{check}");
    assert!(said.contains("Permission denied"), "{check}");
}

/// Security case C1: what is said of a description of any size stays short.
#[test]
fn a_description_of_nothing_but_mistakes_is_told_in_short() {
    let Some(world) = World::trixie() else { return };
    let lines = |line: &dyn Fn(usize) -> String| (0..3_000).map(line).collect::<String>();
    let values = |table: &str| {
        let values: Vec<_> = (0..3_000).map(|number| format!("\"x{number}\"")).collect();
        format!("{table} = [{}]\n", values.join(", "))
    };
    let descriptions = [
        (
            "keys",
            lines(&|number| format!("unknown-key-{number} = 1\n")),
        ),
        ("same", lines(&|_| "store = \"/a\"\n".to_owned())),
        ("tables", lines(&|number| format!("[table-{number}]\n"))),
        ("garbage", lines(&|number| format!("= ] {number}\n"))),
        ("line", "= ] [ ".repeat(3_000)),
        ("options", values("[mount]\noptions")),
        ("paths", values("[warm]\npaths")),
        (
            "wrong",
            lines(&|number| format!("[lower]\nreal-{number} = 1\n")),
        ),
    ];
    for (name, text) in descriptions {
        world.write(format!("/etc/overstore/{name}.toml"), text);
        for more in [&[][..], &["--json"]] {
            let outcome = world.overstore(["url", name]).args(more).run();
            assert_eq!(outcome.code(), Some(2), "{name}: {outcome}");
            let bytes = outcome.out.len() + outcome.err.len();
            assert!(bytes < 100_000, "{name}: {bytes} bytes");
        }
    }
    let keys = world.overstore(["url", "keys"]).run();
    assert!(
        keys.stderr().contains("unknown key `unknown-key-49`"),
        "{keys}"
    );
    assert!(!keys.stderr().contains("unknown-key-50"), "{keys}");
    // Beside the unknown ones, some are missing.
    assert!(keys.stderr().contains(" more are wrong"), "{keys}");
}
