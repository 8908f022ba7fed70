//! `overstore optimise`: of what is in both layers, the upper copy goes, and only where the lower one
//! is as good.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::support::{
    Example, FEATURES, Running, Snapshot, StoreUp, World, base_name, skip, wait_until,
};

/// Copies that were put aside.
const REPLACED: &str = "/mnt/example/workdir/overstore/replaced";

fn optimise(store: &StoreUp<'_>, arguments: &[&str]) -> Value {
    let run = store.world.overstore(["optimise", "example", "--json"]);
    let outcome = run.args(arguments).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stderr(), "");
    serde_json::from_slice(&outcome.out).expect("JSON")
}

/// The paths in a list of a report.
fn paths(report: &Value, list: &str) -> Vec<String> {
    let list = report[list].as_array().expect("a list").iter();
    let paths = list.map(|item| item["path"].as_str().expect("text").to_owned());
    paths.collect()
}

/// The objects in the upper layer.
fn above(world: &World) -> Vec<String> {
    let names = world.list(Example::UPPER).into_iter();
    let names = names.map(|name| name.into_string().expect("ASCII"));
    names.filter(|name| name != ".links").collect()
}

fn shown(store: &StoreUp<'_>, path: &str) -> String {
    let content = store.world.read(store.real(path) + "/file");
    String::from_utf8(content).expect("text")
}

/// Waits until a process has a path open, or is in it.
fn wait_until_used(world: &World, path: &str) {
    let is_it = |link: std::path::PathBuf| {
        std::fs::read_link(link).is_ok_and(|target| target.ends_with(&path[1..]))
    };
    wait_until("it is used", || {
        world.list("/proc").iter().any(|process| {
            let process = world.path("/proc").join(process);
            let files = std::fs::read_dir(process.join("fd")).into_iter().flatten();
            is_it(process.join("cwd")) || files.flatten().any(|file| is_it(file.path()))
        })
    });
}

#[test]
fn equal_copies_go_and_what_differs_in_anything_stays() {
    for world in World::each() {
        let store = StoreUp::up(&world);
        let all = store.register(&[
            ("needed", &[]),
            ("equal", &["needed", "equal"]),
            ("contents", &[]),
            ("mode", &[]),
            ("hash", &[]),
            ("size", &[]),
            ("references", &["needed"]),
            ("not-below", &[]),
            ("only-above", &[]),
            ("not-above", &[]),
        ]);
        store.copy_below(&all[..8]);
        store.copy_below(&all[9..]);
        // Real metadata, which Nix can verify.
        let added = store.add("added");
        world
            .nix(["nix-store", "--add", "/tmp/added", "--store"])
            .args([&store.example.lower.root])
            .ok();
        let below = |path: &str| format!("{}/{}", Example::LOWER, base_name(path));
        world.write(below(&all[2]) + "/file", &all[3]);
        world.ok(["chmod", "755", &(below(&all[3]) + "/file")]);
        let hash = "1".repeat(64);
        store.below(&format!(
            "update ValidPaths set hash = 'sha256:{hash}' where path = '{}'; \
             update ValidPaths set narSize = 128 where path = '{}'; \
             delete from Refs where referrer in (select id from ValidPaths where path = '{}'); \
             delete from ValidPaths where path = '{}'; pragma wal_checkpoint(truncate)",
            all[4], all[5], all[6], all[7]
        ));
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let forget = format!("delete from ValidPaths where path = '{}'", all[9]);
        world.ok(["sqlite3", &database, &forget]);
        world.overstore(["remount", "example"]).ok();

        // OverlayFS notes what it finds in both layers when it is first looked up.
        world.ok(["find", Example::REAL, "-ls"]);
        let before = Snapshot::of(world.path("/mnt/example"));
        let planned = optimise(&store, &["--dry-run"]);
        before.assert_unchanged(world.path("/mnt/example"));
        let expected = [&all[0], &all[1], &added].map(String::as_str);
        let sorted = |paths: Vec<String>| paths.into_iter().collect::<BTreeSet<String>>();
        assert_eq!(
            sorted(paths(&planned, "objects")),
            expected.map(str::to_owned).into()
        );
        assert!(
            planned["bytes"].as_u64().expect("a number") > 0,
            "{planned}"
        );
        let different = json!([
            { "path": all[2], "reason": "the copies differ in file" },
            { "path": all[3], "reason": "the copies differ in file" },
            { "path": all[4],
              "reason": "the upper database and the lower store have different hashes of it" },
            { "path": all[5],
              "reason": "the upper database and the lower store have different sizes of it" },
            { "path": all[6],
              "reason": "the upper database and the lower store have different references of it" },
            { "path": all[7], "reason": "it is not valid in the lower store" },
            { "path": all[9], "reason": "it is not valid in the upper database" },
        ]);
        assert_eq!(planned["different"], different);

        let lower = Snapshot::of(world.path("/mnt/example/store-a"));
        let (outcome, trace) = world.overstore(["optimise", "example", "--json"]).traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let done: Value = serde_json::from_slice(&outcome.out).expect("JSON");
        let touched = trace.changes_below("/mnt/example/store-a");
        assert!(touched.is_empty(), "{touched:?}");
        lower.assert_unchanged(world.path("/mnt/example/store-a"));
        for key in ["objects", "bytes", "different"] {
            assert_eq!(done[key], planned[key], "{key}");
        }
        assert_eq!(
            (&done["outcome"], &done["left"]),
            (&json!("done"), &json!([]))
        );
        let left: Vec<&str> = all[2..].iter().map(|path| base_name(path)).collect();
        assert_eq!(above(&world), left);
        assert_eq!(world.list(REPLACED), Vec::<OsString>::new());
        for path in &all[..2] {
            assert_eq!(&shown(&store, path), path);
            let inode = |path: String| world.path(path).metadata().expect("a directory").ino();
            assert_eq!(inode(store.real(path)), inode(below(path)));
            assert!(store.rows().contains(path));
        }
        store.nix(&["nix-store", "--verify-path", &added]).ok();
        let again = optimise(&store, &[]);
        assert_eq!(again["outcome"], "unchanged");
        assert_eq!(again["different"], different);
        let trusting = optimise(&store, &["--trust-databases"]);
        assert_eq!(paths(&trusting, "objects"), all[2..4]);
        assert_eq!(shown(&store, &all[2]), all[3]);
        let text = world.overstore(["optimise", "example"]).ok();
        assert!(
            text.starts_with("removed the upper copies of 0 objects"),
            "{text}"
        );
        assert!(
            text.contains(&format!("both copies of {} stay: it is not valid", all[7])),
            "{text}"
        );
    }
}

