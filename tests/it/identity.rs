//! Parts of a store are compared by what they are, not by their paths: none is another one, the lower
//! store's, or another store's, through whatever links and bind mounts. S1, S2 and S3, and what is
//! like them.

use crate::support::{Outcome, Snapshot, World};

/// What the description says unless a test says otherwise.
const KEYS: [(&str, &str); 8] = [
    ("lower-store", "/mnt/a?read-only=true"),
    ("upper-layer", "/mnt/own/upper"),
    ("workdir", "/mnt/own/work"),
    ("real", "/mnt/own/store"),
    ("state", "/mnt/own/state"),
    ("log", "/mnt/own/log"),
    ("lower.real", ""),
    ("lower.state", ""),
];

/// A description with some keys changed.
fn description(changes: &[(&str, &str)]) -> String {
    let keys = KEYS.iter().filter_map(|(key, value)| {
        let changed = changes.iter().find(|(changed, _)| changed == key);
        let value = changed.map_or(*value, |(_, value)| value);
        (!value.is_empty()).then(|| format!("{key} = \"{value}\"\n"))
    });
    keys.collect()
}

/// A World with a lower store at `/mnt/a`, a link to it and a bind mount of it.
fn world() -> Option<World> {
    let world = World::trixie()?;
    world.lower_store("/mnt/a");
    world.ok([
        "sh",
        "-ec",
        "mkdir /mnt/bound /mnt/own /mnt/objects /mnt/lower-state; ln -s a /mnt/link; \
         mount --bind /mnt/a /mnt/bound; mount --bind /mnt/a/nix/store /mnt/objects; \
         mount --bind /mnt/a/nix/var/nix /mnt/lower-state",
    ]);
    Some(world)
}

fn command(world: &World, command: &str, changes: &[(&str, &str)]) -> Outcome {
    world.write("/etc/overstore/s.toml", description(changes));
    world.overstore([command, "s"]).run()
}

/// `up` refuses each with that code, and nothing is made or changed.
fn refused<'a>(
    world: &World,
    code: &str,
    cases: impl IntoIterator<Item = Vec<(&'a str, &'a str)>>,
) {
    let before = Snapshot::of(world.path("/mnt"));
    for changes in cases {
        let outcome = command(world, "up", &changes);
        assert_eq!(outcome.code(), Some(1), "{changes:?}: {outcome}");
        let code = format!("[{code}]");
        assert!(outcome.stdout().contains(&code), "{changes:?}: {outcome}");
        assert!(!outcome.stdout().contains("+ "), "{changes:?}: {outcome}");
    }
    before.assert_unchanged(world.path("/mnt"));
}

/// The store comes up, is in order, is found up, and goes down.
fn allowed(world: &World, changes: &[(&str, &str)]) {
    for name in ["up", "check", "down"] {
        let outcome = command(world, name, changes);
        assert_eq!(outcome.code(), Some(0), "{name} {changes:?}: {outcome}");
    }
}

/// S3: each part as the lower store's directories, or inside them, where the path of one of the two
/// leads through a link or a bind mount.
#[test]
fn no_part_is_the_lower_store_s() {
    let Some(world) = world() else { return };
    world.ok(["mkdir", "/mnt/a/nix/store/sub", "/mnt/a/nix/var/nix/sub"]);
    world.ok(["mkdir", "-p", "/mnt/deep/er"]);
    world.ok(["mount", "--bind", "/mnt/a/nix/store/sub", "/mnt/deep/er"]);
    let mut cases = Vec::new();
    for part in ["upper-layer", "workdir", "real", "state", "log"] {
        // The lower store is reached by another path than the part, in each direction.
        for (lower, place) in [
            ("/mnt/link?read-only=true", "/mnt/a/nix/store"),
            ("/mnt/bound?read-only=true", "/mnt/a/nix/store"),
            ("/mnt/a?read-only=true", "/mnt/objects"),
            ("/mnt/a?read-only=true", "/mnt/bound/nix/store/sub"),
            ("/mnt/a?read-only=true", "/mnt/bound/nix/store/missing/too"),
            ("/mnt/a?read-only=true", "/mnt/objects/missing"),
            ("/mnt/a?read-only=true", "/mnt/deep/er"),
            ("/mnt/bound?read-only=true", "/mnt/deep/er/missing"),
            ("/mnt/link?read-only=true", "/mnt/a/nix/var/nix"),
            ("/mnt/bound?read-only=true", "/mnt/a/nix/var/nix/sub"),
            ("/mnt/a?read-only=true", "/mnt/lower-state"),
            ("/mnt/a?read-only=true", "/mnt/lower-state/missing"),
        ] {
            // The mount may cover the lower store directory: see below. Over something else that is
            // mounted already, it is refused for that.
            let for_others = [
                "/mnt/a/nix/store",
                "/mnt/objects",
                "/mnt/deep/er",
                "/mnt/lower-state",
            ];
            if part == "real" && for_others.contains(&place) {
                continue;
            }
            cases.push(vec![("lower-store", lower), (part, place)]);
        }
    }
    refused(&world, "parts-overlap", cases);
}

