//! No remedy destroys. For every code that `check` has: the damage is made in a store with an object
//! of the user's, each way of the remedy is carried out to the letter as JSON has it (settings,
//! commands, and what is left to a person), the store is right afterwards, and every file and every
//! row that was there is still there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::owner::{LIVE, Owner, PLACE, URL};
use crate::support::{Example, Outcome, Run, World};

/// The store's description, given as a path that a shell would take apart.
const DESCRIPTION: &str = "/mnt/my stores/it's.toml";

/// The upper database.
const DATABASE: &str = "/mnt/example/merged-store/nix/var/nix/db/db.sqlite";

/// What becomes of one way of a remedy.
#[derive(Clone, Copy)]
enum Way {
    /// Carried out as it stands, the store is right.
    Fixes,
    /// It shows what to look at, or says what a person has to do, who then does this.
    Then(fn(&World)),
    /// It says what is given up, and fixes the rest.
    GivesUp,
    /// It shows what to look at, and what was found stays until somebody has decided.
    Stays,
}

use Way::{Fixes, GivesUp, Stays, Then};

/// A damage and the ways out of it, in the order in which the finding tells them.
struct Case {
    code: &'static str,
    damage: fn(&World),
    ways: &'static [Way],
    /// Options for the command that tells it.
    options: &'static [&'static str],
    /// The command that tells it.
    told_by: &'static str,
    /// Whose store it is, who is told, and who carries the remedy out.
    who: Who,
}

const fn case(code: &'static str, damage: fn(&World), ways: &'static [Way]) -> Case {
    Case {
        code,
        damage,
        ways,
        options: &["--lower"],
        told_by: "check",
        who: Who::Root,
    }
}

/// The same of a store of alice's, who has it to herself in namespaces of her own.
const fn of_a_user(code: &'static str, damage: fn(&World), ways: &'static [Way]) -> Case {
    Case {
        who: Who::Alice,
        ..case(code, damage, ways)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Root,
    Alice,
    /// Alice, of a store that is her own: without `root`, and at `/nix/store`.
    Own,
    /// Root, of a store over a publication.
    Consumer,
    /// Root, of a live store that is published.
    Owner,
}

impl Who {
    /// Her or his command.
    fn run<'w>(self, run: Run<'w>) -> Run<'w> {
        match self {
            Who::Alice | Who::Own => run.by_alice(),
            _ => run,
        }
    }

    /// What the command that tells of the damage is about.
    fn subject(self) -> &'static str {
        match self {
            Who::Owner => "main",
            _ => DESCRIPTION,
        }
    }

    /// Sets the store up, as far as it lets itself be.
    fn bring_up(self, world: &World) -> Outcome {
        match self {
            Who::Root | Who::Consumer => world.overstore(["up", DESCRIPTION]).run(),
            Who::Owner => world.overstore(["publish", "main"]).run(),
            Who::Alice | Who::Own => self
                .run(world.overstore(["exec", DESCRIPTION, "--", "true"]))
                .run(),
        }
    }

    /// A command where the store is set up.
    fn inside(self, world: &World, words: &[&str]) -> String {
        match self {
            Who::Root | Who::Consumer => nix(world, words),
            Who::Owner => world.nix(words).args(["--store", URL]).ok(),
            Who::Alice | Who::Own => self
                .run(world.overstore(["exec", DESCRIPTION, "--"]))
                .args(words)
                .ok(),
        }
    }
}

/// Codes without a case here, and why.
const WITHOUT: &[(&str, &str)] = &[
    (
        "mount-refused",
        "in reasons.rs: what to leave out is the kernel's to say",
    ),
    ("index-mismatch", "carried out in reasons.rs"),
    (
        "mount-not-shown",
        "in reasons.rs: what is mounted there is somebody's",
    ),
    (
        "workdir-in-use",
        "in reasons.rs: another directory is named",
    ),
    ("workdir-incompatible", "carried out in reasons.rs"),
    ("layer-unchangeable", "carried out in reasons.rs"),
    ("lower-path-symlink", "in reasons.rs: another path is named"),
    (
        "state-file-system-unfit",
        "in reasons.rs: see why it is read-only",
    ),
    (
        "database-path-too-long",
        "in reasons.rs: another path is named",
    ),
    (
        "not-yours",
        "told to a user without root only: users::a_store_of_roots_is_told_as_such_to_a_user",
    ),
    (
        "parts-overlap",
        "the remedy is to describe another place, and nothing is run but a look: identity",
    ),
    ("part-of-another-store", "as for parts-overlap: identity"),
    (
        "description-unreadable",
        "what is wrong in the other description is for a person to correct: identity",
    ),
];

const CASES: &[&[Case]] = &[
    MOUNT, LAYERS, LOWER, STATE, ACROSS, NIX, RARE, USERS, OWN, CONSUMER, OWNER,
];

/// What the command finds that tells of a case's code.
fn findings(world: &World, case: &Case) -> Vec<Value> {
    found(world, case.who, case.told_by, case.options)
}

/// What a command finds.
fn found(world: &World, who: Who, command: &str, options: &[&str]) -> Vec<Value> {
    let command = world.overstore([command, "--json", who.subject()]);
    let outcome = who.run(command.args(options)).run();
    let report: Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    report["findings"].as_array().expect("a list").clone()
}

/// What a user has: each file below `/mnt/example` that is not seen through the overlay, by its
/// content, and each row of the upper database.
#[derive(Default)]
struct Owned {
    files: BTreeMap<Vec<u8>, String>,
    rows: BTreeSet<String>,
}

impl Owned {
    fn of(world: &World) -> Owned {
        let mut owned = Owned::default();
        for top in ["/mnt/example", "/mnt/other", "/mnt/live"] {
            owned.add(&world.path(top));
        }
        // What is no store path is nobody's object.
        let rows =
            "select path, hash, narSize, deriver, ca from ValidPaths where path not like '%/..'";
        let database = format!("file:{DATABASE}?mode=ro");
        let listed = world.run(["sqlite3", &database, rows]);
        owned.rows = listed.stdout().lines().map(str::to_owned).collect();
        owned
    }

    fn add(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            // The merged view shows what is counted in its layers, and the state is looked into.
            let left_out = ["merged-store", ".links", "workdir", "overstore", "gc.lock"];
            let is_state = path.ends_with("mnt/live/nix/var");
            if is_state || left_out.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() {
                self.add(&path);
            } else if kind.is_file() && !name.starts_with("db.sqlite") && name != "schema" {
                let content = fs::read(&path).expect("a file");
                self.files
                    .insert(content, path.to_string_lossy().into_owned());
            }
        }
    }

    /// Everything of before is still somewhere.
    #[track_caller]
    fn assert_kept(&self, after: &Owned, what: &str) {
        for (file, path) in &self.files {
            assert!(after.files.contains_key(file), "{what}: {path} is gone");
        }
        let gone: Vec<_> = self.rows.difference(&after.rows).collect();
        assert!(gone.is_empty(), "{what}: rows are gone: {gone:?}");
    }
}

