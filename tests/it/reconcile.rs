//! `overstore reconcile`: the lower store was replaced, and the upper store is put right.

use std::collections::{BTreeMap, BTreeSet};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{collection::vec, prelude::any};
use serde_json::{Value, json};

use crate::support::{Example, Outcome, Snapshot, World, base_name, sample, soaks, wait_until};
use crate::sweeps::Sweep;

/// Where the lower store of before is kept.
pub(crate) const OLD: &str = "/mnt/old";
/// Where the next one is made.
const NEW: &str = "/mnt/new";
/// The lower store.
pub(crate) const ROOT: &str = "/mnt/example/store-a";

/// An object: in which stores, and in which version of its content.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    name: String,
    old: Option<u8>,
    new: Option<u8>,
    above: Option<u8>,
    /// What its versions refer to, by place.
    references: [Vec<usize>; 2],
    /// Whether its row is copied from the old lower store.
    is_copied: bool,
    has_root: bool,
}

/// A store whose lower store was exchanged.
pub(crate) struct Exchanged<'w> {
    pub world: &'w World,
    pub example: Example<'w>,
    objects: Vec<Object>,
    pub url: String,
}

impl Object {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub fn old(mut self, version: u8) -> Self {
        (self.old, self.is_copied) = (Some(version), true);
        self
    }

    pub fn now(mut self, version: u8) -> Self {
        self.new = Some(version);
        self
    }

    pub fn above(mut self, version: u8) -> Self {
        self.above = Some(version);
        self
    }

    pub fn refers_to(mut self, references: &[usize]) -> Self {
        self.references = [references.to_vec(), references.to_vec()];
        self
    }

    /// What its two versions refer to.
    pub fn refers_by_version(mut self, first: &[usize], second: &[usize]) -> Self {
        self.references = [first.to_vec(), second.to_vec()];
        self
    }

    pub fn rooted(mut self) -> Self {
        self.has_root = true;
        self
    }
}

/// The store path of an object, by its place.
fn path(objects: &[Object], place: usize) -> String {
    format!("/nix/store/{:0>32}-{}", place + 1, objects[place].name)
}

/// Makes objects in a store directory, and gives the registrations of them.
fn make(world: &World, objects: &[Object], directory: &str, of: &[(usize, u8)]) -> String {
    if of.is_empty() {
        return String::new();
    }
    let at = |place: usize| format!("{directory}/{}", base_name(&path(objects, place)));
    for &(place, version) in of {
        let name = &objects[place].name;
        let content = format!("{name}, version {version}\n");
        // Some are files, which hide what is below by themselves.
        if place % 4 == 3 {
            world.write(at(place), content);
        } else {
            world.write(format!("{}/file", at(place)), &content);
            // What only one version has shows where directories are mixed.
            world.write(format!("{}/only-{version}", at(place)), "");
            world.write(format!("{}/sub/program", at(place)), "#!/bin/sh\n");
            world.ok(["chmod", "755", &format!("{}/sub/program", at(place))]);
        }
    }
    let mut hash = vec!["nix", "hash", "path", "--type", "sha256", "--base16"];
    let paths: Vec<String> = of.iter().map(|&(place, _)| at(place)).collect();
    hash.extend(paths.iter().map(String::as_str));
    let hashes = world.nix(hash).ok();
    let sizes = "for path; do nix-store --dump \"$path\" | wc -c; done";
    let sizes = world.ok(["sh", "-c", sizes, "sh"]
        .into_iter()
        .chain(paths.iter().map(String::as_str)));
    let mut rows = String::new();
    let lines = hashes.lines().zip(sizes.lines());
    for (&(place, version), (hash, size)) in of.iter().zip(lines) {
        let references = &objects[place].references[usize::from(version)];
        rows += &format!(
            "{}\n{hash}\n{size}\n\n{}\n",
            path(objects, place),
            references.len()
        );
        for &reference in references {
            rows += &format!("{}\n", path(objects, reference));
        }
    }
    rows
}

fn register(world: &World, url: &str, rows: String) {
    world
        .nix(["nix-store", "--load-db", "--store", url])
        .stdin(rows)
        .ok();
}

/// Adds objects to a lower store.
fn fill(world: &World, root: &str, objects: &[Object], of: &[(usize, u8)]) {
    let rows = make(world, objects, &format!("{root}/nix/store"), of);
    register(world, root, rows);
    let database = format!("{root}/nix/var/nix/db/db.sqlite");
    world.ok(["sqlite3", &database, "pragma wal_checkpoint(truncate)"]);
}

