//! `overstore reconcile` where room ends, where the old store is gone, over a nested store, and with a
//! million rows.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;

use crate::reconcile::{Exchanged, OLD, Object, ROOT, each_line, objects_named};
use crate::support::{Example, World, base_name};

/// Room is looked at before.
#[test]
fn what_does_not_fit_is_not_begun() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let big = format!(
        "{OLD}/nix/store/{}/file",
        base_name(&store.path("gone-rooted"))
    );
    let script = "mkdir /mnt/full && mount -t tmpfs -o size=24m tmpfs /mnt/full && \
                  cp -a /mnt/example/. /mnt/full && mount --move /mnt/full /mnt/example";
    world.ok(["sh", "-c", script]);
    world.ok(["sh", "-c", &format!("head -c 12M /dev/zero >{big}")]);
    let before = store.rows();
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(3), "{refused}");
    assert!(refused.stderr().contains("bytes free"), "{refused}");
    assert_eq!(store.rows(), before);
    for name in ["gone-needed", "gone-rooted"] {
        let above = format!("{}/{}", Example::UPPER, base_name(&store.path(name)));
        world.fails(["test", "-e", &above]);
    }
}

/// The old store cannot be read, or is not there any more: what only it has is nowhere to be had, and
/// nothing goes.
#[test]
fn an_old_store_that_is_gone() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let rows = store.rows();
    world.ok(["mv", OLD, "/mnt/elsewhere"]);
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr().contains("/mnt/old"), "{refused}");
    world.write("/mnt/file", "no store");
    for none in ["/mnt/file", "unix:///mnt/socket", "https://cache.example"] {
        let refused = store.run(&["--old", none]);
        assert_eq!(refused.code(), Some(2), "{refused}");
    }
    assert_eq!(store.rows(), rows);
    // An empty one, then the one that has it.
    world.mkdir(format!("{OLD}/nix/store"));
    let planned = store.reconcile(&["--dry-run", "--old", OLD], 1);
    assert_eq!(planned["carried"], json!([]));
    let both = ["--old", OLD, "--old", "/mnt/elsewhere"];
    let done = store.reconcile(&both, 0);
    let carried = ["gone-needed", "gone-needed-too", "gone-rooted"];
    assert_eq!(objects_named(&done, "carried"), carried);
    world.ok(["rm", "-rf", OLD, "/mnt/elsewhere"]);
    store.assert_sound();
}

/// The lower store is itself an overlay: what its upper layer has counts, and what it has from below.
#[test]
fn over_a_nested_store() {
    for world in World::each() {
        let mut store = Exchanged::new(&world, each_line());
        // A store between the two, which has one object of its own.
        world.write(
            "/etc/overstore/middle.toml",
            format!(
                "root = \"/mnt/middle/root\"\nlower-store = \"{ROOT}?read-only=true\"\n\
                 upper-layer = \"/mnt/middle/upper\"\nworkdir = \"/mnt/middle/work\"\n"
            ),
        );
        world.overstore(["up", "middle"]).ok();
        let middle = world.overstore(["url", "middle"]).ok().trim().to_owned();
        let too = store.path("gone-needed-too");
        let copy = format!(
            "cp -a {OLD}{too} /mnt/middle/upper/; overstore remount middle; \
             sqlite3 /mnt/middle/root/nix/var/nix/db/db.sqlite \
             \"attach '{OLD}/nix/var/nix/db/db.sqlite' as old; \
             insert into ValidPaths (path, hash, registrationTime, narSize) \
             select path, hash, registrationTime, narSize from old.ValidPaths where path = '{too}'; \
             pragma wal_checkpoint(truncate)\""
        );
        world.ok(["sh", "-ec", &copy]);
        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        let text = text.replace(&format!("{ROOT}?read-only=true"), &middle);
        world.write(Example::CONFIGURATION, text);
        let done = store.reconcile(&["--old", OLD], 0);
        assert_eq!(
            objects_named(&done, "carried"),
            ["gone-needed", "gone-rooted"]
        );
        assert_eq!(done["rows-taken"], json!(store.paths(&["other"])));
        assert_eq!(objects_named(&done, "copies-removed"), ["equal"]);
        assert_eq!(
            objects_named(&done, "hiding"),
            ["other-above", "file-above"]
        );
        store.url = world.overstore(["url", "example"]).ok().trim().to_owned();
        world.ok(["rm", "-rf", OLD]);
        store.assert_sound();
        let survive = ["needed", "gone-needed-too", "gone-needed", "mine", "other"];
        let survive: BTreeSet<String> = survive.iter().map(|name| store.path(name)).collect();
        store.build_on(&survive);
        store.example.command("down").ok();
        assert_eq!(store.reconcile(&[], 0)["outcome"], "unchanged");
        store.example.command("down").ok();
        world.overstore(["down", "middle"]).ok();
        world.ok(["rm", "-rf", "/mnt/middle"]);
    }
}

