//! What the guides tell people to type is typed, on descriptions that are the guides' own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::manual::{blocks, page, try_out, try_out_by};
use crate::own_store::with_system_store;
use crate::support::{Daemon, LowerStore, Tree, World};

/// The description number `number` of a page.
fn described(name: &str, number: usize) -> String {
    blocks("toml", &page(name))[number].to_owned()
}

/// A live store at `/srv/store`, two closures of which have roots.
fn live_store(world: &World) -> LowerStore {
    let lower = world.lower_store("/srv/store");
    world.mkdir("/srv/publications");
    for (root, name) in [("shell", "mksh-static"), ("chain", "chain-3")] {
        let link = format!("/srv/store/nix/var/nix/gcroots/{root}");
        world.ok(["ln", "-s", &lower.path(name), &link]);
    }
    lower
}

/// Shows a directory read-only at another path, as an export or a share does.
fn share(world: &World, from: &str, to: &str) {
    world.mkdir(to);
    world.ok(["mount", "--bind", from, to]);
    world.ok(["mount", "-o", "remount,bind,ro", to]);
}

fn memory(world: &World, at: &str) {
    world.mkdir(at);
    world.ok(["mount", "-t", "tmpfs", "none", at]);
}

/// Server and worker are one machine here, and exports are bind mounts.
#[test]
fn the_guide_for_build_workers_works() {
    let Some(world) = World::trixie() else { return };
    live_store(&world);
    let guide = "docs/build-workers.md";
    let publication = "/etc/overstore/publications/main.toml";
    world.write(publication, described(guide, 0));
    world.mkdir("/lower");
    for name in ["store", "publications"] {
        share(&world, &format!("/srv/{name}"), &format!("/lower/{name}"));
    }
    memory(&world, "/var/lib/worker");
    world.write("/etc/overstore/worker.toml", described(guide, 1));
    try_out(&world, guide);
}

/// Host and guest are one machine here: the host's state is out of the guest's sight, as its own is.
#[test]
fn the_guide_for_micro_vms_works() {
    let Some(world) = World::trixie() else { return };
    let (daemon, shell) = with_system_store(&world);
    world.mkdir("/nix/var/nix/profiles");
    world.ok(["ln", "-s", &shell, "/nix/var/nix/profiles/system"]);
    world.mkdir("/var/lib/publications");
    let guide = "docs/micro-vms.md";
    let publication = "/etc/overstore/publications/guests.toml";
    world.write(publication, described(guide, 0));
    let mut daemon: Option<Daemon> = Some(daemon);
    try_out_by(guide, |script| {
        if script.contains("overstore up") {
            // The guest begins.
            daemon.take();
            share(&world, "/nix/store", "/host/store");
            share(&world, "/var/lib/publications", "/host/publications");
            memory(&world, "/nix/var/nix");
            memory(&world, "/data");
            world.write("/etc/overstore/system.toml", described(guide, 1));
        }
        world.command(["sh", "-c", script])
    });
}

/// The service's owner is root, and the user is not.
#[test]
fn the_guide_to_a_nix_of_one_s_own_works() {
    let Some(world) = World::trixie() else { return };
    world.lower_store("/mnt/service");
    // /home is on an overlay here, which cannot be an upper layer.
    memory(&world, "/home/alice");
    let guide = "docs/own-nix.md";
    world.write(
        "/home/alice/.config/overstore/mine.toml",
        described(guide, 0),
    );
    world.ok(["chown", "-R", "alice:", "/home/alice"]);
    try_out_by(guide, |script| {
        let run = world.command(["sh", "-c", script]);
        match script.contains("overstore publish") {
            true => run,
            false => run.by_alice().current_dir("/home/alice"),
        }
    });
}

/// A store is left behind as the guide says: copied, mounted by hand, removed.
#[test]
fn the_guide_to_uninstalling_works() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/new", "new");
    let added = example.nix(&["nix-store", "--add", "/tmp/new"]).ok();
    let name = added.trim().rsplit('/').next().unwrap();
    let features = blocks("nix.conf", &page("docs/refresh.md"))[0].to_owned();
    let mut by_hand = false;
    try_out_by("docs/upgrading.md", |script| {
        let run = world.command(["sh", "-c", script]);
        if script.contains("mount -t overlay") {
            by_hand = true;
        }
        run.env("NIX_CONFIG", &features)
    });
    assert!(by_hand);
    let copied = format!("/mnt/plain/nix/store/{name}");
    assert_eq!(world.read(copied), b"new");
    for gone in ["store-b", "workdir", "merged-store"] {
        let place = world.path(format!("/mnt/example/{gone}"));
        assert!(!place.exists(), "{gone}");
    }
}

/// Each message that is a heading is one that Nix, the tools or this program can say, or the C library for
/// the kernel.
#[test]
fn troubleshooting_is_by_messages_that_there_are() {
    let mut speakers: Vec<PathBuf> = vec![env!("CARGO_BIN_EXE_overstore").into()];
    for tree in Tree::all() {
        for directory in ["usr/bin", "usr/lib/x86_64-linux-gnu"] {
            let entries = fs::read_dir(tree.path.join(directory)).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            speakers.extend(paths.filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                let speak = ["libnix", "libc.so", "libmount", "libsqlite3", "mount"];
                path.is_file() && (name == "nix" || speak.iter().any(|it| name.starts_with(it)))
            }));
        }
    }
    if speakers.len() == 1 {
        return;
    }
    let guide = page("docs/troubleshooting.md");
    let mut looked_for = 0;
    for heading in guide.lines().filter(|line| line.starts_with("### ")) {
        // What is put into a message is in quotation marks, after a colon, or left out (...).
        let messages = heading.split('`').skip(1).step_by(2);
        for part in messages
            .flat_map(|it| it.split("..."))
            .flat_map(|it| it.split(['\'', ':']))
        {
            let part = part.trim_matches([' ', ',']);
            let is_fixed = !part.contains(|it: char| it.is_ascii_digit());
            if part.len() < 8 || part.starts_with('/') || !is_fixed {
                continue;
            }
            looked_for += 1;
            let found = Command::new("grep")
                .args([
                    "--quiet",
                    "--text",
                    "--fixed-strings",
                    "--ignore-case",
                    "-e",
                    part,
                ])
                .args(&speakers)
                .env("LC_ALL", "C")
                .status();
            assert!(found.unwrap().success(), "{heading}: {part:?}");
        }
    }
    assert!(looked_for > 12, "{looked_for}");
}
