//! The lower store of `fixtures/` is what its README says.

use crate::support::World;

#[test]
fn real_nix_finds_it_whole_and_right() {
    for world in World::each() {
        let lower = world.lower_store("/");
        assert_eq!(lower.paths().len(), 18);
        world
            .nix(["nix-store", "--verify", "--check-contents"])
            .ok();
        let valid = world.nix(["nix", "path-info", "--all"]).ok();
        let mut valid: Vec<_> = valid.lines().collect();
        valid.sort_unstable();
        assert_eq!(valid, lower.paths());

        let greeting = world.ok([lower.path("hello-1.0") + "/bin/hello"]);
        assert_eq!(greeting, "Hello from the lower store\n");
        let references = |name: &str| {
            world
                .nix(["nix-store", "--query", "--references", &lower.path(name)])
                .ok()
        };
        assert_eq!(references("chain-3").trim(), lower.path("chain-2"));
        assert_eq!(
            references("self-reference").trim(),
            lower.path("self-reference")
        );
        assert_eq!(references("settings.txt").lines().count(), 2);
        let address = world
            .nix(["nix", "path-info", "--json", &lower.path("settings.txt")])
            .ok();
        assert!(address.contains("text:sha256:"), "{address}");
    }
}

#[test]
fn its_shell_builds_in_the_sandbox() {
    for world in World::each() {
        let lower = world.lower_store("/");
        world.write(
            "/tmp/build.nix",
            format!(
                r#"derivation {{
                    name = "built";
                    system = "x86_64-linux";
                    builder = builtins.storePath "{}" + "/bin/mksh";
                    args = [ "-c" "print it works >$out" ];
                }}"#,
                lower.path("mksh-static")
            ),
        );
        let built = world
            .nix(["nix-build", "--no-out-link", "/tmp/build.nix"])
            .ok();
        assert_eq!(world.read(built.trim()), b"it works\n");
    }
}

/// As the lower store of a local-overlay store, or of anybody who must not write.
#[test]
fn it_can_be_read_on_a_read_only_file_system() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/unpacked");
        for kind in ["squashfs", "erofs"] {
            let at = format!("/mnt/{kind}");
            if world.image(kind, &lower.root, &at) {
                let store = format!("local?root={at}&read-only=true");
                let paths = world
                    .nix(["nix", "path-info", "--all", "--store", &store])
                    .ok();
                assert_eq!(paths.lines().count(), 18, "{kind}");
            }
        }
    }
}

#[test]
fn anybody_can_unpack_and_read_it() {
    let Some(world) = World::trixie() else { return };
    let archive = std::fs::read("fixtures/lower-store/lower-store.tar.xz").unwrap();
    let unpack = ["tar", "--extract", "--xz", "--directory", "/home/alice"];
    world.command(unpack).by_alice().stdin(archive).ok();
    let paths = world
        .nix([
            "nix",
            "path-info",
            "--all",
            "--store",
            "local?root=/home/alice&read-only=true",
        ])
        .by_alice()
        .ok();
    assert_eq!(paths.lines().count(), 18);
}
