//! A part of the store is lost, and `up` does not say that it is up: what it would make worse it
//! refuses before anything is made, what it cannot help it names, and of what is no loss it says
//! nothing. Each remedy is run to the letter, and nothing of the user's is gone after it.

use std::path::Path;

use serde_json::Value;

use crate::support::{Example, Outcome, Snapshot, World};

const DISK: &str = "/mnt/disk";
const UPPER: &str = "/mnt/disk/up";
const STATE: &str = "/mnt/state";
const DATABASE: &str = "/mnt/state/db/db.sqlite";

/// A store whose upper layer is on a disk of its own, mounted at [`DISK`], and whose state is not.
struct Store<'w> {
    world: &'w World,
    /// What was added, by full path.
    added: Vec<String>,
}

fn describe(world: &World, upper: &str, more: &str) {
    world.write(
        Example::CONFIGURATION,
        format!(
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/low?read-only=true\"\n\
             upper-layer = \"{upper}\"\nworkdir = \"/mnt/disk/work\"\nstate = \"{STATE}\"\n{more}\n"
        ),
    );
}

impl<'w> Store<'w> {
    /// Up, with three objects added, and down again.
    fn new(world: &'w World) -> Self {
        for directory in ["/mnt/merged", "/mnt/low", "/mnt/state", "/mnt/platter"] {
            world.ok(["rm", "-rf", directory]);
        }
        world.lower_store("/mnt/low");
        world.mkdir("/mnt/platter");
        world.mkdir(DISK);
        describe(world, UPPER, "");
        let mut store = Self {
            world,
            added: Vec::new(),
        };
        store.plug();
        store.command("up", &[]).ok();
        for name in ["one", "two", "three"] {
            let path = store.add(name);
            store.added.push(path);
        }
        store.command("down", &[]).ok();
        store
    }

    fn plug(&self) {
        self.world.ok(["mount", "--bind", "/mnt/platter", DISK]);
    }

    fn unplug(&self) {
        self.world.ok(["umount", DISK]);
    }

    fn add(&self, name: &str) -> String {
        let file = format!("/tmp/{name}");
        self.world.write(&file, name);
        self.nix(&["--add", &file]).trim_end().to_owned()
    }

    /// A command of nix-store, which has to succeed.
    fn nix(&self, words: &[&str]) -> String {
        let url = self.command("url", &[]).ok();
        let store = ["nix-store", "--store", url.trim_end()];
        self.world.nix(store).args(words).ok()
    }

    fn command(&self, command: &str, flags: &[&str]) -> crate::support::Run<'w> {
        self.world.overstore([command, "example"]).args(flags)
    }

    /// Where an object of the upper layer is.
    fn object(&self, index: usize) -> String {
        let name = Path::new(&self.added[index]).file_name().unwrap();
        format!("{UPPER}/{}", name.to_str().unwrap())
    }

    /// Everything that is the user's: the upper layer, and the rows.
    fn is_the_users(&self) -> (Snapshot, String) {
        let layer = Snapshot::of(self.world.path("/mnt/platter/up"));
        (layer, self.rows())
    }

    fn rows(&self) -> String {
        let sql = "select path, hash from ValidPaths order by path";
        self.world.ok(["sqlite3", DATABASE, sql])
    }

    /// All that was added is valid, and has its content.
    #[track_caller]
    fn has_everything(&self) {
        for path in &self.added {
            self.nix(&["--verify-path", path]);
        }
    }
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// The codes of errors that a command finds, and its exit code.
#[track_caller]
fn errors(world: &World, words: &[&str]) -> (Vec<String>, Value, Option<i32>) {
    let outcome = world
        .overstore(words.iter().copied())
        .args(["--json"])
        .run();
    let report = report(&outcome);
    let errors = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["severity"] == "error")
        .map(|finding| finding["code"].as_str().unwrap().to_owned())
        .collect();
    (errors, report, outcome.code())
}

