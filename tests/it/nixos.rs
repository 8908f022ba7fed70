//! The NixOS module, evaluated with real Nix and the real `lib` of nixpkgs, beside stubs for what
//! else it meets in NixOS (`tests/nixos/`), and the program run on what comes out, as a build of a
//! system would run it.
//!
//! `OVERSTORE_NIXPKGS` says where a nixpkgs is, of which `lib` is enough here; `nixos_whole.rs` needs
//! all of it. The tests that need it are skipped without. What was
//! expected is in `vm-tests/scenarios/nixos-units/rendered/`; after a wanted change, `UPDATE_EXPECTED=1 cargo test
//! --test it nixos::` writes what comes out over it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::nixos_whole::{InitrdUnit, assert_order};
use crate::support::{Content, Files, Run, Tree, World, assert_expected, files, skip};
use overstore::testing::config::{KEYS, PUBLICATION_KEYS};
use serde_json::Value;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// A World with the project in `/source`, for each Nix there is.
fn worlds() -> impl Iterator<Item = World> {
    Tree::all()
        .into_iter()
        .map(|tree| World::showing(tree, &[(Path::new(SOURCE), "/source")]))
}

/// The same with nixpkgs in `/nixpkgs`; none (reported) where that is not to be had.
pub fn worlds_with_nixpkgs() -> Vec<World> {
    let Some(nixpkgs) = std::env::var_os("OVERSTORE_NIXPKGS") else {
        skip(
            "nixpkgs",
            "OVERSTORE_NIXPKGS does not say where a nixpkgs is",
        );
        return Vec::new();
    };
    let shown = [
        (Path::new(SOURCE), "/source"),
        (Path::new(&nixpkgs), "/nixpkgs"),
    ];
    Tree::all()
        .into_iter()
        .map(|tree| World::showing(tree, &shown))
        .collect()
}

/// Nix, with what the evaluation wants.
pub fn nix<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    world
        .nix(words)
        .env("OVERSTORE_NIXPKGS", "/nixpkgs")
        .env("NIX_PATH", "")
}

