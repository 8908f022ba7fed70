//! `overstore publish`: generations of a live store, on the real Nix.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::owner::{LIVE, Owner, PLACE, URL, rows};
use crate::support::{Outcome, Snapshot, World};

/// What is published is what the roots reach, whole: real Nix opens it with its mount check on, builds
/// over it, and finds nothing that it would have to make in it.
#[test]
fn a_generation_is_a_lower_store() {
    for world in World::each() {
        let owner = Owner::new(&world, "");
        owner.root("shell", &owner.lower.path("mksh-static"));
        owner.root("chain", &owner.lower.path("chain-3"));
        let said = owner.published();
        assert!(said.contains("generation 1 is current"), "{said}");
        let rows = owner.rows("current");
        assert!(rows.contains(&owner.lower.path("chain-1")), "{rows:?}");
        let added = owner.add("first");
        assert!(!rows.contains(&added), "no root reaches it: {rows:?}");
        let before = Snapshot::of(world.path(PLACE));
        let url = owner.consumer("generations/1");
        owner.lower.add_and_build(&world, &url);
        let check = world.overstore(["check", "above", "--nix"]).run();
        assert_eq!(check.code(), Some(0), "{check}");
        assert!(check.stdout().ends_with("above: as described\n"), "{check}");
        before.assert_unchanged(world.path(PLACE));
    }
}

/// Rows are in the write-ahead log of a store in use: a copy of the database alone has not got them, a
/// generation does.
#[test]
fn a_plain_copy_loses_rows_and_a_generation_does_not() {
    for world in World::each() {
        let owner = Owner::new(&world, "[include]\nall-valid = true");
        let daemon = world.nix_daemon(URL, "/run/live");
        let client = |file: &str| {
            world.write(format!("/tmp/{file}"), file);
            let file = format!("/tmp/{file}");
            let add = world.nix(["nix-store", "--add", &file]);
            add.args(["--store", "unix:///run/live"])
                .ok()
                .trim()
                .to_owned()
        };
        // A connection that stays open keeps the log from being moved into the database.
        let holder = world
            .command(["sh", "-c", "exec sqlite3 /mnt/live/nix/var/nix/db/db.sqlite"])
            .stdin("select count(*) from ValidPaths;\n.shell while [ ! -e /tmp/done ]; do sleep 0.05; done\n")
            .spawn();
        let added = ["one", "two", "three"].map(client);
        world.ok([
            "cp",
            "/mnt/live/nix/var/nix/db/db.sqlite",
            "/tmp/copy.sqlite",
        ]);
        let copied = rows(&world, "/tmp/copy.sqlite?immutable=1");
        let said = owner.publish(&[]);
        assert_eq!(said.code(), Some(0), "{said}");
        assert!(
            said.stderr()
                .contains("everything that is valid is published"),
            "{said}"
        );
        let published = owner.rows("current");
        world.write("/tmp/done", "");
        Outcome::of(holder);
        drop(daemon);
        for path in &added {
            assert!(!copied.contains(path), "the plain copy has {path}");
            assert!(published.contains(path), "{published:?}");
        }
        let live = rows(&world, "/mnt/live/nix/var/nix/db/db.sqlite");
        assert_eq!(published, live);
        let everything = "select * from ValidPaths; select * from Refs order by 1, 2; \
                          select * from DerivationOutputs order by 1, 2; select * from SchemaMigrations";
        let dump = |database: &str| world.ok(["sqlite3", "-readonly", database, everything]);
        assert_eq!(
            dump(&format!("file:{PLACE}/current/db/db.sqlite?immutable=1")),
            dump("/mnt/live/nix/var/nix/db/db.sqlite")
        );
        assert_eq!(
            world.ok([
                "sqlite3",
                &format!("file:{PLACE}/current/db/db.sqlite?immutable=1"),
                "pragma integrity_check; pragma journal_mode"
            ]),
            "ok\ndelete\n"
        );
    }
}