/// `up` refuses because of this, and makes and mounts nothing; `plan` and `check` say the same.
#[track_caller]
fn refused(world: &World, code: &str, flag: &str) {
    let before = Snapshot::of(world.path("/mnt"));
    let (found, report, exit) = errors(world, &["up", "example"]);
    assert_eq!((found, exit), (vec![code.to_owned()], Some(1)), "{report}");
    assert_eq!(report["mounted"], false);
    assert_eq!(report["steps"].as_array().unwrap().len(), 0);
    before.assert_unchanged(world.path("/mnt"));

    let said = world.overstore(["up", "example"]).run();
    let last = said.stdout().lines().last().unwrap().to_owned();
    assert!(last.contains("is not mounted"), "{last}");
    assert!(said.stdout().contains(flag), "{said}");
    let (found, _, exit) = errors(world, &["plan", "example"]);
    assert_eq!((found, exit), (vec![code.to_owned()], Some(1)));
    before.assert_unchanged(world.path("/mnt"));
    let (found, report, exit) = errors(world, &["check", "example"]);
    assert_eq!((found, exit), (vec![code.to_owned()], Some(1)), "{report}");
    let text = report.to_string();
    assert!(!text.contains("nix-store --gc"), "{text}");
}

/// The store comes up, and says that this many objects are missing.
#[track_caller]
fn incomplete(world: &World, flags: &[&str], missing: usize) {
    let words: Vec<_> = ["up", "example"].iter().chain(flags).copied().collect();
    let (found, report, exit) = errors(world, &words);
    assert_eq!(found, vec!["row-without-object"; missing], "{report}");
    assert_eq!((exit, &report["mounted"]), (Some(1), &Value::Bool(true)));
    let said = world.overstore(["up", "example"]).run();
    assert_eq!(said.code(), Some(1), "{said}");
    let last = said.stdout().lines().last().unwrap().to_owned();
    assert!(last.contains("is mounted, and not as described"), "{last}");
}

#[test]
fn a_disk_that_is_not_mounted() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let before = store.is_the_users();
    store.unplug();
    refused(&world, "upper-replaced", "--accept-other-layer");
    assert_eq!(world.list(DISK), [""; 0], "nothing is made in its place");

    // The remedy is to mount it.
    store.plug();
    store.command("up", &[]).ok();
    store.has_everything();
    store.command("down", &[]).ok();
    before.0.assert_unchanged(world.path("/mnt/platter/up"));
    assert_eq!(store.rows(), before.1);

    // The other one is to go on, and to give up what is in it. It stays given up, also for a unit,
    // which has no flags.
    store.unplug();
    incomplete(&world, &["--accept-other-layer"], 3);
    store.command("down", &[]).ok();
    incomplete(&world, &[], 3);
    store.command("down", &[]).ok();
    // And nothing of it is gone: the disk is found again.
    world.ok(["rm", "-rf", UPPER, "/mnt/disk/work"]);
    store.plug();
    store.command("up", &[]).ok();
    store.has_everything();
    before.0.assert_unchanged(world.path("/mnt/platter/up"));
}

#[test]
fn an_upper_layer_that_was_edited_or_emptied() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let before = store.is_the_users();
    describe(&world, "/mnt/disk/upp", "");
    refused(&world, "upper-replaced", "--accept-other-layer");
    world.mkdir("/mnt/disk/upp");
    refused(&world, "upper-replaced", "--accept-other-layer");
    // Another store's layer.
    world.write("/mnt/disk/upp/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-other", "");
    refused(&world, "upper-replaced", "--accept-other-layer");
    describe(&world, UPPER, "");
    store.command("up", &[]).ok();
    store.has_everything();
    store.command("down", &[]).ok();
    before.0.assert_unchanged(world.path("/mnt/platter/up"));

    world.mkdir("/mnt/kept");
    world.ok(["sh", "-c", &format!("mv {UPPER}/*-* /mnt/kept")]);
    refused(&world, "objects-lost", "--accept-lost-objects");
    incomplete(&world, &["--accept-lost-objects"], 3);
    store.command("down", &[]).ok();
    incomplete(&world, &[], 3);
    store.command("down", &[]).ok();
    assert_eq!(store.rows(), before.1, "the rows stay");
    world.ok(["sh", "-c", &format!("mv /mnt/kept/* {UPPER}")]);
    store.command("up", &[]).ok();
    store.has_everything();
}

