//! What would go wrong is found before anything is made: `plan` says what `up` ends with, and what the
//! kernel would refuse to mount, or Nix to open, is a finding of both. `docs/reasons.md` has the table.

use serde_json::Value;

use crate::support::{Outcome, Snapshot, World};

const REAL: &str = "/mnt/m/nix/store";

/// The description of a store in `/mnt`, over the lower store in `/mnt/low`.
const DESCRIPTION: &str = "root = \"/mnt/m\"\nlower-store = \"/mnt/low?read-only=true\"\n\
                           upper-layer = \"/mnt/up\"\nworkdir = \"/mnt/work\"\n";

fn describe(world: &World, text: &str) {
    world.write("/etc/overstore/s.toml", text);
}

/// A World with a lower store, and a store over it that is described and nothing more.
fn described() -> Option<World> {
    let world = World::trixie()?;
    world.lower_store("/mnt/low");
    describe(&world, DESCRIPTION);
    Some(world)
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// What a command finds (without what fixes it), and its exit code.
fn found(world: &World, command: &str, user: Option<&str>) -> (Vec<String>, Option<i32>, Value) {
    let run = world.overstore([command, "s", "--json"]);
    let outcome = match user {
        Some(_) => run.by_alice().run(),
        None => run.run(),
    };
    let report = report(&outcome);
    let findings = report["findings"].as_array().unwrap().iter();
    let words = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        format!("{} {}: {}", text("code"), text("subject"), text("actual"))
    };
    (findings.map(words).collect(), outcome.code(), report)
}

/// The codes of what a command finds, and its exit code.
fn codes(world: &World, command: &str) -> (Vec<String>, Option<i32>) {
    let (found, exit_code, _) = found(world, command, None);
    let code = |words: &String| words.split(' ').next().unwrap().to_owned();
    (found.iter().map(code).collect(), exit_code)
}

/// `plan` changes nothing, and tells the findings, the steps and the exit code of `up`, which comes
/// after it; what `up` finds is given.
#[track_caller]
fn planned(world: &World, user: Option<&str>) -> (Vec<String>, Option<i32>) {
    let before = Snapshot::of(world.path("/mnt"));
    let (planned, plan_exit, plan) = found(world, "plan", user);
    before.assert_unchanged(world.path("/mnt"));
    let (ended, up_exit, up) = found(world, "up", user);
    assert_eq!((&planned, plan_exit), (&ended, up_exit), "{plan} {up}");
    if up["outcome"] != "failed" {
        assert_eq!(plan["steps"], up["steps"]);
    }
    if up_exit == Some(3) {
        assert_eq!(plan["failure"], up["failure"]);
    }
    let code = |words: &String| words.split(' ').next().unwrap().to_owned();
    (ended.iter().map(code).collect(), up_exit)
}

fn clean(world: &World) {
    world.run(["umount", REAL]);
    world.ok(["rm", "-rf", "/mnt/m", "/mnt/up", "/mnt/work"]);
}

