//! What `overstore status` tells is what is there.

use std::collections::BTreeSet;

use crate::support::{Snapshot, World};
use serde_json::Value;

fn status(world: &World, arguments: &[&str]) -> Value {
    let said = world
        .overstore(["status", "example", "--json"])
        .args(arguments)
        .ok();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_store_at_a_glance() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower").paths();
        world.write(
            "/etc/overstore/example.toml",
            "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n",
        );
        let before = Snapshot::of(world.path("/mnt"));
        let nothing = status(&world, &[]);
        before.assert_unchanged(world.path("/mnt"));
        assert_eq!(nothing["mounted"], false);
        assert!(nothing["content"].is_null());
        assert!(nothing["unreadable"].is_string());

        world.overstore(["up", "example"]).ok();
        let empty = status(&world, &[]);
        assert_eq!(empty["mounted"], true);
        assert_eq!(empty["lower-kind"], "database");
        assert_eq!(empty["lower-changed"], false);
        assert_eq!(empty["content"]["objects"], 0);
        assert_eq!(empty["content"]["copied-rows"], 0);
        let passed = |time: &Value| {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            since.as_secs() - time.as_u64().unwrap()
        };
        let nothing_wrong = serde_json::json!({ "errors": [], "warnings": [] });
        assert_eq!(empty["now"], nothing_wrong);
        assert!(passed(&empty["mounted-since"]) < 300);
        assert!(empty["warmed"].is_null());

        world.overstore(["warm", "example", "--all", "--keep"]).ok();
        world.write("/tmp/added", vec![1; 300_000]);
        let url = world.overstore(["url", "example"]).ok();
        world
            .nix([
                "nix-store",
                "--store",
                url.trim_end(),
                "--add",
                "/tmp/added",
            ])
            .ok();
        let twice = lower[0].rsplit('/').next().unwrap();
        let below = format!("/mnt/lower/nix/store/{twice}");
        world.ok(["cp", "-a", &below, "/mnt/upper/"]);
        let before = ["/mnt/lower", "/mnt/upper"].map(|path| Snapshot::of(world.path(path)));
        let full = status(&world, &["--sizes"]);
        before[0].assert_unchanged(world.path("/mnt/lower"));
        before[1].assert_unchanged(world.path("/mnt/upper"));
        assert_eq!(full["content"]["objects"], 2);
        assert_eq!(full["content"]["objects-in-both-layers"], 1);
        assert_eq!(full["content"]["own-rows"], 2);
        assert_eq!(full["content"]["copied-rows"], lower.len() - 1);
        assert_eq!(full["content"]["rows-without-object"], 0);
        let bytes = |name: &str| full["sizes"][name].as_u64().unwrap();
        assert!(bytes("upper-layer") >= bytes("in-both-layers") + 300_000);
        assert!(full["warm-roots"].as_u64().unwrap() > 0);
        assert_eq!(full["warm-roots-gone"], 0);
        assert!(passed(&full["warmed"]["time"]) < 300);
        assert_eq!(full["warmed"]["paths"], lower.len());
        assert_eq!(full["warmed"]["gone"], 0);
        world.ok([
            "sqlite3",
            "/mnt/merged/nix/var/nix/db/db.sqlite",
            "delete from Refs; delete from DerivationOutputs; delete from ValidPaths",
        ]);
        let gone = status(&world, &[]);
        assert_eq!(gone["warm-roots-gone"], gone["warm-roots"]);
        assert_eq!(gone["warmed"]["gone"], lower.len());

        let text = world.overstore(["status", "example"]).ok();
        for part in [
            "/mnt/merged/nix/store (mounted ",
            " ago)\n",
            "last warmed           18 paths ",
            " ago, 18 of them gone\n",
            "now                   object-without-row; `overstore check example` says more\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

const DATABASE: &str = "/mnt/merged/nix/var/nix/db/db.sqlite";
const MEMORY: &str = "/mnt/merged/nix/var/nix/overstore";

/// A store that is up over `lower_store`, with `more` in its description.
fn up(world: &World, lower_store: &str, more: &str) {
    world.write(
        "/etc/overstore/example.toml",
        format!(
            "root = \"/mnt/merged\"\nlower-store = \"{lower_store}\"\n\
             upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n{more}"
        ),
    );
    world.overstore(["up", "example"]).ok();
}

/// Deletes this many rows of paths from below.
fn lose(world: &World, rows: usize) {
    let delete = format!(
        "pragma foreign_keys = off;
         create temp table Lost as select id from ValidPaths where path not like '%-own-%' limit {rows};
         delete from Refs where referrer in Lost or reference in Lost;
         delete from DerivationOutputs where drv in Lost;
         delete from ValidPaths where id in Lost; drop table Lost"
    );
    world.ok(["sqlite3", DATABASE, &delete]);
}

fn rows(world: &World) -> BTreeSet<String> {
    let paths = world.ok(["sqlite3", DATABASE, "select path from ValidPaths"]);
    paths.lines().map(str::to_owned).collect()
}

/// Whatever is added meanwhile, each warmed path without a row is counted, and nothing else is.
#[test]
fn warmed_paths_that_have_gone_are_counted() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower");
        let mksh = lower.path("mksh-static");
        let chain = lower.path("chain-3");
        let _daemon = world.nix_daemon("local?root=/mnt/lower&read-only=true", "/run/lower.socket");
        for lower_store in [
            "/mnt/lower?read-only=true",
            "unix:///run/lower.socket?root=/mnt/lower",
        ] {
            up(&world, lower_store, "");
            let warm = |arguments: &[&str]| {
                world.overstore(["warm", "example"]).args(arguments).ok();
                status(&world, &[])["warmed"].clone()
            };
            let all = lower.paths().len();
            let warmed = warm(&["--all"]);
            assert_eq!(
                (&warmed["paths"], &warmed["gone"]),
                (&all.into(), &0.into())
            );

            // Five rows more, three less: in all there are no fewer than before.
            let url = world.overstore(["url", "example"]).ok();
            let collect = || {
                let words = ["nix-store", "--store", url.trim_end(), "--gc"];
                world.nix(words).ok();
            };
            let mut own = Vec::new();
            for number in 0..5 {
                let file = format!("/tmp/an-own-{number}");
                world.write(&file, file.as_bytes());
                let add = ["nix-store", "--store", url.trim_end(), "--add", &file];
                own.push(world.nix(add).ok().trim_end().to_owned());
            }
            lose(&world, 3);
            assert_eq!(rows(&world).len(), all + 2);
            assert_eq!(status(&world, &[])["warmed"]["gone"], 3);
            let text = world.overstore(["status", "example"]).ok();
            assert!(text.contains(" ago, 3 of them gone\n"), "{text}");
            assert_eq!(warm(&["--all"])["gone"], 0);

            // What Nix's collector takes away is what it leaves without a row.
            let root = [
                "nix-store",
                "--store",
                url.trim_end(),
                "--add-root",
                "/mnt/root",
            ];
            world.nix(root).args(["--realise", &chain]).ok();
            let before = rows(&world);
            // It leaves some that it has copied up again after it dropped them.
            collect();
            let left = rows(&world);
            assert!(left.contains(&chain) && !left.contains(&own[0]), "{left:?}");
            let lost = before
                .difference(&left)
                .filter(|path| !own.contains(path))
                .count();
            assert!(lost > 3, "{left:?}");
            assert_eq!(status(&world, &[])["warmed"]["gone"], lost);

            // A closure of which all, a part or nothing was there, asked for in two ways at once.
            world.ok(["mkdir", "-p", "/mnt/roots"]);
            world.ok(["ln", "-sfn", &chain, "/mnt/roots/chain"]);
            world.ok(["rm", "/mnt/root"]);
            for lost in [all, 2, 0] {
                lose(&world, lost);
                let closure = warm(&[&mksh, &chain])["paths"].as_u64().unwrap();
                let found = ["--roots", "/mnt/roots"];
                let warmed = warm(&[&[mksh.as_str()][..], &found].concat());
                assert_eq!(warmed["paths"], closure);
                lose(&world, all);
                assert_eq!(status(&world, &[])["warmed"]["gone"], closure);
                assert_eq!(warm(&[&chain])["gone"], 0);
                assert_eq!(warm(&[&mksh, &chain])["paths"], closure);
                let before = rows(&world);
                assert_eq!(before.len() as u64, closure);
                collect();
                let lost = before.difference(&rows(&world)).count();
                assert_eq!(status(&world, &[])["warmed"]["gone"], lost);
            }
            world.overstore(["down", "example"]).ok();
            world.ok(["rm", "-rf", "/mnt/merged", "/mnt/upper", "/mnt/work"]);
        }
    }
}