#[test]
fn a_database_that_is_gone() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let layer = store.is_the_users().0;
    world.ok(["cp", "-a", STATE, "/mnt/backup"]);
    let damages: [(&str, &[&str]); 3] = [
        ("the state directory", &["rm", "-rf", STATE]),
        ("the file", &["rm", DATABASE]),
        ("its content", &["truncate", "--size=0", DATABASE]),
    ];
    for (what, damage) in damages {
        eprintln!("{what} is lost");
        world.ok(damage.iter().copied());
        refused(&world, "database-lost", "--accept-lost-database");
        // From a backup.
        world.ok(["rm", "-rf", STATE]);
        world.ok(["cp", "-a", "/mnt/backup", STATE]);
        store.command("up", &[]).ok();
        store.has_everything();
        store.command("down", &[]).ok();
        layer.assert_unchanged(world.path("/mnt/platter/up"));
    }

    // A Nix that is left alone makes an empty one.
    world.ok(["rm", "-rf", STATE]);
    world.ok(["cp", "-a", "/mnt/backup", STATE]);
    store.command("up", &[]).ok();
    let url = store.command("url", &[]).ok();
    world.ok(["sh", "-c", &format!("rm -rf {STATE}/db")]);
    let info = ["nix", "store", "info", "--store", url.trim_end()];
    world.nix(info).ok();
    let (found, ..) = errors(&world, &["check", "example"]);
    assert!(found.contains(&"database-lost".to_owned()), "{found:?}");
    store.command("down", &[]).ok();
    refused(&world, "database-lost", "--accept-lost-database");
}

#[test]
fn a_lost_database_that_is_given_up() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let layer = store.is_the_users().0;
    world.ok(["rm", "-rf", STATE]);
    store.command("up", &["--accept-lost-database"]).ok();
    // The objects are all there, and nothing advises to have them collected.
    layer.assert_unchanged(world.path("/mnt/platter/up"));
    let check = store.command("check", &[]).run();
    assert!(check.stdout().contains("object-without-row"), "{check}");
    assert!(!check.stdout().contains("--gc"), "{check}");
    // It stays given up.
    store.command("down", &[]).ok();
    store.command("up", &[]).ok();
    // What is added again is taken over.
    for name in ["one", "two", "three"] {
        store.add(name);
    }
    store.has_everything();
    store.command("check", &[]).ok();
}

#[test]
fn some_objects_that_a_power_cut_took() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    world.ok(["rm", "-rf", &store.object(1)]);
    incomplete(&world, &[], 1);
    let (found, ..) = errors(&world, &["check", "example"]);
    assert_eq!(found, ["row-without-object"]);
    store.command("down", &[]).ok();

    // The unit counts as started, or not.
    let unit = |exit: i32| {
        let up = store.command("up", &["--unit"]).run();
        assert_eq!(up.code(), Some(exit), "{up}");
        assert!(up.stdout().contains("row-without-object"), "{up}");
        store.command("down", &[]).ok();
    };
    unit(0);
    describe(&world, UPPER, "when-incomplete = \"fail\"");
    unit(1);
    describe(&world, UPPER, "");

    // A refusal fails it in any case.
    store.unplug();
    let up = store.command("up", &["--unit"]).run();
    assert_eq!(up.code(), Some(1), "{up}");
    store.plug();

    // Nix takes it again, as the remedy says; here it comes from the lower store's own machine.
    store.command("up", &[]).run();
    store.add("two");
    let url = store.command("url", &[]).ok();
    let below = ["nix-store", "--store", "local?root=/mnt/substitutes"];
    world.nix(below).args(["--add", "/tmp/two"]).ok();
    world
        .nix(["nix-store", "--store", url.trim_end()])
        .args(["--option", "substituters", "local?root=/mnt/substitutes"])
        .args(["--option", "require-sigs", "false"])
        .args(["--repair-path", &store.added[1]])
        .ok();
    store.has_everything();
    store.command("up", &[]).ok();
}

