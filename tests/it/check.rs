//! `overstore check` on the real kernel: a healthy store, made by hand with `mount` and opened by real
//! Nix, gives no finding; each damage gives exactly its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use crate::support::{World, wait_until};

const DESCRIPTION: &str = "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower\"\n\
                           upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n\
                           [lower]\nread-only = true\n";

const OPTIONS: &str = "lowerdir=/mnt/lower/nix/store,upperdir=/mnt/upper,workdir=/mnt/work";

const REAL: &str = "/mnt/merged/nix/store";

/// What is mounted at the merged store directory.
fn mount(world: &World, options: &str) {
    world.ok(["mount", "-t", "overlay", "overlay", "-o", options, REAL]);
}

fn umount(world: &World) {
    world.ok(["umount", REAL]);
}

/// A World with a store as Nix's manual has it, which real Nix has opened.
fn healthy() -> Option<World> {
    World::trixie().map(healthy_in)
}

fn healthy_in(world: World) -> World {
    world.lower_store("/mnt/lower");
    world.write("/etc/overstore/s.toml", DESCRIPTION);
    for directory in ["/mnt/upper/.links", "/mnt/work", REAL] {
        world.mkdir(directory);
    }
    let upper = world.path("/mnt/upper");
    chown(&upper, Some(0), Some(30000)).unwrap();
    fs::set_permissions(&upper, Permissions::from_mode(0o1775)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(upper.join(".links"), "trusted.overlay.opaque", b"y", flags).unwrap();
    mount(&world, OPTIONS);
    let url = world.overstore(["url", "s"]).ok();
    world
        .nix(["nix", "store", "info", "--store", url.trim_end()])
        .ok();
    world
}

/// The codes that `check` finds, and its exit code.
fn check(world: &World, arguments: &[&str]) -> (Vec<String>, i32) {
    let outcome = world
        .overstore(["check", "--json", "s"])
        .args(arguments)
        .run();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout())
        .unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let findings = report["findings"].as_array().unwrap();
    let codes = findings.iter().map(|finding| {
        for field in ["subject", "expected", "actual", "remedy"] {
            assert_ne!(finding[field], "", "{finding}");
        }
        finding["code"].as_str().unwrap().to_owned()
    });
    (codes.collect(), outcome.code().unwrap())
}

/// Makes one damage in a healthy store; `check` has to find exactly these codes.
#[track_caller]
fn damage(expected: &[&str], exit_code: i32, damage: impl FnOnce(&World)) {
    let Some(world) = healthy() else { return };
    damage(&world);
    assert_eq!(
        check(&world, &[]),
        (
            expected.iter().map(|code| (*code).to_owned()).collect(),
            exit_code
        )
    );
}

fn describe(world: &World, from: &str, to: &str) {
    assert!(DESCRIPTION.contains(from));
    world.write("/etc/overstore/s.toml", DESCRIPTION.replace(from, to));
}

/// Runs SQL on a database, and leaves its write-ahead log as it is then.
fn sql(world: &World, path: &str, sql: &str) {
    world
        .command(["sqlite3", "-bail", path])
        .stdin(format!(".dbconfig no_ckpt_on_close on\n{sql};\n"))
        .ok();
}

const DATABASE: &str = "/mnt/merged/nix/var/nix/db/db.sqlite";

#[test]
fn a_healthy_store_gives_no_finding() {
    damage(&[], 0, |_| {});
}

#[test]
fn a_healthy_store_opens_with_nix() {
    let Some(world) = healthy() else { return };
    assert_eq!(check(&world, &["--nix", "--lower"]), (Vec::new(), 0));
}

#[test]
fn nix_refuses() {
    let Some(world) = healthy() else { return };
    // As a `nix` on PATH that does not know the command.
    world.write(
        "/tmp/bin/nix",
        "#!/bin/sh\necho 'error: told so' >&2\nexit 1\n",
    );
    world.ok(["chmod", "+x", "/tmp/bin/nix"]);
    let outcome = world
        .overstore(["check", "--nix", "s"])
        .env("PATH", "/tmp/bin:/usr/bin:/bin")
        .run();
    assert_eq!(outcome.code(), Some(1));
    assert!(outcome.stdout().contains("[nix-refuses]"), "{outcome}");
    assert!(outcome.stdout().contains("told so"), "{outcome}");
}

