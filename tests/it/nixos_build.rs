//! What Nix builds of the project, as far as it can be built without nixpkgs: by real Nix, in its
//! sandbox, with the machine's own tools in the place of nixpkgs'.

use std::path::Path;
use std::process::Command;

use crate::support::{Run, World};
use serde_json::Value;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// `nix-build` with the sandbox on: no `/run`, no `/sys`, a `/proc` of its own, and an ordinary user.
fn nix_build<'w>(world: &'w World, more_paths: &str) -> Run<'w> {
    let paths = format!(
        "/usr /bin=/usr/bin /lib=/usr/lib /lib64=/usr/lib64 /etc/alternatives {more_paths}"
    );
    world
        .nix(["nix-build", "--no-out-link", "--option", "sandbox", "true"])
        .args(["--option", "sandbox-paths", &paths])
}

/// `nixos/lower-store.nix`, whole, in each of its types; real Nix uses what comes out.
#[test]
fn nix_builds_the_images_of_lower_stores() {
    for world in World::each() {
        world.copy(&Path::new(SOURCE).join("nixos"), "/mnt/source/nixos");
        world.copy(
            &Path::new(SOURCE).join("tests/nixos"),
            "/mnt/source/tests/nixos",
        );
        let build = |kind: &str| {
            let file = "/mnt/source/tests/nixos/image.nix";
            let built = nix_build(&world, "")
                .args([file, "--argstr", "type", kind])
                .ok();
            built.trim().to_owned()
        };
        for kind in ["squashfs", "erofs"] {
            let (image, at) = (build(kind), format!("/mnt/{kind}"));
            world.mkdir(&at);
            world.ok(["mount", "-o", "loop,ro", "-t", kind, &image, &at]);
            assert_can_be_below(&world, kind, &at);
        }
        // The metadata alone, of objects that are shared in another way.
        let state = build("state");
        world.mkdir("/mnt/shared/nix/store");
        let objects = world.list("/mnt/squashfs/nix/store");
        for object in objects.iter().filter(|object| *object != ".links") {
            let from = Path::new("/nix/store").join(object);
            world
                .command(["cp", "-a"])
                .args([&from, Path::new("/mnt/shared/nix/store/")])
                .ok();
        }
        world.write(
            "/etc/overstore/state.toml",
            format!(
                "root = \"/mnt/state-merged\"\nlower-store = \"local\"\n\
                 lower.real = \"/mnt/shared/nix/store\"\nlower.state = \"{state}/nix/var/nix\"\n\
                 lower.read-only = true\n\
                 upper-layer = \"/mnt/state-upper\"\nworkdir = \"/mnt/state-work\"\n"
            ),
        );
        assert_is_up(&world, "state");
    }
}

fn assert_can_be_below(world: &World, name: &str, at: &str) {
    world.write(
        format!("/etc/overstore/{name}.toml"),
        format!(
            "root = \"/mnt/{name}-merged\"\nlower-store = \"{at}\"\nlower.read-only = true\n\
             upper-layer = \"/mnt/{name}-upper\"\nworkdir = \"/mnt/{name}-work\"\n"
        ),
    );
    assert_is_up(world, name);
}

/// The store comes up, is as described below, too, and Nix knows both objects and adds to them.
fn assert_is_up(world: &World, name: &str) {
    world.overstore(["up", name]).ok();
    world
        .overstore(["check", "--lower", "--contents", name])
        .ok();
    let url = world.overstore(["url", name]).ok();
    let nix = |words: &[&str]| world.nix(words).args(["--store", url.trim()]);
    let merged = format!("/mnt/{name}-merged/nix/store");
    let objects = world.list(&merged);
    let program = objects
        .iter()
        .map(|object| format!("/nix/store/{}", object.to_str().unwrap()))
        .find(|object| object.ends_with("-program"))
        .unwrap();
    let closure = nix(&["nix-store", "--query", "--requisites", &program]).ok();
    assert_eq!(closure.lines().count(), 2, "{closure}");
    world.write("/tmp/added", name);
    nix(&["nix-store", "--add", "/tmp/added"]).ok();
    nix(&["nix-store", "--verify", "--check-contents"]).ok();
}

/// `pkgs/by-name/ov/overstore/package.nix` runs the tests of the library where it builds.
#[test]
fn the_librarys_tests_pass_in_the_sandbox() {
    let program = library_tests();
    let Some(tree) = crate::support::Tree::trixie() else {
        return;
    };
    let world = World::showing(tree, &[(Path::new(SOURCE), SOURCE)]);
    world.write(
        "/mnt/tests.nix",
        format!(
            r#"derivation {{
                name = "library-tests";
                system = builtins.currentSystem;
                builder = "/bin/sh";
                HOME = "/homeless-shelter";
                PATH = "/usr/bin";
                args = [ "-euc" "cd {SOURCE}; {program} --test-threads 2; echo passed >$out" ];
            }}"#
        ),
    );
    let built = nix_build(&world, SOURCE).args(["/mnt/tests.nix"]).run();
    let said = built.stderr();
    assert!(built.status.success(), "{built}");
    assert!(said.contains("test result: ok"), "{built}");
}

/// The binary of the library's tests, which Cargo has built before it ran this, or builds now.
fn library_tests() -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "test",
            "--lib",
            "--no-run",
            "--message-format=json",
            "--quiet",
        ])
        .current_dir(SOURCE)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let is_library = message["target"]["kind"][0] == "lib";
            message["executable"]
                .as_str()
                .filter(|_| is_library)
                .map(str::to_owned)
        })
        .expect("cargo names the binary")
}
