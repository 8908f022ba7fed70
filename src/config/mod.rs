//! TOML to a validated [`Store`]; errors that point into the file. Pure: no file system, no
//! environment; what a description takes from the environment comes in as a value.

mod daemon;
mod environment;
mod gc;
mod given_paths;
mod lower;
mod mount_options;
pub(crate) mod names;
mod own;
mod parameters;
pub(crate) mod parts;
mod path;
mod problem;
mod publication;
mod quantity;
mod raw;
mod read;
mod refresh;
mod remedies;
mod store;
mod unknown;
mod url;
mod validate;
mod warm;

use toml::de::{DeTable, DeValue};

use problem::Problem;
use raw::{
    RawDaemon, RawDatabase, RawGc, RawLower, RawMount, RawPermissions, RawRefresh, RawStore,
    RawWarm,
};

pub use environment::{Auto, Environment};
pub(crate) use lower::{objects_of, places_of};
pub use problem::Errors;
pub(crate) use problem::Mistake;
pub(crate) use publication::Chosen;
pub(crate) use publication::publication_schema;
pub use publication::{PUBLICATION_KEYS, Publication, parse_publication};
pub(crate) use quantity::{Age, Size};
pub(crate) use store::{
    Daemon, Gc, Lower, MEMORY_FILE, Own, RefreshByItself, SetUpFor, Setting, WarmAtUp,
    WhenIncomplete, WhenReplaced,
};
pub use store::{MetadataSource, Store};
pub(crate) use unknown::nearest;

/// The keys of the file, by table; the first are those of no table. `[parameters]` has any.
pub const KEYS: [(&str, &[&str]); 9] = [
    ("", RawStore::KEYS),
    ("lower", RawLower::KEYS),
    ("mount", RawMount::KEYS),
    ("permissions", RawPermissions::KEYS),
    ("database", RawDatabase::KEYS),
    ("daemon", RawDaemon::KEYS),
    ("warm", RawWarm::KEYS),
    ("gc", RawGc::KEYS),
    ("refresh", RawRefresh::KEYS),
];

/// The size of a description, in bytes, above which it is not read: it is some other file then.
pub(crate) const MAX_SIZE: u64 = 1 << 20;

/// How many lines that are not TOML are shown.
const MOST_LINES: usize = 5;

/// Reads a description. `name` is the store's name, `label` what messages call the file.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub fn parse(
    name: &str,
    label: &str,
    text: &str,
    environment: &Environment,
) -> Result<Store, Errors> {
    let (mut raw, whole, mut problems) = read_keys(text, RawStore::from_table);
    let own = own::directory(name, &raw, environment);
    if let Some(directory) = &own {
        own::complete(&mut raw, directory);
    }
    let store = validate::validate(name, &raw, own, environment, whole, &mut problems);
    match store {
        Some(store) if problems.is_empty() => Ok(store),
        _ => Err(Errors::new(label, text, problems)),
    }
}

/// Reads the keys of a file with `from_table`, and what is wrong with it so far. After an error of
/// syntax, of which the `bool` says that there is none, keys may be missing because the reader lost
/// them.
fn read_keys<R>(
    text: &str,
    from_table: fn(&DeTable<'_>, &str, &mut Vec<Problem>) -> R,
) -> (R, bool, Vec<Problem>) {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut problems = Vec::new();
    let raw = from_table(table.get_ref(), "", &mut problems);
    let mut lost = syntax.iter().filter(|error| !is_duplicate(error));
    let lost = lost.find_map(toml::de::Error::span).map(|span| span.start);
    let whole = syntax.iter().all(is_duplicate);
    // After an error of syntax the reader may have taken a key for one of another table.
    problems.retain(|problem| {
        !(problem.unknown_key && lost.is_some_and(|lost| problem.start() > lost))
    });
    problems.extend(syntax_problems(&syntax, &table, text));
    (raw, whole, problems)
}

/// What fixes what [`text`] says.
pub(crate) const SAVE_AS_UTF8: &str = "save the file as UTF-8";

/// The text of a description. `label` is what messages call the file.
///
/// # Errors
/// Where it is not UTF-8, in words.
pub(crate) fn text(label: &str, content: Vec<u8>) -> Result<String, String> {
    String::from_utf8(content).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..at];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        format!(
            "{label}:{line}:{column}: expected UTF-8, as in every TOML file, found the byte 0x{:02X}",
            error.as_bytes()[at]
        )
    })
}

