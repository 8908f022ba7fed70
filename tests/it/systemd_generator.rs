//! The generator's units: each directory of `tests/systemd-generator/` is a system's descriptions
//! (`input/`), and what has to come out of them (`expected/`; in `broken`, what is said of those
//! that are wrong), compared whole.
//!
//! After a wanted change, `UPDATE_EXPECTED=1 cargo test --test it -- systemd_generator nixos` writes
//! what comes out over what was expected, there and for NixOS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overstore::testing::systemd::generate;

use crate::support::{assert_expected, cases, files, skip};

const AREA: &str = "systemd-generator";

/// Runs the generator on a case. What is broken becomes a file of its own.
fn run(case: &Path, output: &Path) {
    let program = Path::new("/usr/bin/overstore");
    let broken = generate(
        &case.join("input"),
        output,
        program,
        Some(Path::new("/usr/bin/overstore-remount")),
    )
    .unwrap();
    let text: String = broken
        .iter()
        .map(|one| format!("{}\n{}\n", one.file.display(), one.fault))
        .collect();
    if !text.is_empty() {
        fs::write(output.join("broken"), text).unwrap();
    }
}

#[test]
fn makes_the_expected_units() {
    for case in cases(AREA) {
        let output = tempfile::tempdir().unwrap();
        run(&case, output.path());
        assert_expected(&case.join("expected"), &files(output.path()));
    }
}

/// systemd's own opinion of the units; it knows nothing of what they would do.
#[test]
fn systemd_finds_nothing_wrong() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        skip(
            "systemd",
            "systemd-analyze is missing; tests/setup installs it",
        );
        return;
    }
    for case in cases(AREA) {
        let units = case.join("expected");
        let names = files(&units);
        let services: Vec<PathBuf> = names
            .keys()
            .filter(|name| {
                name.components().count() == 1
                    && name
                        .extension()
                        .is_some_and(|e| e == "service" || e == "socket" || e == "timer")
            })
            .map(|name| units.join(name))
            .collect();
        if services.is_empty() {
            continue;
        }
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--generators=no"])
            .args(&services)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let about_us: Vec<&str> = said
            .lines()
            // Neither program, nor Nix's own units, have to be installed where the tests run.
            .filter(|line| !line.contains("is not executable"))
            .filter(|line| !line.contains("Unit nix-daemon.socket not found"))
            .filter(|line| {
                services
                    .iter()
                    .any(|unit| line.contains(unit.file_name().unwrap().to_str().unwrap()))
            })
            .collect();
        assert!(about_us.is_empty(), "{}: {about_us:#?}", case.display());
    }
}
