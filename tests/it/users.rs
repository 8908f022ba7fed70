//! What users met: inputs that were told wrongly, each with its neighbours. The numbers are those of
//! the reports.

use serde_json::Value;

use crate::support::{Example, Outcome, World, wait_until};

/// What `check` finds of the store `example`.
fn findings(outcome: &Outcome) -> Vec<Value> {
    let report: Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    report["findings"].as_array().expect("a list").clone()
}

fn codes(world: &World) -> Vec<String> {
    let outcome = world.overstore(["check", "--json", "example"]).run();
    let code = |it: &Value| it["code"].as_str().expect("a code").to_owned();
    findings(&outcome).iter().map(code).collect()
}

/// 16: the overlay is on a directory above the merged store directory.
#[test]
fn an_overlay_that_is_mounted_too_high() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    // Over the whole of `nix`, and over the directory that the upper layer is in.
    for (lower, upper, layer) in [
        ("/mnt/example/store-a/nix", Example::UPPER, Example::UPPER),
        (
            "/mnt/example/store-a/nix",
            "/mnt/example/over",
            "/mnt/example/over/store",
        ),
    ] {
        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        world.write(Example::CONFIGURATION, text.replace(Example::UPPER, layer));
        world.ok(["mkdir", "-p", upper, "/mnt/example/work"]);
        let options = format!("lowerdir={lower},upperdir={upper},workdir=/mnt/example/work");
        let at = "/mnt/example/merged-store/nix";
        world.ok(["mkdir", "-p", layer]);
        world.ok(["mount", "-t", "overlay", "overlay", "-o", &options, at]);
        let outcome = world.overstore(["check", "--json", "example"]).run();
        let found = findings(&outcome);
        let text = outcome.stdout();
        let mount = found.iter().find(|it| it["code"] == "mount-missing");
        let mount = mount.unwrap_or_else(|| panic!("{text}"));
        assert!(
            text.contains("mounted above it, at /mnt/example/merged-store/nix"),
            "{text}"
        );
        assert!(!text.contains("another mount namespace"), "{text}");
        assert!(!text.contains("upper-in-use"), "{text}");
        // `up` does not mount a second overlay over the same upper layer.
        assert_eq!(mount["stops-up"], true, "{text}");
        assert_eq!(example.run("up").code(), Some(1));
        let command = mount["remedies"][0]["commands"][0]["shell"].as_str();
        world.ok(["sh", "-c", command.expect("a command")]);
    }
}

/// 17: one row of another store directory.
#[test]
fn a_row_of_another_store_directory_is_told_and_does_not_hide_the_rest() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/mine", "mine\n");
    let path = example.nix(&["nix-store", "--add", "/tmp/mine"]).ok();
    world.write("/tmp/kept", "kept\n");
    example.nix(&["nix-store", "--add", "/tmp/kept"]).ok();
    let insert = "insert into ValidPaths (path, hash, registrationTime) values \
                  ('/other/store/00000000000000000000000000000000-a', \
                  'sha256:0000000000000000000000000000000000000000000000000000000000000000', 1)";
    let database = format!("{}/db/db.sqlite", Example::STATE);
    world.ok(["sqlite3", &database, insert]);
    assert_eq!(codes(&world), ["row-of-another-store"]);
    // Nix stops at it.
    let nix = example.nix(&["nix", "path-info", "--all"]).fails();
    assert!(nix.stderr().contains("/other/store/"), "{nix}");
    // The rest is looked at all the same.
    let name = path.trim().trim_start_matches("/nix/store/");
    example.command("down").ok();
    let (upper, away) = (format!("{}/{name}", Example::UPPER), "/mnt/example/away");
    world.ok(["mv", &upper, away]);
    world.write(
        format!("{}/00000000000000000000000000000001-b", Example::UPPER),
        "",
    );
    let up = example.run("up");
    let text = up.stdout();
    assert!(text.contains("[row-of-another-store]"), "{up}");
    assert!(text.contains("[row-without-object]"), "{up}");
    let status = example.command("status").ok();
    assert!(status.contains("row-of-another-store"), "{status}");
    assert!(status.contains("1 without an object"), "{status}");

    // The same below: what is of this store directory is copied.
    let lower = format!("{}/nix/var/nix/db/db.sqlite", example.lower.root);
    world.ok(["sqlite3", &lower, insert]);
    world.ok(["sqlite3", &lower, "pragma wal_checkpoint(truncate)"]);
    let warm = world.overstore(["warm", "--all", "example"]).run();
    assert_eq!(warm.code(), Some(0), "{warm}");
    assert!(warm.stdout().contains("18 paths copied"), "{warm}");
}

