//! The NixOS module in the real NixOS: evaluated with all of nixpkgs, where `OVERSTORE_NIXPKGS` names
//! one. Nothing of it is built. What comes out is compared with what the stubs of `tests/nixos/` make,
//! which all other tests go by.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::nixos::{TypeChecker, nix, without_hashes, worlds_with_nixpkgs};
use crate::support::{Content, World, files, skip};
use serde_json::Value;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// Worlds with the whole of nixpkgs; none (reported) where there is none, or only a part.
fn worlds() -> Vec<World> {
    let worlds = worlds_with_nixpkgs();
    let is_whole = |world: &World| world.path("/nixpkgs/nixos/lib/eval-config.nix").exists();
    if !worlds.iter().all(is_whole) {
        skip("nixpkgs", "OVERSTORE_NIXPKGS names a part of nixpkgs");
        return Vec::new();
    }
    worlds
}

/// An attribute of `tests/nixos/whole.nix`, in one process: what its members share is most of the work.
fn evaluated(world: &World, attribute: &str) -> Value {
    let words = [
        "nix-instantiate",
        "--eval",
        "--strict",
        "--json",
        "--read-write-mode",
    ];
    let file = "/source/tests/nixos/whole.nix";
    let json = nix(world, &words).args([file, "--attr", attribute]).ok();
    serde_json::from_str(&json).unwrap()
}

/// The members of an object.
fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value))
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect()
}

/// A unit's settings: what is said of each key, in order, but for what NixOS adds to every unit.
fn settings(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<_, Vec<String>>::new();
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let of_every_unit = ["PATH=", "LOCALE_ARCHIVE=", "TZDIR=", "CURL_CA_BUNDLE="];
        let mut value = value.trim();
        if key == "Environment" {
            value = value.trim_matches('"');
        }
        let added = key == "X-Restart-Triggers"
            || section == "[Install]"
            || key == "Environment" && of_every_unit.iter().any(|name| value.starts_with(name));
        if !added {
            found
                .entry(format!("{section} {key}"))
                .or_default()
                .push(value.to_owned());
        }
    }
    // The order of keys is the renderer's; that of one key's values is not.
    found
}

/// A text of the real NixOS with the places that the stubs have.
fn with_places_of_stubs(text: &str) -> String {
    let mut text = without_hashes(text);
    let nix = "/nix/store/HASH-nix-";
    while let Some(at) = text.find(nix) {
        let rest = &text[at + nix.len()..];
        let end = rest.find(['/', ':', '"', '\n']).unwrap_or(rest.len());
        text.replace_range(at..at + nix.len() + end, "/nix-package");
    }
    let version = concat!(
        "/nix/store/HASH-overstore-",
        env!("CARGO_PKG_VERSION"),
        "/bin"
    );
    text.replace(version, "/usr/bin")
}

/// Compares the units of the real NixOS with those in a directory that the stubs made.
fn assert_units(what: &str, real: &Value, directory: &Path) {
    let mut expected = files(directory);
    let mut of_stubs = BTreeSet::new();
    expected.retain(|name, content| {
        let wanted = name
            .parent()
            .and_then(Path::extension)
            .is_some_and(|kind| kind == "wants" || kind == "requires");
        if wanted {
            of_stubs.insert(name.clone());
        }
        !wanted && matches!(content, Content::Text(_))
    });
    let mut of_real = BTreeSet::new();
    for (name, unit) in members(real) {
        let is_dropin = unit["overrideStrategy"] == "asDropin" || name == "nix-daemon.service";
        let file = if is_dropin {
            format!("{name}.d/overrides.conf")
        } else {
            name.to_owned()
        };
        let Some(Content::Text(text)) = expected.remove(Path::new(&file)) else {
            panic!("{what}: {name} is in the real NixOS only");
        };
        let found = settings(&with_places_of_stubs(unit["text"].as_str().unwrap()));
        assert_eq!(settings(&text), found, "{what}: {name}");
        for (key, kind) in [("wantedBy", "wants"), ("requiredBy", "requires")] {
            for target in strings(&unit[key]) {
                of_real.insert(PathBuf::from(format!("{target}.{kind}/{name}")));
            }
        }
    }
    assert_eq!(of_stubs, of_real, "{what}: what wants the units");
    // What is left is the program's, not the module's.
    let of_module = |name: &&PathBuf| name.ends_with("overrides.conf");
    let left: Vec<_> = expected.keys().filter(of_module).collect();
    assert!(left.is_empty(), "{what}: of the stubs only: {left:?}");
}

