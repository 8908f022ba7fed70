//! What the other tests stand on: that a World is what it says it is, and that the proofs can fail.

use crate::support::{Running, Snapshot, World, wait_until};

#[test]
fn a_world_has_real_nix_and_the_program() {
    for world in World::each() {
        let version = world.nix(["nix", "--version"]).ok();
        assert!(version.starts_with("nix (Nix) 2."), "{version}");
        world.ok(["test", "-x", "/usr/bin/overstore"]);
        assert_eq!(
            world.ok(["readlink", "/usr/bin/overstore-remount"]),
            "overstore\n"
        );
    }
}

#[test]
fn an_ordinary_user_can_make_user_namespaces() {
    let Some(world) = World::trixie() else { return };
    let id = world.command(["id", "--user", "--name"]).by_alice().ok();
    assert_eq!(id, "alice\n");
    world
        .command([
            "unshare",
            "--user",
            "--map-current-user",
            "--keep-caps",
            "--mount",
        ])
        .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .by_alice()
        .ok();
}

#[test]
fn what_is_done_in_a_world_stays_there() {
    let Some(world) = World::trixie() else { return };
    let before = Snapshot::of(world.tree.path.join("etc"));
    world.write("/etc/overstore/example.toml", "text");
    world.ok(["rm", "/etc/passwd"]);
    before.assert_unchanged(world.tree.path.join("etc"));

    let other = World::new(world.tree);
    other.fails(["test", "-e", "/etc/overstore/example.toml"]);
    other.ok(["test", "-e", "/etc/passwd"]);
}

#[test]
fn nothing_outlives_a_world() {
    let Some(world) = World::trixie() else { return };
    let mut child = world.command(["sleep", "600"]).spawn();
    let daemon = world.nix_daemon("local", "/run/nix.socket");
    world
        .nix(["nix", "store", "info", "--store", "unix:///run/nix.socket"])
        .ok();
    let root = world.path("/");
    assert!(root.exists());
    drop(world);
    child.wait().expect("it is a child of this test");
    drop(daemon);
    assert!(!root.exists());
}

#[test]
fn the_outcome_of_a_command_is_its_own() {
    let Some(world) = World::trixie() else { return };
    assert_eq!(world.run(["sh", "-c", "exit 42"]).code(), Some(42));
    assert_eq!(world.run(["sh", "-c", "kill -TERM $$"]).signal(), Some(15));
    assert_eq!(world.command(["cat"]).stdin("some text").ok(), "some text");
    assert_eq!(
        world.command(["pwd"]).current_dir("/usr/lib").ok(),
        "/usr/lib\n"
    );
    assert_eq!(
        world.command(["sh", "-c", "echo $A"]).env("A", "b c").ok(),
        "b c\n"
    );
}

#[test]
fn a_world_has_the_file_systems_that_stores_lie_on() {
    let Some(world) = World::trixie() else { return };
    world.write("/mnt/content/file", "text");
    for kind in ["squashfs", "erofs"] {
        let at = format!("/mnt/{kind}");
        if world.image(kind, "/mnt/content", &at) {
            assert_eq!(world.read(at + "/file"), b"text");
        }
    }
    for kind in ["ext4", "xfs", "btrfs"] {
        let at = format!("/mnt/{kind}");
        if world.disk(kind, &at) {
            assert_eq!(
                world
                    .ok(["findmnt", "--noheadings", "--output", "FSTYPE", &at])
                    .trim(),
                kind
            );
            world.write(at + "/file", "text");
        }
    }
}

#[test]
fn a_snapshot_sees_every_kind_of_change() {
    let Some(world) = World::trixie() else { return };
    for change in [
        "chmod 700 file",
        "chown alice file",
        "chgrp alice directory",
        "touch --date=@1000 file",
        "echo more >>file",
        "echo Text >file",
        "ln --symbolic --force elsewhere link",
        "ln file another",
        "rm file",
        "mkdir directory/below",
        "mknod pipe p",
        // Undone, which only the inode change time shows.
        "mv file other && mv other file",
        "chmod 700 directory && chmod 755 directory",
    ] {
        world.ok([
            "sh",
            "-c",
            "rm -rf /mnt/store; mkdir -p /mnt/store/directory",
        ]);
        world
            .command(["sh", "-c", "echo text >file; ln -s target link"])
            .current_dir("/mnt/store")
            .ok();
        let before = Snapshot::of(world.path("/mnt/store"));
        assert_eq!(before.paths().count(), 4);
        before.assert_unchanged(world.path("/mnt/store"));
        world
            .command(["sh", "-c", change])
            .current_dir("/mnt/store")
            .ok();
        let after = Snapshot::of(world.path("/mnt/store"));
        assert!(!before.differences(&after).is_empty(), "not seen: {change}");
    }

    let before = Snapshot::of(world.path("/mnt/store"));
    let root = world.path("/mnt/store");
    rustix::fs::setxattr(&root, "trusted.test", b"1", rustix::fs::XattrFlags::CREATE)
        .expect("tmpfs");
    let differences = before.differences(&Snapshot::of(&root));
    assert!(differences.contains("trusted.test"), "{differences}");
}

