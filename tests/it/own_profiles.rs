//! A user's profiles: those of a store of one's own are in it, and the one outside stays as it is.

use crate::own_store::{alice, describe, with_system_store};
use crate::support::{Run, World};

/// By alice, over the daemon that everybody on the machine has.
fn outside<'w>(world: &'w World, script: &str) -> Run<'w> {
    let run = world.command(["sh", "-ec", script]).by_alice();
    run.env("NIX_REMOTE", "daemon")
        .env("NIX_CONFIG", "experimental-features = nix-command")
        .env("XDG_STATE_HOME", "/mnt/alice")
        .current_dir("/home/alice")
}

/// All that Nix has made of hers.
const OUTSIDE: &str = "ls -lA --time-style=full-iso . /mnt/alice/nix /mnt/alice/nix/profiles";

#[test]
fn profiles_of_the_store_are_inside() {
    for world in World::each() {
        let (_daemon, shell) = with_system_store(&world);
        describe(&world, "");
        outside(&world, &format!("nix profile install {shell}")).ok();
        world.write(
            "/home/alice/.nix-defexpr/channels/x/default.nix",
            "\"of a channel\"",
        );
        world.ok(["chown", "-R", "alice:", "/home/alice"]);
        let before = outside(&world, OUTSIDE).ok();
        let install = format!(
            "mkdir -p $0/bin; printf '#!{shell}/bin/mksh\nprint it runs\n' >$0/bin/program
            chmod +x $0/bin/program
            nix profile install $(nix-store --add $0); program; nix-instantiate --eval -E 'import <x>'"
        );
        for (store, last) in [
            ("--ephemeral", "nix-collect-garbage -d >&2; program"),
            ("mine", "overstore exec mine -- program"),
        ] {
            let run = alice(&world, ["exec", store, "--", "sh", "-c"]);
            let script = format!("{install}; {last}");
            let run = run.args([&script, &format!("/tmp/{store}")]);
            let told = run
                .env("NIX_CONFIG", "experimental-features = nix-command")
                .run();
            assert_eq!(
                told.stdout(),
                "it runs\n\"of a channel\"\nit runs\n",
                "{told}"
            );
            assert!(!told.stderr().contains("ignoring"), "{told}");
            assert_eq!(outside(&world, OUTSIDE).ok(), before, "{told}");
        }
        // The profile is a root, and the next one has its programs.
        let collected = alice(&world, ["gc", "mine"]).run();
        assert_eq!(collected.code(), Some(0), "{collected}");
        let again = alice(&world, ["exec", "mine", "--", "program"]).run();
        assert_eq!(again.stdout(), "it runs\n", "{again}");
        let own = outside(&world, "~/.nix-profile/bin/mksh -c 'print as before'").ok();
        assert_eq!(own, "as before\n");
    }
}