#[test]
fn plan_says_what_up_ends_with() {
    let Some(world) = described() else { return };
    let without = |code: &str| (vec![code.to_owned()], Some(1));

    assert_eq!(planned(&world, Some("alice")).1, Some(3));
    assert_eq!(planned(&world, None), (vec![], Some(0)));
    // It is up.
    assert_eq!(planned(&world, None), (vec![], Some(0)));
    clean(&world);

    // Where the directories would be made decides, although they are not there.
    world.mkdir("/mnt/other");
    world.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "mode=755",
        "other",
        "/mnt/other",
    ]);
    describe(&world, &DESCRIPTION.replace("/mnt/work", "/mnt/other/work"));
    assert_eq!(planned(&world, None), without("workdir-elsewhere"));
    world.mkdir("/mnt/content");
    if world.image("squashfs", "/mnt/content", "/mnt/image") {
        let text = DESCRIPTION.replace("/mnt/work", "/mnt/image/work");
        describe(&world, &text.replace("/mnt/up", "/mnt/image/up"));
        assert_eq!(planned(&world, None), without("upper-file-system-unfit"));
    }
    // The root directory of this machine is an overlay.
    let text = DESCRIPTION.replace("/mnt/work", "/srv/work");
    describe(&world, &text.replace("/mnt/up", "/srv/up"));
    assert_eq!(planned(&world, None), without("upper-file-system-unfit"));

    // What does not stop it is told as well.
    if world.image("squashfs", "/mnt/low", "/mnt/low-image") {
        let image = DESCRIPTION.replace("/mnt/low?read-only=true", "/mnt/low-image");
        describe(&world, &image);
        assert_eq!(
            planned(&world, None),
            without("lower-not-described-read-only")
        );
        clean(&world);
    }
    world.ok([
        "mkdir",
        "-p",
        "/mnt/bare/nix/store/.links",
        "/mnt/bare/nix/var/nix",
    ]);
    describe(&world, &DESCRIPTION.replace("/mnt/low", "/mnt/bare"));
    assert_eq!(planned(&world, None), without("lower-database-missing"));
    clean(&world);
    describe(
        &world,
        &format!("{DESCRIPTION}remount-hook = \"/nowhere\"\n"),
    );
    assert_eq!(planned(&world, None), without("remount-hook-missing"));
    clean(&world);
    let risky = format!("{DESCRIPTION}[mount]\noptions = [\"volatile\"]\n");
    describe(&world, &risky);
    let warned = (vec!["mount-option-risky".to_owned()], Some(0));
    assert_eq!(planned(&world, None), warned);
    clean(&world);
    describe(
        &world,
        &format!("{DESCRIPTION}[permissions]\nbuild-users-group = \"none\"\n"),
    );
    assert_eq!(planned(&world, None).1, Some(0));
    clean(&world);
    describe(&world, &DESCRIPTION.replace("/mnt/low", "/mnt/nowhere"));
    assert_eq!(planned(&world, None).1, Some(1));
}

const OPTIONS: &str = "lowerdir=/mnt/low/nix/store,upperdir=/mnt/up,workdir=/mnt/work";

/// The kernel does not mount what is described, with these options besides.
#[track_caller]
fn does_not_mount(world: &World, further: &str) {
    world.mkdir("/tmp/by-hand");
    let options = format!("{OPTIONS}{further}");
    let mount = ["mount", "-t", "overlay", "overlay", "-o", &options];
    let said = world.command(mount).args(["/tmp/by-hand"]).run();
    assert_ne!(said.code(), Some(0), "{said}");
}

fn with_options(options: &str) -> String {
    format!("{DESCRIPTION}[mount]\noptions = [{options}]\n")
}

/// `plan` and `up` refuse for this reason, and `up` has made nothing.
#[track_caller]
fn refused(world: &World, code: &str) {
    let before = Snapshot::of(world.path("/mnt"));
    let refused = (vec![code.to_owned()], Some(1));
    assert_eq!(codes(world, "plan"), refused);
    assert_eq!(codes(world, "up"), refused);
    before.assert_unchanged(world.path("/mnt"));
}

/// The commands of the first way to fix what a command finds, run to the letter.
#[track_caller]
fn fix(world: &World, code: &str) {
    let (_, _, report) = found(world, "plan", None);
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == code);
    let finding = finding.unwrap_or_else(|| panic!("{code} is not in {report}"));
    let ways = finding["remedies"].as_array().unwrap();
    let commands = ways.iter().find_map(|way| way["commands"].as_array());
    for command in commands.expect("a way with commands") {
        world.ok(["sh", "-c", command["shell"].as_str().unwrap()]);
    }
}

