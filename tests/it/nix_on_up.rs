//! Real Nix on the stores that `overstore up` makes, over every kind of lower store: opened with the
//! mount check on, added to, built in, and collected; and what that leaves in the layers and below.

use std::path::Path;

use crate::support::{Daemon, Example, LowerStore, Snapshot, World};

/// A store that is up, over some kind of lower store.
struct Up<'w> {
    world: &'w World,
    /// The lower store's objects come from it.
    lower: LowerStore,
    /// The parts of the store.
    root: &'static str,
    upper: &'static str,
    /// As `overstore url` prints it.
    url: String,
    /// Keeps the lower store there.
    _daemon: Option<Daemon>,
}

/// A way to have a lower store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    ReadOnly,
    ReadOnlyMount,
    Image,
    Daemon,
    Nested,
}

impl Kind {
    /// The store `example` over this kind of lower store; `up` has made it.
    fn up(self, world: &World) -> Up<'_> {
        let lower = world.lower_store("/mnt/example/store-a");
        let mut root = "/mnt/example/merged-store";
        let mut upper = Example::UPPER;
        let mut daemon = None;
        let lower_store = match self {
            Kind::Local => "/mnt/example/store-a".to_owned(),
            Kind::ReadOnly => "/mnt/example/store-a?read-only=true".to_owned(),
            Kind::ReadOnlyMount => {
                world.mkdir("/mnt/read-only");
                world.ok(["mount", "--bind", "/mnt/example/store-a", "/mnt/read-only"]);
                world.ok(["mount", "-o", "remount,bind,ro", "/mnt/read-only"]);
                "/mnt/read-only?read-only=true".to_owned()
            }
            Kind::Image => {
                assert!(world.image("squashfs", "/mnt/example/store-a", "/mnt/image"));
                "/mnt/image?read-only=true".to_owned()
            }
            Kind::Daemon => {
                let socket = "/run/lower.socket";
                daemon = Some(world.nix_daemon("/mnt/example/store-a", socket));
                format!("unix://{socket}?root=/mnt/example/store-a")
            }
            Kind::Nested => {
                describe(
                    world,
                    "middle",
                    "/mnt/example/store-a?read-only=true",
                    root,
                    upper,
                );
                world.overstore(["up", "middle"]).ok();
                (root, upper) = ("/mnt/top/merged-store", "/mnt/top/upper");
                world.overstore(["url", "middle"]).ok().trim().to_owned()
            }
        };
        describe(world, "example", &lower_store, root, upper);
        world.overstore(["up", "example"]).ok();
        let url = world.overstore(["url", "example"]).ok().trim().to_owned();
        assert!(!url.contains("check-mount"), "{url}");
        Up {
            world,
            lower,
            root,
            upper,
            url,
            _daemon: daemon,
        }
    }

    /// Whether Nix leaves the lower store alone.
    fn is_left_alone(self) -> bool {
        !matches!(self, Kind::Local | Kind::Nested)
    }
}

/// Without the parameter, Nix's collector fails over an image, whose names are listed in order (see
/// `docs/configuration.md`).
fn describe(world: &World, name: &str, lower_store: &str, root: &str, upper: &str) {
    let work = format!("{upper}-work");
    world.write(
        format!("/etc/overstore/{name}.toml"),
        format!(
            "root = \"{root}\"\nlower-store = \"{lower_store}\"\n\
             upper-layer = \"{upper}\"\nworkdir = \"{work}\"\n\
             [parameters]\npath-info-cache-size = 0\n"
        ),
    );
}