/// As far as possible on one machine: what tells the layers apart is not the same on two file systems.
#[test]
fn layers_may_be_on_different_file_systems() {
    let Some(world) = World::trixie() else { return };
    if !world.disk("ext4", "/mnt/example/store-a") {
        return;
    }
    let store = StoreUp::up(&world);
    let all = store.register(&[("one", &[]), ("two", &["one"])]);
    // Nothing in it but directories, and nothing but a file.
    for (name, make) in [("empty", "mkdir -p $0/a/b"), ("file", "echo text >$0")] {
        let path = format!("{}/{:0>32}-{name}", Example::REAL, name.len());
        world.ok(["sh", "-c", make, &path]);
        let row = format!("/nix/store/{}\n{:064}\n120\n\n0\n", base_name(&path), 0);
        store.nix(&["nix-store", "--load-db"]).stdin(row).ok();
    }
    let names = above(&world);
    let all_paths: Vec<String> = names
        .iter()
        .map(|name| format!("/nix/store/{name}"))
        .collect();
    assert_eq!(all_paths.len(), 4);
    store.copy_below(&all_paths);
    let holder = Running(
        world
            .command(["sleep", "infinity"])
            .current_dir(store.real(&all[0]))
            .spawn(),
    );
    wait_until_used(&world, &store.real(&all[0]));
    let report = optimise(&store, &[]);
    assert_eq!(paths(&report, "left"), [all[0].clone()], "{report}");
    assert_eq!(paths(&report, "objects").len(), 3, "{report}");
    drop(holder);
    let report = optimise(&store, &[]);
    assert_eq!(paths(&report, "objects"), [all[0].clone()], "{report}");
    assert_eq!(above(&world), Vec::<String>::new());
    assert_eq!(shown(&store, &all[1]), all[1]);
}

