//! What the module does for a running system whose `/nix/store` is a local-overlay store, with real
//! Nix, laid out as NixOS lays it out: the files are those that the module renders for the example
//! `netboot` (`vm-tests/scenarios/nixos-units/rendered/`, which `nixos.rs` compares with the module).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{Daemon, LowerStore, Outcome, Run, World};

const BOOTED: &str = "/run/booted-system/etc/overstore/booted";
const URL: &str = "OVERSTORE_URL=";

/// What the module renders for a configuration.
fn rendered(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vm-tests/scenarios/nixos-units/rendered")
        .join(name)
}

/// A machine with the example's store: an object of the lower store is its system.
struct Machine<'w> {
    world: &'w World,
    lower: LowerStore,
    /// The store path that `/run/booted-system` and `/run/current-system` stand for.
    system: String,
}

impl<'w> Machine<'w> {
    /// With what the module renders; nothing is mounted, and the system is not booted with the store.
    fn installed(world: &'w World) -> Self {
        let rendered = rendered("netboot");
        for part in ["etc/overstore", "etc/nix", "store"] {
            world.copy(&rendered.join(part), Path::new("/").join(part));
        }
        for file in ["pre-switch-check", "nix-gc", "nix-optimise"] {
            world.copy(&rendered.join(file), Path::new("/store").join(file));
        }
        // What the World's Nix needs, beside what the module says.
        let mut configuration = String::from_utf8(world.read("/etc/nix/nix.conf")).unwrap();
        configuration += "substituters =\nexperimental-features = nix-command\n";
        world.write("/etc/nix/nix.conf", configuration);
        let lower = world.lower_store("/nix/.ro-store");
        // Two stores in one tmpfs; the layers are on another file system than the lower store.
        world.mkdir("/nix/.rw-store");
        world.ok(["mount", "-t", "tmpfs", "rw", "/nix/.rw-store"]);
        world.mkdir("/nix/store");
        let system = lower.path("chain-3");
        Self {
            world,
            lower,
            system,
        }
    }

    /// Booted with the store: the initrd has mounted it, and stage 2 has bound it read-only.
    fn booted(world: &'w World) -> Self {
        let machine = Self::installed(world);
        world.overstore(["up", "system"]).ok();
        world.ok(["mount", "--bind", "/nix/store", "/nix/store"]);
        let options = "remount,ro,bind,nodev,nosuid";
        world.ok(["mount", "-o", options, "/nix/store"]);
        // The real one is a store path, with this etc in it.
        world.mkdir("/run/booted-system");
        symlink("/etc", world.path("/run/booted-system/etc")).unwrap();
        symlink(&machine.system, world.path("/run/current-system")).unwrap();
        world.mkdir("/nix/var/nix/gcroots");
        let root = world.path("/nix/var/nix/gcroots/current-system");
        symlink("/run/current-system", root).unwrap();
        machine
    }

    /// The store that the system's daemon serves, as systemd finds it: the last file that says it
    /// counts, and one with `-` before its name need not be there.
    fn served(&self) -> String {
        let overrides = "etc/systemd/system/nix-daemon.service.d/overrides.conf";
        let overrides = fs::read_to_string(rendered("netboot").join(overrides)).unwrap();
        let files = overrides
            .lines()
            .filter_map(|line| line.strip_prefix("EnvironmentFile="));
        let mut served = None;
        for file in files {
            let (optional, file) = match file.strip_prefix('-') {
                Some(file) => (true, file),
                None => (false, file),
            };
            let place = PathBuf::from(file.replace("/nix/store/HASH-", "/store/"));
            if optional
                && self
                    .world
                    .run(["test", "-e", place.to_str().unwrap()])
                    .code()
                    != Some(0)
            {
                continue;
            }
            let text = self.world.ok(["cat", place.to_str().unwrap()]);
            let value = text.lines().find_map(|line| line.strip_prefix(URL));
            served = Some(value.unwrap().trim_matches('"').to_owned());
        }
        served.unwrap()
    }

    /// The system's daemon.
    fn daemon(&self) -> Daemon {
        self.world
            .nix_daemon(&self.served(), "/nix/var/nix/daemon-socket/socket")
    }