#[test]
fn what_earlier_mounts_left_is_found_before_the_next() {
    let Some(world) = described() else { return };
    let (up, down) = (["up", "s"], ["down", "s"]);

    describe(&world, &with_options("\"volatile\""));
    world.overstore(up).ok();
    world.overstore(down).ok();
    refused(&world, "workdir-incompatible");
    does_not_mount(&world, ",volatile");
    // Without the option it is the same.
    describe(&world, DESCRIPTION);
    refused(&world, "workdir-incompatible");
    does_not_mount(&world, "");
    fix(&world, "workdir-incompatible");
    world.overstore(up).ok();
    world.overstore(down).ok();

    // An index is for one lower store directory and one upper layer.
    describe(&world, &with_options("\"index=on\""));
    world.overstore(up).ok();
    world.overstore(down).ok();
    assert_eq!(codes(&world, "plan"), (vec![], Some(0)));
    world.ok(["mv", "/mnt/low", "/mnt/low.old"]);
    world.ok(["cp", "-a", "/mnt/low.old", "/mnt/low"]);
    refused(&world, "index-mismatch");
    does_not_mount(&world, ",index=on");
    // It has an index because of another option.
    describe(&world, &with_options("\"nfs_export=on\""));
    refused(&world, "index-mismatch");
    describe(&world, &with_options("\"index=off\""));
    world.overstore(up).ok();
    world.overstore(down).ok();
    describe(&world, &with_options("\"index=on\""));
    world.ok(["rm", "-r", "/mnt/low"]);
    world.ok(["mv", "/mnt/low.old", "/mnt/low"]);
    world.overstore(up).ok();
    world.overstore(down).ok();
    world.ok(["mv", "/mnt/up", "/mnt/up.old"]);
    world.ok(["cp", "-a", "/mnt/up.old", "/mnt/up"]);
    refused(&world, "index-mismatch");
    does_not_mount(&world, ",index=on");
}

#[test]
fn what_the_kernel_would_not_mount_is_found_by_asking_it() {
    let Some(world) = described() else { return };
    // Without SELinux nobody knows what a context is.
    let file_systems = String::from_utf8(world.read("/proc/filesystems")).unwrap();
    if !file_systems.contains("\tselinuxfs") {
        describe(&world, &with_options("'context=\"u:r:t:s0:c1,c2\"'"));
        refused(&world, "mount-refused");
        let (_, _, report) = found(&world, "plan", None);
        let found = report["findings"][0]["actual"].as_str().unwrap();
        assert!(found.contains("Unknown parameter 'context'"), "{found}");
    }
    // Another overlay writes to the lower store directory: without an index that is only undefined.
    let other = "lowerdir=/mnt/other/low,upperdir=/mnt/low/nix/store,workdir=/mnt/low/work";
    for directory in ["/mnt/other/low", "/mnt/other/merged", "/mnt/low/work"] {
        world.mkdir(directory);
    }
    let mount = ["mount", "-t", "overlay", "overlay", "-o", other];
    world.command(mount).args(["/mnt/other/merged"]).ok();
    describe(&world, &with_options("\"index=on\""));
    refused(&world, "mount-refused");
    world.ok(["mkdir", "-p", "/mnt/up", "/mnt/work"]);
    does_not_mount(&world, ",index=on");
    world.ok(["umount", "/mnt/other/merged"]);

    // A user's mounts are of another kind, which takes less.
    world.ok(["sh", "-c", "mkdir /mnt/alice && chown alice: /mnt/alice"]);
    let of_alice = with_options("\"metacopy=on\"").replace("/mnt/up", "/mnt/alice/up");
    let of_alice = of_alice
        .replace("/mnt/work", "/mnt/alice/work")
        .replace("/mnt/m", "/mnt/alice/m");
    describe(&world, &of_alice);
    let said = world
        .overstore(["exec", "s", "--", "true"])
        .by_alice()
        .run();
    assert_ne!(said.code(), Some(0), "{said}");
    assert!(said.stderr().contains("metacopy"), "{said}");
}

