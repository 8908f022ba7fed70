//! Remedies are commands that mend: each damage is made in a store that is up, `overstore check`
//! names it, the command that it gives is run as it stands, and after that nothing is wrong.

use crate::support::{Example, World};
use serde_json::Value;

/// The store's description, given as a path that a shell would take apart.
const DESCRIPTION: &str = "/mnt/my stores/it's.toml";

fn findings(world: &World) -> Vec<Value> {
    let outcome = world
        .overstore(["check", "--lower", "--json", DESCRIPTION])
        .run();
    let report: Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    report["findings"].as_array().expect("a list").clone()
}

/// The commands of a finding's remedy, for a shell: those of the first way that has some.
fn command(finding: &Value) -> String {
    let ways = finding["remedies"].as_array().expect("a list");
    let mut commands = ways.iter().filter_map(|way| way["commands"].as_array());
    let commands = commands.next().expect("a way with commands");
    let texts: Vec<&str> = commands
        .iter()
        .map(|command| command["shell"].as_str().expect("a text"))
        .collect();
    let text = texts.join(" && ");
    let remedy = finding["remedy"].as_str().expect("a text");
    assert!(remedy.contains(&text), "{finding}");
    text
}

/// Makes one damage, finds it by its code (which is the first one), and runs its remedy.
fn mends(world: &World, code: &str, damage: impl FnOnce(&World)) {
    world.ok(["rm", "-rf", "/mnt/example"]);
    world.example("");
    let text = world.read(Example::CONFIGURATION);
    world.mkdir("/mnt/my stores");
    world.write(DESCRIPTION, text);
    world.overstore(["up", DESCRIPTION]).ok();
    assert_eq!(
        findings(world),
        [Value::Null; 0],
        "{code}: before the damage"
    );

    damage(world);
    let found = findings(world);
    let first = found.iter().find(|finding| finding["code"] == code);
    let first = first.unwrap_or_else(|| panic!("{code} is not among {found:?}"));
    let command = command(first);
    let outcome = world.run(["sh", "-c", &command]);
    assert_eq!(outcome.code(), Some(0), "{code}: {outcome}");
    assert_eq!(
        findings(world),
        [Value::Null; 0],
        "{code}: after `{command}`"
    );

    world.overstore(["down", DESCRIPTION]).ok();
}

#[test]
fn an_object_that_neither_database_knows() {
    let Some(world) = World::trixie() else { return };
    mends(&world, "object-without-row", |world| {
        world.write("/tmp/known", "known");
        let url = world.overstore(["url", DESCRIPTION]).ok();
        world
            .nix(["nix-store", "--add", "/tmp/known", "--store", url.trim()])
            .ok();
        world.mkdir(format!(
            "{}/00000000000000000000000000000000-half",
            Example::UPPER
        ));
        world.overstore(["remount", DESCRIPTION]).ok();
    });
}

/// Changes a value in the description.
fn describe(world: &World, more: &str) {
    let text = world.read(DESCRIPTION);
    let text = String::from_utf8(text).expect("TOML");
    world.write(DESCRIPTION, text + more);
}

/// Mounts by hand what overstore did not.
fn mount_instead(world: &World, source: &str, from: &str, to: &str) {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        Example::LOWER,
        Example::UPPER,
        Example::WORKDIR
    );
    let options = options.replace(from, to);
    world.ok(["umount", Example::REAL]);
    world.ok([
        "mount",
        "-t",
        "overlay",
        source,
        "-o",
        &options,
        Example::REAL,
    ]);
}

