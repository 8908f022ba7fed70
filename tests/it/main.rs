//! The integration tests: one binary, because linking each costs seconds, with a module an area.
//!
//! `cargo test --test it AREA::` runs those of one. Unit tests are beside what they test, in `src/`.
//!
//! - Tests run side by side as threads of one process, so none changes what all of them share: the
//!   working directory, the umask, the environment, the mounts and directories of the machine. What
//!   does has a machine of its own, a [`support::World`], or its own thread and mount namespace
//!   ([`mount_failure`]).
//! - What is not to be had here is reported with [`support::skip`], and in no other way: `.ci/run`
//!   takes only what it knows. What `tests/setup` can install, it installs.
//! - Nothing is timed, and nothing sleeps: [`support::wait_until`] waits for the thing itself.
//! - Data are directories: `tests/AREA/CASE/input` beside `expected` ([`support::assert_expected`]).
//!   `UPDATE_EXPECTED=1` writes what comes out over what was expected; git shows what that changes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod across;
mod attackers;
mod bug_report;
mod by_descriptor;
mod causes;
mod check;
mod circles;
mod cli;
mod completions;
mod config;
mod containers;
mod contents;
mod demo;
mod down;
mod exec;
mod exhaustion;
mod file_systems;
mod fleet;
mod full_disk;
mod gc;
mod gc_content_addressed;
mod gc_like_nix;
mod gc_stress;
mod generator;
mod guides;
mod hook;
mod hostile_daemon;
mod hostile_descriptions;
mod hostile_lower;
mod hostile_upper;
mod identity;
mod images;
mod install;
mod joining;
mod kill;
mod limits;
mod long_work;
mod losses;
mod lower_daemon;
mod lower_sqlite;
mod lower_store_fixture;
mod manual;
mod mixture;
mod monitoring;
mod mount_failure;
mod mount_tables;
mod new_user;
mod nix_agrees;
mod nix_fails;
mod nix_on_up;
mod nix_opens;
mod nixos;
mod nixos_build;
mod nixos_running;
mod nixos_whole;
mod odd_files;
mod optimise;
mod outputs;
mod own_first;
mod own_profiles;
mod own_shells;
mod own_store;
mod package;
mod parallel;
mod publish;
mod reasons;
mod reconcile;
mod reconcile_hostile;
mod reconcile_limits;
mod reconcile_rows;
mod refresh;
mod remedies;
mod remount;
mod several;
mod source_layout;
mod status;
mod support;
mod sweeps;
mod systemd_generator;
mod taking_over;
mod unsafe_paths;
mod untouched;
mod up;
mod users;
mod warm;
mod without_root;
mod words;
mod world;

use std::fs;
use std::path::Path;

/// Every Rust file here is part of this binary, and no other file of `tests/` becomes a binary.
#[test]
fn no_test_file_is_forgotten() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    assert_eq!(rust_names(&tests), ["it"], "to be moved to tests/it");
    assert_declared(&tests.join("it"), "main");
}

/// The file `parent` of the directory declares every other as a module, and so on below.
fn assert_declared(directory: &Path, parent: &str) {
    let parent_file = directory.join(parent).with_extension("rs");
    let text = fs::read_to_string(&parent_file).unwrap();
    for name in rust_names(directory) {
        let declaration = format!("mod {name};");
        let declared = text
            .lines()
            .any(|line| line.strip_prefix("pub ").unwrap_or(line) == declaration);
        assert!(
            name == parent || declared,
            "{parent_file:?} does not say `{declaration}`: its tests are not run"
        );
        if directory.join(&name).is_dir() {
            assert_declared(&directory.join(&name), "mod");
        }
    }
}

/// The names of the modules in a directory: of Rust files, and of directories that have some.
fn rust_names(directory: &Path) -> Vec<String> {
    let paths = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "rs")
                || path.is_dir() && !rust_names(path).is_empty()
        })
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}
