//! `overstore remount`, by hand and as Nix's hook.

use crate::support::{Example, World};

/// Adds a file to the store at `root`, as its owner does, and gives its store path.
fn grow(world: &World, root: &str, name: &str) -> String {
    let file = format!("/tmp/{name}");
    world.write(&file, format!("the content of {name}\n"));
    let added = world
        .nix(["nix-store", "--store", root, "--add", &file])
        .ok();
    added.trim().to_owned()
}

/// What Nix says of a path's validity and the kernel of its presence, both through the merged store.
fn seen(example: &Example, store_path: &str) -> (bool, bool) {
    let merged = format!("{}{}", Example::REAL, &store_path["/nix/store".len()..]);
    let there = example.world.run(["test", "-e", &merged]).code() == Some(0);
    let valid = example.nix(&["nix", "path-info", store_path]).run().code() == Some(0);
    (valid, there)
}

#[test]
fn an_addition_to_the_lower_store_is_seen_after_a_remount() {
    for world in World::each() {
        let example = world.example("");
        example.up();
        // The store path is known before the file is there: its name comes from its content.
        let path = grow(&world, "/mnt/elsewhere", "late");
        // From now on the kernel remembers that there is no such name.
        assert_eq!(seen(&example, &path), (false, false));
        assert_eq!(grow(&world, &example.lower.root, "late"), path);
        assert!(!seen(&example, &path).1, "the kernel forgot it by itself");

        assert_eq!(example.command("remount").ok(), "");
        assert_eq!(seen(&example, &path), (true, true));
    }
}

/// Over a lower store that grows where it is, `refresh` is a remount: the same mount shows what is new.
#[test]
fn a_refresh_over_a_store_that_grows_in_place_is_a_remount() {
    for world in World::each() {
        let example = world.example("");
        example.up();
        let path = grow(&world, "/mnt/elsewhere", "late");
        assert_eq!(seen(&example, &path), (false, false));
        assert_eq!(grow(&world, &example.lower.root, "late"), path);
        let mounts = example.mounts("ID,OPTIONS,VFS-OPTIONS,FS-OPTIONS");
        let refresh = |more: &[&str]| {
            let outcome = example.command("refresh").args(more).run();
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            serde_json::from_str::<serde_json::Value>(&outcome.stdout()).unwrap()
        };
        let dry = refresh(&["--dry-run", "--json"]);
        assert_eq!(
            (&dry["outcome"], &dry["remounted"]),
            (&"unchanged".into(), &false.into())
        );
        assert!(!seen(&example, &path).1, "a dry run remounts nothing");
        let done = refresh(&["--json"]);
        assert_eq!(
            (&done["outcome"], &done["remounted"]),
            (&"done".into(), &true.into())
        );
        assert_eq!(done["switched"], false, "{done}");
        assert_eq!(seen(&example, &path), (true, true));
        assert_eq!(example.mounts("ID,OPTIONS,VFS-OPTIONS,FS-OPTIONS"), mounts);
    }
}

#[test]
fn what_lies_over_the_overlay_keeps_its_flags() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let bind = ["mount", "--bind", Example::REAL, Example::REAL];
    world.ok(bind);
    let flags = "remount,bind,ro,nosuid,nodev,noatime";
    world.ok(["mount", "-o", flags, Example::REAL]);
    let columns = "ID,OPTIONS,VFS-OPTIONS,FS-OPTIONS,PROPAGATION";
    let before = example.mounts(columns);
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(before[1].contains("ro,nosuid,nodev,noatime"), "{before:?}");

    for words in [
        &["overstore", "remount", "example"][..],
        &["overstore", "remount", Example::CONFIGURATION],
        &["overstore", "remount", Example::REAL],
        &["overstore-remount", Example::REAL],
    ] {
        let name = format!("grown-by-{}", words.concat().len());
        let hidden = format!("{}/{name}", Example::REAL);
        world.fails(["test", "-e", &hidden]);
        world.write(format!("{}/{name}", Example::LOWER), "");
        world.fails(["test", "-e", &hidden]);
        let outcome = world.run(words);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(outcome.stdout() + &outcome.stderr(), "");
        world.ok(["test", "-e", &hidden]);
        assert_eq!(example.mounts(columns), before);
    }
}

#[test]
fn nix_calls_it_when_it_deletes_an_object_that_is_in_both_layers() {
    for world in World::each() {
        let example = world.example("");
        example.up();
        let file = "/tmp/both";
        world.write(file, "the content of both\n");
        let added = example.nix(&["nix-store", "--add", file]).ok();
        let path = added.trim();
        let name = path.trim_start_matches("/nix/store/");
        let (upper, merged) = (
            format!("{}/{name}", Example::UPPER),
            format!("{}/{name}", Example::REAL),
        );
        assert_eq!(grow(&world, &example.lower.root, "both"), path);
        world.ok(["test", "-e", &upper]);

        let inode = |path: &str| world.ok(["stat", "--format=%i", path]);
        let below = inode(&format!("{}/{name}", Example::LOWER));
        assert_ne!(inode(&merged), below);

        example.nix(&["nix-store", "--delete", path]).ok();
        world.fails(["test", "-e", &upper]);
        assert_eq!(inode(&merged), below);
        assert_eq!(world.ok(["cat", &merged]), "the content of both\n");
        assert_eq!(seen(&example, path), (true, true));
        assert_eq!(example.run("check").code(), Some(0));
    }
}

#[test]
fn what_cannot_be_remounted_is_told() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let refused = |words: &[&str], code, text: &str| {
        let outcome = world.command(words).fails();
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        assert!(outcome.stderr().contains(text), "{outcome}");
        assert_eq!(outcome.stdout(), "");
    };
    refused(
        &["overstore", "remount", "example"],
        3,
        "cannot open /mnt/example/merged-store/nix/store: No such file",
    );
    example.up();
    world.ok(["ln", "-s", Example::REAL, "/tmp/link"]);
    refused(
        &["overstore-remount", "/tmp/link"],
        3,
        "/tmp/link is a symbolic link",
    );
    refused(
        &["overstore-remount", "/tmp"],
        3,
        "/tmp is not an OverlayFS mount (it is on tmpfs)\n",
    );
    // Whoever could exchange a directory on the way would choose what is remounted.
    world.ok(["install", "-d", "-o", "alice", "/tmp/hers"]);
    refused(
        &["overstore-remount", "/tmp/hers/store"],
        3,
        "/tmp/hers belongs to user 1000",
    );
    refused(&["overstore", "remount", "another"], 2, "another.toml");
    for arguments in [&[][..], &["/a", "/b"]] {
        let words = [&["overstore-remount"], arguments].concat();
        refused(&words, 2, "takes one argument");
    }
    example.command("down").ok();
    refused(
        &["overstore", "remount", "example"],
        3,
        "is not an OverlayFS mount",
    );
    let unprivileged = world
        .command(["overstore-remount", Example::REAL])
        .by_alice()
        .fails();
    assert_eq!(unprivileged.code(), Some(3), "{unprivileged}");
    assert!(unprivileged.stderr().contains("run it as root"));
}