#[test]
fn nothing_mounted() {
    damage(&["mount-missing"], 1, umount);
}

#[test]
fn something_else_mounted() {
    damage(&["mount-foreign"], 1, |world| {
        umount(world);
        world.ok(["mount", "-t", "tmpfs", "none", REAL]);
    });
}

#[test]
fn something_on_top() {
    damage(&["mount-hidden"], 1, |world| {
        world.ok(["mount", "-t", "tmpfs", "none", REAL]);
    });
}

#[test]
fn a_read_only_bind_on_top_is_healthy() {
    damage(&[], 0, |world| {
        world.ok(["mount", "--bind", REAL, REAL]);
        world.ok(["mount", "-o", "remount,bind,ro", REAL]);
    });
}

#[test]
fn another_lower_directory() {
    damage(&["lowerdir-differs", "mount-check-fails"], 1, |world| {
        umount(world);
        world.ok(["cp", "-a", "/mnt/lower/nix/store", "/mnt/other"]);
        mount(
            world,
            &OPTIONS.replace("/mnt/lower/nix/store", "/mnt/other"),
        );
    });
}

#[test]
fn a_second_lower_layer() {
    damage(&["lowerdir-differs", "mount-check-fails"], 1, |world| {
        umount(world);
        world.mkdir("/mnt/second");
        let two = OPTIONS.replace("/nix/store", "/nix/store:/mnt/second");
        mount(world, &two);
    });
}

/// The two images differ in nothing that a path or an inode tells.
#[test]
fn an_image_that_was_swapped_for_another_of_the_same_tree() {
    for world in World::each() {
        world.lower_store("/mnt/tree");
        if !world.image("squashfs", "/mnt/tree", "/mnt/image") {
            return;
        }
        let description = DESCRIPTION.replace("/mnt/lower", "/mnt/image");
        world.write("/etc/overstore/s.toml", description);
        world.overstore(["up", "s"]).ok();
        assert_eq!(check(&world, &[]), (Vec::new(), 0));
        world.ok(["umount", "--lazy", "/mnt/image"]);
        world.ok(["rm", "/mnt/image.squashfs"]);
        world.image("squashfs", "/mnt/tree", "/mnt/image");
        assert_eq!(check(&world, &[]), (vec!["lower-replaced".to_owned()], 1));
    }
}

#[test]
fn the_lower_directory_replaced() {
    damage(&["lower-replaced"], 1, |world| {
        world.ok(["mv", "/mnt/lower/nix/store", "/mnt/lower/nix/old"]);
        world.ok(["cp", "-r", "/mnt/lower/nix/old", "/mnt/lower/nix/store"]);
    });
}

#[test]
fn another_upper_layer() {
    damage(&["upperdir-differs", "mount-check-fails"], 1, |world| {
        umount(world);
        world.ok(["cp", "-a", "/mnt/upper", "/mnt/other"]);
        mount(world, &OPTIONS.replace("/mnt/upper", "/mnt/other"));
    });
}

#[test]
fn another_work_directory() {
    damage(&["workdir-differs"], 1, |world| {
        umount(world);
        world.mkdir("/mnt/other");
        mount(world, &OPTIONS.replace("/mnt/work", "/mnt/other"));
    });
}

#[test]
fn a_read_only_overlay() {
    damage(&["mount-read-only"], 1, |world| {
        umount(world);
        mount(world, &format!("ro,{OPTIONS}"));
    });
}

#[test]
fn an_overlay_of_another_name() {
    damage(&["mount-check-fails"], 1, |world| {
        umount(world);
        world.ok(["mount", "-t", "overlay", "other", "-o", OPTIONS, REAL]);
    });
}

#[test]
fn a_volatile_overlay() {
    damage(&["mount-option-risky"], 0, |world| {
        umount(world);
        mount(world, &format!("{OPTIONS},volatile"));
    });
}

#[test]
fn an_option_that_is_not_in_force() {
    damage(&["mount-options-differ"], 0, |world| {
        umount(world);
        mount(world, &format!("{OPTIONS},index=on"));
        let options = format!("{DESCRIPTION}[mount]\noptions = [\"index=off\"]\n");
        world.write("/etc/overstore/s.toml", options);
    });
}

