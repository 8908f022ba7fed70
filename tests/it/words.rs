//! The words that the glossary in `docs/architecture.md` rules out do not come back.

use std::fs;
use std::path::Path;

/// What is not said, in lower case; as words, or the beginnings of some.
const RULED_OUT: [&str; 8] = [
    "metadata up",
    "metadata copied up",
    "metadata is copied up",
    "metadata was copied up",
    "has not got",
    "look after",
    "looks after",
    " mend",
];

#[test]
fn words_that_are_ruled_out_are_not_used() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for place in ["README.md", "SECURITY.md", "docs", "nixos", "src"] {
        search(&top.join(place), &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn search(path: &Path, found: &mut Vec<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            search(&entry.unwrap().path(), found);
        }
        return;
    }
    let of_people = ["md", "nix", "rs", "toml"]
        .iter()
        .any(|end| path.extension().is_some_and(|found| found == *end));
    // The glossary names them.
    if !of_people || path.ends_with("docs/architecture.md") {
        return;
    }
    for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let line = line.to_lowercase();
        if let Some(words) = RULED_OUT.iter().find(|words| line.contains(**words)) {
            found.push(format!("{}:{}: {words}", path.display(), number + 1));
        }
    }
}