/// 18: a read-only `/run`, and no `/proc`.
#[test]
fn a_machine_that_cannot_be_looked_at_or_written_to() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.ok(["mount", "-o", "remount,ro", "/run"]);
    let up = example.run("up");
    assert_eq!(up.code(), Some(0), "{up}");
    let text = up.stderr();
    assert!(
        text.contains("cannot be recorded in /run/overstore"),
        "{up}"
    );
    assert!(text.contains("Read-only file system"), "{up}");
    assert!(!text.contains("findmnt --target /mnt"), "{up}");
    assert_eq!(example.run("check").code(), Some(0));

    let script = "umount -l /proc && exec overstore check example";
    let check = world
        .command(["unshare", "--mount", "sh", "-c", script])
        .fails();
    assert_eq!(check.code(), Some(3), "{check}");
    assert!(check.stderr().contains("/proc"), "{check}");
}

/// 26: what Nix wants below and neither finds nor may make.
#[test]
fn a_lower_store_that_lacks_a_directory_and_is_somebody_elses() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let mine = text
        .replace("/mnt/example/merged-store", "/mnt/alice/merged-store")
        .replace(Example::UPPER, "/mnt/alice/store-b")
        .replace(Example::WORKDIR, "/mnt/alice/workdir");
    world.write(Example::CONFIGURATION, mine);
    let exec = || {
        let run = world.overstore(["exec", "example", "--", "nix", "store", "info"]);
        run.env("NIX_CONFIG", "extra-experimental-features = nix-command")
            .by_alice()
            .run()
    };
    assert_eq!(exec().code(), Some(0), "{}", exec());
    for directory in ["profiles/per-user", "temproots"] {
        let directory = format!("{}/nix/var/nix/{directory}", example.lower.root);
        world.ok(["rm", "-r", &directory]);
        let told = exec();
        assert_eq!(told.code(), Some(125), "{told}");
        let text = told.stderr();
        assert!(
            text.contains(&format!("error [lower-directory-missing] {directory}")),
            "{told}"
        );
        assert!(text.contains("may not make it as this user"), "{told}");
        assert!(text.contains(&format!("mkdir -p {directory}")), "{told}");
        world.ok(["mkdir", "-p", &directory]);
    }
    // Root's Nix makes it: a warning, as before.
    world.write(Example::CONFIGURATION, text);
    let directory = format!("{}/nix/var/nix/temproots", example.lower.root);
    world.ok(["rm", "-r", &directory]);
    let up = example.run("up");
    assert_eq!(up.code(), Some(0), "{up}");
    assert!(
        up.stdout().contains("warning [lower-directory-missing]"),
        "{up}"
    );
}

/// 28: a user's own store, looked at from outside of `exec`.
#[test]
fn a_user_is_told_how_to_have_the_store_without_root() {
    let Some(world) = World::trixie() else { return };
    world.example("");
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let mine = text
        .replace("/mnt/example/merged-store", "/mnt/alice/merged-store")
        .replace(Example::UPPER, "/mnt/alice/store-b")
        .replace(Example::WORKDIR, "/mnt/alice/workdir");
    world.write(Example::CONFIGURATION, mine);
    let command = "overstore exec example -- overstore check example";
    for code in ["not-set-up", "mount-missing"] {
        let check = world
            .overstore(["check", "--json", "example"])
            .by_alice()
            .run();
        let found = findings(&check);
        let found: Vec<_> = found
            .iter()
            .filter(|it| it["severity"] == "error")
            .collect();
        assert_eq!(found.len(), 1, "{check}");
        assert_eq!(found[0]["code"], code, "{check}");
        let ways = found[0]["remedies"].as_array().expect("a list");
        assert_eq!(ways[0]["commands"][0]["shell"], command, "{check}");
        // Root is no way to what is the user's.
        let root = ways.get(1).map(|way| &way["instruction"]);
        let expected = (code == "not-set-up").then(|| Value::from("as root"));
        assert_eq!(root, expected.as_ref(), "{check}");
        // As it stands.
        let run = world.command(["sh", "-c", command]).by_alice().run();
        assert_eq!(run.code(), Some(0), "{run}");
        assert!(run.stdout().contains("example: as described"), "{run}");
    }
}