impl<'w> Exchanged<'w> {
    /// The store is made over the old lower store, taken down, and put over the new one.
    pub fn new(world: &'w World, objects: Vec<Object>) -> Self {
        world.ok([
            "sh",
            "-c",
            "umount -q /mnt/example/merged-store/nix/store; \
             rm -rf /mnt/example /mnt/old /mnt/new /run/overstore",
        ]);
        let example = world.example("");
        world.ok(["cp", "-a", ROOT, NEW]);
        let of = |which: fn(&Object) -> Option<u8>| -> Vec<(usize, u8)> {
            let places = objects.iter().enumerate();
            places
                .filter_map(|(place, it)| Some((place, which(it)?)))
                .collect()
        };
        fill(world, ROOT, &objects, &of(|it| it.old));
        fill(world, NEW, &objects, &of(|it| it.new));
        example.up();
        let url = world.overstore(["url", "example"]).ok().trim().to_owned();
        // Nix copies what a build needs from below before it registers what is built.
        let above = objects.iter().filter_map(|it| Some((it, it.above?)));
        let needed: BTreeSet<usize> = above
            .flat_map(|(it, version)| &it.references[usize::from(version)])
            .copied()
            .filter(|&place| objects[place].above.is_none())
            .collect();
        let copied: Vec<String> = (0..objects.len())
            .filter(|place| objects[*place].is_copied || needed.contains(place))
            .filter(|&place| objects[place].old.is_some())
            .map(|place| path(&objects, place))
            .collect();
        if !copied.is_empty() {
            world.overstore(["warm", "example"]).args(&copied).ok();
        }
        let rows = make(world, &objects, Example::REAL, &of(|it| it.above));
        register(world, &url, rows);
        for (place, object) in objects.iter().enumerate() {
            if object.has_root {
                let link = format!("{}/gcroots/{}", Example::STATE, object.name);
                world.ok(["ln", "-sfn", &path(&objects, place), &link]);
            }
        }
        example.command("down").ok();
        world.ok(["mv", ROOT, OLD]);
        world.ok(["mv", NEW, ROOT]);
        Self {
            world,
            example,
            objects,
            url,
        }
    }

    pub fn path(&self, name: &str) -> String {
        let place = self.objects.iter().position(|it| it.name == name);
        path(&self.objects, place.expect("an object of this name"))
    }

    pub fn paths(&self, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| self.path(name)).collect()
    }

    /// Runs `reconcile`, which has to end with this exit code.
    #[track_caller]
    pub fn reconcile(&self, arguments: &[&str], code: i32) -> Value {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        serde_json::from_slice(&outcome.out).expect("JSON")
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let run = self.world.overstore(["reconcile", "example", "--json"]);
        run.args(arguments).run()
    }

    /// What a store directory has of an object: its names and contents, as one text. Empty where there
    /// is nothing.
    pub fn content(&self, directory: &str, path: &str) -> String {
        let script =
            "cd \"$0\" && find \"$1\" -printf '%P %y %l\\n' -type f -exec cat {} \\; | sort";
        let content = self
            .world
            .run(["sh", "-c", script, directory, base_name(path)]);
        content.stdout()
    }

    pub fn merged(&self, path: &str) -> String {
        self.content(Example::REAL, path)
    }

    pub fn rows(&self) -> BTreeSet<String> {
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let sql = "select path from ValidPaths";
        let rows = self.world.ok(["sqlite3", &database, sql]);
        rows.lines().map(str::to_owned).collect()
    }

    pub fn sql(&self, root: &str, sql: &str) -> String {
        let database = format!("{root}/nix/var/nix/db/db.sqlite");
        self.world.ok(["sqlite3", &database, sql])
    }

    /// Nix finds nothing wrong, and neither does `check`.
    #[track_caller]
    pub fn assert_sound(&self) {
        let verify = [
            "nix-store",
            "--verify",
            "--check-contents",
            "--store",
            &self.url,
        ];
        let verified = self.world.nix(verify).run();
        let said = verified.stderr();
        for wrong in ["disappeared", "modified", "error"] {
            assert!(!said.contains(wrong), "{verified}");
        }
        assert_eq!(verified.code(), Some(0), "{verified}");
        let checks = "pragma integrity_check; pragma foreign_key_check";
        let found = self.sql("/mnt/example/merged-store", checks);
        assert_eq!(found, "ok\n");
        let check = ["check", "example", "--contents", "--json"];
        let check = self.world.overstore(check).run();
        let report: Value = serde_json::from_slice(&check.out).expect("JSON");
        let findings = report["findings"].as_array().expect("a list").iter();
        // What stays above where the lower store has something else is for its owner to decide.
        let mut errors =
            findings.filter(|it| it["severity"] == "error" && it["code"] != "metadata-differs");
        assert!(errors.next().is_none(), "{check}");
    }

    /// A build on top of each of these works, and reads all of it.
    #[track_caller]
    pub fn build_on(&self, paths: &BTreeSet<String>) {
        let shell = self.example.lower.path("mksh-static");
        let inputs: Vec<String> = paths
            .iter()
            .map(|path| format!("(builtins.storePath \"{path}\")"))
            .collect();
        let expression = format!(
            r#"derivation {{
                name = "built";
                system = "x86_64-linux";
                builder = builtins.storePath "{shell}" + "/bin/mksh";
                args = [ "-c" ": >$out; for it in $inputs; do if [ -d $it ]; then read line <$it/file; else read line <$it; fi; print \"$line\" >>$out; done" ];
                inputs = [ {} ];
            }}"#,
            inputs.join(" ")
        );
        self.world.write("/tmp/on-top.nix", expression);
        let build = [
            "nix-build",
            "--no-out-link",
            "/tmp/on-top.nix",
            "--store",
            &self.url,
        ];
        let built = self.world.nix(build).ok();
        let text = self
            .world
            .read(format!("{}/{}", Example::REAL, base_name(built.trim())));
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text.lines().count(), paths.len(), "{text}");
    }
}

