//! `overstore refresh`, and stores over a publication: on the real Nix.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::process::Child;

use crate::support::owner::{LIVE, Owner, PLACE};
use crate::support::{Run, Snapshot, World, wait_until};
use crate::sweeps::Sweep;

/// The description of the store over the publication.
const ABOVE: &str = "/etc/overstore/above.toml";
/// Its merged store directory.
const REAL: &str = "/mnt/above/merged/nix/store";
/// The socket of its daemon, as a store.
const SOCKET: &str = "unix:///run/above?root=/mnt/above/merged";
/// The link of its own.
const LINK: &str = "/mnt/above/merged/nix/var/nix/overstore/generation";

/// A publication, and a store over it.
struct Fleet<'w> {
    world: &'w World,
    owner: Owner<'w>,
}

impl<'w> Fleet<'w> {
    /// One generation is published; `more` lines are in the store's description.
    fn new(world: &'w World, more: &str) -> Self {
        let owner = Owner::new(world, "");
        owner.root("shell", &owner.lower.path("mksh-static"));
        owner.root("chain", &owner.lower.path("chain-3"));
        owner.published();
        world.write(
            ABOVE,
            format!(
                "root = \"/mnt/above/merged\"\nupper-layer = \"/mnt/above/upper\"\n\
                 workdir = \"/mnt/above/work\"\n{more}\n[lower]\npublication = {PLACE:?}\n\
                 real = \"{LIVE}/nix/store\"\n"
            ),
        );
        world.mkdir("/mnt/above");
        Self { world, owner }
    }

    fn overstore(&self, command: &str) -> Run<'w> {
        self.world.overstore([command, "above"])
    }

    fn up(&self) -> String {
        self.overstore("up").ok()
    }

    /// A command of Nix on the store above.
    fn nix(&self, words: &[&str]) -> Run<'w> {
        let url = self.overstore("url").ok();
        self.world.nix(words).args(["--store", url.trim()])
    }

    /// The codes that `check` finds.
    fn codes(&self) -> Vec<String> {
        let said = self.overstore("check").args(["--json"]).run().stdout();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let findings = said["findings"].as_array().unwrap();
        let codes = findings.iter().map(|it| it["code"].as_str().unwrap());
        codes.map(str::to_owned).collect()
    }

    /// Whether a path is valid for a new connection to the store's daemon.
    fn valid(&self, path: &str) -> bool {
        let ask = self.world.nix(["nix-store", "--check-validity", path]);
        ask.args(["--store", SOCKET]).run().code() == Some(0)
    }

    /// A connection to the store's daemon that stays open, and has read the lower database.
    fn connection(&self) -> Connection<'w> {
        let shell = self.owner.lower.path("mksh-static");
        let connection = Connection::open(self.world);
        assert!(connection.valid(&shell));
        connection
    }

    /// Builds something in the store above that refers to a path: its path.
    fn build(&self, name: &str, refers_to: &str) -> String {
        let shell = self.owner.lower.path("mksh-static");
        let expression = format!(
            r#"derivation {{
                name = "{name}";
                system = "x86_64-linux";
                builder = builtins.storePath "{shell}" + "/bin/mksh";
                args = [ "-c" "print {builtins_path} >$out" ];
            }}"#,
            builtins_path = format_args!("${{builtins.storePath \"{refers_to}\"}}")
        );
        let file = format!("/tmp/{name}.nix");
        self.world.write(&file, expression);
        let built = self.nix(&["nix-build", "--no-out-link", &file]).ok();
        built.trim().to_owned()
    }

    /// Has the owner name another generation the current one.
    fn make_current(&self, number: u64) {
        let current = format!("{PLACE}/current");
        let target = format!("generations/{number}");
        self.world.ok(["ln", "-sfn", &target, &current]);
    }

    /// Makes a generation the current one, and goes to it.
    #[track_caller]
    fn to(&self, number: u64) {
        self.make_current(number);
        let said = self.overstore("refresh").run();
        assert_eq!(said.code(), Some(0), "{said}");
        assert_eq!(self.link(), generation(number));
    }

    /// Where the store's own link leads.
    fn link(&self) -> String {
        self.world.ok(["readlink", LINK]).trim().to_owned()
    }
}