/// An attribute of `tests/nixos/evaluate.nix`.
pub fn evaluated(world: &World, attribute: &str) -> Value {
    let json = nix(
        world,
        &[
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "--show-trace",
        ],
    )
    .args(["/source/tests/nixos/evaluate.nix", "--attr", attribute])
    .ok();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn the_examples_have_nothing_to_object_to() {
    for world in worlds_with_nixpkgs() {
        let said = evaluated(&world, "examples.said");
        let said = said.as_object().unwrap();
        assert!(said.len() >= 4);
        for (example, said) in said {
            assert_eq!(said["assertions"], Value::Array(Vec::new()), "{example}");
            assert_eq!(said["warnings"], Value::Array(Vec::new()), "{example}");
        }
    }
}

/// What a store at `/nix/store` needs is mounted in the initrd, without anybody saying so; nothing else
/// is.
#[test]
fn the_file_systems_of_the_systems_store_are_needed_for_boot() {
    for world in worlds_with_nixpkgs() {
        let needed = evaluated(&world, "examples.neededForBoot");
        let expected = |name: &str| match name {
            "micro-vm" => serde_json::json!(["/", "/nix", "/nix/.ro-state", "/nix/.ro-store"]),
            "netboot" | "system-daemon" => {
                serde_json::json!(["/", "/nix/.ro-store", "/nix/.rw-store"])
            }
            _ => serde_json::json!([]),
        };
        for (name, needed) in needed.as_object().unwrap() {
            assert_eq!(*needed, expected(name), "{name}");
        }
    }
}

#[test]
fn every_objection_is_made_to_a_configuration_made_for_it() {
    let Some(world) = worlds_with_nixpkgs().into_iter().next() else {
        return;
    };
    let mistakes = evaluated(&world, "mistakes");
    let mut made = BTreeSet::new();
    for (name, mistake) in mistakes.as_object().unwrap() {
        let said: Vec<&str> = ["assertions", "warnings"]
            .iter()
            .flat_map(|kind| mistake["said"][kind].as_array().unwrap())
            .map(|message| message.as_str().unwrap())
            .collect();
        let expected = mistake["says"].as_str().unwrap();
        assert!(
            said.len() == 1 && said[0].replace('\n', " ").contains(expected),
            "{name}: expected one objection, with `{expected}`, found {said:#?}"
        );
        // A remedy is a line of its own.
        assert!(
            said[0].trim_end().lines().count() >= 2,
            "{name}: {}",
            said[0]
        );
        made.insert(expected);
    }
    let checks = fs::read_to_string(Path::new(SOURCE).join("nixos/checks.nix")).unwrap();
    let there = checks.matches("message = ''").count()
        + checks.matches("+ optional (").count()
        + checks.matches("    optional (lib.versionAtLeast").count()
        + checks.matches("++ map (name: ''").count();
    assert_eq!(
        made.len(),
        there,
        "one configuration for each objection of checks.nix"
    );
}

/// The files of a directory, with the hashes of store paths gone from their texts.
fn files_without_hashes(directory: &Path) -> Files {
    let mut found = files(directory);
    for content in found.values_mut() {
        if let Content::Text(text) = content {
            *text = without_hashes(text);
        }
    }
    found
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

pub fn without_hashes(text: &str) -> String {
    let mut parts = text.split("/nix/store/");
    let mut result = parts.next().unwrap().to_owned();
    for part in parts {
        result += "/nix/store/";
        match part.split_at_checked(32) {
            Some((hash, rest))
                if rest.starts_with('-') && hash.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                result += "HASH";
                result += rest;
            }
            _ => result += part,
        }
    }
    result
}

/// The files are built by Nix, and the units in them by the program, which refuses a description
/// that is wrong: this is what a build of the system would do.
#[test]
fn the_examples_become_the_expected_files() {
    for world in worlds_with_nixpkgs() {
        let examples = evaluated(&world, "examples.said");
        for example in examples.as_object().unwrap().keys() {
            let attribute = format!("examples.trees.{example}");
            let built = build(&world, &["--attr", &attribute]).ok();
            let found = files_without_hashes(&world.path(built.trim()));
            let expected = Path::new(SOURCE)
                .join("vm-tests/scenarios/nixos-units/rendered")
                .join(example);
            assert_expected(&expected, &found);
        }
    }
}

fn build<'w>(world: &'w World, arguments: &[&str]) -> Run<'w> {
    nix(
        world,
        &["nix-build", "--no-out-link", "--option", "sandbox", "false"],
    )
    .args(["--option", "build-users-group", ""])
    .args(["/source/tests/nixos/evaluate.nix"])
    .args(arguments)
}

#[test]
fn a_mistake_in_a_description_stops_the_build_with_the_programs_message() {
    for world in worlds_with_nixpkgs() {
        world.write(
            "/mnt/wrong.nix",
            "{ services.overstore.stores.wrong.settings = {\n\
               root = \"/srv/merged\"; lower-store = \"/srv/lower\"; upper-layer = \"srv/upper\";\n\
               workdir = \"/srv/work\"; lower-stroe = \"x\"; }; }\n",
        );
        let file = ["--attr", "other", "--arg", "file", "/mnt/wrong.nix"];
        let refused = build(&world, &file).fails();
        for part in [
            "wrong.toml",
            "upper-layer",
            "srv/upper",
            "lower-stroe",
            "lower-store",
        ] {
            assert!(refused.stderr().contains(part), "{part}: {refused}");
        }
    }
}

/// Without `lib`: the expected units are what the program makes of the expected descriptions.
#[test]
fn the_expected_units_are_what_the_program_makes() {
    let mut count = 0;
    for example in
        fs::read_dir(Path::new(SOURCE).join("vm-tests/scenarios/nixos-units/rendered")).unwrap()
    {
        let etc = example.unwrap().path().join("etc");
        let place = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        let output = place.path().join("units");
        let mut make = Command::new(env!("CARGO_BIN_EXE_overstore"));
        make.args(["units", "--program", "/usr/bin/overstore"])
            .args(["--nix-daemon", "/nix-package/bin/nix-daemon", "--output"])
            .arg(&output);
        for (name, content) in files(&etc.join("overstore")) {
            // What is booted is the same again.
            let counts = has_extension(&name, "toml") && !name.starts_with("booted");
            if let (Content::Text(text), true) = (content, counts) {
                let file = place.path().join(name.file_name().unwrap());
                fs::write(&file, text).unwrap();
                if name.starts_with("publications") {
                    make.arg("--publication");
                }
                make.arg(file);
                names.push(PathBuf::from(name.file_name().unwrap()));
            }
        }
        let made = make.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let expected = files(&etc.join("systemd/system"));
        for (unit, content) in files(&output) {
            let Content::Text(mut text) = content else {
                continue;
            };
            for name in &names {
                let here = place.path().join(name).display().to_string();
                let store = name.file_stem().unwrap().display();
                let there = format!("/nix/store/HASH-overstore-{store}/{}", name.display());
                text = text.replace(&here, &there);
            }
            if std::env::var_os("UPDATE_EXPECTED").is_some() {
                fs::write(etc.join("systemd/system").join(&unit), &text).unwrap();
                if has_extension(&unit, "env") {
                    fs::write(etc.join("overstore").join(&unit), &text).unwrap();
                }
                continue;
            }
            assert_eq!(
                expected[&unit],
                Content::Text(text),
                "{}: {}",
                etc.display(),
                unit.display()
            );
            count += 1;
        }
    }
    let updates = std::env::var_os("UPDATE_EXPECTED").is_some();
    assert!(updates || count >= 10, "only {count} units were compared");
}