/// The objects for each line of the table. The first is what the others refer to.
pub(crate) fn each_line() -> Vec<Object> {
    let object = Object::named;
    vec![
        object("needed").old(0).now(0),
        object("same").old(0).now(0).refers_to(&[0]),
        object("described").old(0).now(0),
        object("other").old(0).now(1).refers_to(&[0]),
        object("gone-needed").old(0).refers_to(&[0, 5]),
        object("gone-needed-too").old(0),
        object("gone-rooted").old(0).rooted(),
        object("gone-unneeded-file").old(0).refers_to(&[5]),
        object("mine").above(0).refers_to(&[4, 3]),
        object("equal").above(0).now(0),
        object("other-above").above(0).now(1),
        object("file-above").above(0).now(1),
        object("gone-and-mine").above(0).refers_to(&[8]),
    ]
}

pub(crate) fn objects(report: &Value, list: &str) -> Vec<String> {
    let list = report[list].as_array().expect("a list").iter();
    let paths = list.map(|it| it["path"].as_str().expect("text").to_owned());
    paths.collect()
}

#[test]
fn each_line_of_the_table_is_carried_out() {
    for world in World::each() {
        let store = Exchanged::new(&world, each_line());
        let path = |name: &str| store.path(name);
        store.sql(
            ROOT,
            &format!(
                "update ValidPaths set sigs = 'key:c2lnbmF0dXJl', registrationTime = 7 where path = '{}'; \
                 pragma wal_checkpoint(truncate)",
                path("described")
            ),
        );
        let whiteout = format!("{}/{}", Example::UPPER, base_name(&path("same")));
        world.ok(["mknod", &whiteout, "c", "0", "0"]);
        let leftover = format!("{}/{:0>32}-leftover", Example::UPPER, 999);
        world.write(format!("{leftover}/file"), "of a killed build\n");
        let mine = [
            "mine",
            "equal",
            "other-above",
            "file-above",
            "gone-and-mine",
        ];
        let before = mine.map(|name| store.content(Example::UPPER, &path(name)));
        let carried = ["gone-needed", "gone-needed-too", "gone-rooted"];
        let gone = carried.map(|name| store.content(&format!("{OLD}/nix/store"), &path(name)));

        let all = Snapshot::of(world.path("/mnt"));
        let planned = store.reconcile(&["--dry-run", "--old", OLD], 0);
        all.assert_unchanged(world.path("/mnt"));
        let lists = |report: &Value| {
            json!([
                report["rows-taken"],
                objects(report, "carried"),
                report["rows-dropped"],
                objects(report, "copies-removed"),
                objects(report, "hiding"),
                report["whiteouts-removed"],
                objects(report, "without-rows"),
                report["missing"],
                report["given-up"],
                report["replaced"],
            ])
        };
        let expected = json!([
            store.paths(&["other"]),
            store.paths(&carried),
            store.paths(&["gone-unneeded-file"]),
            store.paths(&["equal"]),
            store.paths(&["other-above", "file-above"]),
            store.paths(&["same"]),
            [format!("/nix/store/{}", base_name(&leftover))],
            [],
            [],
            [],
        ]);
        assert_eq!(lists(&planned), expected);
        assert!(planned["carried-bytes"].as_u64() > Some(0), "{planned}");

        let lower = Snapshot::of(world.path(ROOT));
        let old = Snapshot::of(world.path(OLD));
        let done = store.reconcile(&["--old", OLD], 0);
        lower.assert_unchanged(world.path(ROOT));
        old.assert_unchanged(world.path(OLD));
        assert_eq!(lists(&done), expected);
        assert!(done["rows-described"].as_u64() > Some(0), "{done}");
        assert_eq!(
            (&done["mounted"], &done["outcome"]),
            (&json!(true), &json!("done"))
        );
        for (name, before) in mine.iter().zip(before) {
            assert_eq!(store.merged(&path(name)), before, "{name}");
        }
        for (name, before) in carried.iter().zip(gone) {
            assert_eq!(store.merged(&path(name)), before, "{name}");
            let above = format!("{}/{}", Example::UPPER, base_name(&path(name)));
            world.ok(["test", "-e", &above]);
        }
        let equal = format!("{}/{}", Example::UPPER, base_name(&path("equal")));
        world.fails(["test", "-e", &equal]);
        world.ok(["test", "-d", &leftover]);
        let sigs = "select sigs, registrationTime from ValidPaths where path = ";
        let sigs = format!("{sigs}'{}'", path("described"));
        assert_eq!(
            store.sql("/mnt/example/merged-store", &sigs),
            "key:c2lnbmF0dXJl|7\n"
        );
        world.ok(["rm", "-rf", OLD]);
        store.assert_sound();
        let survive: BTreeSet<String> = store
            .objects
            .iter()
            .map(|it| it.name.as_str())
            .filter(|name| *name != "gone-unneeded-file")
            .map(path)
            .collect();
        store.build_on(&survive);
        // The rest of what it was made for is gone: nothing is done again.
        store.example.command("down").ok();
        assert_eq!(store.reconcile(&[], 0)["outcome"], "unchanged");
        let codes = world.overstore(["check", "example"]).run();
        assert!(!codes.stdout().contains("lower-store-changed"), "{codes}");
    }
}

