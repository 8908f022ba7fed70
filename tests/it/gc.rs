//! `overstore gc`: what goes, what stays, and that nothing else happens.

use std::collections::BTreeSet;
use std::ffi::OsString;

use serde_json::Value;

use crate::support::{
    Example, FEATURES, Outcome, Running, Snapshot, StoreUp as Store, World, base_name as name,
    wait_until,
};

/// The paths of the objects in a report.
fn objects(report: &Value) -> BTreeSet<String> {
    let objects = report["objects"].as_array().expect("a list");
    let paths = objects.iter().map(|object| object["path"].as_str());
    paths.map(|path| path.expect("text").to_owned()).collect()
}

#[test]
fn garbage_goes_and_what_roots_of_every_kind_need_stays() {
    for world in World::each() {
        let store = Store::up(&world);
        let kept = store.register(&[
            ("direct", &["below-direct"]),
            ("below-direct", &[]),
            ("indirect", &[]),
            ("profile", &[]),
            ("named", &[]),
            ("temporary", &["below-temporary"]),
            ("below-temporary", &[]),
            ("environment", &[]),
            ("open", &[]),
            ("garbage", &["direct", "garbage-too"]),
            ("garbage-too", &["garbage-too"]),
        ]);
        let (kept, garbage) = kept.split_at(9);
        let (lower, added) = (store.example.lower.path("chain-3"), store.add("added"));
        store.root("direct", &kept[0]);
        store.root("lower", &lower);
        world.mkdir("/home/alice/project");
        world.ok(["ln", "-s", &kept[2], "/home/alice/project/result"]);
        world.mkdir(format!("{}/gcroots/auto", Example::STATE));
        store.root("auto/abc", "/home/alice/project/result");
        let profiles = format!("{}/profiles", Example::STATE);
        world.ok(["ln", "-s", &kept[3], &format!("{profiles}/p-1-link")]);
        world.ok(["ln", "-s", "p-1-link", &format!("{profiles}/p")]);
        world.write(format!("{}/gcroots/{}", Example::STATE, name(&kept[4])), "");
        let temporary = format!("{}/temproots/99999", Example::STATE);
        world.write(&temporary, format!("{}\0", kept[5]));
        let _builder = Running(
            world
                .command(["flock", "-F", &temporary, "sleep", "infinity"])
                .spawn(),
        );
        let _editor = Running(
            world
                .command(["sleep", "infinity"])
                .env("EDITOR", format!("{}/bin/vi", kept[7]))
                .spawn(),
        );
        // Of another user, and not at /nix/store: Nix does not see this one.
        let _reader = Running(
            world
                .command(["tail", "-f", &(store.real(&kept[8]) + "/file")])
                .by_alice()
                .spawn(),
        );
        wait_until("the processes run", || {
            let said = store.gc_json(&["--dry-run"]);
            said["objects"].as_array().expect("a list").len() == 3
        });
        let before = Snapshot::of(world.path("/mnt/example"));
        let planned = store.gc_json(&["--dry-run"]);
        before.assert_unchanged(world.path("/mnt/example"));
        let mut expected: BTreeSet<String> = garbage.iter().cloned().collect();
        expected.insert(added.clone());
        assert_eq!(objects(&planned), expected);
        assert!(planned["bytes"].as_u64().expect("a number") > 0);

        let done = store.gc_json(&[]);
        assert_eq!(objects(&done), expected, "{done}");
        assert_eq!(done["left"], Value::Array(Vec::new()), "{done}");
        for path in kept {
            assert!(store.has(path), "{path}");
        }
        for path in garbage.iter().chain([&added]) {
            assert!(!store.has(path), "{path}");
        }
        assert!(store.rows().contains(&lower));
        store.assert_sound();
        assert_eq!(store.gc_json(&[])["outcome"], "unchanged");
        world.overstore(["check", "example"]).ok();
    }
}

/// Any process can make its environment show more than execve(2) takes, without having it: here twice
/// what is read, of one page of zeros.
#[test]
fn a_process_that_shows_an_endless_environment_counts_as_unseen() {
    const SCRIPT: &str = r#"
        open F, "</proc/self/stat"; my ($rest) = <F> =~ /\) (.*)/; my @f = (0, 0, 0, split / /, $rest);
        my $size = 16 << 20; my $at = syscall(9, 0, $size, 1, 0x22, -1, 0); # mmap
        my $map = pack "Q12L2", @f[26, 27, 45, 46, 47], syscall(12, 0), $f[28], @f[48, 49],
            $at, $at + $size, 0, 0, 0xffffffff;
        syscall(157, 35, 14, $map, length $map, 0) and die "prctl: $!"; # PR_SET_MM, PR_SET_MM_MAP
        $| = 1; print "ready"; sleep 1000;"#;
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let opened = store.add("opened");
    assert_eq!(store.gc_json(&["--dry-run"])["unseen-processes"], 0);
    let script = format!("open O, '<{}' or die;{SCRIPT}", store.real(&opened));
    let mut hostile = Running(world.command(["perl", "-e", &script]).by_alice().spawn());
    let mut ready = [0; 5];
    let output = hostile.0.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(output, &mut ready).expect("it runs");
    let report = store.gc_json(&[]);
    assert_eq!(report["unseen-processes"], 1, "{report}");
    // What else it shows is seen.
    assert!(store.has(&opened), "{report}");
}

/// The names in store paths, sorted.
fn names(paths: &BTreeSet<String>) -> Vec<&str> {
    let mut names: Vec<&str> = paths.iter().map(|path| &name(path)[33..]).collect();
    names.sort_unstable();
    names
}

#[test]
fn why_names_roots_and_the_way_to_them() {
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let paths = store.register(&[
        ("top", &["middle"]),
        ("middle", &["bottom", "middle"]),
        ("bottom", &[]),
        ("other", &["bottom"]),
        ("garbage", &["bottom"]),
    ]);
    store.root("one", &paths[0]);
    store.root("two", &paths[3]);
    let before = Snapshot::of(world.path("/mnt/example"));
    let why = |path: &str| -> Value {
        serde_json::from_str(&store.gc(&["--why", path, "--json"]).ok()).expect("JSON")
    };
    let kept = why(&paths[2]);
    assert_eq!(kept["alive"], true);
    let gcroots = format!("{}/gcroots", Example::STATE);
    let expected = serde_json::json!([
        { "root": format!("{gcroots}/two"), "by-way-of": [paths[3], paths[2]] },
        { "root": format!("{gcroots}/one"), "by-way-of": [paths[0], paths[1], paths[2]] },
    ]);
    assert_eq!(kept["roots"], expected);
    assert_eq!(why(&paths[4])["alive"], false);
    // A link to it, or a path in it, means it.
    world.ok(["ln", "-s", &format!("{}/file", paths[0]), "/tmp/link"]);
    let text = store.gc(&["--why", "/tmp/link"]).ok();
    assert_eq!(text, format!("{gcroots}/one\n  -> {}\n", paths[0]));
    let below = store.example.lower.path("chain-3");
    for (path, why) in [
        (below.as_str(), "only in the lower store"),
        ("/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-x", "not valid"),
        ("/etc/passwd", "neither a store path"),
    ] {
        let outcome = store.gc(&["--why", path]).fails();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
        assert!(outcome.stderr().contains(why), "{outcome}");
    }
    before.assert_unchanged(world.path("/mnt/example"));
}

