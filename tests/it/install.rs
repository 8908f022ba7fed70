//! `make install`, with `DESTDIR` and `PREFIX`.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Lists a directory: modes, names, and where links lead.
fn list(directory: &Path, top: &Path, into: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let shown = path.strip_prefix(top).unwrap().display();
        let found = path.symlink_metadata().unwrap();
        if found.is_dir() {
            list(&path, top, into);
        } else if found.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            assert!(path.exists(), "{shown} leads nowhere");
            writeln!(into, "link {shown} -> {}", target.display()).unwrap();
        } else {
            assert_ne!(found.len(), 0, "{shown} is empty");
            let mode = found.permissions().mode() & 0o7777;
            writeln!(into, "{mode:04o} {shown}").unwrap();
        }
    }
}

#[test]
fn everything_goes_below_the_prefix() {
    let scratch = tempfile::tempdir().unwrap();
    let install = || {
        let done = Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("--silent")
            .arg("install")
            .arg(concat!("PROGRAM=", env!("CARGO_BIN_EXE_overstore")))
            .arg(format!("DESTDIR={}", scratch.path().display()))
            .arg("PREFIX=/opt/x")
            .status();
        assert!(done.unwrap().success());
        let mut text = String::new();
        list(scratch.path(), scratch.path(), &mut text);
        text
    };
    let installed = install();
    insta::assert_snapshot!(installed);
    assert_eq!(install(), installed);
}
