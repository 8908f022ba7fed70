//! TOML to a validated [`Store`]; errors that point into the file. Pure: no file system, no
//! environment; what a description takes from the environment comes in as a value.

mod environment;
mod lower;
mod mount_options;
mod parts;
mod path;
mod problem;
mod raw;
mod read;
mod store;
mod unknown;
mod url;
mod validate;

use toml::de::DeTable;

use problem::Problem;
use raw::RawStore;

pub use environment::{Auto, Environment};
pub use problem::Errors;
pub use store::{Daemon, Lower, MetadataSource, Setting, Store};

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
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = syntax
        .iter()
        .map(|error| syntax_problem(error, text))
        .collect();
    let whole = syntax.iter().all(is_duplicate);
    let raw = RawStore::from_table(table.get_ref(), "", &mut problems);
    let store = validate::validate(name, &raw, environment, whole, &mut problems);
    match store {
        Some(store) if problems.is_empty() => Ok(store),
        _ => Err(Errors::new(label, text, problems)),
    }
}

/// Whether a key is there twice: that loses no other key.
fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message().starts_with("duplicate key")
}

fn syntax_problem(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    if is_duplicate(error) {
        let key = text.get(span.clone()).unwrap_or_default();
        return Problem::new(format!("`{key}` is given twice"))
            .at(&span, "given again here")
            .help("keep one of the two");
    }
    Problem::new("this is not TOML").at(&span, error.message())
}