/// Deleted by Nix, an object in both layers would go behind OverlayFS's back.
#[test]
fn objects_in_both_layers_are_never_given_to_nix() {
    for world in World::each() {
        let store = Store::up(&world);
        let paths = store.register(&[
            ("needed-by-both", &[]),
            ("both", &["needed-by-both"]),
            ("garbage", &["both"]),
        ]);
        // As after an addition below; the row below does not matter for what is on the disk.
        let below = format!("{}/{}", Example::LOWER, name(&paths[1]));
        world.mkdir(&below);
        let (outcome, trace) = store.gc(&["--json"]).traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
        assert_eq!(names(&objects(&report)), ["garbage"], "{report}");
        assert_eq!(report["in-both-layers"], serde_json::json!([paths[1]]));
        assert!(store.has(&paths[0]) && store.has(&paths[1]) && !store.has(&paths[2]));
        let touched = trace.changes_below(Example::LOWER);
        assert!(touched.is_empty(), "{touched:?}");
        let why = store.gc(&["--why", &paths[0]]).ok();
        assert!(why.starts_with("it is in both layers"), "{why}");
    }
}

#[test]
fn an_incomplete_store_is_never_collected() {
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let paths = store.register(&[("one", &[]), ("two", &["one"])]);
    let refused = |arguments: &[&str], why: &str| {
        let names = || [Example::UPPER, Example::STATE].map(|at| world.list(at));
        let before = (names(), store.rows());
        let outcome = store.gc(arguments).fails();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains(why), "{outcome}");
        assert_eq!((names(), store.rows()), before);
    };
    world.overstore(["down", "example"]).ok();
    refused(&[], "not as described");
    refused(&["--dry-run"], "not as described");

    // The disk of the upper layer is not there.
    world.ok(["mv", Example::UPPER, "/mnt/example/elsewhere"]);
    store
        .example
        .command("up")
        .args(["--accept-other-layer", "--accept-lost-objects"])
        .run();
    for arguments in [&["--dry-run"][..], &[], &["--leftovers"], &["--metadata"]] {
        refused(arguments, "an object in neither layer");
    }
    world.overstore(["down", "example"]).ok();
    world.ok(["rm", "-rf", Example::UPPER]);
    world.ok(["mv", "/mnt/example/elsewhere", Example::UPPER]);

    // The database is not there.
    let database = format!("{}/db", Example::STATE);
    world.ok(["mv", &database, "/mnt/example/db"]);
    store
        .example
        .command("up")
        .args(["--accept-lost-database"])
        .run();
    refused(&["--leftovers"], "knows none of them");
    refused(&["--leftovers", "--dry-run"], "knows none of them");
    let report = store.gc_json(&[]);
    assert_eq!(report["objects"], serde_json::json!([]));
    assert_eq!(report["unknown"], serde_json::json!(paths), "{report}");
    world.overstore(["down", "example"]).ok();
    world.ok(["rm", "-rf", &database]);
    world.ok(["mv", "/mnt/example/db", &database]);

    store.example.up();
    // Rows are missing that were there: those of what came after an older state of the database.
    let newer = store.register(&[("three", &[])]);
    world.overstore(["down", "example"]).ok();
    store.example.up();
    let lose = format!("delete from ValidPaths where path = '{}'", newer[0]);
    world.ok(["sqlite3", &format!("{database}/db.sqlite"), &lose]);
    for arguments in [&["--dry-run"][..], &[], &["--leftovers"], &["--metadata"]] {
        refused(
            arguments,
            "knows 2 of the objects in the upper layer, after 3",
        );
    }
    let report = store.gc_json(&["--accept-lost-rows"]);
    assert_eq!(names(&objects(&report)), ["one", "two"]);
    assert_eq!(report["unknown"], serde_json::json!(newer));
    // What a collection has left is what is there now.
    store.add("four");
    assert_eq!(names(&objects(&store.gc_json(&[]))), ["four"]);
}

/// Nix takes both for removed roots.
#[test]
fn a_removed_result_is_no_root_and_an_unmounted_home_stops_the_collection() {
    for world in World::each() {
        let store = Store::up(&world);
        let paths = store.register(&[("result", &[]), ("home", &[]), ("empty", &[])]);
        let link = |name: &str, target: &str, path: &str| {
            world.mkdir(target.rsplit_once('/').expect("a path").0);
            world.ok(["ln", "-s", path, target]);
            world.mkdir(format!("{}/gcroots/auto", Example::STATE));
            store.root(&format!("auto/{name}"), target);
        };
        link("a", "/home/alice/work/result", &paths[0]);
        world.write("/home/alice/work/source", "");
        link("b", "/home/bob/work/result", &paths[1]);
        link("c", "/mnt/usb/work/result", &paths[2]);
        world.ok(["rm", "/home/alice/work/result"]);
        assert_eq!(names(&objects(&store.gc_json(&[]))), ["result"]);

        let auto = format!("{}/gcroots/auto", Example::STATE);
        let refused = |why: &str| {
            for arguments in [&[][..], &["--dry-run"]] {
                let outcome = store.gc(arguments).fails();
                assert_eq!(outcome.code(), Some(1), "{outcome}");
                for part in [why, "--ignore-absent-roots", &auto] {
                    assert!(outcome.stderr().contains(part), "{part}: {outcome}");
                }
            }
            assert!(store.has(&paths[1]) && store.has(&paths[2]));
        };
        world.write("/etc/fstab", "server:/home /home/bob nfs defaults 0 0\n");
        world.ok(["mv", "/home/bob/work", "/home/bob/away"]);
        refused("/home/bob is not mounted");
        world.ok(["mv", "/home/bob/away", "/home/bob/work"]);
        world.ok(["rm", "-r", "/mnt/usb/work"]);
        refused("/mnt/usb is empty");
        world.ok(["rm", "/home/bob/work/result"]);
        let report = store.gc_json(&["--ignore-absent-roots"]);
        assert_eq!(names(&objects(&report)), ["empty", "home"]);
        assert_eq!(world.list(&auto), Vec::<OsString>::new());
        store.assert_sound();
    }
}

