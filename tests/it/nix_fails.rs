//! An error is what Nix fails at: each is made in a store that `up` set up, `check` calls it by its
//! code, and real Nix fails with the words that make people look for help.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Example, Outcome, World};

/// The codes that `check` finds, with `--lower`.
fn codes(world: &World) -> Vec<String> {
    let outcome = world
        .overstore(["check", "--lower", "--json", "example"])
        .run();
    let report: serde_json::Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let findings = report["findings"].as_array().expect("a list");
    let codes = findings
        .iter()
        .filter_map(|finding| finding["code"].as_str());
    codes.map(str::to_owned).collect()
}

/// Makes a damage in a new example of each Nix: `check` finds this code, and a command of Nix that
/// worked before fails, and says one of these.
fn both_fail(
    code: &str,
    says: &[&str],
    damage: impl Fn(&World),
    command: impl Fn(&Example) -> Outcome,
) {
    for world in World::each() {
        let case = format!("{code}, Nix of {}", world.tree.name);
        let example = world.example("[parameters]\npath-info-cache-size = 0");
        example.up();
        let before = command(&example);
        assert_eq!(before.code(), Some(0), "{case}: before: {before}");
        damage(&world);
        let found = codes(&world);
        assert!(found.iter().any(|found| found == code), "{case}: {found:?}");
        let outcome = command(&example);
        assert_ne!(outcome.code(), Some(0), "{case}: {outcome}");
        let said = says.iter().any(|text| outcome.stderr().contains(text));
        assert!(said, "{case}: {outcome}");
    }
}

fn opens(example: &Example) -> Outcome {
    example.nix(&["nix", "store", "info"]).run()
}

fn knows(example: &Example) -> Outcome {
    let path = example.lower.path("hello-1.0");
    example.nix(&["nix", "path-info", &path]).run()
}

fn collects(example: &Example) -> Outcome {
    example.nix(&["nix-store", "--gc"]).run()
}

/// Changes the text of the description.
fn describe(world: &World, from: &str, to: &str) {
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    assert!(text.contains(from), "{text}");
    world.write(Example::CONFIGURATION, text.replace(from, to));
}

/// Makes the upper database anew: what was copied up before would not be asked for below.
fn forget(world: &World) {
    world.ok(["sh", "-c", &format!("rm {}/db/db.sqlite*", Example::STATE)]);
    world.overstore(["up", "example"]).run();
}

const LOWER_STATE: &str = "/mnt/example/store-a/nix/var/nix";

/// Makes the lower store read-only, by a mount; the overlay is mounted anew over it.
fn read_only_mount(world: &World) {
    world.overstore(["down", "example"]).ok();
    let lower = "/mnt/example/store-a";
    world.ok(["mount", "--bind", lower, lower]);
    world.ok(["mount", "-o", "remount,bind,ro", lower]);
    world.overstore(["up", "example"]).run();
}

#[test]
fn directories_that_nix_wants_on_a_read_only_mount() {
    for missing in [
        "/mnt/example/store-a/nix/store/.links",
        "/mnt/example/store-a/nix/var/nix/profiles/per-user",
        "/mnt/example/store-a/nix/var/nix/gcroots/per-user",
        "/mnt/example/store-a/nix/var/nix/temproots",
    ] {
        both_fail(
            "lower-directory-missing",
            &["Read-only file system"],
            |world| {
                world.ok(["rm", "-r", missing]);
                read_only_mount(world);
            },
            opens,
        );
    }
}

#[test]
fn a_read_only_mount_that_is_not_described() {
    both_fail(
        "lower-not-described-read-only",
        &["remounting", "Read-only file system", "read-only"],
        |world| {
            describe(world, "?read-only=true", "");
            read_only_mount(world);
        },
        opens,
    );
}

#[test]
fn rows_in_the_log_of_a_read_only_lower_store() {
    both_fail(
        "lower-wal-pending",
        &["is not valid", "no such table"],
        |world| {
            // A publisher that registered everything, and did not move its log into the database.
            world
                .command(["sqlite3", &format!("{LOWER_STATE}/db/db.sqlite")])
                .stdin(
                    ".dbconfig no_ckpt_on_close on\npragma journal_mode = delete;\n\
                     create temp table Saved as select * from ValidPaths;\n\
                     delete from ValidPaths;\npragma journal_mode = wal;\n\
                     insert into ValidPaths select * from Saved;\n",
                )
                .ok();
            forget(world);
        },
        knows,
    );
}

