//! One program is enough: where no `overstore-remount` is installed, `up` makes the remount hook
//! itself, and real Nix calls it.

use std::path::Path;

use serde_json::Value;

use crate::support::{Example, Run, World};

/// The hook that `up` makes.
const HOOK: &str = "/mnt/example/merged-store/nix/var/nix/overstore/overstore-remount";

/// A copy of the program alone, as `cargo install --root /opt/cargo` leaves it, and nothing else of
/// overstore's.
const ALONE: &str = "/opt/cargo/bin/overstore";

/// A World in which there is nothing of overstore but one program.
fn alone(world: &World) -> Example<'_> {
    world.copy(Path::new(env!("CARGO_BIN_EXE_overstore")), ALONE);
    world.ok(["umount", "/usr/bin/overstore"]);
    world.ok(["rm", "/usr/bin/overstore", "/usr/bin/overstore-remount"]);
    world.example("")
}

/// The program that is there alone, by its path.
fn run<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    world.command([ALONE]).args(words).args(["example"])
}

fn codes(world: &World) -> Vec<String> {
    let outcome = run(world, &["check", "--json"]).run();
    let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").clone();
    let code = |it: &Value| it["code"].as_str().expect("a code").to_owned();
    findings.iter().map(code).collect()
}

fn leads_to(world: &World) -> String {
    world.ok(["readlink", HOOK]).trim().to_owned()
}

#[test]
fn a_program_that_was_copied_alone_has_nix_remount_what_it_deleted() {
    for world in World::each() {
        let example = alone(&world);
        // Named before it is there.
        let url = run(&world, &["url"]).ok();
        assert!(url.contains(&format!("&remount-hook={HOOK}")), "{url}");
        let plan = run(&world, &["plan"]).ok();
        assert!(plan.contains(&format!("{HOOK} to {ALONE}\n")), "{plan}");

        let up = run(&world, &["up"]).run();
        assert_eq!(up.code(), Some(0), "{up}");
        assert_eq!(leads_to(&world), ALONE);
        assert_eq!(codes(&world), [""; 0]);
        assert!(run(&world, &["up"]).ok().contains("nothing changed"));

        // An object in both layers: Nix deletes the upper one, and calls the hook.
        world.write("/tmp/both", "in both layers\n");
        let nix = |store: &str, words: &[&str]| {
            let words = [words, &["--store", store]].concat();
            world.nix(words).ok().trim().to_owned()
        };
        let path = nix(url.trim(), &["nix-store", "--add", "/tmp/both"]);
        nix(&example.lower.root, &["nix-store", "--add", "/tmp/both"]);
        let merged = format!("{}{}", Example::REAL, &path["/nix/store".len()..]);
        let inode = |path: &str| world.ok(["stat", "--format=%i", path]);
        let above = inode(&merged);
        nix(url.trim(), &["nix-store", "--delete", &path]);
        assert_ne!(inode(&merged), above, "the deleted one shows");
        assert_eq!(world.ok(["cat", &merged]), "in both layers\n");
    }
}

#[test]
fn the_hook_follows_the_running_program() {
    let Some(world) = World::trixie() else { return };
    alone(&world);
    run(&world, &["up"]).ok();

    // The program was moved, as an upgrade of some package managers does.
    world.ok(["mv", ALONE, "/opt/overstore"]);
    let moved = |words: &[&str]| world.command(["/opt/overstore"]).args(words);
    let check = moved(&["check", "example"]).fails();
    assert_eq!(check.code(), Some(1), "{check}");
    let text = check.stdout();
    assert!(text.contains("error [remount-hook-missing]"), "{text}");
    assert!(
        text.contains(&format!("a link to {ALONE}, which")),
        "{text}"
    );
    // By the name that works: none is on PATH.
    assert!(
        text.contains("remedy:   /opt/overstore up example\n"),
        "{text}"
    );
    assert!(
        moved(&["up", "example"])
            .ok()
            .contains("link the remount hook")
    );
    assert_eq!(leads_to(&world), "/opt/overstore");
    assert_eq!(moved(&["check", "example"]).run().code(), Some(0));

    // What is no link of ours stays as it is, if it can be run.
    world.ok(["rm", HOOK]);
    world.write(HOOK, "#!/bin/sh\n");
    world.ok(["chmod", "755", HOOK]);
    assert!(moved(&["up", "example"]).ok().contains("nothing changed"));
    assert_eq!(world.read(HOOK), b"#!/bin/sh\n");
    // And is not replaced if it cannot.
    world.ok(["chmod", "644", HOOK]);
    let up = moved(&["up", "example"]).fails();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(
        up.stderr().contains("warning: cannot make the link"),
        "{up}"
    );
    assert!(up.stdout().contains("[remount-hook-missing]"), "{up}");
    assert_eq!(world.read(HOOK), b"#!/bin/sh\n");

    // Where it cannot be corrected the store comes up all the same.
    world.ok(["ln", "-sf", "/opt/other", HOOK]);
    world.ok(["cp", "/opt/overstore", "/opt/other"]);
    let directory = Path::new(HOOK).parent().expect("it has one");
    world.ok(["mount".as_ref(), "--bind".as_ref(), directory, directory]);
    world.ok([
        "mount".as_ref(),
        "-o".as_ref(),
        "remount,bind,ro".as_ref(),
        directory,
    ]);
    let up = moved(&["up", "example"]).run();
    assert_eq!(up.code(), Some(0), "{up}");
    assert!(
        up.stderr().contains("warning: cannot make the link"),
        "{up}"
    );
    assert_eq!(leads_to(&world), "/opt/other");
}