#[test]
fn leftovers_go_only_when_nobody_uses_them() {
    for world in World::each() {
        let store = Store::up(&world);
        let real = |name: &str| format!("{}/{name}", Example::REAL);
        let hash = |digit: char| String::from(digit).repeat(32);
        let kept = store.add("kept");
        store.root("kept", &kept);
        for name in ["tmp-1-0", "tmp-2-0"] {
            world.mkdir(real(name) + "/x/deep");
            world.write(real(name) + "/x/deep/file", "half of an object");
        }
        let locks = ['a', 'b'].map(|digit| format!("{}-x.lock", hash(digit)));
        for lock in &locks {
            world.write(real(lock), "");
        }
        let unknown = format!("{}-half", hash('c'));
        world.mkdir(real(&unknown) + "/bin");
        world.write(real("stranger"), "of somebody");
        // Nix deletes what has no row although a root names it.
        let rooted = format!("{}-rooted", hash('f'));
        world.write(real(&rooted), "");
        store.root("without-row", &format!("/nix/store/{rooted}"));
        // A whiteout over nothing: as a deletion leaves it whose lower object went later.
        let whiteouts = [
            format!("{}-gone", hash('d')),
            format!("{}-y.lock", hash('d')),
        ];
        for name in &whiteouts {
            world.ok([
                "mknod",
                &format!("{}/{name}", Example::UPPER),
                "c",
                "0",
                "0",
            ]);
        }
        let hidden = name(&store.example.lower.path("chain-1")).to_owned();
        world.ok(["rm", "-r", &real(&hidden)]);
        world.overstore(["remount", "example"]).ok();
        let _busy = [&real("tmp-1-0"), &real(&locks[0])].map(|path| {
            Running(
                world
                    .command(["flock", "-F", path, "sleep", "infinity"])
                    .spawn(),
            )
        });
        wait_until("both are locked", || {
            [&real("tmp-1-0"), &real(&locks[0])]
                .iter()
                .all(|path| !world.run(["flock", "-n", path, "true"]).status.success())
        });
        let before = Snapshot::of(world.path("/mnt/example"));
        store.gc(&["--dry-run"]).ok();
        before.assert_unchanged(world.path("/mnt/example"));

        let report = store.gc_json(&[]);
        let removed = serde_json::json!({
            "temporary-directories": 1, "lock-files": 1, "whiteouts": 2
        });
        assert_eq!(report["leftovers"], removed, "{report}");
        assert_eq!(
            report["unknown"],
            serde_json::json!([format!("/nix/store/{unknown}")])
        );
        let there = |names: &[&str]| {
            let mut expected: Vec<OsString> = names.iter().map(Into::into).collect();
            expected.sort();
            assert_eq!(world.list(Example::UPPER), expected);
        };
        let kept = name(&kept);
        let stay = [
            ".links", "tmp-1-0", &locks[0], "stranger", kept, &hidden, &rooted,
        ];
        there(&[&stay[..], &[&unknown]].concat());
        let report = store.gc_json(&["--leftovers"]);
        assert_eq!(names(&objects(&report)), ["half"]);
        there(&stay);
    }
}

/// An object can be named like a lock file, and be empty. While somebody makes it, nobody has a lock on
/// the object itself.
#[test]
fn what_is_being_made_and_named_like_a_lock_stays() {
    for world in World::each() {
        let store = Store::up(&world);
        let real = |name: &str| format!("{}/{name}", Example::REAL);
        let name = |digit: &str| format!("{}-yarn.lock", digit.repeat(32));
        // With Nix's lock of it, as while it is registered; and used by a process of Nix.
        let [added, used, covered] = ["a", "b", "c"].map(name);
        world.write(real(&added), "");
        world.write(real(&used), "");
        let whiteout = format!("{}/{covered}", Example::UPPER);
        world.ok(["mknod", &whiteout, "c", "0", "0"]);
        world.overstore(["remount", "example"]).ok();
        let temporary = format!("{}/temproots/99999", Example::STATE);
        world.write(&temporary, format!("/nix/store/{used}\0"));
        let held = [&added, &covered].map(|name| real(name) + ".lock");
        let held = [&held[..], &[temporary]].concat();
        let makers = held.iter().map(|path| {
            let words = ["flock", "-F", path, "sleep", "infinity"];
            let maker = Running(world.command(words).spawn());
            wait_until("it is locked", || {
                world.run(["flock", "-n", path, "true"]).code() == Some(1)
            });
            maker
        });
        let makers: Vec<Running> = makers.collect();
        let report = store.gc_json(&[]);
        let removed = |locks, whiteouts| {
            serde_json::json!({
                "temporary-directories": 0, "lock-files": locks, "whiteouts": whiteouts
            })
        };
        assert_eq!(report["leftovers"], removed(0, 0), "{report}");
        for name in [&added, &used, &covered] {
            let above = world.path(format!("{}/{name}", Example::UPPER));
            assert!(above.symlink_metadata().is_ok(), "{name}");
        }
        drop(makers);
        // The lock files that were made here are leftovers themselves.
        let report = store.gc_json(&[]);
        assert_eq!(report["leftovers"], removed(4, 1), "{report}");
        assert_eq!(world.list(Example::UPPER), [".links"].map(OsString::from));
    }
}

