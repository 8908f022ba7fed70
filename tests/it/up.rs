//! `overstore up`, on the real kernel and with real Nix.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;

use crate::support::{Example, Outcome, Snapshot, World, wait_until};

#[test]
fn nix_opens_what_up_made_with_its_mount_check_on() {
    for world in World::each() {
        let example = world.example("");
        example.up();
        example.nix(&["nix", "store", "info"]).ok();

        // What is added lands in the upper layer only.
        let lower = Snapshot::of(world.path("/mnt/example/store-a"));
        world.write("/mnt/note", "something new");
        let path = example.nix(&["nix", "store", "add-path", "/mnt/note"]).ok();
        let name = path.trim().trim_start_matches("/nix/store/");
        assert_eq!(
            world.read(format!("{}/{name}", Example::UPPER)),
            b"something new"
        );
        // What is below is seen, with its metadata, and not copied.
        for below in example.lower.paths() {
            example.nix(&["nix-store", "--check-validity", &below]).ok();
            let name = below.trim_start_matches("/nix/store/");
            assert!(!world.path(Example::UPPER).join(name).exists(), "{name}");
        }
        lower.assert_unchanged(world.path("/mnt/example/store-a"));

        // The collector takes the new object, and leaves no whiteouts from `.links`.
        example.nix(&["nix-store", "--gc"]).ok();
        assert!(!world.path(Example::UPPER).join(name).exists());
        let whiteouts = world.ok(["find", Example::UPPER, "-type", "c"]);
        assert_eq!(whiteouts, "");
    }
}

#[test]
fn up_again_changes_nothing_and_says_so() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    assert!(example.up().ends_with("example: is up\n"));
    let [mnt, run] = ["/mnt", "/run"].map(|path| Snapshot::of(world.path(path)));
    let (outcome, trace) = example.command("up").traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(
        outcome
            .stdout()
            .ends_with("example: is up, nothing changed\n"),
        "{outcome}"
    );
    mnt.assert_unchanged(world.path("/mnt"));
    run.assert_unchanged(world.path("/run"));
    trace.assert_only_read("/mnt/example/store-a");
    let mounts = example.mounts("TARGET");
    assert_eq!(mounts, [Example::REAL]);
}

/// The kind, mode, owner and size of what is in a directory, for comparison. Sizes of directories
/// and links are their file system's and their target's matter.
fn listing(world: &World, path: &str) -> String {
    let script = "find . -type f -printf '%y %m %U:%G %s %P\\n' , \
                  -not -type f -printf '%y %m %U:%G %P -> %l\\n'";
    world.command(["sh", "-c", script]).current_dir(path).ok()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn directories_get_the_owner_and_mode_that_nix_gives_them_whatever_the_umask() {
    let Some(world) = World::trixie() else { return };
    let mut before: Option<String> = None;
    for umask in ["0000", "0022", "0077"] {
        world.ok(["rm", "-rf", "/mnt/example"]);
        let example = world.example("");
        world.ok(["sh", "-c", &format!("umask {umask}; overstore up example")]);
        let stat = |path: &str| world.ok(["stat", "--format=%u:%g %a", path]);
        // The upper layer directory is what shows as the merged store directory.
        assert_eq!(stat(Example::UPPER), "0:30000 1775\n");
        assert_eq!(stat(Example::REAL), "0:30000 1775\n");
        for path in [
            Example::WORKDIR,
            Example::STATE,
            "/mnt/example/merged-store",
            "/mnt/example/merged-store/nix",
        ] {
            assert_eq!(stat(path), "0:0 755\n", "{path}");
        }
        let now = listing(&world, &format!("{}/..", Example::STATE));
        let now: Vec<_> = now
            .lines()
            .filter(|line| !line.contains("state.json"))
            .collect();
        let now = now.join("\n");
        if let Some(before) = before.replace(now.clone()) {
            assert_eq!(before, now, "umask {umask}");
        }
        assert_eq!(example.run("down").code(), Some(0));
    }
}

#[test]
fn directories_are_right_below_parents_that_pass_their_group_or_list_on() {
    let Some(world) = World::trixie() else { return };
    world.ok(["mkdir", "-p", "/mnt/example"]);
    world.ok(["chgrp", "nogroup", "/mnt/example"]);
    world.ok(["chmod", "2755", "/mnt/example"]);
    let example = world.example("");
    example.up();
    for (path, wanted) in [
        (Example::UPPER, "0:30000 1775\n"),
        (Example::WORKDIR, "0:0 755\n"),
        (Example::STATE, "0:0 755\n"),
    ] {
        assert_eq!(
            world.ok(["stat", "--format=%u:%g %a", path]),
            wanted,
            "{path}"
        );
    }
}

#[test]
fn without_a_build_users_group_the_upper_layer_is_roots_alone() {
    let Some(world) = World::trixie() else { return };
    world
        .example("[permissions]\nbuild-users-group = \"\"")
        .up();
    assert_eq!(
        world.ok(["stat", "--format=%u:%g %a", Example::UPPER]),
        "0:0 755\n"
    );
}

#[test]
fn existing_directories_are_re_owned_only_with_the_flag() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir(Example::UPPER);
    let stat = || world.ok(["stat", "--format=%u:%g %a", Example::UPPER]);
    assert_eq!(stat(), "0:0 755\n");
    let outcome = example.run("up");
    assert!(
        outcome.stdout().contains("[upper-permissions]"),
        "{outcome}"
    );
    assert_eq!(stat(), "0:0 755\n");
    example.command("up").args(["--fix-permissions"]).ok();
    assert_eq!(stat(), "0:30000 1775\n");
    let fix = || example.command("up").args(["--fix-permissions"]).ok();
    let again = fix();
    assert!(again.ends_with("nothing changed\n"), "{again}");
    // Mounted, it is done through the mount.
    world.ok(["chmod", "0755", Example::REAL]);
    world.ok(["chown", "root:root", Example::REAL]);
    let steps = fix();
    assert!(
        steps.contains(&format!("give {} the owner", Example::REAL)),
        "{steps}"
    );
    assert_eq!(stat(), "0:30000 1775\n");
    assert_eq!(
        world.ok(["stat", "--format=%u:%g %a", Example::REAL]),
        stat()
    );
}

