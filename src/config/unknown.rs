//! Keys that there are not, and the ones that may have been meant.

use super::problem::{Problem, Span};

/// Words from elsewhere (mount options, other tools' settings) for what has a key here.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("lowerdir", "lower-store"),
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

/// The keys of every table; the first are those of no table.
pub(super) type Tables = [(&'static str, &'static [&'static str])];

/// An unknown key in the table with this prefix (`lower.`, or nothing) and these keys.
pub(super) fn unknown_key(
    key: &str,
    span: &Span,
    prefix: &str,
    known: &[&str],
    tables: &Tables,
) -> Problem {
    let mut problem = Problem::new(format!("unknown key `{}{}`", prefix, key.escape_debug()));
    problem.unknown_key = true;
    match suggestion(key, prefix, known, tables) {
        Some(Suggestion { key, label, help }) => {
            problem.meant = Some(key);
            problem.at(span, label).help(help)
        }
        None => problem
            .at(span, "no such key")
            .help(match prefix.strip_suffix('.') {
                Some(table) => format!("the keys of `[{table}]` are {}", list(known)),
                None => format!("the keys are {}", list(known)),
            }),
    }
}

/// A key that may have been meant.
struct Suggestion {
    key: String,
    /// What to say at the wrong key.
    label: String,
    /// What to write instead.
    help: String,
}

fn suggestion(key: &str, prefix: &str, known: &[&str], tables: &Tables) -> Option<Suggestion> {
    let top = tables.first().map_or(&[][..], |(_, keys)| keys);
    let spelled = key.to_lowercase().replace('_', "-");
    let similar = |name: &str| format!("a key with a similar name exists: `{name}`");
    let suggest = |key: &str, label: String, help: String| {
        Some(Suggestion {
            key: key.to_owned(),
            label,
            help,
        })
    };
    let to_the_top = |name: &str| {
        format!("move `{name}` to the top of the file, before the first line in brackets")
    };
    // A key after a table's header belongs to that table: the usual mistake with TOML.
    if !prefix.is_empty() && top.contains(&spelled.as_str()) {
        let label = format!("`{spelled}` is not a key of this table");
        return suggest(&spelled, label, to_the_top(&spelled));
    }
    if let Some(name) = nearest(&spelled, known.iter().copied()).filter(|name| *name == spelled) {
        return suggest(
            name,
            similar(&format!("{prefix}{name}")),
            format!("write `{name}`"),
        );
    }
    let passed_on = ("parameters", super::url::PASSED_ON);
    let mut tables = tables.iter().copied().skip(1).chain([passed_on]);
    if let Some((table, _)) = tables.find(|(_, keys)| keys.contains(&spelled.as_str())) {
        let label = format!("`{spelled}` is a key of `[{table}]`");
        return suggest(
            &spelled,
            label,
            format!("move it below the line `[{table}]`"),
        );
    }
    if prefix.is_empty()
        && let Some((_, name)) = OTHER_WORDS.iter().find(|(word, _)| *word == spelled)
    {
        return suggest(
            name,
            format!("overstore calls this `{name}`"),
            format!("write `{name}`"),
        );
    }
    if let Some(name) = nearest(&spelled, known.iter().copied()) {
        return suggest(
            name,
            similar(&format!("{prefix}{name}")),
            format!("write `{name}`"),
        );
    }
    let name = nearest(&spelled, top.iter().copied())?;
    suggest(name, similar(name), to_the_top(name))
}

/// The known word that is most like `word`, if one is at all: at most a third of its letters may
/// differ, so that words of one or two letters are like no other.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = |name: &str| name.len().max(word.len()) / 3;
    known
        .into_iter()
        // Words of so different lengths are not compared, however long one is.
        .filter(|name| name.len().abs_diff(word.len()) <= most(name))
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= most(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Words in backticks, with commas.
pub(super) fn list(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_third_of_the_letters_may_differ() {
        for (word, known, meant) in [
            ("exampel", "example", Some("example")),
            ("rot", "root", Some("root")),
            ("abc", "ab", Some("ab")),
            // Any two of these would be alike.
            ("a", "b", None),
            ("a", "ab", None),
            ("ab", "ac", None),
            ("something", "else", None),
        ] {
            assert_eq!(nearest(word, [known]), meant, "{word}");
        }
    }
}
