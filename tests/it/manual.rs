//! The manual says what the program does.

use std::path::Path;
use std::process::Command;

use crate::own_store::with_system_store;
use crate::support::{Run, World};
use overstore::testing::config;
use overstore::testing::config::{Environment, KEYS};

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

/// The blocks of the manual in a language.
pub fn blocks<'a>(language: &str, text: &'a str) -> Vec<&'a str> {
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
    let without = format!("remount-hook = false\n{example}");
    let store = config::parse("example", "x", &without, &Environment::default()).unwrap();
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

/// Each code has a section, in the order of `overstore check --list`, which begins with what that
/// says of it.
#[test]
fn the_sections_of_findings_are_those_of_check_list() {
    let output = Command::new(env!("CARGO_BIN_EXE_overstore"))
        .args(["check", "--list"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    let listed: Vec<String> = lines
        .chunks(2)
        .map(|finding| {
            let (code, kind) = finding[0]
                .strip_suffix(')')
                .unwrap()
                .split_once(" (")
                .unwrap();
            assert!(finding[1].starts_with("    "), "{}", finding[1]);
            format!("{code}: {kind}")
        })
        .collect();
    assert!(listed.len() > 50);
    let sections: Vec<String> = include_str!("../../docs/findings.md")
        .split("\n### ")
        .skip(1)
        .map(|section| {
            let mut lines = section.lines();
            let code = lines.next().unwrap();
            let kind = lines.next().unwrap().strip_prefix('*').unwrap();
            let kind = kind.strip_suffix(".*").unwrap();
            format!("{code}: {}{}", kind[..1].to_lowercase(), &kind[1..])
        })
        .collect();
    assert_eq!(sections, listed);
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

/// All pages, with where they are.
fn pages() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for directory in ["", "docs", "fuzz", "vm-tests"] {
        for entry in std::fs::read_dir(top.join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                let path = Path::new(directory).join(name);
                let text = std::fs::read_to_string(top.join(&path)).unwrap();
                pages.push((path.to_str().unwrap().to_owned(), text));
            }
        }
    }
    pages
}

/// A page by where it is.
pub fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The anchors of a page's headings, as they are made of the headings' text.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || "- _".contains(*c);
            text.chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

/// The table of contents of the site.
const SUMMARY: &str = "docs/SUMMARY.md";

/// The links of a page but those that lead to other places of the world.
fn links(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1);
    let links = links.map(|rest| rest.split(')').next().unwrap());
    links.filter(|link| !link.contains("://")).collect()
}

#[test]
fn links_lead_somewhere() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in pages() {
        // Its pages that lie elsewhere have other names in the site.
        for link in links(&text).into_iter().filter(|_| name != SUMMARY) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => top.join(&name),
                path => top.join(&name).parent().unwrap().join(path),
            };
            let target = std::fs::read_to_string(&target)
                .unwrap_or_else(|error| panic!("{name}: {link}: {error}"));
            let found = anchor.is_empty() || anchors(&target).iter().any(|known| known == anchor);
            assert!(found, "{name}: {link}");
        }
    }
}

/// The table of contents has every page once, and the site's own names of those that lie elsewhere.
#[test]
fn every_page_is_in_the_table_of_contents() {
    let elsewhere = [
        ("introduction.md", "README.md"),
        ("contributing.md", "CONTRIBUTING.md"),
        ("security.md", "SECURITY.md"),
        ("changelog.md", "CHANGELOG.md"),
        ("vm-tests.md", "vm-tests/README.md"),
        ("fuzzing.md", "fuzz/README.md"),
    ];
    let mut listed: Vec<String> = links(&page(SUMMARY))
        .into_iter()
        .map(
            |link| match elsewhere.iter().find(|(name, _)| *name == link) {
                Some((_, place)) => (*place).to_owned(),
                None => format!("docs/{link}"),
            },
        )
        .collect();
    listed.sort();
    let mut pages: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
    pages.retain(|name| name != SUMMARY);
    pages.sort();
    assert_eq!(listed, pages);
    let build = page("site/build");
    for (name, place) in elsewhere {
        assert!(
            build.contains(&format!("cp {place} \"$work/source/{name}\"")),
            "{place}"
        );
    }
}

/// What new pages show of descriptions can be used as they are.
#[test]
fn the_descriptions_of_guides_are_taken() {
    let mut tried = 0;
    for name in [
        "docs/start.md",
        "docs/build-workers.md",
        "docs/micro-vms.md",
        "docs/own-nix.md",
    ] {
        for block in blocks("toml", &page(name)) {
            tried += 1;
            if block.contains("/publications/") && !block.contains("upper-layer") {
                config::parse_publication("main", name, block).unwrap();
                continue;
            }
            // A user's own has places for these.
            let own = match block.contains("upper-layer") {
                true => "",
                false => "root = '/r'\nupper-layer = '/u'\nworkdir = '/w'\n",
            };
            config::parse(
                "example",
                name,
                &format!("{own}{block}"),
                &Environment::default(),
            )
            .unwrap_or_else(|errors| panic!("{errors}"));
        }
    }
    assert!(tried >= 6, "{tried}");
}

/// What a page shows of one key is a description together with the worked example.
#[test]
fn fragments_are_parts_of_descriptions() {
    for name in ["README.md", "docs/systemd.md", "docs/warm.md"] {
        for block in blocks("toml", &page(name)) {
            let example = blocks("toml", CONFIGURATION)[0];
            let whole = if block.contains("lower-store") {
                block.to_owned()
            } else {
                format!("{example}\n{block}")
            };
            config::parse("example", name, &whole, &Environment::default())
                .unwrap_or_else(|errors| panic!("{errors}"));
        }
    }
}

