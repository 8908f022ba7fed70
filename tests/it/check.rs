//! `overstore check` on the real kernel: a healthy store, made by hand with `mount` and opened by real
//! Nix, gives no finding; each damage gives exactly its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::support::{Content, Files, World, assert_expected, data, files, wait_until};

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

/// Each is a directory of `tests/check`: what its script does to a healthy store (`input/damage`;
/// `input/arguments` are further ones of the command), and what `check` then says and its exit code
/// (`expected/`).
macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                case(stringify!($name));
            }
        )*

        #[test]
        fn every_case_is_run() {
            let names = [$(stringify!($name)),*];
            for directory in data("check").read_dir().unwrap() {
                let directory = directory.unwrap().file_name();
                assert!(
                    names.iter().any(|name| directory == *name),
                    "{directory:?} is no name in cases!"
                );
            }
        }
    };
}

cases! {
    a_healthy_store
    a_daemon_that_does_not_answer
    a_directory_that_nix_wants_below
    a_kernel_that_does_not_list_overlays
    a_lower_store_on_a_read_only_mount
    a_lower_store_that_nix_writes_to
    a_nested_lower_store_that_is_not_mounted
    a_part_of_it_on_top
    a_path_that_nix_can_never_match
    a_path_that_nix_can_never_match_but_has_to
    a_read_only_bind_on_top_is_healthy
    a_read_only_overlay
    a_second_lower_layer
    a_state_directory_gone
    a_state_directory_open_to_everybody
    a_stranger_in_the_lower_store
    a_stranger_in_the_lower_store_is_not_looked_for
    a_stranger_in_the_upper_layer
    a_url_that_depends_on_the_version
    a_volatile_overlay
    an_option_that_is_not_in_force
    an_overlay_of_another_name
    an_unreachable_path
    an_upper_layer_that_cannot_be_one
    another_directory_bind_mounted
    another_lower_directory
    another_overlay_on_the_upper_layer
    another_upper_layer
    another_work_directory
    links_that_are_not_opaque
    nothing_mounted
    overlays_stacked_too_deep
    something_else_mounted
    something_on_top
    the_build_users_group_gone
    the_database_damaged
    the_database_gone
    the_database_is_no_database
    the_database_of_a_later_nix
    the_database_open_to_everybody
    the_database_with_a_reference_to_nothing
    the_database_with_a_table_of_others
    the_database_with_another_journal
    the_database_without_a_trigger
    the_hook_gone
    the_lower_database_gone
    the_lower_database_of_a_later_nix
    the_lower_database_with_a_log
    the_lower_database_without_its_log_again
    the_lower_directory_replaced
    the_lower_store_gone
    the_reserved_space_below_gone
    the_reserved_space_below_gone_from_a_read_only_mount
    the_upper_layer_gone
    the_upper_layer_without_its_mode
    the_work_directory_a_symbolic_link
    the_work_directory_below_somebody_else_s
    the_work_directory_gone
    the_work_directory_on_another_mount
}

/// What the scripts have to work with.
const FUNCTIONS: &str = r#"
set -euo pipefail
description=/etc/overstore/s.toml
real=/mnt/merged/nix/store
options=lowerdir=/mnt/lower/nix/store,upperdir=/mnt/upper,workdir=/mnt/work
state=/mnt/merged/nix/var/nix
database=$state/db/db.sqlite
lower_database=/mnt/lower/nix/var/nix/db/db.sqlite

# mount_store [OPTIONS]
mount_store() { mount -t overlay overlay -o "${1:-$options}" $real; }

# describe FROM TO: a change in the description
describe() { grep -q "$1" $description && sed -i "s|$1|$2|" $description; }

# sql DATABASE STATEMENTS: leaves the write-ahead log as it is then
sql() { printf '.dbconfig no_ckpt_on_close on\n%s;\n' "$2" | sqlite3 -bail "$1" >/dev/null; }
"#;

fn case(name: &str) {
    let Some(world) = healthy() else { return };
    let directory = data("check").join(name);
    let input = |file: &str| fs::read_to_string(directory.join("input").join(file)).ok();
    let damage = input("damage").unwrap();
    world.ok(["bash", "-c", &format!("{FUNCTIONS}{damage}")]);
    let arguments = input("arguments").unwrap_or_default();
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let (_, exit_code) = check(&world, &arguments);
    let outcome = world.overstore(["check", "s"]).args(arguments).run();
    assert_eq!(outcome.code(), Some(exit_code), "{outcome}");
    assert!(outcome.err.is_empty(), "{outcome}");
    let mut found = Files::new();
    for (file, text) in [
        ("report.txt", without_the_kernels_own(&outcome.stdout())),
        ("exit-code", format!("{exit_code}\n")),
    ] {
        found.insert(file.into(), Content::Text(text));
    }
    assert_expected(&directory.join("expected"), &found);
}

/// A report without what is another on another kernel: its release, and the options of an overlay
/// that it shows after those that were given.
fn without_the_kernels_own(report: &str) -> String {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap();
    let mut shown = String::new();
    for line in report.replace(release, "RELEASE").lines() {
        let options = line
            .split_once(",workdir=")
            .filter(|_| line.ends_with(" 0 0"));
        match options {
            Some((before, after)) => {
                let workdir = after.split([',', ' ']).next().unwrap();
                shown += &format!("{before},workdir={workdir}... 0 0\n");
            }
            None => shown += &format!("{line}\n"),
        }
    }
    shown
}

#[test]
fn a_healthy_store_opens_with_nix() {
    let Some(world) = healthy() else { return };
    // Its own collector is another matter, and a note.
    let (codes, exit_code) = check(&world, &["--nix", "--lower"]);
    assert_eq!((codes, exit_code), (vec!["collector-fails".to_owned()], 0));
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
    assert_eq!(check(&world, &[]).0, ["upper-in-use"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Nix makes it again, read-only or not; where it cannot, that is no finding.
#[test]
fn the_reserved_space_below() {
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
fn an_ordinary_user_is_told_what_was_not_checked() {
    let Some(world) = healthy() else { return };
    world.ok(["chmod", "0700", "/mnt/merged/nix/var/nix/db"]);
    let outcome = world.overstore(["check", "s"]).by_alice().run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(outcome.stdout().contains("[not-checked]"), "{outcome}");
}

/// The defaults of the running kernel's module.
fn default_of(parameter: &str) -> bool {
    let path = Path::new("/sys/module/overlay/parameters").join(parameter);
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
    let description = String::from_utf8(world.read("/etc/overstore/s.toml")).unwrap();
    for (xino, same) in [("on", false), ("off", true)] {
        let described = format!("{description}[mount]\noptions = [\"xino={xino}\"]\n");
        world.write("/etc/overstore/s.toml", described);
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

/// The rules are no stronger than what is tried on the machine.
#[test]
fn every_code_is_made_by_a_test_on_the_real_kernel() {
    let mut text = String::new();
    for (name, content) in files(&data("it")).into_iter().chain(files(&data("check"))) {
        // `config.rs` and `cli.rs` only describe.
        if let Content::Text(content) = content
            && !["config.rs", "cli.rs"].map(Path::new).contains(&&*name)
        {
            text += &content;
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