    /// Nix as root has it on NixOS: nothing in its environment.
    fn root(&self, words: &[&str]) -> Run<'w> {
        self.world.command(words)
    }

    /// The store's unit.
    fn unit(&self) -> Outcome {
        self.world.run(["sh", "/store/overstore-up-system"])
    }

    /// The pre-switch check, as `switch-to-configuration` runs it.
    fn check_switch(&self, action: &str) -> Outcome {
        let script = "set -e; . /store/pre-switch-check";
        self.world
            .run(["bash", "-uc", script, "check", "/new-system", action])
    }

    /// Adds an object that nothing needs.
    fn add_garbage(&self) -> String {
        self.world.write("/tmp/garbage", "nobody needs it\n");
        let garbage = self.root(&["nix-store", "--add", "/tmp/garbage"]).ok();
        let garbage = garbage.trim().to_owned();
        assert!(self.world.path(&garbage).exists());
        garbage
    }

    /// What of the running system is not whole: objects of the lower store that do not show, or are
    /// not valid.
    fn damage(&self) -> Vec<String> {
        let url = self.world.overstore(["url", "system"]).ok();
        let shows = |path: &String| self.world.path(path).exists();
        let is_valid = |path: &String| {
            let asked = self.world.nix(["nix-store", "--store", url.trim()]);
            asked
                .args(["--check-validity", path])
                .run()
                .status
                .success()
        };
        let paths = self.lower.paths();
        let whole = |path: &&String| !(shows(path) && is_valid(path));
        paths.iter().filter(whole).cloned().collect()
    }
}

/// What `system.autoUpgrade` and people with sudo run.
#[test]
fn root_cannot_collect_the_running_system() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        assert!(machine.served().contains("local-overlay://"));
        let _daemon = machine.daemon();
        let garbage = machine.add_garbage();
        machine.root(&["nix-collect-garbage", "--delete-old"]).ok();
        machine.root(&["nix-store", "--optimise"]).ok();
        assert_eq!(machine.damage(), Vec::<String>::new());
        assert!(!world.path(garbage).exists());
        world.overstore(["check", "--lower", "system"]).ok();
    }
}

/// `nix-gc.service` is overstore's own collector, and `nix-optimise.service` its own, too.
#[test]
fn the_services_that_collect_and_optimise_spare_the_running_system() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        let _daemon = machine.daemon();
        let garbage = machine.add_garbage();
        let optimised = machine.root(&["sh", "-e", "/store/nix-optimise"]).ok();
        assert!(world.path(&garbage).exists(), "{optimised}");
        assert_eq!(machine.damage(), Vec::<String>::new());
        // Root's Nix makes a link to root's first profile, which there need never be.
        machine.root(&["nix-collect-garbage", "--delete-old"]).ok();
        world.ok(["test", "-L", "/nix/var/nix/profiles/default"]);
        world.fails(["test", "-e", "/nix/var/nix/profiles/default"]);
        let garbage = machine.add_garbage();
        let collected = machine.root(&["sh", "-e", "/store/nix-gc"]).ok();
        assert!(!world.path(garbage).exists(), "{collected}");
        assert_eq!(machine.damage(), Vec::<String>::new());
        world.overstore(["check", "--lower", "system"]).ok();
    }
}

/// The danger is real: without the module's `store = daemon`, the same command deletes the system.
#[test]
fn without_the_daemon_root_collects_the_running_system() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        let _daemon = machine.daemon();
        world.write("/etc/nix/nix.conf", "substituters =\n");
        machine.root(&["nix-collect-garbage"]).ok();
        let gone = machine.damage();
        assert!(gone.contains(&machine.system), "{gone:?}");
    }
}