/// A store that is up, with an object of the user's and another that refers to one below.
fn set_up(world: &World, who: Who) {
    world.ok([
        "sh",
        "-c",
        "for at in $(cut -d' ' -f2 /proc/self/mounts | grep '^/mnt/' | sort -r); do
             umount -l $(printf %b $at)
         done
         rm -rf /mnt/example /mnt/other /mnt/live /mnt/publications '/mnt/my stores' /run/overstore
         mkdir '/mnt/my stores'",
    ]);
    match who {
        Who::Owner => return publish_live_store(world),
        Who::Consumer => describe_consumer(world),
        Who::Root | Who::Alice | Who::Own => {
            world.example("");
        }
    }
    let mut text = world.read(Example::CONFIGURATION);
    if who == Who::Own {
        let described = String::from_utf8(text).expect("TOML");
        let root = "root = \"/mnt/example/merged-store\"";
        assert!(described.contains(root), "{described}");
        let state = format!("state = {:?}", Example::STATE);
        text = described.replace(root, &state).into_bytes();
    }
    world.write(DESCRIPTION, text);
    // Two descriptions of one store would be in each other's way as soon as one of them is changed.
    world.ok(["rm", Example::CONFIGURATION]);
    world.write("/tmp/mine", "the user's\n");
    world.mkdir("/tmp/directory");
    world.write("/tmp/directory/file", "the user's, too\n");
    if matches!(who, Who::Alice | Who::Own) {
        world.ok(["chown", "alice:", "/mnt/example", "/home/alice"]);
    }
    let up = who.bring_up(world);
    assert_eq!(up.code(), Some(0), "{up}");
    who.inside(world, &["nix-store", "--add", "/tmp/mine"]);
    who.inside(world, &["nix-store", "--add", "/tmp/directory"]);
}

/// A live store with something that only one root keeps, and a generation of it.
fn publish_live_store(world: &World) {
    let owner = Owner::new(world, "");
    owner.root("shell", &owner.lower.path("mksh-static"));
    owner.root("chain", &owner.lower.path("chain-3"));
    owner.root("needed", &owner.add("needed"));
    owner.published();
}

/// Describes a store over a publication.
fn describe_consumer(world: &World) {
    publish_live_store(world);
    world.mkdir("/mnt/example");
    world.write(
        Example::CONFIGURATION,
        format!(
            "root = \"/mnt/example/merged-store\"\nupper-layer = {:?}\nworkdir = {:?}\n[lower]\n\
             publication = {PLACE:?}\nreal = \"{LIVE}/nix/store\"\n",
            Example::UPPER,
            Example::WORKDIR
        ),
    );
}

/// The owner makes another generation.
fn publish(world: &World) {
    world.overstore(["publish", "main"]).ok();
}

/// The store path of what only one root of the live store keeps.
fn needed(world: &World) -> String {
    let names = world.list("/mnt/live/nix/store").into_iter();
    let name = names
        .map(|name| name.into_string().expect("text"))
        .find(|name| name.ends_with("-needed"));
    format!("/nix/store/{}", name.expect("it is there"))
}

/// A command of Nix on the store, which has to succeed.
fn nix(world: &World, words: &[&str]) -> String {
    let url = world.overstore(["url", DESCRIPTION]).ok();
    let run = world.nix(words).args(["--store", url.trim()]);
    run.ok().trim().to_owned()
}

/// Changes the description.
fn describe(world: &World, from: &str, to: &str) {
    let text = String::from_utf8(world.read(DESCRIPTION)).expect("TOML");
    assert!(text.contains(from), "{text}");
    world.write(DESCRIPTION, text.replace(from, to));
}

/// Adds lines to the description.
fn add_lines(world: &World, more: &str) {
    let text = String::from_utf8(world.read(DESCRIPTION)).expect("TOML");
    world.write(DESCRIPTION, text + more);
}

/// Sets a key, as a remedy names it.
fn set(world: &World, key: &str, value: &str) {
    let text = String::from_utf8(world.read(DESCRIPTION)).expect("TOML");
    let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
    let mut lines: Vec<String> = Vec::new();
    let (mut here, mut done) = (table.is_empty(), false);
    if here {
        lines.push(format!("{key} = {value}"));
        done = true;
    }
    for line in text.lines() {
        if line.starts_with('[') {
            here = line == format!("[{table}]");
        }
        let same = line
            .split('=')
            .next()
            .is_some_and(|name| name.trim() == key);
        if !(here && same) {
            lines.push(line.to_owned());
        }
        if here && line.starts_with('[') {
            lines.push(format!("{key} = {value}"));
            done = true;
        }
    }
    if !done {
        lines.push(format!("[{table}]\n{key} = {value}"));
    }
    world.write(DESCRIPTION, lines.join("\n") + "\n");
}

/// One damage, each way out of it.
fn run_case(world: &World, case: &Case) {
    let code = case.code;
    for (number, way) in case.ways.iter().enumerate() {
        set_up(world, case.who);
        let before = findings(world, case);
        // A user's store is nowhere mounted while nothing runs in it.
        let usual = |it: &Value| it["code"] == code || is_usual(case, it);
        assert!(before.iter().all(usual), "{code}: {before:?}");
        (case.damage)(world);
        let found = findings(world, case);
        let found: Vec<_> = found.iter().filter(|it| it["code"] == code).collect();
        let finding = found.first().unwrap_or_else(|| {
            let all = world.overstore(["check", DESCRIPTION]).args(case.options);
            panic!("{code} is not found: {}", all.run())
        });
        let ways = finding["remedies"].as_array().expect("a list");
        assert_eq!(ways.len(), case.ways.len(), "{finding}");
        let this = &ways[number];
        let what = format!("{code}, way {number}: {this}");
        let remedy = finding["remedy"].as_str().expect("a text");
        forbidden(way, this, &what);

        let before = Owned::of(world);
        for setting in this["settings"].as_array().into_iter().flatten() {
            let text = |key: &str| setting[key].as_str().expect("a text").to_owned();
            set(world, &text("key"), &text("value"));
        }
        let commands = this["commands"].as_array().into_iter().flatten();
        let commands: Vec<&str> = commands
            .map(|command| command["shell"].as_str().expect("a text"))
            .collect();
        let command = commands.join(" && ");
        assert!(remedy.contains(&command), "{finding}");
        let outcome = case.who.run(world.command(["sh", "-c", &command])).run();
        match way {
            Then(person) => person(world),
            Fixes | GivesUp | Stays => assert_eq!(outcome.code(), Some(0), "{what}: {outcome}"),
        }
        // What a setting changes is in force when the store is mounted again.
        case.who.bring_up(world);
        let left = findings(world, case);
        let wrong: Vec<_> = left
            .iter()
            .filter(|it| !is_usual(case, it))
            .filter(|it| match way {
                Stays => it["code"] != code,
                _ => it["severity"] != "note" || it["code"] == code,
            })
            .collect();
        assert!(wrong.is_empty(), "{what}: left is {wrong:#?}");
        let after = Owned::of(world);
        if !matches!(way, GivesUp) {
            before.assert_kept(&after, &what);
        }
    }
}

/// Whether a finding is told of every store of that kind.
fn is_usual(case: &Case, finding: &Value) -> bool {
    let told = &finding["code"];
    told != case.code
        && (case.who == Who::Alice && told == "mount-missing"
            || case.options.contains(&"--nix") && told == "collector-fails")
}

/// What no remedy may be, unless it says that something is given up.
fn forbidden(way: &Way, this: &Value, what: &str) {
    if matches!(way, GivesUp) {
        let instruction = this["instruction"].as_str();
        assert!(
            instruction.is_some(),
            "{what} does not say what is given up"
        );
        return;
    }
    let text = this["commands"].to_string();
    for word in ["--gc", "overstore\",\"gc", "collect-garbage", "--optimise"] {
        assert!(!text.contains(word), "{what}");
    }
}