#[test]
fn the_state_is_the_one_that_nix_makes() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world
        .nix(["nix", "store", "info", "--store", "/mnt/by-nix"])
        .ok();
    let schema = |state: &str| {
        world.ok([
            "sqlite3",
            "-readonly",
            &format!("{state}/db/db.sqlite"),
            ".schema",
            "pragma journal_mode",
            "pragma page_size",
            "pragma encoding",
            "pragma auto_vacuum",
            "pragma user_version",
            "pragma application_id",
        ])
    };
    assert_eq!(schema(Example::STATE), schema("/mnt/by-nix/nix/var/nix"));
    let ours = listing(&world, Example::STATE);
    let theirs = listing(&world, "/mnt/by-nix/nix/var/nix");
    // Nix leaves its journal behind and keeps the times of sockets and caches elsewhere; we keep a
    // memory of our own. The database itself is as long as it is, in the log or not.
    let comparable = |text: &str| -> Vec<String> {
        sorted(text)
            .into_iter()
            .filter(|line| !line.contains("db/db.sqlite") && !line.contains("overstore"))
            .map(|line| line.replace("/mnt/by-nix", "/mnt/example/merged-store"))
            .collect()
    };
    assert_eq!(comparable(&ours), comparable(&theirs));
    assert_eq!(world.read(format!("{}/db/schema", Example::STATE)), b"10");
}

#[test]
fn without_a_write_ahead_log_the_database_has_none() {
    for world in World::each() {
        let example = world.example("[database]\nuse-sqlite-wal = false");
        example.up();
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let header = world.read(&database);
        assert_eq!(&header[18..20], &[1, 1]);
        example
            .nix(&[
                "nix",
                "store",
                "info",
                "--option",
                "use-sqlite-wal",
                "false",
            ])
            .ok();
        let header = world.read(&database);
        assert_eq!(&header[18..20], &[1, 1]);
    }
}

#[test]
fn a_database_that_nix_began_is_completed() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir(format!("{}/db", Example::STATE));
    let database = format!("{}/db/db.sqlite", Example::STATE);
    for begun in [
        "",
        "create table ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null, registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);",
    ] {
        world.ok([
            "sh",
            "-c",
            &format!("rm -rf {0}/db/*; : >{database}", Example::STATE),
        ]);
        world.ok(["sqlite3", &database, begun]);
        example.up();
        example.nix(&["nix", "store", "info"]).ok();
        let tables = world.ok([
            "sqlite3",
            &database,
            "select count(*) from sqlite_master where type = 'table' and name not like 'sqlite%'",
        ]);
        assert_eq!(tables, "4\n");
        assert_eq!(example.run("down").code(), Some(0));
    }
}

#[test]
fn an_existing_database_is_kept_and_a_newer_one_refused() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example
        .nix(&["nix-store", "--check-validity", &example.lower.paths()[0]])
        .ok();
    assert_eq!(example.run("down").code(), Some(0));
    let database = Snapshot::of(world.path(format!("{}/db", Example::STATE)));
    example.up();
    database.assert_unchanged(world.path(format!("{}/db", Example::STATE)));
    assert_eq!(example.run("down").code(), Some(0));

    world.write(format!("{}/db/schema", Example::STATE), "11");
    let outcome = example.run("up");
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stdout().contains("[schema-unknown]"), "{outcome}");
    assert_eq!(example.mounts("TARGET"), [""; 0]);
}