#[test]
fn a_lower_store_that_was_exchanged() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    // An object above refers to one below.
    store.command("up", &[]).ok();
    let below = world.list("/mnt/low/nix/store");
    let below = below
        .iter()
        .find(|name| name.to_string_lossy().contains("hello"));
    let below = format!("/nix/store/{}", below.unwrap().to_string_lossy());
    let sql = format!(
        "insert into ValidPaths (path, hash, registrationTime, narSize) values \
         ('{below}', 'sha256:0', 1, 1); insert into Refs select app.id, lib.id from ValidPaths app, \
         ValidPaths lib where app.path = '{}' and lib.path = '{below}'",
        store.added[0]
    );
    store.command("down", &[]).ok();
    world.ok(["sqlite3", DATABASE, &sql]);
    store.command("up", &[]).ok();
    store.command("down", &[]).ok();
    let gone = below.replace("/nix/store", "/mnt/low/nix/store");
    world.ok(["mv", &gone, "/mnt/gone"]);
    incomplete(&world, &[], 1);
    let said = store.command("up", &[]).run().stdout();
    assert!(said.contains(&store.added[0]), "who needs it: {said}");
    assert!(!said.contains("nix-store --verify"), "{said}");
    store.command("down", &[]).ok();
    // The remedy: the old one is brought back.
    world.ok(["mv", "/mnt/gone", &gone]);
    store.command("up", &[]).ok();
}

#[test]
fn a_copy_without_extended_attributes() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    // A directory in both layers: the good copy of a damaged one below.
    let name = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-both";
    world.write(format!("/tmp/both/{name}/file"), "good");
    let low = format!("/mnt/low/nix/store/{name}");
    world.write(format!("{low}/file"), "good");
    world.write(format!("{low}/extra"), "damage");
    store.command("up", &[]).ok();
    let hash = world
        .nix(["nix-hash", "--type", "sha256", "--base16"])
        .args([format!("/tmp/both/{name}")])
        .ok();
    let merged = format!("/mnt/merged/nix/store/{name}");
    world.ok(["rm", "-r", &merged]);
    world.ok([
        "cp",
        "-r",
        &format!("/tmp/both/{name}"),
        "/mnt/merged/nix/store/",
    ]);
    let sql = format!(
        "insert into ValidPaths (path, hash, registrationTime, narSize) values \
         ('/nix/store/{name}', 'sha256:{}', 1, 1)",
        hash.trim()
    );
    world.ok(["sqlite3", DATABASE, &sql]);
    store.nix(&["--verify-path", &format!("/nix/store/{name}")]);
    store.command("down", &[]).ok();

    world.ok([
        "sh",
        "-c",
        "cd /mnt/disk && mkdir up2 && tar -C up -cf - . | tar -C up2 -xf - && \
         rm -rf up work && mv up2 up",
    ]);
    refused(&world, "marks-lost", "--restore-marks");
    let before = Snapshot::of(world.path("/mnt/platter/up"));
    let up = store.command("up", &["--restore-marks"]).ok();
    assert!(up.contains("1 marked"), "{up}");
    store.nix(&["--verify-path", &format!("/nix/store/{name}")]);
    store.has_everything();
    store.command("down", &[]).ok();
    // Once is enough.
    store.command("up", &[]).ok();
    store.nix(&["--verify-path", &format!("/nix/store/{name}")]);
    assert_eq!(world.read(format!("{low}/extra")), b"damage");
    let paths: Vec<_> = before.paths().collect();
    let later = Snapshot::of(world.path("/mnt/platter/up"));
    assert!(paths.iter().all(|path| later.paths().any(|it| it == *path)));
}

