//! The guide to taking over a store that was made in another way, and to updating an image: each section
//! of `docs/taking-over.md` is run as it stands.

use std::collections::BTreeMap;

use crate::support::{Example, LowerStore, Snapshot, World, base_name};

/// The first block of this language in a section of the guide.
fn block(heading: &str, language: &str) -> String {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/taking-over.md");
    let guide = std::fs::read_to_string(guide).expect("the guide");
    let (_, section) = guide
        .split_once(&format!("# {heading}\n"))
        .unwrap_or_else(|| panic!("there is no section {heading:?}"));
    let section = section.split("\n#").next().expect("a first part");
    let (_, block) = section
        .split_once(&format!("```{language}\n"))
        .unwrap_or_else(|| panic!("no {language} in {heading:?}"));
    block.split("```").next().expect("a first part").to_owned()
}

/// Runs a section, each command of which has to succeed, and gives the store's URL. What only says what
/// would be done changes nothing.
fn follow(world: &World, heading: &str) -> String {
    follow_with(world, heading, &[])
}

/// The same, where `plan` and `up` tell of errors with these codes, and of no other.
fn follow_with(world: &World, heading: &str, told: &[&str]) -> String {
    world.write(Example::CONFIGURATION, block(heading, "toml"));
    let places = ["/mnt", "/nix"];
    for command in block(heading, "sh").lines() {
        let only_says = command.contains("overstore plan ") || command.contains("--dry-run");
        let before = only_says.then(|| places.map(|place| Snapshot::of(world.path(place))));
        let outcome = world.run(["sh", "-c", command]);
        let (said, tells) = (outcome.stdout(), [" plan ", " up "]);
        let wrong = tells.iter().any(|it| command.contains(it)) && !told.is_empty();
        assert_eq!(outcome.code(), Some(i32::from(wrong)), "{outcome}");
        let known = told
            .iter()
            .map(|code| said.matches(&format!("error [{code}]")).count());
        assert_eq!(
            known.sum::<usize>(),
            said.matches("error [").count(),
            "{outcome}"
        );
        for (place, before) in places.iter().zip(before.into_iter().flatten()) {
            before.assert_unchanged(world.path(place));
        }
    }
    world.overstore(["url", "example"]).ok().trim().to_owned()
}

/// Adds files to the store at this URL (the system's own if there is none): their paths.
fn add(world: &World, url: Option<&str>, names: &[&str]) -> Vec<String> {
    let mut added = Vec::new();
    for name in names {
        let directory = format!("/tmp/add/{name}");
        world.write(format!("{directory}/file"), format!("what {name} has\n"));
        let mut words = vec!["nix-store", "--add", &directory];
        if let Some(url) = url {
            words.extend(["--store", url]);
        }
        added.push(world.nix(words).ok().trim().to_owned());
    }
    added
}

/// The store has what was added, all that is below, and nothing that is wrong.
#[track_caller]
fn assert_taken_over(world: &World, url: &str, real: &str, added: &[String], lower: &LowerStore) {
    let mut wrong = world
        .nix(["nix-store", "--verify", "--check-contents", "--store", url])
        .run();
    wrong.out.clear();
    assert_eq!(wrong.code(), Some(0), "{wrong}");
    for word in ["disappeared", "modified"] {
        assert!(!wrong.stderr().contains(word), "{wrong}");
    }
    for path in added.iter().chain(&lower.paths()) {
        world
            .nix(["nix-store", "--verify-path", path, "--store", url])
            .ok();
        world.ok(["test", "-e", &format!("{real}/{}", base_name(path))]);
    }
    let check = world.overstore(["check", "example", "--contents"]).run();
    assert_eq!(check.code(), Some(0), "{check}");
    lower.add_and_build(world, url);
}

/// Everything in a directory of objects, by content: nothing of it may go.
fn contents(world: &World, directory: &str) -> BTreeMap<String, String> {
    let script =
        "cd \"$0\" 2>/dev/null && find . -type f -not -path './.links/*' -exec md5sum {} +";
    let sums = world.run(["sh", "-c", script, directory]).stdout();
    let lines = sums.lines().filter_map(|line| line.split_once("  "));
    lines
        .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
        .collect()
}

#[track_caller]
fn assert_kept(world: &World, before: &BTreeMap<String, String>, directory: &str) {
    let after = contents(world, directory);
    for (path, sum) in before {
        assert_eq!(after.get(path), Some(sum), "{path} in {directory}");
    }
}

#[test]
fn overlay_everything() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/image");
        world.ok(["mkdir", "-p", "/mnt/data/upper", "/mnt/data/old-work"]);
        let options = "lowerdir=/mnt/image/nix,upperdir=/mnt/data/upper,workdir=/mnt/data/old-work";
        world.ok(["mount", "-t", "overlay", "overlay", "-o", options, "/nix"]);
        let added = add(&world, None, &["mine", "too"]);
        let link = "/nix/var/nix/gcroots/mine";
        world.ok(["ln", "-s", &added[0], link]);
        // Deleted: a whiteout.
        let deleted = lower.path("hello-1.0");
        world
            .nix(["nix-store", "--delete", "--ignore-liveness", &deleted])
            .ok();
        world.fails(["test", "-e", &deleted]);
        let before = contents(&world, "/mnt/data/upper/store");
        let url = follow(&world, "OverlayFS over all of `/nix`");
        assert_kept(&world, &before, "/mnt/data/upper/store");
        assert_taken_over(&world, &url, "/nix/store", &added, &lower);
        world.ok(["test", "-L", "/mnt/data/state/gcroots/mine"]);
    }
}

