//! Damage across the layers and the upper database: each kind is made, and exactly its code seen.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use support::{Snapshot, World};

const NEW: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-new";
const DATABASE: &str = "/mnt/merged/nix/var/nix/db/db.sqlite";

/// A store over the fixtures' lower store, with everything below copied up and one object added.
struct Store<'w> {
    world: &'w World,
    lower: Vec<String>,
    added: String,
}

impl<'w> Store<'w> {
    fn new(world: &'w World) -> Self {
        let lower = world.lower_store("/mnt/lower").paths();
        world.write(
            "/etc/overstore/example.toml",
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
        );
        world.overstore(["up", "example"]).ok();
        world.overstore(["warm", "example", "--all"]).ok();
        world.write("/tmp/added", "added");
        let url = world.overstore(["url", "example"]).ok();
        let added = world
            .nix([
                "nix-store",
                "--store",
                url.trim_end(),
                "--add",
                "/tmp/added",
            ])
            .ok();
        Self {
            world,
            lower,
            added: name(added.trim_end()),
        }
    }

    /// The codes of what `check` finds, in its order.
    fn codes(&self) -> Vec<String> {
        let said = self
            .world
            .overstore(["check", "example", "--json"])
            .run()
            .stdout();
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let code = |finding: &serde_json::Value| finding["code"].as_str().unwrap().to_owned();
        findings.iter().map(code).collect()
    }

    fn sql(&self, sql: &str) {
        self.world.ok(["sqlite3", DATABASE, sql]);
    }
}

fn name(path: &str) -> String {
    path.rsplit('/').next().unwrap().to_owned()
}

/// Makes damage in a new store, and expects these codes more than without it.
#[track_caller]
fn expect(codes: &[&str], damage: impl Fn(&World, &Store)) {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let mut expected = store.codes();
    damage(&world, &store);
    expected.extend(codes.iter().map(|code| (*code).to_owned()));
    expected.sort();
    let layers = ["/mnt/lower", "/mnt/upper"].map(|layer| world.path(layer));
    let before = layers.each_ref().map(Snapshot::of);
    let mut found = store.codes();
    for (before, layer) in before.iter().zip(layers) {
        before.assert_unchanged(layer);
    }
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn no_damage_no_finding() {
    for world in World::each() {
        let codes = Store::new(&world).codes();
        let across = ["row-", "object-", "lower-object", "metadata-", "layers-"];
        let of_this = |code: &&String| across.iter().any(|prefix| code.starts_with(prefix));
        assert_eq!(codes.iter().filter(of_this).count(), 0, "{codes:?}");
    }
}

/// An image made anew has the same objects, and is not the store that the database was made for.
#[test]
fn a_lower_store_that_was_replaced() {
    let lower = "/mnt/lower/nix/var/nix/db/db.sqlite";
    expect(&["lower-store-changed"], |world, _| {
        let later = "update ValidPaths set registrationTime = registrationTime + 1";
        world.ok(["sqlite3", lower, later]);
    });
    expect(&["lower-store-changed"], |world, _| {
        // Above there is a copy of its metadata, and the object is still there.
        let least = "(select min(id) from ValidPaths)";
        let delete = format!(
            "delete from Refs where reference = {least} or referrer = {least};
             delete from DerivationOutputs where drv = {least};
             delete from ValidPaths where id = {least}"
        );
        world.ok(["sqlite3", lower, &delete]);
    });
    expect(&[], |world, _| {
        world.write("/tmp/grown", "grown");
        let add = ["nix-store", "--store", "/mnt/lower", "--add", "/tmp/grown"];
        world.nix(add).ok();
        world.ok(["sqlite3", lower, "pragma wal_checkpoint(truncate)"]);
    });
}

#[test]
fn overstore_forgets_what_the_lower_store_was() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world);
    let later = "update ValidPaths set registrationTime = 7";
    world.ok(["sqlite3", "/mnt/lower/nix/var/nix/db/db.sqlite", later]);
    let said = world.overstore(["check", "example"]).run();
    assert_eq!(said.code(), Some(0), "{said}");
    let said = said.stdout();
    let remedy = said
        .split("forget it: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    world.ok(["sh", "-c", remedy]);
    assert!(!store.codes().contains(&"lower-store-changed".to_owned()));
    let status = world.overstore(["status", "example"]).ok();
    assert!(!status.contains("another one"), "{status}");
}

#[test]
fn an_object_that_is_gone_below() {
    expect(&["row-without-object"], |world, store| {
        world.ok([
            "rm",
            "-r",
            &format!("/mnt/lower/nix/store/{}", name(&store.lower[0])),
        ]);
    });
}

#[test]
fn an_object_that_is_gone_above() {
    expect(&["row-without-object"], |world, store| {
        world.ok(["rm", "-r", &format!("/mnt/upper/{}", store.added)]);
    });
}

#[test]
fn an_object_that_nobody_knows() {
    expect(&["object-without-row"], |world, _| {
        world.write(format!("/mnt/upper/{NEW}"), "");
    });
}

#[test]
fn what_nix_is_at_work_on_is_no_damage() {
    expect(&[], |world, _| {
        world.write(format!("/mnt/upper/{NEW}"), "");
        world.write(format!("/mnt/upper/{NEW}.lock"), "");
        world.mkdir(format!("/mnt/upper/{NEW}1.drv.chroot"));
        world.mkdir("/mnt/upper/tmp-1-2");
    });
}

#[test]
fn a_whiteout_over_a_valid_object() {
    expect(
        &["lower-object-hidden", "row-without-object"],
        |world, store| {
            let path = format!("/mnt/upper/{}", name(&store.lower[0]));
            world.ok(["mknod", &path, "c", "0", "0"]);
        },
    );
}

#[test]
fn an_opaque_directory_over_a_valid_object() {
    expect(&["lower-object-hidden"], |world, store| {
        let path = &store.lower[0];
        store.sql(&format!(
            "delete from Refs; delete from DerivationOutputs;
             delete from ValidPaths where path = '{path}'"
        ));
        let above = format!("/mnt/upper/{}", name(path));
        world.mkdir(&above);
        let above = std::fs::File::open(world.path(&above)).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&above, "trusted.overlay.opaque", b"y", flags).unwrap();
    });
}

#[test]
fn an_object_twice() {
    expect(&["object-in-both-layers"], |world, store| {
        let name = name(&store.lower[0]);
        let below = format!("/mnt/lower/nix/store/{name}");
        world.ok(["cp", "-a", &below, "/mnt/upper/"]);
    });
}

#[test]
fn an_object_twice_and_not_alike() {
    expect(
        &["object-in-both-layers", "metadata-differs"],
        |world, store| {
            let path = &store.lower[0];
            let below = format!("/mnt/lower/nix/store/{}", name(path));
            world.ok(["cp", "-a", &below, "/mnt/upper/"]);
            store.sql(&format!(
                "update ValidPaths set hash = 'sha256:{:064x}' where path = '{path}'",
                1
            ));
        },
    );
}

#[test]
fn hostile_rows_above_are_told() {
    expect(&["layers-unreadable"], |_, store| {
        store.sql("update ValidPaths set path = '/nix/store/../../etc' where id = 1");
    });
}