#[test]
fn nobody_else_decides_what_the_hook_is() {
    let Some(world) = World::trixie() else { return };
    let example = alone(&world);
    let directory = Path::new(HOOK).parent().expect("it has one");
    run(&world, &["up"]).ok();

    // A directory that others may write to.
    world.ok(["chmod".as_ref(), "0777".as_ref(), directory]);
    assert_eq!(codes(&world), ["remount-hook-unsafe"]);
    world.ok(["rm", HOOK]);
    let up = run(&world, &["up"]).fails();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(
        up.stderr().contains("the remount hook is not linked in"),
        "{up}"
    );
    world.fails(["test", "-L", HOOK]);
    world.ok(["chmod".as_ref(), "0755".as_ref(), directory]);
    run(&world, &["up"]).ok();
    assert_eq!(codes(&world), [""; 0]);

    // A program that another user could replace, or write to.
    world.copy(world.path(ALONE).as_path(), "/home/alice/bin/overstore");
    world.ok(["chown", "-R", "alice:", "/home/alice"]);
    let alices = |words: &[&str]| world.command(["/home/alice/bin/overstore"]).args(words);
    let up = alices(&["up", "example"]).run();
    assert_eq!(up.code(), Some(0), "{up}");
    let text = up.stdout();
    assert!(text.contains("warning [remount-hook-unsafe]"), "{text}");
    assert!(
        text.contains(
            "install /home/alice/bin/overstore /usr/local/bin/overstore && \
             /usr/local/bin/overstore up example\n"
        ),
        "{text}"
    );
    run(&world, &["up"]).ok();
    assert_eq!(codes(&world), [""; 0]);
    world.ok(["chmod", "0775", ALONE]);
    assert_eq!(codes(&world), ["remount-hook-unsafe"]);
    drop(example);
}

#[test]
fn a_user_has_a_hook_that_is_the_users_own() {
    for world in World::each() {
        alone(&world);
        world.ok(["rm", "-r", "/opt/cargo"]);
        world.copy(
            Path::new(env!("CARGO_BIN_EXE_overstore")),
            "/home/alice/.cargo/bin/overstore",
        );
        world.mkdir("/mnt/alice");
        world.ok(["chown", "-R", "alice:", "/home/alice", "/mnt/alice"]);
        let text = world.read(Example::CONFIGURATION);
        let text = String::from_utf8(text).expect("TOML");
        let text = text
            .replace("/mnt/example/merged-store", "/mnt/alice/merged-store")
            .replace("/mnt/example/store-b", "/mnt/alice/store-b")
            .replace("/mnt/example/workdir", "/mnt/alice/workdir");
        world.write(Example::CONFIGURATION, text);
        let hook = HOOK.replace("example", "alice");
        let run = world
            .command(["/home/alice/.cargo/bin/overstore", "exec", "example", "--"])
            .args([
                "sh",
                "-c",
                "set -e; stat --format '%U %a' $(dirname $0); readlink $0
                 path=$(nix-store --add /etc/nix/nix.conf)
                 cp -r $OVERSTORE_UPPER_LAYER/$(basename $path) /mnt/alice/kept
                 $0 $OVERSTORE_REAL; echo called: $?
                 case $OVERSTORE_URL in *remount-hook=$0*) echo named;; esac",
                &hook,
            ])
            .by_alice()
            .env("NIX_CONFIG", "extra-experimental-features = nix-command")
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(run.stderr(), "");
        assert_eq!(
            run.stdout(),
            "alice 755\n/home/alice/.cargo/bin/overstore\ncalled: 0\nnamed\n"
        );
    }
}

#[test]
fn the_hook_is_made_in_a_system_to_boot_whose_proc_is_not_mounted_yet() {
    for world in World::each() {
        alone(&world);
        // What an initrd has before the switch of root.
        world.ok(["mkdir", "-p", "/mnt/sysroot"]);
        world.ok(["mount", "--bind", "/", "/mnt/sysroot"]);
        let own = ["mount", "-t", "tmpfs", "-o", "mode=0755"];
        world.ok([&own[..], &["sysroot", "/mnt/sysroot/mnt"]].concat());
        assert!(!world.path("/mnt/sysroot/proc/self").exists());
        world.lower_store("/mnt/sysroot/mnt/example/store-a");
        world.write(
            "/mnt/sysroot/etc/overstore/example.toml",
            "root = \"/mnt/example/merged-store\"\n\
             lower-store = \"/mnt/example/store-a?read-only=true\"\n\
             upper-layer = \"/mnt/example/store-b\"\n\
             workdir = \"/mnt/example/workdir\"\n",
        );
        let up = run(&world, &["up", "--root", "/mnt/sysroot"]).run();
        assert_eq!(up.code(), Some(0), "{up}");
        let hook = format!("/mnt/sysroot{HOOK}");
        assert_eq!(world.ok(["readlink", &hook]).trim(), ALONE);
    }
}