/// The owner's collector spares what a generation has, as long as that is kept, and no longer.
#[test]
fn what_was_published_is_freed_after_it_was_retired() {
    for world in World::each() {
        let owner = Owner::new(&world, "");
        let path = owner.add("precious");
        owner.root("precious", &path);
        owner.root("shell", &owner.lower.path("mksh-static"));
        owner.published();
        world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/precious")]);
        owner.collect();
        assert!(owner.has(&path), "generation 1 has it");
        let said = owner.published();
        assert!(said.contains("(0 new, 1 left, 0 changed)"), "{said}");
        let name = path.strip_prefix("/nix/store/").unwrap();
        let changes = world.read(format!("{PLACE}/current/overstore/changes"));
        assert_eq!(String::from_utf8(changes).unwrap(), format!("- {name}\n"));
        assert!(!owner.rows("generations/2").contains(&path));
        owner.collect();
        assert!(owner.has(&path), "generation 1 has it still");
        let retired = owner.publish(&["--retire", "1"]);
        assert!(
            retired.stdout().contains("generation 1 is retired"),
            "{retired}"
        );
        owner.collect();
        assert!(owner.has(&path), "its time is not over");
        assert!(owner.rows("generations/1").contains(&path));
        let again = owner.publish(&["--retire", "1"]);
        assert_eq!(again.code(), Some(0), "{again}");
        // What is over goes with the next run: here the time of grace is set back.
        let mark = format!("{PLACE}/generations/1/overstore/retired.json");
        world.write(&mark, "{\"time\": 1, \"until\": 2}");
        let said = owner.publish(&["--list"]);
        assert!(said.stdout().contains("generation 1 is removed"), "{said}");
        assert!(said.stdout().contains("generation 2, current"), "{said}");
        assert!(
            owner.has(&path),
            "only the owner's collector removes objects"
        );
        owner.collect();
        assert!(!owner.has(&path));
        assert!(owner.has(&owner.lower.path("mksh-static")));
    }
}

/// Retiring at once, by age and by count; never the current one, and no number is given twice.
#[test]
fn generations_are_retired_by_number_age_and_count() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "[keep]\ngenerations = 3");
    owner.root("shell", &owner.lower.path("mksh-static"));
    for _ in 0..3 {
        owner.published();
    }
    let said = owner.published();
    assert!(said.contains("generation 1 is retired"), "{said}");
    let refused = owner.publish(&["--retire", "4"]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stderr().contains("is the current one"), "{refused}");
    // One that is retired already need not be waited for, either.
    let said = owner.publish(&["--retire", "1", "--now"]);
    assert!(said.stdout().contains("generation 1 is removed"), "{said}");
    let unknown = owner.publish(&["--retire", "9"]);
    assert_eq!(unknown.code(), Some(2), "{unknown}");
    let said = owner.publish(&["--retire-all-but", "2", "--now"]);
    assert!(said.stdout().contains("generation 2 is removed"), "{said}");
    let json = owner.publish(&["--list", "--json"]).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let numbers: Vec<_> = json["generations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["number"].as_u64().unwrap(), it["retired-until"].is_u64()))
        .collect();
    assert_eq!(numbers, [(3, false), (4, false)]);
    assert_eq!(json["current"], 4);
    let said = owner.publish(&["--retire-older-than", "0m", "--now"]);
    assert_eq!(said.code(), Some(0), "{said}");
    let said = owner.published();
    assert!(said.contains("generation 5 is current"), "{said}");
    let roots = world.ok([
        "find",
        "/mnt/live/nix/var/nix/gcroots/overstore-publications",
        "-mindepth",
        "2",
        "-maxdepth",
        "2",
    ]);
    let kept = world.list(format!("{PLACE}/generations"));
    assert_eq!(roots.lines().count(), kept.len(), "{roots} {kept:?}");
}