/// What is nowhere to be had is told, stays, and goes only with the flag; what is above and not wanted,
/// too.
#[test]
fn what_is_given_up_has_a_flag() {
    for world in World::each() {
        let store = Exchanged::new(&world, each_line());
        let path = |name: &str| store.path(name);
        let leftover = format!("{}/{:0>32}-leftover", Example::UPPER, 999);
        world.write(format!("{leftover}/file"), "of a killed build\n");
        let rows = store.rows();
        world.ok(["mv", OLD, "/mnt/elsewhere"]);
        let planned = store.reconcile(&["--dry-run"], 1);
        let missing = store.paths(&["gone-needed", "gone-needed-too", "gone-rooted"]);
        assert_eq!(objects(&planned, "missing"), missing);
        let depending = store.paths(&["mine", "gone-and-mine"]);
        assert_eq!(planned["depending"], json!(depending));
        assert_eq!(planned["missing"][0]["referrers"], json!([path("mine")]));
        let done = store.run(&[]);
        assert_eq!(done.code(), Some(1), "{done}");
        assert!(
            done.stderr().contains("reconcile --drop-missing example"),
            "{done}"
        );
        let mut left = rows.clone();
        left.remove(&path("gone-unneeded-file"));
        assert_eq!(store.rows(), left);
        // Nothing is forgotten: with the old store, it is put right.
        assert!(
            world
                .overstore(["check", "example"])
                .run()
                .stdout()
                .contains("row-without-object")
        );
        store.example.command("down").ok();
        let flags = ["--drop-missing", "--prefer-lower", "--remove-without-rows"];
        let done = store.reconcile(&flags, 0);
        let given_up: BTreeSet<String> = missing.iter().chain(&depending).cloned().collect();
        let found: Vec<String> = serde_json::from_value(done["given-up"].clone()).expect("a list");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), given_up);
        let replaced = store.paths(&["other-above", "file-above"]);
        assert_eq!(objects(&done, "replaced"), replaced);
        assert_eq!(done["without-rows"][0]["removed"], true);
        world.fails(["test", "-e", &leftover]);
        assert!(store.rows().is_disjoint(&given_up));
        for path in &replaced {
            let below = store.content(Example::LOWER, path);
            assert_eq!(store.merged(path), below, "{path}");
        }
        store.assert_sound();
        // The objects that were given up are there, without rows.
        world.ok([
            "test",
            "-d",
            &format!("{}/{}", Example::UPPER, base_name(&path("mine"))),
        ]);
        world.ok(["mv", "/mnt/elsewhere", OLD]);
    }
}