/// The lower store's directories inside a part.
#[test]
fn no_part_is_around_the_lower_store() {
    let Some(world) = world() else { return };
    world.ok([
        "sh",
        "-ec",
        "mkdir /mnt/around; mount --bind /mnt/a /mnt/around",
    ]);
    let parts = ["upper-layer", "workdir", "real", "state", "log"];
    let cases = parts.map(|part| vec![(part, "/mnt/around/nix")]);
    refused(&world, "parts-overlap", cases);
}

/// The one exception: the mount may cover the lower store directory, if that is to be had elsewhere.
#[test]
fn the_mount_point_may_be_the_lower_store_directory_that_it_covers() {
    let Some(world) = world() else { return };
    allowed(
        &world,
        &[("lower.real", "/mnt/objects"), ("real", "/mnt/a/nix/store")],
    );
    allowed(&world, &[("real", "/mnt/bound/nix/store")]);
    // Not a directory inside of it.
    world.ok(["mkdir", "/mnt/a/nix/store/sub"]);
    let inside = vec![
        ("lower.real", "/mnt/objects"),
        ("real", "/mnt/a/nix/store/sub"),
    ];
    refused(&world, "parts-overlap", [inside]);
}

/// What something is mounted on is inside of what that is in.
#[test]
fn mounts_inside_the_lower_store_are_inside_of_it() {
    let Some(world) = world() else { return };
    world.ok([
        "sh",
        "-ec",
        "mkdir -p /mnt/a/nix/store/sub /mnt/elsewhere/below; mount -t tmpfs t /mnt/elsewhere; \
         mkdir /mnt/elsewhere/below; mount --bind /mnt/elsewhere /mnt/a/nix/store/sub",
    ]);
    let places = [
        "/mnt/elsewhere",
        "/mnt/elsewhere/below",
        "/mnt/elsewhere/no",
    ];
    let cases = places.map(|place| vec![("upper-layer", place)]);
    refused(&world, "parts-overlap", cases);
    // Another file system over it is somewhere else.
    world.ok(["mount", "-t", "tmpfs", "t", "/mnt/elsewhere"]);
    let apart = [
        ("upper-layer", "/mnt/elsewhere/upper"),
        ("workdir", "/mnt/elsewhere/work"),
    ];
    let outcome = command(&world, "plan", &apart);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

/// The parts of one store among themselves.
#[test]
fn no_part_is_another_one() {
    let Some(world) = world() else { return };
    world.ok([
        "sh",
        "-ec",
        "mkdir -p /mnt/own/upper/sub /mnt/own/work /mnt/own/state/gcroots /mnt/own/state/db \
         /mnt/own/state/profiles /mnt/own/state/temproots /mnt/own/state/overstore /mnt/o; \
         mount --bind /mnt/own /mnt/o",
    ]);
    let cases = [
        ("workdir", "/mnt/o/upper"),
        ("workdir", "/mnt/o/upper/missing"),
        ("real", "/mnt/o/upper/sub"),
        ("real", "/mnt/o/work"),
        ("state", "/mnt/o/upper"),
        ("state", "/mnt/o/work/missing"),
        ("log", "/mnt/o/upper/sub"),
        ("log", "/mnt/o/state"),
        ("upper-layer", "/mnt/o/state/db"),
        ("upper-layer", "/mnt/o/state/gcroots/missing"),
        ("real", "/mnt/o/state/overstore"),
    ];
    refused(&world, "parts-overlap", cases.map(|case| vec![case]));
    // Inside the state directory, outside of what Nix keeps there, it may be.
    allowed(
        &world,
        &[
            ("upper-layer", "/mnt/o/state/layers/upper"),
            ("workdir", "/mnt/o/state/layers/work"),
        ],
    );
    // One that is not there yet is no other one: before anything is made, by two paths.
    world.ok(["rm", "-r", "/mnt/own/upper", "/mnt/own/work"]);
    let missing = vec![
        ("upper-layer", "/mnt/own/new"),
        ("workdir", "/mnt/o/new/work"),
    ];
    refused(&world, "parts-overlap", [missing]);
}

/// What is in the state directory can be mounted there from anywhere.
#[test]
fn nothing_in_the_state_directory_is_the_lower_store_s() {
    let Some(world) = world() else { return };
    world.ok(["mkdir", "-p", "/mnt/own/state/db", "/mnt/own/state/gcroots"]);
    for name in ["db", "gcroots"] {
        let (from, to) = (
            format!("/mnt/a/nix/var/nix/{name}"),
            format!("/mnt/own/state/{name}"),
        );
        world.ok(["mount", "--bind", &from, &to]);
        refused(&world, "parts-overlap", [vec![]]);
        let outcome = world.overstore(["warm", "--all", "--keep", "s"]).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("[parts-overlap]"), "{outcome}");
        world.ok(["umount", &to]);
    }
}