#[test]
fn limits_leave_what_is_young_or_not_needed() {
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let paths = store.register(&[
        ("old", &[]),
        ("old-but-used", &[]),
        ("young", &["old-but-used"]),
    ]);
    let database = format!("{}/db/db.sqlite", Example::STATE);
    world.ok([
        "sqlite3",
        &database,
        "update ValidPaths set registrationTime = 1000",
    ]);
    // The time of the change in the upper layer counts too: nothing is old yet.
    let report = store.gc_json(&["--older-than", "1h", "--dry-run"]);
    assert_eq!(report["objects"], serde_json::json!([]));
    assert_eq!(report["kept-by-limits"], 3, "{report}");
    // Registered in the future, so younger than the others.
    let young = format!(
        "update ValidPaths set registrationTime = 4000000000 where path = '{}'",
        paths[2]
    );
    world.ok(["sqlite3", &database, &young]);
    // Times are in whole seconds, and what is of this one is not older than now.
    let changed = std::time::SystemTime::now();
    wait_until("the next second", || {
        changed.elapsed().is_ok_and(|passed| passed.as_secs() >= 1)
    });
    let report = store.gc_json(&["--older-than", "0m", "--dry-run"]);
    assert_eq!(names(&objects(&report)), ["old"], "{report}");

    let report = store.gc_json(&["--min-free", "1K"]);
    assert_eq!(report["enough-free"], true);
    assert_eq!(report["objects"], serde_json::json!([]));
    let free = report["free"].as_u64().expect("a number");
    let report = store.gc_json(&["--max-free", &(free + 1).to_string()]);
    assert_eq!(names(&objects(&report)), ["old"], "{report}");
    assert_eq!(report["kept-by-limits"], 2);
    let all = u64::MAX.to_string();
    let outcome = store
        .gc(&["--min-free", "1000000T", "--max-free", &all])
        .run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(!store.has(&paths[1]) && !store.has(&paths[2]));
    for wrong in ["10X", "", "-1", "1.5G", "99999999999T"] {
        let outcome = store.gc(&["--max-free", wrong]).fails();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
    }
}

#[test]
fn what_became_alive_meanwhile_stays() {
    for world in World::each() {
        let store = Store::up(&world);
        let paths = store.register(&[("a", &["b"]), ("b", &[]), ("c", &[]), ("d", &[])]);
        let lock = format!("{}/gc.lock", Example::STATE);
        world.write(&lock, "");
        let holder = Running(
            world
                .command(["flock", "-F", &lock, "sleep", "infinity"])
                .spawn(),
        );
        wait_until("the collector's lock is held", || {
            !world.run(["flock", "-n", &lock, "true"]).status.success()
        });
        let gc = store.gc(&["--json"]).spawn();
        // It has chosen, and Nix waits for the lock.
        wait_until("Nix has the store open", || {
            world.list("/proc").iter().any(|process| {
                let comm = world.path("/proc").join(process).join("comm");
                std::fs::read(comm).is_ok_and(|name| name == b"nix-daemon\n")
            })
        });
        store.root("new", &paths[0]);
        drop(holder);
        let outcome = Outcome::of(gc);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
        assert_eq!(names(&objects(&report)), ["c", "d"], "{report}");
        assert!(
            report["left"][0]["reason"]
                .as_str()
                .expect("text")
                .contains("alive")
        );
        assert!(store.has(&paths[0]) && store.has(&paths[1]));
    }
}

#[test]
fn only_root_collects_and_only_with_nix() {
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let path = store.add("added");
    let outcome = store.gc(&[]).by_alice().fails();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    for part in ["as root", "overstore-gc@example.timer"] {
        assert!(outcome.stderr().contains(part), "{part}: {outcome}");
    }
    let outcome = world.fails([
        "env",
        "PATH=/nowhere",
        "/usr/bin/overstore",
        "gc",
        "example",
    ]);
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    assert!(outcome.stderr().contains("install Nix"), "{outcome}");
    assert!(store.has(&path));
}

/// Through the store's daemon, whose settings and whose cache are its own.
#[test]
fn an_ordinary_user_collects_what_is_above_alone_through_the_daemon() {
    const SOCKET: &str = "/run/own.socket";
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower");
        world.write(
            "/etc/overstore/own.toml",
            format!(
                "real = \"/nix/store\"\nstate = \"/nix/var/nix\"\nlog = \"/nix/var/log/nix\"\n\
                 lower-store = \"/mnt/lower?read-only=true\"\n\
                 upper-layer = \"/mnt/own/up\"\nworkdir = \"/mnt/own/work\"\n\
                 daemon.socket = \"{SOCKET}\"\n"
            ),
        );
        world.overstore(["up", "own"]).ok();
        let url = world.overstore(["url", "own"]).ok().trim().to_owned();
        let daemon = world.nix_daemon(&url, SOCKET);
        let add = |name: &str| {
            let file = format!("/tmp/{name}");
            world.write(&file, format!("the content of {name}"));
            let remote = format!("unix://{SOCKET}");
            let run = world.nix(["nix-store", "--add", &file, "--store", &remote]);
            run.by_alice().ok().trim().to_owned()
        };
        let [garbage, result, open, of_root] = ["garbage", "result", "open", "root"].map(add);
        // What this user cannot see, the daemon does.
        world.mkdir("/root/secret");
        world.ok(["ln", "-s", &of_root, "/root/secret/result"]);
        world.ok(["chmod", "700", "/root"]);
        world.mkdir("/home/alice/work");
        world.ok(["ln", "-s", &result, "/home/alice/work/result"]);
        world.mkdir("/nix/var/nix/gcroots/auto");
        for (name, target) in [
            ("a", "/home/alice/work/result"),
            ("r", "/root/secret/result"),
        ] {
            world.ok([
                "ln",
                "-s",
                target,
                &format!("/nix/var/nix/gcroots/auto/{name}"),
            ]);
        }
        let _reader = Running(world.command(["tail", "-f", &open]).spawn());
        wait_until("it is open", || {
            world.list("/proc").iter().any(|process| {
                let files = world.path("/proc").join(process).join("fd");
                let files = std::fs::read_dir(files).into_iter().flatten().flatten();
                let mut links = files.flat_map(|file| std::fs::read_link(file.path()));
                links.any(|link| link.ends_with(name(&open)))
            })
        });
        // Of root's: leftovers.
        world.write(format!("/nix/store/{}-x.lock", "a".repeat(32)), "");
        let gc = |arguments: &[&str]| {
            let run = world.overstore(["gc", "own", "--json"]).args(arguments);
            run.by_alice().run()
        };
        let outcome = gc(&[]);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
        assert_eq!(objects(&report), BTreeSet::from([garbage]), "{report}");
        assert_eq!(report["left"], serde_json::json!([]), "{report}");
        assert_eq!(report["leftovers-for-root"]["lock-files"], 1, "{report}");
        assert_eq!(
            (&report["keep-derivations"], &report["keep-outputs"]),
            (&Value::Bool(true), &Value::Bool(true))
        );
        for kept in [&result, &open, &of_root] {
            assert!(world.path(kept).exists(), "{kept}: {report}");
        }
        // Nor what is in a directory that somebody has closed.
        let closed = ["gcroots/per-user/bob", "profiles/per-user/bob", "temproots"]
            .map(|name| format!("/nix/var/nix/{name}"));
        for directory in &closed {
            world.ok(["mkdir", "-p", directory]);
            world.ok(["chmod", "700", directory]);
        }
        let hidden = add("hidden");
        world.ok(["ln", "-s", &hidden, &format!("{}/a", closed[0])]);
        let garbage = add("more");
        for (words, alive) in [
            (&["--dry-run", "--ignore-absent-roots"][..], false),
            (&["--why", &hidden], false),
            (&[], true),
        ] {
            let outcome = gc(words);
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
            assert_eq!(
                report["unseen-directories"],
                serde_json::json!(closed),
                "{report}"
            );
            if alive {
                assert_eq!(
                    objects(&report),
                    BTreeSet::from([garbage.clone()]),
                    "{report}"
                );
            }
        }
        assert!(world.path(&hidden).exists());
        for option in ["--metadata", "--leftovers"] {
            let outcome = gc(&[option]);
            assert_eq!(outcome.code(), Some(1), "{outcome}");
            assert!(outcome.stderr().contains("only root"), "{outcome}");
        }
        assert!(
            world
                .path("/mnt/lower/nix/store")
                .join(name(&lower.path("chain-3")))
                .exists()
        );
        drop(daemon);
    }
}

