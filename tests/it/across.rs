//! Damage across the layers and the upper database: each kind is made, and exactly its code seen.

use std::os::unix::net::UnixListener;

use crate::support::{Daemon, Snapshot, World};

const NEW: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-new";
/// The lower store's own.
const LOWER: &str = "/mnt/lower/nix/var/nix/db/db.sqlite";
const DATABASE: &str = "/mnt/merged/nix/var/nix/db/db.sqlite";

/// What the store is over; at the bottom, always, the fixtures' lower store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    ReadOnly,
    /// Nix may write to it.
    Local,
    Daemon,
    /// Another store, with an object of its own, over the fixtures'.
    Nested,
    /// Another store, over a daemon.
    NestedDaemon,
}

impl Over {
    const EACH: [Over; 5] = [
        Over::ReadOnly,
        Over::Local,
        Over::Daemon,
        Over::Nested,
        Over::NestedDaemon,
    ];

    /// `lower-store`, as the description of a store that is over no other has it.
    fn bottom(self) -> &'static str {
        match self {
            Over::ReadOnly | Over::Nested => "/mnt/lower?read-only=true",
            Over::Local => "/mnt/lower",
            Over::Daemon | Over::NestedDaemon => "unix:///run/lower.socket?root=/mnt/lower",
        }
    }
}

/// A store over the fixtures' lower store, with everything below copied up and one object added.
struct Store<'w> {
    world: &'w World,
    lower: Vec<String>,
    added: String,
    daemon: Option<Daemon>,
}

/// `overstore up NAME`, of a store in `directory`: its URL.
fn up(world: &World, name: &str, directory: &str, lower_store: &str) -> String {
    world.write(
        format!("/etc/overstore/{name}.toml"),
        format!(
            "root = \"{directory}/merged\"\nlower-store = \"{lower_store}\"\n\
             upper-layer = \"{directory}/upper\"\nworkdir = \"{directory}/work\"\n"
        ),
    );
    world.overstore(["up", name]).ok();
    world.overstore(["url", name]).ok().trim_end().to_owned()
}

fn add(world: &World, url: &str, name: &str) -> String {
    let file = format!("/tmp/{name}");
    world.write(&file, name);
    let words = ["nix-store", "--store", url, "--add", &file];
    world.nix(words).ok().trim_end().to_owned()
}