#[test]
fn layers_that_cannot_be_changed_or_are_somebody_else_s() {
    let Some(world) = described() else { return };
    world.overstore(["up", "s"]).ok();
    world.overstore(["down", "s"]).ok();

    // chattr(1) is not in every tree.
    let immutable = |path: &str, on: bool| {
        let file = std::fs::File::open(world.path(path)).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).unwrap();
        let flag = rustix::fs::IFlags::IMMUTABLE;
        let flags = if on { flags | flag } else { flags - flag };
        rustix::fs::ioctl_setflags(&file, flags)
    };
    if immutable("/mnt/work", true).is_ok() {
        assert_eq!(
            codes(&world, "up"),
            (vec!["layer-unchangeable".to_owned()], Some(1))
        );
        immutable("/mnt/work", false).unwrap();
    }

    // The work directory of another overlay, and a directory in another one's upper layer.
    for directory in [
        "/mnt/l",
        "/mnt/u",
        "/mnt/merged",
        "/mnt/u/up",
        "/mnt/u/work",
    ] {
        world.mkdir(directory);
    }
    let by_hand = |options: &str| {
        let mount = ["mount", "-t", "overlay", "overlay", "-o", options];
        world.command(mount).args(["/mnt/merged"]).ok();
    };
    by_hand("lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/work");
    let before = Snapshot::of(world.path("/mnt"));
    let (found, exit_code) = codes(&world, "up");
    assert_eq!(codes(&world, "plan"), (found.clone(), Some(1)));
    assert!(found.contains(&"workdir-in-use".to_owned()), "{found:?}");
    assert_eq!(exit_code, Some(1));
    before.assert_unchanged(world.path("/mnt"));
    world.ok(["umount", "/mnt/merged"]);

    // Something of the lower store is a mount: it does not show.
    let object = world
        .list("/mnt/low/nix/store")
        .into_iter()
        .next_back()
        .unwrap();
    let object = format!("/mnt/low/nix/store/{}", object.to_str().unwrap());
    world.ok(["mkdir", "/mnt/elsewhere"]);
    world.write("/mnt/elsewhere/mark", "");
    let kind = if world.path(&object).is_dir() {
        "/mnt/elsewhere"
    } else {
        "/mnt/elsewhere/mark"
    };
    world.ok(["mount", "--bind", kind, &object]);
    assert_eq!(
        codes(&world, "up"),
        (vec!["mount-not-shown".to_owned()], Some(0))
    );
    let merged = object.replace("/mnt/low/nix/store", REAL);
    assert!(world.run(["cmp", &object, &merged]).code() != Some(0));
    assert!(!world.path(&merged).join("mark").exists());
}

/// What goes wrong below an overlay that is mounted and goes on saying that all is well.
#[test]
fn an_upper_layer_that_has_become_read_only() {
    let Some(world) = described() else { return };
    world.mkdir("/mnt/disk");
    world.ok(["mount", "-t", "tmpfs", "none", "/mnt/disk"]);
    let on_the_disk = DESCRIPTION
        .replace("/mnt/up\"", "/mnt/disk/up\"")
        .replace("/mnt/work\"", "/mnt/disk/work\"");
    describe(&world, &on_the_disk);
    world.overstore(["up", "s"]).ok();
    world.ok(["mount", "-o", "remount,ro", "/mnt/disk"]);
    let options = world.ok(["findmnt", "-n", "-o", "OPTIONS", REAL]);
    assert!(options.starts_with("rw,"), "{options}");
    let touch = world.run(["touch", &format!("{REAL}/new")]);
    assert!(touch.stderr().contains("Read-only file system"), "{touch}");
    assert_eq!(
        codes(&world, "check"),
        (vec!["upper-file-system-unfit".to_owned()], Some(1))
    );
}