/// What is not whole is not published, and is told; the current generation stays.
#[test]
fn what_is_not_whole_is_refused() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    let lost = owner.add("lost");
    let damaged = owner.add("damaged");
    for path in [&lost, &damaged] {
        owner.root(Path::new(path).file_name().unwrap().to_str().unwrap(), path);
    }
    owner.published();
    let file = format!("{LIVE}{damaged}");
    world.ok(["sh", "-c", &format!("chmod u+w {file}; echo other >{file}")]);
    owner.published();
    let refused = owner.publish(&["--contents"]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stdout().contains("[object-damaged]"), "{refused}");
    world.ok(["rm", &format!("{LIVE}{lost}")]);
    // What no store has is no object.
    for make in ["mkfifo $0", "mknod $0 b 7 99", "mknod $0 c 1 3"] {
        let make = format!("rm -f $0; {make}");
        world.ok(["sh", "-c", &make, &format!("{LIVE}{lost}")]);
        let refused = owner.publish(&[]);
        assert_eq!(refused.code(), Some(1), "{refused}");
        for part in [
            "[lower-row-without-object]",
            "a symbolic link, which is what a store holds",
        ] {
            assert!(refused.stdout().contains(part), "{part}: {refused}");
        }
    }
    world.ok(["rm", &format!("{LIVE}{lost}")]);
    let database = "/mnt/live/nix/var/nix/db/db.sqlite";
    let broken = format!(
        "pragma foreign_keys = off; \
        update ValidPaths set sigs = 'nonsense' where path = '{damaged}'; \
        insert into Refs select id, 4711 from ValidPaths where path = '{damaged}'"
    );
    world.ok(["sqlite3", database, &broken]);
    let refused = owner.publish(&[]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    for code in [
        "lower-row-without-object",
        "lower-row-unreadable",
        "lower-reference-missing",
    ] {
        assert!(
            refused.stdout().contains(&format!("[{code}]")),
            "{code}: {refused}"
        );
    }
    let said = owner.publish(&["--list"]);
    assert!(said.stdout().contains("generation 2, current"), "{said}");
    assert_eq!(world.list(format!("{PLACE}/generations")), ["1", "2"]);
    let nothing = World::trixie().unwrap();
    let owner = Owner::new(
        &nothing,
        "[include]\npaths = [\"/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a\"]",
    );
    let refused = owner.publish(&[]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.stderr().contains("not valid in the live store"),
        "{refused}"
    );
}

/// Killed at each of its steps, the current generation is whole, and the next run finishes the work
/// and leaves nothing of the other.
#[test]
pub(crate) fn publish_killed_at_any_step_leaves_a_whole_current_generation() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "[keep]\ngenerations = 1\ngrace = \"0m\"");
    owner.root("shell", &owner.lower.path("mksh-static"));
    owner.root("chain", &owner.lower.path("chain-3"));
    owner.published();
    let wanted = owner.rows("current");
    let (outcome, trace) = world.overstore(["publish", "main"]).traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let points = trace.kill_points();
    for call in [
        "mkdirat",
        "symlinkat",
        "renameat",
        "fsync",
        "unlinkat",
        "pwrite64",
    ] {
        assert!(
            points.iter().any(|(kind, _)| kind.starts_with(call)),
            "{call}: {points:?}"
        );
    }
    let roots = || {
        let found = world.ok([
            "find",
            "/mnt/live/nix/var/nix/gcroots/overstore-publications",
            "-type",
            "f",
            "-printf",
            "%f\n",
        ]);
        found.lines().count()
    };
    let of_one = roots();
    for (call, nth) in &points {
        let killed = world.overstore(["publish", "main"]).killed_at(call, *nth);
        assert!(
            killed.signal() == Some(9) || killed.code() == Some(0),
            "{call} {nth}: {killed}"
        );
        assert_eq!(owner.rows("current"), wanted, "killed at {call} {nth}");
        owner.collect();
        for path in &wanted {
            assert!(owner.has(path), "killed at {call} {nth}: {path}");
        }
        owner.published();
        assert_eq!(
            world.list(format!("{PLACE}/generations")).len(),
            1,
            "killed at {call} {nth}"
        );
        assert_eq!(roots(), of_one, "killed at {call} {nth}");
    }
}