#[test]
fn every_command_is_in_the_table() {
    let command = <overstore::Cli as clap::CommandFactory>::command();
    for command in command.get_subcommands() {
        let (name, text) = (command.get_name(), page("docs/manual.md"));
        assert!(text.contains(&format!("`{name}")), "{name}");
    }
}

/// Runs what the `console` blocks of a page show, line by line, and compares what it prints.
pub fn try_out(world: &World, name: &str) {
    try_out_by(name, |script| world.command(["sh", "-c", script]));
}

/// The same by whoever `run` runs a script as.
pub fn try_out_by<'w>(name: &str, run: impl FnMut(&str) -> Run<'w>) {
    try_out_blocks("console", name, run);
}

/// The same of the blocks in a language of their own, which not everybody has what they need for.
pub fn try_out_blocks<'w>(language: &str, name: &str, mut run: impl FnMut(&str) -> Run<'w>) {
    let page = page(name);
    let blocks = blocks(language, &page);
    assert!(!blocks.is_empty());
    for block in blocks {
        let block = block.replace("\\\n", "");
        for shown in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, expected) = shown.split_once('\n').unwrap_or((shown, ""));
            let outcome = run(&format!("{{ {command}; }} 2>&1")).run();
            assert_eq!(
                outcome.stdout().trim_end(),
                expected.trim_end(),
                "{name}: {outcome}"
            );
        }
    }
}

/// What the page on publishing shows is a publication, and a store over it.
#[test]
fn the_examples_of_publishing_are_descriptions() {
    let page = page("docs/publishing.md");
    let blocks = blocks("toml", &page);
    let [publication, store] = blocks[..] else {
        panic!("{blocks:?}")
    };
    config::parse_publication("main", "publishing.md", publication).unwrap();
    config::parse("example", "publishing.md", store, &Environment::default()).unwrap();
    for (table, keys) in config::PUBLICATION_KEYS {
        for key in keys
            .iter()
            .filter(|key| !config::PUBLICATION_KEYS.iter().any(|(it, _)| it == *key))
        {
            let name = match table {
                "" => format!("`{key}`"),
                _ => format!("`{table}.{key}`"),
            };
            assert!(page.contains(&name), "{name}");
        }
    }
}

#[test]
fn the_guide_for_owners_works() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/srv/store");
    world.mkdir("/srv/publications");
    for (root, name) in [("shell", "mksh-static"), ("chain", "chain-3")] {
        let link = format!("/srv/store/nix/var/nix/gcroots/{root}");
        world.ok(["ln", "-s", &lower.path(name), &link]);
    }
    let description = blocks("toml", &page("docs/publishing.md"))[0].to_owned();
    world.write("/etc/overstore/publications/main.toml", description);
    try_out(&world, "docs/publishing.md");
}

#[test]
fn the_guide_for_fleets_works() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/srv/store");
    world.mkdir("/srv/publications");
    world.mkdir("/srv/worker");
    // /srv is on an overlay here, which cannot be an upper layer.
    world.ok(["mount", "-t", "tmpfs", "none", "/srv/worker"]);
    for (root, name) in [("shell", "mksh-static"), ("chain", "chain-3")] {
        let link = format!("/srv/store/nix/var/nix/gcroots/{root}");
        world.ok(["ln", "-s", &lower.path(name), &link]);
    }
    let description = blocks("toml", &page("docs/publishing.md"))[0].to_owned();
    world.write("/etc/overstore/publications/main.toml", description);
    let description = blocks("toml", &page("docs/refresh.md"))[0].to_owned();
    world.write("/etc/overstore/worker.toml", description);
    let features = blocks("nix.conf", &page("docs/refresh.md"))[0].to_owned();
    try_out_by("docs/refresh.md", |script| {
        let run = world.command(["sh", "-c", script]);
        run.env("NIX_CONFIG", &features)
    });
}

#[test]
fn the_worked_example_works() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/example/store-a");
    let readme = page("README.md");
    let description = blocks("toml", &readme)[0];
    world.write("/etc/overstore/example.toml", description);
    try_out(&world, "README.md");
    world.overstore(["up", "example"]).ok();
    try_out(&world, "docs/manual.md");
}

#[test]
fn the_tutorial_without_root_works() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, shell) = with_system_store(&world);
    // /home is on an overlay here, which cannot be an upper layer.
    world.ok(["mount", "-t", "tmpfs", "none", "/home/alice"]);
    world.ok(["ln", "-s", &shell, "/home/alice/toolchain"]);
    world.ok(["chown", "alice:", "/home/alice"]);
    try_out_by("docs/own-store.md", |script| {
        let run = world.command(["sh", "-c", script]).by_alice();
        run.current_dir("/home/alice")
    });
}

#[test]
fn the_first_five_minutes_as_root_work() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    // /srv is on an overlay here, which cannot be an upper layer.
    world.ok(["mount", "-t", "tmpfs", "none", "/srv"]);
    let description = blocks("toml", &page("docs/start.md"))[0].to_owned();
    world.write("/etc/overstore/first.toml", description);
    try_out(&world, "docs/start.md");
}

#[test]
fn a_backup_can_be_restored() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/kept", "kept");
    let kept = example.nix(&["nix-store", "--add", "/tmp/kept"]).ok();
    try_out(&world, "docs/backup.md");
    let valid = example
        .nix(&["nix-store", "--check-validity", kept.trim()])
        .run();
    assert_eq!(valid.code(), Some(0), "{valid}");
}