#[test]
fn units_of_wrong_descriptions_are_not_written() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, more: &str| {
        let path = place.path().join(format!("{name}.toml"));
        let text = format!(
            "root = \"/{name}/merged\"\nlower-store = \"/lower\"\n\
             upper-layer = \"/{name}/upper\"\nworkdir = \"/{name}/work\"\n{more}\n"
        );
        fs::write(&path, text).unwrap();
        path
    };
    let first = file("first", "daemon.serve = true");
    for (second, says) in [
        (file("typo", "chekc-mount = false"), "check-mount"),
        (
            file("second", "daemon.serve = true"),
            "served at the same socket",
        ),
    ] {
        let output = place.path().join("units");
        let refused = Command::new(env!("CARGO_BIN_EXE_overstore"))
            .args(["units", "--output"])
            .args([&output, &first, &second])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(says) && said.contains("1 of 2"), "{said}");
        assert!(!output.exists());
    }
}

const OPTIONS_PAGE: &str = "docs/nixos-options.md";

/// The options are documented where they are declared; the page is made of that.
#[test]
fn the_options_page_is_up_to_date() {
    let Some(world) = worlds_with_nixpkgs().into_iter().next() else {
        return;
    };
    let options = evaluated(&world, "options");
    let mut page = "# Options of the NixOS module\n\nMade from their declarations in `nixos/`; \
                    [NixOS](nixos.md) says how they go together.\n"
        .to_owned();
    for option in options.as_array().unwrap() {
        let text = |name: &str| {
            let part = &option[name];
            let text = part["text"].as_str().or(part.as_str()).unwrap_or_default();
            // Roles of nixpkgs' Markdown.
            ["command", "env", "file", "manpage", "option"]
                .iter()
                .fold(text.trim().to_owned(), |text, role| {
                    text.replace(&format!("{{{role}}}`"), "`")
                })
        };
        let description = text("description");
        let name = option["name"].as_str().unwrap();
        assert!(description.ends_with('.'), "{name} has no description");
        page += &format!(
            "\n## `{name}`\n\n{description}\n\n- Type: {}\n",
            text("type")
        );
        for (title, part) in [("Default", "default"), ("Example", "example")] {
            let code = option[part]["_type"] != "literalMD";
            match text(part) {
                text if text.is_empty() => {}
                text if !code => page += &format!("- {title}: {text}\n"),
                text if text.contains('\n') => {
                    page += &format!("- {title}:\n\n  ```nix\n");
                    for line in text.lines() {
                        page += &format!("  {line}\n");
                    }
                    page += "  ```\n";
                }
                text => page += &format!("- {title}: `{text}`\n"),
            }
        }
    }
    let file = Path::new(SOURCE).join(OPTIONS_PAGE);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(file).unwrap(), page);
}

/// Without `lib`: no key is missing on the page.
#[test]
fn every_key_is_on_the_options_page() {
    let page = fs::read_to_string(Path::new(SOURCE).join(OPTIONS_PAGE)).unwrap();
    let of_stores = KEYS.iter().map(|table| ("stores", table));
    let of_publications = PUBLICATION_KEYS.iter().map(|table| ("publications", table));
    for (of, (table, keys)) in of_stores.chain(of_publications) {
        for key in *keys {
            let name = [table, *key].join(".");
            let name = name.trim_start_matches('.');
            let title = format!("## `services.overstore.{of}.<name>.settings.{name}");
            assert!(page.contains(&title), "{name}");
        }
    }
}