/// While Nix adds, builds and collects, every generation is whole, and Nix opens it, also as a store
/// below.
#[test]
fn generations_are_whole_while_nix_works() {
    for world in World::each() {
        while_nix_works(&world, |round, works| round < 15 || !works.each_was_met());
    }
}

#[test]
#[ignore = "takes ten minutes a version"]
fn soak_generations_are_whole_while_nix_works() {
    for world in World::each() {
        let begin = Instant::now();
        while_nix_works(&world, |_, works| {
            begin.elapsed() < Duration::from_secs(600) || !works.each_was_met()
        });
    }
}

/// What Nix does beside publishing, by how often it was done to the end.
#[derive(Default)]
struct Works {
    done: AtomicBool,
    added: AtomicUsize,
    built: AtomicUsize,
    collected: AtomicUsize,
}

impl Works {
    fn each_was_met(&self) -> bool {
        let all = [&self.added, &self.built, &self.collected];
        all.into_iter()
            .all(|count| count.load(Ordering::Relaxed) > 2)
    }

    /// Works until all is done; `count` counts what was done to the end.
    fn go_on(&self, count: &AtomicUsize, work: impl Fn(usize) -> bool) {
        for round in 0.. {
            if self.done.load(Ordering::Relaxed) {
                break;
            }
            count.fetch_add(usize::from(work(round)), Ordering::Relaxed);
        }
    }
}

/// Publishes as long as `more` says so.
fn while_nix_works(world: &World, more: impl Fn(usize, &Works) -> bool) {
    let owner = Owner::new(world, "[keep]\ngenerations = 2\ngrace = \"0m\"");
    owner.root("shell", &owner.lower.path("mksh-static"));
    owner.root("chain", &owner.lower.path("chain-3"));
    let works = Works::default();
    let roots = format!("{LIVE}/nix/var/nix/gcroots");
    std::thread::scope(|scope| {
        // Ends the others also where this one panics.
        let stop = Stop(&works.done);
        scope.spawn(|| {
            works.go_on(&works.added, |round| {
                let path = owner.add(&format!("added-{round}"));
                world.ok(["ln", "-sfn", &path, &format!("{roots}/added")]);
                true
            });
        });
        scope.spawn(|| {
            let expression = format!(
                "{{ name }}: derivation {{ inherit name; system = \"x86_64-linux\"; \
                 builder = builtins.storePath \"{}\" + \"/bin/mksh\"; \
                 args = [ \"-c\" \"print {} >$out\" ]; }}",
                owner.lower.path("mksh-static"),
                owner.lower.path("chain-3")
            );
            world.write("/tmp/build.nix", expression);
            works.go_on(&works.built, |round| {
                let name = format!("built-{round}");
                let nix = ["nix-build", "/tmp/build.nix", "--no-out-link"];
                // What nothing roots yet, the owner's own collector may take meanwhile: that is no
                // failure of publishing.
                let built = owner.nix(&nix).args(["--argstr", "name", &name]).run();
                let path = built.stdout();
                if built.code() == Some(0) {
                    world.ok(["ln", "-sfn", path.trim(), &format!("{roots}/built")]);
                }
                built.code() == Some(0)
            });
        });
        scope.spawn(|| {
            works.go_on(&works.collected, |_| {
                owner.nix(&["nix-store", "--gc"]).run().code() == Some(0)
            });
        });
        let url = format!("local?real={LIVE}/nix/store&state={PLACE}/current&read-only=true");
        for round in 0.. {
            if !more(round, &works) {
                break;
            }
            let said = owner.publish(&[]);
            assert_eq!(said.code(), Some(0), "{said}");
            let check = world.overstore(["publish", "--check", PLACE]).run();
            assert_eq!(check.code(), Some(0), "{check}");
            let opened = world.nix(["nix", "path-info", "--all", "--store", &url]);
            assert_eq!(opened.ok().lines().count(), owner.rows("current").len());
        }
        drop(stop);
    });
    let url = owner.consumer("current");
    owner.lower.add_and_build(world, &url);
    let rows = owner.rows("current");
    world
        .nix(["nix-store", "--check-validity"])
        .args(rows)
        .args(["--store", &url])
        .ok();
}