#[test]
fn the_examples_are_the_same_in_the_real_nixos() {
    for world in worlds() {
        let examples = evaluated(&world, "examples");
        assert!(examples.as_object().unwrap().len() >= 4);
        for (name, example) in members(&examples) {
            assert_eq!(
                example["said"],
                serde_json::json!({"assertions": [], "warnings": []}),
                "{name}"
            );
            let system = example["system"].as_str().unwrap();
            assert!(system.ends_with(".drv"), "{name}: {system}");
            let rendered = Path::new(SOURCE)
                .join("vm-tests/scenarios/nixos-units/rendered")
                .join(name);
            // This one has no store itself.
            if name == "micro-vm-host" {
                continue;
            }
            assert_units(
                name,
                &example["units"],
                &rendered.join("etc/systemd/system"),
            );
            assert_units(
                name,
                &example["initrdUnits"],
                &rendered.join("initrd/etc/systemd/system"),
            );
            let etc: Vec<String> = files(&rendered.join("etc/overstore"))
                .keys()
                .map(|file| format!("overstore/{}", file.display()))
                .collect();
            assert_eq!(strings(&example["etc"]), etc, "{name}");
            let rules = strings(&example["tmpfiles"]);
            let ours = fs::read_to_string(rendered.join("etc/tmpfiles.d/00-nixos.conf"));
            for rule in ours
                .unwrap_or_default()
                .lines()
                .filter(|rule| !rule.is_empty())
            {
                assert!(rules.contains(&rule), "{name}: {rule}");
            }
            let configuration = fs::read_to_string(rendered.join("etc/nix/nix.conf")).unwrap();
            let by_daemon = configuration.contains("store = daemon");
            if let Ok(script) = fs::read_to_string(rendered.join("nix-gc")) {
                let collects = with_places_of_stubs(example["collects"].as_str().unwrap());
                assert_eq!(collects.trim(), script.trim(), "{name}");
                let optimises = example["optimises"].as_str().unwrap();
                assert!(
                    optimises.ends_with("overstore-optimise"),
                    "{name}: {optimises}"
                );
            }
            assert_eq!(example["store"] == "daemon", by_daemon, "{name}");
            assert_eq!(example["registers"] == false, by_daemon, "{name}");
        }
    }
}

/// Beside units and files: what is mounted in the initrd, who is asked before a switch, and what
/// `nixos-rebuild build-vm` makes of a system with a store of its own.
#[test]
fn what_the_module_decides_is_so_in_the_real_nixos() {
    for world in worlds() {
        let decided = evaluated(&world, "decided");
        let needed = strings(&decided["neededForBoot"]);
        assert_eq!(needed, ["/", "/nix/.ro-store", "/nix/.rw-store"]);
        assert_eq!(decided["checks"], serde_json::json!([true, true]));
        assert_eq!(decided["storesOfMachine"], serde_json::json!([]));
        let nothing = serde_json::json!({"assertions": [], "warnings": []});
        assert_eq!(decided["objectionsOfMachine"], nothing);
        assert!(decided["machine"].as_str().unwrap().ends_with(".drv"));
        // It is stopped by the same check.
        let upgrade = decided["upgrade"].as_str().unwrap();
        assert!(upgrade.contains("nixos-rebuild switch"), "{upgrade}");
    }
}

#[test]
fn every_objection_is_the_same_in_the_real_nixos() {
    let Some(world) = worlds().into_iter().next() else {
        return;
    };
    let with_stubs = crate::nixos::evaluated(&world, "mistakes");
    for (name, said) in members(&evaluated(&world, "mistakes")) {
        assert_eq!(&with_stubs[name]["said"], said, "{name}");
    }
}