/// What `up` copies up is remembered as well, and what is damaged is unknown, not nothing.
#[test]
fn warmed_paths_that_are_not_known_are_not_counted() {
    let Some(world) = World::trixie() else { return };
    let all = world.lower_store("/mnt/lower").paths().len();
    up(&world, "/mnt/lower?read-only=true", "[warm]\nall = true\n");
    lose(&world, 7);
    let gone = || {
        let warmed = status(&world, &[])["warmed"].clone();
        assert_eq!(warmed["paths"], all);
        warmed["gone"].clone()
    };
    assert_eq!(gone(), 7);
    world.ok(["cp", "-a", MEMORY, "/mnt/memory"]);
    for damage in [
        "rm warmed-paths",
        "truncate -s -8 warmed-paths",
        "truncate -s +8 warmed-paths",
        "truncate -s -1 warmed-paths",
        "truncate -s 0 warmed-paths",
        "printf x | dd of=warmed-paths bs=1 seek=20 conv=notrunc status=none",
        "printf 2 | dd of=warmed-paths bs=1 seek=7 conv=notrunc status=none",
        "mv warmed-paths elsewhere && ln -s elsewhere warmed-paths",
        "rm warmed-paths && mkfifo warmed-paths",
        "sed -i '/\"hash\"/d' state.json",
        "sed -i 's/\"hash\": \"sha256:./&0/' state.json",
    ] {
        world.ok(["sh", "-c", &format!("cd {MEMORY} && {damage}")]);
        assert!(gone().is_null(), "{damage}");
        let text = world.overstore(["status", "example"]).ok();
        assert!(
            text.contains(" ago, how many of them are gone is not known\n"),
            "{text}"
        );
        world.ok([
            "sh",
            "-c",
            &format!("rm -r {MEMORY} && cp -a /mnt/memory {MEMORY}"),
        ]);
        assert_eq!(gone(), 7);
    }
    // A database that cannot be read tells nothing either.
    world.ok(["mv", DATABASE, "/mnt/db.sqlite"]);
    assert!(gone().is_null());
    world.ok(["mv", "/mnt/db.sqlite", DATABASE]);
    world.overstore(["warm", "example", "--all"]).ok();
    assert_eq!(gone(), 0);
    // More paths than fit in memory.
    let many = 1_u64 << 37;
    let damage = format!(
        "cd {MEMORY} && sed -i 's/\"paths\": [0-9]*/\"paths\": {many}/' state.json && \
         truncate -s {} warmed-paths",
        8 + 8 * many
    );
    world.ok(["sh", "-c", &damage]);
    let warmed = status(&world, &[])["warmed"].clone();
    assert!(
        warmed["paths"] == many && warmed["gone"].is_null(),
        "{warmed}"
    );
}