/// A directory in both layers that is merged gets an attribute in the upper one when it is first looked
/// at: over a layer that takes none, it cannot be read.
#[test]
fn a_directory_in_both_layers_needs_an_upper_layer_that_can_be_written_to() {
    let Some(world) = described() else { return };
    world.mkdir("/mnt/disk");
    world.ok(["mount", "-t", "tmpfs", "none", "/mnt/disk"]);
    let on_the_disk = DESCRIPTION
        .replace("/mnt/up\"", "/mnt/disk/up\"")
        .replace("/mnt/work\"", "/mnt/disk/work\"");
    describe(&world, &on_the_disk);
    world.overstore(["up", "s"]).ok();
    world.overstore(["down", "s"]).ok();
    let objects = world.ok(["sh", "-c", "cd /mnt/low/nix/store; ls -d *-mksh-static*"]);
    let object = objects.trim();
    world.mkdir(format!("/mnt/disk/up/{object}"));
    // Nobody looks at it before.
    let options = OPTIONS
        .replace("=/mnt/up", "=/mnt/disk/up")
        .replace("=/mnt/work", "=/mnt/disk/work");
    world.ok(["mount", "-t", "overlay", "overlay", "-o", &options, REAL]);
    world.ok(["mount", "-o", "remount,ro", "/mnt/disk"]);
    let merged = format!("{REAL}/{object}");
    let unread = world.run(["ls", &merged]);
    assert!(
        unread.stderr().contains("Read-only file system"),
        "{unread}"
    );
    let (found, exit_code) = codes(&world, "check");
    assert_eq!(exit_code, Some(1));
    assert!(
        found.contains(&"upper-file-system-unfit".to_owned()),
        "{found:?}"
    );
    world.ok(["mount", "-o", "remount,rw", "/mnt/disk"]);
    world.ok(["ls", &merged]);
}

/// A lower store directory that another overlay writes to: what is deleted there is missing here, and
/// its owner is told.
#[test]
fn a_lower_store_that_is_another_s_upper_layer() {
    let Some(world) = described() else { return };
    let object = world.list("/mnt/low/nix/store").into_iter().next_back();
    let object = object.expect("some").into_string().expect("a name");
    let path = format!("/mnt/low/nix/store/{object}");
    world.ok(["mv", &path, "/mnt/away"]);
    world.ok(["mknod", &path, "c", "0", "0"]);
    world.overstore(["up", "s"]).ok();
    assert!(!world.path(format!("{REAL}/{object}")).exists());
    let owner = world.overstore(["publish", "--json", "--check", "/mnt/low"]);
    let owner = report(&owner.run());
    let found = owner["findings"].as_array().expect("a list");
    let missing = |it: &Value| it["code"] == "lower-row-without-object";
    assert!(found.iter().any(missing), "{owner:#}");
}

/// An overlay over all of /nix, as most have it: refused, with what to do.
#[test]
fn an_overlay_over_all_of_nix() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/low");
    for directory in ["/mnt/up", "/mnt/work", "/nix"] {
        world.mkdir(directory);
    }
    let options = "lowerdir=/mnt/low/nix,upperdir=/mnt/up,workdir=/mnt/work";
    world.ok(["mount", "-t", "overlay", "overlay", "-o", options, "/nix"]);
    describe(
        &world,
        "lower-store = \"/mnt/low?read-only=true\"\nupper-layer = \"/mnt/up/store\"\n\
         workdir = \"/mnt/work2\"\n",
    );
    world.mkdir("/nix/store");
    let (found, exit_code, report) = found(&world, "plan", None);
    assert_eq!(exit_code, Some(1), "{report}");
    let elsewhere = |finding: &String| finding.contains("another mount namespace");
    assert!(!found.iter().any(elsewhere), "{report}");
    let above = found
        .iter()
        .find(|finding| finding.starts_with("mount-missing"));
    assert!(above.is_some_and(|it| it.contains("at /nix")), "{report}");
    assert!(
        report["findings"].to_string().contains("umount /nix"),
        "{report}"
    );
}