/// A lower store of far more rows than the upper one is asked about each row, and a small one is read at
/// once: with the same result.
#[test]
fn a_large_lower_store_gives_the_same_as_a_small_one() {
    let Some(world) = World::trixie() else { return };
    let mut reports = Vec::new();
    for rows in [0, 2000] {
        let store = Exchanged::new(&world, each_line());
        let more = format!(
            "insert into ValidPaths (path, hash, registrationTime, narSize)
             with recursive n (n) as (select 1 union all select n + 1 from n where n < {rows})
             select '/nix/store/' || printf('%032d', 70000 + n) || '-more',
                 'sha256:' || printf('%064d', n), 1, 120 from n where {rows} > 0;
             pragma wal_checkpoint(truncate)"
        );
        store.sql(ROOT, &more);
        let mut report = store.reconcile(&["--old", OLD], 0);
        // Not what the machine has left.
        report["free"] = json!(null);
        reports.push(report);
        store.assert_sound();
    }
    assert_eq!(reports[0], reports[1]);
}

/// A million rows: it works, with at most 300 MiB of memory of its own.
#[test]
#[ignore = "takes minutes, and some gigabytes"]
fn soak_a_million_rows() {
    const ROWS: u32 = 1_000_000;
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, vec![Object::named("needed").old(0).now(0)]);
    // Each refers to the first eight of its thousand. One in a hundred is another one in the new store,
    // and of these one in ten is gone there.
    let fill = |root: &str, change: u32| {
        let sql = format!(
            "pragma journal_mode = off; pragma synchronous = off; pragma foreign_keys = off;
             insert into ValidPaths (path, hash, registrationTime, narSize, sigs)
             with recursive n (n) as (select 1 union all select n + 1 from n where n < {ROWS})
             select '/nix/store/' || printf('%032d', 10000000 + n) || '-object',
                 'sha256:' || printf('%064d', n + iif(n % 100 = 0, {change}, 0)), 1, 120,
                 'key:' || hex(n) from n where {change} = 0 or n % 1000 != {change};
             create temp table Numbers as select id, cast(substr(path, 36, 8) as int) - 10000000 as n
                 from ValidPaths where path like '%-object';
             create index temp.ByNumber on Numbers (n);
             insert into Refs select a.id, b.id from Numbers a join Numbers b
                 on b.n between a.n - a.n % 1000 + 1 and a.n - a.n % 1000 + 8;
             pragma journal_mode = delete"
        );
        world.ok(["sqlite3", &format!("{root}/nix/var/nix/db/db.sqlite"), &sql]);
    };
    fill("/mnt/example/merged-store", 0);
    fill(ROOT, 500);
    let objects = format!(
        "cd {}; seq -f '%032.0f-object' 10000001 {} | xargs mkdir",
        Example::LOWER,
        10_000_000 + ROWS
    );
    world.ok(["sh", "-c", &objects]);
    let limits = ["prlimit", "--data=314572800"];
    let words = ["reconcile", "example", "--json", "--old", OLD];
    let start = Instant::now();
    let outcome = world.overstore(words).under(limits).run();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.stderr());
    println!("{ROWS} rows in {:.1} s", start.elapsed().as_secs_f64());
    let report: serde_json::Value = serde_json::from_slice(&outcome.out).expect("JSON");
    let count = |list: &str| report[list].as_array().map(Vec::len);
    assert_eq!(count("rows-taken"), Some(9_000));
    assert_eq!(count("rows-dropped"), Some(1_000));
    store.example.command("down").ok();
    assert_eq!(store.reconcile(&[], 0)["outcome"], "unchanged");
}