#[test]
fn a_trace_tells_reading_from_changing() {
    let Some(world) = World::trixie() else { return };
    world.ok(["mkdir", "-p", "/mnt/store/a b"]);
    world.write("/mnt/store/a b/file", "text");

    for harmless in [
        "cat '/mnt/store/a b/file'",
        "ls -lR /mnt/store",
        "cd '/mnt/store/a b' && cat file >/mnt/copy",
        "ln -s /mnt/store/x /mnt/link",
        "cp --reflink=never /mnt/store/a*/file /mnt/other",
    ] {
        let (outcome, trace) = world.command(["sh", "-c", harmless]).traced();
        assert!(outcome.status.success(), "{outcome}");
        trace.assert_only_read("/mnt/store");
        assert!(
            trace.changes_below("/mnt/sto").is_empty(),
            "a name's beginning is not its parent"
        );
    }

    for change in [
        "echo more >>'/mnt/store/a b/file'",
        "cd '/mnt/store/a b' && echo >new",
        "cd /mnt/store && mkdir 'a b/../c'",
        "chmod 644 '/mnt/store/a b/file'",
        "chown root /mnt/store",
        "touch /mnt/store",
        "flock --shared '/mnt/store/a b/file' true",
        "mv '/mnt/store/a b' /mnt/store/a",
        "ln /mnt/store/a/file /mnt/hard-link",
        "rm /mnt/store/a/file",
        "rm -f /mnt/store/missing",
        // Through a symbolic link from outside.
        "ln -s /mnt/store /mnt/alias; echo >/mnt/alias/through",
        "exec 7</mnt/store; mkdir /proc/self/fd/7/through-descriptor",
        "sqlite3 /mnt/store/db 'create table t (c)'",
        "sqlite3 -readonly /mnt/store/db 'select * from t'",
        "(echo >/mnt/store/child) & wait",
    ] {
        let (outcome, trace) = world.command(["sh", "-c", change]).traced();
        assert!(outcome.status.success(), "{outcome}");
        assert!(
            !trace.changes_below("/mnt/store").is_empty(),
            "not seen: {change}"
        );
    }
}

#[test]
fn a_command_is_killed_before_the_call_it_is_killed_at() {
    let Some(world) = World::trixie() else { return };
    let names = ["1", "2", "3"];
    let make = |directory: &str| {
        world.mkdir(directory);
        world.command(["mkdir"]).args(names).current_dir(directory)
    };
    let (_, trace) = make("/mnt/traced").traced();
    let points: Vec<_> = names
        .iter()
        .map(|name| ("mkdir".to_owned(), name.parse().unwrap()))
        .collect();
    assert_eq!(trace.kill_points(), points);
    for (call, nth) in points {
        let directory = format!("/mnt/killed-{nth}");
        let outcome = make(&directory).killed_at(&call, nth);
        assert_eq!(outcome.signal(), Some(9), "{outcome}");
        assert_eq!(world.list(&directory), names[..nth - 1]);
    }
    assert!(make("/mnt/late").killed_at("mkdir", 4).status.success());
    assert_eq!(world.list("/mnt/late"), names);
}

/// What was running has let go of everything, or the next unmount could fail.
#[test]
fn a_command_that_was_ended_is_gone() {
    let Some(world) = World::trixie() else { return };
    // Much memory takes a while to be given back.
    let script = "x=$(head -c 64M /dev/zero \
                  | tr '\\0' x); echo $BASHPID >/tmp/runs; read -u 3 never";
    for _ in 0..3 {
        world.ok(["rm", "-f", "/tmp/runs", "/tmp/never"]);
        world.ok(["mkfifo", "/tmp/never"]);
        let script = format!("exec 3<>/tmp/never; {script}");
        let running = Running(world.command(["bash", "-c", &script]).spawn());
        wait_until("it runs", || {
            world.path("/tmp/runs").exists() && world.read("/tmp/runs").ends_with(b"\n")
        });
        let pid = String::from_utf8(world.read("/tmp/runs")).expect("a number");
        let process = world.path("/proc").join(pid.trim());
        assert!(process.exists());
        drop(running);
        assert!(!process.exists());
    }
}