/// Puts what no store has in an object's place.
fn odd(store: &Exchanged<'_>, make: &[&str]) {
    let same = format!("{}/{}", Example::LOWER, base_name(&store.path("same")));
    store.world.ok(["rm", "-rf", &same]);
    let (program, arguments) = make.split_first().expect("a program");
    let (mode, numbers) = arguments.split_at(arguments.len().min(2));
    let words = [&[*program], mode, &[&same], numbers].concat();
    store.world.ok(words);
}

/// What the lower store's owner has to put right.
#[test]
fn a_damaged_lower_store_is_refused() {
    let Some(world) = World::trixie() else { return };
    type Damage = (&'static str, fn(&Exchanged<'_>), &'static str);
    let damage: [Damage; 4] = [
        (
            "an object is missing",
            |store| {
                let same = format!("{}/{}", Example::LOWER, base_name(&store.path("same")));
                store.world.ok(["rm", "-rf", &same]);
            },
            "the lower store says that it is valid, and does not have it",
        ),
        (
            "a pipe is in an object's place",
            |store| odd(store, &["mkfifo"]),
            "the lower store says that it is valid, and has a pipe, a socket or a device in its place",
        ),
        (
            "a device is in an object's place",
            |store| odd(store, &["mknod", "-m", "644", "b", "7", "99"]),
            "the lower store says that it is valid, and has a pipe, a socket or a device in its place",
        ),
        (
            "another hash of a content-addressed path",
            |store| {
                let sql = format!(
                    "update ValidPaths set ca = 'text:sha256:{}' where path = '{}'; \
                     pragma wal_checkpoint(truncate)",
                    "0".repeat(52),
                    store.path("other")
                );
                store.sql(ROOT, &sql);
            },
            "the lower store has another hash of it, although the path is computed from the contents",
        ),
    ];
    for (what, damage, reason) in damage {
        let store = Exchanged::new(&world, each_line());
        damage(&store);
        let refused = store.run(&["--old", OLD]);
        assert_eq!(refused.code(), Some(1), "{what}: {refused}");
        let report: Value = serde_json::from_slice(&refused.out).expect("JSON");
        assert_eq!(report["refused"][0]["reason"], reason, "{what}");
        assert!(
            refused.stderr().contains("have its owner run"),
            "{what}: {refused}"
        );
        assert!(
            store.rows().contains(&store.path("gone-unneeded-file")),
            "{what}"
        );
        assert_eq!(store.example.mounts("fstype"), [""; 0], "{what}");
    }
}

#[test]
fn a_store_in_use_is_refused() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    store.example.command("up").run();
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.stderr().contains("overstore down example"),
        "{refused}"
    );
    // A dry run only looks.
    store.reconcile(&["--dry-run", "--old", OLD], 0);
    store.example.command("down").ok();
    // It is mounted where `down` does not reach.
    let mut other = world
        .command(["unshare", "--mount", "--propagation=private", "sh", "-c"])
        .args(["overstore up example; touch /run/mounted; exec sleep infinity"])
        .spawn();
    wait_until("it is mounted", || world.path("/run/mounted").exists());
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stderr().contains("see who has it"), "{refused}");
    assert!(!refused.stderr().contains("overstore down"), "{refused}");
    other.kill().expect("a child of this test");
    other.wait().expect("a child of this test");
    // A Nix that does not look at the mount has it open.
    let lock = format!("{}/db/big-lock", Example::STATE);
    let held = [
        "flock",
        "--shared",
        &lock,
        "overstore",
        "reconcile",
        "example",
    ];
    let refused = world.run(held);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stderr().contains("has the store open"), "{refused}");
    store.reconcile(&["--old", OLD], 0);
}

pub(crate) fn objects_named(report: &Value, list: &str) -> Vec<String> {
    let names = objects(report, list);
    names
        .iter()
        .map(|path| base_name(path)[33..].to_owned())
        .collect()
}