fn run_cases(cases: &[Case]) {
    let Some(world) = World::trixie() else { return };
    for case in cases {
        run_case(&world, case);
    }
}

/// Mounts by hand what overstore did not.
fn mount_instead(world: &World, source: &str, from: &str, to: &str) {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        Example::LOWER,
        Example::UPPER,
        Example::WORKDIR
    );
    let options = options.replace(from, to);
    world.ok(["umount", Example::REAL]);
    world.ok([
        "mount",
        "-t",
        "overlay",
        source,
        "-o",
        &options,
        Example::REAL,
    ]);
}

fn down(world: &World) {
    world.overstore(["down", DESCRIPTION]).ok();
}

fn up(world: &World) {
    world.overstore(["up", DESCRIPTION]).ok();
}

/// An object of the user's in the upper layer.
fn mine(world: &World) -> String {
    let names = world.list(Example::UPPER).into_iter();
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    names.find(|name| name.ends_with("-mine")).expect("added")
}

/// A valid object of the lower store that nothing refers to, and that is a directory.
fn lower_object(world: &World) -> String {
    let names = world.list(Example::LOWER).into_iter();
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    names
        .find(|name| world.path(Example::LOWER).join(name).is_dir() && name != ".links")
        .expect("the fixture has some")
}

const MOUNT: &[Case] = &[
    case(
        "not-set-up",
        |world| {
            down(world);
            world.ok(["mkdir", "/mnt/other"]);
            world.ok([
                "mv",
                "/mnt/example/store-b",
                "/mnt/example/workdir",
                "/mnt/other",
            ]);
            world.ok(["mv", "/mnt/example/merged-store", "/mnt/other"]);
        },
        &[Fixes],
    ),
    case(
        "mount-missing",
        |world| {
            world.ok(["umount", Example::REAL]);
        },
        &[Fixes],
    ),
    case(
        "mount-foreign",
        |world| {
            world.ok(["umount", Example::REAL]);
            world.ok(["mount", "-t", "tmpfs", "none", Example::REAL]);
        },
        &[Fixes],
    ),
    case(
        "mount-hidden",
        |world| {
            world.ok(["mount", "-t", "tmpfs", "none", Example::REAL]);
        },
        &[Fixes],
    ),
    case(
        "mount-check-fails",
        |world| mount_instead(world, "other", "", ""),
        &[Fixes],
    ),
    case(
        "lowerdir-differs",
        |world| {
            world.ok(["cp", "-a", Example::LOWER, "/mnt/example/other"]);
            mount_instead(world, "overlay", Example::LOWER, "/mnt/example/other");
        },
        &[Fixes],
    ),
    case(
        "upperdir-differs",
        |world| {
            world.ok(["cp", "-a", Example::UPPER, "/mnt/example/other"]);
            mount_instead(world, "overlay", Example::UPPER, "/mnt/example/other");
        },
        &[Fixes],
    ),
    case(
        "workdir-differs",
        |world| {
            world.mkdir("/mnt/example/other");
            mount_instead(world, "overlay", Example::WORKDIR, "/mnt/example/other");
        },
        &[Fixes],
    ),
    case(
        "mount-read-only",
        |world| {
            let remount = ["mount", "-o", "remount,ro", Example::REAL];
            world
                .command(remount)
                .env("LIBMOUNT_FORCE_MOUNT2", "always")
                .ok();
        },
        &[Fixes],
    ),
    case(
        "mount-options-differ",
        |world| add_lines(world, "[mount]\noptions = [\"index=on\"]\n"),
        &[Fixes],
    ),
    case(
        "mount-option-risky",
        |world| {
            let options = format!("{},metacopy=on", Example::WORKDIR);
            mount_instead(world, "overlay", Example::WORKDIR, &options);
        },
        &[Fixes],
    ),
    case(
        "lower-replaced",
        |world| {
            world.ok(["mv", Example::LOWER, "/mnt/example/old"]);
            world.ok(["cp", "-a", "/mnt/example/old", Example::LOWER]);
        },
        &[Fixes],
    ),
];

#[test]
fn of_the_mount() {
    run_cases(MOUNT);
}

const LAYERS: &[Case] = &[
    case(
        "upper-replaced",
        |world| {
            down(world);
            world.ok(["mv", Example::UPPER, "/mnt/example/away"]);
        },
        &[
            Then(|world| {
                world.ok(["mv", "/mnt/example/away", Example::UPPER]);
            }),
            Way::Then(given_up),
        ],
    ),
    case(
        "objects-lost",
        |world| {
            down(world);
            world.ok(["mkdir", "/mnt/other"]);
            world.ok(["sh", "-c", "mv /mnt/example/store-b/*-* /mnt/other"]);
        },
        &[
            Then(|world| {
                world.ok(["sh", "-c", "mv /mnt/other/* /mnt/example/store-b"]);
            }),
            // What it shows is that the lower store was not replaced.
            Then(|world| {
                world.ok(["sh", "-c", "mv /mnt/other/* /mnt/example/store-b"]);
            }),
            Way::Then(given_up),
        ],
    ),
    case(
        "marks-lost",
        |world| {
            down(world);
            world.ok(["mv", Example::UPPER, "/mnt/other"]);
            world.ok([
                "cp",
                "-r",
                "--preserve=mode,ownership",
                "/mnt/other",
                Example::UPPER,
            ]);
        },
        &[
            Then(|world| {
                world.ok(["mv", Example::UPPER, "/mnt/example/plain"]);
                world.ok(["cp", "-a", "/mnt/other", Example::UPPER]);
            }),
            Fixes,
        ],
    ),
    case(
        "upper-missing",
        |world| {
            // Without rows, so that nothing of it is missed.
            down(world);
            world.ok(["mv", Example::STATE, "/mnt/other"]);
            world.ok(["mv", Example::UPPER, "/mnt/example/away"]);
            up(world);
            world.ok(["mv", Example::UPPER, "/mnt/example/gone"]);
        },
        &[Fixes],
    ),
    case(
        "upper-file-system-unfit",
        |world| {
            down(world);
            world.ok(["mount", "--bind", Example::UPPER, Example::UPPER]);
            world.ok(["mount", "-o", "remount,bind,ro", Example::UPPER]);
        },
        &[Then(|world| {
            world.ok(["umount", Example::UPPER]);
        })],
    ),
    case(
        "upper-in-use",
        |world| {
            down(world);
            world.mkdir("/mnt/example/second");
            world.mkdir("/mnt/example/work2");
            let options = "lowerdir=/mnt/example/store-a/nix/store,\
                           upperdir=/mnt/example/store-b,workdir=/mnt/example/work2";
            let mount = ["mount", "-t", "overlay", "overlay", "-o", options];
            world.command(mount).args(["/mnt/example/second"]).ok();
        },
        &[Then(|world| {
            world.ok(["umount", "/mnt/example/second"]);
        })],
    ),
    case(
        "upper-permissions",
        |world| {
            world.ok(["chmod", "0755", Example::REAL]);
        },
        &[Fixes],
    ),
    case(
        "upper-stranger",
        |world| world.write(format!("{}/left over/kept", Example::REAL), "kept\n"),
        &[Fixes],
    ),
    case(
        "temporary-name",
        |world| world.write(format!("{}/tmp-1-2/kept", Example::REAL), "kept\n"),
        &[Fixes],
    ),
    case(
        "links-not-opaque",
        |world| {
            let links = world.path(Example::UPPER).join(".links");
            rustix::fs::removexattr(links, "trusted.overlay.opaque").expect("it was set");
        },
        &[Fixes],
    ),
    case(
        "links-not-opaque",
        |world| {
            let links = format!("{}/.links", Example::UPPER);
            world.ok(["rmdir", &links]);
            world.write(&links, "something\n");
        },
        &[Fixes],
    ),
    case(
        "workdir-missing",
        |world| {
            world.ok(["mv", Example::WORKDIR, "/mnt/example/gone"]);
        },
        &[Fixes],
    ),
    case(
        "workdir-elsewhere",
        |world| {
            down(world);
            world.ok(["mount", "-t", "tmpfs", "none", Example::WORKDIR]);
        },
        &[Then(|world| {
            describe(world, Example::WORKDIR, "/mnt/example/beside")
        })],
    ),
    case(
        "path-unsafe",
        |world| {
            world.ok(["chmod", "0777", "/mnt/example"]);
        },
        &[Fixes],
    ),
    case(
        "path-unsafe",
        |world| {
            world.ok(["chown", "alice", "/mnt/example"]);
        },
        &[
            Then(|world| {
                world.ok(["chown", "root", "/mnt/example"]);
            }),
            Then(|world| {
                world.ok(["chown", "root", "/mnt/example"]);
            }),
            Fixes,
        ],
    ),
    case(
        "path-unsafe",
        |world| {
            down(world);
            world.ok(["mv", Example::UPPER, "/mnt/example/real"]);
            world.ok(["ln", "-s", "/mnt/example/real", Example::UPPER]);
        },
        &[Fixes],
    ),
];

