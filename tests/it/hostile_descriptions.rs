//! Descriptions with any name and any content: one that cannot be used disables its own store, and
//! nothing of a name or a value becomes a line of a unit.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use overstore::testing::systemd::generate;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{cases, files};

const PROGRAM: &str = env!("CARGO_BIN_EXE_overstore");

/// A system with directories for descriptions and for units.
struct System {
    root: TempDir,
}

impl System {
    fn new() -> System {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("etc/overstore")).unwrap();
        let system = System { root };
        system.describe("good", "");
        system
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let mut name = name.as_ref().to_owned();
        name.push(".toml");
        self.root.path().join("etc/overstore").join(name)
    }

    /// Describes a store with lines more than it needs.
    fn describe(&self, name: impl AsRef<OsStr>, more: &str) {
        fs::write(self.path(name), description(more)).unwrap();
    }

    /// Runs the generator: the units, and the names of the files that are broken, with the reasons.
    fn generate(&self) -> (PathBuf, Vec<(OsString, String)>) {
        let output = self.root.path().join("units");
        let _ = fs::remove_dir_all(&output);
        let program = Path::new("/usr/bin/overstore");
        let broken = generate(self.root.path(), &output, program, None).unwrap();
        let broken = broken
            .into_iter()
            .map(|one| {
                (
                    one.file.file_stem().unwrap().to_owned(),
                    one.fault.to_string(),
                )
            })
            .collect();
        assert!(output.join("overstore-good.service").exists());
        assert_only_known_lines(&output);
        (output, broken)
    }

    /// Expects the generator to pass over one description for this reason, and over no other.
    #[track_caller]
    fn assert_broken(&self, name: &str, why: &str) {
        let (_, broken) = self.generate();
        assert!(
            matches!(&broken[..], [(file, reason)] if *file == *name && reason.contains(why)),
            "{broken:?}"
        );
    }
}

fn description(more: &str) -> String {
    format!(
        "root = \"/mnt/merged\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
         upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/workdir\"\n{more}\n"
    )
}

/// The settings that the units of the examples have.
fn known_settings() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for case in cases("systemd-generator") {
        let units = case.join("expected");
        for file in files(&units)
            .keys()
            .filter(|file| *file != Path::new("broken"))
        {
            let text = fs::read_to_string(units.join(file)).unwrap_or_default();
            known.extend(text.lines().map(|line| kind(line).to_owned()));
        }
    }
    assert!(
        known.contains("ExecStart=") && known.contains("[Service]"),
        "{known:?}"
    );
    known
}

/// What a line of a unit is: a comment, a section, a setting.
fn kind(line: &str) -> &str {
    match line {
        _ if line.starts_with('#') => "#",
        _ => line.split_inclusive('=').next().unwrap_or_default(),
    }
}

#[track_caller]
fn assert_only_known_lines(output: &Path) {
    let known = known_settings();
    for file in files(output).keys() {
        if fs::symlink_metadata(output.join(file))
            .unwrap()
            .is_symlink()
        {
            continue;
        }
        let text = fs::read_to_string(output.join(file)).unwrap();
        for line in text.split(|character: char| character.is_control()) {
            assert!(known.contains(kind(line)), "{file:?}: {line:?}");
            let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
            assert!(
                backslashes % 2 == 0,
                "{file:?}: {line:?} goes on in the next line"
            );
        }
    }
}

/// Security case G1.
#[test]
fn a_name_that_is_too_long_for_a_unit_disables_its_own_store() {
    let names = ["ü".repeat(100), "-".repeat(101), "a".repeat(250)];
    for name in names {
        let system = System::new();
        system.describe(&name, "[daemon]\nsocket = \"/run/a\"");
        system.assert_broken(&name, "a shorter name");
    }
    // The longest that fit have their units.
    for name in ["a".repeat(220), "-".repeat(55)] {
        let system = System::new();
        system.describe(&name, "[daemon]\nsocket = \"/run/a\"");
        assert_eq!(system.generate().1, []);
    }
}

/// Security cases G2 and G4.
#[test]
fn a_name_of_any_bytes_adds_no_line_and_loses_no_unit() {
    let system = System::new();
    let mut count = 1;
    for byte in (1..=255_u8).filter(|byte| *byte != b'/') {
        for name in [
            vec![b'a', byte],
            [b"x\n[Service]\nExecStart=evil ", &[byte][..]].concat(),
        ] {
            system.describe(OsStr::from_bytes(&name), "[daemon]\nserve = false");
            count += 1;
        }
    }
    // Shown alike, and so named alike.
    system.describe("a\\xFF", "");
    let (output, broken) = system.generate();
    let units = fs::read_dir(&output).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".service")
    });
    assert_eq!(units.count(), count);
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].1.contains("is shown alike"), "{broken:?}");
}

/// Security case G3.
#[test]
fn what_is_no_file_disables_its_own_store() {
    type Make = fn(&Path);
    let makes: [(Make, &str); 8] = [
        (
            |at| assert!(Command::new("mkfifo").arg(at).status().unwrap().success()),
            "a named pipe",
        ),
        (|at| symlink("/dev/zero", at).unwrap(), "a character device"),
        (|at| fs::create_dir(at).unwrap(), "a directory"),
        (|at| symlink("bad.toml", at).unwrap(), "cannot be read"),
        (|at| symlink("/nowhere", at).unwrap(), "cannot be read"),
        (
            |at| drop(std::os::unix::net::UnixListener::bind(at).unwrap()),
            "a socket",
        ),
        (
            |at| fs::File::create(at).unwrap().set_len(1 << 40).unwrap(),
            "at most 1048576 bytes",
        ),
        (|at| fs::write(at, b"# \xff").unwrap(), "expected UTF-8"),
    ];
    for (make, why) in makes {
        let system = System::new();
        make(&system.path("bad"));
        system.assert_broken("bad", why);
    }
    // A link to the null device, or an empty file, masks a store.
    let system = System::new();
    symlink("/dev/null", system.path("masked")).unwrap();
    fs::write(system.path("empty"), "").unwrap();
    assert_eq!(system.generate().1, []);
}