#[test]
fn every_option_in_force_is_compared() {
    let Some(world) = described() else { return };
    world.overstore(["up", "s"]).ok();
    world.overstore(["down", "s"]).ok();
    let by_hand = |further: &str| {
        let options = format!("{OPTIONS}{further}");
        world.ok(["mount", "-t", "overlay", "overlay", "-o", &options, REAL]);
    };
    let warnings = |codes: &[&str]| {
        let codes: Vec<String> = codes.iter().map(|code| (*code).to_owned()).collect();
        (codes, Some(0))
    };
    by_hand(",metacopy=on,index=on,redirect_dir=on");
    let risky = [
        "mount-option-risky",
        "mount-option-risky",
        "mount-options-differ",
    ];
    let (mut found, exit_code) = codes(&world, "check");
    found.sort();
    assert_eq!((found, exit_code), warnings(&risky));
    world.ok(["umount", REAL]);
    by_hand("");
    world.ok(["mount", "-o", "remount,bind,noexec", REAL]);
    assert_eq!(codes(&world, "check"), warnings(&["mount-options-differ"]));
    world.ok(["mount", "-o", "remount,bind,exec", REAL]);
    assert_eq!(codes(&world, "check"), warnings(&[]));
    world.ok(["umount", REAL]);
    // Of another kind: its marks mean nothing to the one described.
    by_hand(",userxattr");
    let (found, _) = codes(&world, "check");
    assert!(
        found.contains(&"mount-options-differ".to_owned()),
        "{found:?}"
    );
    world.ok(["umount", REAL]);

    // What this kernel turns on by itself, were it built so.
    let parameters = "/sys/module/overlay/parameters";
    if world.path(parameters).exists() {
        world.ok(["cp", "-r", parameters, "/tmp/parameters"]);
        world.write("/tmp/parameters/metacopy", "Y\n");
        world.ok(["mount", "--bind", "/tmp/parameters", parameters]);
        assert_eq!(codes(&world, "plan"), warnings(&["mount-option-risky"]));
        describe(&world, &with_options("\"metacopy=off\""));
        assert_eq!(codes(&world, "plan"), warnings(&[]));
    }
}

/// Root's mount can keep its marks in `user.*` too.
#[test]
fn a_store_with_user_attributes() {
    let Some(world) = described() else { return };
    describe(&world, &with_options("\"userxattr\""));
    assert_eq!(planned(&world, None), (vec![], Some(0)));
    assert_eq!(codes(&world, "check"), (vec![], Some(0)));
    let url = world.overstore(["url", "s"]).ok();
    world.write("/tmp/note", "a note");
    let added = world
        .nix(["nix-store", "--store", url.trim_end(), "--add", "/tmp/note"])
        .ok();
    let name = added.trim_end().trim_start_matches("/nix/store/");
    assert_eq!(world.read(format!("/mnt/up/{name}")), b"a note");
    world.overstore(["down", "s"]).ok();
    // Marks of one kind mean nothing to the other.
    describe(&world, DESCRIPTION);
    refused(&world, "marks-lost");
}

/// Real Nix opens the store.
fn opens(world: &World) -> Outcome {
    let url = world.overstore(["url", "s"]).ok();
    let open = ["nix", "store", "info", "--store", url.trim_end()];
    world.nix(open).run()
}

