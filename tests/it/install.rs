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
    let make = |target: &str, program: &str| {
        let done = Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("--silent")
            .arg(target)
            .arg(format!("PROGRAM={program}"))
            .arg(format!("DESTDIR={}", scratch.path().display()))
            .arg("PREFIX=/opt/x")
            .status();
        let mut text = String::new();
        list(scratch.path(), scratch.path(), &mut text);
        (done.unwrap().success(), text)
    };
    let program = env!("CARGO_BIN_EXE_overstore");
    // It builds nothing.
    assert_eq!(make("install", "no/such/program"), (false, String::new()));
    let (done, installed) = make("install", program);
    assert!(done);
    let (documents, rest): (Vec<&str>, Vec<&str>) = installed
        .lines()
        .partition(|line| line.contains("/share/doc/"));
    insta::assert_snapshot!(rest.join("\n"));
    let pages = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
    // The licences, and the pages at the top.
    assert_eq!(documents.len(), pages.count() + 5, "{documents:?}");
    assert_eq!(make("install", program), (true, installed));
    let another = scratch.path().join("opt/x/bin/another");
    fs::write(&another, "of somebody else").unwrap();
    let (done, left) = make("uninstall", program);
    assert_eq!((done, left.as_str()), (true, "0644 opt/x/bin/another\n"));
}

/// mandoc finds nothing wrong with the pages, and each has the sections that people look for.
#[test]
fn manual_pages_are_clean() {
    let scratch = tempfile::tempdir().unwrap();
    let written = Command::new(env!("CARGO_BIN_EXE_overstore"))
        .arg("manual")
        .arg(scratch.path())
        .status();
    assert!(written.unwrap().success());
    let mut pages = String::new();
    list(scratch.path(), scratch.path(), &mut pages);
    let pages: Vec<&str> = pages
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    for page in [
        "man1/overstore.1",
        "man5/overstore.toml.5",
        "man8/overstore-generator.8",
    ] {
        assert!(pages.contains(&page), "{pages:?}");
    }
    for page in &pages {
        let text = fs::read_to_string(scratch.path().join(page)).unwrap();
        let mut sections = vec!["NAME", "DESCRIPTION", "FILES", "SEE ALSO"];
        if page.starts_with("man1/") {
            sections.extend(["SYNOPSIS", "OPTIONS", "EXIT STATUS"]);
        }
        if page.starts_with("man1/overstore-") {
            sections.push("EXAMPLES");
        }
        for section in sections {
            let quoted = section.contains(' ');
            let heading = match quoted {
                true => format!(".SH \"{section}\"\n"),
                false => format!(".SH {section}\n"),
            };
            assert!(text.contains(&heading), "{page}: {section}");
        }
        // A page that another one names is there.
        for name in text.split(&[' ', '\n', ','][..]) {
            let name = name.replace('\\', "");
            let Some((name, section)) = name.strip_suffix(')').and_then(|it| it.split_once('('))
            else {
                continue;
            };
            if name.starts_with("overstore") {
                let named = format!("man{section}/{name}.{section}");
                assert!(pages.contains(&&*named), "{page} names {named}");
            }
        }
    }
    let Ok(lint) = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .args(pages.iter().map(|page| scratch.path().join(page)))
        .output()
    else {
        return crate::support::skip("mandoc", "it is not installed");
    };
    let said = String::from_utf8_lossy(&lint.stdout).into_owned();
    assert_eq!((lint.status.code(), said.as_str()), (Some(0), ""));
}