/// The options of `settings`, the program's keys and its JSON schema: none is missing anywhere.
#[test]
fn options_keys_and_schema_agree() {
    for world in worlds() {
        options_agree(&world, "settings.nix", &KEYS, "configuration");
        let keys = &PUBLICATION_KEYS;
        options_agree(&world, "publication-settings.nix", keys, "publication");
    }
}

fn options_agree(world: &World, file: &str, keys: &[(&str, &[&str])], schema: &str) {
    let json = nix(world, &["nix-instantiate", "--eval", "--strict", "--json"])
        .args(["/source/tests/nixos/keys.nix", "--argstr", "file", file])
        .ok();
    let options: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
    let names: BTreeSet<String> = options.keys().cloned().collect();
    let keys: BTreeSet<String> = keys
        .iter()
        .flat_map(|(table, in_table)| {
            in_table.iter().map(move |key| match *table {
                "" => (*key).to_owned(),
                table => format!("{table}.{key}"),
            })
        })
        // Tables are not keys themselves, but `parameters`, which takes any.
        .filter(|key| keys.iter().all(|(table, _)| table != key))
        .collect();
    assert_eq!(names, keys);

    let schema = world.overstore(["schema", schema]).ok();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut in_schema = BTreeMap::new();
    properties(&schema, &schema, "", &mut in_schema);
    assert_eq!(options, in_schema, "types in the module and in the schema");
}

/// The keys that a schema knows, with their types in words.
fn properties(schema: &Value, whole: &Value, prefix: &str, found: &mut BTreeMap<String, String>) {
    for (name, property) in schema["properties"].as_object().unwrap() {
        let key = format!("{prefix}{name}");
        match property["$ref"].as_str() {
            Some(reference) => {
                let definition = whole.pointer(reference.trim_start_matches('#')).unwrap();
                properties(definition, whole, &format!("{key}."), found);
            }
            None => {
                found.insert(key, type_in_words(property));
            }
        }
    }
}

fn type_in_words(schema: &Value) -> String {
    let words = |schemas: &Value| {
        let schemas = schemas.as_array().unwrap().iter();
        schemas.map(type_in_words).collect::<Vec<_>>().join(" or ")
    };
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    if schema.get("anyOf").is_some() {
        return words(&schema["anyOf"]);
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => {
            format!("array of {}", type_in_words(&schema["items"]))
        }
        Value::String(name) if name == "object" => {
            format!(
                "object of {}",
                type_in_words(&schema["additionalProperties"])
            )
        }
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names = names.iter().map(|name| name.as_str().unwrap());
            names.collect::<Vec<_>>().join(" or ")
        }
        other => panic!("no type: {other}"),
    }
}