/// 6, and the seventh point: what belongs to root is told as such.
#[test]
fn a_store_of_roots_is_told_as_such_to_a_user() {
    let Some(world) = World::trixie() else { return };
    let daemon = "[daemon]\nsocket = \"/run/example/socket\"\n";
    for (more, remedy) in [
        ("", "overstore new"),
        (daemon, "overstore url --client example"),
    ] {
        let example = world.example(more);
        example.up();
        example.command("down").ok();
        let run = world
            .overstore(["exec", "example", "--", "true"])
            .by_alice()
            .run();
        assert_eq!(run.code(), Some(125), "{run}");
        let text = run.stderr();
        assert_eq!(text.matches("error [").count(), 1, "{run}");
        assert!(
            text.contains("error [not-yours] /mnt/example/store-b"),
            "{run}"
        );
        assert!(text.contains(remedy), "{run}");
        assert!(!text.contains("chown"), "{run}");
        // It is not touched, and is as it was for root.
        assert_eq!(example.run("up").code(), Some(0));

        // From outside: what is to be done is root's.
        world.ok(["umount", Example::REAL]);
        let check = world.overstore(["check", "example"]).by_alice().run();
        assert!(
            check
                .stdout()
                .contains("remedy:   as root: overstore up example\n"),
            "{check}"
        );
        world.ok(["rm", "-rf", "/mnt/example"]);
    }
}

/// 6: `check --nix` of a store of root's by a user, and the URL for clients of a daemon that is not
/// described.
#[test]
fn a_user_is_not_sent_to_a_daemon_that_serves_another_store() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let check = world.overstore(["check", "--nix", "--json", "example"]);
    let check = check.by_alice().run();
    let found = findings(&check);
    let refused = found.iter().find(|it| it["code"] == "nix-refuses");
    let remedy = refused.expect("Nix cannot open it")["remedy"].as_str();
    let remedy = remedy.expect("a text");
    assert!(remedy.contains("a store of your own"), "{check}");
    assert!(!remedy.contains("found above"), "{check}");

    let url = world.overstore(["url", "--client", "example"]).run();
    assert_eq!(url.code(), Some(0), "{url}");
    let expected = "unix:///nix/var/nix/daemon-socket/socket?root=/mnt/example/merged-store\n";
    assert_eq!(url.stdout(), expected, "{url}");
    let warning = "no daemon is described for example: this is the URL of the system's";
    assert!(url.stderr().contains(warning), "{url}");
    assert!(url.stderr().contains("`[daemon]`"), "{url}");
    let socket = ["url", "--client", "--socket", "/run/socket", "example"];
    let socket = world.overstore(socket).run();
    assert_eq!(socket.stderr(), "", "{socket}");
}