/// What administrators and NixOS's own programs do as root.
#[test]
fn root_can_work_through_the_daemon() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        let _daemon = machine.daemon();
        world.write("/tmp/new", "a new system\n");
        let added = machine.root(&["nix-store", "--add", "/tmp/new"]).ok();
        let added = added.trim();
        for words in [
            &[
                "nix-env",
                "--profile",
                "/nix/var/nix/profiles/system",
                "--set",
                added,
            ][..],
            &[
                "nix-env",
                "--profile",
                "/nix/var/nix/profiles/system",
                "--list-generations",
            ],
            &[
                "nix-env",
                "--profile",
                "/nix/var/nix/profiles/system",
                "--rollback",
            ],
            &[
                "nix-store",
                "--realise",
                "--add-root",
                "/root/result",
                added,
            ],
            &["nix-store", "--verify"],
            &["nix-store", "--query", "--requisites", &machine.system],
            &["nix-store", "--gc", "--print-dead"],
            &["nix", "config", "show", "store"],
            &[
                "nix-store",
                "--store",
                "/mnt/installed",
                "--add",
                "/tmp/new",
            ],
        ] {
            // There is one generation to roll back to: none.
            if words.contains(&"--rollback") {
                machine.root(words).fails();
            } else {
                machine.root(words).ok();
            }
        }
        // The modules of nixpkgs that do this are named in the manual.
        let registration = machine.root(&["nix-store", "--dump-db", added]).ok();
        for words in [
            &["nix-store", "--load-db"][..],
            &["nix-store", "--register-validity"],
            &["nix-store", "--repair-path", added],
        ] {
            let refused = machine.root(words).stdin(registration.clone()).fails();
            assert!(!refused.stderr().is_empty(), "{refused}");
        }
        machine
            .root(&[
                "nix-store",
                "--load-db",
                "--store",
                machine.served().as_str(),
            ])
            .env("NIX_CONFIG", crate::support::FEATURES)
            .stdin(registration)
            .ok();
    }
}

/// What wins over `store = daemon`, and what does not: only `--store` and `NIX_CONFIG` open the plain
/// local store, which knows the upper layer alone.
#[test]
fn the_daemon_is_asked_unless_a_command_says_otherwise() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        let _daemon = machine.daemon();
        let asked = ["nix-store", "--check-validity", machine.system.as_str()];
        // Before the daemon is asked, which copies the metadata up.
        machine.root(&asked).args(["--store", "local"]).fails();
        let other = "store = local";
        machine.root(&asked).env("NIX_CONFIG", other).fails();
        machine.root(&asked).env("NIX_REMOTE", "local").ok();
        assert_eq!(machine.damage(), Vec::<String>::new());
    }
}

/// `client.enable`: all of their Nix uses the store, unless they say which; nobody else's does.
#[test]
fn the_shells_of_those_who_may_use_a_store_use_it() {
    const SOCKET: &str = "/run/overstore/shared/socket";
    for world in World::each() {
        let rendered = rendered("own-daemon");
        world.copy(&rendered.join("etc/overstore"), "/etc/overstore");
        world.copy(&rendered.join("store"), "/store");
        let script = fs::read_to_string(rendered.join("etc/set-environment")).unwrap();
        let script = script.replace("/nix/store/HASH-", "/store/");
        world.write("/etc/set-environment", script);
        for directory in ["/srv", "/srv/layers"] {
            world.mkdir(directory);
            world.ok(["mount", "-t", "tmpfs", "srv", directory]);
        }
        world.lower_store("/srv/lower");
        world.overstore(["up", "shared"]).ok();
        let url = world.overstore(["url", "shared"]).ok();
        let directory = Path::new(SOCKET).parent().unwrap();
        world.mkdir(directory);
        let _daemon = world.nix_daemon(url.trim(), SOCKET);

        let shell = |lines: &str| {
            let script = format!(". /etc/set-environment\n{lines}");
            world.command(["sh", "-euc", &script])
        };
        let asks = "printf %s \"${NIX_REMOTE-}\"";
        world.command(["chmod", "700"]).args([directory]).ok();
        assert_eq!(shell(asks).by_alice().ok(), "", "who cannot enter it");
        world.command(["chown", "alice"]).args([directory]).ok();
        let client = world.overstore(["url", "--client", "shared"]).ok();
        assert_eq!(shell(asks).by_alice().ok(), client.trim());
        assert_eq!(shell(asks).ok(), "", "root");
        let chosen = shell(asks).by_alice().env("NIX_REMOTE", "daemon").ok();
        assert_eq!(chosen, "daemon");

        let add = "echo of alice >/tmp/object; nix-store --add /tmp/object";
        let added = shell(add).by_alice().ok();
        let name = Path::new(added.trim()).file_name().unwrap();
        assert!(
            world
                .path(Path::new("/srv/layers/upper").join(name))
                .exists()
        );
    }
}

