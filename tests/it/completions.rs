//! What the shells complete: a person at a terminal, in each of them.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::support::skip;

const OBJECT: &str = "/nix/store/isdzvq2yr4dsxj4ljbwi79rvlvgaikab-hello-1.0";

/// Where names are looked for, and nothing is that this machine has.
const DIRECTORY: &str = "/run/overstore";

/// The shells, and how each is told of completions in `$1`.
const SHELLS: [(&str, &str); 3] = [
    (
        "bash",
        r#"printf 'PS1="READY> "\n. "%s/script"\n' "$1" >"$1/rc"
           overstore completions bash >"$1/script"
           exec bash --noprofile --rcfile "$1/rc" -i"#,
    ),
    (
        "zsh",
        r#"printf 'PS1="READY> "\nfpath=("%s" $fpath)\nautoload -Uz compinit\ncompinit -u -D\n' "$1" >"$1/.zshrc"
           overstore completions zsh >"$1/_overstore"
           ZDOTDIR="$1" exec zsh -d -i"#,
    ),
    (
        "fish",
        r#"mkdir -p "$1/fish/completions"
           printf 'function fish_prompt; echo -n "READY> "; end\nset fish_greeting\n' >"$1/fish/config.fish"
           overstore completions fish >"$1/fish/completions/overstore.fish"
           XDG_CONFIG_HOME="$1" XDG_DATA_HOME="$1" exec fish -i"#,
    ),
];

/// What a shell makes of what is typed: the line, once its words were completed.
fn completed(shell: &str, set_up: &str, typed: &str) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().display();
    let lower = scratch.path().join("lower/nix/store");
    fs::create_dir_all(lower.join(Path::new(OBJECT).file_name().unwrap())).unwrap();
    let set_up = format!("set -- '{directory}'\n{set_up}\n");
    fs::write(scratch.path().join("shell"), set_up).unwrap();
    let description = format!(
        "root = '{directory}/merged'\nlower-store = '{directory}/lower'\n\
         upper-layer = '{directory}/upper'\nworkdir = '{directory}/work'\n"
    );
    fs::write(scratch.path().join("example.toml"), description).unwrap();
    // A terminal, in a mount namespace where nobody's descriptions are.
    let commands = format!(
        "mount -t tmpfs none /run && mkdir -p {DIRECTORY} && cp {directory}/example.toml {DIRECTORY} \
         && touch {DIRECTORY}/wrong.toml {DIRECTORY}/.hidden.toml \
         && exec script -qec 'sh -e {directory}/shell' /dev/null"
    );
    let program = Path::new(env!("CARGO_BIN_EXE_overstore")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut child = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"])
        .arg(commands)
        .env_clear()
        .env("PATH", path)
        .env("TERM", "xterm")
        .env("HOME", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut until = |text: &str, from: usize| {
        let mut byte = [0];
        loop {
            let so_far = String::from_utf8_lossy(&shown[from.min(shown.len())..]).into_owned();
            if so_far.contains(text) {
                return (so_far, shown.len());
            }
            match screen.read(&mut byte) {
                Ok(1) => shown.push(byte[0]),
                _ => panic!("{shell}: no {text:?} in {so_far:?}"),
            }
        }
    };
    let (_, ready) = until("READY> ", 0);
    // The beginning of the line, where `echo` is put before it.
    write!(keys, "{typed}\u{1}echo =; echo DONE \r").unwrap();
    keys.flush().unwrap();
    let (_, done) = until("\nDONE ", ready);
    let (line, _) = until("\n", done);
    drop(keys);
    child.kill().unwrap();
    child.wait().unwrap();
    line.trim_end().to_owned()
}

#[test]
fn names_and_paths_complete_in_real_shells() {
    if !geteuid().is_root() {
        return skip("root", "a mount namespace is needed");
    }
    for (shell, set_up) in SHELLS {
        if Command::new(shell).arg("-c").arg("true").status().is_err() {
            skip("shell", shell);
            continue;
        }
        for (typed, line) in [
            ("overstore check exa\t", "overstore check example"),
            (
                "overstore url --client exa\t",
                "overstore url --client example",
            ),
            ("overstore optimi\texa\t", "overstore optimise example"),
            (
                "overstore warm exa\t/nix/store/is\t",
                &format!("overstore warm example {OBJECT}"),
            ),
        ] {
            assert_eq!(completed(shell, set_up, typed), line, "{shell}");
        }
    }
}