/// A client of the store's daemon whose connection stays open: `nix repl`, which is asked for paths.
struct Connection<'w> {
    world: &'w World,
    client: Child,
    questions: File,
    asked: Cell<usize>,
}

impl<'w> Connection<'w> {
    fn open(world: &'w World) -> Self {
        world.ok(["rm", "-f", "/tmp/questions", "/tmp/answers"]);
        world.ok(["mkfifo", "/tmp/questions"]);
        world.write("/tmp/answers", "");
        let client = world
            .command(["sh", "-c"])
            .args([format!(
                "exec nix --extra-experimental-features nix-command repl --store {SOCKET} \
                 </tmp/questions >/tmp/answers 2>&1"
            )])
            .env("TERM", "dumb")
            .spawn();
        let questions = File::options()
            .write(true)
            .open(world.path("/tmp/questions"))
            .unwrap();
        Self {
            world,
            client,
            questions,
            asked: Cell::new(0),
        }
    }

    /// Whether a path is valid for it.
    fn valid(&self, path: &str) -> bool {
        let number = self.asked.get();
        self.asked.set(number + 1);
        let mut questions = &self.questions;
        writeln!(
            questions,
            "\"answer-{number}: \" + builtins.toString (builtins.tryEval (builtins.pathExists \
             (builtins.storePath \"{path}\"))).value\n\"end-${{toString {number}}}\""
        )
        .unwrap();
        let mut said = String::new();
        wait_until("the client answers", || {
            said = String::from_utf8_lossy(&self.world.read("/tmp/answers")).into_owned();
            said.contains(&format!("end-{number}\""))
        });
        said.contains(&format!("answer-{number}: 1"))
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn generation(number: u64) -> String {
    format!("{PLACE}/generations/{number}")
}

/// `up` links the current generation once: afterwards the owner moves nobody, and nothing is written
/// below.
#[test]
fn a_store_reads_one_generation_through_a_link_of_its_own() {
    for world in World::each() {
        let fleet = Fleet::new(&world, "");
        let plan = fleet.overstore("plan").ok();
        assert!(plan.contains(&format!("link {LINK} to")), "{plan}");
        let before = Snapshot::of(world.path("/mnt/publications"));
        fleet.up();
        assert_eq!(fleet.link(), generation(1));
        let url = fleet.overstore("url").ok();
        fleet.owner.lower.add_and_build(&world, url.trim());
        let check = fleet.overstore("check").args(["--nix"]).run();
        assert!(check.stdout().ends_with("above: as described\n"), "{check}");
        before.assert_unchanged(world.path("/mnt/publications"));
        fleet.overstore("warm").args(["--all"]).ok();

        let added = fleet.owner.add("second");
        fleet.owner.root("second", &added);
        fleet.owner.published();
        fleet.up();
        assert_eq!(fleet.link(), generation(1));
        fleet.overstore("down").ok();
        fleet.up();
        assert_eq!(fleet.link(), generation(1), "whatever is needed is there");
        fleet
            .nix(&["nix-store", "--check-validity", &added])
            .fails();
    }
}

/// The daemon of a store goes on, and so do its connections: those that are open stay on the generation
/// that they began with, new ones are on the new one, and on no other.
#[test]
fn new_connections_are_on_the_new_generation_and_open_ones_keep_theirs() {
    for world in World::each() {
        let fleet = Fleet::new(&world, "");
        fleet.up();
        let url = fleet.overstore("url").ok();
        let _daemon = world.nix_daemon(url.trim(), "/run/above");
        let open = fleet.connection();
        let added = fleet.owner.add("second");
        // The name is looked for before it exists: the kernel remembers that there was nothing.
        let object = format!("{REAL}/{}", added.trim_start_matches("/nix/store/"));
        let later = fleet.owner.add("third");
        fleet.owner.root("second", &added);
        fleet.owner.root("third", &later);
        fleet.owner.published();
        assert!(!fleet.valid(&added));

        let dry = fleet.overstore("refresh").args(["--dry-run"]).ok();
        assert!(dry.contains("generation 2 would be used"), "{dry}");
        assert_eq!(fleet.link(), generation(1));
        let said = fleet.overstore("refresh").ok();
        assert!(said.contains("generation 2 is in use"), "{said}");
        assert_eq!(fleet.link(), generation(2));
        assert!(fleet.valid(&added), "a new connection");
        world.ok(["cat", &object]);
        assert!(!open.valid(&later), "one that was open");
        drop(open);

        let again = fleet.overstore("refresh").args(["--json"]).ok();
        let again: serde_json::Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["outcome"], "unchanged");
        assert_eq!(
            (&again["before"], &again["current"]),
            (&2.into(), &2.into())
        );
        assert!(fleet.codes().is_empty(), "{:?}", fleet.codes());
    }
}

/// A generation that dropped, or changed, something that the upper store needs is not gone to: nothing
/// is switched. What nothing above needs may leave.
#[test]
fn a_generation_that_lacks_something_needed_is_refused() {
    for world in World::each() {
        let fleet = Fleet::new(&world, "");
        let [needed, unneeded] = ["needed", "unneeded"].map(|name| {
            let path = fleet.owner.add(name);
            fleet.owner.root(name, &path);
            path
        });
        fleet.owner.published();
        fleet.up();
        fleet.overstore("refresh").ok();
        // Above, something refers to it: its row is copied.
        let built = fleet.build("above", &needed);
        let drop_root =
            |name: &str| world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/{name}")]);
        drop_root("unneeded");
        fleet.owner.published();
        let said = fleet.overstore("refresh").ok();
        assert!(said.contains("generation 3 is in use"), "{said}");

        drop_root("needed");
        fleet.owner.published();
        // The owner's notes, and without them row by row.
        for notes in [true, false] {
            if !notes {
                world.ok(["rm", &format!("{}/overstore/changes", generation(4))]);
            }
            let refused = fleet.overstore("refresh").run();
            assert_eq!(refused.code(), Some(1), "{refused}");
            let said = refused.stdout();
            assert!(said.contains("error [generation-lacks]"), "{said}");
            assert!(said.contains(&needed) && said.contains(&built), "{said}");
            assert!(!said.contains(&unneeded), "{said}");
            assert!(said.contains("generation 3 stays in use"), "{said}");
            assert_eq!(fleet.link(), generation(3));
        }
        assert_eq!(fleet.codes(), ["generation-behind"]);
        // The way out that does not need the owner: nothing needs what refers to it.
        fleet.overstore("gc").args(["--metadata"]).ok();
        let said = fleet.overstore("refresh").ok();
        assert!(said.contains("generation 4 is in use"), "{said}");
    }
}

/// What a new generation lacks and something above needs is carried, as the remedy says: afterwards the
/// store is on the new generation, and the owner may collect.
#[test]
fn what_a_new_generation_lacks_is_carried() {
    for world in World::each() {
        let fleet = Fleet::new(&world, "");
        let needed = fleet.owner.add("needed");
        fleet.owner.root("needed", &needed);
        fleet.owner.published();
        fleet.up();
        let built = fleet.build("above", &needed);
        world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/needed")]);
        fleet.owner.published();
        let refused = fleet.overstore("refresh").args(["--json"]).run();
        assert_eq!(refused.code(), Some(1), "{refused}");
        let refused: serde_json::Value = serde_json::from_str(&refused.stdout()).unwrap();
        let ways = refused["findings"][0]["remedies"].as_array().unwrap();
        let commands = ways[1]["commands"].as_array().unwrap();
        assert_eq!(commands.len(), 2, "{commands:?}");
        for command in commands {
            world.ok(["sh", "-c", command["shell"].as_str().unwrap()]);
        }
        assert_eq!(fleet.link(), generation(3));
        assert!(fleet.codes().is_empty(), "{:?}", fleet.codes());
        fleet.owner.publish(&["--retire-all-but", "1", "--now"]);
        fleet.owner.collect();
        assert!(!fleet.owner.has(&needed));
        for path in [&needed, &built] {
            fleet.nix(&["nix-store", "--verify-path", path]).ok();
        }
        fleet.owner.published();
        fleet.overstore("refresh").ok();
        assert_eq!(fleet.link(), generation(4));
    }
}

/// What a connection that was open copied from an older generation, after the store had gone on to
/// another one, is looked for by the next refresh, whatever the owner's notes say of it.
#[test]
fn what_an_old_connection_copied_is_looked_for_by_the_next_refresh() {
    let Some(world) = World::trixie() else { return };
    let fleet = Fleet::new(&world, "");
    let old = fleet.owner.add("old");
    fleet.owner.root("old", &old);
    fleet.owner.published();
    fleet.up();
    fleet.overstore("refresh").ok();
    let url = fleet.overstore("url").ok();
    let _daemon = world.nix_daemon(url.trim(), "/run/above");
    let open = fleet.connection();
    world.ok(["rm", &format!("{LIVE}/nix/var/nix/gcroots/old")]);
    fleet.owner.published();
    fleet.overstore("refresh").ok();
    assert_eq!(fleet.link(), generation(3));
    assert!(open.valid(&old), "it is on generation 2");
    drop(open);
    fleet.owner.published();
    let refused = fleet.overstore("refresh").run();
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stdout().contains(&old), "{refused}");
}