#[test]
fn the_upper_layer_gone() {
    damage(&["upper-missing"], 1, |world| {
        world.ok(["mv", "/mnt/upper", "/mnt/gone"]);
    });
}

#[test]
fn the_work_directory_gone() {
    damage(&["workdir-missing"], 1, |world| {
        world.ok(["mv", "/mnt/work", "/mnt/gone"]);
    });
}

#[test]
fn the_work_directory_on_another_mount() {
    damage(&["workdir-elsewhere", "mount-missing"], 1, |world| {
        umount(world);
        world.ok(["mount", "-t", "tmpfs", "none", "/mnt/work"]);
    });
}

#[test]
fn an_upper_layer_that_cannot_be_one() {
    damage(&["upper-file-system-unfit"], 1, |world| {
        world.ok(["mount", "-o", "remount,bind,ro", "/mnt"]);
    });
}

#[test]
fn another_overlay_on_the_upper_layer() {
    damage(&["upper-in-use"], 1, |world| {
        world.mkdir("/mnt/second");
        world.ok([
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            OPTIONS,
            "/mnt/second",
        ]);
    });
}

#[test]
fn another_overlay_in_another_mount_namespace() {
    let Some(world) = healthy() else { return };
    umount(&world);
    world.mkdir("/mnt/second");
    let mount = format!("mount -t overlay overlay -o {OPTIONS} /mnt/second");
    let script = format!("{mount} && touch /run/mounted && exec sleep infinity");
    let mut child = world
        .command(["unshare", "--mount", "sh", "-c", &script])
        .spawn();
    wait_until("it is mounted there", || {
        world.path("/run/mounted").exists()
    });
    assert_eq!(check(&world, &[]).0, ["upper-in-use", "mount-missing"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_upper_layer_open_to_everybody() {
    damage(&["upper-permissions"], 0, |world| {
        world.ok(["chmod", "0755", "/mnt/upper"]);
    });
}

#[test]
fn strangers_in_the_layers() {
    damage(&["upper-stranger"], 0, |world| {
        world.mkdir("/mnt/merged/nix/store/lost+found");
    });
    let Some(world) = healthy() else { return };
    world.write("/mnt/lower/nix/store/nix-path-registration", "");
    assert_eq!(check(&world, &[]).0, [""; 0]);
    assert_eq!(check(&world, &["--lower"]).0, ["lower-stranger"]);
}

#[test]
fn links_that_are_not_opaque() {
    damage(&["links-not-opaque"], 0, |world| {
        umount(world);
        world.ok(["rm", "-r", "/mnt/upper/.links"]);
        world.mkdir("/mnt/upper/.links");
        mount(world, OPTIONS);
    });
}

#[test]
fn unsafe_paths() {
    damage(&["path-unsafe"], 1, |world| {
        world.ok(["mv", "/mnt/work", "/mnt/real-work"]);
        symlink("real-work", world.path("/mnt/work")).unwrap();
    });
    damage(&["path-unsafe"], 1, |world| {
        umount(world);
        world.ok(["mkdir", "/mnt/alice"]);
        world.ok(["mv", "/mnt/work", "/mnt/alice/work"]);
        world.ok(["chown", "alice", "/mnt/alice"]);
        describe(world, "/mnt/work", "/mnt/alice/work");
        mount(world, &OPTIONS.replace("/mnt/work", "/mnt/alice/work"));
    });
}

#[test]
fn an_unreachable_path() {
    damage(&["path-unreachable"], 1, |world| {
        world.write("/mnt/file", "");
        describe(world, "/mnt/work", "/mnt/file/work");
    });
}

#[test]
fn state_directories() {
    damage(&["state-missing"], 0, |world| {
        world.ok(["rm", "-r", "/mnt/merged/nix/var/nix/gcroots"]);
    });
    damage(&["state-permissions"], 1, |world| {
        world.ok(["chmod", "0777", "/mnt/merged/nix/var/nix/temproots"]);
    });
}

#[test]
fn the_upper_database() {
    damage(&["database-missing"], 1, |world| {
        world.ok(["sh", "-c", "rm /mnt/merged/nix/var/nix/db/db.sqlite*"]);
    });
    damage(&["database-permissions"], 1, |world| {
        world.ok(["chmod", "0666", DATABASE]);
    });
    damage(&["database-unreadable"], 1, |world| {
        world.ok(["sh", "-c", "rm /mnt/merged/nix/var/nix/db/db.sqlite*"]);
        world.write(DATABASE, "rubbish".repeat(1000));
    });
    damage(&["schema-unknown"], 1, |world| {
        world.write("/mnt/merged/nix/var/nix/db/schema", "11");
    });
    damage(&["schema-incomplete"], 1, |world| {
        sql(world, DATABASE, "drop trigger DeleteSelfRefs");
    });
    damage(&["schema-foreign"], 0, |world| {
        sql(world, DATABASE, "create table Mine (x)");
    });
    damage(&["foreign-key-violated"], 1, |world| {
        sql(
            world,
            DATABASE,
            "pragma foreign_keys = 0; insert into Refs values (7, 8)",
        );
    });
    damage(&["journal-mode-differs"], 0, |world| {
        sql(world, DATABASE, "pragma journal_mode = delete");
    });
}

#[test]
fn a_damaged_upper_database() {
    damage(&["database-damaged"], 1, |world| {
        sql(world, DATABASE, "pragma wal_checkpoint(truncate)");
        let page = ["bs=4096", "seek=3", "count=1", "conv=notrunc"];
        world
            .command(["dd", "if=/dev/urandom", &format!("of={DATABASE}")])
            .args(page)
            .ok();
    });
}

#[test]
fn the_lower_store_gone() {
    damage(&["lower-missing"], 1, |world| {
        world.ok(["mv", "/mnt/lower/nix/store", "/mnt/lower/nix/gone"]);
        // Gone with the store, which is no finding of its own here.
        world.ok(["mkdir", "-p", "/mnt/lower/nix/gone/.links"]);
    });
}

#[test]
fn the_lower_database() {
    const LOWER: &str = "/mnt/lower/nix/var/nix/db/db.sqlite";
    damage(&["lower-database-missing"], 1, |world| {
        world.ok(["sh", "-c", &format!("rm {LOWER}*")]);
    });
    damage(&["lower-schema-unknown"], 1, |world| {
        world.write("/mnt/lower/nix/var/nix/db/schema", "11");
    });
    let Some(world) = healthy() else { return };
    sql(
        &world,
        LOWER,
        "pragma journal_mode = wal; create table Mine (x)",
    );
    assert_eq!(check(&world, &[]).0, ["lower-wal-pending"]);
    sql(&world, LOWER, "pragma wal_checkpoint(truncate)");
    assert_eq!(check(&world, &[]).0, [""; 0]);
}

#[test]
fn directories_that_nix_wants_below() {
    damage(&["lower-directory-missing"], 0, |world| {
        world.ok(["rm", "-r", "/mnt/lower/nix/var/nix/temproots"]);
    });
}

/// Nix makes it again, read-only or not; where it cannot, that is no finding.
#[test]
fn the_reserved_space_below() {
    let reserved = "/mnt/lower/nix/var/nix/db/reserved";
    damage(&["lower-written-by-nix"], 0, |world| {
        world.ok(["rm", reserved]);
    });
    damage(&[], 0, |world| {
        world.ok(["rm", reserved]);
        world.ok(["mount", "--bind", "/mnt/lower", "/mnt/lower"]);
        world.ok(["mount", "-o", "remount,bind,ro", "/mnt/lower"]);
    });
    for world in World::each() {
        let example = world.example("");
        example.up();
        let reserved = format!("{}/nix/var/nix/db/reserved", example.lower.root);
        world.ok(["rm", &reserved]);
        assert!(example.run("check").stdout().contains("fallocate -l 8M"));
        example.nix(&["nix", "store", "info"]).ok();
        world.ok(["test", "-e", &reserved]);
    }
}

#[test]
fn a_lower_store_that_nix_writes_to() {
    damage(&["lower-written-by-nix"], 0, |world| {
        describe(world, "read-only = true", "read-only = false");
    });
}

#[test]
fn a_lower_store_on_a_read_only_mount() {
    damage(&["lower-not-described-read-only"], 1, |world| {
        umount(world);
        world.ok(["mount", "--bind", "-o", "ro", "/mnt/lower", "/mnt/lower"]);
        describe(world, "read-only = true", "read-only = false");
        mount(world, OPTIONS);
    });
}

#[test]
fn a_daemon_that_does_not_answer() {
    damage(&["lower-daemon-silent"], 1, |world| {
        let text = DESCRIPTION
            .replace("/mnt/lower\"", "unix:///run/nix.socket\"")
            .replace("read-only = true", "real = \"/mnt/lower/nix/store\"");
        world.write("/etc/overstore/s.toml", text);
    });
}

#[test]
fn a_nested_lower_store_that_is_not_mounted() {
    damage(&["lower-mount-wrong", "lower-written-by-nix"], 1, |world| {
        // The lower store described anew as one over a store of its own, at the same place.
        world.lower_store("/mnt/lowest");
        let middle = "local-overlay://?root=/mnt/lower&lower-store=/mnt/lowest?read-only=true\
                      &upper-layer=/mnt/middle";
        world.mkdir("/mnt/middle");
        let text = DESCRIPTION.replace("/mnt/lower\"", &format!("{middle}\""));
        world.write(
            "/etc/overstore/s.toml",
            text.replace("[lower]\nread-only = true\n", ""),
        );
    });
}

#[test]
fn overlays_stacked_too_deep() {
    damage(&["stacking-too-deep", "mount-missing"], 1, |world| {
        umount(world);
        let mut below = "/mnt/lower/nix/store".to_owned();
        for level in ["/mnt/1", "/mnt/2"] {
            for directory in ["upper", "work", "merged"] {
                world.mkdir(format!("{level}/{directory}"));
            }
            let options = format!("lowerdir={below},upperdir={level}/upper,workdir={level}/work");
            below = format!("{level}/merged");
            world.ok(["mount", "-t", "overlay", "overlay", "-o", &options, &below]);
        }
        describe(world, "[lower]\n", "[lower]\nreal = \"/mnt/2/merged\"\n");
    });
}

#[test]
fn the_hook_gone() {
    damage(&["remount-hook-missing"], 1, |world| {
        world.ok(["rm", "/usr/bin/overstore-remount"]);
        world.write(
            "/etc/overstore/s.toml",
            format!("remount-hook = \"/usr/bin/gone\"\n{DESCRIPTION}"),
        );
    });
}

#[test]
fn the_build_users_group_gone() {
    damage(
        &["upper-permissions", "build-users-group-missing"],
        0,
        |world| {
            world.ok(["chmod", "1777", "/mnt/upper"]);
            let text = format!("{DESCRIPTION}[permissions]\nbuild-users-group = \"nobodys\"\n");
            world.write("/etc/overstore/s.toml", text);
        },
    );
}

#[test]
fn an_ordinary_user_is_told_what_was_not_checked() {
    let Some(world) = healthy() else { return };
    world.ok(["chmod", "0700", "/mnt/merged/nix/var/nix/db"]);
    let outcome = world.overstore(["check", "s"]).by_alice().run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(outcome.stdout().contains("[not-checked]"), "{outcome}");
}

#[test]
fn a_kernel_that_does_not_list_overlays() {
    damage(&["mount-missing", "overlay-unsupported"], 1, |world| {
        umount(world);
        world.write("/tmp/filesystems", "nodev\ttmpfs\n");
        world.ok(["mount", "--bind", "/tmp/filesystems", "/proc/filesystems"]);
    });
}

#[test]
fn a_path_that_nix_can_never_match() {
    let Some(world) = healthy() else { return };
    umount(&world);
    world.ok(["mv", "/mnt/upper", "/mnt/an upper+layer"]);
    mount(
        &world,
        &OPTIONS.replace("/mnt/upper", "/mnt/an upper+layer"),
    );
    describe(&world, "/mnt/upper", "/mnt/an upper+layer");
    // overstore's own check covers it, and Nix opens it without its own.
    assert_eq!(
        check(&world, &["--nix"]),
        (vec!["mount-check-impossible".to_owned()], 0)
    );
    describe(
        &world,
        "upper-layer = \"/mnt/upper\"",
        "upper-layer = \"/mnt/an upper+layer\"\ncheck-mount = true",
    );
    assert_eq!(
        check(&world, &[]),
        (vec!["mount-check-impossible".to_owned()], 1)
    );
}

/// The defaults of the running kernel's module.
fn default_of(parameter: &str) -> bool {
    let path = std::path::Path::new("/sys/module/overlay/parameters").join(parameter);
    fs::read(path).unwrap().starts_with(b"Y")
}

#[test]
fn options_are_in_force_or_not_whatever_the_kernel_shows_of_them() {
    let Some(world) = healthy() else { return };
    let judged = |mounted: &str, described: &str| {
        umount(&world);
        mount(&world, &format!("{OPTIONS}{mounted}"));
        let options = format!("{DESCRIPTION}[mount]\noptions = [{described}]\n");
        world.write("/etc/overstore/s.toml", options);
        check(&world, &[]).0
    };
    // What is the default does not show, and what does not show is the default.
    let (default, other) = match default_of("index") {
        true => ("\"index=on\"", "\"index=off\""),
        false => ("\"index=off\"", "\"index=on\""),
    };
    assert_eq!(judged("", default), [""; 0]);
    assert_eq!(judged("", other), ["mount-options-differ"]);
    for option in [
        "index=on",
        "index=off",
        "uuid=auto",
        "redirect_dir=off",
        "redirect_dir=nofollow",
        "xino=auto",
        "default_permissions",
    ] {
        let described = format!("\"{option}\"");
        assert_eq!(
            judged(&format!(",{option}"), &described),
            [""; 0],
            "{option}"
        );
    }
    assert_eq!(
        judged("", "\"default_permissions\""),
        ["mount-options-differ"]
    );
    assert_eq!(
        judged(",redirect_dir=nofollow", "\"redirect_dir=on\""),
        // It is risky too, mounted or not.
        ["mount-option-risky", "mount-options-differ"]
    );
}

#[test]
fn inode_numbers_that_carry_the_layer_are_no_difference() {
    let Some(world) = healthy() else { return };
    umount(&world);
    // With layers on different file systems, `xino` shows other numbers than the objects have below.
    world.mkdir("/mnt/other");
    world.ok(["mount", "-t", "tmpfs", "other", "/mnt/other"]);
    world.ok(["cp", "-a", "/mnt/lower/.", "/mnt/other"]);
    let from = "lower-store = \"/mnt/lower\"";
    describe(&world, from, "lower-store = \"/mnt/other\"");
    let options = OPTIONS.replace("/mnt/lower", "/mnt/other");
    let number = |path: &str| world.ok(["sh", "-c", &format!("stat -c %i {path}/*mksh*/bin/mksh")]);
    for (xino, same) in [("on", false), ("off", true)] {
        mount(&world, &format!("{options},xino={xino}"));
        assert_eq!(check(&world, &[]), (Vec::new(), 0), "xino={xino}");
        let numbers = [REAL, "/mnt/other/nix/store"].map(number);
        assert_eq!(numbers[0] == numbers[1], same, "{numbers:?}");
        // And another tree of the same names is.
        world.ok(["mount", "-t", "tmpfs", "another", "/mnt/other"]);
        world.ok(["cp", "-a", "/mnt/lower/.", "/mnt/other"]);
        assert_eq!(check(&world, &[]).0, ["lower-replaced"], "xino={xino}");
        world.ok(["umount", "/mnt/other"]);
        umount(&world);
    }
}

#[test]
fn a_url_that_depends_on_the_version() {
    let Some(world) = healthy() else { return };
    world.ok(["mv", "/mnt/lower", "/mnt/100%"]);
    umount(&world);
    mount(&world, &OPTIONS.replace("/mnt/lower", "/mnt/100%"));
    describe(&world, "/mnt/lower", "/mnt/100%");
    assert_eq!(check(&world, &[]).0, ["url-depends-on-version"]);
}

/// The rules are no stronger than what is tried on the machine.
#[test]
fn every_code_is_made_by_a_test_on_the_real_kernel() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // `remedies.rs` makes them as well, `config.rs` and `cli.rs` only describe.
        let real = path.extension().is_some_and(|extension| extension == "rs")
            && !["config.rs", "cli.rs"].contains(&path.file_name().unwrap().to_str().unwrap());
        if real {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    let missing: Vec<_> = overstore::testing::check::Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| {
            !text.contains(&format!("\"{code}\"")) && !text.contains(&format!("[{code}]"))
        })
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_bind_mount_of_something_else_hides_it() {
    // A part of the overlay, another directory, another overlay.
    damage(&["mount-hidden"], 1, |world| {
        world.ok(["mount", "--bind", &format!("{REAL}/.links"), REAL]);
    });
    damage(&["mount-foreign"], 1, |world| {
        umount(world);
        world.ok(["mount", "--bind", "/mnt/lower/nix/store", REAL]);
    });
}

#[test]
fn a_socket_on_which_nobody_answers() {
    let Some(world) = healthy() else { return };
    let text = DESCRIPTION
        .replace("/mnt/lower\"", "unix:///run/nix.socket\"")
        .replace("read-only = true", "real = \"/mnt/lower/nix/store\"");
    world.write("/etc/overstore/s.toml", text);
    // It takes connections, and says nothing.
    let silent = std::os::unix::net::UnixListener::bind(world.path("/run/nix.socket")).unwrap();
    let (codes, exit_code) = check(&world, &[]);
    assert_eq!(exit_code, 1);
    assert!(
        codes.contains(&"lower-daemon-silent".to_owned()),
        "{codes:?}"
    );
    drop(silent);
}

/// How many system calls `check` makes.
fn calls(world: &World, arguments: &[&str]) -> usize {
    let (outcome, trace) = world.overstore(["check", "s"]).args(arguments).traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    trace.calls.len()
}

#[test]
fn its_cost_does_not_depend_on_the_lower_store_s_size() {
    let Some(world) = healthy() else { return };
    let small = calls(&world, &[]);
    let small_with_names = calls(&world, &["--lower"]);
    // Twenty thousand objects, each with a row.
    let script = "mkdir /mnt/many && cd /mnt/lower/nix/store && \
                  seq -f '%032.0f-many' 20000 | tee /mnt/many/names | xargs mkdir";
    world.ok(["sh", "-c", script]);
    let insert = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) \
                  insert into ValidPaths (path, hash, registrationTime) \
                  select printf('/nix/store/%032d-many', i), \
                  'sha256:' || printf('%064d', i), 1 from n";
    world.ok(["sqlite3", "/mnt/lower/nix/var/nix/db/db.sqlite", insert]);
    let large = calls(&world, &[]);
    assert!(large <= small + 20, "{small} system calls became {large}");
    // The names below are looked at when that is asked for.
    let large_with_names = calls(&world, &["--lower"]);
    assert!(
        large_with_names > small_with_names + 50,
        "{small_with_names} system calls became {large_with_names}"
    );
}

#[test]
fn what_nix_adds_to_its_database_is_no_finding() {
    for world in World::each() {
        let world = healthy_in(world);
        let url = world.overstore(["url", "s"]).ok();
        let features = format!("{} ca-derivations", crate::support::FEATURES);
        // Below first: in a read-only store Nix cannot add what it misses there.
        for store in ["/mnt/lower", url.trim_end()] {
            world
                .command(["nix", "store", "info", "--store", store])
                .env("NIX_CONFIG", &features)
                .ok();
            let lower = "/mnt/lower/nix/var/nix/db/db.sqlite";
            world.ok(["sqlite3", lower, "pragma wal_checkpoint(truncate)"]);
        }
        let tables = world.ok(["sqlite3", DATABASE, ".tables"]);
        assert!(
            tables.contains("Realisations") || tables.contains("BuildTrace"),
            "{tables}"
        );
        assert_eq!(check(&world, &[]), (Vec::new(), 0));
        // A later Nix drops this index, and notes that it did.
        sql(
            &world,
            DATABASE,
            "drop index if exists IndexReferrer; \
             insert or ignore into SchemaMigrations values ('20260309-drop-redundant-indexreferrer')",
        );
        assert_eq!(check(&world, &[]), (Vec::new(), 0));
    }
}
