//! The manual says what the program does.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use overstore::config::{self, Environment, KEYS};

const CONFIGURATION: &str = include_str!("../docs/configuration.md");

/// The blocks of the manual in a language.
fn blocks<'a>(language: &str, text: &'a str) -> Vec<&'a str> {
    let start = format!("\n```{language}\n");
    let blocks = text.split(&start).skip(1);
    blocks
        .map(|block| block.split("\n```").next().unwrap())
        .collect()
}

#[test]
fn the_examples_are_descriptions() {
    let blocks = blocks("toml", CONFIGURATION);
    assert!(blocks.len() > 5);
    for block in blocks {
        config::parse(
            "example",
            "configuration.md",
            block,
            &Environment::default(),
        )
        .unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn the_worked_example_has_its_url() {
    let (example, url) = (
        blocks("toml", CONFIGURATION)[0],
        blocks("url", CONFIGURATION)[0],
    );
    let store = config::parse("example", "x", example, &Environment::default()).unwrap();
    assert_eq!(store.reference().render_for_all().unwrap(), url);
    let hook = Environment {
        remount_hook: Some("/h".into()),
        ..Environment::default()
    };
    let store = config::parse("example", "x", example, &hook).unwrap();
    assert_eq!(store.remount_hook.as_deref(), Some(Path::new("/h")));
}

#[test]
fn every_key_is_in_the_table() {
    for (table, keys) in KEYS {
        for key in keys
            .iter()
            .filter(|key| KEYS.iter().all(|(table, _)| table != *key))
        {
            let name = if table.is_empty() {
                (*key).to_owned()
            } else {
                format!("{table}.{key}")
            };
            let name = if name == "parameters" {
                "parameters.*"
            } else {
                &name
            };
            assert!(
                CONFIGURATION.contains(&format!("\n| [`{name}`](#")),
                "{name}"
            );
        }
    }
}

/// The table of forms is about `lower-store` values that are taken.
#[test]
fn the_forms_of_lower_store_are_taken() {
    let table = CONFIGURATION.split("| form | store |").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let forms: Vec<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .collect();
    assert!(forms.len() >= 9, "{forms:?}");
    for form in forms {
        let text = format!(
            "root = \"/srv/merged\"\nlower-store = {form:?}\nupper-layer = \"/srv/upper\"\nworkdir = \"/srv/work\"\n"
        );
        config::parse("example", "x", &text, &Environment::default())
            .unwrap_or_else(|errors| panic!("{errors}"));
    }
}
