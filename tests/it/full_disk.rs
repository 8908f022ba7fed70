//! A disk without room, or a state directory that cannot be written to, takes a memory and nothing
//! else: a complete store comes up, and goes down.

use std::os::unix::fs::MetadataExt;

use crate::support::{Example, StoreUp, World};

/// Takes the last byte of the file system with the store, and all room for another file.
fn fill(world: &World) {
    let script = "cd /mnt/example; cat /dev/zero >zeros 2>/dev/null; i=0; \
                  while [ $i -lt 200 ] && echo some >small.$i; do i=$((i + 1)); done 2>/dev/null; true";
    world.ok(["sh", "-c", script]);
    world.fails(["sh", "-c", "echo some >/mnt/example/one-more"]);
}

/// The store comes up, works and goes down, and each time says what it cannot remember. `wrong` is
/// what is wrong with it all the same.
fn goes_up_and_down(world: &World, example: &Example<'_>, what: &str, wrong: &[&str]) {
    let up = example.run("up");
    assert_eq!(
        up.code(),
        Some(i32::from(!wrong.is_empty())),
        "{what}: {up}"
    );
    assert_eq!(up.stdout().matches("error [").count(), wrong.len(), "{up}");
    for code in wrong {
        assert!(up.stdout().contains(code), "{what}: {up}");
    }
    let warnings = up
        .stderr()
        .matches("warning: nothing is remembered")
        .count();
    assert_eq!(warnings, 1, "{what}: {up}");
    assert_eq!(example.mounts("fstype"), ["overlay"], "{what}");
    let object = example.lower.path("chain-3");
    world.ok(["ls", "-d", &format!("/mnt/example/merged-store{object}")]);
    let down = example.run("down");
    assert_eq!(down.code(), Some(0), "{what}: {down}");
    assert!(
        down.stderr().contains("warning: nothing is remembered"),
        "{what}: {down}"
    );
    assert_eq!(example.mounts("fstype"), [""; 0], "{what}");
}

/// Security case M1.
#[test]
fn a_complete_store_comes_up_on_a_full_disk() {
    let Some(world) = World::trixie() else { return };
    // On a full XFS the kernel itself mounts the overlay read-only.
    if !world.disk("ext4", "/mnt/example") {
        return;
    }
    let example = world.example("");
    example.up();
    // What was remembered last is that it is mounted.
    world.ok(["umount", Example::REAL]);
    fill(&world);
    goes_up_and_down(&world, &example, "ext4", &[]);
}

/// Security case M1.
#[test]
fn a_complete_store_comes_up_over_a_state_directory_that_is_read_only() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.ok(["umount", Example::REAL]);
    world.ok(["mount", "--bind", Example::STATE, Example::STATE]);
    world.ok(["mount", "-o", "remount,bind,ro", Example::STATE]);
    // Nix would not open it so.
    goes_up_and_down(&world, &example, "read-only", &["state-file-system-unfit"]);
}

/// Security case M1, its neighbour: the record of the mount.
#[test]
fn a_store_comes_up_where_its_mount_cannot_be_recorded() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    world.ok(["rm", "-rf", "/run/overstore"]);
    world.write("/run/overstore", "in the way");
    let up = example.run("up");
    assert_eq!(up.code(), Some(0), "{up}");
    assert!(up.stderr().contains("cannot be recorded"), "{up}");
    assert_eq!(example.mounts("fstype"), ["overlay"]);
    assert!(
        up.stderr()
            .contains("remedy: to take it away: overstore down --unrecorded example"),
        "{up}"
    );
    example.command("down").args(["--unrecorded"]).ok();
}

/// Nix opens no store where there is no room for the index of its log; what it keeps in reserve for a
/// collection is given back before, and its own again afterwards.
#[test]
fn a_full_disk_is_collected() {
    for world in World::each() {
        if !world.disk("xfs", "/mnt/example") {
            return;
        }
        let store = StoreUp::up(&world);
        let paths = store.register(&[("garbage", &[]), ("both", &[])]);
        let [garbage, both] = <[String; 2]>::try_from(paths).expect("two paths");
        store.copy_below(&[both]);
        // Its row is not above.
        store.root("below", &store.example.lower.path("chain-3"));
        let large = format!("{}/large", store.real(&garbage));
        world.ok(["fallocate", "--length", "4M", &large]);
        fill(&world);
        let outcome = store.gc(&[]).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert!(
            outcome.stdout().starts_with("deleted 1 object, "),
            "{outcome}"
        );
        let said = "removed the upper copies of 1 object";
        assert!(outcome.stdout().contains(said), "{outcome}");
        assert!(!store.has(&garbage));
        world.ok(["rm", "/mnt/example/zeros"]);
        store.assert_sound();
        let reserve = world.path("/mnt/example/merged-store/nix/var/nix/db/reserved");
        let blocks = reserve.metadata().expect("a file").blocks();
        assert_eq!(blocks * 512, 8 << 20);
    }
}