#[test]
fn what_nix_would_not_open_is_found_before() {
    for world in World::each() {
        world.lower_store("/mnt/low");
        let told = |code: &str| {
            assert_eq!(
                codes(&world, "up"),
                (vec![code.to_owned()], Some(1)),
                "{code}"
            );
            let opened = opens(&world);
            assert_ne!(opened.code(), Some(0), "{code}: {opened}");
        };

        // A local store whose directory is behind a link.
        world.ok(["ln", "-s", "/mnt/low", "/mnt/link"]);
        describe(&world, &DESCRIPTION.replace("/mnt/low", "/mnt/link"));
        assert_eq!(
            planned(&world, None),
            (vec!["lower-path-symlink".to_owned()], Some(1))
        );
        told("lower-path-symlink");
        clean(&world);

        // SQLite's limit: the longest path that it opens, and one byte more.
        let state = |length: usize| {
            let rest = length - "/mnt/s/".len() - "/db/db.sqlite".len();
            let (x, y) = ("x".repeat(200), "y".repeat(200));
            format!("/mnt/s/{x}/{y}/{}", "z".repeat(rest - 402))
        };
        let longest = state(504);
        describe(&world, &format!("{DESCRIPTION}state = \"{longest}\"\n"));
        assert_eq!(planned(&world, None), (vec![], Some(0)));
        let opened = opens(&world);
        assert_eq!(opened.code(), Some(0), "{opened}");
        clean(&world);
        let longer = state(505);
        describe(&world, &format!("{DESCRIPTION}state = \"{longer}\"\n"));
        assert_eq!(
            planned(&world, None),
            (vec!["database-path-too-long".to_owned()], Some(1))
        );
        let alone = format!("local?real=/mnt/alone/nix/store&state={longer}");
        let opened = world.nix(["nix", "store", "info", "--store", &alone]).run();
        assert_ne!(opened.code(), Some(0), "{opened}");

        // What is in the state directory.
        describe(&world, DESCRIPTION);
        world.overstore(["up", "s"]).ok();
        let database = "/mnt/m/nix/var/nix/db";
        for schema in ["9", "5"] {
            world.write(format!("{database}/schema"), schema);
            told("schema-unknown");
        }
        world.write(format!("{database}/schema"), "10");
        world.ok(["rm", "-f", &format!("{database}/big-lock")]);
        world.mkdir(format!("{database}/big-lock"));
        told("database-permissions");
        world.ok(["rmdir", &format!("{database}/big-lock")]);
        let opened = opens(&world);
        assert_eq!(opened.code(), Some(0), "{opened}");
        world.ok([
            "mount",
            "--bind",
            "/mnt/m/nix/var/nix",
            "/mnt/m/nix/var/nix",
        ]);
        world.ok(["mount", "-o", "remount,bind,ro", "/mnt/m/nix/var/nix"]);
        told("state-file-system-unfit");
    }
}

/// Every code that the table names is one, and every finding that stops `up` is a reason.
#[test]
fn the_table_of_reasons_names_what_there_is() {
    let table = include_str!("../../docs/reasons.md");
    let list = std::process::Command::new(env!("CARGO_BIN_EXE_overstore"))
        .args(["check", "--list", "--json"])
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let declared = list["codes"].as_array().unwrap();
    let codes: Vec<&str> = declared
        .iter()
        .map(|code| code["code"].as_str().unwrap())
        .collect();
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut named = Vec::new();
    let [mut before, mut after, mut never] = [0; 3];
    for row in rows {
        let said = row
            .trim_end_matches([' ', '|'])
            .rsplit(" | ")
            .next()
            .unwrap();
        match said {
            _ if said.contains("reported as") => continue,
            _ if said.starts_with("- ") => never += 1,
            _ if said.contains("**") => after += 1,
            _ => before += 1,
        }
        let words = said.split('`').skip(1).step_by(2);
        named.extend(words.filter(|word| word.contains('-') && !word.contains([' ', '=', '*'])));
    }
    for word in &named {
        let is_group = word.ends_with("-");
        assert!(is_group || codes.contains(word), "`{word}` is no code");
    }
    let counted = format!(
        "Of {} reasons, overstore found {before} before this table was made and finds {after} more since; \
         {never} cannot be found beforehand",
        before + after + never
    );
    assert!(table.contains(&counted), "docs/reasons.md: {counted}");
    // These are not about what the kernel or Nix would say.
    let of_overstore = [
        "path-unsafe",
        "database-lost",
        "upper-replaced",
        "objects-lost",
        "marks-lost",
        "lower-mount-wrong",
        "mount-missing",
        "not-yours",
        "part-of-another-store",
        "publication-unreadable",
        "generation-unset",
        "workdir-differs",
        "lower-replaced",
    ];
    for code in declared.iter().filter(|code| code["stops-up"] != "never") {
        let code = code["code"].as_str().unwrap();
        assert!(
            named.contains(&code) || of_overstore.contains(&code),
            "{code} is no reason"
        );
    }
}
