//! Paths that somebody else could change, and somebody who does.

use crate::support::{Example, Outcome, Snapshot, World};

/// Writes a description with other paths.
fn with(world: &World, text: &str, changes: &[(&str, &str)]) -> Outcome {
    let text = changes
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    world.write(Example::CONFIGURATION, text);
    world.overstore(["up", "example"]).run()
}

#[test]
fn what_others_could_replace_is_refused_and_nothing_is_made() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    world.ok(["sh", "-c", "mkdir -p /mnt/open /mnt/hers/below /mnt/sticky /mnt/linked-to; chmod 777 /mnt/open; chown alice /mnt/hers; chmod 1777 /mnt/sticky; mkdir /mnt/sticky/hers; chown alice /mnt/sticky/hers; ln -s linked-to /mnt/link"]);
    let before = Snapshot::of(world.path("/mnt"));
    for part in ["store-b", "workdir", "merged-store"] {
        for place in [
            "open/x",
            "hers/x",
            "hers/below/x",
            "sticky/hers/x",
            "link/x",
        ] {
            let to = format!("/mnt/{place}-{part}");
            let outcome = with(&world, &text, &[(&format!("/mnt/example/{part}"), &to)]);
            assert_eq!(outcome.code(), Some(1), "{part} at {to}: {outcome}");
            assert!(
                outcome.stdout().contains("[path-unsafe]"),
                "{part} at {to}: {outcome}"
            );
            before.assert_unchanged(world.path("/mnt"));
        }
    }
    // A sticky directory, such as /tmp, is safe for what is root's own.
    let outcome = with(
        &world,
        &text,
        &[
            ("/mnt/example/workdir", "/mnt/sticky/work"),
            ("/mnt/example/store-b", "/mnt/sticky/upper"),
        ],
    );
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

/// Runs `up`; when it is about to mount, `meanwhile` happens.
fn up_while(example: &Example<'_>, meanwhile: &str) -> Outcome {
    // The first makes a mount private.
    match example.command("up").held_at("mount", 2) {
        Ok(up) => {
            example.world.ok(["sh", "-c", meanwhile]);
            up.go_on()
        }
        Err(ended) => panic!("it mounts nothing: {ended}"),
    }
}

#[test]
fn who_swaps_a_directory_while_it_is_mounted_wins_nothing() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    world.ok([
        "sh",
        "-c",
        "mkdir -p /mnt/trap/nix/store /mnt/trap/work; echo trap > /mnt/trap/file",
    ]);
    let trap = Snapshot::of(world.path("/mnt/trap/nix"));
    for (name, swap, undo) in [
        (
            "upper layer",
            "cd /mnt/example; mv store-b kept; ln -s /mnt/trap store-b",
            "cd /mnt/example; rm store-b; mv kept store-b",
        ),
        (
            "lower store directory",
            "cd /mnt/example/store-a/nix; mv store kept; ln -s /mnt/trap/nix/store store",
            "cd /mnt/example/store-a/nix; rm store; mv kept store",
        ),
        (
            "work directory",
            "cd /mnt/example; mv workdir kept; mkdir workdir",
            "cd /mnt/example; rm -r workdir; mv kept workdir",
        ),
        (
            "merged directory",
            "cd /mnt/example/merged-store/nix; mv store kept; ln -s /mnt/trap/nix/store store",
            "cd /mnt/example/merged-store/nix; rm store; mv kept store",
        ),
    ] {
        let outcome = up_while(&example, swap);
        assert_eq!(outcome.code(), Some(3), "{name}: {outcome}");
        assert!(
            outcome.stderr().contains("was replaced by something else"),
            "{name}: {outcome}"
        );
        // Nothing stays mounted anywhere, and no record of it.
        let mounts = world.run(["grep", "-c", "lowerdir=/mnt/example", "/proc/self/mounts"]);
        assert_eq!(mounts.stdout(), "0\n", "{name}");
        assert!(world.records().is_empty(), "{name}");
        trap.assert_unchanged(world.path("/mnt/trap/nix"));
        world.ok(["sh", "-c", undo]);
    }
    example.up();
}