/// Deeper than a process has descriptors. What is once in `removed` has to go, or every later run ends
/// there.
#[test]
fn copies_go_however_deep_they_are() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("deep", &[])]);
    let down = "/d".repeat(700);
    for at in [all[0].as_str(), "/nix/store/tmp-1-0"] {
        world.mkdir(store.real(at) + &down);
    }
    store.copy_below(&all);
    let few = ["prlimit", "--nofile=200"];
    let words = ["optimise", "example", "--trust-databases", "--json"];
    let optimise = world.overstore(words);
    let report: Value = serde_json::from_str(&optimise.under(few).ok()).expect("JSON");
    assert_eq!(paths(&report, "objects"), all, "{report}");
    let removed = format!("{}/overstore/removed", Example::WORKDIR);
    assert_eq!(world.list(removed), Vec::<OsString>::new());
    let gc: Value = serde_json::from_str(&store.gc(&["--json"]).under(few).ok()).expect("JSON");
    assert_eq!(gc["leftovers"]["temporary-directories"], 1, "{gc}");
    assert_eq!(above(&world), Vec::<String>::new());
    world.ok(["test", "-d", &(store.real(&all[0]) + &down)]);
}

/// What runs from an upper copy, has it open, or is in it, goes on, and a later run removes the copy.
#[test]
fn programs_go_on_and_their_copies_go_later() {
    for world in World::each() {
        let store = StoreUp::up(&world);
        let all = store.register(&[("runs", &[]), ("inside", &[]), ("open", &[]), ("idle", &[])]);
        let shell = format!(
            "{}/{}/bin/mksh",
            Example::LOWER,
            base_name(&store.example.lower.path("mksh-static"))
        );
        world.ok(["cp", &shell, &(store.real(&all[0]) + "/sh")]);
        world.mkdir(store.real(&all[1]) + "/deep");
        world.write(store.real(&all[1]) + "/deep/file", "found");
        store.copy_below(&all);
        world.ok(["mkfifo", "/tmp/go", "/tmp/said"]);
        // It does something in its directory, and with its open file, when it is told to.
        let script = "exec 3<$1; read go </tmp/go; read here <file; read there <&3; \
                      print \"$here $there\" >/tmp/said";
        let program = store.real(&all[0]) + "/sh";
        let open = store.real(&all[2]) + "/file";
        let running = Running(
            world
                .command([&program, "-c", script, "sh", &open])
                .current_dir(store.real(&all[1]) + "/deep")
                .spawn(),
        );
        wait_until_used(&world, &open);
        let report = optimise(&store, &[]);
        assert_eq!(paths(&report, "objects"), [all[3].clone()], "{report}");
        assert_eq!(paths(&report, "left"), all[..3], "{report}");
        let reason = report["left"][0]["reason"].as_str().expect("text");
        assert!(reason.ends_with("(sh) uses the upper copy"), "{reason}");
        assert_eq!(above(&world), Vec::<String>::new());
        assert_eq!(world.list(REPLACED).len(), 3);
        // Others see the objects as before, and Nix has nothing against them.
        for path in [&all[1], &all[2]] {
            assert_eq!(&shown(&store, path), path);
        }
        // Nothing changes as long as it runs.
        assert_eq!(paths(&optimise(&store, &[]), "left"), all[..3]);
        world.write("/tmp/go", "go\n");
        assert_eq!(
            world.read("/tmp/said"),
            format!("found {}\n", all[2]).into_bytes()
        );
        drop(running);
        let report = optimise(&store, &[]);
        assert_eq!(paths(&report, "objects"), all[..3], "{report}");
        assert_eq!(world.list(REPLACED), Vec::<OsString>::new());
        assert_eq!(&shown(&store, &all[2]), &all[2]);
    }
}