#[test]
fn inside_exec_a_user_collects_a_store_of_his_own() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/lower");
        world.ok(["mkdir", "/mnt/own"]);
        world.ok(["chown", "alice", "/mnt/own"]);
        world.write(
            "/home/alice/own.toml",
            "root = \"/mnt/own/m\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/own/up\"\nworkdir = \"/mnt/own/work\"\n",
        );
        world.write("/tmp/one", "1");
        let kept = lower.path("chain-3");
        let script = format!(
            "set -e; nix-store --add /tmp/one >/tmp/added; nix-store --check-validity {kept}\n\
             overstore gc /home/alice/own.toml --json; ls $OVERSTORE_UPPER_LAYER"
        );
        let outcome = world
            .overstore(["exec", "/home/alice/own.toml", "--", "sh", "-c", &script])
            .by_alice()
            .env("NIX_CONFIG", FEATURES)
            .run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let added = String::from_utf8(world.read("/tmp/added")).expect("text");
        assert!(
            outcome
                .stdout()
                .contains(&format!("\"path\": \"{}\"", added.trim()))
        );
        assert_eq!(world.list("/mnt/own/up"), [OsString::from(".links")]);
    }
}

#[test]
fn old_generations_of_profiles_go_first() {
    for world in World::each() {
        let store = Store::up(&world);
        let paths = store.register(&[("one", &[]), ("two", &[]), ("three", &[])]);
        let profile = format!("{}/profiles/per-user/root/p", Example::STATE);
        world.mkdir(profile.rsplit_once('/').expect("a path").0);
        for (number, path) in (1..).zip(&paths) {
            world.ok(["ln", "-s", path, &format!("{profile}-{number}-link")]);
        }
        world.ok(["ln", "-s", "p-2-link", &profile]);
        assert_eq!(store.gc_json(&[])["objects"], serde_json::json!([]));
        let report = store.gc_json(&["--delete-generations", "old"]);
        assert_eq!(names(&objects(&report)), ["one", "three"], "{report}");
        assert!(store.has(&paths[1]));
        let outcome = store.gc(&["--delete-generations", "yesterday"]).fails();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
    }
}

/// Nix makes the file that a link in the place of a profile's lock leads to, and waits for ever where
/// that is there and not empty. So root's does not go where somebody else can make such links.
#[test]
fn generations_in_directories_of_others_are_left_to_them() {
    for world in World::each() {
        let store = Store::up(&world);
        let paths = store.register(&[("one", &[]), ("two", &[])]);
        let profiles = format!("{}/profiles", Example::STATE);
        let make = "d=$0/$1; mkdir -p $d; ln -s $2 $d/p-1-link; ln -s $3 $d/p-2-link; \
                    ln -s p-2-link $d/p";
        for directory in ["per-user/root", "per-user/alice/d", "shared"] {
            world.ok([
                "sh", "-ec", make, &profiles, directory, &paths[0], &paths[1],
            ]);
        }
        let script = "cd $0; ln -s /etc/nologin per-user/alice/d/p.lock; \
                      ln -s /etc/made shared/p.lock; chown -hR alice per-user/alice; \
                      chgrp alice shared; chmod 775 shared";
        world.ok(["sh", "-ec", script, &profiles]);
        let outcome = store.gc(&["--delete-generations", "old"]).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        for made in ["/etc/nologin", "/etc/made"] {
            assert!(!world.path(made).exists(), "{outcome}");
        }
        let is_there = |name: &str| {
            let link = world.path(format!("{profiles}/{name}"));
            link.symlink_metadata().is_ok()
        };
        assert!(!is_there("per-user/root/p-1-link"), "{outcome}");
        for left in ["per-user/alice/d/p-1-link", "shared/p-1-link"] {
            assert!(is_there(left), "{left}: {outcome}");
        }
        assert!(store.has(&paths[0]), "{outcome}");
        for told in [
            "have alice delete them",
            &format!("nix-env --profile {profiles}/per-user/alice/d/p --delete-generations old"),
            &format!("chmod go-w {profiles}/shared"),
        ] {
            assert!(outcome.stderr().contains(told), "{told}: {outcome}");
        }
        assert!(outcome.stderr().starts_with("warning: "), "{outcome}");
    }
}

#[test]
fn a_collection_that_is_refused_leaves_the_generations() {
    let Some(world) = World::trixie() else { return };
    let store = Store::up(&world);
    let paths = store.register(&[("one", &[]), ("two", &[])]);
    let profile = format!("{}/profiles/p", Example::STATE);
    for (number, path) in (1..).zip(&paths) {
        world.ok(["ln", "-s", path, &format!("{profile}-{number}-link")]);
    }
    world.ok(["ln", "-s", "p-2-link", &profile]);
    let refused = |words: &[&str], why: &str| {
        let outcome = store.gc(&["--delete-generations", "old"]).args(words).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains(why), "{outcome}");
        let first = world.path(format!("{profile}-1-link"));
        assert!(first.symlink_metadata().is_ok(), "{outcome}");
    };
    world.mkdir("/mnt/empty");
    world.mkdir(format!("{}/gcroots/auto", Example::STATE));
    store.root("auto/abc", "/mnt/empty/result");
    refused(&[], "cannot be seen");
    world.ok(["rm", &format!("{}/gcroots/auto/abc", Example::STATE)]);
    // Another database.
    let database = format!("{}/db/db.sqlite", Example::STATE);
    world.ok(["sqlite3", &database, "delete from ValidPaths"]);
    refused(&["--leftovers"], "knows none of them");
}