#[test]
fn what_is_mounted_there_already_is_left_alone() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir(Example::REAL);
    world.ok(["mount", "-t", "tmpfs", "other", Example::REAL]);
    let before = Snapshot::of(world.path("/mnt"));
    let outcome = example.run("up");
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stdout().contains("[mount-foreign]"), "{outcome}");
    before.assert_unchanged(world.path("/mnt"));
    assert_eq!(example.mounts("FSTYPE"), ["tmpfs"]);
}

#[test]
fn an_upper_layer_in_use_by_another_overlay_is_refused() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.ok([
        "mkdir",
        "-p",
        Example::UPPER,
        "/mnt/example/other-work",
        "/mnt/elsewhere",
    ]);
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir=/mnt/example/other-work /mnt/elsewhere",
        Example::LOWER,
        Example::UPPER
    );
    // In another mount namespace first, then in this one.
    let mut other = world
        .command(["unshare", "--mount", "--propagation=private", "sh", "-c"])
        .args([format!(
            "{mount} && touch /run/mounted && exec sleep infinity"
        )])
        .spawn();
    wait_until("it is mounted", || world.path("/run/mounted").exists());
    let refused = || {
        let outcome = example.run("up");
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stdout().contains("[upper-in-use]"), "{outcome}");
        assert_eq!(example.mounts("TARGET"), [""; 0]);
    };
    refused();
    other.kill().expect("a child of this test");
    other.wait().expect("a child of this test");
    world.ok(["sh", "-c", &mount]);
    refused();
    world.ok(["umount", "/mnt/elsewhere"]);
    example.up();
}

#[test]
fn an_upper_layer_that_a_process_has_locked_is_refused() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir(Example::UPPER);
    let lock = world.lock_file(Example::UPPER);
    let mut holder = world
        .command(["flock", "--no-fork", "--exclusive", &lock, "sh", "-c"])
        .args(["touch /run/locked; exec sleep infinity"])
        .spawn();
    wait_until("it is locked", || world.path("/run/locked").exists());
    let outcome = example.run("up");
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stdout().contains("[upper-in-use]"), "{outcome}");
    assert!(
        outcome.stdout().contains("lock on it is held by process"),
        "{outcome}"
    );
    assert_eq!(example.mounts("TARGET"), [""; 0]);
    holder.kill().expect("a child of this test");
    holder.wait().expect("a child of this test");
    // The lock goes with the holder's own child, a moment later.
    world.ok(["flock", "--exclusive", "--timeout=600", &lock, "true"]);
    example.up();
}

#[test]
fn without_root_up_points_to_exec() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let before = Snapshot::of(world.path("/mnt"));
    let outcome = example.command("up").by_alice().run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    assert!(outcome.stderr().contains("overstore exec"), "{outcome}");
    before.assert_unchanged(world.path("/mnt"));
}

#[test]
fn plan_prints_the_steps_and_takes_none() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let [mnt, run] = ["/mnt", "/run"].map(|path| Snapshot::of(world.path(path)));
    let plan = example.command("plan").ok();
    mnt.assert_unchanged(world.path("/mnt"));
    run.assert_unchanged(world.path("/run"));
    let steps = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with(['+', '-']));
        lines.map(|line| line[2..].to_owned()).collect()
    };
    assert_eq!(steps(&plan), steps(&example.up()));
    assert!(example.command("plan").ok().contains("nothing to do"));
}

#[test]
fn the_service_manager_hears_of_each_step_and_of_the_end() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let socket = UnixDatagram::bind(world.path("/run/notify")).expect("a tmpfs");
    socket.set_nonblocking(true).expect("a socket");
    let heard = || -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect()
    };
    example
        .command("up")
        .env("NOTIFY_SOCKET", "/run/notify")
        .ok();
    let messages = heard();
    assert!(messages.len() > 5, "{messages:?}");
    assert!(
        messages[0].starts_with("STATUS=make the directory"),
        "{messages:?}"
    );
    // Each step has its own time.
    assert!(
        messages[0].ends_with("\nEXTEND_TIMEOUT_USEC=300000000\n"),
        "{messages:?}"
    );
    assert_eq!(
        messages.last().map(String::as_str),
        Some("READY=1\nSTATUS=example: is up\n")
    );

    // A store that did not come up is not ready.
    example.command("down").ok();
    world.ok(["mount", "-t", "tmpfs", "other", Example::REAL]);
    example
        .command("up")
        .env("NOTIFY_SOCKET", "/run/notify")
        .fails();
    let messages = heard();
    assert!(
        !messages.iter().any(|message| message.contains("READY")),
        "{messages:?}"
    );
}

