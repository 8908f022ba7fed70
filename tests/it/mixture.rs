//! The same path in both layers, with other contents: never a mixture of both, whatever has the kernel
//! look again.

use crate::support::{Example, World};

/// A directory of this name and content, as a store path, and its archive for `nix-store --import`;
/// the same path with another file in it is in the lower store later.
const NAME: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-twice";

/// The object above: substituted, so that Nix makes its directory in the merged store.
fn substitute(world: &World, example: &Example) {
    // A store of somebody who built it otherwise: an input-addressed path, unsigned.
    let object = format!("/mnt/other/nix/store/{NAME}");
    world.mkdir(&object);
    world.write(format!("{object}/above"), "above\n");
    register(world, "/mnt/other", &object);
    example
        .nix(&[
            "nix",
            "copy",
            "--no-check-sigs",
            "--from",
            "local?root=/mnt/other",
        ])
        .args([format!("/nix/store/{NAME}")])
        .ok();
}

/// Registers a path of a store whose object is there.
fn register(world: &World, root: &str, object: &str) {
    let hash = world
        .nix([
            "nix", "hash", "path", "--type", "sha256", "--base16", object,
        ])
        .ok();
    let size = world.nix(["nix-store", "--dump", object]).run().out.len();
    let registration = format!("/nix/store/{NAME}\n{}\n{size}\n\n0\n", hash.trim());
    world
        .nix([
            "nix-store",
            "--load-db",
            "--store",
            &format!("local?root={root}"),
        ])
        .stdin(registration)
        .ok();
}

/// The lower store gets the path, with another file in it.
fn add_below(world: &World) {
    let object = format!("{}/{NAME}", Example::LOWER);
    world.mkdir(&object);
    world.write(format!("{object}/below"), "below\n");
}

fn verified(example: &Example) {
    let merged = format!("{}/{NAME}", Example::REAL);
    assert_eq!(example.world.list(&merged), ["above"]);
    example
        .nix(&["nix-store", "--verify-path", &format!("/nix/store/{NAME}")])
        .ok();
}

#[test]
fn a_path_in_both_layers_is_never_a_mixture() {
    for world in World::each() {
        let example = world.example("");
        for again in [
            &["overstore remount example"][..],
            &["overstore-remount /mnt/example/merged-store/nix/store"],
            &["overstore down example", "overstore up example"],
        ] {
            example.up();
            substitute(&world, &example);
            // A directory that was copied up belongs together with what is below.
            let lower = example.lower.path("chain-1");
            let lower = lower.trim_start_matches("/nix/store/");
            let copied = format!("{}/{lower}", Example::REAL);
            let names = |path: &str| world.run(["ls", "-A", path]).stdout();
            let before = names(&copied);
            world.ok(["chmod", "u+w", &copied]);
            add_below(&world);
            for command in again {
                world.ok(["sh", "-c", command]);
            }
            verified(&example);
            assert_eq!(names(&copied), before, "{again:?}");
            example.command("down").ok();
            world.ok(["sh", "-c", &format!(
                "rm -rf /mnt/example/store-b /mnt/example/workdir /mnt/example/merged-store /mnt/other {}/{NAME}",
                Example::LOWER
            )]);
        }
    }
}