#[test]
fn schemas_that_nix_cannot_read() {
    both_fail(
        "lower-schema-unknown",
        &["schema"],
        |world| world.write(format!("{LOWER_STATE}/db/schema"), "11"),
        opens,
    );
    both_fail(
        "schema-unknown",
        &["schema"],
        |world| world.write(format!("{}/db/schema", Example::STATE), "11"),
        opens,
    );
}

#[test]
fn databases_that_are_gone() {
    both_fail(
        "lower-database-missing",
        &["db.sqlite", "database", "is not valid", "No such file"],
        |world| {
            world.ok(["sh", "-c", &format!("rm {LOWER_STATE}/db/db.sqlite*")]);
        },
        knows,
    );
    both_fail(
        "database-unreadable",
        &["not a database"],
        |world| {
            let database = format!("{}/db/db.sqlite", Example::STATE);
            world.ok(["sh", "-c", &format!("rm {database}*")]);
            world.write(database, "rubbish".repeat(1000));
        },
        opens,
    );
}

#[test]
fn mounts_that_are_not_there_or_not_right() {
    let incorrectly = ["mounted incorrectly"];
    both_fail(
        "mount-missing",
        &incorrectly,
        |world| {
            world.ok(["umount", Example::REAL]);
        },
        opens,
    );
    both_fail(
        "lowerdir-differs",
        &incorrectly,
        |world| {
            world.ok(["umount", Example::REAL]);
            let (upper, work) = (Example::UPPER, Example::WORKDIR);
            world.mkdir("/mnt/example/other");
            let options = format!("lowerdir=/mnt/example/other,upperdir={upper},workdir={work}");
            let mount = ["mount", "-t", "overlay", "overlay", "-o", &options];
            world.command(mount).args([Example::REAL]).ok();
        },
        opens,
    );
}

#[test]
fn names_at_which_the_collector_stops() {
    let stops = [
        "is too short to be a valid store path",
        "is not a valid store path",
    ];
    both_fail(
        "upper-stranger",
        &stops,
        |world| world.mkdir(format!("{}/lost+found", Example::REAL)),
        collects,
    );
    both_fail(
        "lower-stranger",
        &stops,
        |world| {
            world.write(format!("{}/nix-path-registration", Example::LOWER), "");
            world.overstore(["remount", "example"]).ok();
        },
        collects,
    );
}

#[test]
fn a_daemon_that_does_not_answer() {
    both_fail(
        "lower-daemon-silent",
        &["cannot connect to socket", "Connection refused"],
        |world| {
            describe(
                world,
                "/mnt/example/store-a?read-only=true",
                "unix:///run/gone.socket?root=/mnt/example/store-a",
            );
            forget(world);
        },
        knows,
    );
}

#[test]
fn a_hook_that_is_gone() {
    both_fail(
        "remount-hook-missing",
        &["gone"],
        |world| {
            let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
            let text = format!("remount-hook = \"/usr/bin/gone\"\n{text}");
            world.write(Example::CONFIGURATION, text);
        },
        |example| {
            // An object in both layers, deleted.
            let world = example.world;
            // Another one each time: what the lower store has already is not added above.
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            world.write("/tmp/both", format!("in both layers: {count}\n"));
            let add = |store: &str| {
                let added = world
                    .nix(["nix-store", "--store", store, "--add", "/tmp/both"])
                    .ok();
                added.trim().to_owned()
            };
            let url = example.command("url").ok();
            add(url.trim());
            let path = add(&example.lower.root);
            world
                .nix(["nix-store", "--store", url.trim(), "--delete", &path])
                .run()
        },
    );
}

#[test]
fn a_build_users_group_that_does_not_exist() {
    both_fail(
        "build-users-group-missing",
        &["build-users-group", "nixbld", "nobodys"],
        |world| {
            let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
            let more = "[permissions]\nbuild-users-group = \"nobodys\"\n";
            world.write(Example::CONFIGURATION, text + more);
            world.write(
                "/etc/nix/nix.conf",
                "substituters =\nbuild-users-group = nobodys\n",
            );
        },
        |example| {
            let shell = example.lower.path("mksh-static");
            let expression = format!(
                r#"derivation {{ name = "built"; system = "x86_64-linux";
                    builder = builtins.storePath "{shell}" + "/bin/mksh";
                    args = [ "-c" "print $RANDOM >$out" ]; count = "{}"; }}"#,
                example.world.list(Example::UPPER).len()
            );
            example.world.write("/tmp/built.nix", expression);
            example
                .nix(&["nix-build", "--no-out-link", "/tmp/built.nix"])
                .run()
        },
    );
}