impl<'w> Store<'w> {
    fn new(world: &'w World, over: Over) -> Self {
        let lower = world.lower_store("/mnt/lower").paths();
        let daemon = over.bottom().starts_with("unix:").then(|| {
            let below = "local?root=/mnt/lower&read-only=true";
            world.nix_daemon(below, "/run/lower.socket")
        });
        let lower_store = match over {
            Over::Nested | Over::NestedDaemon => {
                let url = up(world, "middle", "/mnt/middle", over.bottom());
                add(world, &url, "in-the-middle");
                url
            }
            _ => over.bottom().to_owned(),
        };
        let url = up(world, "example", "/mnt", &lower_store);
        world.overstore(["warm", "example", "--all"]).ok();
        Self {
            world,
            lower,
            added: name(&add(world, &url, "added")),
            daemon,
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
    expect_over(Over::ReadOnly, codes, damage);
}

#[track_caller]
fn expect_over(over: Over, codes: &[&str], damage: impl Fn(&World, &Store)) {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world, over);
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
    assert_eq!(found, expected, "{over:?}");
    let status = world.overstore(["status", "example", "--json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let changed = codes.contains(&"lower-store-changed");
    assert_eq!(status["lower-changed"], changed, "{over:?}");
}

#[test]
fn no_damage_no_finding() {
    for over in Over::EACH {
        for world in World::each() {
            let codes = Store::new(&world, over).codes();
            let across = [
                "row-",
                "object-",
                "lower-object",
                "lower-store",
                "metadata-",
                "layers-",
            ];
            let of_this = |code: &&String| across.iter().any(|prefix| code.starts_with(prefix));
            assert_eq!(
                codes.iter().filter(of_this).count(),
                0,
                "{over:?}: {codes:?}"
            );
        }
    }
}

/// Makes all paths of a database those of another store directory.
const ELSEWHERE: &str = "update ValidPaths set path = replace(path, '/nix/store/', '/gnu/store/');
    pragma wal_checkpoint(truncate)";

/// An image made anew has the same objects, and is not the store that the database was made for.
#[test]
fn a_lower_store_that_was_replaced() {
    // Of each kind, by what is at its bottom.
    for over in Over::EACH {
        expect_over(over, &["lower-store-changed"], |world, _| {
            let later = "update ValidPaths set registrationTime = registrationTime + 1;
                pragma wal_checkpoint(truncate)";
            world.ok(["sqlite3", LOWER, later]);
        });
        expect_over(over, &["lower-store-changed"], |world, store| {
            // Above there is a copy of its metadata, and the object is still there. A daemon was
            // asked for paths that nobody chose: all that it knows go.
            let lost = match store.daemon {
                Some(_) => "(select id from ValidPaths)",
                None => "(select min(id) from ValidPaths)",
            };
            let delete = format!(
                "delete from Refs where reference in {lost} or referrer in {lost};
                 delete from DerivationOutputs where drv in {lost};
                 delete from ValidPaths where id in {lost};
                 pragma wal_checkpoint(truncate)"
            );
            world.ok(["sqlite3", LOWER, &delete]);
        });
        expect_over(over, &[], |world, _| {
            add(world, "/mnt/lower", "grown");
            world.ok(["sqlite3", LOWER, "pragma wal_checkpoint(truncate)"]);
        });
    }
}

/// Behind a daemon there is nothing else to tell a path by than its time and its hash.
#[test]
fn a_daemon_that_has_other_objects_of_the_same_name() {
    for over in [Over::Daemon, Over::NestedDaemon] {
        expect_over(over, &["lower-store-changed"], |world, _| {
            let other = format!(
                "update ValidPaths set hash = 'sha256:{:064x}'; pragma wal_checkpoint(truncate)",
                1
            );
            world.ok(["sqlite3", LOWER, &other]);
        });
    }
}

/// A daemon that is silent is found to be that, and the lower store not to be another one.
#[test]
fn a_daemon_that_does_not_answer_is_not_another_store() {
    for over in [Over::Daemon, Over::NestedDaemon] {
        let Some(world) = World::trixie() else { return };
        let mut store = Store::new(&world, over);
        let mut expected = store.codes();
        store.daemon = None;
        expected.push("lower-daemon-silent".to_owned());
        expected.sort();
        let mut found = store.codes();
        found.sort();
        assert_eq!(found, expected, "{over:?}");
        let status = world.overstore(["status", "example", "--json"]).ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["lower-changed"].is_null(), "{status}");
        assert!(status["unreadable"].is_string(), "{status}");
    }
}

/// Somebody listens and says nothing: `up` does without, and neither it nor `check` waits twice.
#[test]
fn a_daemon_that_hangs() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/lower");
    let hanging = UnixListener::bind(world.path("/run/lower.socket")).unwrap();
    hanging.set_nonblocking(true).unwrap();
    let connections = || hanging.incoming().map_while(Result::ok).count();
    up(&world, "example", "/mnt", Over::Daemon.bottom());
    assert_eq!(connections(), 1);
    let memory = world.read("/mnt/merged/nix/var/nix/overstore/state.json");
    let memory: serde_json::Value = serde_json::from_slice(&memory).unwrap();
    assert!(memory["lower"]["identity"].is_null(), "{memory}");
    let said = world.overstore(["check", "example"]).run().stdout();
    assert_eq!(connections(), 1);
    assert!(said.contains("[lower-daemon-silent]"), "{said}");
    assert!(!said.contains("[lower-store-changed]"), "{said}");
}

/// The stores above the bottom one may be collected.
#[test]
fn a_nested_store_that_was_collected_is_the_same() {
    for over in [Over::Nested, Over::NestedDaemon] {
        // Its own object goes, and with it what the top store has copied of it.
        expect_over(over, &["row-without-object"], |world, _| {
            let middle = world.overstore(["url", "middle"]).ok();
            let collect = ["nix-store", "--store", middle.trim_end(), "--gc"];
            world.nix(collect).ok();
        });
    }
}

#[test]
fn a_lower_store_of_another_schema() {
    let schema = |world: &World| world.write("/mnt/lower/nix/var/nix/db/schema", "9");
    expect_over(Over::Local, &["lower-store-changed"], |world, _| {
        schema(world);
    });
    // Here Nix cannot upgrade it, which is another matter.
    for over in [Over::ReadOnly, Over::Nested] {
        let codes = ["lower-store-changed", "lower-schema-unknown"];
        expect_over(over, &codes, |world, _| schema(world));
    }
}

#[test]
fn a_lower_store_of_another_store_directory() {
    for over in [Over::ReadOnly, Over::Local, Over::Nested] {
        expect_over(over, &["lower-store-changed"], |world, _| {
            world.ok(["sqlite3", LOWER, ELSEWHERE]);
            let said = world.overstore(["check", "example"]).run().stdout();
            assert!(
                said.contains("found:    paths that begin with /gnu/store\n"),
                "{said}"
            );
        });
    }
    // It was so before `up`, and is known whatever overstore remembers.
    for forget in [false, true] {
        let Some(world) = World::trixie() else { return };
        world.lower_store("/mnt/lower");
        world.ok(["sqlite3", LOWER, ELSEWHERE]);
        up(&world, "example", "/mnt", Over::ReadOnly.bottom());
        if forget {
            world.ok(["rm", "-r", "/mnt/merged/nix/var/nix/overstore"]);
        }
        let said = world.overstore(["check", "example"]).run().stdout();
        assert!(
            said.contains("found:    paths that begin with /gnu/store\n"),
            "{said}"
        );
    }
}

#[test]
fn what_the_lower_store_was_is_forgotten_when_it_is_reconciled() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world, Over::ReadOnly);
    let later = "update ValidPaths set registrationTime = 7";
    world.ok(["sqlite3", LOWER, later]);
    let said = world.overstore(["check", "example"]).run();
    assert_eq!(said.code(), Some(0), "{said}");
    let said = said.stdout();
    let commands = ["overstore down example", "overstore reconcile example"];
    for command in commands {
        assert!(said.contains(command), "{said}");
        world.ok(["sh", "-c", command]);
    }
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

