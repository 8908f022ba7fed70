//! Stores of one's own in containers that Podman makes for an ordinary user.

use crate::manual::{blocks, page, try_out_blocks};
use crate::own_store::with_system_store;
use crate::support::{Outcome, Tree, World};

/// A machine with Podman, on which alice has an image with Nix. It is made of a tree, because there is no
/// registry.
fn machine() -> Option<World> {
    let (of_image, tree) = (Tree::trixie()?, Tree::podman()?);
    let world = World::showing(tree, &[(of_image.path, "/image")]);
    // As on any machine with systemd.
    world.ok(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"]);
    world.ok(["mount", "--make-rshared", "/"]);
    // /home is on an overlay here, which cannot be an upper layer.
    world.ok(["mount", "-t", "tmpfs", "none", "/home/alice"]);
    world.ok(["chown", "alice:", "/home/alice"]);
    let archive =
        "tar -C /image --exclude=./usr/share --exclude=./var/lib/dpkg -cf /tmp/image.tar .";
    world.ok(["sh", "-c", archive]);
    let import = world.command(["podman", "import", "--quiet", "/tmp/image.tar", "image"]);
    import.by_alice().current_dir("/home/alice").ok();
    Some(world)
}

fn by_alice(world: &World, script: &str) -> Outcome {
    let run = world.command(["sh", "-c", script]).by_alice();
    run.current_dir("/home/alice").run()
}

/// The recipe, and then with fewer capabilities: what it says and what helps.
#[test]
#[ignore = "Podman is a large package: `make soak`"]
fn soak_stores_in_containers() {
    let Some(world) = machine() else { return };
    let (_daemon, _) = with_system_store(&world);
    let recipe = ("console podman", "docs/own-store.md");
    try_out_blocks(recipe.0, recipe.1, |script| {
        let run = world.command(["sh", "-c", script]).by_alice();
        run.current_dir("/home/alice")
    });
    let page = page(recipe.1);
    let shown = blocks(recipe.0, &page)
        .into_iter()
        .flat_map(|block| block.split("\n$ "))
        .find(|shown| shown.contains("podman run "))
        .expect("the recipe runs a container");
    let shown = shown.rsplit_once('\n').expect("it prints something").0;
    for (options, words) in [
        ("--read-only", None),
        ("--userns=keep-id", None),
        ("--user=1000", None),
        ("--cap-drop=all", Some(["CAP_SETFCAP", "--cap-add=setfcap"])),
        (
            "--cap-drop=all --cap-add=setfcap",
            Some(["does not allow `chroot`", "--cap-add=sys_chroot"]),
        ),
        (
            "--cap-drop=all --cap-add=setfcap --cap-add=sys_chroot",
            None,
        ),
        (
            "--cap-drop=all --userns=keep-id --security-opt no-new-privileges",
            Some(["does not allow `chroot`", "seccomp=unconfined"]),
        ),
        (
            "--cap-drop=all --userns=keep-id --security-opt seccomp=unconfined",
            None,
        ),
        (
            "--cap-drop=all --cap-add=sys_chroot --userns=keep-id --security-opt no-new-privileges",
            None,
        ),
    ] {
        // Not every user of the container may write to the directory.
        let run = format!("run {options}");
        let script = shown
            .replacen("run", &run, 1)
            .replace(">added", ">/tmp/added");
        let outcome = by_alice(&world, &script.replace("cat added", "cat /tmp/added"));
        match words {
            None => {
                assert_eq!(outcome.code(), Some(0), "{options}: {outcome}");
                assert_eq!(outcome.stdout(), "hello\n", "{options}: {outcome}");
            }
            Some(words) => {
                assert_eq!(outcome.code(), Some(125), "{options}: {outcome}");
                for word in words {
                    assert!(outcome.stderr().contains(word), "{options}: {outcome}");
                }
            }
        }
    }
}
