//! Keys that there are not, and the ones that may have been meant.

use super::KEYS;
use super::problem::{Problem, Span};
use super::raw::RawStore;

/// Words from elsewhere (mount options, other tools' settings) for what has a key here.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("lowerdir", "lower-store"),
    ("lower", "lower-store"),
    ("upperdir", "upper-layer"),
    ("upper", "upper-layer"),
    ("work", "workdir"),
    ("work-dir", "workdir"),
    ("merged", "real"),
    ("mountpoint", "real"),
    ("mount-point", "real"),
    ("store-dir", "store"),
    ("state-dir", "state"),
    ("log-dir", "log"),
];

/// An unknown key in the table with this prefix (`lower.`, or nothing) and these keys.
pub(super) fn unknown_key(key: &str, span: &Span, prefix: &str, known: &[&str]) -> Problem {
    let problem = Problem::new(format!("unknown key `{}{}`", prefix, key.escape_debug()));
    match suggestion(key, prefix, known) {
        Some((label, help)) => problem.at(span, label).help(help),
        None => problem
            .at(span, "no such key")
            .help(match prefix.strip_suffix('.') {
                Some(table) => format!("the keys of `[{table}]` are {}", list(known)),
                None => format!("the keys are {}", list(known)),
            }),
    }
}

/// What to say at the key, and what to write instead.
fn suggestion(key: &str, prefix: &str, known: &[&str]) -> Option<(String, String)> {
    let moved = |table: &str, name: &str| {
        (
            format!("`{name}` is a key of `[{table}]`"),
            format!("move it below the line `[{table}]`"),
        )
    };
    let spelled = key.to_lowercase().replace('_', "-");
    // A key after a table's header belongs to that table: the usual mistake with TOML.
    if !prefix.is_empty() && RawStore::KEYS.contains(&spelled.as_str()) {
        return Some((
            format!("`{spelled}` is not a key of this table"),
            format!("move `{spelled}` to the top of the file, before the first line in brackets"),
        ));
    }
    let passed_on = ("parameters", super::url::PASSED_ON);
    let mut tables = KEYS.into_iter().skip(1).chain([passed_on]);
    if let Some((table, _)) = tables.find(|(_, keys)| keys.contains(&spelled.as_str()))
        && !known.contains(&spelled.as_str())
    {
        return Some(moved(table, &spelled));
    }
    let similar = |name: &str| format!("a key with a similar name exists: `{prefix}{name}`");
    if prefix.is_empty()
        && let Some((_, name)) = OTHER_WORDS.iter().find(|(word, _)| *word == spelled)
    {
        return Some((
            format!("overstore calls this `{name}`"),
            format!("write `{name}`"),
        ));
    }
    if let Some(name) = nearest(&spelled, known) {
        return Some((similar(name), format!("write `{name}`")));
    }
    let name = nearest(&spelled, RawStore::KEYS)?;
    (!prefix.is_empty()).then(|| {
        (
            format!("a key with a similar name exists: `{name}`"),
            format!("move `{name}` to the top of the file, before the first line in brackets"),
        )
    })
}

/// The known word that is most like `word`, if one is at all.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), *name))
        .filter(|(distance, name)| *distance <= (name.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Words in backticks, with commas.
pub(super) fn list(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}