/// Nix's collector fills the upper database with the metadata of everything below.
#[test]
fn metadata_that_nothing_needs_goes_only_when_asked_for() {
    for world in World::each() {
        let store = Store::up_with(&world, "[warm]\npaths = [\"/tmp/wanted\"]\n");
        let lower = |name: &str| store.example.lower.path(name);
        let (chain, shell) = (lower("chain-3"), lower("mksh-static"));
        let paths = store.register(&[("user", &[]), ("garbage", &[])]);
        let database = format!("{}/db/db.sqlite", Example::STATE);
        world.overstore(["warm", "example", "--all"]).ok();
        // As if nothing were remembered of that: the rows of `warm` stay otherwise.
        world.ok(["rm", "-r", &format!("{}/overstore", Example::STATE)]);
        let refer = format!(
            "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b \
             where a.path = '{}' and b.path = '{chain}'",
            paths[0]
        );
        world.ok(["sqlite3", &database, &refer]);
        store.root("user", &paths[0]);
        let all = store.rows();
        assert!(all.contains(&shell));
        store.gc(&[]).ok();
        let mut expected = all.clone();
        expected.remove(&paths[1]);
        assert_eq!(store.rows(), expected);

        // Otherwise the derivations stay, and all that they refer to.
        let gc = |arguments: &[&str]| -> Value {
            let run = store
                .gc(arguments)
                .env("NIX_CONFIG", "keep-derivations = false");
            serde_json::from_str(&run.args(["--json"]).ok()).expect("JSON")
        };
        let planned = gc(&["--metadata", "--dry-run"]);
        let report = gc(&["--metadata"]);
        assert_eq!(report["keep-derivations"], false);
        assert_eq!(planned["rows"], report["rows"]);
        let mut kept: BTreeSet<String> = ["chain-1", "chain-2", "chain-3"].map(lower).into();
        kept.insert(paths[0].clone());
        assert_eq!(store.rows(), kept);
        assert_eq!(report["rows"], all.len() - kept.len() - 1);

        // What was warmed stays, and what `--keep` has made roots of.
        world.overstore(["warm", "example", &shell]).ok();
        gc(&["--metadata"]);
        assert!(store.rows().contains(&shell));
        world.overstore(["warm", "example", "--keep", &shell]).ok();
        world.ok(["rm", "-r", &format!("{}/overstore", Example::STATE)]);
        gc(&["--metadata"]);
        assert!(store.rows().contains(&shell));
        store.assert_sound();
    }
}

/// With either of Nix's `keep-*` settings its collector copies rows back that went before.
#[test]
fn one_collection_is_enough_for_metadata_that_nothing_needs() {
    for world in World::each() {
        let store = Store::up(&world);
        let lower = |name: &str| store.example.lower.path(name);
        let [kept, _] = <[String; 2]>::try_from(store.register(&[("kept", &[]), ("garbage", &[])]))
            .expect("two paths");
        store.root("kept", &kept);
        for keep in ["true", "false"] {
            world.overstore(["warm", "example", "--all"]).ok();
            world.ok(["rm", "-r", &format!("{}/overstore", Example::STATE)]);
            assert!(store.rows().contains(&lower("chain-3")));
            let gc = || -> Value {
                let config = format!("keep-outputs = {keep}\nkeep-derivations = true");
                let run = store.gc(&["--metadata", "--json"]);
                serde_json::from_str(&run.env("NIX_CONFIG", config).ok()).expect("JSON")
            };
            let before = store.rows().len();
            let report = gc();
            assert_eq!(store.rows(), BTreeSet::from([kept.clone()]), "{report}");
            let garbage = objects(&report).len();
            assert_eq!(report["rows"], before - 1 - garbage, "{report}");
            assert_eq!(gc()["rows"], 0);
        }
        store.assert_sound();
    }
}

/// What limits leave goes on needing the rows that it refers to, although no root leads there.
#[test]
fn rows_stay_that_garbage_needs_which_limits_leave() {
    for world in World::each() {
        let store = Store::up(&world);
        let lower = |name: &str| store.example.lower.path(name);
        let paths = store.register(&[("old", &[]), ("left", &["leans-on"]), ("leans-on", &[])]);
        let [old, left, leans_on] = <[String; 3]>::try_from(paths).expect("three paths");
        // More than the databases' files change the room by.
        let large = format!("{}/large", store.real(&old));
        world.ok(["truncate", "--size", "4M", &large]);
        world.ok(["fallocate", "--length", "4M", &large]);
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let sql = format!(
            "update ValidPaths set registrationTime = 4000000000 where path = '{left}';
             insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b
                 where a.path = '{leans_on}' and b.path = '{}'",
            lower("chain-3")
        );
        let mut expected: BTreeSet<String> = ["chain-1", "chain-2", "chain-3"].map(lower).into();
        expected.extend([left.clone(), leans_on]);
        let mut has_row = false;
        for limit in ["--max-free", "--older-than"] {
            world.overstore(["warm", "example", "--all"]).ok();
            world.ok(["rm", "-r", &format!("{}/overstore", Example::STATE)]);
            if !has_row {
                world.ok(["sqlite3", &database, &sql]);
                has_row = true;
            }
            let before = store.rows();
            assert!(before.contains(&lower("mksh-static")));
            let value = match limit {
                "--max-free" => {
                    let free = store.gc_json(&["--dry-run", "--min-free", "0"])["free"].as_u64();
                    (free.expect("a number") + (1 << 20)).to_string()
                }
                _ => "14d".to_owned(),
            };
            // Otherwise rows of derivations stay, too.
            let run = store.gc(&["--metadata", limit, &value, "--json"]);
            let said = run.env("NIX_CONFIG", "keep-derivations = false").ok();
            let report: Value = serde_json::from_str(&said).expect("JSON");
            let gone: BTreeSet<String> = match limit {
                "--max-free" => [old.clone()].into(),
                _ => BTreeSet::new(),
            };
            assert_eq!(objects(&report), gone, "{report}");
            assert_eq!(report["left"], serde_json::json!([]), "{report}");
            assert_eq!(report["kept-by-limits"], 2, "{report}");
            assert_eq!(store.rows(), expected, "{report}");
            let rows = before.len() - expected.len() - gone.len();
            assert_eq!(report["rows"], rows, "{report}");
        }
        assert!(store.has(&left));
        store.assert_sound();
    }
}