/// What was given up is named still, as missing; the rest is right, and what is elsewhere stays.
fn given_up(world: &World) {
    let found = found(world, Who::Root, "check", &[]);
    assert!(
        found.iter().all(|it| it["code"] == "row-without-object"),
        "{found:?}"
    );
    world.ok([
        "sh",
        "-c",
        "cp -a /mnt/example/away/*-* /mnt/other/* /mnt/example/merged-store/nix/store || :",
    ]);
}

#[test]
fn of_the_layers() {
    run_cases(LAYERS);
}

const LOWER: &[Case] = &[
    case(
        "lower-missing",
        |world| {
            down(world);
            world.ok(["mv", "/mnt/example/store-a", "/mnt/example/away"]);
        },
        &[Then(|world| {
            world.ok(["mv", "/mnt/example/away", "/mnt/example/store-a"]);
        })],
    ),
    case(
        "lower-missing",
        |world| {
            down(world);
            describe(
                world,
                "/mnt/example/store-a?",
                "/mnt/example/store-a/nix/store?",
            );
        },
        &[Then(|world| {
            add_lines(world, "[lower]\nread-only = true\n")
        })],
    ),
    case(
        "lower-database-missing",
        |world| {
            world.ok([
                "mv",
                "/mnt/example/store-a/nix/var/nix/db",
                "/mnt/example/away",
            ]);
        },
        &[Then(|world| {
            world.ok([
                "mv",
                "/mnt/example/away",
                "/mnt/example/store-a/nix/var/nix/db",
            ]);
        })],
    ),
    case(
        "lower-schema-unknown",
        |world| world.write("/mnt/example/store-a/nix/var/nix/db/schema", "11"),
        &[Then(|world| {
            world.write("/mnt/example/store-a/nix/var/nix/db/schema", "10")
        })],
    ),
    case(
        "lower-wal-pending",
        |world| {
            world
                .command(["sqlite3", "/mnt/example/store-a/nix/var/nix/db/db.sqlite"])
                .stdin(
                    ".dbconfig no_ckpt_on_close on\npragma journal_mode = wal;\n\
                     update ValidPaths set narSize = narSize + 1;\n",
                )
                .ok();
        },
        &[Fixes],
    ),
    case(
        "lower-directory-missing",
        |world| {
            world.ok(["rm", "-r", "/mnt/example/store-a/nix/var/nix/temproots"]);
        },
        &[Fixes],
    ),
    case(
        "lower-written-by-nix",
        |world| describe(world, "?read-only=true", ""),
        &[Fixes],
    ),
    case(
        "lower-not-described-read-only",
        |world| {
            down(world);
            describe(world, "?read-only=true", "");
            world.ok([
                "mount",
                "--bind",
                "/mnt/example/store-a",
                "/mnt/example/store-a",
            ]);
            world.ok(["mount", "-o", "remount,bind,ro", "/mnt/example/store-a"]);
        },
        &[Fixes],
    ),
    case(
        "lower-store-changed",
        |world| {
            let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
            world.ok([
                "sqlite3",
                database,
                "update ValidPaths set registrationTime = registrationTime + 1",
            ]);
            world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
        },
        &[
            Then(|world| {
                let sql = "update ValidPaths set registrationTime = registrationTime - 1";
                let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
                world.ok(["sqlite3", database, sql]);
                world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
            }),
            Fixes,
        ],
    ),
    case(
        "lower-stranger",
        |world| {
            world.write(
                format!("{}/nix-path-registration", Example::LOWER),
                "kept\n",
            )
        },
        &[Fixes],
    ),
    case(
        "lower-stranger",
        |world| world.write(format!("{}/lost+found/deep/kept", Example::LOWER), "kept\n"),
        &[Fixes],
    ),
    case(
        "lower-mount-wrong",
        |world| {
            down(world);
            world.ok(["cp", "-a", "/mnt/example/store-a", "/mnt/example/lowest"]);
            world.write(
                "/etc/overstore/middle.toml",
                "root = \"/mnt/example/store-a\"\n\
                 lower-store = \"/mnt/example/lowest?read-only=true\"\n\
                 upper-layer = \"/mnt/example/middle\"\nworkdir = \"/mnt/example/middle-work\"\n",
            );
            describe(
                world,
                "/mnt/example/store-a?read-only=true",
                "local-overlay://?root=/mnt/example/store-a&\
                 lower-store=/mnt/example/lowest?read-only=true&upper-layer=/mnt/example/middle&\
                 read-only=true",
            );
        },
        &[Then(|world| {
            world.overstore(["up", "middle"]).ok();
        })],
    ),
];

#[test]
fn of_the_lower_store() {
    run_cases(LOWER);
}

