//! `make demo`, as root and as an ordinary user, with and without Nix.

use crate::support::{Outcome, World};

/// Runs it in a World, which sees the repository's fixtures at `/tmp/fixtures`.
fn demo(world: &World, alice: bool) -> Outcome {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
    for file in ["demo", "lower-store/lower-store.tar.xz"] {
        let content = std::fs::read(format!("{fixtures}/{file}")).expect("a fixture");
        world.write(format!("/tmp/fixtures/{file}"), content);
    }
    // /tmp is of the kernel's own file system there, as on most machines.
    let run = world.command(["sh", "/tmp/fixtures/demo", "/usr/bin/overstore"]);
    if alice { run.by_alice() } else { run }.run()
}

#[test]
fn shows_the_main_job_and_leaves_nothing() {
    for world in World::each() {
        for alice in [false, true] {
            let mounts = world.ok(["cat", "/proc/self/mounts"]);
            let outcome = demo(&world, alice);
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            let text = outcome.stdout();
            for line in [
                "... 18 store objects in all\n",
                "demo: as described\n",
                "18 paths copied",
                "-new.txt\n",
                "lower     18 objects\nupper      1 objects\nmerged    19 objects\n",
            ] {
                assert!(text.contains(line), "{line} in {outcome}");
            }
            assert_eq!(outcome.stderr(), "");
            assert!(!text.contains("error"), "{outcome}");
            assert_eq!(world.list("/tmp"), ["fixtures"]);
            assert_eq!(world.ok(["cat", "/proc/self/mounts"]), mounts);
        }
    }
}

#[test]
fn does_without_nix() {
    let Some(world) = World::trixie() else { return };
    world.ok(["rm", "/usr/bin/nix-store"]);
    let outcome = demo(&world, false);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(outcome.stdout().contains("is not on PATH"), "{outcome}");
}