/// A user's file system need not answer. This one does, and notes that it was asked.
#[test]
fn file_systems_of_users_are_not_asked_about_their_files() {
    // The protocol of the kernel's `fuse.h`: requests by number, and what they are answered with.
    const SCRIPT: &str = r#"
        my ($name, $kind, $at) = (shift, "fuse", "/mnt/fuse"); mkdir $at;
        open my $fuse, "+<", "/dev/fuse" or die "fuse: $!";
        my $options = sprintf "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fileno $fuse;
        syscall(165, $kind, $at, $kind, 0, $options) and die "mount: $!";
        $| = 1;
        if (!fork) { close $fuse; open F, "<", "$at/$name" or die "open: $!"; print "ready"; sleep 1000 }
        my $attributes = sub { pack "Q6L10", shift, (0) x 8, shift, 1, 0, 0, 0, 4096, 0 };
        while (sysread $fuse, my $request, 1 << 20) {
            my (undef, $what, $unique, $node) = unpack "LLQQ", $request;
            my ($error, $answer) = (0, "");
            next if $what == 2 || $what == 36 || $what == 42; # FORGET, INTERRUPT, BATCH_FORGET
            if ($what == 26) { $answer = pack "L4S2L2S2L8", 7, 31, 0, 0, 1, 1, 4096, 1, 0, 0, (0) x 8 }
            elsif ($what == 1) { $answer = pack("Q4L2", 2, 0, 1000, 0, 0, 0) . $attributes->(2, 0100644) }
            elsif ($what == 3) {
                open my $asked, ">>", "/tmp/asked"; print $asked "asked\n"; close $asked;
                $answer = pack("QLL", 0, 0, 0) . $attributes->($node, $node == 1 ? 040755 : 0100644);
            }
            elsif ($what == 14) { $answer = pack "QLL", 1, 0, 0 }
            else { $error = -38 }
            syswrite $fuse, pack("LlQ", 16 + length $answer, $error, $unique) . $answer;
        }"#;
    let Some(world) = World::trixie() else { return };
    if !world.path("/dev/fuse").exists() {
        return skip("fuse", "the kernel does not have it");
    }
    let store = StoreUp::up(&world);
    let all = store.register(&[("hers", &[]), ("free", &[])]);
    store.copy_below(&all);
    let words = ["perl", "-e", SCRIPT, base_name(&all[0])];
    let mut server = Running(world.command(words).spawn());
    let mut ready = [0; 5];
    let output = server.0.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(output, &mut ready).expect("it is mounted, and a file there is open");
    let before = world.read("/tmp/asked");
    let report = optimise(&store, &[]);
    assert_eq!(world.read("/tmp/asked"), before, "{report}");
    // Its file could be the copy.
    assert_eq!(paths(&report, "objects"), [all[1].clone()], "{report}");
    assert_eq!(paths(&report, "left"), [all[0].clone()], "{report}");
}

/// A copy that waits is no reason to lose anything: it comes back where the lower store has no equal
/// one any more, and goes where a program uses the lower one.
#[test]
fn what_was_left_is_looked_at_again() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("vanished", &[]), ("changed", &[]), ("same", &[])]);
    store.copy_below(&all);
    let open = |path: &String| {
        let file = store.real(path) + "/file";
        let tail = Running(world.command(["tail", "-f", &file]).spawn());
        wait_until_used(&world, &file);
        tail
    };
    let holders: Vec<Running> = all.iter().map(open).collect();
    assert_eq!(paths(&optimise(&store, &[]), "left"), all);
    drop(holders);

    world.overstore(["down", "example"]).ok();
    let below = |path: &str| format!("{}/{}", Example::LOWER, base_name(path));
    world.ok(["mv", &below(&all[0]), "/mnt/gone"]);
    world.write(below(&all[1]) + "/file", "something else");
    // Nothing of what is valid is in the upper layer, so that the store looks lost.
    let up = world.overstore(["up", "example"]).fails();
    assert!(up.stdout().contains("objects-lost"), "{up}");
    let restored = world.overstore(["optimise", "example"]).fails();
    assert_eq!(restored.code(), Some(1), "{restored}");
    let put_back = format!("put back {}", all[0]);
    assert!(restored.stderr().contains(&put_back), "{restored}");
    store.example.up();
    // Of the lower copy this time: the mount is a new one.
    let _reader = open(&all[2]);
    let report = optimise(&store, &[]);
    assert_eq!(paths(&report, "objects"), [all[2].clone()], "{report}");
    assert_eq!(report["restored"], json!([all[1]]), "{report}");
    assert_eq!(report["left"], json!([]), "{report}");
    let names: Vec<&str> = all[..2].iter().map(|path| base_name(path)).collect();
    assert_eq!(above(&world), names);
    for path in &all {
        assert_eq!(&shown(&store, path), path);
    }
    world.overstore(["check", "example"]).run();
}