/// S3: `warm` writes nothing into the lower store's state either.
#[test]
fn warm_writes_nothing_into_the_lower_store_s_state() {
    let Some(world) = world() else { return };
    let changes = [("state", "/mnt/lower-state")];
    world.write("/etc/overstore/s.toml", description(&changes));
    let before = Snapshot::of(world.path("/mnt"));
    for arguments in [&["--all", "--keep"][..], &["--forget"]] {
        let outcome = world.overstore(["warm", "s"]).args(arguments).run();
        assert_eq!(outcome.code(), Some(1), "{arguments:?}: {outcome}");
        before.assert_unchanged(world.path("/mnt"));
    }
}

/// S1 and what is like it: what another mounted overlay writes to.
#[test]
fn no_part_is_what_another_overlay_writes_to() {
    let Some(world) = world() else { return };
    world.ok([
        "sh",
        "-ec",
        "mkdir -p /mnt/other/upper/sub /mnt/other/work /mnt/other/merged /mnt/o; \
         mount --bind /mnt/other /mnt/o; \
         mount -t overlay overlay -o lowerdir=/mnt/a/nix/store,upperdir=/mnt/other/upper,workdir=/mnt/other/work /mnt/other/merged",
    ]);
    let cases = [
        ("workdir", "/mnt/other/work"),
        ("workdir", "/mnt/o/work"),
        ("workdir", "/mnt/other/upper"),
        ("workdir", "/mnt/other/upper/missing"),
        ("upper-layer", "/mnt/o/work"),
        ("upper-layer", "/mnt/o/upper/sub"),
        ("upper-layer", "/mnt/o"),
        ("state", "/mnt/o/upper"),
        ("state", "/mnt/other/work/missing"),
        ("log", "/mnt/o/upper/sub"),
        ("real", "/mnt/o/upper/sub"),
    ];
    refused(
        &world,
        "part-of-another-store",
        cases.map(|case| vec![case]),
    );
    refused(
        &world,
        "upper-in-use",
        [vec![("upper-layer", "/mnt/o/upper")]],
    );
    world.ok(["umount", "/mnt/other/merged"]);
    allowed(
        &world,
        &[("upper-layer", "/mnt/o/upper"), ("workdir", "/mnt/o/work")],
    );
}

/// S2: one state directory for two stores, whatever the paths; and what cannot be read is passed over.
#[test]
fn no_two_stores_have_one_state_directory() {
    let Some(world) = world() else { return };
    world.ok(["mkdir", "-p", "/mnt/own/state", "/mnt/shared"]);
    world.ok(["mount", "--bind", "/mnt/own/state", "/mnt/shared"]);
    let other = |state: &str| {
        description(&[
            ("upper-layer", "/mnt/two/upper"),
            ("workdir", "/mnt/two/work"),
            ("real", "/mnt/two/store"),
            ("log", "/mnt/two/log"),
            ("state", state),
        ])
    };
    for directory in ["/etc/overstore", "/run/overstore", "/usr/lib/overstore"] {
        world.mkdir(directory);
        for state in ["/mnt/own/state", "/mnt/shared"] {
            world.write(format!("{directory}/two.toml"), other(state));
            refused(&world, "part-of-another-store", [vec![]]);
        }
        world.ok(["rm", &format!("{directory}/two.toml")]);
    }
    // A description with a mask in front of it does not count, nor does one that is a copy.
    world.write("/usr/lib/overstore/two.toml", other("/mnt/shared"));
    world.ok(["ln", "-s", "/dev/null", "/etc/overstore/two.toml"]);
    world.write("/etc/overstore/copy.toml", description(&[]));
    allowed(&world, &[]);
    // One that cannot be read is warned of.
    world.write("/etc/overstore/wrong.toml", "nonsense = 1\n");
    world.ok(["mkfifo", "/etc/overstore/pipe.toml"]);
    command(&world, "up", &[]);
    let outcome = command(&world, "check", &[]);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    for file in ["wrong", "pipe"] {
        let warning = format!("[description-unreadable] /etc/overstore/{file}.toml");
        assert!(outcome.stdout().contains(&warning), "{outcome}");
    }
}
