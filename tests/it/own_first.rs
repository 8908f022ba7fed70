//! An ordinary user's first steps with stores of her own, and what is said to each wrong one.

use serde_json::Value;

use crate::own_store::{alice, describe, with_system_store};
use crate::support::{Outcome, World};

fn by_alice(world: &World, script: &str) -> Outcome {
    let run = world.command(["bash", "-c", script]).by_alice();
    run.current_dir("/home/alice").run()
}

#[track_caller]
fn says(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code(), Some(code), "{outcome}");
    for word in words {
        assert!(outcome.stderr().contains(word), "no `{word}`: {outcome}");
    }
}

/// What is said of a store that she has not described is for her to do, and is all that it takes.
#[test]
fn a_first_store_is_described_as_the_remedy_says() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    // /home is on an overlay here, which cannot be an upper layer.
    world.ok(["mount", "-t", "tmpfs", "none", "/home/alice"]);
    world.ok(["chown", "alice:", "/home/alice"]);
    let none = by_alice(&world, "overstore list");
    says(&none, 0, &["/home/alice/.config/overstore/NAME.toml"]);
    for command in ["exec mine -- true", "check mine"] {
        let told = by_alice(&world, &format!("overstore {command}"));
        says(
            &told,
            2,
            &[
                "there is no file /home/alice/.config/overstore/mine.toml",
                "touch",
            ],
        );
    }
    let told = by_alice(&world, "overstore --json check mine");
    let report: Value = serde_json::from_str(&told.stdout()).expect("JSON");
    let commands = report["remedies"][0]["commands"]
        .as_array()
        .expect("commands");
    let shells = commands
        .iter()
        .map(|it| it["shell"].as_str().expect("a command"));
    let shells: Vec<&str> = shells.collect();
    assert_eq!(
        by_alice(&world, &shells.join(" && ")).code(),
        Some(0),
        "{shells:?}"
    );
    let added = by_alice(
        &world,
        "overstore exec mine -- nix-store --add /etc/hostname",
    );
    says(&added, 0, &[]);
    // Another one may be meant by a name that is nearly the same.
    let told = by_alice(&world, "overstore exec mine2 -- true");
    says(
        &told,
        2,
        &[
            "did you mean `mine`?",
            "touch /home/alice/.config/overstore/mine2.toml",
        ],
    );
}

/// The exit codes are a shell's.
#[test]
fn why_a_command_was_not_started_is_told() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    let files =
        "printf '#!/no/interpreter\\n' >script; chmod +x script; ln -s /no/where link; mkdir bin
        cp script bin/on-path; touch plain";
    assert_eq!(by_alice(&world, files).code(), Some(0));
    for (program, code, words) in [
        (
            "no-such",
            127,
            &["there is no command no-such", "on PATH"][..],
        ),
        ("./no-such", 127, &["there is no command ./no-such"]),
        ("echo hi", 127, &["words apart", "sh -c 'echo hi'"]),
        (
            "./script",
            127,
            &["cannot run ./script: the interpreter or the loader"],
        ),
        (
            "on-path",
            127,
            &["cannot run /home/alice/bin/on-path: the interpreter"],
        ),
        (
            "./link",
            127,
            &["a link to something that is not there", "ls -l ./link"],
        ),
        ("./plain", 126, &["Permission denied", "chmod +x ./plain"]),
        ("/etc", 126, &["Permission denied", "is a directory"]),
    ] {
        for store in ["mine", "--ephemeral"] {
            let run = alice(&world, ["exec", store, "--", program]);
            let path = "/home/alice/bin:/usr/local/bin:/usr/sbin:/usr/bin";
            let told = run.env("PATH", path).run();
            says(&told, code, words);
            assert!(told.stderr().contains("\nremedy: "), "{told}");
        }
    }
}

/// What is for `--ephemeral` alone is not left aside, and a command has a mark before it.
#[test]
fn command_lines_that_are_none_are_refused() {
    let Some(world) = World::trixie() else { return };
    describe(&world, "");
    for (words, hint) in [
        (
            &["mine", "--warm", "/nix/store", "--", "true"][..],
            "'[STORE]' cannot be used with '--warm <PATH>'",
        ),
        (
            &["mine", "--dir", "/tmp", "--", "true"],
            "'[STORE]' cannot be used with '--dir <DIR>'",
        ),
        (
            &["mine", "--lower", "daemon", "--", "true"],
            "'[STORE]' cannot be used with '--lower <STORE-URL>'",
        ),
        (&["mine", "true"], "write `--` before the command"),
        (&["mine", "ls", "-l"], "write `--` before the command"),
    ] {
        let told = alice(&world, ["exec"]).args(words).run();
        says(&told, 2, &[hint]);
    }
}
