//! `make demo`, as root and as an ordinary user, with and without Nix.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{Outcome, World};

/// Runs it in a World, which sees the repository's fixtures at `/tmp/fixtures`.
fn demo(world: &World, alice: bool) -> Outcome {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
    for file in ["demo", "lower-store/lower-store.tar.xz"] {
        let content = std::fs::read(format!("{fixtures}/{file}")).expect("a fixture");
        world.write(format!("/tmp/fixtures/{file}"), content);
    }
    // /tmp is of the kernel's own file system there, as on most machines.
    let run = world.command(["sh", "/tmp/fixtures/demo", "/usr/bin/overstore"]);
    if alice { run.by_alice() } else { run }.run()
}

#[test]
fn shows_the_main_job_and_leaves_nothing() {
    for world in World::each() {
        for alice in [false, true] {
            let mounts = world.ok(["cat", "/proc/self/mounts"]);
            let outcome = demo(&world, alice);
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            let text = outcome.stdout();
            for line in [
                "... 18 store objects in all\n",
                "demo: as described\n",
                "18 paths copied",
                "-kept.txt\n",
                "objects: 18 in the lower store, 2 in the upper layer, 20 in the merged store\n",
                "\ndeleted 1 object, ",
                "objects: 18 in the lower store, 1 in the upper layer, 19 in the merged store\n",
                "error [row-without-object]",
                "overstore new > mine.toml",
            ] {
                assert!(text.contains(line), "{line} in {outcome}");
            }
            assert_eq!(outcome.stderr(), "");
            // The damage is the only one, and it is repaired.
            assert_eq!(text.matches("error").count(), 2, "{outcome}");
            let last = text.rfind("demo: as described\n");
            assert!(last > text.find("error [row-without-object]"), "{outcome}");
            // Each step fits on a screen.
            let steps = text.split("\n# ").map(|step| step.lines().count());
            assert!(steps.max() <= Some(24), "{outcome}");
            assert_eq!(world.list("/tmp"), ["fixtures"]);
            assert_eq!(world.ok(["cat", "/proc/self/mounts"]), mounts);
        }
    }
}

#[test]
fn does_without_nix() {
    let Some(world) = World::trixie() else { return };
    world.ok(["rm", "/usr/bin/nix-store"]);
    let outcome = demo(&world, false);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(outcome.stdout().contains("is not on PATH"), "{outcome}");
}

/// What is missing is told in one line, with the command that the README has, too.
#[test]
fn what_is_missing_is_told_in_one_line() {
    const COMMAND: &str = "apt-get update && apt-get satisfy --no-install-recommends \
                           'cargo (>= 1.89), ca-certificates, gcc, libc6-dev, make, xz-utils'";
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    assert!(
        readme.contains(&format!("\n{COMMAND}\nmake demo")),
        "{readme}"
    );
    let scratch = tempfile::tempdir().unwrap();
    let program = |name: &str, script: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    for name in ["bash", "cut", "dirname", "readlink", "sed", "sort"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|directory| directory.join(name))
            .find(|path| path.exists());
        symlink(found.unwrap(), scratch.path().join(name)).unwrap();
    }
    program("id", "echo 0");
    let said = || {
        let needs = Command::new(top.join("tests/needs"))
            .env("PATH", scratch.path())
            .output()
            .unwrap();
        let said = String::from_utf8(needs.stderr).unwrap();
        (needs.status.success(), said)
    };
    let elsewhere =
        "Rust is missing: install Rust 1.89 or later, with cargo, a C compiler, and xz\n";
    assert_eq!(said(), (false, elsewhere.to_owned()));
    program("apt-get", "");
    for (what, name, script) in [
        (
            "Rust is missing",
            "cargo",
            "echo 'cargo 1.85.1 (d73d2caf9 2024-12-31)'",
        ),
        (
            "Rust 1.85.1 is too old, overstore needs 1.89",
            "cargo",
            "echo 'cargo 1.89.0 (c24e10642 2025-06-23)'",
        ),
        ("a C compiler is missing", "cc", ""),
        ("xz is missing", "xz", ""),
    ] {
        assert_eq!(said(), (false, format!("{what}: run {COMMAND}\n")));
        program(name, script);
    }
    assert_eq!(said(), (true, String::new()));
}