#[test]
fn a_micro_vm_s_writable_store() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/host");
    world.ok(["sh", "-ec", "mkdir -p /nix/.ro-store /nix/.rw-store/store /nix/.rw-store/work /nix/store; \
               mv /mnt/host/nix/var/nix /mnt/host-state; mount --bind /mnt/host/nix/store /nix/.ro-store"]);
    let options =
        "lowerdir=/nix/.ro-store,upperdir=/nix/.rw-store/store,workdir=/nix/.rw-store/work";
    world.ok([
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        options,
        "/nix/store",
    ]);
    // At boot, the machine's database is filled with what it was built from.
    let dump = [
        "nix-store",
        "--dump-db",
        "--store",
        "local?real=/nix/.ro-store&state=/mnt/host-state&read-only=true",
    ];
    let dump = world.nix(dump).run();
    world.nix(["nix-store", "--load-db"]).stdin(dump.out).ok();
    let added = add(&world, None, &["mine"]);
    // Deleted behind Nix's back: a whiteout, and the row stays.
    world.ok(["rm", "-rf", &lower.path("greeting.txt")]);
    let before = contents(&world, "/nix/.rw-store/store");
    let heading = "`microvm.writableStoreOverlay`";
    let url = follow_with(&world, heading, &["lower-object-hidden"]);
    assert_kept(&world, &before, "/nix/.rw-store/store");
    assert_taken_over(&world, &url, "/nix/store", &added, &lower);
}

#[test]
fn mounted_by_hand() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/image");
        let real = "/mnt/hand/merged/nix/store";
        world.ok(["mkdir", "-p", real, "/mnt/hand/upper", "/mnt/hand/work"]);
        // Nix's own check does not take this for what it is.
        let options =
            "lowerdir=/mnt/image/nix/store/,upperdir=/mnt/hand/upper,workdir=/mnt/hand/work";
        world.ok(["mount", "-t", "overlay", "mine", "-o", options, real]);
        let url = "local-overlay://?root=/mnt/hand/merged&lower-store=/mnt/image?read-only=true\
                   &upper-layer=/mnt/hand/upper&check-mount=false";
        let added = add(&world, Some(url), &["mine", "too"]);
        world.ok([
            "rm",
            "-rf",
            &format!("{real}/{}", base_name(&lower.path("greeting.txt"))),
        ]);
        let before = contents(&world, "/mnt/hand/upper");
        let url = follow(&world, "A local-overlay store that was mounted by hand");
        assert_kept(&world, &before, "/mnt/hand/upper");
        assert_taken_over(&world, &url, real, &added, &lower);
    }
}

#[test]
fn a_plain_local_store() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/image");
        world.ok(["cp", "-a", "/mnt/image", "/mnt/plain"]);
        let added = add(&world, Some("local?root=/mnt/plain"), &["mine"]);
        let own = format!("/mnt/plain{}", added[0]);
        let before = contents(&world, &own);
        let common = format!("/mnt/plain{}", lower.path("mksh-static"));
        world.ok(["test", "-e", &common]);
        let url = follow(&world, "A plain local store");
        assert_kept(&world, &before, &own);
        // What both have is there once.
        world.fails(["test", "-e", &common]);
        assert_taken_over(&world, &url, "/mnt/merged/nix/store", &added, &lower);
    }
}

#[test]
fn an_image_is_updated_under_a_store_that_stays() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/image");
        world.lower_store("/mnt/image.new");
        let only_old = add(&world, Some("local?root=/mnt/image"), &["only-old"]);
        let only_new = add(&world, Some("local?root=/mnt/image.new"), &["only-new"]);
        for image in ["/mnt/image", "/mnt/image.new"] {
            let database = format!("{image}/nix/var/nix/db/db.sqlite");
            world.ok(["sqlite3", &database, "pragma wal_checkpoint(truncate)"]);
        }
        let heading = "Updating an image under a store that stays";
        world.write(Example::CONFIGURATION, block(heading, "toml"));
        world.overstore(["up", "example"]).ok();
        let url = world.overstore(["url", "example"]).ok();
        let added = lower.add_and_build(&world, url.trim());
        let root = "/mnt/merged/nix/var/nix/gcroots/needed";
        world
            .nix([
                "nix-store",
                "--check-validity",
                &only_old[0],
                "--store",
                url.trim(),
            ])
            .ok();
        world.ok(["ln", "-s", &only_old[0], root]);
        let url = follow(&world, heading);
        let all = [&added[..], &only_old, &only_new].concat();
        assert_taken_over(&world, &url, "/mnt/merged/nix/store", &all, &lower);
        world.fails(["test", "-e", "/mnt/image.old"]);
    }
}