/// The JSON schema of the file.
pub fn schema() -> schemars::Schema {
    titled(schemars::schema_for!(RawStore), "overstore configuration")
}

/// A schema of a TOML file, with its title.
fn titled(mut schema: schemars::Schema, title: &str) -> schemars::Schema {
    schema.insert("title".to_owned(), title.into());
    schemars::transform::transform_subschemas(&mut NoNull, &mut schema);
    schema
}

/// Takes `null` away: a key of a TOML file is there or not.
struct NoNull;

impl schemars::transform::Transform for NoNull {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        schemars::transform::transform_subschemas(self, schema);
        let null = serde_json::json!({ "type": "null" });
        if let Some(serde_json::Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(serde_json::Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| *choice != null);
            if let [serde_json::Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
    }
}

/// Whether a key is there twice: that loses no other key.
fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message().starts_with("duplicate key")
}

/// The errors of syntax: one a line, since an error makes others after it, and only the first few
/// lines of a file that is something else.
fn syntax_problems(
    errors: &[toml::de::Error],
    table: &toml::Spanned<DeTable<'_>>,
    text: &str,
) -> Vec<Problem> {
    let start = |error: &&toml::de::Error| error.span().map_or(text.len(), |span| span.start);
    let mut errors: Vec<_> = errors.iter().collect();
    errors.sort_by_key(start);
    let mut problems = Vec::new();
    // The beginning of the last error's line, and how many lines have errors.
    let (mut last, mut lines) = (None, 0);
    let (mut looked_at, mut line) = (0, None);
    for error in errors {
        let start = start(&error);
        let since = text.get(looked_at..start).unwrap_or_default();
        line = since.rfind('\n').map(|at| looked_at + at).or(line);
        looked_at = start;
        let first_of_line = last.replace(line) != Some(line);
        lines += usize::from(first_of_line);
        if is_duplicate(error) || (first_of_line && lines <= MOST_LINES) {
            // Where a key was given first is looked for in the whole file.
            let table = (problems.len() < problem::MOST_TOLD).then_some(table);
            problems.push(syntax_problem(error, table, text));
        }
    }
    if lines > MOST_LINES {
        let more = lines - MOST_LINES;
        problems.push(
            Problem::new(format!("{more} more lines are not TOML"))
                .help("is it another file? `overstore new` prints one to start from"),
        );
    }
    problems
}

fn syntax_problem(
    error: &toml::de::Error,
    table: Option<&toml::Spanned<DeTable<'_>>>,
    text: &str,
) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    if !is_duplicate(error) {
        return Problem::new("this is not TOML").at(&span, error.message());
    }
    let key = text.get(span.clone()).unwrap_or_default();
    let problem = Problem::new(format!("`{key}` is given twice"))
        .at(&span, "given again here")
        .help("keep one of the two");
    match table.and_then(|table| first_use(table.get_ref(), key, span.start)) {
        Some(first) => problem.at(&first, "first given here"),
        None => problem,
    }
}

/// The last place before `end` where a key of this name stands: where a key that is there twice was
/// given first.
fn first_use(table: &DeTable<'_>, key: &str, end: usize) -> Option<problem::Span> {
    let below = table
        .iter()
        .filter_map(|(name, value)| match value.get_ref() {
            DeValue::Table(inner) => first_use(inner, key, end),
            _ => (name.get_ref() == key).then(|| name.span()),
        });
    below
        .filter(|span| span.start < end)
        .max_by_key(|span| span.start)
}