/// Security case G5.
#[test]
fn a_value_adds_no_line() {
    for socket in [
        "/run/a\\n[Service]\\nExecStart=/bin/evil",
        "/run/a\\\\",
        "/run/a ",
        "/run/a\\u0085b",
    ] {
        let system = System::new();
        system.describe("bad", &format!("[daemon]\nsocket = \"{socket}\""));
        system.assert_broken("bad", "`daemon.socket` cannot be written in a unit");
    }
    // Every other value is written so that it stays in its line.
    let evil = "/mnt/\\n[Service]\\nExecStart=/bin/evil %n $HOME \\\" ' \\\\";
    let system = System::new();
    let text = format!(
        "real = \"{evil}1\"\nstate = \"{evil}2\"\nlower-store = \"unix:///run/a?root=/mnt/lower\"\n\
         upper-layer = \"{evil}3\"\nworkdir = \"{evil}4\"\nlog = \"{evil}5\"\n\
         lower = {{ real = \"{evil}6\" }}\ncheck-mount = false\n\
         daemon = {{ socket = \"/run/b\" }}\n"
    );
    fs::write(system.path("evil"), text).unwrap();
    assert_eq!(system.generate().1, []);
}

fn units(output: &Path, more: &[&str]) -> Output {
    let description = output.with_file_name("example.toml");
    fs::write(
        &description,
        self::description("[daemon]\nsocket = \"/run/a\""),
    )
    .unwrap();
    Command::new(PROGRAM)
        .args(["units", "--output"])
        .arg(output)
        .args(more)
        .arg(&description)
        .output()
        .unwrap()
}

/// Security case G6.
#[test]
fn units_are_written_into_a_directory_of_their_own() {
    let place = TempDir::new().unwrap();
    let output = place.path().join("units");
    let said = |run: &Output| String::from_utf8_lossy(&run.stderr).into_owned();
    // Made, or empty.
    assert!(units(&output, &[]).status.success());
    let wanted = files(&output);
    fs::remove_dir_all(&output).unwrap();
    fs::create_dir(&output).unwrap();
    assert!(units(&output, &[]).status.success());
    // Its own files are replaced with `--force` only.
    let again = units(&output, &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        said(&again).contains("is not empty") && said(&again).contains("--force"),
        "{}",
        said(&again)
    );
    fs::write(
        output.join("overstore-example.service"),
        "# Made by overstore from /elsewhere.\n",
    )
    .unwrap();
    let forced = units(&output, &["--force"]);
    assert!(forced.status.success(), "{}", said(&forced));
    assert!(files(&output) == wanted);
    // What is somebody else's stays, with it too; a link is not followed, a pipe not waited for.
    let victim = place.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let makes: [Make<'_>; 4] = [
        &|at| fs::write(at, "mine").unwrap(),
        &|at| symlink(&victim, at).unwrap(),
        &|at| assert!(Command::new("mkfifo").arg(at).status().unwrap().success()),
        &|at| fs::create_dir(at).unwrap(),
    ];
    for make in makes {
        let unit = output.join("overstore-example.service");
        fs::remove_file(&unit).unwrap();
        make(&unit);
        let refused = units(&output, &["--force"]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(
            said(&refused).contains("overstore-example.service exists already"),
            "{}",
            said(&refused)
        );
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        match fs::symlink_metadata(&unit).unwrap().is_dir() {
            true => fs::remove_dir(&unit).unwrap(),
            false => fs::remove_file(&unit).unwrap(),
        }
        assert!(units(&output, &["--force"]).status.success());
    }
    // Nor is a directory in it that is a link.
    let elsewhere = place.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::remove_dir_all(output.join("sockets.target.wants")).unwrap();
    symlink(&elsewhere, output.join("sockets.target.wants")).unwrap();
    assert_eq!(units(&output, &["--force"]).status.code(), Some(3));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// Text with all that means something to systemd, and all that ends a line.
const ANY: &str = "\\PC{0,20}|[\n\r\t\u{85}\u{2028}\"\\\\%$'`;#= \\[\\]/aE]{0,20}";

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What `fuzz/fuzz_targets/generator.rs` looks for, a few times.
    #[test]
    fn nothing_of_any_description_adds_a_line(
        name in prop::collection::vec(1..=255_u8, 1..40),
        values in prop::collection::vec(ANY, 6..=6),
        bytes: Vec<u8>,
    ) {
        let system = System::new();
        let name: Vec<u8> = name.into_iter().filter(|byte| *byte != b'/').collect();
        let quoted = |at: usize| {
            let escaped = values[at].chars().map(|c| format!("\\U{:08X}", u32::from(c)));
            escaped.collect::<String>()
        };
        let text = format!(
            "real = \"/{}1\"\nlower-store = \"/{}?read-only=true\"\nupper-layer = \"/{}3\"\n\
             workdir = \"/{}4\"\nlog = \"/{}5\"\ncheck-mount = false\n[daemon]\nsocket = \"/{}\"\n",
            quoted(0), quoted(1), quoted(2), quoted(3), quoted(4), quoted(5),
        );
        fs::write(system.path(OsStr::from_bytes(&[b"x", &name[..]].concat())), text).unwrap();
        fs::write(system.path("any"), bytes).unwrap();
        // It looks at every line of every unit.
        system.generate();
    }
}