const STATE: &[Case] = &[
    case(
        "state-missing",
        |world| {
            world.ok([
                "mv",
                &format!("{}/gcroots", Example::STATE),
                "/mnt/example/gone",
            ]);
        },
        &[Fixes],
    ),
    case(
        "state-permissions",
        |world| {
            world.ok(["chmod", "0777", &format!("{}/db", Example::STATE)]);
        },
        &[Fixes],
    ),
    case(
        "database-missing",
        |world| {
            // Of a store with nothing in it.
            down(world);
            world.ok(["mv", Example::UPPER, "/mnt/example/away"]);
            world.ok(["mv", Example::STATE, "/mnt/other"]);
            up(world);
            world.ok(["sh", "-c", &format!("rm {DATABASE}*")]);
        },
        &[Fixes],
    ),
    case(
        "database-lost",
        |world| {
            down(world);
            world.ok(["mv", Example::STATE, "/mnt/other"]);
        },
        &[
            Then(|world| {
                world.ok(["mv", "/mnt/other", Example::STATE]);
            }),
            // The objects stay; they have no rows until they are added again.
            Then(|world| {
                nix(world, &["nix-store", "--add", "/tmp/mine"]);
                nix(world, &["nix-store", "--add", "/tmp/directory"]);
            }),
        ],
    ),
    case(
        "database-permissions",
        |world| {
            world.ok(["chmod", "0666", DATABASE]);
        },
        &[Fixes],
    ),
    case(
        "database-permissions",
        |world| {
            world.ok(["chown", "alice", DATABASE]);
        },
        &[
            Then(|world| {
                world.ok(["chown", "root", DATABASE]);
            }),
            Fixes,
        ],
    ),
    case(
        "database-unreadable",
        |world| {
            down(world);
            world.ok(["cp", DATABASE, "/mnt/example/backup"]);
            world.ok([
                "dd",
                "if=/dev/zero",
                &format!("of={DATABASE}"),
                "bs=16",
                "count=1",
                "conv=notrunc",
            ]);
        },
        &[
            Then(|world| {
                world.ok(["cp", "/mnt/example/backup", DATABASE]);
            }),
            Then(|world| {
                world.run(["rm", "-f", "/recovered.sql", "/recovered.sqlite"]);
                world.ok(["cp", "/mnt/example/backup", DATABASE]);
            }),
        ],
    ),
    case(
        "database-damaged",
        |world| {
            down(world);
            world.ok(["cp", DATABASE, "/mnt/example/backup"]);
            // Its fourth page.
            let damage = "printf 'damage!!%.0s' $(seq 512) | dd of=\"$0\" bs=4096 seek=3 \
                          conv=notrunc iflag=fullblock status=none";
            world.ok(["sh", "-c", damage, DATABASE]);
        },
        &[
            Then(|world| {
                world.ok(["cp", "/mnt/example/backup", DATABASE]);
            }),
            Then(recovered),
        ],
    ),
    case(
        "schema-unknown",
        |world| world.write(format!("{}/db/schema", Example::STATE), "ten"),
        &[Fixes],
    ),
    case(
        "schema-unknown",
        |world| {
            down(world);
            world.write(format!("{}/db/schema", Example::STATE), "11");
        },
        &[Then(|world| {
            world.write(format!("{}/db/schema", Example::STATE), "10")
        })],
    ),
    case(
        "schema-incomplete",
        |world| {
            world.ok(["rm", &format!("{}/db/schema", Example::STATE)]);
        },
        &[Fixes],
    ),
    case(
        "schema-incomplete",
        |world| {
            world.ok(["sqlite3", DATABASE, ".backup /mnt/example/backup"]);
            world.ok(["sqlite3", DATABASE, "drop trigger DeleteSelfRefs"]);
        },
        &[
            Then(|world| {
                down(world);
                world.ok(["cp", "/mnt/example/backup", DATABASE]);
                world.run(["rm", &format!("{DATABASE}-wal"), &format!("{DATABASE}-shm")]);
            }),
            Then(|world| {
                assert!(world.path("/recovered.sqlite").exists());
                down(world);
                world.ok(["cp", "/mnt/example/backup", DATABASE]);
                world.run(["rm", &format!("{DATABASE}-wal"), &format!("{DATABASE}-shm")]);
                world.ok(["rm", "/recovered.sql", "/recovered.sqlite"]);
            }),
        ],
    ),
    case(
        "schema-foreign",
        |world| {
            world.ok(["sqlite3", DATABASE, "create table Mine (x)"]);
        },
        &[Stays],
    ),
    case(
        "foreign-key-violated",
        |world| {
            let sql = "pragma foreign_keys = 0; insert into Refs values (7, 8)";
            world.ok(["sqlite3", DATABASE, sql]);
        },
        &[Fixes],
    ),
    case(
        "journal-mode-differs",
        |world| {
            down(world);
            world.ok(["sqlite3", DATABASE, "pragma journal_mode = truncate"]);
        },
        &[Fixes],
    ),
];

/// What could be read of a damaged database is put in its place by a person.
fn recovered(world: &World) {
    assert!(world.path("/recovered.sqlite").exists());
    world.ok(["mv", DATABASE, "/mnt/example/damaged"]);
    world.ok(["mv", "/recovered.sqlite", DATABASE]);
    world.ok(["sqlite3", DATABASE, "pragma journal_mode = wal"]);
    world.ok(["rm", "/recovered.sql"]);
}

#[test]
fn of_the_databases_and_the_state() {
    run_cases(STATE);
}

const ACROSS: &[Case] = &[
    case(
        "row-without-object",
        |world| {
            down(world);
            let object = format!("{}/{}", Example::UPPER, mine(world));
            world.ok(["mv", &object, "/mnt/example/away"]);
        },
        &[
            Then(bring_back),
            // The old store has it.
            Then(|world| {
                down_if_up(world);
                world.mkdir("/mnt/other/nix/store");
                let name = nix_name(world);
                let old = format!("/mnt/other/nix/store/{name}");
                world.ok(["cp", "-a", "/mnt/example/away", &old]);
                let root = format!("{}/gcroots/mine", Example::STATE);
                world.ok(["ln", "-s", &format!("/nix/store/{name}"), &root]);
                let reconcile = ["reconcile", DESCRIPTION, "--old", "/mnt/other"];
                world.overstore(reconcile).ok();
            }),
            // There is no substituter here that has it.
            Then(bring_back),
        ],
    ),
    case(
        "row-of-another-store",
        |world| {
            let sql = "insert into ValidPaths (path, hash, registrationTime) values \
                       ('/other/store/00000000000000000000000000000000-a', 'sha256:0', 1)";
            world.ok(["sqlite3", DATABASE, sql]);
        },
        &[Stays, Stays],
    ),
    case(
        "object-without-row",
        |world| {
            world.write(
                format!(
                    "{}/00000000000000000000000000000000-half/kept",
                    Example::UPPER
                ),
                "kept\n",
            );
            world.overstore(["remount", DESCRIPTION]).ok();
        },
        &[
            Then(|world| {
                world.ok([
                    "mv",
                    &format!("{}/00000000000000000000000000000000-half", Example::REAL),
                    "/mnt/example/half",
                ]);
            }),
            GivesUp,
        ],
    ),
    case(
        "lower-object-hidden",
        |world| {
            let merged = format!("{}/{}", Example::REAL, lower_object(world));
            world.ok(["rm", "-r", &merged]);
        },
        &[Fixes],
    ),
    case(
        "object-in-both-layers",
        |world| {
            let lower = format!("{}/{}", Example::LOWER, mine(world));
            world.ok([
                "cp",
                "-a",
                &format!("{}/{}", Example::UPPER, mine(world)),
                &lower,
            ]);
            below(world, "");
        },
        &[Fixes],
    ),
    case(
        "metadata-differs",
        |world| {
            let lower = format!("{}/{}", Example::LOWER, mine(world));
            world.ok([
                "cp",
                "-a",
                &format!("{}/{}", Example::UPPER, mine(world)),
                &lower,
            ]);
            below(
                world,
                "update ValidPaths set narSize = narSize + 8 where path like '%-mine'",
            );
        },
        &[
            Then(|world| {
                below(
                    world,
                    "update ValidPaths set narSize = narSize - 8 where path like '%-mine'",
                )
            }),
            GivesUp,
        ],
    ),
    case(
        "row-without-object",
        |world| {
            substituter(world);
            down(world);
            let object = format!("{}/{}", Example::UPPER, mine(world));
            world.ok(["mv", &object, "/mnt/example/away"]);
            // It comes up without.
            let outcome = world.overstore(["up", DESCRIPTION]).run();
            assert_eq!(outcome.code(), Some(1), "{outcome}");
        },
        &[
            Then(bring_back),
            // What a lower store that was replaced has to do with it is another case.
            Then(bring_back),
            Fixes,
        ],
    ),
    Case {
        options: &["--contents"],
        ..case(
            "object-damaged",
            |world| {
                substituter(world);
                down(world);
                let object = format!("{}/{}", Example::UPPER, mine(world));
                world.write(object, "damaged!!!\n");
                up(world);
            },
            &[Fixes],
        )
    },
    Case {
        options: &["--contents"],
        ..case(
            "object-damaged",
            |world| {
                down(world);
                world.write(
                    format!("{}/{}", Example::UPPER, mine(world)),
                    "damaged!!!\n",
                );
                up(world);
            },
            // There is no substituter here that has it.
            &[Then(|world| {
                let kept = format!("/mnt/example/{}.damaged", mine(world));
                assert_eq!(world.read(&kept), b"damaged!!!\n");
                down(world);
                world.write(
                    format!("{}/{}", Example::UPPER, mine(world)),
                    "the user's\n",
                );
                up(world);
            })],
        )
    },
];

