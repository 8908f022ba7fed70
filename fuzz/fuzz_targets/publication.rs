//! A publication of which every byte is somebody else's: its link, and what overstore writes into a
//! generation.
#![no_main]

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use overstore::testing::lower::{Publication, PublicationError};
use overstore::testing::remedy::HasRemedy;

#[derive(Debug, Arbitrary)]
struct Input {
    current: Vec<u8>,
    generations: Vec<Generation>,
}

#[derive(Debug, Arbitrary)]
struct Generation {
    /// Not always that of its directory.
    number: u8,
    record: Record,
    changes: Option<Vec<Line>>,
    retired: Option<Vec<u8>>,
}

#[derive(Debug, Arbitrary)]
enum Record {
    Values {
        version: u8,
        before: Option<u8>,
        publication: String,
        store: String,
        left: u8,
        changed: u8,
    },
    Bytes(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Line {
    Left(u8),
    Changed(u8),
    Bytes(Vec<u8>),
}

impl Generation {
    fn record(&self) -> Vec<u8> {
        match &self.record {
            Record::Bytes(bytes) => bytes.clone(),
            Record::Values {
                version,
                before,
                publication,
                store,
                left,
                changed,
            } => {
                let before = before.map_or("null".to_owned(), |it| it.to_string());
                let number = self.number;
                format!(
                    "{{\"version\": {version}, \"publication\": {publication:?}, \"number\": {number}, \
                     \"before\": {before}, \"time\": 1, \"store\": {store:?}, \"paths\": 1, \
                     \"references\": 1, \"roots\": 1, \"added\": 1, \"left\": {left}, \
                     \"changed\": {changed}}}"
                )
                .into_bytes()
            }
        }
    }
}

fn changes(lines: &[Line]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        let path = |number: &u8| format!("{number:0>32}-a");
        match line {
            Line::Left(number) => text.extend(format!("- {}\n", path(number)).bytes()),
            Line::Changed(number) => text.extend(format!("~ {}\n", path(number)).bytes()),
            Line::Bytes(bytes) => text.extend(bytes),
        }
    }
    text
}

/// Errors are shown to people, and to the journal, in one line.
fn expect_one_line(error: &PublicationError) {
    let mut text = String::new();
    write!(text, "{error} {}", error.remedy()).expect("it can be shown");
    assert!(!text.contains(char::is_control), "{text:?}");
}

fuzz_target!(|input: Input| {
    let root = tempfile::tempdir().expect("a temporary directory");
    let write = |path: &Path, content: &[u8]| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    };
    for (at, generation) in input.generations.iter().enumerate() {
        let own = root
            .path()
            .join(format!("generations/{}/overstore", at + 1));
        write(&own.join("generation.json"), &generation.record());
        if let Some(lines) = &generation.changes {
            write(&own.join("changes"), &changes(lines));
        }
        if let Some(retired) = &generation.retired {
            write(&own.join("retired.json"), retired);
        }
    }
    // Not every text is that of a link.
    let _ = std::os::unix::fs::symlink(
        OsStr::from_bytes(&input.current),
        root.path().join("current"),
    );
    let publication = Publication::open(root.path()).expect("a directory");
    match publication.current() {
        Ok(number) => assert!(number > 0),
        Err(error) => expect_one_line(&error),
    }
    let mut read = Vec::new();
    for number in 1..=input.generations.len() as u64 + 1 {
        match publication.generation(number) {
            Ok(Some(listed)) => {
                assert_eq!(listed.generation.number, number);
                read.push(listed.generation);
            }
            Ok(None) => assert!(number > input.generations.len() as u64),
            Err(error) => expect_one_line(&error),
        }
    }
    for then in &read {
        for now in &read {
            match publication.changes(then, now) {
                Ok(Some(changes)) => {
                    let told: u64 = read.iter().map(|it| it.left + it.changed).sum();
                    assert!(changes.paths.len() as u64 <= told);
                    assert!(then.number <= now.number && then.publication == now.publication);
                }
                Ok(None) => {}
                Err(error) => expect_one_line(&error),
            }
        }
    }
});