#[test]
fn what_nix_works_on_is_left() {
    for world in World::each() {
        let store = StoreUp::up(&world);
        let all = store.register(&[("locked", &[]), ("free", &[])]);
        store.copy_below(&all);
        let lock = store.real(&all[0]) + ".lock";
        world.write(&lock, "");
        let _builder = Running(
            world
                .command(["flock", "-F", &lock, "sleep", "infinity"])
                .spawn(),
        );
        wait_until("it is locked", || {
            !world.run(["flock", "-n", &lock, "true"]).status.success()
        });
        let report = optimise(&store, &[]);
        assert_eq!(paths(&report, "objects"), [all[1].clone()], "{report}");
        let left = json!([{ "path": all[0], "reason": "Nix is working on it" }]);
        assert_eq!(report["left"], left);
        assert!(above(&world).contains(&base_name(&all[0]).to_owned()));
    }
}

/// Garbage of the lower layer's too: of it, nothing is given to Nix.
#[test]
fn a_collection_removes_upper_copies_of_garbage() {
    for world in World::each() {
        let store = StoreUp::up(&world);
        let all = store.register(&[
            ("needed-by-both", &[]),
            ("both", &["needed-by-both"]),
            ("kept", &[]),
            ("garbage", &["both"]),
        ]);
        store.copy_below(&all[..3]);
        world.ok([
            "rm",
            "-r",
            &format!("{}/{}", Example::LOWER, base_name(&all[0])),
        ]);
        world.overstore(["remount", "example"]).ok();
        store.root("kept", &all[2]);
        let planned = store.gc_json(&["--dry-run"]);
        assert_eq!(planned["in-both-layers"], json!([all[1]]), "{planned}");
        let report = store.gc_json(&[]);
        assert_eq!(paths(&report, "optimised"), [all[1].clone()], "{report}");
        assert_eq!(report["in-both-layers"], json!([]), "{report}");
        // Only an upper copy needed it; what is alive is left to `optimise`.
        assert_eq!(above(&world), [base_name(&all[2])]);
        assert_eq!(shown(&store, &all[1]), all[1]);
        store.assert_sound();
    }
}

/// The upper copies that a collection removes itself are no rows that were lost.
#[test]
fn a_collection_goes_on_after_it_has_removed_upper_copies() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("both", &[]), ("kept", &[]), ("garbage", &[])]);
    for (name, path) in ["both", "kept", "garbage"].iter().zip(&all) {
        store.root(name, path);
    }
    assert_eq!(store.gc_json(&[])["objects"], json!([]));
    store.copy_below(&all[..1]);
    for name in ["both", "garbage"] {
        world.ok(["rm", &format!("{}/gcroots/{name}", Example::STATE)]);
    }
    let half = format!("{}-half", "b".repeat(32));
    world.mkdir(format!("{}/{half}", Example::REAL));
    let report = store.gc_json(&[]);
    assert_eq!(paths(&report, "optimised"), all[..1], "{report}");
    assert_eq!(paths(&report, "objects"), all[2..], "{report}");
    assert_eq!(above(&world), [base_name(&all[1]), &half]);
}

#[test]
fn only_a_store_that_is_as_described_is_optimised_and_only_by_root() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("both", &[])]);
    store.copy_below(&all);
    let run = || world.overstore(["optimise", "example"]);
    let outcome = run().by_alice().fails();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stderr().contains("as root"), "{outcome}");
    let planned = run().args(["--dry-run"]).by_alice().ok();
    assert!(planned.contains(&all[0]), "{planned}");
    world.overstore(["down", "example"]).ok();
    for arguments in [&[][..], &["--dry-run"], &["--trust-databases"]] {
        let outcome = run().args(arguments).fails();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("not as described"), "{outcome}");
    }
    assert_eq!(above(&world), [base_name(&all[0])]);
}

#[test]
fn inside_exec_a_user_optimises_a_store_of_his_own() {
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
        world.write("/tmp/two", "2");
        let exec = |script: &str| {
            world
                .overstore(["exec", "/home/alice/own.toml", "--", "sh", "-c", script])
                .by_alice()
                .env("NIX_CONFIG", FEATURES)
                .ok()
        };
        exec("nix-store --add /tmp/one; nix-store --add /tmp/two");
        let one = world
            .nix(["nix-store", "--add", "/tmp/one", "--store", &lower.root])
            .ok();
        let database = format!("{}/nix/var/nix/db/db.sqlite", lower.root);
        world.ok(["sqlite3", &database, "pragma wal_checkpoint(truncate)"]);
        let said =
            exec("overstore optimise /home/alice/own.toml --json; ls $OVERSTORE_UPPER_LAYER");
        assert!(
            said.contains(&format!("\"path\": \"{}\"", one.trim())),
            "{said}"
        );
        let names = world.list("/mnt/own/up");
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[1].to_string_lossy().ends_with("-two"), "{names:?}");
    }
}