/// A substituter that has what the user has.
fn substituter(world: &World) {
    let mine = format!("/nix/store/{}", mine(world));
    nix(
        world,
        &["nix", "copy", "--to", "file:///mnt/other/cache", &mine],
    );
    let settings = "substituters = file:///mnt/other/cache\nrequire-sigs = false\n";
    world.write("/etc/nix/nix.conf", settings);
}

/// Registers the user's object in the lower store as well, and changes its row there.
fn below(world: &World, change: &str) {
    let lower = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
    let rows = format!(
        "attach '{DATABASE}' as upper; insert or ignore into ValidPaths (path, hash, \
         registrationTime, narSize, ca) select path, hash, registrationTime, narSize, ca from \
         upper.ValidPaths where path like '%-mine'; {change}"
    );
    world.ok(["sqlite3", lower, &rows]);
    world.ok(["sqlite3", lower, "pragma wal_checkpoint(truncate)"]);
    world.overstore(["remount", DESCRIPTION]).ok();
}

fn bring_back(world: &World) {
    let name = nix_name(world);
    down_if_up(world);
    world.ok([
        "mv",
        "/mnt/example/away",
        &format!("{}/{name}", Example::UPPER),
    ]);
}

fn nix_name(world: &World) -> String {
    let sql = "select path from ValidPaths where path like '%-mine'";
    let path = world.ok(["sqlite3", DATABASE, sql]);
    path.trim().trim_start_matches("/nix/store/").to_owned()
}

fn down_if_up(world: &World) {
    world.overstore(["down", DESCRIPTION]).run();
}

#[test]
fn across_the_layers() {
    run_cases(ACROSS);
}

const NIX: &[Case] = &[
    case(
        "remount-hook-missing",
        |world| {
            set(world, "remount-hook", "\"/mnt/example/hook\"");
        },
        &[
            Fixes,
            Then(|world| describe(world, "remount-hook = \"/mnt/example/hook\"\n", "")),
        ],
    ),
    case(
        "remount-hook-unsafe",
        |world| {
            world.ok([
                "install",
                "-D",
                "-o",
                "alice",
                "/bin/true",
                "/mnt/example/hook",
            ]);
            set(world, "remount-hook", "\"/mnt/example/hook\"");
        },
        &[Then(|world| {
            describe(world, "remount-hook = \"/mnt/example/hook\"\n", "")
        })],
    ),
    case(
        "mount-check-impossible",
        |world| {
            down(world);
            world.ok(["mv", Example::UPPER, "/mnt/example/a b"]);
            describe(world, Example::UPPER, "/mnt/example/a b");
        },
        &[Then(|world| {
            world.run(["umount", Example::REAL]);
            world.ok(["mv", "/mnt/example/a b", Example::UPPER]);
            describe(world, "/mnt/example/a b", Example::UPPER);
        })],
    ),
    case(
        "url-depends-on-version",
        |world| {
            down(world);
            world.ok(["mv", "/mnt/example/store-a", "/mnt/example/100%"]);
            describe(world, "/mnt/example/store-a", "/mnt/example/100%25");
        },
        &[Then(|world| {
            world.run(["umount", Example::REAL]);
            world.ok(["mv", "/mnt/example/100%", "/mnt/example/store-a"]);
            describe(world, "/mnt/example/100%25", "/mnt/example/store-a");
        })],
    ),
    case(
        "automatic-collection",
        |world| {
            let text = String::from_utf8(world.read("/etc/nix/nix.conf")).expect("text");
            world.write("/etc/nix/nix.conf", text + "min-free = 1G\n");
        },
        &[Then(no_min_free)],
    ),
    Case {
        options: &["--nix"],
        ..case("collector-fails", |_| {}, &[Fixes])
    },
    case(
        "build-users-group-missing",
        |world| {
            add_lines(world, "[permissions]\nbuild-users-group = \"nobodys\"\n");
        },
        &[Then(|world| describe(world, "\"nobodys\"", "\"nixbld\""))],
    ),
];

fn no_min_free(world: &World) {
    world.write("/etc/nix/nix.conf", "substituters =\n");
}

#[test]
fn of_what_nix_makes_of_it() {
    run_cases(NIX);
}