#[test]
fn of_the_mount() {
    let Some(world) = World::trixie() else { return };
    mends(&world, "mount-missing", |world| {
        world.ok(["umount", Example::REAL]);
    });
    mends(&world, "mount-foreign", |world| {
        world.ok(["umount", Example::REAL]);
        world.ok(["mount", "-t", "tmpfs", "none", Example::REAL]);
    });
    mends(&world, "mount-hidden", |world| {
        world.ok(["mount", "-t", "tmpfs", "none", Example::REAL]);
    });
    mends(&world, "mount-check-fails", |world| {
        mount_instead(world, "other", "", "");
    });
    mends(&world, "lowerdir-differs", |world| {
        world.ok(["cp", "-a", Example::LOWER, "/mnt/example/other"]);
        mount_instead(world, "overlay", Example::LOWER, "/mnt/example/other");
    });
    mends(&world, "upperdir-differs", |world| {
        world.ok(["cp", "-a", Example::UPPER, "/mnt/example/other"]);
        mount_instead(world, "overlay", Example::UPPER, "/mnt/example/other");
    });
    mends(&world, "workdir-differs", |world| {
        world.mkdir("/mnt/example/other");
        mount_instead(world, "overlay", Example::WORKDIR, "/mnt/example/other");
    });
    mends(&world, "mount-read-only", |world| {
        world
            .command(["mount", "-o", "remount,ro", Example::REAL])
            .env("LIBMOUNT_FORCE_MOUNT2", "always")
            .ok();
    });
    mends(&world, "mount-options-differ", |world| {
        describe(world, "[mount]\noptions = [\"index=on\"]\n");
    });
    mends(&world, "lower-replaced", |world| {
        world.ok(["mv", Example::LOWER, "/mnt/example/old"]);
        world.ok(["cp", "-a", "/mnt/example/old", Example::LOWER]);
    });
}

#[test]
fn of_the_layers() {
    let Some(world) = World::trixie() else { return };
    mends(&world, "upper-missing", |world| {
        world.ok(["mv", Example::UPPER, "/mnt/example/gone"]);
    });
    mends(&world, "workdir-missing", |world| {
        world.ok(["mv", Example::WORKDIR, "/mnt/example/gone"]);
    });
    mends(&world, "upper-permissions", |world| {
        world.ok(["chmod", "0755", Example::REAL]);
    });
    mends(&world, "upper-stranger", |world| {
        world.mkdir(format!("{}/left over", Example::REAL));
    });
    mends(&world, "lower-stranger", |world| {
        world.write(format!("{}/nix-path-registration", Example::LOWER), "");
    });
    mends(&world, "links-not-opaque", |world| {
        let links = world.path(Example::UPPER).join(".links");
        rustix::fs::removexattr(links, "trusted.overlay.opaque").expect("it was set");
    });
    mends(&world, "links-not-opaque", |world| {
        let links = format!("{}/.links", Example::UPPER);
        world.ok(["rmdir", &links]);
        world.write(&links, "");
    });
    mends(&world, "lower-object-hidden", |world| {
        let objects = world.list(Example::LOWER);
        let object = objects.iter().find(|name| *name != ".links");
        let object = object.expect("the fixture has objects");
        let merged = std::path::Path::new(Example::REAL).join(object);
        world.ok(["rm".as_ref(), "-r".as_ref(), merged.as_os_str()]);
    });
    mends(&world, "path-unsafe", |world| {
        world.ok(["chown", "alice", "/mnt/example"]);
    });
}

#[test]
fn of_the_databases_and_the_state() {
    let Some(world) = World::trixie() else { return };
    mends(&world, "state-missing", |world| {
        world.ok(["rm", "-r", &format!("{}/gcroots", Example::STATE)]);
    });
    mends(&world, "state-permissions", |world| {
        world.ok(["chmod", "0777", &format!("{}/db", Example::STATE)]);
    });
    mends(&world, "database-missing", |world| {
        world.ok(["sh", "-c", &format!("rm {}/db/db.sqlite*", Example::STATE)]);
    });
    mends(&world, "database-permissions", |world| {
        world.ok(["chmod", "0666", &format!("{}/db/db.sqlite", Example::STATE)]);
    });
    mends(&world, "schema-incomplete", |world| {
        world.ok(["rm", &format!("{}/db/schema", Example::STATE)]);
    });
    mends(&world, "schema-unknown", |world| {
        world.write(format!("{}/db/schema", Example::STATE), "ten");
    });
    mends(&world, "foreign-key-violated", |world| {
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let sql = "pragma foreign_keys = 0; insert into Refs values (7, 8)";
        world.ok(["sqlite3", &database, sql]);
    });
    mends(&world, "lower-wal-pending", |world| {
        world
            .command(["sqlite3", "/mnt/example/store-a/nix/var/nix/db/db.sqlite"])
            .stdin(
                ".dbconfig no_ckpt_on_close on\npragma journal_mode = wal;\n\
                    update ValidPaths set narSize = narSize + 1;\n",
            )
            .ok();
    });
    mends(&world, "lower-directory-missing", |world| {
        world.ok(["rm", "-r", "/mnt/example/store-a/nix/var/nix/temproots"]);
    });
}