/// A derivation in one layer whose output is in the other, neither of which Nix deletes alone.
struct Split<'w> {
    store: Store<'w>,
    /// What is above, and what is below.
    above: String,
    below: String,
}

impl<'w> Split<'w> {
    fn new(world: &'w World, output_is_above: bool) -> Self {
        let expression = "derivation { name = \"x\"; system = \"x86_64-linux\"; \
                          builder = \"/bin/sh\"; }";
        world.write("/tmp/x.nix", expression);
        let lower = world.lower_store("/mnt/example/store-a");
        let instantiate = |store: &str| {
            let run = world.nix(["nix-instantiate", "/tmp/x.nix", "--store", store]);
            run.ok().trim().to_owned()
        };
        let drv = instantiate("/mnt/scratch");
        let output = world.nix([
            "nix-store",
            "--store",
            "/mnt/scratch",
            "-q",
            "--outputs",
            &drv,
        ]);
        let output = output.ok().trim().to_owned();
        let register = |store: &str, real: &str| {
            world.write(format!("{real}/{}", name(&output)), "built");
            let row = format!("{output}\n{:064}\n120\n{drv}\n0\n", 0);
            world
                .nix(["nix-store", "--load-db", "--store", store])
                .stdin(row)
                .ok();
        };
        match output_is_above {
            true => drop(instantiate(&lower.root)),
            false => register(&lower.root, Example::LOWER),
        }
        let database = format!("{}/nix/var/nix/db/db.sqlite", lower.root);
        world.ok(["sqlite3", &database, "pragma wal_checkpoint(truncate)"]);
        world.write(
            Example::CONFIGURATION,
            format!(
                "root = \"/mnt/example/merged-store\"\n\
                 lower-store = \"/mnt/example/store-a?read-only=true\"\n\
                 upper-layer = \"{}\"\nworkdir = \"{}\"\n",
                Example::UPPER,
                Example::WORKDIR
            ),
        );
        world.overstore(["up", "example"]).ok();
        let store = Store::of(Example { world, lower });
        let (above, below) = match output_is_above {
            true => {
                register(
                    world.overstore(["url", "example"]).ok().trim(),
                    Example::REAL,
                );
                (output, drv)
            }
            false => {
                let above = store.nix(&["nix-instantiate", "/tmp/x.nix"]).ok();
                assert_eq!(above.trim(), drv);
                (drv, output)
            }
        };
        Self {
            store,
            above,
            below,
        }
    }

    /// What is above stays as long as a root leads to what is below, and no longer.
    fn assert_collected(&self, settings: &str) {
        let Self {
            store,
            above,
            below,
        } = self;
        let gc = || -> Value {
            let run = store.gc(&["--json"]).env("NIX_CONFIG", settings);
            serde_json::from_str(&run.ok()).expect("JSON")
        };
        store.root("root", below);
        let report = gc();
        assert_eq!(report["objects"], serde_json::json!([]), "{report}");
        assert!(store.has(above));
        let root = format!("{}/gcroots/root", Example::STATE);
        store.world.ok(["rm", &root]);
        let report = gc();
        assert_eq!(
            objects(&report),
            BTreeSet::from([above.clone()]),
            "{report}"
        );
        assert_eq!(report["left"], serde_json::json!([]), "{report}");
        let lower = format!("{}/{}", Example::LOWER, name(below));
        assert!(store.world.path(lower).exists());
    }
}

/// With `keep-derivations`, Nix goes from a derivation to its valid outputs, wherever these are.
#[test]
fn a_derivation_goes_whose_output_is_only_below() {
    for world in World::each() {
        Split::new(&world, false).assert_collected("keep-derivations = true");
    }
}

/// What limits leave goes on needing what Nix would visit for it, and is not in the way of the rest.
#[test]
fn what_a_derivation_needs_that_limits_leave_stays() {
    for world in World::each() {
        let Split {
            store,
            above,
            below,
        } = Split::new(&world, false);
        world.overstore(["warm", "example", "--all"]).ok();
        let paths = store.register(&[("old", &[]), ("user", &[])]);
        let [old, user] = <[String; 2]>::try_from(paths).expect("two paths");
        // More than the databases' files change the room by.
        let large = format!("{}/large", store.real(&old));
        world.ok(["truncate", "--size", "4M", &large]);
        world.ok(["fallocate", "--length", "4M", &large]);
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let sql = format!(
            "update ValidPaths set registrationTime = 4000000000 where path in ('{user}', '{above}');
             insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b
                 where a.path = '{user}' and b.path = '{below}'"
        );
        world.ok(["sqlite3", &database, &sql]);
        let gc = |limits: &[&str]| -> Value {
            let run = store.gc(&[limits, &["--json"]].concat());
            let said = run.env("NIX_CONFIG", "keep-derivations = true").ok();
            serde_json::from_str(&said).expect("JSON")
        };
        let free = gc(&["--dry-run", "--min-free", "0"])["free"].as_u64();
        let wanted = (free.expect("a number") + (1 << 20)).to_string();
        for (limits, gone) in [
            (&["--dry-run", "--max-free", &wanted][..], vec![&old]),
            (&["--max-free", &wanted], vec![&old]),
            (&["--max-free", "1"], vec![]),
            (&[], vec![&user, &above]),
        ] {
            let report = gc(limits);
            let gone: BTreeSet<String> = gone.into_iter().cloned().collect();
            assert_eq!(objects(&report), gone, "{limits:?}: {report}");
            assert_eq!(
                report["left"],
                serde_json::json!([]),
                "{limits:?}: {report}"
            );
            let rows = usize::from(limits.is_empty());
            assert_eq!(report["rows"], rows, "{limits:?}: {report}");
        }
        store.assert_sound();
    }
}

/// With `keep-outputs`, Nix goes from an output to its deriver, wherever that is.
#[test]
fn an_output_goes_whose_derivation_is_only_below() {
    for world in World::each() {
        Split::new(&world, true).assert_collected("keep-outputs = true");
    }
}