/// Every `.nix` file of the project, by its path in it.
fn nix_files() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("flake.nix"), PathBuf::from("default.nix")];
    let mut waiting = ["nixos", "pkgs", "tests/nixos", "vm-tests"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(Path::new(SOURCE).join(&next)).unwrap() {
            let entry = entry.unwrap();
            let path = next.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                waiting.push(path);
            } else if has_extension(&path, "nix") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_nix_file_can_be_parsed() {
    for world in World::each() {
        let mut parse = world.nix(["nix-instantiate", "--parse"]);
        for file in nix_files() {
            let there = Path::new("/mnt/source").join(&file);
            world.write(&there, fs::read(Path::new(SOURCE).join(&file)).unwrap());
            parse = parse.args([there]);
        }
        parse.ok();
    }
}

/// A type checker for Python: the one that NixOS's driver uses, or mypy.
pub struct TypeChecker {
    program: &'static str,
    /// Where the modules are that a script imports.
    modules: PathBuf,
}

impl TypeChecker {
    /// The one that is installed; `None` (reported as missing `part`) without any.
    pub fn find(part: &str, modules: &Path) -> Option<Self> {
        let runs = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let Some(program) = ["ty", "mypy"].into_iter().find(runs) else {
            skip(part, "there is no ty and no mypy here (Debian: mypy)");
            return None;
        };
        Some(Self {
            program,
            modules: modules.to_owned(),
        })
    }

    fn check(&self, script: &str) -> Output {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("script.py");
        fs::write(&file, script).unwrap();
        let mut command = Command::new(self.program);
        match self.program {
            "ty" => command
                .args(["check", "--extra-search-path"])
                .arg(&self.modules),
            _ => command
                .args(["--ignore-missing-imports", "--check-untyped-defs"])
                // What an older mypy has to say of the real driver is not ours to mend.
                .arg("--follow-imports=silent")
                .env("MYPYPATH", &self.modules)
                .env("MYPY_CACHE_DIR", place.path()),
        };
        command.arg(&file).output().unwrap()
    }

    pub fn accepts(&self, name: &str, script: &str) {
        let checked = self.check(script);
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{name}: {said}");
    }

    pub fn refuses(&self, script: &str) {
        let checked = self.check(script);
        assert!(!checked.status.success(), "{} finds nothing", self.program);
    }
}

/// The test scripts of the NixOS machines, with the types that `tests/nixos/driver.py` says the driver
/// has.
#[test]
fn the_test_scripts_have_no_type_errors() {
    let Some(world) = worlds().next() else { return };
    let Some(checker) = TypeChecker::find("mypy", Path::new("")) else {
        return;
    };
    let types = include_str!("../nixos/driver.py");
    let json = nix(&world, &["nix-instantiate", "--eval", "--strict", "--json"])
        .args(["/source/tests/nixos/scripts.nix"])
        .ok();
    let tests: BTreeMap<String, Value> = serde_json::from_str(&json).unwrap();
    // One of the tests is a build that has to fail, and has no machine.
    let directory = fs::read_dir(Path::new(SOURCE).join("vm-tests/nixos")).unwrap();
    let others = ["default.nix", "shared.nix", "own-store.nix", "refused.nix"];
    let files = directory
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".nix") && !others.contains(&name.as_str()));
    assert_eq!(tests.len(), files.count(), "a test for each file");
    // All in one, each in a function of its own: a checker takes long to start.
    let mut all = types.to_owned();
    for (name, test) in &tests {
        let named = name.replace('-', "_");
        all += &format!("def {named}(");
        for node in test["nodes"].as_array().unwrap() {
            all += &format!("{}: DriversMachine, ", node.as_str().unwrap());
        }
        all += ") -> None:\n";
        for line in test["script"].as_str().unwrap().lines() {
            all += &format!("    {line}\n");
        }
    }
    checker.accepts("vm-tests/nixos", &all);
    checker.refuses(&format!(
        "{types}def wrong(machine: DriversMachine) -> None:\n    machine.succeed(1)\n"
    ));
}

/// What the manual has in Nix's language: whole expressions, or what is in a module.
#[test]
fn the_nix_of_the_manual_can_be_parsed() {
    let Some(world) = worlds().next() else { return };
    let manual = include_str!("../../docs/nixos.md");
    let blocks: Vec<&str> = manual
        .split("```nix\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 7, "{}", blocks.len());
    for block in blocks {
        let text = if block.starts_with('{') {
            block.to_owned()
        } else if block.starts_with("pkgs.") {
            format!("{{ config, overstore, pkgs }}:\n{block}")
        } else {
            format!("{{\n{block}}}\n")
        };
        world.write("/tmp/block.nix", text);
        nix(&world, &["nix-instantiate", "--parse", "/tmp/block.nix"]).ok();
    }
}

/// NixOS has shellcheck look at the checks before a switch when it builds a system; as it puts them
/// together. The other scripts are held to the same.
#[test]
fn shellcheck_has_nothing_to_say_of_rendered_scripts() {
    if Command::new("shellcheck")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip("shellcheck", "there is no shellcheck here");
    }
    let rendered = Path::new(SOURCE).join("vm-tests/scenarios/nixos-units/rendered");
    let mut found = 0;
    for (name, content) in files(&rendered) {
        let Content::Text(text) = content else {
            continue;
        };
        let script = match name.file_name().unwrap().to_str().unwrap() {
            "pre-switch-check" => format!("(\nset -e\n{text}\n) >&2\n"),
            "nix-gc" | "nix-optimise" => text,
            other if other.starts_with("overstore-up-") => text,
            _ => continue,
        };
        let place = tempfile::NamedTempFile::new().unwrap();
        let begin = "set -o errexit\nset -o nounset\nset -o pipefail\n";
        fs::write(&place, format!("#!/bin/bash\n{begin}{script}")).unwrap();
        let checked = Command::new("shellcheck").arg(place.path()).output();
        let checked = checked.unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{}: {said}", name.display());
        found += 1;
    }
    assert!(found >= 12, "{found}");
}

