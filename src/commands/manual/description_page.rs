//! overstore.toml(5): every key, as the JSON schemas have them.

use serde_json::Value;

use super::page::Page;
use crate::config;

const STORE: &str = r#"root        = "/mnt/example/merged-store"
lower-store = "/mnt/example/store-a"
upper-layer = "/mnt/example/store-b"
workdir     = "/mnt/example/workdir""#;

pub(super) fn page() -> Page {
    let mut page = Page::new(
        "overstore.toml",
        "5",
        "description of a local-overlay store, or of a publication",
    );
    page.section("DESCRIPTION");
    page.text_of(
        "A TOML file describes one store; the file's name without .toml is the store's name. Paths are \
         absolute and have no `..`. Keys outside of a table stand before the first line in brackets. \
         overstore-new(1) prints a commented file to start from.",
    );
    page.section("KEYS OF A STORE");
    keys(&mut page, &config::schema().to_value());
    page.section("KEYS OF A PUBLICATION");
    page.text_of("These are in the files of /etc/overstore/publications.");
    keys(&mut page, &config::publication_schema().to_value());
    page.section("EXAMPLES");
    page.text_of("The worked example of the manual of Nix:");
    page.lines(STORE);
    page.section("FILES");
    page.text_of(
        "/etc/overstore/NAME.toml, /run/overstore/NAME.toml, /usr/lib/overstore/NAME.toml, \
         $XDG_CONFIG_HOME/overstore/NAME.toml, /etc/overstore/publications/NAME.toml",
    );
    page.section("SEE ALSO");
    page.text_of("overstore(1), overstore-new(1), overstore-plan(1), overstore-generator(8)");
    page
}

/// The keys at the top, then those of each table.
fn keys(page: &mut Page, schema: &Value) {
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let table = |key: &Value| {
        let name = key["$ref"].as_str()?.rsplit('/').next()?.to_owned();
        schema["$defs"][name]["properties"].as_object()
    };
    for (name, key) in properties.iter().filter(|(_, key)| table(key).is_none()) {
        item(page, name, key);
    }
    for (name, key) in properties {
        let Some(inside) = table(key) else { continue };
        page.subsection(&format!("[{name}]"));
        page.text_of(key["description"].as_str().unwrap_or_default());
        for (name, key) in inside {
            item(page, name, key);
        }
    }
}

fn item(page: &mut Page, name: &str, key: &Value) {
    let description = key["description"].as_str().unwrap_or_default();
    let paragraphs: Vec<String> = description
        .split("\n\n")
        .map(|it| it.replace('\n', " "))
        .collect();
    let mut texts: Vec<&str> = paragraphs.iter().map(String::as_str).collect();
    let example = key["examples"][0].to_string();
    let example = format!("Such as: {example}");
    if key["examples"][0].is_string() {
        texts.push(&example);
    }
    page.item(&format!("{name} ({})", kind(key)), &texts);
}

/// What a key takes, in a few words.
fn kind(key: &Value) -> String {
    let name = |kind: &str| {
        match kind {
            "array" => "array of strings",
            "object" => "table",
            kind => kind,
        }
        .to_owned()
    };
    let kinds: Vec<String> = match (&key["type"], &key["anyOf"]) {
        (Value::String(kind), _) => vec![name(kind)],
        (Value::Array(kinds), _) => kinds.iter().filter_map(Value::as_str).map(name).collect(),
        (_, Value::Array(choices)) => choices
            .iter()
            .map(|choice| match &choice["const"] {
                Value::Null => kind(choice),
                constant => constant.to_string(),
            })
            .collect(),
        _ => vec!["string".to_owned()],
    };
    let kinds: Vec<String> = kinds.into_iter().filter(|it| it != "null").collect();
    kinds.join(" or ")
}
