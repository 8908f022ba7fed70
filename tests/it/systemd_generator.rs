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

/// Whether systemd can be asked, which is reported where it cannot.
fn can_be_asked() -> bool {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if version.is_err() {
        skip(
            "systemd",
            "systemd-analyze is missing; tests/setup installs it",
        );
    }
    version.is_ok()
}

/// How exposed systemd holds the units to be in which overstore runs, in tenths, at most. The newer it is,
/// the more it looks at.
const EXPOSURE: u32 = 45;

/// What runs as root, and by itself, may do little beside its work. The daemons are Nix's own.
#[test]
fn systemd_holds_the_units_to_be_confined() {
    if !can_be_asked() {
        return;
    }
    let mut asked = 0;
    for case in cases(AREA) {
        let units = case.join("expected");
        for name in files(&units)
            .keys()
            .filter(|name| name.components().count() == 1)
        {
            let text = fs::read_to_string(units.join(name)).unwrap_or_default();
            let is_ours = text.contains("\nExecStart=/usr/bin/overstore ");
            if !is_ours || name.extension().is_none_or(|it| it != "service") {
                continue;
            }
            let output = Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--no-pager"])
                .arg(format!("--threshold={EXPOSURE}"))
                .arg(units.join(name))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{name:?}: {said}");
            asked += 1;
        }
    }
    assert!(asked > 3, "{asked}");
}

/// systemd's own opinion of the units; it knows nothing of what they would do.
#[test]
fn systemd_finds_nothing_wrong() {
    if !can_be_asked() {
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
