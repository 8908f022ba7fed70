//! `overstore bug-report`: complete, without secrets, and without regard to what is broken.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::support::{Example, World, sample};

/// What nobody else may see.
const SECRETS: [&str; 5] = ["hunter1", "hunter2", "hunter3", "hunter4", "hunter5"];

/// The sections of a report by title.
fn section<'a>(report: &'a Value, title: &str) -> &'a Value {
    let sections = report["sections"].as_array().unwrap();
    let found = sections.iter().find(|it| it["title"] == title);
    found.unwrap_or_else(|| panic!("no section {title}: {report:#}"))
}

/// Two stores, one of them damaged and one with a wrong description, and passwords in several places.
fn broken(world: &World) {
    let example = world.example("");
    example.up();
    world.ok(["umount", Example::REAL]);
    world.write(
        "/etc/overstore/remote.toml",
        "root = '/mnt/remote'\nlower-store = 'mounted-ssh-ng://nix:hunter1@builder'\nnonsense = 1\n",
    );
    world.write(
        "/etc/overstore/publications/main.toml",
        "# token = hunter2\n",
    );
    world.ok(["mkfifo", "/etc/overstore/pipe.toml"]);
    world.write(
        "/etc/nix/nix.conf",
        "sandbox = false\naccess-tokens = github.com=hunter3\n\
         substituters = https://me:hunter4@cache.example\n",
    );
}

/// A report has its name when it is whole.
#[test]
pub(crate) fn killed_at_any_step_a_report_is_whole_or_not_there() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    world.mkdir("/mnt/out");
    let report = || world.overstore(["bug-report", "--output", "/mnt/out/report", "example"]);
    let (outcome, trace) = report().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let last = |world: &World| {
        let text = String::from_utf8(world.read("/mnt/out/report")).expect("text");
        let last = text.lines().last().expect("a line").to_owned();
        (last, text.ends_with('\n'))
    };
    let whole = last(&world);
    let points = trace.nth_calls(|call| {
        let mut changes = call.changes().into_iter();
        changes.any(|path| path.starts_with("/mnt/out"))
    });
    assert!(points.len() >= 3, "{points:?}");
    for (call, nth) in sample(points, 4) {
        world.ok(["rm", "-f", "/mnt/out/report"]);
        let killed = report().killed_at(&call, nth);
        let what = format!("killed at {call} {nth}: {killed}");
        if world.list("/mnt/out").is_empty() {
            let again = report().run();
            assert_eq!(again.code(), Some(0), "{what} {again}");
        }
        assert_eq!(world.list("/mnt/out"), ["report"], "{what}");
        assert_eq!(last(&world), whole, "{what}");
    }
}

