//! What goes wrong when somebody tries it for the first time, or on a bad day: every message says what
//! to do, and nothing is left half done.

use crate::support::{Example, Outcome, Snapshot, World};

/// Every failure names a remedy, on standard error, and with this exit code.
#[track_caller]
fn fails(outcome: &Outcome, code: i32, texts: &[&str]) {
    assert_eq!(outcome.code(), Some(code), "{outcome}");
    for text in texts {
        assert!(outcome.stderr().contains(text), "no `{text}`: {outcome}");
    }
}

/// An error as JSON has its remedies as values, and people get the same on a line of its own.
#[test]
fn an_error_and_its_remedies_are_apart() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let told = |by_alice: bool, arguments: &[&str], commands: &[&str]| {
        let run = |json: &[&str]| {
            let run = world.overstore(json).args(arguments);
            if by_alice { run.by_alice() } else { run }.run()
        };
        let json = run(&["--json"]);
        let report: serde_json::Value = serde_json::from_str(&json.stdout()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (failure, remedy) = (text(&report["failure"]), text(&report["remedy"]));
        assert!(!failure.contains("remedy"), "{json}");
        let ways = report["remedies"]
            .as_array()
            .unwrap_or_else(|| panic!("{json}"));
        let shells: Vec<String> = ways
            .iter()
            .flat_map(|way| way["commands"].as_array().into_iter().flatten())
            .map(|command| text(&command["shell"]))
            .collect();
        assert_eq!(shells, commands, "{json}");
        for way in ways {
            let said = text(&way["instruction"]);
            assert!(remedy.contains(&said) && !failure.contains(&said), "{json}");
        }
        let people = run(&[]);
        assert_eq!(people.code(), json.code(), "{people}");
        let shown = format!("error: {failure}\nremedy: {remedy}\n");
        assert!(people.stderr().ends_with(&shown), "{people}\n{shown}");
    };

    world.ok(["mkdir", "-p", Example::REAL, Example::STATE]);
    told(true, &["up", "example"], &[]);
    world.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "small",
        Example::STATE,
    ]);
    let df = format!("df {}/db/reserved", Example::STATE);
    let inodes = df.replace("df ", "df -i ");
    told(false, &["up", "example"], &[&df, &inodes]);
    world.ok(["umount", Example::STATE]);
    example.up();
    world.ok(["mount", "-t", "tmpfs", "other", Example::REAL]);
    let umount = format!("umount {}", Example::REAL);
    told(false, &["down", "example"], &[&umount]);
    world.ok(["sh", "-c", &umount]);
    world.ok(["mount", "--bind", Example::REAL, Example::REAL]);
    told(
        false,
        &["down", "example"],
        &[&umount, "overstore down example"],
    );
    let path = "/nix/store/00000000000000000000000000000000-missing";
    told(false, &["warm", "example", path], &[]);
}

#[test]
fn a_full_file_system_is_told_and_the_next_run_finishes() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.ok(["mkdir", "-p", Example::STATE]);
    let mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "small",
        Example::STATE,
    ];
    world.ok(mount);
    let full = ["\nremedy: make room on its file system, then run this again: df "];
    fails(&example.run("up"), 3, &full);
    assert_eq!(example.mounts("TARGET"), [""; 0]);
    world.ok(["mount", "-o", "remount,size=64m", Example::STATE]);
    assert!(example.up().ends_with("example: is up\n"));
    assert_eq!(example.run("check").code(), Some(0));
}

#[test]
fn a_read_only_state_directory_is_told() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.ok(["mkdir", "-p", Example::STATE]);
    world.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "ro,mode=0755",
        "state",
        Example::STATE,
    ]);
    let before = Snapshot::of(world.path(Example::STATE));
    fails(
        &example.run("up"),
        3,
        &[
            "Read-only file system",
            "\nremedy: see why its file system is read-only",
        ],
    );
    before.assert_unchanged(world.path(Example::STATE));
}

#[test]
fn a_result_that_cannot_be_written_is_told_unless_the_reader_went_away() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    for command in ["up", "check", "plan", "status", "url"] {
        let to = |redirect: &str| {
            let script = format!("overstore {command} example {redirect}");
            world.run(["bash", "-o", "pipefail", "-c", &script])
        };
        fails(
            &to(">/dev/full"),
            3,
            &["cannot write the result: No space left"],
        );
        let gone = to("| true");
        assert_eq!(
            (gone.code(), gone.stderr().as_str()),
            (Some(0), ""),
            "{gone}"
        );
    }
}