const RARE: &[Case] = &[
    case(
        "lower-daemon-silent",
        |world| {
            down(world);
            let end = "kill $(cat /run/daemon); rm -f /nix/var/nix/daemon-socket/socket";
            world.run(["sh", "-c", end]);
            // In place of systemd's: it starts what that socket's unit would.
            world.write(
                "/usr/local/bin/systemctl",
                "#!/bin/sh\n[ \"$*\" = 'start nix-daemon.socket' ] || exit 1\n\
                 nix-daemon --store /mnt/example/store-a >/dev/null 2>&1 &\n\
                 echo $! >/run/daemon\n\
                 while [ ! -S /nix/var/nix/daemon-socket/socket ]; do sleep 0.1; done\n",
            );
            world.ok(["chmod", "+x", "/usr/local/bin/systemctl"]);
            describe(
                world,
                "\"/mnt/example/store-a?read-only=true\"",
                "\"unix:///nix/var/nix/daemon-socket/socket?root=/mnt/example/store-a\"",
            );
        },
        &[
            Fixes,
            Then(|world| {
                let daemon = "unix:///nix/var/nix/daemon-socket/socket?root=/mnt/example/store-a";
                describe(world, daemon, "/mnt/example/store-a?read-only=true");
            }),
        ],
    ),
    case(
        "stacking-too-deep",
        |world| {
            down(world);
            let script = "below=/mnt/example/store-a/nix/store
                 for level in /mnt/other/1 /mnt/other/2; do
                     mkdir -p $level/upper $level/work $level/merged
                     mount -t overlay overlay $level/merged \
                         -o lowerdir=$below,upperdir=$level/upper,workdir=$level/work
                     below=$level/merged
                 done";
            world.ok(["sh", "-ec", script]);
            set(world, "lower.real", "\"/mnt/other/2/merged\"");
        },
        &[Then(|world| {
            describe(world, "/mnt/other/2/merged", Example::LOWER)
        })],
    ),
    case(
        "path-unreachable",
        |world| {
            down(world);
            world.write("/mnt/example/file", "somebody's\n");
            describe(world, Example::WORKDIR, "/mnt/example/file/workdir");
        },
        &[Then(|world| {
            world.ok(["mv", "/mnt/example/file", "/mnt/example/kept"]);
            world.mkdir("/mnt/example/file");
        })],
    ),
    case(
        // Nobody can take OverlayFS out of a kernel that has it mounted, so it is hidden.
        "overlay-unsupported",
        |world| {
            down(world);
            world.write("/tmp/filesystems", "nodev\ttmpfs\n");
            let proc = "/proc/filesystems";
            world.ok(["mount", "--bind", "/tmp/filesystems", proc]);
        },
        &[Then(|world| {
            world.ok(["umount", "/proc/filesystems"]);
        })],
    ),
    case(
        "lower-row-unreadable",
        |world| below_only(world, "sigs = 'no-colon'"),
        &[Then(|world| below_only(world, "sigs = null"))],
    ),
    Case {
        options: &[],
        told_by: "up",
        ..case(
            "warm-failed",
            |world| {
                down(world);
                below_only(world, "hash = 'sha256:nonsense'");
                add_lines(world, "[warm]\nall = true\n");
            },
            &[Then(|world| {
                let right = "hash = 'sha256:0000000000000000000000000000000000000000000000000000'";
                below_only(world, right);
                down(world);
            })],
        )
    },
    case(
        "layers-unreadable",
        |world| {
            let change = "update ValidPaths set path = path || '/..' where path like '%-mine'";
            world.ok(["sqlite3", DATABASE, change]);
        },
        &[Then(name_again), Then(name_again)],
    ),
    Case {
        options: &["--nix"],
        ..case(
            "nix-refuses",
            |world| {
                world.write(
                    "/etc/nix/nix.conf",
                    "substituters =\nuse-sqlite-wal = perhaps\n",
                );
            },
            &[Then(no_min_free)],
        )
    },
];

/// The damaged row is what it was.
fn name_again(world: &World) {
    let change = "update ValidPaths set path = replace(path, '/..', '')";
    world.ok(["sqlite3", DATABASE, change]);
}

/// Changes the row of an object below that nothing above has.
fn below_only(world: &World, change: &str) {
    let lower = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
    let sql = format!("update ValidPaths set {change} where id = 1");
    world.ok(["sqlite3", lower, &sql]);
    world.ok(["sqlite3", lower, "pragma wal_checkpoint(truncate)"]);
}

#[test]
fn of_what_is_rare() {
    run_cases(RARE);
}

/// What an ordinary user can meet, in a store of that user's own.
const USERS: &[Case] = &[
    of_a_user("mount-missing", |_| {}, &[Stays]),
    of_a_user(
        "not-set-up",
        |world| {
            world.ok(["mkdir", "/mnt/other"]);
            let parts = ["store-b", "workdir", "merged-store"];
            for part in parts.map(|part| format!("/mnt/example/{part}")) {
                world.ok(["mv", &part, "/mnt/other"]);
            }
        },
        &[
            Then(|_| {}),
            // Root's way: alice's store is not root's to set up there.
            Then(|_| {}),
        ],
    ),
    of_a_user(
        "upper-permissions",
        |world| {
            world.ok(["chmod", "0777", Example::UPPER]);
        },
        &[Fixes],
    ),
    of_a_user(
        "state-permissions",
        |world| {
            world.ok(["chmod", "0777", &format!("{}/db", Example::STATE)]);
        },
        &[Fixes],
    ),
    of_a_user(
        "database-permissions",
        |world| {
            world.ok(["chmod", "0666", DATABASE]);
        },
        &[Fixes],
    ),
    of_a_user(
        "state-missing",
        |world| {
            let roots = format!("{}/gcroots", Example::STATE);
            world.ok(["mv", &roots, "/mnt/example/gone"]);
        },
        &[Fixes],
    ),
    of_a_user(
        "workdir-missing",
        |world| {
            world.ok(["mv", Example::WORKDIR, "/mnt/example/gone"]);
        },
        &[Fixes],
    ),
    of_a_user(
        "database-lost",
        |world| {
            world.ok(["mv", Example::STATE, "/mnt/other"]);
        },
        &[
            Then(|world| {
                world.ok(["mv", "/mnt/other", Example::STATE]);
            }),
            Then(|world| {
                for file in ["/tmp/mine", "/tmp/directory"] {
                    Who::Alice.inside(world, &["nix-store", "--add", file]);
                }
            }),
        ],
    ),
    of_a_user(
        "upper-replaced",
        |world| {
            world.ok(["mv", Example::UPPER, "/mnt/example/away"]);
        },
        &[
            Then(|world| {
                world.ok(["mv", "/mnt/example/away", Example::UPPER]);
            }),
            Then(|world| {
                let found = found(world, Who::Alice, "check", &[]);
                let lost = |it: &Value| it["code"] == "row-without-object";
                assert!(found.iter().any(lost), "{found:?}");
                let copy = "cp -a /mnt/example/away/*-* /mnt/example/merged-store/nix/store";
                Who::Alice.inside(world, &["sh", "-c", copy]);
            }),
        ],
    ),
    of_a_user(
        "lower-missing",
        |world| {
            world.ok(["mv", "/mnt/example/store-a", "/mnt/example/away"]);
        },
        &[Then(|world| {
            world.ok(["mv", "/mnt/example/away", "/mnt/example/store-a"]);
        })],
    ),
    of_a_user(
        "not-checked",
        |world| {
            world.ok(["chmod", "0700", "/mnt/example/store-a/nix/var/nix/db"]);
        },
        &[Then(|world| {
            world.ok(["chmod", "0755", "/mnt/example/store-a/nix/var/nix/db"]);
        })],
    ),
];

#[test]
fn of_a_store_of_an_ordinary_user() {
    run_cases(USERS);
}

const fn of_an_own(code: &'static str, damage: fn(&World), ways: &'static [Way]) -> Case {
    Case {
        who: Who::Own,
        options: &[],
        ..case(code, damage, ways)
    }
}

/// What was taken away is put back.
fn put_back(world: &World) {
    world.ok(["sh", "-c", "mv /mnt/other/* /mnt/example/store-b"]);
}

/// Of a store that is mounted by `exec` alone, at `/nix/store`.
const OWN: &[Case] = &[
    of_an_own(
        "objects-lost",
        |world| {
            world.ok(["mkdir", "/mnt/other"]);
            world.ok(["sh", "-c", "mv /mnt/example/store-b/*-* /mnt/other"]);
        },
        &[
            Then(put_back),
            // What it shows is that the lower store was not replaced.
            Then(put_back),
            Then(|world| {
                let found = found(world, Who::Own, "check", &[]);
                let lost = |it: &Value| it["code"] == "row-without-object";
                assert!(found.iter().all(lost), "{found:?}");
                put_back(world);
            }),
        ],
    ),
    Case {
        options: &["--lower"],
        ..of_an_own(
            "lower-object-hidden",
            |world| {
                let above = format!("{}/{}", Example::UPPER, lower_object(world));
                world.ok(["mknod", &above, "c", "0", "0"]);
            },
            &[Fixes],
        )
    },
];

