//! The Debian package: built, installed, upgraded over a store that is up, and purged.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Example, World, skip};

/// What the package is made of, beside the program.
const SOURCES: [&str; 9] = [
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "debian",
    "docs",
    "src",
];

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Builds the package in a copy of the sources, with this version.
fn build(directory: &Path, version: &str) {
    let changelog = directory.join("debian/changelog");
    let text = fs::read_to_string(&changelog).unwrap();
    let begin = text.find(')').unwrap();
    fs::write(
        &changelog,
        format!("overstore ({version}{}", &text[begin..]),
    )
    .unwrap();
    done(
        Command::new("debian/rules")
            .args([
                "binary",
                "PROGRAM=./program",
                "RESULT=.",
                "COMPRESSION=-Zgzip -z1",
            ])
            .current_dir(directory)
            // The program under test is not optimised, and stripped already.
            .env("DEB_BUILD_OPTIONS", "nostrip noautodbgsym")
            // Cargo's and this test run's own variables for make are nothing to it.
            .env_remove("MAKEFLAGS"),
    );
}

#[test]
fn installed_upgraded_and_purged() {
    let Some(world) = World::trixie() else { return };
    if Command::new("dh").arg("--version").output().is_err() {
        return skip("debhelper", "it is not installed");
    }
    let scratch = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in SOURCES {
        let (from, to) = (source.join(name), scratch.path().join(name));
        done(Command::new("cp").arg("--recursive").args([from, to]));
    }
    done(
        Command::new("strip")
            .args(["-o", "program", env!("CARGO_BIN_EXE_overstore")])
            .current_dir(scratch.path()),
    );
    let architecture = Command::new("dpkg").arg("--print-architecture").output();
    let architecture = String::from_utf8(architecture.unwrap().stdout).unwrap();
    let versions = ["0.1.0", "0.1.1~later"].map(|version| {
        build(scratch.path(), version);
        let name = format!("overstore_{version}_{}.deb", architecture.trim());
        world.copy(&scratch.path().join(&name), format!("/tmp/{name}"));
        format!("/tmp/{name}")
    });

    // The World has the program under test in this place.
    let example = world.example("");
    world.ok([
        "sh",
        "-c",
        "umount /usr/bin/overstore 2>/dev/null; rm -f /usr/bin/overstore*",
    ]);
    let missing = world.command(["overstore", "--version"]).run();
    assert_ne!(missing.code(), Some(0), "{missing}");
    let install = |file: &str| world.ok(["dpkg", "--install", file]);
    install(&versions[0]);
    let version = concat!("overstore ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(world.ok(["overstore", "--version"]), version);
    // A tree of tests leaves pages out, so the package is asked.
    let contents = world.ok(["dpkg", "--contents", &versions[0]]);
    for file in [
        "/etc/overstore/",
        "/usr/bin/overstore-remount",
        "/usr/lib/systemd/system-generators/overstore-generator",
        "/usr/lib/systemd/system/overstore-initrd@.service",
        "/usr/share/bash-completion/completions/overstore",
        "/usr/share/zsh/vendor-completions/_overstore",
        "/usr/share/fish/vendor_completions.d/overstore.fish",
        "/usr/share/man/man1/overstore-up.1.gz",
        "/usr/share/man/man5/overstore.toml.5.gz",
        "/usr/share/man/man8/overstore-generator.8.gz",
        "/usr/share/doc/overstore/copyright",
        "/usr/share/doc/overstore/manual.md.gz",
    ] {
        assert!(
            contents.contains(&format!(" .{file}")),
            "{file}: {contents}"
        );
    }
    example.up();
    world.write("/mnt/new", "new\n");
    let url = world.ok(["overstore", "url", "example"]);
    let added = world
        .nix(["nix-store", "--store", url.trim(), "--add", "/mnt/new"])
        .run();
    assert_eq!(added.code(), Some(0), "{added}");
    let added = added.stdout();

    install(&versions[1]);
    let shown = world.ok(["dpkg-query", "--show", "overstore"]);
    assert_eq!(shown, "overstore\t0.1.1~later\n");
    assert_eq!(example.run("check").code(), Some(0));

    // A store that is up stays up, and what the administrator has written stays there.
    world.ok(["dpkg", "--purge", "overstore"]);
    assert_eq!(world.run(["overstore", "--version"]).code(), Some(127));
    let left = world.run([
        "sh",
        "-c",
        "find /usr /etc -name '*overstore*' ! -path /etc/overstore",
    ]);
    assert_eq!(left.stdout(), "", "{left}");
    assert!(!world.read("/etc/overstore/example.toml").is_empty());
    let object = format!(
        "{}/{}",
        Example::REAL,
        added.trim().rsplit('/').next().unwrap()
    );
    assert_eq!(world.ok(["cat", &object]), "new\n");
}
