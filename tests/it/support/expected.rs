//! Tests whose data are directories: what goes in is a tree of files, and what has to come out is
//! the tree beside it. Whoever adds a case adds files and no code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use similar::TextDiff;

/// What is at a path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file's text.
    Text(String),
    /// A symbolic link's target.
    Link(PathBuf),
}

/// A tree's files and links, by their paths in it.
pub type Files = BTreeMap<PathBuf, Content>;

/// The files and links below a directory; none if it is missing.
pub fn files(directory: &Path) -> Files {
    let mut found = Files::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("the directory can be read").path();
            let content = if path.is_symlink() {
                fs::read_link(&path).map(Content::Link)
            } else if path.is_dir() {
                waiting.push(path);
                continue;
            } else {
                fs::read_to_string(&path).map(Content::Text)
            };
            let content = content.unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let name = path.strip_prefix(directory).expect("it is below");
            found.insert(name.to_owned(), content);
        }
    }
    found
}

/// The directory of an area's data: `tests/AREA`.
pub fn data(area: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(area)
}

/// The cases of an area: the directories in its own, sorted. There are some.
pub fn cases(area: &str) -> Vec<PathBuf> {
    let directory = data(area);
    let mut cases: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{directory:?}: {error}"))
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{directory:?} is empty");
    cases
}

/// Panics with the differences when the tree `expected` is not what was `found`. With
/// `UPDATE_EXPECTED` set, it becomes that.
#[track_caller]
pub fn assert_expected(expected: &Path, found: &Files) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        write(expected, found);
    }
    let differences = differences(&files(expected), found);
    assert!(
        differences.is_empty(),
        "{}: not as expected. If it is wanted, run this again with UPDATE_EXPECTED=1, and look at \
         what git says.\n{differences}",
        expected.display()
    );
}

/// Makes the directory hold exactly these files.
fn write(directory: &Path, files: &Files) {
    let written = || -> std::io::Result<()> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        for (name, content) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap_or(directory))?;
            match content {
                Content::Text(text) => fs::write(path, text)?,
                Content::Link(target) => symlink(target, path)?,
            }
        }
        Ok(())
    };
    written().unwrap_or_else(|error| panic!("{directory:?}: {error}"));
}

/// What differs, as a text to read; empty when nothing does.
fn differences(expected: &Files, found: &Files) -> String {
    let mut text = String::new();
    let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for name in names {
        let name_shown = name.display();
        match (expected.get(name), found.get(name)) {
            (expected, found) if expected == found => Ok(()),
            (Some(_), None) => writeln!(text, "{name_shown}: expected, but missing"),
            (None, Some(Content::Text(found))) => {
                writeln!(text, "{name_shown}: not expected:\n{found}")
            }
            (Some(Content::Text(expected)), Some(Content::Text(found))) => {
                let diff = TextDiff::from_lines(expected, found);
                let diff = diff.unified_diff().header("expected", "found").to_string();
                writeln!(text, "{name_shown}:\n{diff}")
            }
            (expected, found) => {
                writeln!(text, "{name_shown}: expected {expected:?}, found {found:?}")
            }
        }
        .expect("writing to a string");
    }
    text
}
