//! The commands that only read a description, as one runs them: exit codes, streams, formats.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const EXAMPLE: &str = "root = \"/mnt/example/merged-store\"\nlower-store = \"/mnt/example/store-a\"\n\
                       upper-layer = \"/mnt/example/store-b\"\nworkdir = \"/mnt/example/workdir\"\n";
const URL: &str = "local-overlay://?root=/mnt/example/merged-store&lower-store=/mnt/example/store-a\
                   &upper-layer=/mnt/example/store-b";

/// A directory with one description.
fn directory(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("example.toml"), text).unwrap();
    directory
}

fn overstore(directory: &Path, arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_overstore"));
    let mut command = Command::new(program);
    // So it is called by its name in what it says.
    command.env("PATH", program.parent().unwrap());
    for variable in [
        "NIX_STATE_DIR",
        "NIX_LOG_DIR",
        "NIX_STORE_DIR",
        "NIX_STORE",
        "NIX_DAEMON_SOCKET_PATH",
    ] {
        command.env_remove(variable);
    }
    command
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

/// What a command that works prints.
fn printed(text: &str, arguments: &[&str]) -> String {
    let directory = directory(text);
    let output = overstore(directory.path(), arguments);
    let (out, err) = streams(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    out
}

/// What `url --client` prints where no daemon is described, which it warns of.
fn printed_with_a_warning(text: &str, arguments: &[&str]) -> String {
    let directory = directory(text);
    let output = overstore(directory.path(), arguments);
    let (out, err) = streams(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let warning = "warning: no daemon is described for example";
    assert!(err.starts_with(warning), "{err}");
    out
}

/// What a command that is refused says.
fn refused(text: &str, arguments: &[&str]) -> String {
    let directory = directory(text);
    let output = overstore(directory.path(), arguments);
    let (out, err) = streams(&output);
    assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{err}");
    err
}

fn streams(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn url_prints_the_worked_example() {
    let off = format!("{EXAMPLE}remount-hook = false\n");
    assert_eq!(printed(&off, &["url", "example.toml"]), format!("{URL}\n"));
    // None is installed beside it.
    let hook = "/mnt/example/merged-store/nix/var/nix/overstore/overstore-remount";
    let with_hook = format!("{URL}&remount-hook={hook}\n");
    assert_eq!(printed(EXAMPLE, &["url", "./example.toml"]), with_hook);
}

#[test]
fn url_has_formats() {
    let text = format!(
        "{EXAMPLE}remount-hook = false\n[lower]\nread-only = true\n[database]\nuse-sqlite-wal = false\n"
    );
    let url = URL.replace("store-a&", "store-a?read-only=true&");
    let env = printed(&text, &["url", "--format", "env", "example.toml"]);
    assert_eq!(env, format!("OVERSTORE_URL=\"{url}\"\n"));
    insta::assert_snapshot!(
        "nix_conf",
        printed(&text, &["url", "--format", "nix.conf", "example.toml"])
    );
    insta::assert_snapshot!(
        "client_nix_conf",
        printed_with_a_warning(
            &text,
            &["url", "--client", "--format", "nix.conf", "example.toml"]
        )
    );
    let json = printed(&text, &["url", "--format", "json", "example.toml"]);
    assert_eq!(printed(&text, &["--json", "url", "example.toml"]), json);
    insta::assert_snapshot!("json", json);
    assert_eq!(
        printed(
            &text,
            &["url", "--client", "--socket", "/run/s", "example.toml"]
        ),
        "unix:///run/s?root=/mnt/example/merged-store\n"
    );
}

/// A shell that sources the variable gets the URL back.
#[test]
fn the_env_format_survives_a_shell() {
    let text = EXAMPLE.replace("/store-b", "/$HOME'`x`!(b)")
        + "remount-hook = false\ncheck-mount = false\n";
    let directory = directory(&text);
    let env = printed(&text, &["url", "--format", "env", "example.toml"]);
    fs::write(directory.path().join("env"), env).unwrap();
    let shell = Command::new("sh")
        .args(["-c", ". ./env; printf '%s\\n' \"$OVERSTORE_URL\""])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(streams(&shell).0, printed(&text, &["url", "example.toml"]));
}

#[test]
fn url_depends_on_the_version_where_it_must() {
    let text = EXAMPLE.replace("/store-a", "/100%") + "remount-hook = false\n";
    let directory = directory(&text);
    let output = overstore(directory.path(), &["url", "example.toml"]);
    let (out, err) = streams(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(err.contains("url-depends-on-version"), "{err}");
    let of = |version| printed(&text, &["url", "--nix-version", version, "example.toml"]);
    assert_eq!(of("2.34.8"), out);
    assert_ne!(of("2.26.3"), out);
    assert!(
        refused(&text, &["url", "--nix-version", "new", "example.toml"]).contains("--nix-version")
    );
}

#[test]
fn what_cannot_be_read_is_refused() {
    let directory = directory(EXAMPLE);
    let path = directory.path();
    fs::write(path.join("latin1.toml"), b"# caf\xe9\n").unwrap();
    fs::write(path.join("huge.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    fs::create_dir(path.join("d.toml")).unwrap();
    for (file, said) in [
        ("latin1.toml", "latin1.toml:1:6: expected UTF-8"),
        ("huge.toml", "1048576 bytes"),
        ("d.toml", "is a directory"),
        ("missing.toml", "there is no file missing.toml"),
        ("no-such-store", "/etc/overstore/no-such-store.toml"),
        ("", "is not the name of a store"),
    ] {
        let output = overstore(path, &["url", file]);
        let (out, err) = streams(&output);
        assert_eq!(
            (output.status.code(), out.as_str()),
            (Some(2), ""),
            "{file}"
        );
        assert!(
            err.contains(said) && err.contains("remedy: "),
            "{file}: {err}"
        );
    }
}

#[test]
fn mistakes_go_to_standard_error_without_colours_in_a_pipe() {
    let err = refused("upper_layer = 1\n", &["url", "example.toml"]);
    assert!(
        err.contains("example.toml:1:1") && err.contains("upper-layer"),
        "{err}"
    );
    assert!(!err.contains('\x1b'), "{err}");
}

#[test]
fn with_json_a_mistake_is_json_too() {
    let text = "upper_layer = 1\nroot = \"/\"\n";
    let directory = directory(text);
    for command in ["up", "down", "plan", "check", "status", "url"] {
        let output = overstore(directory.path(), &[command, "--json", "example.toml"]);
        let (out, err) = streams(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {err}");
        assert!(err.contains("example.toml:1:1"), "{command}: {err}");
        insta::assert_snapshot!("json_mistakes", out);
    }
    let output = overstore(directory.path(), &["check", "--json", "missing.toml"]);
    insta::assert_snapshot!("json_missing", streams(&output).0);
    for (arguments, code) in [
        (&["upp", "--json"][..], Some(2)),
        (&["--json", "up"], Some(2)),
        (&["up", "--json", "--no-such", "example.toml"], Some(2)),
    ] {
        let output = overstore(directory.path(), arguments);
        assert_eq!(output.status.code(), code, "{arguments:?}");
        let (out, error) = streams(&output);
        let out: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(out["outcome"], "refused");
        let failure = out["failure"].as_str().unwrap();
        assert_eq!(error.trim_end(), format!("error: {failure}"));
    }
    // What comes after `--` is another command's.
    let output = overstore(directory.path(), &["exec", "--", "true", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(streams(&output).0, "");
}

#[test]
fn the_starter_file_is_a_description() {
    let starter = printed(EXAMPLE, &["new"]);
    assert_eq!(
        printed(&starter, &["url", "example.toml"]),
        printed(EXAMPLE, &["url", "example.toml"])
    );
}

#[test]
fn check_lists_what_it_can_find() {
    let json = printed(EXAMPLE, &["check", "--list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let codes = json["codes"].as_array().unwrap();
    let missing = codes.iter().find(|it| it["code"] == "upper-missing");
    assert_eq!(
        *missing.unwrap(),
        serde_json::json!({
            "code": "upper-missing",
            "severities": ["error"],
            "parts": ["upper-layer"],
            "stops-up": "unless-made",
            "meaning": "The upper layer is missing or is not a directory."
        })
    );
    // It is about no store, and the check of one is about one.
    refused(EXAMPLE, &["check", "--list", "example.toml"]);
    refused(EXAMPLE, &["check", "--list", "--contents"]);
    refused(EXAMPLE, &["check"]);
}

#[test]
fn schemas_are_json() {
    let names = [
        "configuration",
        "report",
        "codes",
        "url",
        "status",
        "warm",
        "error",
    ];
    for name in names {
        let schema: serde_json::Value =
            serde_json::from_str(&printed("", &["schema", name])).unwrap();
        assert!(schema["properties"].is_object(), "{name}");
    }
}

/// The commands that `--help` lists.
pub(crate) fn commands() -> BTreeSet<String> {
    let output = overstore(Path::new("/"), &["--help"]);
    let (help, _) = streams(&output);
    let groups = help
        .lines()
        .skip_while(|line| !line.starts_with("Usage"))
        .take_while(|line| *line != "Options:");
    // Continuation lines are indented deeper.
    let commands = groups.filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| !line.starts_with(' '));
    let names = commands.filter_map(|line| line.split(' ').next());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(names.contains("up") && names.len() > 15, "{names:?}");
    names
}

/// The flags that a command has for itself.
pub(crate) fn flags(command: &str) -> BTreeSet<String> {
    let output = overstore(Path::new("/"), &[command, "--help"]);
    let (help, _) = streams(&output);
    let options = help.lines().skip_while(|line| *line != "Options:");
    // What is said of an option is indented deeper.
    let options = options.filter(|line| !line.starts_with("       "));
    let words = options.filter_map(|line| {
        let line = line.trim_start();
        let line = line
            .strip_prefix("-")
            .filter(|it| !it.starts_with('-'))
            .map_or(line, |short| {
                short.split_once(", ").map_or("", |(_, long)| long)
            });
        line.starts_with("--")
            .then(|| line.split([' ', '=']).next())?
    });
    let general = ["--help", "--json", "--version"];
    let flags = words.filter(|it| it.len() > 2 && !general.contains(it));
    flags.map(str::to_owned).collect()
}

/// Whoever adds a command has it killed at its steps, and its calls fail.
#[test]
fn every_command_is_in_the_sweeps() {
    crate::sweeps::assert_every_command_is_swept();
}

/// Whoever adds a command has what it changes looked at.
#[test]
fn every_command_is_traced() {
    crate::by_descriptor::assert_every_command_is_traced();
}