/// What no store has is no object: a store that needs it says whose fault it is, and is collected no
/// more until the owner has put it right.
#[test]
fn what_is_no_store_object_below() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world, Over::ReadOnly);
    let before = store.codes();
    let object = format!("/mnt/lower/nix/store/{}", name(&store.lower[0]));
    let kept = "/mnt/kept";
    world.ok(["cp", "-a", &object, kept]);
    let socket = format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"{object}\")) or die'"
    );
    for (make, kind) in [
        (format!("mkfifo {object}"), "a named pipe"),
        (format!("mknod {object} c 1 3"), "a character device"),
        (format!("mknod {object} b 7 99"), "a block device"),
        (socket, "a socket"),
    ] {
        world.ok(["sh", "-c", &format!("rm -rf {object}; {make}")]);
        world.overstore(["remount", "example"]).ok();
        let mut expected = before.clone();
        expected.push("row-without-object".to_owned());
        let mut found = store.codes();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{kind}");
        let said = world.overstore(["check", "example"]).run().stdout();
        let place = format!("{kind}, which is no store object, is in its place in the lower store");
        assert!(said.contains(&place), "{said}");
        assert!(said.contains("have the lower store's owner"), "{said}");
        let added = format!("/mnt/upper/{}", store.added);
        for arguments in [&["--dry-run"][..], &[], &["--metadata"]] {
            let gc = world.overstore(["gc", "example"]).args(arguments).fails();
            assert_eq!(gc.code(), Some(1), "{kind}: {gc}");
            assert!(gc.stderr().contains(&place), "{gc}");
            assert!(world.path(&added).exists(), "{kind}");
        }
    }
    // The owner puts it back.
    world.ok(["sh", "-c", &format!("rm {object}; cp -a {kept} {object}")]);
    world.overstore(["remount", "example"]).ok();
    assert_eq!(store.codes(), before);
}

/// The same above: there it hides an object of the lower store, or is in the place of one of the
/// store's own.
#[test]
fn what_is_no_store_object_above() {
    let Some(world) = World::trixie() else { return };
    let store = Store::new(&world, Over::ReadOnly);
    let before = store.codes();
    // Without any of its own a store is not as it was.
    let url = world.overstore(["url", "example"]).ok();
    add(&world, url.trim_end(), "another");
    let own = format!("/mnt/upper/{}", store.added);
    let over = format!("/mnt/upper/{}", name(&store.lower[0]));
    world.overstore(["down", "example"]).ok();
    world.ok(["mv", &own, "/mnt/kept"]);
    world.ok(["mkfifo", &own, &over]);
    world.overstore(["up", "example"]).run();
    let mut expected = before.clone();
    expected.extend(["row-without-object", "lower-object-hidden"].map(str::to_owned));
    let mut found = store.codes();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let said = world.overstore(["check", "example"]).run().stdout();
    let place = "a named pipe, which is no store object, is in its place in the upper layer";
    assert!(said.contains(place), "{said}");
    // As the remedies say.
    world.overstore(["down", "example"]).ok();
    world.ok(["mkdir", "/mnt/away"]);
    world.ok(["mv", &own, &over, "/mnt/away"]);
    world.ok(["mv", "/mnt/kept", &own]);
    world.overstore(["up", "example"]).ok();
    assert_eq!(store.codes(), before);
}

#[test]
fn an_object_that_is_gone_above() {
    expect(&["row-without-object"], |world, store| {
        let url = world.overstore(["url", "example"]).ok();
        add(world, url.trim_end(), "another");
        world.ok(["rm", "-r", &format!("/mnt/upper/{}", store.added)]);
    });
}

#[test]
fn the_only_object_that_is_gone_above() {
    expect(&["objects-lost"], |world, store| {
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
    // A note: Nix's collector stops at it.
    expect(&["temporary-name"], |world, _| {
        world.write(format!("/mnt/upper/{NEW}"), "");
        world.write(format!("/mnt/upper/{NEW}.lock"), "");
        world.mkdir(format!("/mnt/upper/{NEW}1.drv.chroot"));
        world.mkdir("/mnt/upper/tmp-1-2");
    });
}

#[test]
fn a_whiteout_over_a_valid_object() {
    expect(&["lower-object-hidden"], |world, store| {
        let path = format!("/mnt/upper/{}", name(&store.lower[0]));
        world.ok(["mknod", &path, "c", "0", "0"]);
    });
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
