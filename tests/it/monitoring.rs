//! What a monitor is told: `status --json` and its schema, `status --metrics` and node_exporter's format,
//! and the page about both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::owner::{LIVE, Owner, PLACE};
use crate::support::{World, skip};

fn page_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md")
}

/// A part of the page between its marks; with `UPDATE_EXPECTED` it is written.
fn assert_part(name: &str, expected: &str) {
    let text = fs::read_to_string(page_file()).unwrap();
    let begin = format!("<!-- begin: {name}, held by a test -->\n");
    let end = format!("<!-- end: {name} -->");
    let (before, rest) = text.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    if found != expected && std::env::var_os("UPDATE_EXPECTED").is_some() {
        let text = format!("{before}{begin}{expected}{end}{after}");
        fs::write(page_file(), text).unwrap();
        return;
    }
    assert_eq!(found, expected, "UPDATE_EXPECTED=1 writes it");
}

/// The fields of an object of a schema: their paths, and what is said of them.
fn fields(schema: &Value, object: &Value, above: &str, found: &mut Vec<(String, String)>) {
    let Some(properties) = object["properties"].as_object() else {
        return;
    };
    for (name, property) in properties {
        let path = format!("{above}{name}");
        let text = property["description"].as_str().unwrap_or_default();
        found.push((path.clone(), text.replace('\n', " ")));
        let variants = property["anyOf"].as_array().into_iter().flatten();
        let items = property.get("items").into_iter();
        for inner in variants.chain(items).chain([property]) {
            let reference = inner["$ref"].as_str().unwrap_or_default();
            if let Some(name) = reference.strip_prefix("#/$defs/") {
                let list = property.get("items").is_some();
                let separator = if list { "[]." } else { "." };
                fields(
                    schema,
                    &schema["$defs"][name],
                    &format!("{path}{separator}"),
                    found,
                );
            }
        }
    }
}

/// The paths of the fields in what was printed.
fn paths(value: &Value, above: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = format!("{above}{name}");
                found.insert(path.clone());
                paths(value, &format!("{path}."), found);
            }
        }
        Value::Array(items) => {
            let above = format!("{}[].", above.trim_end_matches('.'));
            for item in items {
                paths(item, &above, found);
            }
        }
        _ => {}
    }
}

/// A store over a publication with all that can be told of one: warmed, refreshed, collected, on a
/// generation that is retired.
fn fleet(world: &World) -> Owner<'_> {
    let owner = Owner::new(world, "");
    owner.root("chain", &owner.lower.path("chain-3"));
    owner.published();
    world.mkdir("/mnt/above");
    world.write(
        "/etc/overstore/above.toml",
        format!(
            "root = \"/mnt/above/merged\"\nupper-layer = \"/mnt/above/upper\"\n\
             workdir = \"/mnt/above/work\"\n[lower]\npublication = {PLACE:?}\n\
             real = \"{LIVE}/nix/store\"\n"
        ),
    );
    world.overstore(["up", "above"]).ok();
    world.overstore(["warm", "--all", "above"]).ok();
    world.write("/tmp/garbage", "garbage");
    let url = world.overstore(["url", "above"]).ok();
    let add = world.nix(["nix-store", "--add", "/tmp/garbage"]);
    add.args(["--store", url.trim()]).ok();
    world.overstore(["gc", "above"]).ok();
    for name in ["second", "third"] {
        owner.root(name, &owner.add(name));
        owner.published();
        if name == "second" {
            world.overstore(["refresh", "above"]).ok();
        }
    }
    world.overstore(["publish", "--retire", "2", "main"]).ok();
    owner
}

/// The page names every field that the schema has, and what is printed has no other.
#[test]
fn the_page_has_the_fields_of_status() {
    let Some(world) = World::trixie() else { return };
    let _owner = fleet(&world);
    let schema: Value = serde_json::from_str(&world.overstore(["schema", "status"]).ok()).unwrap();
    let mut described = Vec::new();
    fields(&schema, &schema, "", &mut described);
    let rows = described
        .iter()
        .map(|(path, text)| format!("| `{path}` | {text} |\n"));
    let table: String = rows.collect();
    assert_part(
        "status",
        &format!("\n| field | is |\n| --- | --- |\n{table}\n"),
    );

    let said = world
        .overstore(["status", "--all", "--sizes", "--json"])
        .ok();
    let told: Value = serde_json::from_str(&said).unwrap();
    let status = &told["stores"][0]["result"];
    let mut printed = BTreeSet::new();
    paths(status, "", &mut printed);
    let described: BTreeSet<String> = described.into_iter().map(|(path, _)| path).collect();
    let unknown: Vec<&String> = printed.difference(&described).collect();
    assert!(unknown.is_empty(), "not in the schema: {unknown:?}");
    // Everything that a monitor needs is there.
    for needed in [
        "time",
        "outcome",
        "mounted",
        "now.errors",
        "now.warnings",
        "content.objects",
        "sizes.upper-layer",
        "file-system.free",
        "generation.number",
        "generation.current",
        "generation.time",
        "generation.retired-until",
        "collected.time",
        "collected.bytes",
        "refreshed.time",
        "warmed.time",
    ] {
        assert!(printed.contains(needed), "{needed}: {said}");
    }
    assert_eq!(status["outcome"], "unchanged", "{said}");
    assert_eq!(status["refreshed"]["generation"], 2, "{said}");
    assert_eq!(status["now"]["warnings"][0], "generation-retired", "{said}");
}

