//! `overstore reconcile` where room ends, where the old store is gone, over a nested store, and with a
//! million rows.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::reconcile::{Exchanged, OLD, Object, ROOT, each_line, objects_named, opaque};
use crate::support::{Example, Outcome, World, assert_says_why, base_name, sample};

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

/// There was no room for the memory: the next run has it, also where the store is up by then; but for
/// what can only be done while it is down.
#[test]
fn what_was_not_remembered_is_remembered_by_the_next_run() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    let later = "update ValidPaths set registrationTime = 9; pragma wal_checkpoint(truncate)";
    store.sql(ROOT, later);
    let file = format!("{}/overstore/state.json", Example::STATE);
    let memory = || serde_json::from_slice::<Value>(&world.read(&file)).expect("JSON");
    let old = memory()["lower"].clone();
    let forget = || {
        let mut without = memory();
        without["lower"] = old.clone();
        world.write(&file, without.to_string());
    };
    store.reconcile(&["--old", OLD], 0);
    let known = memory()["lower"].clone();
    assert_ne!(known, old);
    forget();
    let again = store.reconcile(&["--old", OLD], 0);
    assert_eq!(again["outcome"], "unchanged", "{again}");
    assert_eq!(memory()["lower"], known);
    forget();
    let other = format!(
        "{}/{}",
        Example::UPPER,
        base_name(&store.path("other-above"))
    );
    rustix::fs::removexattr(world.path(other), "trusted.overlay.opaque").expect("a mark");
    let refused = store.run(&["--old", OLD]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.stderr().contains("overstore down example"),
        "{refused}"
    );
    store.example.command("down").ok();
    store.reconcile(&["--old", OLD], 0);
    assert_eq!(memory()["lower"], known);
}

/// Where there was room before, and somebody takes it while objects are copied, or at any other step:
/// nothing of it is lost, and with room the next run ends as an undisturbed one does.
#[test]
fn a_disk_that_is_filled_meanwhile_loses_nothing() {
    let Some(world) = World::trixie() else { return };
    let store = Exchanged::new(&world, each_line());
    // A small one: what is looked at before is whether 16 MiB are left besides what is carried.
    let prepare = "cp -a /mnt/example /mnt/prepared; mount -t tmpfs -o size=40m tmpfs /mnt/example";
    world.ok(["sh", "-ec", prepare]);
    let fresh = || {
        world.ok([
            "sh",
            "-c",
            "umount -q /mnt/example/merged-store/nix/store; cd /mnt/example; \
             rm -rf -- * /run/overstore; cp -a /mnt/prepared/. .; sync -f .",
        ]);
    };
    let left = || {
        let script = "cd /mnt/example/store-b; find . -printf '%y %m %U:%G %p %l\n' | sort; \
                      find . -type f -exec md5sum {} + | sort; ls -R ../workdir/overstore";
        let rows = "select path, hash, narSize, sigs from ValidPaths order by path; \
                    select count(*) from Refs; pragma integrity_check; pragma foreign_key_check";
        let rows = store.sql("/mnt/example/merged-store", rows);
        world.ok(["sh", "-c", script]) + &rows + &opaque(&world)
    };
    fresh();
    let command = || world.overstore(["reconcile", "example", "--json", "--old", OLD]);
    let (outcome, trace) = command().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let wanted = left();
    let mine = ["mine", "equal", "other-above", "gone-and-mine"].map(|name| store.path(name));
    let mut points = trace.kill_points();
    // Locks take no room.
    points.retain(|(call, _)| !matches!(call.as_str(), "fcntl" | "flock"));
    let (mut points, mut stopped) = (sample(points, 4), 0);
    // The first write to what is carried is among them.
    points.push(("fchmod".to_owned(), 1));
    for (call, nth) in &points {
        fresh();
        let contents = || {
            mine.each_ref()
                .map(|path| store.content(Example::UPPER, path))
        };
        let (before, rows) = (contents(), store.rows());
        let outcome = filled_at(&world, call, *nth);
        world.ok(["rm", "-f", "/mnt/example/zeros"]);
        let what = format!("{call} {nth}: {outcome}");
        assert!(matches!(outcome.code(), Some(0 | 1 | 3)), "{what}");
        assert_says_why(&outcome, &what);
        let said = outcome.stderr();
        // The last one is SQLite's where the index of its log cannot grow.
        let met = [
            "No space left on device",
            "database or disk is full",
            "disk I/O error",
        ];
        let met = met.iter().any(|error| said.contains(error));
        if outcome.code() == Some(3) {
            // Or it saw before it copied anything.
            assert!(met || said.contains("has 0 bytes free"), "{what}");
            stopped += u32::from(met);
        }
        for ((path, before), now) in mine.iter().zip(before).zip(contents()) {
            // An upper copy that is also below may be gone by now.
            let below = store.content(Example::LOWER, path);
            assert!(
                now == before || now.is_empty() && below == before,
                "{path}: {what}"
            );
        }
        let dropped: Vec<_> = rows.difference(&store.rows()).cloned().collect();
        assert!(
            dropped.is_empty() || dropped == [store.path("gone-unneeded-file")],
            "{dropped:?}: {what}"
        );
        let again = command().run();
        assert_eq!(again.code(), Some(0), "{what}: {again}");
        assert!(
            left() == wanted,
            "{what}: {again} {}\nshould be {wanted}",
            left()
        );
        store.example.command("down").run();
    }
    assert!(stopped > 0, "it never ran out of room");
}

/// Runs it, holds it where it makes its nth call of a kind, takes all room, and lets it go on, also from
/// other threads' nth calls.
fn filled_at(world: &World, call: &str, nth: usize) -> Outcome {
    let script = format!(
        "rm -f /tmp/trace
         strace -f -o /tmp/trace -e trace={call} -e inject={call}:signal=SIGSTOP:when={nth} \
             overstore reconcile example --json --old {OLD} &
         held() {{ sed -n 's/^\\([0-9]*\\) *--- stopped by SIGSTOP ---$/\\1/p' /tmp/trace 2>/dev/null; }}
         until [ -n \"$(held)\" ]; do
             kill -0 $! 2>/dev/null || break
             sleep 0.02
         done
         cat /dev/zero >/mnt/example/zeros 2>/dev/null
         while kill -0 $! 2>/dev/null; do
             for thread in $(held); do kill -CONT \"$thread\" 2>/dev/null; done
             sleep 0.02
         done
         wait $!"
    );
    world.run(["sh", "-c", &script])
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
            "update ValidPaths set registrationTime = 9;
             insert into ValidPaths (path, hash, registrationTime, narSize)
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
    let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
    let count = |list: &str| report[list].as_array().map(Vec::len);
    assert_eq!(count("rows-taken"), Some(9_000));
    assert_eq!(count("rows-dropped"), Some(1_000));
    store.example.command("down").ok();
    assert_eq!(store.reconcile(&[], 0)["outcome"], "unchanged");
}