/// The lines of the manual for a shell where no daemon runs.
#[test]
fn a_shell_without_a_daemon_can_work() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        let asked = ["nix-store", "--check-validity", machine.system.as_str()];
        let refused = machine.root(&asked).fails();
        assert!(refused.stderr().contains("daemon-socket"), "{refused}");
        let manual = include_str!("../../docs/nixos.md");
        let lines: String = manual
            .lines()
            .skip_while(|line| !line.starts_with("    export NIX_CONFIG="))
            .take_while(|line| line.starts_with("    "))
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        assert!(lines.contains("overstore url"), "{lines}");
        let script = format!("{lines}{}\nnix-collect-garbage\n", asked.join(" "));
        machine.root(&["sh", "-euc", &script]).ok();
        assert_eq!(machine.damage(), Vec::<String>::new());
    }
}

/// Stage 2 binds the store read-only over itself: the store is as described, and Nix adds to it.
#[test]
fn the_read_only_bind_is_no_damage() {
    for world in World::each() {
        let machine = Machine::booted(&world);
        world.fails(["touch", "/nix/store/by-hand"]);
        let up = machine.unit();
        assert!(up.status.success(), "{up}");
        world
            .overstore(["check", "--lower", "--contents", "system"])
            .ok();
        machine.lower.add_and_build(&world, &machine.served());
    }
}

/// The first `switch` to a configuration with the store, whoever started the unit.
#[test]
fn nothing_is_mounted_over_the_store_of_a_system_that_was_not_booted_with_it() {
    for world in World::each() {
        let machine = Machine::installed(&world);
        let before = world.ok(["cat", "/proc/self/mountinfo"]);
        let unit = machine.unit();
        assert!(unit.status.success(), "{unit}");
        assert!(
            unit.stderr().contains("not booted with the store system"),
            "{unit}"
        );
        assert_eq!(world.ok(["cat", "/proc/self/mountinfo"]), before);
        // The daemon runs until the reboot, and serves the store that is there.
        assert_eq!(machine.served(), "local");
        let _daemon = machine.daemon();
        world.write("/tmp/object", "added before the first boot\n");
        let added = machine.root(&["nix-store", "--add", "/tmp/object"]).ok();
        assert!(world.path(added.trim()).exists());
        // There is no such store to collect: Nix collects its own.
        machine.root(&["sh", "-e", "/store/nix-gc"]).ok();
        assert!(!world.path(added.trim()).exists());
    }
}

/// A switch to a configuration with a store that was not booted, and, where the module can know,
/// one away from it.
#[test]
fn a_switch_is_refused_where_it_would_need_a_reboot() {
    let Some(world) = World::trixie() else { return };
    let machine = Machine::installed(&world);
    for action in ["boot", "check", "dry-activate"] {
        let outcome = machine.check_switch(action);
        assert!(outcome.status.success(), "{action}: {outcome}");
    }
    for action in ["switch", "test"] {
        let outcome = machine.check_switch(action);
        assert_eq!(outcome.code(), Some(1), "{action}: {outcome}");
        assert!(outcome.stdout().contains("nixos-rebuild boot"), "{outcome}");
    }
    world.mkdir(BOOTED);
    world.write(Path::new(BOOTED).join("system.toml"), "");
    world.write(Path::new(BOOTED).join("own.env"), "");
    for action in ["switch", "test", "boot", "check"] {
        let outcome = machine.check_switch(action);
        assert!(outcome.status.success(), "{action}: {outcome}");
    }
    // A configuration without such a store.
    let without = rendered("nfs-build-worker").join("pre-switch-check");
    world.copy(&without, "/store/pre-switch-check");
    assert_eq!(machine.check_switch("switch").code(), Some(1));
    assert!(machine.check_switch("boot").status.success());
    fs::remove_dir_all(world.path("/run/booted-system")).unwrap();
    assert!(machine.check_switch("switch").status.success());
}