/// The collector's cost is the upper layer's, and the lower store is sacred.
#[test]
fn neither_the_merged_directory_is_listed_nor_anything_below_touched() {
    for world in World::each() {
        let store = Store::up(&world);
        store.register(&[("one", &[]), ("two", &["one"])]);
        store.root("lower", &store.example.lower.path("chain-3"));
        let before = Snapshot::of(world.path("/mnt/example/store-a"));
        let (outcome, trace) = store.gc(&[]).traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        for lower in ["/mnt/example/store-a"] {
            for change in trace.changes_below(lower) {
                let workaround = "db.sqlite-shm\", O_RDWR|O_CLOEXEC) = -1 ENOENT";
                assert!(change.text.contains(workaround), "{}", change.text);
            }
        }
        let listed = |directory: &str| {
            let listed = format!("<{directory}>");
            let calls = trace.calls.iter();
            calls
                .filter(|call| call.name == "getdents64" && call.text.contains(&listed))
                .count()
        };
        assert!(listed(Example::UPPER) > 0);
        assert_eq!(listed(Example::REAL), 0);
        before.assert_unchanged(world.path("/mnt/example/store-a"));
        let status = store.example.command("status").ok();
        let shown = status.lines().find(|line| line.contains("last collection"));
        assert!(shown.expect("a line").contains("2 objects"), "{status}");
    }
}

/// Killed at any moment, the rest is intact, and the next collection finishes the work.
#[test]
fn a_killed_collection_loses_nothing() {
    for world in World::each() {
        let store = Store::up(&world);
        let many: Vec<String> = (0..60).map(|number| format!("g{number}")).collect();
        let mut objects: Vec<(&str, &[&str])> = vec![("kept", &["needed"]), ("needed", &[])];
        objects.extend(many.iter().map(|name| (name.as_str(), &["needed"][..])));
        let paths = store.register(&objects);
        store.root("kept", &paths[0]);
        let mut left = store.rows().len();
        for _ in 0..8 {
            let mut gc = store.gc(&[]).spawn();
            // In the middle of it, wherever that is.
            wait_until("some of it has gone, or it has ended", || {
                store.rows().len() < left || gc.try_wait().expect("a child").is_some()
            });
            let _ = gc.kill();
            let _ = gc.wait();
            left = store.rows().len();
            assert!(store.has(&paths[0]) && store.has(&paths[1]));
        }
        wait_until("the last Nix has ended", || {
            store.gc(&[]).ok();
            store.rows().len() == 2
        });
        let links = OsString::from(".links");
        let expected = [&paths[0], &paths[1]].map(|path| OsString::from(name(path)));
        assert_eq!(
            world.list(Example::UPPER),
            [&[links][..], &expected].concat()
        );
        store.assert_sound();
    }
}

/// Nix drops an object's row before it deletes the object. Stopped between the two, the next collection
/// goes on with it, and takes it for no loss.
#[test]
fn an_object_whose_row_nix_has_dropped_goes_the_next_time() {
    for world in World::each() {
        let store = Store::up(&world);
        let kept = store.add("kept");
        store.root("kept", &kept);
        let is_there = |path: &str| world.list(Example::UPPER).contains(&name(path).into());
        let stopped_between = |stop: &dyn Fn(usize) -> Outcome| {
            (1..=12)
                .find_map(|nth| {
                    let names = ["alive-one", "alive-two", "alive-three", "alive-four"];
                    let garbage = names.map(|it| store.add(it));
                    // `up` remembers how many objects have rows.
                    world.overstore(["down", "example"]).ok();
                    store.example.up();
                    let outcome = stop(nth);
                    let rows = store.rows();
                    let is_between = |path: &String| is_there(path) && !rows.contains(path);
                    garbage.into_iter().find(is_between).map(|it| (it, outcome))
                })
                .expect("a call at which Nix stops between the two")
        };
        let assert_goes = |garbage: &str| {
            world.overstore(["check", "example"]).ok();
            // A collection that has nothing to do forgets nothing.
            store.gc(&["--min-free", "1"]).ok();
            let report = store.gc_json(&[]);
            assert!(objects(&report).contains(garbage), "{report}");
            assert_eq!(report["unknown"], serde_json::json!([]), "{report}");
            assert_eq!(store.rows(), [kept.clone()].into());
            assert!(!is_there(garbage));
            // Once it is gone, its name means nothing any more.
            world.mkdir(format!("{}/{}", Example::UPPER, name(garbage)));
            let report = store.gc_json(&[]);
            assert_eq!(report["unknown"], serde_json::json!([garbage]), "{report}");
            world.ok(["rmdir", &format!("{}/{}", Example::REAL, name(garbage))]);
        };
        let (garbage, outcome) = stopped_between(&|nth| store.gc(&[]).killed_at("unlinkat", nth));
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert_goes(&garbage);

        let fails = |nth| store.gc(&[]).failing_at("unlinkat", nth, "EROFS");
        let (garbage, outcome) = stopped_between(&fails);
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        let what = format!("could not delete {garbage}: ");
        for part in [&*what, "Read-only file system", "remedy: "] {
            assert!(outcome.stderr().contains(part), "{part}: {outcome}");
        }
        assert_goes(&garbage);
    }
}

/// As the unit has it: Nix changes no users in a collection, and needs no other capability either.
#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let unit = include_str!("../systemd-generator/own-daemons/expected/overstore-gc@alice.service");
    let line = |line: &'static str| line.strip_prefix("CapabilityBoundingSet=");
    let unit = unit.lines().find_map(line).expect("the unit says");
    let capabilities = unit.split(' ').fold("-all".to_owned(), |all, name| {
        let name = name.strip_prefix("CAP_").expect("a name");
        all + ",+" + &name.to_lowercase()
    });
    let confined = [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        &format!("--bounding-set={capabilities}"),
    ];
    for world in World::each() {
        let store = Store::up(&world);
        let [kept, old] = ["kept", "old"].map(|name| store.add(name));
        let registered = store.register(&[("garbage", &[]), ("both", &[])]);
        let (garbage, both) = (&registered[0], &registered[1]);
        // What Nix has to make writable, with bits that stay.
        world.ok(["chmod", "2555", &store.real(garbage)]);
        let profiles = format!("{}/profiles", Example::STATE);
        let script = "cd \"$0\"; ln -s \"$1\" p-1-link; ln -s \"$2\" p-2-link; ln -s p-2-link p";
        world.ok(["sh", "-ec", script, &profiles, &old, &kept]);
        store.root("both", both);
        store.copy_below(&registered[1..]);
        let run = |words: &[&str]| world.overstore(words.iter().copied()).under(confined).ok();
        run(&["optimise", "example"]);
        run(&[
            "gc",
            "--delete-generations",
            "old",
            "--leftovers",
            "example",
        ]);
        assert!(store.has(&kept));
        for path in [&old, garbage] {
            assert!(!store.has(path), "{path}");
        }
        let above = format!("{}/{}", Example::UPPER, name(both));
        assert!(!world.path(above).exists());
        run(&["remount", "example"]);
    }
}