/// Disturbed at any step, the next run ends with the same.
pub(crate) fn sweep(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let whiteout = format!("{}/{}", Example::UPPER, base_name(&store.path("same")));
    world.ok(["mknod", &whiteout, "c", "0", "0"]);
    world.ok(["cp", "-a", "/mnt/example", "/mnt/prepared"]);
    let fresh = || {
        world.ok([
            "sh",
            "-c",
            "umount -q /mnt/example/merged-store/nix/store; rm -rf /mnt/example /run/overstore; \
             cp -a /mnt/prepared /mnt/example",
        ]);
    };
    let left = || {
        let script = "cd /mnt/example/store-b; find . -printf '%y %m %U:%G %p %l\n' | sort; \
                      find . -type f -exec md5sum {} + | sort; ls -R ../workdir/overstore; \
                      grep -c /mnt/example/merged /proc/self/mounts";
        let rows = "select path, hash, narSize, sigs from ValidPaths order by path; \
                    select count(*) from Refs; pragma integrity_check; pragma foreign_key_check";
        let memory = world.read(format!("{}/overstore/state.json", Example::STATE));
        let memory: Value = serde_json::from_slice(&memory).expect("JSON");
        world.ok(["sh", "-c", script])
            + &store.sql("/mnt/example/merged-store", rows)
            + &memory["lower"].to_string()
            + &opaque(&world)
    };
    let words = ["overstore", "reconcile", "example", "--old", OLD];
    sweep.run(&world, &words, &fresh, &left);
    store.assert_sound();
}

/// The objects of the upper layer that hide what is below, one a line.
pub(crate) fn opaque(world: &World) -> String {
    let mark = |name: &std::ffi::OsString| {
        let object = world.path(Example::UPPER).join(name);
        let found = rustix::fs::getxattr(object, "trusted.overlay.opaque", &mut [0; 8]);
        found.is_ok().then(|| format!("{}\n", name.display()))
    };
    world.list(Example::UPPER).iter().filter_map(mark).collect()
}

/// At `up`, as the description says: nothing, or all that loses nothing.
#[test]
fn up_reconciles_where_the_description_says_so() {
    for world in World::each() {
        let mut store = Exchanged::new(&world, each_line());
        let up = store.example.run("up");
        assert_eq!(up.code(), Some(1), "{up}");
        let missing = up.stdout().matches("[row-without-object]").count();
        assert_eq!(missing, 4, "{up}");
        assert!(up.stdout().contains("reconcile --dry-run example"), "{up}");
        store.example.command("down").ok();

        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        let with = |lower: &str| {
            let text = text.replace(&format!("{ROOT}?read"), &format!("{lower}?read"));
            let text = format!("{text}\n[lower]\nwhen-replaced = \"reconcile\"\n");
            world.write(Example::CONFIGURATION, text);
        };
        // What is needed is nowhere to be had: it is as before.
        with(ROOT);
        let rows = store.rows();
        let again = store.example.run("up");
        assert_eq!(again.code(), Some(1), "{again}");
        assert_eq!(
            again.stdout().matches("[row-without-object]").count(),
            missing,
            "{again}"
        );
        assert_eq!(store.rows(), rows);
        store.example.command("down").ok();
        // The description names another lower store than before, and the old one is still there.
        world.ok(["mv", ROOT, "/mnt/next"]);
        world.ok(["mv", OLD, ROOT]);
        with("/mnt/next");
        let done = store.example.run("up");
        assert_eq!(done.code(), Some(0), "{done}");
        assert!(
            done.stdout().contains("reconcile with the lower store: "),
            "{done}"
        );
        assert!(done.stdout().contains("3 carried"), "{done}");
        store.url = world.overstore(["url", "example"]).ok().trim().to_owned();
        store.assert_sound();
        // What is up is left alone, and what fits, too.
        assert!(!store.example.up().contains("reconcile"));
        store.example.command("down").ok();
        assert!(!store.example.up().contains("reconcile"));
    }
}

