//! `overstore down`, on the real kernel.

use std::process::Child;

use crate::support::{Example, Snapshot, World, end, wait_until};

#[test]
fn down_unmounts_and_keeps_everything_else() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let before = example.mounts("TARGET");
    example.up();
    let upper = Snapshot::of(world.path(Example::UPPER));
    let database = Snapshot::of(world.path(format!("{}/db", Example::STATE)));
    assert!(
        example
            .command("down")
            .ok()
            .ends_with("example: unmounted\n")
    );
    assert_eq!(example.mounts("TARGET"), before);
    upper.assert_unchanged(world.path(Example::UPPER));
    database.assert_unchanged(world.path(format!("{}/db", Example::STATE)));
    assert!(world.records().is_empty());

    let all = Snapshot::of(world.path("/mnt"));
    assert!(
        example
            .command("down")
            .ok()
            .ends_with("example: was not mounted\n")
    );
    all.assert_unchanged(world.path("/mnt"));
    example.up();
}

#[test]
fn down_of_what_never_was_up_is_no_error() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let before = Snapshot::of(world.path("/mnt"));
    assert!(
        example
            .command("down")
            .ok()
            .ends_with("example: was not mounted\n")
    );
    before.assert_unchanged(world.path("/mnt"));
}

/// Starts a shell in the World and waits until it is where it should be, and a `sleep`.
fn holder(world: &World, script: &str) -> Child {
    let child = world
        .command([
            "bash",
            "-c",
            &format!("{script}; echo $$ >/run/holding; exec -a holder sleep infinity"),
        ])
        .spawn();
    let is_there = r#"[ "$(cat "/proc/$(cat /run/holding)/comm")" = sleep ]"#;
    wait_until("the holder is there", || {
        world.run(["sh", "-c", is_there]).status.success()
    });
    world.ok(["rm", "/run/holding"]);
    child
}

#[test]
fn down_names_the_processes_that_hold_a_busy_mount() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let real = Example::REAL;
    world.ok(["cp", "/usr/bin/sleep", &format!("{real}/sleep")]);
    for (script, how) in [
        (format!("cd {real}"), "working directory".to_owned()),
        (
            format!("exec 7<{real}/sleep"),
            format!("open file 7: {real}/sleep"),
        ),
        (
            format!("exec 7<{real}/.links; cd /"),
            format!("open file 7: {real}/.links"),
        ),
    ] {
        let mut child = holder(&world, &script);
        let outcome = example.run("down");
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        assert!(outcome.stderr().contains(&how), "{how}: {outcome}");
        assert!(outcome.stderr().contains("sleep (process "), "{outcome}");
        assert_eq!(example.mounts("FSTYPE"), ["overlay"]);
        end(&mut child);
    }

    // A program that runs from it, and what it has mapped.
    let mut child = world
        .command([&format!("{real}/sleep"), "infinity"])
        .spawn();
    wait_until("the program runs", || {
        // The kernel sets its arguments last of all, after its name and what it maps.
        let running = format!(
            "for p in /proc/[0-9]*; do
                 [ $p/exe -ef {real}/sleep ] && grep -q . $p/cmdline && exit 0
             done
             exit 1"
        );
        world.run(["sh", "-c", &running]).status.success()
    });
    let outcome = example.command("down").args(["--json"]).run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    let report: serde_json::Value = serde_json::from_slice(&outcome.out).expect("JSON");
    assert_eq!(report["holders"][0]["name"], "sleep", "{outcome}");
    let how = report["holders"][0]["how"].as_array().expect("a list");
    assert!(how.iter().any(|how| how == "program"), "{outcome}");
    assert!(
        how.iter().any(|how| how
            .as_str()
            .is_some_and(|how| how.starts_with("mapped file"))),
        "{outcome}"
    );
    assert_eq!(report["outcome"], "failed");
    end(&mut child);
    example.command("down").ok();
}

#[test]
fn a_mount_below_it_is_named() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let below = format!("{}/.links", Example::REAL);
    world.ok(["mount", "-t", "tmpfs", "below", &below]);
    let outcome = example.run("down");
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    assert!(
        outcome.stderr().contains(&format!("mounted at {below}")),
        "{outcome}"
    );
    world.ok(["umount", &below]);
    example.command("down").ok();
}

#[test]
fn a_busy_mount_is_detached_with_the_flag() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let mut child = holder(&world, &format!("cd {}", Example::REAL));
    example.command("down").args(["--lazy"]).ok();
    assert_eq!(example.mounts("TARGET"), [""; 0]);
    // Its user still has it, so the upper layer is still in use.
    let outcome = example.run("up");
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stdout().contains("[upper-in-use]"), "{outcome}");
    child.kill().expect("a child of this test");
    child.wait().expect("a child of this test");
    // The kernel takes the file system down after the process.
    wait_until("the upper layer is free again", || {
        example.run("up").code() == Some(0)
    });
}