/// A collection that finds fewer objects with rows than are remembered takes the others for lost.
#[test]
fn stopped_in_the_middle_it_leaves_nothing_to_be_missed() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("one", &[]), ("two", &["one"]), ("kept", &[])]);
    store.root("kept", &all[2]);
    store.copy_below(&all[..2]);
    world.ok(["cp", "-a", Example::UPPER, "/mnt/example/before"]);
    let anew = || {
        world.overstore(["down", "example"]).ok();
        for path in &all[..2] {
            let copy = format!("/mnt/example/before/{}", base_name(path));
            world.ok(["cp", "-a", &copy, Example::UPPER]);
        }
        // Which remembers how many there are.
        store.example.up();
    };
    anew();
    let (outcome, trace) = world.overstore(["optimise", "example"]).traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let points = trace.kill_points();
    let (call, nth) = points.iter().rfind(|(call, _)| call == "mount").unwrap();
    anew();
    let killed = world
        .overstore(["optimise", "example"])
        .killed_at(call, *nth);
    assert_eq!(killed.signal(), Some(9), "{killed}");
    let there = above(&world);
    for path in &all[..2] {
        assert!(
            !there.iter().any(|name| name == base_name(path)),
            "{there:?}"
        );
    }
    // Such as a build leaves that was killed.
    let unknown = format!("{}/{:0>32}-unknown", Example::REAL, 1);
    world.mkdir(&unknown);
    store.gc(&[]).ok();
    assert!(store.has(&all[2]) && world.path(&unknown).exists());
}

/// Killed before any change, one of the copies is whole and shows, and the next run ends as if nothing
/// had been.
#[test]
pub(crate) fn killed_at_any_step_one_copy_is_whole_and_the_next_run_finishes() {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let all = store.register(&[("one", &[]), ("two", &["one"]), ("different", &[])]);
    store.copy_below(&all);
    let below = |path: &str| format!("{}/{}", Example::LOWER, base_name(path));
    world.write(below(&all[2]) + "/file", "something else");
    world.ok(["cp", "-a", Example::UPPER, "/mnt/example/before"]);
    let again = || {
        for path in &all[..2] {
            let copy = format!("/mnt/example/before/{}", base_name(path));
            world.ok(["cp", "-a", &copy, Example::UPPER]);
        }
        world.overstore(["remount", "example"]).ok();
    };
    world.overstore(["remount", "example"]).ok();
    let (outcome, trace) = world.overstore(["optimise", "example"]).traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let points = trace.kill_points();
    let kinds: BTreeSet<&str> = points.iter().map(|(call, _)| call.as_str()).collect();
    for call in ["renameat2", "fsync", "mount", "unlinkat", "openat", "flock"] {
        assert!(kinds.contains(call), "{call}: {kinds:?}");
    }
    let left = [base_name(&all[2]).to_owned()];
    assert_eq!(above(&world), left);
    for (call, nth) in &points {
        again();
        let what = format!("killed at {call} {nth}");
        let killed = world
            .overstore(["optimise", "example"])
            .killed_at(call, *nth);
        assert!(
            killed.signal() == Some(9) || killed.code() == Some(0),
            "{what}: {killed}"
        );
        for path in &all {
            assert_eq!(&shown(&store, path), path, "{what}");
        }
        for path in &all[..2] {
            let copies = [Example::UPPER, REPLACED].map(|at| format!("{at}/{}", base_name(path)));
            for copy in copies {
                if world.path(&copy).exists() {
                    assert_eq!(world.read(copy + "/file"), path.as_bytes(), "{what}");
                }
            }
        }
        optimise(&store, &[]);
        for path in &all {
            assert_eq!(&shown(&store, path), path, "{what}");
        }
        for at in ["replaced", "removed"] {
            let at = format!("{}/overstore/{at}", Example::WORKDIR);
            assert_eq!(world.list(at), Vec::<OsString>::new(), "{what}");
        }
        let mut names = above(&world);
        // Locks that nobody holds are for the next collection.
        names.retain(|name| !name.ends_with(".lock"));
        assert_eq!(names, left, "{what}");
    }
    store.root("kept", &all[2]);
    store.gc_json(&[]);
    assert_eq!(above(&world), left);
    store.assert_sound();
}