/// A derivation of content-addressed outputs knows them as realisations: these stay with paths that
/// stay, and go with those that go.
#[test]
fn realisations_and_outputs_follow_their_paths() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let ca = "extra-experimental-features = ca-derivations nix-command local-overlay-store \
              read-only-local-store";
    // Nix itself makes the tables.
    world
        .command(["nix-store", "--init", "--store", "/mnt/schema"])
        .env("NIX_CONFIG", ca)
        .ok();
    let tables = "select sql || ';' from sqlite_master where sql is not null and \
                  (name like '%Realisations%' or tbl_name like '%Realisations%')";
    let tables = world.ok(["sqlite3", "/mnt/schema/nix/var/nix/db/db.sqlite", tables]);
    assert!(tables.contains("RealisationsRefs"), "{tables}");
    let upper = "/mnt/example/merged-store";
    let triggers =
        "select sql || ';' from sqlite_master where name = 'DeleteSelfRefsViaRealisations'";
    let triggers = world.ok(["sqlite3", "/mnt/schema/nix/var/nix/db/db.sqlite", triggers]);
    let rows = ["mine", "other", "gone-unneeded-file"].map(|name| {
        format!(
            "insert into Realisations (drvPath, outputName, outputPath) select 'sha256:{name}', 'out', id \
             from ValidPaths where path = '{}';",
            store.path(name)
        )
    });
    let script = format!(
        "{tables}{}{}",
        if tables.contains("DeleteSelf") {
            ""
        } else {
            &triggers
        },
        rows.join("")
    );
    store.sql(upper, &script);
    store.reconcile(&["--old", OLD], 0);
    let left = store.sql(upper, "select drvPath from Realisations order by 1");
    assert_eq!(left, "sha256:mine\nsha256:other\n");
    store.assert_sound();
}

/// Another store directory, and a newer schema than Nix knows.
#[test]
fn a_lower_store_that_cannot_be_read_as_one_is_refused() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let rows = store.rows();
    let schema = format!("{ROOT}/nix/var/nix/db/schema");
    world.write(&schema, "11");
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.stderr().contains("lower-schema-unknown"),
        "{refused}"
    );
    world.write(&schema, "10");
    store.sql(
        ROOT,
        "update ValidPaths set path = replace(path, '/nix/store', '/gnu/store'); \
         pragma wal_checkpoint(truncate)",
    );
    for arguments in [&["--old", OLD][..], &["--dry-run"]] {
        let refused = store.run(arguments);
        assert_eq!(refused.code(), Some(1), "{refused}");
        assert!(refused.stderr().contains("/gnu/store"), "{refused}");
    }
    assert_eq!(store.rows(), rows);
}

/// A lower store behind a daemon's socket is asked.
#[test]
fn a_lower_store_behind_a_daemon_is_asked() {
    for world in World::each() {
        let mut store = Exchanged::new(&world, each_line());
        let _daemon = world.nix_daemon(ROOT, "/run/lower.socket");
        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        let url = format!("unix:///run/lower.socket?root={ROOT}");
        let text = text.replace(&format!("{ROOT}?read-only=true"), &url);
        world.write(Example::CONFIGURATION, text);
        let done = store.reconcile(&["--old", OLD], 0);
        assert_eq!(done["carried"].as_array().map(Vec::len), Some(3), "{done}");
        assert_eq!(done["rows-taken"], json!(store.paths(&["other"])));
        store.url = world.overstore(["url", "example"]).ok().trim().to_owned();
        world.ok(["rm", "-rf", OLD]);
        store.assert_sound();
    }
}

/// What no old store has is fetched by Nix, where a substituter has it, and only the rest is given up.
#[test]
fn what_a_substituter_has_is_fetched_by_nix() {
    for world in World::each() {
        let store = Exchanged::new(&world, each_line());
        world.ok(["mv", OLD, "/mnt/substituter"]);
        let lost = format!(
            "/mnt/substituter/nix/store/{}",
            base_name(&store.path("gone-rooted"))
        );
        world.ok(["rm", "-rf", &lost]);
        let forget = format!(
            "delete from ValidPaths where path = '{}'",
            store.path("gone-rooted")
        );
        store.sql("/mnt/substituter", &forget);
        world.write(
            "/etc/nix/nix.conf",
            "substituters = local?root=/mnt/substituter\nrequire-sigs = false\n",
        );
        let done = store.reconcile(&[], 1);
        let fetched = store.paths(&["gone-needed", "gone-needed-too"]);
        assert_eq!(done["fetched"], json!(fetched));
        assert_eq!(objects_named(&done, "missing"), ["gone-rooted"]);
        assert!(store.rows().contains(&store.path("gone-rooted")));
        store.example.command("down").ok();
        let done = store.reconcile(&["--drop-missing"], 0);
        assert_eq!(done["given-up"], json!(store.paths(&["gone-rooted"])));
        store.assert_sound();
        store.example.command("down").ok();
        assert_eq!(store.reconcile(&[], 0)["outcome"], "unchanged");
    }
}