/// A store on generation 2 of its publication, with an object that refers to one below, where there is
/// a generation 3; and what that has more.
fn between_two(world: &World) -> (Fleet<'_>, String) {
    let fleet = Fleet::new(world, "");
    let needed = fleet.owner.add("needed");
    let added = fleet.owner.add("second");
    fleet.owner.root("needed", &needed);
    fleet.owner.published();
    fleet.owner.root("second", &added);
    fleet.owner.published();
    fleet.make_current(2);
    fleet.up();
    fleet.build("above", &needed);
    (fleet, added)
}

/// Disturbed at any step, the next run goes to the new generation.
pub(crate) fn sweep(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let (fleet, _) = between_two(&world);
    let fresh = || {
        fleet.to(2);
        fleet.make_current(3);
    };
    let left = || {
        let script = "cd /mnt/above; find merged/nix/var upper -name 'db.sqlite*' -prune -o \
                      -name state.json -prune -o -printf '%y %m %U:%G %p %l\n' | sort; \
                      grep ' /mnt/above' /proc/self/mounts | sed s/,uuid=on//; \
                      sqlite3 merged/nix/var/nix/db/db.sqlite \
                      'select path, hash from ValidPaths order by path'";
        world.ok(["sh", "-c", script]) + &fleet.codes().concat()
    };
    let words = ["overstore", "refresh", "above"];
    sweep.run(&world, &words, &fresh, &left);
}