#[test]
fn a_system_that_will_be_booted_gets_a_mount_without_its_directory() {
    for world in World::each() {
        // The World's own root file system once more, with an own `/mnt`.
        world.ok(["mkdir", "-p", "/mnt/sysroot"]);
        world.ok(["mount", "--bind", "/", "/mnt/sysroot"]);
        let program = "/mnt/sysroot/usr/bin/overstore";
        world.ok(["mount", "--bind", "/usr/bin/overstore", program]);
        world.ok([
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "mode=0755",
            "sysroot",
            "/mnt/sysroot/mnt",
        ]);
        world.lower_store("/mnt/sysroot/mnt/example/store-a");
        world.write(
            "/mnt/sysroot/etc/overstore/example.toml",
            "root = \"/mnt/example/merged-store\"\n\
             lower-store = \"/mnt/example/store-a?read-only=true\"\n\
             upper-layer = \"/mnt/example/store-b\"\n\
             workdir = \"/mnt/example/workdir\"\n",
        );
        let socket = UnixDatagram::bind(world.path("/run/notify")).expect("a tmpfs");
        world
            .overstore(["up", "--root", "/mnt/sysroot", "example"])
            .env("NOTIFY_SOCKET", "/run/notify")
            .ok();
        assert!(world.path("/run/overstore").is_dir());
        socket.set_nonblocking(true).expect("a socket");
        assert!(socket.recv(&mut [0; 4096]).is_ok());
        let again = world
            .overstore(["up", "--root", "/mnt/sysroot", "example"])
            .ok();
        assert!(again.ends_with("nothing changed\n"), "{again}");
        // An initrd's own description, which the system to boot does not have: `/run` is not there.
        let outer = "/run/initrd/example.toml";
        world.write(outer, world.read("/etc/overstore/example.toml"));
        let up = world.overstore(["up", "--root", "/mnt/sysroot", outer]);
        assert_eq!(up.clone().run().code(), Some(2));
        let again = up.args(["--description-here"]).ok();
        assert!(again.ends_with("nothing changed\n"), "{again}");
        // The switch of root, after which `/run` and `/dev` are there again. Debian 13 has no
        // pivot_root(8) where it needs none.
        world.write(
            "/mnt/sysroot/mnt/pivot_root",
            std::fs::read("/usr/sbin/pivot_root").expect("util-linux"),
        );
        let text = world
            .command(["unshare", "--mount", "--propagation=private", "sh", "-c"])
            .args([
                "chmod +x /mnt/sysroot/mnt/pivot_root && cd /mnt/sysroot && \
                    mount --rbind /run run && mount --rbind /dev dev && mount -t proc proc proc && \
                    mnt/pivot_root . tmp && umount -l /tmp && cat /proc/self/mounts && \
                    exec overstore check example",
            ])
            .run();
        let out = text.stdout();
        let line = out
            .lines()
            .find(|line| line.starts_with("overlay /mnt/example/merged-store"));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        assert!(
            line.contains("lowerdir=/mnt/example/store-a/nix/store,"),
            "{line}"
        );
        assert!(!line.contains("sysroot"), "{line}");
        assert_eq!(text.code(), Some(0), "{text}");
    }
}

#[test]
fn who_waits_for_another_set_up_says_for_whom() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.mkdir(Example::WORKDIR);
    world.mkdir(format!("{}/db", Example::STATE));
    world.write(format!("{}/db/big-lock", Example::STATE), "");
    // The store's own lock, and the one that Nix holds while it has the database open.
    for (kind, path, whom) in [
        (
            "--exclusive",
            world.lock_file(Example::WORKDIR),
            "waiting for process ",
        ),
        (
            "--shared",
            format!("{}/db/big-lock", Example::STATE),
            "waiting for Nix",
        ),
    ] {
        let mut holder = world
            .command(["flock", "--no-fork", kind, &path, "sh", "-c"])
            .args(["touch /run/locked; exec sleep infinity"])
            .spawn();
        wait_until("it is locked", || world.path("/run/locked").exists());
        let mut up = example.command("up").spawn();
        let mut said = String::new();
        BufReader::new(up.stderr.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(said.starts_with(whom), "{said}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        let outcome = Outcome::of(up);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        world.ok(["rm", "/run/locked"]);
        example.command("down").ok();
        world.ok(["rm", &format!("{}/db/schema", Example::STATE)]);
    }
}