#[test]
fn what_up_did_not_mount_stays() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let stays = |what: &str, says: &str| {
        let before = example.mounts("SOURCE,FSTYPE,OPTIONS");
        let outcome = example.run("down");
        assert_eq!(outcome.code(), Some(3), "{what}: {outcome}");
        assert!(outcome.stderr().contains(says), "{what}: {outcome}");
        assert_eq!(example.mounts("SOURCE,FSTYPE,OPTIONS"), before, "{what}");
    };
    let umount = || world.ok(["umount", Example::REAL]);
    world.ok([
        "mkdir",
        "-p",
        Example::REAL,
        Example::UPPER,
        Example::WORKDIR,
    ]);

    world.ok(["mount", "-t", "tmpfs", "other", Example::REAL]);
    stays("another file system", "tmpfs (other) is mounted");
    umount();

    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        Example::LOWER,
        Example::UPPER,
        Example::WORKDIR
    );
    world.ok([
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        &options,
        Example::REAL,
    ]);
    stays(
        "the same overlay, mounted by hand",
        "was not mounted by `overstore up`",
    );
    // `up` finds it in order, and does not make it its own.
    example.up();
    stays(
        "the same overlay, found by up",
        "was not mounted by `overstore up`",
    );
    umount();

    example.up();
    world.ok(["mount", "--bind", Example::REAL, Example::REAL]);
    world.ok(["mount", "-o", "remount,bind,ro", Example::REAL]);
    stays(
        "a read-only bind mount on top, as NixOS makes one",
        "a bind mount of the overlay lies on top",
    );
    umount();
    example.command("down").ok();

    // A record that is older than the mount.
    example.up();
    umount();
    world.ok([
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        &options,
        Example::REAL,
    ]);
    stays(
        "another overlay than the one recorded",
        "was not mounted by `overstore up`",
    );
    umount();
}

/// The overlay of the directories described, mounted by hand: only the flag unmounts it.
#[test]
fn an_overlay_without_a_record_goes_with_the_flag() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    let mount = |options: &str| {
        let mount = ["mount", "-t", "overlay", "overlay", "-o", options];
        world.command(mount).args([Example::REAL]).ok();
    };
    let options = |lower: &str, upper: &str, work: &str| {
        format!("lowerdir={lower},upperdir={upper},workdir={work}")
    };
    let described = options(Example::LOWER, Example::UPPER, Example::WORKDIR);
    mount(&described);
    let outcome = example.run("down");
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    let remedy = "overstore down --unrecorded example";
    assert!(outcome.stderr().contains(remedy), "{outcome}");
    assert_eq!(example.mounts("FSTYPE"), ["overlay"]);
    example.command("down").args(["--unrecorded"]).ok();
    assert_eq!(example.mounts("FSTYPE"), [""; 0]);

    // By other names, it is the same.
    world.ok([
        "sh",
        "-ec",
        "mkdir /mnt/e; mount --bind /mnt/example /mnt/e",
    ]);
    let again = |path: &str| path.replace("/mnt/example", "/mnt/e");
    mount(&options(
        &again(Example::LOWER),
        &again(Example::UPPER),
        &again(Example::WORKDIR),
    ));
    example.command("down").args(["--unrecorded"]).ok();

    // Other directories are not, each of them, whatever the text says.
    world.ok([
        "sh",
        "-ec",
        "mkdir -p /mnt/other/upper /mnt/other/work; cp -a /mnt/example/store-a/nix/store /mnt/other/lower",
    ]);
    for (lower, upper, work) in [
        ("/mnt/other/lower", Example::UPPER, Example::WORKDIR),
        (Example::LOWER, "/mnt/other/upper", "/mnt/other/work"),
    ] {
        mount(&options(lower, upper, work));
        let outcome = example.command("down").args(["--unrecorded"]).run();
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        assert!(outcome.stderr().contains("not one of exactly"), "{outcome}");
        world.ok(["umount", Example::REAL]);
    }
    mount(&described);
    world.ok(["mount", "-t", "tmpfs", "other", Example::REAL]);
    let outcome = example.command("down").args(["--unrecorded"]).run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    world.ok(["umount", Example::REAL]);
    world.ok(["umount", Example::REAL]);
}

/// D1: a record proves nothing of an overlay that was mounted later, also where the kernel gave it the
/// same numbers, as it does before Linux 6.8.
#[test]
fn a_record_is_no_proof_of_a_later_overlay() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let record = format!("/run/overstore/{}", world.records()[0].display());
    let ours = world.read(&record);
    world.ok(["umount", Example::REAL]);
    world.ok(["mkdir", "-p", "/mnt/other/upper", "/mnt/other/work"]);
    let options = format!(
        "lowerdir={},upperdir=/mnt/other/upper,workdir=/mnt/other/work",
        Example::LOWER
    );
    let mount = ["mount", "-t", "overlay", "overlay", "-o", &options];
    world.command(mount).args([Example::REAL]).ok();
    let refused = || {
        let outcome = example.run("down");
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        assert_eq!(example.mounts("FSTYPE"), ["overlay"]);
    };
    // `up` killed just before it mounted leaves just this.
    refused();
    // The record as an older kernel would have it, with the numbers of the mount that is there.
    let mut record_of = serde_json::from_slice::<serde_json::Value>(&ours).expect("JSON");
    let numbers = world.ok(["findmnt", "-no", "ID,MAJ:MIN", Example::REAL]);
    let (id, device) = numbers.trim().split_once(' ').expect("two columns");
    let (major, minor) = device.trim().split_once(':').expect("two numbers");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    record_of["overlay"] = serde_json::json!({
        "dev": rustix::fs::makedev(number(major), number(minor)),
        "mount_id": number(id),
        "unique_mount_id": null,
    });
    world.write(&record, record_of.to_string());
    refused();
    // Of the directories recorded, it is ours.
    world.ok(["umount", Example::REAL]);
    world.write(&record, &ours);
    example.up();
    let mut record_of =
        serde_json::from_slice::<serde_json::Value>(&world.read(&record)).expect("JSON");
    record_of["overlay"]["unique_mount_id"] = serde_json::Value::Null;
    world.write(&record, record_of.to_string());
    example.command("down").ok();
}

#[test]
fn what_up_mounted_goes_although_the_description_has_changed() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    world.write(Example::CONFIGURATION, text.replace("store-b", "store-c"));
    let outcome = example.run("up");
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stdout().contains("[upperdir-differs]"), "{outcome}");
    example.command("down").ok();
    assert_eq!(example.mounts("TARGET"), [""; 0]);
}