#[test]
fn nix_files_are_tidy() {
    for file in nix_files() {
        let text = fs::read_to_string(Path::new(SOURCE).join(&file)).unwrap();
        assert!(
            text.ends_with('\n') && !text.ends_with("\n\n"),
            "{file:?}: its end"
        );
        for (number, line) in (1..).zip(text.lines()) {
            let indentation = line.len() - line.trim_start_matches(' ').len();
            for (wrong, what) in [
                (line.contains('\t'), "a tab"),
                (line.ends_with(' '), "a space at the end"),
                (indentation % 2 == 1, "odd indentation"),
                (line.chars().count() > 120, "more than 120 characters"),
            ] {
                assert!(!wrong, "{}:{number}: {what}", file.display());
            }
        }
    }
}

/// The flake without nixpkgs: what it offers, for which systems, and that it is locked to what it
/// asks for.
#[test]
fn the_flake_offers_what_it_should() {
    for world in worlds() {
        let json = nix(&world, &["nix-instantiate", "--eval", "--strict", "--json"])
            .args(["/source/tests/nixos/flake.nix"])
            .ok();
        let flake: Value = serde_json::from_str(&json).unwrap();
        let systems = serde_json::json!(["aarch64-linux", "x86_64-linux"]);
        for output in ["packages", "devShells", "checks", "formatter"] {
            assert_eq!(flake["outputs"][output], systems, "{output}");
        }
        assert_eq!(flake["outputs"]["nixosModules"][0], "default");
        assert_eq!(flake["outputs"]["overlays"][0], "default");
        let parts = serde_json::json!(["checks", "module", "overstore", "shell"]);
        assert_eq!(flake["withoutFlakes"], parts);
        let tests = flake["machineTests"].as_array().unwrap();
        for behaviour in [
            "boot", "collect", "crash", "nfs", "per-user", "reboot", "refused", "switch",
        ] {
            assert!(
                tests.contains(&format!("nixos-{behaviour}").into()),
                "{tests:?}"
            );
        }

        let lock = fs::read_to_string(Path::new(SOURCE).join("flake.lock")).unwrap();
        let lock: Value = serde_json::from_str(&lock).unwrap();
        let node = &lock["nodes"]["nixpkgs"];
        let part = |name: &str| node["original"][name].as_str().unwrap();
        let asked = format!(
            "{}:{}/{}/{}",
            part("type"),
            part("owner"),
            part("repo"),
            part("ref")
        );
        assert_eq!(flake["nixpkgs"], asked);
        for part in ["owner", "repo", "type"] {
            assert_eq!(node["locked"][part], node["original"][part]);
        }
        let revision = node["locked"]["rev"].as_str().unwrap();
        assert!(revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(
            node["locked"]["narHash"]
                .as_str()
                .unwrap()
                .starts_with("sha256-")
        );
    }
}

/// The package's file is where nixpkgs has those of its packages, and refers to nothing outside of its
/// directory: it can be taken over as it is.
#[test]
fn the_package_is_in_the_by_name_layout() {
    let directory = Path::new(SOURCE).join("pkgs/by-name/ov/overstore");
    let package = fs::read_to_string(directory.join("package.nix")).unwrap();
    assert!(!package.contains("../"), "a path outside of its directory");
    let says = |key: &str, value: &str| {
        let line = format!("  {key} = \"{value}\";");
        assert!(
            package
                .lines()
                .any(|found| found.trim_start() == line.trim_start()),
            "{line}"
        );
    };
    says("pname", env!("CARGO_PKG_NAME"));
    says("version", env!("CARGO_PKG_VERSION"));
    says("description", env!("CARGO_PKG_DESCRIPTION"));
    says("mainProgram", env!("CARGO_PKG_NAME"));
}

/// The order of the initrd, without nixpkgs: the module's unit beside the stand-ins of the scenario
/// `nixos-units` for NixOS's, and with those for `/etc` as an overlay, parts of which are in the store.
#[test]
fn the_initrd_has_an_order() {
    let scenario = Path::new(SOURCE).join("vm-tests/scenarios/nixos-units");
    let mut units = BTreeMap::<String, InitrdUnit>::new();
    for tree in ["rendered/netboot/initrd", "initrd"] {
        for (name, content) in files(&scenario.join(tree).join("etc/systemd/system")) {
            let file = name.file_name().unwrap().to_str().unwrap();
            let unit = units.entry(file.to_owned()).or_default();
            match name.parent().and_then(Path::to_str) {
                Some("") | None => {
                    let Content::Text(text) = content else {
                        panic!("{name:?} is no file");
                    };
                    unit.text = text;
                }
                Some(directory) => {
                    let target = directory.strip_suffix(".requires").unwrap();
                    unit.required_by.push(target.to_owned());
                }
            }
        }
    }
    let fstab = fs::read_to_string(scenario.join("initrd/etc/nixos-fstab")).unwrap();
    assert_order("plain", units.clone(), &fstab, false);

    let mut add = |name: &str, required_by: &str, text: &str| {
        let unit = InitrdUnit {
            text: format!("[Unit]\nDefaultDependencies=false\n{text}"),
            wanted_by: Vec::new(),
            required_by: vec![required_by.to_owned()],
        };
        units.insert(name.to_owned(), unit);
    };
    add(
        "initrd-find-etc.service",
        "initrd.target",
        "RequiresMountsFor=/sysroot/nix/store\nBefore=shutdown.target\nConflicts=shutdown.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=true\nExecStart=/bin/true\n",
    );
    let found = "Requires=initrd-find-etc.service\nAfter=initrd-find-etc.service\n\
                 Before=initrd-fs.target\n";
    add(
        "run-nixos\\x2detc\\x2dmetadata.mount",
        "initrd-fs.target",
        &format!(
            "{found}[Mount]\nWhat=/etc-metadata-image\nWhere=/run/nixos-etc-metadata\nType=erofs\n"
        ),
    );
    add(
        "sysroot-etc.mount",
        "initrd-fs.target",
        &format!(
            "{found}RequiresMountsFor=/sysroot/nix/store\nRequiresMountsFor=/run/nixos-etc-metadata\n\
             [Mount]\nWhat=overlay\nWhere=/sysroot/etc\nType=overlay\n\
             Options=lowerdir=/run/nixos-etc-metadata::/etc-basedir\n"
        ),
    );
    assert_order("etc-overlay", units, &fstab, true);
}

/// What nixpkgs' images lack: the database is made from the registration, alike each time, and Nix
/// opens the image below an overlay, collects in it, and finds it whole.
#[test]
fn an_image_with_the_made_metadata_is_a_lower_store() {
    for world in worlds() {
        let lower = world.lower_store("/mnt/lower");
        let registration = world
            .nix(["nix-store", "--store", "local?root=/mnt/lower", "--dump-db"])
            .ok();
        world.write("/mnt/registration", registration);
        // Registration files and the like at the top stop Nix's collector.
        world.write("/mnt/lower/nix/store/nix-path-registration", "");
        let make = |kind: &str, file: &str| {
            let from = ["--registration", "/mnt/registration"];
            world
                .overstore(["publish", "--image", kind, file])
                .args(from)
                .args(["--real", "/mnt/lower/nix/store"])
                .ok();
        };
        let database = |root: &str| {
            make("state", root);
            world.read(format!("{root}/nix/var/nix/db/db.sqlite"))
        };
        assert_eq!(
            database("/mnt/tree"),
            database("/mnt/again"),
            "two databases of one registration"
        );

        make("squashfs", "/mnt/image.squashfs");
        if !world.mount_image("squashfs", "/mnt/image.squashfs", "/mnt/image") {
            return;
        }
        let objects = world.list("/mnt/image/nix/store");
        assert_eq!(objects.len(), lower.paths().len() + 1, "{objects:?}");
        world.write(
            "/etc/overstore/image.toml",
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/image?read-only=true\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
        );
        world.overstore(["up", "image"]).ok();
        world.overstore(["check", "image"]).ok();
        let url = world.overstore(["url", "image"]).ok();
        let store = ["--store", url.trim()];
        for path in lower.paths() {
            world
                .nix(["nix-store"])
                .args(store)
                .args(["--check-validity", &path])
                .ok();
        }
        world.nix(["nix-store"]).args(store).args(["--gc"]).ok();
        world
            .nix(["nix-store"])
            .args(store)
            .args(["--verify", "--check-contents"])
            .ok();
        world.overstore(["check", "--lower", "image"]).ok();
    }
}