/// Killed while it writes down what it copied, it leaves the old number or none, and no wrong one.
#[test]
fn warm_killed_while_it_remembers() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/lower");
    up(&world, "/mnt/lower?read-only=true", "");
    let chain = lower.path("chain-3");
    let mut kills = 0;
    for call in ["write", "renameat"] {
        for nth in 1.. {
            lose(&world, 99);
            world.overstore(["warm", "example", &chain]).ok();
            let closure = status(&world, &[])["warmed"]["paths"].clone();
            lose(&world, 2);
            assert_eq!(status(&world, &[])["warmed"]["gone"], 2);
            let warm = world.overstore(["warm", "example", "--all"]);
            let killed = warm.killed_at(call, nth);
            let warmed = status(&world, &[])["warmed"].clone();
            // The rows were all committed before.
            assert!(
                warmed["gone"].is_null() || warmed["gone"] == 0,
                "{call} {nth}: {warmed}"
            );
            if warmed["gone"].is_null() {
                assert_eq!(warmed["paths"], closure);
            }
            world.overstore(["warm", "example", "--all"]).ok();
            let warmed = status(&world, &[])["warmed"].clone();
            assert_eq!(
                (&warmed["paths"], &warmed["gone"]),
                (&lower.paths().len().into(), &0.into())
            );
            if killed.signal() != Some(9) {
                assert_eq!(killed.code(), Some(0), "{killed}");
                break;
            }
            kills += 1;
        }
    }
    assert!(kills >= 5, "{kills}");
}

/// What is wrong is said while it is wrong, whoever found it before, and no longer.
#[test]
fn it_tells_what_is_wrong_now() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/lower");
    up(&world, "/mnt/lower?read-only=true", "");
    let now = |errors: &[&str]| {
        assert_eq!(
            status(&world, &[])["now"]["errors"],
            serde_json::json!(errors)
        );
        let exit = world.overstore(["status", "example", "--exit-code"]).run();
        let expected = i32::from(!errors.is_empty());
        assert_eq!(exit.code(), Some(expected), "{exit}");
        let text = match errors.first() {
            Some(error) => format!("now                   {error}"),
            None => "now                   nothing wrong\n".to_owned(),
        };
        assert!(exit.stdout().contains(&text), "{exit}");
    };
    now(&[]);
    world.ok(["chmod", "0666", DATABASE]);
    now(&["database-permissions"]);
    // `up` finds it, too, and it is mended by hand.
    assert_eq!(world.overstore(["up", "example"]).run().code(), Some(1));
    world.ok(["chmod", "0644", DATABASE]);
    now(&[]);
    world.overstore(["down", "example"]).ok();
    now(&["mount-missing"]);
}

#[test]
fn sizes_over_a_lower_store_behind_a_symbolic_link() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/there");
    world.ok(["ln", "-s", "there", "/mnt/lower"]);
    // Nix itself opens no store behind a link.
    let socket = "/run/lower/socket";
    let _daemon = world.nix_daemon("/mnt/there", socket);
    up(&world, &format!("unix://{socket}?root=/mnt/lower"), "");
    assert_eq!(status(&world, &["--sizes"])["sizes"]["upper-layer"], 0);
}
