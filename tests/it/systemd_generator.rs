//! The generator's units: each directory of `tests/systemd-generator/` is a system's descriptions
//! (`input/`), and what has to come out of them (`expected/`; in `broken`, what is said of those
//! that are wrong), compared whole.
//!
//! After a wanted change, `UPDATE_EXPECTED=1 cargo test --test it -- systemd_generator nixos` writes
//! what comes out over what was expected, there and for NixOS.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use overstore::systemd::generator::generate;

/// Every file below a directory: its text, or what it links to.
fn tree(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.insert(path, format!("link to {}", target.display()));
            } else if path.is_dir() {
                waiting.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
    }
    found
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(directory).unwrap().to_owned(), text))
        .collect()
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd-generator");
    let mut cases: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

/// Runs the generator on a case. What is broken becomes a file of its own.
fn run(case: &Path, output: &Path) {
    let program = Path::new("/usr/bin/overstore");
    let broken = generate(&case.join("input"), output, program).unwrap();
    let text: String = broken
        .iter()
        .map(|one| format!("{}\n{}\n", one.file.display(), one.reason))
        .collect();
    if !text.is_empty() {
        fs::write(output.join("broken"), text).unwrap();
    }
}

#[test]
fn makes_the_expected_units() {
    for case in cases() {
        let output = tempfile::tempdir().unwrap();
        run(&case, output.path());
        let expected = case.join("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            let _ = fs::remove_dir_all(&expected);
            for (name, text) in tree(output.path()) {
                let path = expected.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match text.strip_prefix("link to ") {
                    Some(target) => symlink(target, path).unwrap(),
                    None => fs::write(path, text).unwrap(),
                }
            }
        }
        let (expected, found) = (tree(&expected), tree(output.path()));
        let names = |files: &BTreeMap<PathBuf, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&expected), names(&found), "{}", case.display());
        for (name, text) in expected {
            assert_eq!(text, found[&name], "{}: {}", case.display(), name.display());
        }
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
        eprintln!("skipped: there is no systemd-analyze here (Debian: systemd)");
        return;
    }
    for case in cases() {
        let units = case.join("expected");
        let names = tree(&units);
        let services: Vec<PathBuf> = names
            .keys()
            .filter(|name| {
                name.components().count() == 1
                    && name
                        .extension()
                        .is_some_and(|e| e == "service" || e == "socket")
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
