//! A store that is up, and is filled, for the tests of what is deleted in it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Child;

use serde_json::Value;

use super::{Example, Run, World, end};

/// A store that is up, and what is done in it.
pub struct StoreUp<'w> {
    /// Where it is.
    pub world: &'w World,
    /// Its description and its lower store.
    pub example: Example<'w>,
    url: String,
    /// Objects registered so far.
    registered: Cell<usize>,
}

impl<'w> StoreUp<'w> {
    pub fn up(world: &'w World) -> Self {
        Self::up_with(world, "")
    }

    pub fn up_with(world: &'w World, more: &str) -> Self {
        let example = world.example(more);
        example.up();
        Self::of(example)
    }

    /// What is up already.
    pub fn of(example: Example<'w>) -> Self {
        let world = example.world;
        Self {
            world,
            url: world.overstore(["url", "example"]).ok().trim().to_owned(),
            example,
            registered: Cell::new(0),
        }
    }

    pub fn nix(&self, words: &[&str]) -> Run<'w> {
        self.world.nix(words).args(["--store", &self.url])
    }

    /// Adds a file: its store path.
    pub fn add(&self, name: &str) -> String {
        let file = format!("/tmp/{name}");
        self.world.write(&file, format!("the content of {name}\n"));
        self.nix(&["nix-store", "--add", &file])
            .ok()
            .trim()
            .to_owned()
    }

    /// Makes objects with these references to each other and to what is there, and registers them.
    /// Gives their store paths.
    pub fn register(&self, objects: &[(&str, &[&str])]) -> Vec<String> {
        let before = self.registered.get();
        self.registered.set(before + objects.len());
        let hash = |at: usize| format!("{:0>32}", before + at + 1);
        let path = |at: usize| format!("/nix/store/{}-{}", hash(at), objects[at].0);
        let mut rows = String::new();
        for (at, (_, references)) in objects.iter().enumerate() {
            self.world.mkdir(self.real(&path(at)));
            self.world.write(self.real(&path(at)) + "/file", path(at));
            rows += &format!("{}\n{:064}\n120\n\n{}\n", path(at), 0, references.len());
            for reference in *references {
                let other = objects.iter().position(|(name, _)| name == reference);
                rows += &other.map_or_else(|| (*reference).to_owned(), path);
                rows += "\n";
            }
        }
        self.nix(&["nix-store", "--load-db"]).stdin(rows).ok();
        (0..objects.len()).map(path).collect()
    }

    /// Copies objects into the lower store, and registers them there with the same metadata: as after
    /// an addition there of what was added here.
    pub fn copy_below(&self, paths: &[String]) {
        let mut rows = String::new();
        for path in paths {
            let copy = |layer: &str| format!("{layer}/{}", base_name(path));
            let (from, to) = (copy(Example::UPPER), copy(Example::LOWER));
            self.world.ok(["cp", "-a", &from, &to]);
            let references = self.nix(&["nix-store", "--query", "--references", path]);
            let references = references.ok();
            let count = references.lines().count();
            rows += &format!("{path}\n{:064}\n120\n\n{count}\n{references}", 0);
        }
        let root = &self.example.lower.root;
        self.world
            .nix(["nix-store", "--load-db", "--store", root])
            .stdin(rows)
            .ok();
        self.below("pragma wal_checkpoint(truncate)");
        self.world.overstore(["remount", "example"]).ok();
    }

    /// Runs SQL in the lower store's database.
    pub fn below(&self, sql: &str) {
        let database = format!("{}/nix/var/nix/db/db.sqlite", self.example.lower.root);
        self.world.ok(["sqlite3", &database, sql]);
    }

    /// Where an object is in the merged directory.
    pub fn real(&self, path: &str) -> String {
        format!("{}/{}", Example::REAL, base_name(path))
    }

    pub fn has(&self, path: &str) -> bool {
        let upper = format!("{}/{}", Example::UPPER, base_name(path));
        let is_there = self.world.path(upper).symlink_metadata().is_ok();
        let rows = self.rows().contains(path);
        assert_eq!(
            is_there, rows,
            "{path} has a row: {rows}, an object: {is_there}"
        );
        rows
    }

    pub fn rows(&self) -> BTreeSet<String> {
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let rows = self.world.ok([
            "sqlite3",
            "-cmd",
            ".timeout 600000",
            &database,
            "select path from ValidPaths",
        ]);
        rows.lines().map(str::to_owned).collect()
    }

    pub fn gc(&self, arguments: &[&str]) -> Run<'w> {
        self.world.overstore(["gc", "example"]).args(arguments)
    }

    pub fn gc_json(&self, arguments: &[&str]) -> Value {
        let outcome = self.gc(arguments).args(["--json"]).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        // The overlay was remounted, for one thing.
        assert!(!outcome.stderr().contains("error"), "{outcome}");
        serde_json::from_slice(&outcome.out).expect("JSON")
    }

    /// A link in `gcroots`.
    pub fn root(&self, name: &str, target: &str) {
        let link = format!("{}/gcroots/{name}", Example::STATE);
        self.world.ok(["ln", "-sfn", target, &link]);
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let verified = self
            .nix(&["nix-store", "--verify", "--check-contents"])
            .run();
        // The hashes of registered objects are invented.
        let said = verified.stderr();
        assert!(!said.contains("disappeared"), "{verified}");
        let check = "pragma integrity_check; pragma foreign_key_check";
        let database = format!("{}/db/db.sqlite", Example::STATE);
        assert_eq!(self.world.ok(["sqlite3", &database, check]), "ok\n");
    }
}

/// The last part of a path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().expect("a path has a last part")
}

/// A process of the World, which is gone after this.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