/// 7: an overlay that somebody else has mounted, and a daemon that does not take this user.
#[test]
fn what_is_advised_of_somebody_elses_mount_or_daemon_can_be_done() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        Example::LOWER,
        Example::UPPER,
        Example::WORKDIR
    );
    world.ok(["umount", Example::REAL]);
    let mount = ["mount", "-t", "overlay", "overlay", "-o", &options];
    world.command(mount).args([Example::REAL]).ok();
    let links = world.path(Example::UPPER).join(".links");
    rustix::fs::removexattr(links, "trusted.overlay.opaque").expect("it was set");
    let check = world.overstore(["check", "--json", "example"]).run();
    let found = findings(&check);
    assert_eq!(found[0]["code"], "links-not-opaque", "{check}");
    let commands = found[0]["remedies"][0]["commands"].as_array();
    for command in commands.expect("commands") {
        world.ok(["sh", "-c", command["shell"].as_str().expect("a command")]);
    }
    assert_eq!(codes(&world), [""; 0]);

    // A daemon that is there, and starting it is no way to be let in.
    let socket = "/run/daemon/socket";
    let daemon = format!("unix://{socket}?root=/mnt/example/store-a");
    let described = format!(
        "root = \"/mnt/alice/root\"\nlower-store = \"{daemon}\"\n\
         upper-layer = \"/mnt/alice/upper\"\nworkdir = \"/mnt/alice/work\"\n"
    );
    world.mkdir("/mnt/alice");
    world.ok(["chown", "alice:", "/mnt/alice"]);
    world.write("/etc/overstore/alice.toml", described);
    world.write(
        "/etc/nix/nix.conf",
        "substituters =\nallowed-users = root\n",
    );
    let _daemon = world.nix_daemon("/mnt/example/store-a", socket);
    let silent = || {
        let check = world.overstore(["check", "--json", "alice"]).by_alice();
        let check = check.run();
        let found = findings(&check);
        let silent = found.iter().find(|it| it["code"] == "lower-daemon-silent");
        let silent = silent.unwrap_or_else(|| panic!("{check}"));
        silent["remedy"].as_str().expect("a text").to_owned()
    };
    let told = silent();
    assert!(
        told.starts_with("read the daemon's own log, which says why; or "),
        "{told}"
    );
    assert!(told.contains("name alice"), "{told}");
    world.ok(["chmod", "0700", "/run/daemon"]);
    assert!(silent().contains("give this user access"), "{}", silent());
}

/// 23: a store directory as `root`.
#[test]
fn a_root_that_is_a_store_directory_is_refused() {
    let Some(world) = World::trixie() else { return };
    for (root, help) in [
        ("/mnt/m/nix/store", "write `root = \"/mnt/m\"`"),
        ("/mnt/m/nix/store/", "write `root = \"/mnt/m\"`"),
        ("/nix/store", "leave `root` out"),
    ] {
        world.example("");
        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        world.write(
            Example::CONFIGURATION,
            text.replace("/mnt/example/merged-store", root),
        );
        for command in ["up", "plan", "check", "url"] {
            let refused = world.overstore([command, "example"]).fails();
            assert_eq!(refused.code(), Some(2), "{refused}");
            assert!(
                refused.stderr().contains("`root` ends in `nix/store`"),
                "{refused}"
            );
            assert!(refused.stderr().contains(help), "{refused}");
        }
        world.ok(["rm", "-r", "/mnt/example"]);
    }
}

/// What Nix's own collector stops at is told, but for what somebody is at work on, and it is as told.
#[test]
fn what_stops_nix_s_collector_is_told() {
    for world in World::each() {
        let example = world.example("[parameters]\npath-info-cache-size = 0\n");
        example.up();
        let temporary = format!("{}/tmp-1-2", Example::REAL);
        world.mkdir(&temporary);
        assert_eq!(codes(&world), ["temporary-name"]);
        let gc = example.nix(&["nix-store", "--gc"]).fails();
        assert!(
            gc.stderr().contains("too short to be a valid store path"),
            "{gc}"
        );

        // While it is locked, as Nix does it, somebody is at work.
        let script = "flock -n \"$0\" sh -c 'touch /run/locked; exec sleep infinity'";
        let mut child = world.command(["sh", "-c", script, &temporary]).spawn();
        wait_until("it is locked", || world.path("/run/locked").exists());
        assert_eq!(codes(&world), [""; 0]);
        child.kill().expect("a child of this test");
        child.wait().expect("a child of this test");

        // With that parameter Nix's collector works, and nothing is said of it.
        world.ok(["rmdir", &temporary]);
        example.nix(&["nix-store", "--gc"]).ok();
        let check = world
            .overstore(["check", "--nix", "--json", "example"])
            .run();
        assert_eq!(findings(&check), [Value::Null; 0], "{check}");
    }
}
