//! Real Nix on a local-overlay store that is mounted by hand: what it does to the layers, whoever
//! set the store up. The tests of `up` compare with this.

use std::ffi::OsString;
use std::path::Path;

use crate::support::{LowerStore, Outcome, Run, Snapshot, World};

/// A local-overlay store at `/mnt/merged` over the lower store of `fixtures/` at `/mnt/lower`.
struct Overlay<'w> {
    world: &'w World,
    lower: LowerStore,
    url: String,
}

impl<'w> Overlay<'w> {
    /// Mounts it. `lower_store` is the URL's parameter, encoded.
    fn mounted(world: &'w World, lower_store: &str) -> Self {
        let lower = world.lower_store("/mnt/lower");
        for directory in ["/mnt/upper", "/mnt/work", "/mnt/merged/nix/store"] {
            world.mkdir(directory);
        }
        let options = "lowerdir=/mnt/lower/nix/store,upperdir=/mnt/upper,workdir=/mnt/work";
        let mount = ["mount", "-t", "overlay", "overlay", "-o", options];
        world.command(mount).args(["/mnt/merged/nix/store"]).ok();
        let url = format!(
            "local-overlay://?root=/mnt/merged&lower-store={lower_store}&upper-layer=/mnt/upper"
        );
        Self { world, lower, url }
    }

    fn nix(&self, words: &[&str]) -> Run<'w> {
        self.world.nix(words).args(["--store", &self.url])
    }

    fn add_and_build(&self) -> [String; 2] {
        self.lower.add_and_build(self.world, &self.url)
    }

    /// What Nix knows of a store path.
    fn info(&self, path: &str) -> Outcome {
        self.nix(&["nix", "path-info", path]).run()
    }

    fn in_upper_layer(&self, store_path: &str) -> bool {
        let is_it = |entry: &OsString| Path::new("/nix/store").join(entry) == Path::new(store_path);
        self.world.list("/mnt/upper").iter().any(is_it)
    }
}

const READ_ONLY: &str = "local%3Froot%3D%2Fmnt%2Flower%26read-only%3Dtrue";

#[test]
fn a_read_only_lower_store_is_left_alone() {
    for world in World::each() {
        let overlay = Overlay::mounted(&world, READ_ONLY);
        let before = Snapshot::of(world.path("/mnt/lower"));
        let hello = overlay.lower.path("hello-1.0");
        assert_eq!(overlay.info(&hello).stdout().trim(), hello);

        for path in overlay.add_and_build() {
            assert!(overlay.in_upper_layer(&path), "{path}");
            assert_eq!(overlay.info(&path).stdout().trim(), path);
        }
        assert!(!overlay.in_upper_layer(&hello));
        overlay
            .nix(&["nix-store", "--verify", "--check-contents"])
            .ok();
        before.assert_unchanged(world.path("/mnt/lower"));

        let (outcome, trace) = overlay.nix(&["nix", "store", "info"]).traced();
        assert!(outcome.status.success(), "{outcome}");
        // Newer Nix opens this file for writing where it exists, to sync it on ZFS; it writes nothing.
        let workaround = "/mnt/lower/nix/var/nix/db/db.sqlite-shm\", O_RDWR|O_CLOEXEC) = -1 ENOENT";
        for change in trace.changes_below("/mnt/lower") {
            assert!(change.text.contains(workaround), "{}", change.text);
        }
    }
}

/// The daemon writes to the state that is its own: what it serves stays the same.
#[test]
fn a_lower_store_behind_a_daemon_is_left_alone() {
    for world in World::each() {
        let socket = "unix%3A%2F%2F%2Frun%2Flower.socket%3Froot%3D%2Fmnt%2Flower";
        let overlay = Overlay::mounted(&world, socket);
        let _daemon = world.nix_daemon("/mnt/lower", "/run/lower.socket");
        overlay.nix(&["nix", "store", "info"]).ok();
        let before = Snapshot::of(world.path("/mnt/lower/nix/store"));
        let valid = || {
            world
                .nix(["nix", "path-info", "--all", "--store", "/mnt/lower"])
                .ok()
        };
        let valid_before = valid();

        for path in overlay.add_and_build() {
            assert!(overlay.in_upper_layer(&path), "{path}");
        }
        let (outcome, trace) = overlay
            .nix(&["nix-store", "--add", "/tmp/built.nix"])
            .traced();
        assert!(outcome.status.success(), "{outcome}");
        let changes = trace.changes_below("/mnt/lower");
        assert!(changes.is_empty(), "{changes:?}");
        before.assert_unchanged(world.path("/mnt/lower/nix/store"));
        assert_eq!(valid(), valid_before);
    }
}

/// Why overstore warns of it; and the proofs above can fail.
#[test]
fn a_lower_store_that_is_not_read_only_is_written_to() {
    for world in World::each() {
        let overlay = Overlay::mounted(&world, "/mnt/lower");
        let before = Snapshot::of(world.path("/mnt/lower"));
        let (outcome, trace) = overlay.nix(&["nix", "store", "info"]).traced();
        assert!(outcome.status.success(), "{outcome}");
        let changes = trace.changes_below("/mnt/lower/nix/var/nix/db");
        assert!(
            changes.iter().any(|call| call.name == "flock"),
            "{changes:?}"
        );
        let differences = before.differences(&Snapshot::of(world.path("/mnt/lower")));
        assert!(differences.contains("db.sqlite"), "{differences}");
    }
}

#[test]
fn metadata_is_copied_up_and_data_is_not() {
    for world in World::each() {
        let overlay = Overlay::mounted(&world, READ_ONLY);
        let rows = || {
            let database = "/mnt/merged/nix/var/nix/db/db.sqlite";
            let query = "select path from ValidPaths order by path";
            world
                .ok(["sqlite3", database, query])
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let chain = ["chain-1", "chain-2", "chain-3"].map(|name| overlay.lower.path(name));
        // A query reads below, and writes nothing.
        overlay.nix(&["nix", "path-info", &chain[2]]).ok();
        let upper = Snapshot::of(world.path("/mnt/upper"));
        overlay
            .nix(&["nix-store", "--check-validity", &chain[2]])
            .ok();
        let mut closure = chain.to_vec();
        closure.sort();
        assert_eq!(rows(), closure);
        upper.assert_unchanged(world.path("/mnt/upper"));
    }
}

/// In the merged directory its entries would be the lower store's, and the collector would leave a
/// whiteout for each.
#[test]
fn links_of_the_lower_store_leave_whiteouts_unless_they_are_hidden() {
    for world in World::each() {
        for hidden in [false, true] {
            let world = World::new(world.tree);
            world.mkdir("/mnt/lower/nix/store/.links");
            world.write("/mnt/lower/nix/store/.links/a-link", "");
            if hidden {
                world.mkdir("/mnt/upper/.links");
                let flags = rustix::fs::XattrFlags::CREATE;
                let links = world.path("/mnt/upper/.links");
                rustix::fs::setxattr(links, "trusted.overlay.opaque", b"y", flags).unwrap();
            }
            let overlay = Overlay::mounted(&world, READ_ONLY);
            overlay.nix(&["nix-store", "--gc"]).ok();
            let left = match hidden {
                true => vec![],
                false => vec!["a-link"],
            };
            assert_eq!(world.list("/mnt/upper/.links"), left);
        }
    }
}