#[test]
fn of_a_store_of_ones_own() {
    run_cases(OWN);
}

/// The link of the store's own to a generation.
const LINK: &str = "/mnt/example/merged-store/nix/var/nix/overstore/generation";

const fn of_a_consumer(code: &'static str, damage: fn(&World), ways: &'static [Way]) -> Case {
    Case {
        who: Who::Consumer,
        options: &[],
        ..case(code, damage, ways)
    }
}

/// Of a store over a publication.
const CONSUMER: &[Case] = &[
    of_a_consumer(
        "publication-unreadable",
        |world| {
            world.ok(["mv", PLACE, "/mnt/away"]);
        },
        &[Then(|world| {
            world.ok(["mv", "/mnt/away", PLACE]);
        })],
    ),
    of_a_consumer(
        "publication-unreadable",
        |world| {
            world.ok(["ln", "-sfn", "elsewhere", &format!("{PLACE}/current")]);
        },
        // The store goes on with its generation, and then with the new one.
        &[Then(|world| {
            let current = format!("{PLACE}/current");
            world.ok(["ln", "-sfn", "generations/1", &current]);
            publish(world);
            world.overstore(["refresh", DESCRIPTION]).ok();
        })],
    ),
    of_a_consumer("generation-behind", publish, &[Fixes]),
    of_a_consumer(
        "generation-retired",
        |world| {
            publish(world);
            world.overstore(["publish", "main", "--retire", "1"]).ok();
        },
        &[Fixes],
    ),
    of_a_consumer(
        "generation-gone",
        |world| {
            publish(world);
            world
                .overstore(["publish", "main", "--retire", "1", "--now"])
                .ok();
        },
        &[Fixes],
    ),
    Case {
        told_by: "refresh",
        ..of_a_consumer(
            "generation-lacks",
            |world| {
                let path = needed(world);
                world.overstore(["warm", DESCRIPTION, &path]).ok();
                let root = format!("{}/gcroots/needed", Example::STATE);
                world.ok(["ln", "-s", &path, &root]);
                world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/needed")]);
                publish(world);
            },
            &[
                Then(|world| {
                    let link = format!("{LIVE}/nix/var/nix/gcroots/needed");
                    world.ok(["ln", "-s", &needed(world), &link]);
                    publish(world);
                    world.overstore(["refresh", DESCRIPTION]).ok();
                }),
                Fixes,
            ],
        )
    },
    of_a_consumer(
        "generation-unset",
        |world| {
            world.ok(["rm", LINK]);
        },
        &[Fixes],
    ),
    of_a_consumer(
        "generation-unset",
        |world| {
            world.ok(["rm", LINK]);
            world.mkdir(format!("{LINK}/kept"));
        },
        &[Fixes],
    ),
    of_a_consumer(
        "generation-unset",
        |world| {
            world.ok(["cp", "-a", PLACE, "/mnt/publications/moved"]);
            describe(world, PLACE, "/mnt/publications/moved");
        },
        &[
            Then(|world| describe(world, "/mnt/publications/moved", PLACE)),
            Fixes,
        ],
    ),
];

const fn of_an_owner(code: &'static str, damage: fn(&World), ways: &'static [Way]) -> Case {
    Case {
        who: Who::Owner,
        options: &[],
        told_by: "publish",
        ..case(code, damage, ways)
    }
}

/// A change of the live store's database that Nix would not make.
fn change_live_rows(world: &World, sql: &str) {
    let database = format!("{LIVE}/nix/var/nix/db/db.sqlite");
    world.ok([
        "sqlite3",
        &database,
        &format!("pragma foreign_keys = off; {sql}"),
    ]);
}

/// A substituter that has everything in the live store.
fn substituter_of_live(world: &World) {
    let copy = ["nix", "copy", "--all", "--to", "file:///mnt/other/cache"];
    Who::Owner.inside(world, &copy);
    let settings = "substituters = file:///mnt/other/cache\nrequire-sigs = false\n";
    world.write("/etc/nix/nix.conf", settings);
}

/// The root is removed that has it published.
fn publish_without_it(world: &World) {
    world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/needed")]);
}

/// Of a live store that is published.
const OWNER: &[Case] = &[
    of_an_owner(
        "lower-row-without-object",
        |world| {
            substituter_of_live(world);
            world.ok(["rm", &format!("{LIVE}{}", needed(world))]);
        },
        &[Fixes, Then(publish_without_it)],
    ),
    Case {
        options: &["--contents"],
        ..of_an_owner(
            "object-damaged",
            |world| {
                substituter_of_live(world);
                let object = format!("{LIVE}{}", needed(world));
                world.ok(["chmod", "u+w", &object]);
                world.write(object, "damaged");
            },
            &[Fixes, Then(publish_without_it)],
        )
    },
    of_an_owner(
        "lower-row-unreadable",
        |world| {
            change_live_rows(
                world,
                "update ValidPaths set narSize = -5 where path like '%-needed'",
            );
        },
        &[
            Then(|world| {
                change_live_rows(
                    world,
                    "update ValidPaths set narSize = 120 where path like '%-needed'",
                );
            }),
            Then(|world| {
                publish_without_it(world);
                change_live_rows(world, "delete from ValidPaths where path like '%-needed'");
            }),
        ],
    ),
    of_an_owner(
        "lower-reference-missing",
        |world| {
            let live = format!("{LIVE}/nix/var/nix/db");
            world.ok(["cp", "-a", &live, "/mnt/other-db"]);
            change_live_rows(
                world,
                "insert into Refs select id, 4711 from ValidPaths where path like '%-needed'",
            );
        },
        &[Then(|world| {
            let live = format!("{LIVE}/nix/var/nix/db");
            world.ok(["rm", "-r", &live]);
            world.ok(["mv", "/mnt/other-db", &live]);
        })],
    ),
];

#[test]
fn of_a_store_over_a_publication() {
    run_cases(CONSUMER);
}

#[test]
fn of_a_live_store_that_is_published() {
    run_cases(OWNER);
}

/// A new code has a case, or a reason why it has none.
#[test]
fn every_code_has_its_remedy_carried_out_or_a_reason() {
    let run = CASES.iter().copied().flatten().map(|case| case.code);
    let run: BTreeSet<&str> = run.collect();
    let without: BTreeSet<&str> = WITHOUT.iter().map(|(code, _)| *code).collect();
    let both: Vec<_> = run.intersection(&without).collect();
    assert!(
        both.is_empty(),
        "both a case and a reason for none: {both:?}"
    );
    let listed = std::process::Command::new(env!("CARGO_BIN_EXE_overstore"))
        .args(["check", "--list", "--json"])
        .output()
        .expect("the program runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let codes = listed["codes"].as_array().expect("a list").iter();
    let codes: BTreeSet<&str> = codes
        .map(|it| it["code"].as_str().expect("a code"))
        .collect();
    let known: BTreeSet<&str> = run.union(&without).copied().collect();
    assert_eq!(codes, known);
}
