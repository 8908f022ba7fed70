//! `nix shell` and `nix develop` in stores of an ordinary user's own, at `/nix/store`.

use crate::own_store::{alice, describe, with_system_store};
use crate::support::{Run, World};

/// A bash with its own loader and libraries, a program and an environment, in files and in a flake. Only
/// what is in the store is seen by a build, and `nix develop` takes no other builder than a bash.
const FILES: &str = r##"set -e
    mkdir -p bash/bin bash/lib program/bin
    cp /bin/bash $(ldd /bin/bash | grep -o '/[^ ]*') bash/lib
    echo '#!@shell@/bin/mksh
    lib=${0%/*}/../lib
    exec "$lib"/ld-linux-x86-64.so.2 --argv0 bash --library-path "$lib" "$lib"/bash "$@"' >bash/bin/bash
    printf '#!@shell@/bin/mksh\nprint it runs\n' >program/bin/program
    chmod +x bash/bin/bash program/bin/program
    bash=$(nix-store --add bash) program=$(nix-store --add program)
    echo "{
        program = builtins.storePath $program;
        environment = derivation {
            name = \"environment\";
            system = \"x86_64-linux\";
            builder = builtins.storePath $bash + \"/bin/bash\";
            # What its first line names.
            shell = builtins.storePath @shell@;
            args = [ \"-c\" \"echo built >\$out\" ];
            outputs = [ \"out\" ];
            greeting = \"the environment's\";
        };
    }" >file.nix
    mkdir flake; cp file.nix flake
    echo '{ outputs = _: { packages.x86_64-linux = import ./file.nix; }; }' >flake/flake.nix"##;

const TRIES: &str = r##"set -e
    nix shell --file file.nix program -c program
    nix develop --file file.nix environment -c sh -c "$greet"
    nix shell --impure path:./flake#program -c program
    nix develop --impure path:./flake#environment -c sh -c "$greet"
    cat $(nix build --no-link --print-out-paths --file file.nix environment)"##;

const TRIED: &str = "it runs\nthe environment's impure\nit runs\nthe environment's impure\nbuilt\n";

/// What most users' own settings have; nothing is to be asked of the network.
const SETTINGS: &str = "experimental-features = nix-command flakes\nflake-registry =\n";

#[test]
fn nix_shell_and_nix_develop_work_inside() {
    for world in World::each() {
        let (_daemon, shell) = with_system_store(&world);
        describe(&world, "");
        let files = FILES.replace("@shell@", &shell);
        let before = world.list("/nix/store");
        let works = |run: Run<'_>, script: String| {
            let run = run.args(["--", "sh", "-c", &script]);
            let outcome = run.env("greet", "echo $greeting $IN_NIX_SHELL").run();
            assert_eq!(outcome.code(), Some(0), "{outcome}");
            assert_eq!(outcome.stdout(), TRIED, "{outcome}");
            assert!(!outcome.stderr().contains("ignoring"), "{outcome}");
        };
        let ephemeral = alice(&world, ["exec", "--ephemeral"]).env("NIX_CONFIG", SETTINGS);
        works(
            ephemeral,
            format!("cd $(mktemp -d -p /tmp)\n{files}\n{TRIES}"),
        );
        world.write("/home/alice/.config/nix/nix.conf", SETTINGS);
        let joins = format!("{files}\noverstore exec mine -- sh -c '{TRIES}'");
        works(alice(&world, ["exec", "mine"]), joins);
        assert_eq!(world.list("/nix/store"), before);
    }
}