/// Killed at any step, the store is on one generation or the other, whole, with its objects to be seen,
/// and the next run ends as one that was not killed does.
#[test]
pub(crate) fn refresh_killed_at_any_step_leaves_one_generation_or_the_other() {
    let Some(world) = World::trixie() else { return };
    let (fleet, added) = between_two(&world);
    fleet.to(3);
    fleet.to(2);
    fleet.make_current(3);
    let (outcome, trace) = fleet.overstore("refresh").traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let points = trace.kill_points();
    for call in ["symlinkat", "renameat", "fsync", "mount", "flock"] {
        assert!(
            points.iter().any(|(kind, _)| kind.starts_with(call)),
            "{call}: {points:?}"
        );
    }
    let check = format!("nix-store --check-validity {added} --store \"$(overstore url above)\"");
    for (call, nth) in &points {
        fleet.to(2);
        fleet.make_current(3);
        let killed = fleet.overstore("refresh").killed_at(call, *nth);
        assert!(
            killed.signal() == Some(9) || killed.code() == Some(0),
            "{call} {nth}: {killed}"
        );
        let link = fleet.link();
        assert!(
            link == generation(2) || link == generation(3),
            "killed at {call} {nth}: {link}"
        );
        let codes = fleet.codes();
        let behind = ["generation-behind"];
        assert!(
            codes.is_empty() || codes == behind,
            "killed at {call} {nth}: {codes:?}"
        );
        fleet.to(3);
    }
    world.nix(["sh", "-c", &check]).ok();
}