#[test]
fn marks_that_a_user_namespace_made() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let links = world.path(format!("{UPPER}/.links"));
    let name = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-both";
    for directory in ["/mnt/low/nix/store", UPPER] {
        world.mkdir(format!("{directory}/{name}"));
    }
    world.write(format!("/mnt/low/nix/store/{name}/extra"), "damage");
    let both = world.path(format!("{UPPER}/{name}"));
    rustix::fs::removexattr(&links, "trusted.overlay.opaque").unwrap();
    for directory in [&links, &both] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(directory, "user.overlay.opaque", b"y", flags).unwrap();
    }
    refused(&world, "marks-lost", "--restore-marks");
    store.command("up", &["--restore-marks"]).ok();
    let merged = format!("/mnt/merged/nix/store/{name}");
    assert_eq!(world.list(merged), [""; 0], "what is below does not show");
    store.has_everything();
}

/// The exit code of `up` and the codes of everything that `up` and `check` say.
#[track_caller]
fn nothing_to_say(store: &Store, what: &str) {
    let up = store.command("up", &["--json"]).run();
    assert_eq!(up.code(), Some(0), "{what}: {up}");
    let check = store.command("check", &["--json"]).run();
    for outcome in [&up, &check] {
        let findings = report(outcome)["findings"].clone();
        let findings: Vec<_> = findings.as_array().unwrap().clone();
        assert_eq!(findings, [Value::Null; 0], "{what}");
    }
    store.has_everything();
    store.command("down", &[]).ok();
}

#[test]
fn what_is_no_loss() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let memory = "/mnt/state/overstore/state.json";
    nothing_to_say(&store, "nothing happened");

    world.ok(["rm", memory]);
    nothing_to_say(&store, "the memory is gone");
    let remembered = String::from_utf8(world.read(memory)).unwrap();
    assert!(remembered.contains("upper-layer"), "it is known again");

    // From before there were marks.
    let mut older: Value = serde_json::from_str(&remembered).unwrap();
    older.as_object_mut().unwrap().remove("upper-layer");
    world.write(memory, older.to_string());
    let upper = world.path(UPPER);
    rustix::fs::removexattr(&upper, "user.overstore.id").unwrap();
    nothing_to_say(&store, "a store from before there were marks");
    let mut mark = [0; 64];
    let length = rustix::fs::getxattr(&upper, "user.overstore.id", &mut mark).unwrap();
    assert_eq!(length, 32, "it has one now");

    // A layer that was copied with its attributes, and the state of an older time.
    world.ok([
        "sh",
        "-c",
        "cd /mnt/disk && cp -a up up2 && rm -rf up work && mv up2 up",
    ]);
    nothing_to_say(&store, "a good copy");

    // The lower store is another directory with all that is needed.
    world.ok([
        "sh",
        "-c",
        "cd /mnt && mv low low.old && cp -a low.old low && rm -rf low.old",
    ]);
    nothing_to_say(&store, "another lower store with the same");

    // The layer is made anew before anything was added.
    world.ok(["rm", "-rf", STATE, "/mnt/disk/up", "/mnt/disk/work"]);
    let store = Store {
        added: Vec::new(),
        ..store
    };
    nothing_to_say(&store, "a new store");
    world.ok(["rm", "-rf", "/mnt/disk/up"]);
    nothing_to_say(&store, "an empty layer that is made anew");
}

#[test]
fn leftovers_of_a_first_addition_that_was_killed() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let left = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-left";
    world.write(format!("{}/{left}", Example::REAL), "half of it");
    example.command("down").ok();
    example.up();
    let (found, ..) = errors(&world, &["check", "example"]);
    assert_eq!(found, [""; 0]);
}