#[test]
fn a_check_that_cannot_end_tells_what_it_found_before() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    // Of a store that was never set up there is nothing to hash.
    let checked = example.command("check").args(["--contents"]).run();
    assert_eq!(checked.code(), Some(1), "{checked}");
    example.up();
    example.command("down").ok();
    world.ok(["mv", Example::UPPER, "/mnt/example/away"]);
    let checked = example.command("check").args(["--contents"]).run();
    fails(&checked, 3, &["cannot hash the objects: "]);
    assert!(checked.stdout().contains("[mount-missing]"), "{checked}");
    world.ok(["mv", "/mnt/example/away", Example::UPPER]);
    example.up();
    // A machine without Nix.
    world.ok(["ln", "-s", "/usr/bin/overstore", "/tmp/overstore"]);
    let checked = example
        .command("check")
        .args(["--nix"])
        .under(["/usr/bin/env", "PATH=/tmp"])
        .run();
    fails(
        &checked,
        3,
        &["cannot run nix: ", "\nremedy: put Nix on PATH"],
    );
    assert!(checked.stdout().contains("example: failed"), "{checked}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let Some(world) = World::trixie() else { return };
    world.example("").up();
    world.ok(["umount", Example::REAL]);
    // script(1) gives the command a terminal.
    let on_terminal = |variables: &str| {
        let command = format!("env TERM=xterm {variables} overstore check example");
        let outcome = world.run([
            "script",
            "--quiet",
            "--return",
            "--command",
            &command,
            "/dev/null",
        ]);
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stdout().contains("mount-missing"), "{outcome}");
        outcome.stdout().contains('\x1b')
    };
    assert!(on_terminal(""));
    assert!(!on_terminal("NO_COLOR=1"));
    assert!(!on_terminal("TERM=dumb"));
    let piped = world.overstore(["check", "example"]).run();
    assert!(!piped.stdout().contains('\x1b'), "{piped}");
}

#[test]
fn a_store_directory_in_place_of_a_root_is_understood() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let from = "/mnt/example/store-a?";
    assert!(text.contains(from));
    world.write(
        Example::CONFIGURATION,
        text.replace(from, "/mnt/example/store-a/nix/store?"),
    );
    let outcome = world.overstore(["up", "example"]).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let remedy = "set `lower-store = \"/mnt/example/store-a\"`";
    assert!(outcome.stdout().contains(remedy), "{outcome}");
}

#[test]
fn another_system_s_remedies_name_its_root() {
    let Some(world) = World::trixie() else { return };
    world.ok([
        "mkdir",
        "-p",
        "/mnt/sysroot/etc/overstore",
        "/mnt/sysroot/mnt",
    ]);
    world.lower_store("/mnt/sysroot/mnt/a");
    world.write(
        "/mnt/sysroot/etc/overstore/example.toml",
        "root = \"/mnt/m\"\nlower-store = \"/mnt/a?read-only=true\"\n\
         upper-layer = \"/mnt/u\"\nworkdir = \"/mnt/w\"\nremount-hook = false\n\
         [permissions]\nbuild-users-group = \"\"\n",
    );
    let overstore = |command: &str| {
        world
            .overstore([command, "--root", "/mnt/sysroot", "example"])
            .run()
    };
    let before = Snapshot::of(world.path("/mnt"));
    let checked = overstore("check");
    assert_eq!(checked.code(), Some(1), "{checked}");
    let remedy = "remedy: overstore up --root /mnt/sysroot example\n";
    assert!(checked.stdout().contains(remedy), "{checked}");
    let planned = overstore("plan").stdout();
    assert!(planned.contains("lowerdir=/mnt/a/nix/store,"), "{planned}");
    before.assert_unchanged(world.path("/mnt"));

    world.ok(["sh", "-c", remedy.trim_start_matches("remedy:")]);
    assert_eq!(overstore("check").code(), Some(0));
    assert_eq!(overstore("check").stdout(), "example: as described\n");
    let mounts = world.ok(["grep", "^overlay /mnt", "/proc/self/mounts"]);
    assert!(
        mounts.starts_with("overlay /mnt/sysroot/mnt/m/nix/store "),
        "{mounts}"
    );
    assert!(
        mounts.contains(" rw,relatime,lowerdir=/mnt/a/nix/store,"),
        "{mounts}"
    );
    assert_eq!(overstore("down").code(), Some(0));

    for (root, text) in [
        ("/mnt/missing", "No such file"),
        ("/etc/passwd", "Not a directory"),
    ] {
        let outcome = world.overstore(["up", "--root", root, "example"]).run();
        fails(&outcome, 3, &[text, "\nremedy: "]);
    }
    let outcome = world
        .overstore(["check", "--root", "/mnt/sysroot", "example"])
        .by_alice()
        .run();
    fails(&outcome, 3, &["\nremedy: run this as root"]);
}

/// A name means the description that the generator makes units of.
#[test]
fn a_name_is_found_where_the_generator_finds_it() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let described = |upper: &str| text.replace("/mnt/example/store-b", upper);
    assert_ne!(described("/mnt/lib"), text);
    world.ok(["rm", Example::CONFIGURATION]);
    for (directory, upper) in [
        ("/usr/lib/overstore", "/mnt/lib"),
        ("/run/overstore", "/mnt/run"),
        ("/etc/overstore", "/mnt/etc"),
    ] {
        let file = format!("{directory}/example.toml");
        world.write(&file, described(upper));
        let url = world.overstore(["url", "example"]).ok();
        assert!(
            url.contains(&format!("upper-layer={upper}&")),
            "{file}: {url}"
        );
    }
}