/// `status` names the generation in use, and those of open connections; `check` knows when it is
/// behind, retired, or gone; `refresh`, which each of these names, fixes it.
#[test]
fn the_generation_in_use_is_told_of() {
    let Some(world) = World::trixie() else { return };
    let fleet = Fleet::new(&world, "");
    fleet.up();
    let url = fleet.overstore("url").ok();
    let _daemon = world.nix_daemon(url.trim(), "/run/above");
    let status = || -> serde_json::Value {
        let said = fleet.overstore("status").args(["--json"]).ok();
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["generation"].clone()
    };
    let remedies = |code: &str| {
        let said = fleet.overstore("check").args(["--json"]).run().stdout();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let findings = said["findings"].as_array().unwrap().clone();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["code"], code);
        assert_eq!(findings[0]["remedy"], "overstore refresh above");
    };
    let open = fleet.connection();
    let now = status();
    assert_eq!((&now["number"], &now["current"]), (&1.into(), &1.into()));
    assert_eq!(now["open"][0]["number"], 1, "{now}");

    fleet.owner.published();
    remedies("generation-behind");
    let dry = fleet.overstore("refresh").args(["--dry-run"]).ok();
    assert!(dry.contains("generation 2 would be used"), "{dry}");
    fleet.owner.publish(&["--retire", "1"]);
    remedies("generation-retired");
    let now = status();
    assert!(now["retired-until"].is_u64(), "{now}");
    let text = fleet.overstore("status").ok();
    assert!(
        text.contains(", retired; 2 is current; 1 process on 1"),
        "{text}"
    );
    fleet.overstore("refresh").ok();
    assert!(fleet.codes().is_empty(), "{:?}", fleet.codes());
    let now = status();
    assert_eq!(now["number"], 2);
    assert_eq!(now["open"][0]["number"], 1, "open ones keep theirs: {now}");

    // Gone, also by force, while connections are open.
    fleet.owner.publish(&["--retire", "1", "--now"]);
    world.ok(["rm", "-rf", &generation(1)]);
    assert_eq!(status()["open"][0]["number"], 1);
    drop(open);
    fleet.owner.published();
    fleet.owner.publish(&["--retire", "2", "--now"]);
    remedies("generation-gone");
    let check = fleet.overstore("check").run();
    assert_eq!(check.code(), Some(1), "{check}");
    fleet.overstore("refresh").ok();
    assert_eq!(fleet.link(), generation(3));
    assert!(fleet.codes().is_empty(), "{:?}", fleet.codes());
    fleet.owner.lower.add_and_build(&world, url.trim());
}