/// A lower store that was never published here is verified, told of, and prepared; so is a generation.
#[test]
fn a_lower_store_that_is_there_is_checked_and_prepared() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/sealed");
    let check = |more: &[&str]| {
        let run = world.overstore(["publish", "--check", "/mnt/sealed"]);
        run.args(more).run()
    };
    for name in [
        "nix/store/.links",
        "nix/var/nix/temproots",
        "nix/var/nix/profiles",
    ] {
        world.ok(["rm", "-rf", &format!("/mnt/sealed/{name}")]);
    }
    world.ok(["rm", "-f", "/mnt/sealed/nix/var/nix/db/reserved"]);
    let before = Snapshot::of(world.path("/mnt/sealed"));
    let found = check(&[]);
    before.assert_unchanged(world.path("/mnt/sealed"));
    assert_eq!(found.code(), Some(1), "{found}");
    for name in [".links", "temproots", "profiles/per-user", "db/reserved"] {
        assert!(found.stdout().contains(name), "{name}: {found}");
    }
    assert!(
        found
            .stdout()
            .contains("overstore publish --check /mnt/sealed --prepare"),
        "{found}"
    );
    let prepared = check(&["--prepare", "--contents"]);
    assert_eq!(prepared.code(), Some(0), "{prepared}");
    assert!(
        prepared
            .stdout()
            .ends_with("/mnt/sealed: fit to be a lower store\n"),
        "{prepared}"
    );
    // A consumer has nothing to say of it, either.
    world.write(
        "/etc/overstore/above.toml",
        "root = \"/mnt/above/merged\"\nlower-store = \"/mnt/sealed?read-only=true\"\n\
         upper-layer = \"/mnt/above/upper\"\nworkdir = \"/mnt/above/work\"\n",
    );
    world.mkdir("/mnt/above");
    assert_eq!(world.overstore(["up", "above"]).run().code(), Some(0));
    let object = format!("/mnt/sealed{}", lower.path("chain-1"));
    world.ok(["mv", &object, "/mnt/sealed/nix/store/lost+found"]);
    let database = "/mnt/sealed/nix/var/nix/db/db.sqlite";
    world.ok(["sqlite3", database, "pragma journal_mode = wal"]);
    let found = check(&["--json"]);
    assert_eq!(found.code(), Some(1), "{found}");
    let json: serde_json::Value = serde_json::from_str(&found.stdout()).unwrap();
    let codes: Vec<_> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        ["lower-stranger", "lower-row-without-object"],
        "{found}"
    );

    let owner = Owner::new(&world, "");
    owner.root("shell", &owner.lower.path("mksh-static"));
    owner.published();
    let found = world.overstore(["publish", "--check", PLACE]).run();
    assert_eq!(found.code(), Some(0), "{found}");
    world.ok([
        "rm",
        "-r",
        &format!("{LIVE}{}", owner.lower.path("mksh-static")),
    ]);
    let found = world.overstore(["publish", "--check", PLACE]).run();
    assert_eq!(found.code(), Some(1), "{found}");
    assert!(
        found.stdout().contains("[lower-row-without-object]"),
        "{found}"
    );
}

/// Sets a flag when it goes, whatever the reason.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