impl Up<'_> {
    /// A command of Nix on the store; where the lower store is to be left alone, nothing below it may
    /// be opened for writing, locked or changed.
    fn nix(&self, words: &[&str], kind: Kind) -> String {
        let command = self.world.nix(words).args(["--store", &self.url]);
        if !kind.is_left_alone() {
            return command.ok();
        }
        let (outcome, trace) = command.traced();
        assert_eq!(outcome.code(), Some(0), "{kind:?}: {outcome}");
        for lower in ["/mnt/example/store-a", "/mnt/read-only", "/mnt/image"] {
            for change in trace.changes_below(lower) {
                // Newer Nix opens this for writing where it exists, to sync it on ZFS; it writes nothing.
                let workaround = "db.sqlite-shm\", O_RDWR|O_CLOEXEC) = -1 ENOENT";
                assert!(
                    change.text.contains(workaround),
                    "{kind:?}: {}",
                    change.text
                );
            }
        }
        outcome.stdout()
    }

    /// The names in the upper layer, `.links` left out.
    fn objects(&self) -> Vec<String> {
        let names = self.world.list(self.upper).into_iter();
        let names = names.map(|name| name.into_string().expect("store paths are ASCII"));
        names.filter(|name| name != ".links").collect()
    }

    /// The store paths that have a row in the upper database.
    fn rows(&self) -> Vec<String> {
        let database = format!("{}/nix/var/nix/db/db.sqlite", self.root);
        let query = "select path from ValidPaths order by path";
        let rows = self.world.ok(["sqlite3", &database, query]);
        rows.lines().map(str::to_owned).collect()
    }

    fn assert_as_described(&self, kind: Kind) {
        let outcome = self
            .world
            .overstore(["check", "--nix", "--json", "example"])
            .run();
        assert_eq!(outcome.code(), Some(0), "{kind:?}: {outcome}");
        let report: serde_json::Value = serde_json::from_slice(&outcome.out).expect("JSON");
        let findings = report["findings"].as_array().expect("a list");
        let codes: Vec<&str> = findings
            .iter()
            .filter_map(|finding| finding["code"].as_str())
            // Told of every store without `path-info-cache-size = 0`.
            .filter(|code| *code != "collector-fails")
            .collect();
        let expected: &[&str] = match kind.is_left_alone() {
            true => &[],
            false => &["lower-written-by-nix"],
        };
        assert_eq!(codes, expected, "{kind:?}: {outcome}");
    }
}

/// The whole life of a store over one kind of lower store.
fn lives(kind: Kind) {
    for world in World::each() {
        let store = kind.up(&world);
        // A daemon writes to the state that is its own; what it serves stays the same.
        let untouched = match kind {
            Kind::Daemon => "/mnt/example/store-a/nix/store",
            _ => "/mnt/example/store-a",
        };
        store.nix(&["nix", "store", "info"], kind);
        let before = Snapshot::of(world.path(untouched));

        // A path of the lower store is seen; asked whether it is valid, Nix copies its closure's
        // metadata up, and no data.
        let chain = ["chain-1", "chain-2", "chain-3"].map(|name| store.lower.path(name));
        assert_eq!(store.rows(), [""; 0], "{kind:?}");
        let seen = store.nix(&["nix", "path-info", &chain[2]], kind);
        assert_eq!(seen.trim(), chain[2], "{kind:?}");
        let mut closure = chain.to_vec();
        closure.sort();
        assert_eq!(store.rows(), closure, "{kind:?}");
        assert_eq!(store.objects(), [""; 0], "{kind:?}");

        // What is added and built lands in the upper layer.
        let new = store.lower.add_and_build(&world, &store.url);
        let mut names = new.clone().map(|path| name(&path).to_owned());
        names.sort();
        let objects: Vec<String> = store.objects();
        let outputs: Vec<&String> = objects
            .iter()
            .filter(|name| !name.ends_with(".drv"))
            .collect();
        assert_eq!(outputs, names.iter().collect::<Vec<_>>(), "{kind:?}");
        let merged = format!("{}/nix/store/{}", store.root, name(&new[1]));
        let content = world.read(merged);
        assert_eq!(
            String::from_utf8_lossy(&content).trim(),
            chain[2],
            "{kind:?}"
        );
        store.nix(&["nix-store", "--verify", "--check-contents"], kind);
        store.assert_as_described(kind);

        // The collector takes it all away, and leaves nothing behind in the upper layer.
        store.nix(&["nix-store", "--gc"], kind);
        assert_eq!(store.objects(), [""; 0], "{kind:?}");
        let whiteouts = world.ok(["find", store.upper, "-type", "c"]);
        assert_eq!(whiteouts, "", "{kind:?}");
        store.assert_as_described(kind);
        for path in store.lower.paths() {
            let merged = format!("{}/nix/store/{}", store.root, name(&path));
            world.ok(["test", "-e", &merged]);
        }

        if kind.is_left_alone() || kind == Kind::Nested {
            // Of a nested store, the one at the very bottom.
            before.assert_unchanged(world.path(untouched));
        }
        world.overstore(["down", "example"]).ok();
    }
}

fn name(store_path: &str) -> &str {
    let name = Path::new(store_path).file_name();
    name.and_then(|name| name.to_str()).expect("a store path")
}

#[test]
fn over_a_local_store() {
    lives(Kind::Local);
}

#[test]
fn over_a_read_only_local_store() {
    lives(Kind::ReadOnly);
}

#[test]
fn over_a_local_store_on_a_read_only_mount() {
    lives(Kind::ReadOnlyMount);
}

#[test]
fn over_a_local_store_in_an_image() {
    lives(Kind::Image);
}

#[test]
fn over_a_daemon() {
    lives(Kind::Daemon);
}

#[test]
fn over_a_nested_store() {
    lives(Kind::Nested);
}