/// Where the owner's side cannot be reached, or has what no publication has, the store stays as it is.
#[test]
fn what_is_out_of_reach_or_hostile_changes_nothing() {
    let Some(world) = World::trixie() else { return };
    let fleet = Fleet::new(&world, "");
    let above = fleet.overstore("refresh").run();
    assert_eq!(above.code(), Some(1), "never set up: {above}");
    fleet.up();
    world.ok(["mv", PLACE, "/mnt/away"]);
    let refused = fleet.overstore("refresh").run();
    assert_eq!(refused.code(), Some(3), "{refused}");
    assert!(refused.stderr().contains("stays as it is"), "{refused}");
    world.ok(["mv", "/mnt/away", PLACE]);
    fleet.owner.published();
    let all = format!("{PLACE}/all");
    world.ok(["cp", "-a", &generation(2), &all]);

    // Each is done to generation 2 in a shell, and does not keep it from being refused, or from being
    // read row by row.
    let own = "overstore";
    let hostile = [
        (
            1,
            format!("rm {own}/generation.json; mkfifo {own}/generation.json"),
        ),
        (
            1,
            format!("head -c 100000 /dev/zero >{own}/generation.json"),
        ),
        (1, format!("printf '[[[[' >{own}/generation.json")),
        (
            1,
            format!("sed -i 's/\"number\": 2/\"number\": 3/' {own}/generation.json"),
        ),
        (
            1,
            format!("sed -i 's/\"before\": 1/\"before\": 2/' {own}/generation.json"),
        ),
        (
            1,
            format!("sed -i 's/\"version\": 1/\"version\": 9/' {own}/generation.json"),
        ),
        (3, format!("rm -r {own}; ln -s / {own}")),
        (1, "rm db/db.sqlite; mkfifo db/db.sqlite".to_owned()),
        (
            1,
            "rm db/db.sqlite; ln -s /etc/passwd db/db.sqlite".to_owned(),
        ),
        (1, "sqlite3 db/db.sqlite 'drop table Refs'".to_owned()),
        (
            1,
            "sqlite3 db/db.sqlite \"update ValidPaths set path = '../../etc' where id = (select max(id) from ValidPaths)\"".to_owned(),
        ),
        (1, "echo 99 >db/schema".to_owned()),
        (1, "rm -r temproots".to_owned()),
        (
            0,
            format!("rm {own}/changes; ln -s /dev/zero {own}/changes"),
        ),
        (0, format!("echo '- ../../../etc/passwd' >{own}/changes")),
        (0, format!("head -c 1000000 /dev/zero >{own}/changes")),
    ];
    for (code, done) in hostile {
        world.ok(["sh", "-c", &format!("cd {} && {done}", generation(2))]);
        let said = fleet.overstore("refresh").run();
        assert_eq!(said.code(), Some(code), "{done}: {said}");
        let expected = if code == 0 { 2 } else { 1 };
        assert_eq!(fleet.link(), generation(expected), "{done}");
        world.ok(["ln", "-sfn", &generation(1), LINK]);
        world.ok(["rm", "-rf", &generation(2)]);
        world.ok(["cp", "-a", &all, &generation(2)]);
    }
    for target in [
        "generations/../../../etc",
        "/etc",
        "generations/18446744073709551616",
    ] {
        world.ok(["ln", "-sfn", target, &format!("{PLACE}/current")]);
        let said = fleet.overstore("refresh").run();
        assert_eq!(said.code(), Some(1), "{target}: {said}");
        assert_eq!(fleet.link(), generation(1), "{target}");
    }
    world.ok(["ln", "-sfn", "generations/7", &format!("{PLACE}/current")]);
    let said = fleet.overstore("refresh").run();
    assert_eq!(said.code(), Some(1), "{said}");
    world.ok(["ln", "-sfn", "generations/2", &format!("{PLACE}/current")]);
    fleet.overstore("refresh").ok();
}

/// What keeps the store from reading a generation is told, and what `up` can make it makes.
#[test]
fn what_is_wrong_with_a_publication_is_told() {
    let Some(world) = World::trixie() else { return };
    let fleet = Fleet::new(&world, "");
    let away = || world.ok(["mv", PLACE, "/mnt/away"]);
    let back = || world.ok(["mv", "/mnt/away", PLACE]);
    away();
    let up = fleet.overstore("up").run();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(
        up.stdout().contains("error [publication-unreadable]"),
        "{up}"
    );
    back();
    fleet.up();
    away();
    assert_eq!(fleet.codes(), ["publication-unreadable"]);
    back();
    world.ok(["mv", &format!("{PLACE}/current"), "/mnt/current"]);
    let check = fleet.overstore("check").run();
    assert_eq!(check.code(), Some(0), "the generation is there: {check}");
    assert!(
        check.stdout().contains("warning [publication-unreadable]"),
        "{check}"
    );
    world.ok(["mv", "/mnt/current", &format!("{PLACE}/current")]);

    // What was lost `up` makes, and nothing is in the way of that but somebody's.
    world.ok(["rm", LINK]);
    assert_eq!(fleet.codes(), ["generation-unset"]);
    assert!(fleet.up().contains("link "), "the link");
    world.ok(["rm", LINK]);
    world.mkdir(LINK);
    let up = fleet.overstore("up").run();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(up.stdout().contains("error [generation-unset]"), "{up}");
    world.ok(["mv", "-n", "--", LINK, "/mnt/above"]);
    fleet.up();
    world.ok(["ln", "-sfn", "/mnt/other/generations/1", LINK]);
    assert_eq!(fleet.codes(), ["generation-unset"]);
}