#[test]
fn everything_is_in_one_file_and_no_secret() {
    let Some(world) = World::trixie() else { return };
    broken(&world);
    let made = world
        .overstore(["bug-report", "--json", "--output", "/tmp/report"])
        .env(
            "NIX_CONFIG",
            "access-tokens = github.com=hunter5\nkeep-outputs = true",
        )
        .run();
    assert_eq!(
        (made.code(), made.stdout()),
        (Some(0), String::new()),
        "{made}"
    );
    assert!(made.stderr().contains("Read it before"), "{made}");
    let file = world.path("/tmp/report").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, 0));

    let text = String::from_utf8(world.read("/tmp/report")).unwrap();
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let report: Value = serde_json::from_str(&text).unwrap();
    let check = section(&report, "store example: check");
    assert_eq!(check["result"]["findings"][0]["code"], "mount-missing");
    assert_eq!(
        section(&report, "store example: status")["result"]["mounted"],
        false
    );
    let wrong = section(&report, "store remote: check");
    assert_eq!(wrong["result"]["outcome"], "refused");
    let described = section(&report, "store remote: /etc/overstore/remote.toml");
    assert!(
        described["text"]
            .as_str()
            .unwrap()
            .contains("ssh-ng://***@builder")
    );
    section(&report, "publication /etc/overstore/publications/main.toml");
    let pipe = section(&report, "store pipe: /etc/overstore/pipe.toml");
    assert!(
        pipe["failure"].as_str().unwrap().contains("a named pipe"),
        "{pipe}"
    );
    let nix = section(&report, "Nix")["text"].as_str().unwrap();
    assert!(nix.contains("nix (Nix) 2."), "{nix}");
    let settings = section(&report, "settings of Nix")["text"]
        .as_str()
        .unwrap();
    for line in [
        "  sandbox = false\n",
        "  substituters = https://***@cache.example\n",
        "  keep-outputs = true\n",
        "  (1 other settings)",
    ] {
        assert!(settings.contains(line), "{line} in {settings}");
    }
    // There is no systemd in this tree.
    let journal = section(&report, "journal")["failure"].as_str().unwrap();
    assert!(journal.contains("cannot run journalctl"), "{journal}");
    let kernel = section(&report, "kernel")["text"].as_str().unwrap();
    assert!(kernel.contains("max_user_namespaces: "), "{kernel}");

    // As text, about one store, to standard output.
    let shown = world
        .overstore(["bug-report", "--output", "-", "example"])
        .run();
    assert_eq!(
        (shown.code(), shown.stderr()),
        (Some(0), String::new()),
        "{shown}"
    );
    let shown = shown.stdout();
    assert!(shown.contains("\n=== store example: check\n{\n"), "{shown}");
    assert!(
        shown.contains("\n(not told: cannot run journalctl"),
        "{shown}"
    );
    assert!(!shown.contains("=== store remote"), "{shown}");
}

/// The file is always new, and nothing leads to another place.
#[test]
fn no_file_is_overwritten_and_no_link_followed() {
    let Some(world) = World::trixie() else { return };
    world.write("/srv/precious", "mine");
    let links = "mkdir -m 1777 /srv/shared /srv/other
                 ln -s /srv/precious /srv/shared/to-file
                 ln -s /srv/nowhere /srv/shared/to-nothing
                 ln -s /srv/other /srv/shared/to-directory";
    world.ok(["sh", "-ec", links]);
    let report = |output: &str| world.overstore(["bug-report", "--output", output]).run();
    for (output, code) in [
        ("/srv/precious", 2),
        ("/srv/shared/to-file", 2),
        ("/srv/shared/to-nothing", 2),
        ("/srv/shared/to-directory/report", 3),
        ("/srv/missing/report", 3),
        ("/srv/other/..", 2),
    ] {
        let refused = report(output);
        assert_eq!(refused.code(), Some(code), "{output}: {refused}");
        assert!(refused.stderr().contains("--output"), "{refused}");
    }
    assert_eq!(world.read("/srv/precious"), b"mine");
    assert!(world.list("/srv/other").is_empty());
    assert!(!world.path("/srv/nowhere").exists());

    // Half a report is none.
    let full = "mkdir /srv/full; mount -t tmpfs -o size=4k none /srv/full; echo >/srv/full/file";
    world.ok(["sh", "-ec", full]);
    let refused = report("/srv/full/report");
    assert_eq!(refused.code(), Some(3), "{refused}");
    assert_eq!(world.list("/srv/full"), ["file"]);
}

/// A user has one, too, in the working directory; what only root may see is said to be missing.
#[test]
fn an_ordinary_user_has_one() {
    let Some(world) = World::trixie() else { return };
    broken(&world);
    let made = world
        .overstore(["bug-report"])
        .by_alice()
        .current_dir("/home/alice")
        .run();
    assert_eq!(made.code(), Some(0), "{made}");
    let file = world.path("/home/alice/overstore-bug-report.txt");
    let status = file.metadata().unwrap();
    assert_eq!((status.mode() & 0o7777, status.uid()), (0o600, 1000));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("user: 1000"), "{text}");
    assert!(text.contains("=== store example: status"), "{text}");
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    // Once more, it is there already.
    let refused = world
        .overstore(["bug-report"])
        .by_alice()
        .current_dir("/home/alice")
        .run();
    assert_eq!(refused.code(), Some(2), "{refused}");
}