/// Random pairs of lower stores below random upper stores.
#[test]
fn whatever_the_pair_of_stores() {
    let mut worlds: Vec<World> = World::each().collect();
    if worlds.is_empty() {
        return;
    }
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let mut draw = |case| {
        let drawn = any_objects().new_tree(&mut runner).expect("objects");
        (case, drawn.current())
    };
    // Of a sample, each with one version of Nix; where all are run, with all.
    let versions = match soaks() {
        true => worlds.len(),
        false => 1,
    };
    for (case, objects) in sample((0..500).map(&mut draw).collect(), 20) {
        for _ in 0..versions {
            worlds.rotate_left(1);
            let store = Exchanged::new(&worlds[0], objects.clone());
            let context = format!("case {case}: {objects:#?}");
            check_pair(&store, &context);
        }
    }
}

fn check_pair(store: &Exchanged<'_>, context: &str) {
    let all = |directory: &str, which: fn(&Object) -> bool| -> BTreeMap<String, String> {
        let places = 0..store.objects.len();
        let paths = places.filter(|&place| which(&store.objects[place]));
        let paths = paths.map(|place| path(&store.objects, place));
        paths
            .map(|path| (path.clone(), store.content(directory, &path)))
            .collect()
    };
    let mine = all(Example::UPPER, |it| it.above.is_some());
    let rooted = all(&format!("{OLD}/nix/store"), |it| {
        it.has_root && it.is_copied && it.old.is_some() && it.new.is_none() && it.above.is_none()
    });
    let planned = store.run(&["--dry-run", "--old", OLD]);
    assert_eq!(planned.code(), Some(0), "{planned}\n{context}");
    let done = store.run(&["--old", OLD]);
    assert_eq!(done.code(), Some(0), "{done}\n{context}");
    let [planned, done]: [Value; 2] =
        [planned, done].map(|it| serde_json::from_slice(&it.out).expect("JSON"));
    for list in [
        "rows-taken",
        "carried",
        "rows-dropped",
        "copies-removed",
        "hiding",
    ] {
        assert_eq!(planned[list], done[list], "{list}: {context}");
    }
    store.world.ok(["rm", "-rf", OLD]);
    for (path, content) in mine.iter().chain(&rooted) {
        assert_eq!(&store.merged(path), content, "{path}: {done}\n{context}");
    }
    let rows = store.rows();
    for path in mine.keys().chain(rooted.keys()) {
        assert!(rows.contains(path), "{path}: {done}\n{context}");
    }
    store.assert_sound();
    let ours: BTreeSet<String> = (0..store.objects.len())
        .map(|place| path(&store.objects, place))
        .filter(|path| rows.contains(path))
        .collect();
    store.build_on(&ours);
    store.example.command("down").ok();
    let again = store.reconcile(&[], 0);
    assert_eq!(again["outcome"], "unchanged", "{again}\n{context}");
}

/// Objects that could be: what is in a store has its references there.
fn any_objects() -> impl Strategy<Value = Vec<Object>> {
    let object = (
        any::<[u8; 8]>(),
        vec(any::<u8>(), 0..4),
        vec(any::<u8>(), 0..4),
    );
    vec(object, 4..14).prop_map(|drawn| {
        let mut objects: Vec<Object> = Vec::new();
        for (place, (bytes, first, second)) in drawn.into_iter().enumerate() {
            let within = |references: Vec<u8>| -> Vec<usize> {
                let places = references
                    .iter()
                    .map(|byte| usize::from(*byte) % (place + 1));
                let places: BTreeSet<usize> = places.collect();
                places.into_iter().collect()
            };
            let references = [within(first), within(second)];
            let version = |byte: u8| byte % 2;
            let mut object = Object {
                name: format!("o{place}"),
                references,
                ..Object::default()
            };
            let closed = |in_store: &dyn Fn(&Object) -> bool, version: u8| {
                let references = object.references[usize::from(version)].iter();
                let mut others = references.filter(|&&other| other != place);
                others.all(|&other| in_store(&objects[other]))
            };
            let old = version(bytes[0]);
            let new = version(bytes[1]);
            let above = version(bytes[2]);
            let in_old = bytes[3] % 4 > 0 && closed(&|it| it.old.is_some(), old);
            let in_new = bytes[4] % 4 > 0 && closed(&|it| it.new.is_some(), new);
            let is_copied = bytes[5] % 4 > 0;
            let is_above = bytes[6] % 3 == 0
                && closed(&|it| it.above.is_some() || it.old.is_some(), above)
                && !in_old;
            object.has_root = bytes[7] % 4 == 0;
            object.old = in_old.then_some(old);
            object.new = in_new.then_some(new);
            object.above = is_above.then_some(above);
            object.is_copied = in_old && is_copied;
            objects.push(object);
        }
        objects
    })
}
