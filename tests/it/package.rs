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

/// What a crate has is what the program is built from and installed with, and nothing else.
#[test]
fn the_crate_has_what_it_needs() {
    let listed = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{said}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<&str> = listed.lines().collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in &files {
        let top = file.split('/').next().unwrap();
        assert!(
            !["tests", "vm-tests", "target", "nixos"].contains(&top),
            "{file}"
        );
    }
    for file in [
        "Cargo.lock",
        "README.md",
        "LICENSE-MIT",
        "docs/manual.md",
        "src/main.rs",
    ] {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    // What the source has compiled in is in it, too.
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let text = fs::read_to_string(source.join(file)).unwrap();
        for included in text.split("include_str!(\"").skip(1) {
            let included = included.split('"').next().unwrap();
            let path = source.join(file).with_file_name(included);
            let path = path.canonicalize().unwrap();
            let path = path.strip_prefix(source).unwrap().to_str().unwrap();
            // Tests look at other files.
            let is_of_a_test = text.find("#[cfg(test)]") < text.find(&format!("\"{included}\""));
            assert!(files.contains(&path) || is_of_a_test, "{file}: {path}");
        }
    }
}

/// One version, in each place that has it.
#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let read =
        |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    assert!(read("debian/changelog").starts_with(&format!("overstore ({version})")));
    let changes = read("CHANGELOG.md");
    let newest = changes.split("\n## [").nth(2).unwrap();
    assert!(newest.starts_with(&format!("{version}] - ")), "{newest}");
}

/// What is said to be enough is enough for the dependencies.
#[test]
fn no_dependency_needs_a_newer_rust() {
    // Those of other systems are not at hand where nothing but this was ever built.
    let platform = format!(
        "--filter-platform={}-unknown-linux-gnu",
        std::env::consts::ARCH
    );
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--locked",
            &platform,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |version: &str| -> (u32, u32) {
        let mut numbers = version.split('.').map(|it| it.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap_or(0))
    };
    let ours = number(env!("CARGO_PKG_RUST_VERSION"));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let theirs = package["rust_version"].as_str()?;
            let is_newer = number(theirs) > ours;
            is_newer.then(|| format!("{}: {theirs}", package["name"]))
        })
        .collect();
    assert!(newer.is_empty(), "{newer:?}");
}