/// What the text format says of metrics: the help of each, and its samples by labels.
fn parse(text: &str) -> BTreeMap<String, (String, BTreeMap<String, f64>)> {
    let mut metrics: BTreeMap<String, (String, BTreeMap<String, f64>)> = BTreeMap::new();
    let mut current = String::new();
    let mut is_typed = false;
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            let before = metrics.insert(name.to_owned(), (help.to_owned(), BTreeMap::new()));
            assert!(before.is_none(), "{name} comes twice");
            name.clone_into(&mut current);
            is_typed = false;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind, format!("{current} gauge"));
            is_typed = true;
        } else {
            assert!(is_typed, "{line}");
            let (name, rest) = line.split_once('{').unwrap();
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            assert_eq!(name, current);
            let samples = &mut metrics.get_mut(name).unwrap().1;
            let value: f64 = value.parse().unwrap();
            let before = samples.insert(labels.to_owned(), value);
            assert!(before.is_none(), "{line} comes twice");
        }
    }
    metrics
}

/// The unit of the page, run as it stands, makes a file that has every metric of the page.
#[test]
fn the_recipe_makes_the_metrics_of_the_page() {
    let Some(world) = World::trixie() else { return };
    let _owner = fleet(&world);
    world.write("/etc/overstore/wrong.toml", "nonsense = 1\n");
    let text = fs::read_to_string(page_file()).unwrap();
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    world.mkdir("/var/lib/prometheus/node-exporter");
    let outcome = world.run(["sh", "-c", command]);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(
        world.list("/var/lib/prometheus/node-exporter"),
        ["overstore.prom"]
    );
    let written =
        String::from_utf8(world.read("/var/lib/prometheus/node-exporter/overstore.prom")).unwrap();
    let metrics = parse(&written);
    let value = |name: &str, labels: &str| metrics[name].1.get(labels).copied();
    assert_eq!(
        value("overstore_status_success", "store=\"above\""),
        Some(1.0)
    );
    assert_eq!(
        value("overstore_status_success", "store=\"wrong\""),
        Some(0.0)
    );
    assert_eq!(value("overstore_mounted", "store=\"above\""), Some(1.0));
    assert_eq!(value("overstore_errors", "store=\"above\""), Some(0.0));
    assert_eq!(value("overstore_generation", "store=\"above\""), Some(2.0));
    assert_eq!(
        value("overstore_generation_current", "store=\"above\""),
        Some(3.0)
    );
    let retired = "store=\"above\",severity=\"warning\",code=\"generation-retired\"";
    assert_eq!(value("overstore_finding", retired), Some(1.0));

    let whole = world
        .overstore(["status", "--all", "--sizes", "--metrics"])
        .ok();
    promtool(&whole);
    let rows: String = parse(&whole)
        .iter()
        .map(|(name, (help, _))| format!("| `{name}` | {help} |\n"))
        .collect();
    assert_part(
        "metrics",
        &format!("\n| metric | is |\n| --- | --- |\n{rows}\n"),
    );
    // What the alerts ask for is there.
    let rules = text.split("```yaml\n").nth(1).unwrap();
    let rules = rules.split("```").next().unwrap();
    for word in rules.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
        if word.starts_with("overstore_") {
            assert!(parse(&whole).contains_key(word), "{word}");
        }
    }
    let refused = world
        .overstore(["status", "--all", "--metrics", "--json"])
        .run();
    assert_eq!(refused.code(), Some(2), "{refused}");
}

/// Prometheus's own tool has nothing to say against it, where it is installed: it is a large package, so
/// `make soak` is where it has to be.
fn promtool(text: &str) -> bool {
    use std::io::Write;

    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return false };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    true
}

/// The query of the page finds the store that is not as described.
#[test]
#[ignore = "jq is not what CI installs: `make soak`"]
fn soak_jq_takes_the_json() {
    let Some(world) = World::trixie() else { return };
    if Command::new("jq").arg("--version").output().is_err() {
        return skip("jq", "it is not installed");
    }
    let _owner = fleet(&world);
    world.ok(["umount", "/mnt/above/merged/nix/store"]);
    let status = world.overstore(["status", "--all", "--json"]).ok();
    let text = fs::read_to_string(page_file()).unwrap();
    let query = text.split("```sh\n").nth(1).unwrap();
    let (command, query) = query.split("```").next().unwrap().split_once('|').unwrap();
    assert_eq!(command.trim(), "overstore status --all --json");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), status).unwrap();
    let query = format!("{} <{}", query.trim(), file.path().display());
    let found = Command::new("sh").args(["-c", &query]).output().unwrap();
    assert!(found.status.success(), "{found:?}");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "above\n");
}

#[test]
#[ignore = "Prometheus is a large package: `make soak`"]
fn soak_promtool_takes_metrics_and_alerts() {
    let Some(world) = World::trixie() else { return };
    let _owner = fleet(&world);
    let whole = world
        .overstore(["status", "--all", "--sizes", "--metrics"])
        .ok();
    if !promtool(&whole) {
        return skip("promtool", "there is no promtool (Debian: prometheus)");
    }
    let text = fs::read_to_string(page_file()).unwrap();
    let rules = text.split("```yaml\n").nth(1).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("rules.yml");
    fs::write(&file, rules.split("```").next().unwrap()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