/// The options that `tests/nixos/stubs.nix` has in the place of NixOS's own: whatever both take becomes
/// the same, and they have the same defaults.
#[test]
fn the_stubs_are_as_what_they_stand_for() {
    let Some(world) = worlds().into_iter().next() else {
        return;
    };
    let compared = evaluated(&world, "stubs");
    assert!(compared.as_object().unwrap().len() >= 40);
    let mut wrong = Vec::new();
    for (name, option) in members(&compared) {
        let (stub, real) = (&option["stub"], &option["real"]);
        if real.is_null() {
            wrong.push(format!("{name}: NixOS has no such option"));
            continue;
        }
        let merges = |of: &Value| of["merges"].as_array().unwrap().clone();
        for (stub, real) in merges(stub).iter().zip(merges(real)) {
            // A stub may take what NixOS refuses: that is tried with NixOS itself.
            if *stub != real && real != "refused" {
                wrong.push(format!("{name}: {stub} with the stub, {real} in NixOS"));
            }
        }
        let has_default = |of: &Value| of["default"] != "none";
        let differs = stub["default"] != real["default"];
        if differs && has_default(stub) {
            let (stub, real) = (&stub["default"], &real["default"]);
            wrong.push(format!(
                "{name}: {stub} by default with the stub, {real} in NixOS"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// nixpkgs' conventions for a package that is in a file of its own.
#[test]
fn the_package_is_as_nixpkgs_wants_it() {
    let Some(world) = worlds().into_iter().next() else {
        return;
    };
    let package = evaluated(&world, "packaged");
    let meta = &package["meta"];
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(meta["description"], env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(meta["mainProgram"], "overstore");
    assert_eq!(meta["available"], true);
    let licenses = strings(&meta["licenses"]).join(" OR ");
    assert_eq!(licenses, env!("CARGO_PKG_LICENSE"));
    assert!(strings(&meta["platforms"]).contains(&"aarch64-linux"));
    assert_eq!(package["update"], true);
    assert_eq!(package["checksVersion"], true);
    let tests = strings(&package["tests"]);
    assert!(tests.contains(&"nixos-boot"), "{tests:?}");
}

/// Every file of NixOS that loads a registration into a store is one that the manual names.
#[test]
fn whoever_loads_registrations_is_in_the_manual() {
    for world in worlds() {
        let found = world
            .command([
                "grep",
                "--recursive",
                "--files-with-matches",
                "--",
                "--load-db",
            ])
            .args(["/nixpkgs/nixos/modules", "/nixpkgs/nixos/lib"])
            .ok();
        let manual = fs::read_to_string(Path::new(SOURCE).join("docs/nixos.md")).unwrap();
        for file in found.lines() {
            let name = file.rsplit('/').next().unwrap();
            assert!(
                manual.contains(&format!("`{name}`")),
                "{file} is not in the manual"
            );
        }
        assert!(found.lines().count() >= 9, "{found}");
    }
}

/// The test scripts of the virtual machines, with the types of NixOS's driver; and what the tests
/// without nixpkgs take for these types.
#[test]
fn the_scripts_of_the_machines_have_no_type_errors() {
    let Some(world) = worlds().into_iter().next() else {
        return;
    };
    let nixpkgs = PathBuf::from(std::env::var_os("OVERSTORE_NIXPKGS").unwrap());
    let Some(checker) = TypeChecker::find("nixpkgs", &nixpkgs.join("nixos/lib/test-driver/src"))
    else {
        return;
    };
    let scripts = evaluated(&world, "scripts");
    assert!(scripts.as_object().unwrap().len() >= 10);
    for (name, script) in members(&scripts) {
        checker.accepts(name, script.as_str().unwrap());
    }
    let boot = scripts["nixos-boot"].as_str().unwrap();
    checker.refuses(&format!("{boot}\nmachine.succeed(1)\n"));
    let ours = include_str!("../nixos/driver.py");
    let compared = format!("{boot}\n{ours}as_stub: DriversMachine = machine\n");
    checker.accepts("the driver's machine and tests/nixos/driver.py", &compared);
}

/// What `nix flake check` would evaluate, the tests in virtual machines with it.
#[test]
fn everything_in_the_flake_evaluates() {
    for world in worlds() {
        let flake = evaluated(&world, "flake");
        for system in ["x86_64-linux", "aarch64-linux"] {
            for package in ["default", "overstore"] {
                let path = flake["packages"][system][package].as_str().unwrap();
                assert!(path.ends_with("-overstore-0.1.0.drv"), "{path}");
            }
        }
        let checks: BTreeSet<&str> = members(&flake["checks"]).map(|(name, _)| name).collect();
        for check in ["overstore", "module", "nix-format", "rust-format"] {
            assert!(checks.contains(check), "{checks:?}");
        }
        let machines = checks
            .iter()
            .filter(|name| name.starts_with("nixos-"))
            .count();
        assert!(machines >= 8, "{checks:?}");
        for path in ["formatter", "overlay", "cross"] {
            assert!(flake[path].as_str().unwrap().ends_with(".drv"), "{path}");
        }
    }
}

/// The order of the initrd, by systemd's own judgement: with `/etc` of the initrd's own, as an
/// overlay, with nixos-init and without Perl; and that this judgement would see a cycle.
#[test]
fn the_initrds_of_the_real_nixos_have_an_order() {
    let Some(world) = worlds().into_iter().next() else {
        return;
    };
    let initrds = evaluated(&world, "initrds");
    for (name, initrd) in members(&initrds) {
        let units: BTreeMap<String, InitrdUnit> = members(&initrd["units"])
            .map(|(name, unit)| {
                let links = |key| strings(&unit[key]).into_iter().map(str::to_owned).collect();
                let unit = InitrdUnit {
                    text: unit["text"].as_str().unwrap().to_owned(),
                    wanted_by: links("wantedBy"),
                    required_by: links("requiredBy"),
                };
                (name.to_owned(), unit)
            })
            .collect();
        let fstab = initrd["fstab"].as_str().unwrap();
        assert_order(name, units, fstab, name != "plain");
    }
}

/// An initrd has an order with our unit as it is, and, where `/etc` is an overlay, none if the unit
/// came after all that the initrd mounts, as it once did.
pub fn assert_order(
    name: &str,
    mut units: BTreeMap<String, InitrdUnit>,
    fstab: &str,
    etc_is_overlay: bool,
) {
    let Some(said) = verify(&units, fstab) else {
        return;
    };
    assert_eq!(said, Vec::<String>::new(), "{name}");
    let unit = units.get_mut("overstore-initrd-system.service").unwrap();
    unit.text = unit
        .text
        .replace("Before=initrd-fs.target ", "Before=")
        .replace("[Unit]\n", "[Unit]\nAfter=initrd-fs.target\n");
    let cycle = verify(&units, fstab)
        .unwrap()
        .iter()
        .any(|line| line.contains("ordering cycle"));
    assert_eq!(cycle, etc_is_overlay, "{name}: an order with a cycle");
}

/// A unit of an initrd.
#[derive(Clone, Default)]
pub struct InitrdUnit {
    pub text: String,
    pub wanted_by: Vec<String>,
    pub required_by: Vec<String>,
}

/// What systemd has to say of the order of an initrd with these units, and with the file systems of
/// this `fstab`, as far as it is about order, or about our unit; `None` (reported) without a systemd.
fn verify(units: &BTreeMap<String, InitrdUnit>, fstab: &str) -> Option<Vec<String>> {
    let generator = "/usr/lib/systemd/system-generators/systemd-fstab-generator";
    let installed = "/usr/lib/systemd/system";
    if !Path::new(generator).exists()
        || Command::new("systemd-analyze")
            .arg("--version")
            .output()
            .is_err()
    {
        skip(
            "systemd",
            "there is no systemd-analyze here (Debian: systemd)",
        );
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let (ours, generated) = (place.path().join("units"), place.path().join("generated"));
    fs::create_dir_all(&generated).unwrap();
    for (name, unit) in units {
        let mut file = ours.join(name);
        if Path::new(installed).join(name).exists() {
            file = ours.join(format!("{name}.d/overrides.conf"));
        }
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, &unit.text).unwrap();
        for (targets, kind) in [(&unit.wanted_by, "wants"), (&unit.required_by, "requires")] {
            for target in targets {
                let directory = ours.join(format!("{target}.{kind}"));
                fs::create_dir_all(&directory).unwrap();
                symlink(Path::new("..").join(name), directory.join(name)).unwrap();
            }
        }
    }
    let table = place.path().join("fstab");
    fs::write(&table, fstab).unwrap();
    let made = Command::new(generator)
        .args([&generated, &generated, &generated])
        .env("SYSTEMD_IN_INITRD", "1")
        .env("SYSTEMD_FSTAB", "/dev/null")
        .env("SYSTEMD_SYSROOT_FSTAB", &table)
        .env("SYSTEMD_PROC_CMDLINE", "")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let path = format!("{}:{}:{installed}", ours.display(), generated.display());
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "initrd.target"])
        .env("SYSTEMD_IN_INITRD", "1")
        .env("SYSTEMD_UNIT_PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8(verified.stderr).unwrap();
    // Programs of another system are not here, and an older systemd does not know every setting.
    let counts = |line: &&str| {
        ["cycle", "overstore", "initrd-fs.target"]
            .iter()
            .any(|word| line.contains(word))
            && !line.contains("is not executable")
    };
    Some(said.lines().filter(counts).map(str::to_owned).collect())
}
