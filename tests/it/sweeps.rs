//! Every command disturbed at every one of its steps: killed there, and with the call failing once. Run
//! again, it ends as if nothing had been. What a killed `up`, `down`, `optimise`, `publish` or `refresh`
//! leaves in between is tested by itself, with what is particular to them.

use std::collections::BTreeSet;

use crate::cli::commands;
use crate::support::owner::{LIVE, Owner};
use crate::support::trace::Syscall;
use crate::support::{Again, Disturbance, Example, World};

/// How one of the scenes below is disturbed, and at about how many of its steps.
#[derive(Clone, Copy)]
pub struct Sweep {
    disturbance: Disturbance,
    about: usize,
}

impl Sweep {
    /// Disturbs a command that begins with what `fresh` makes and leaves what `left` tells.
    #[track_caller]
    pub fn run(self, world: &World, words: &[&str], fresh: &dyn Fn(), left: &dyn Fn() -> String) {
        let again = Again {
            world,
            words,
            fresh,
            left,
        };
        again.ends_alike(self.disturbance, self.about);
    }
}

/// Makes a test of each scene, and a list of the commands in them.
macro_rules! sweeps {
    ($module:ident, $disturbance:ident, $($command:literal $scene:path as $test:ident: $about:literal,)*) => {
        mod $module {
            use super::{Disturbance, Sweep};
            /// The commands that are disturbed so.
            pub const COMMANDS: &[&str] = &[$($command),*];
            $(
                #[test]
                fn $test() {
                    let disturbance = Disturbance::$disturbance;
                    $scene(Sweep { disturbance, about: $about });
                }
            )*
        }
    };
}

sweeps! {
    killed, Kill,
    "exec" super::exec as exec: 12,
    "gc" super::gc as gc: 6,
    "generator" super::generator as generator: 8,
    "manual" super::manual as manual: 5,
    "publish" super::prepare as publish_prepare: 6,
    "publish" super::retire as publish_retire: 8,
    "reconcile" crate::reconcile::sweep as reconcile: 20,
    "remount" super::remount as remount: 6,
    "units" super::units as units: 12,
    "warm" super::warm as warm: 6,
    "warm" super::warm_forget as warm_forget: 6,
}

sweeps! {
    failing, Fail,
    "bug-report" super::bug_report as bug_report: 4,
    "check" super::check as check: 5,
    "completions" super::completions as completions: 1,
    "down" super::down as down: 8,
    "exec" super::exec as exec: 8,
    "gc" super::gc as gc: 8,
    "generator" super::generator as generator: 6,
    "list" super::list as list: 3,
    "manual" super::manual as manual: 4,
    "new" super::new as new: 1,
    "optimise" super::optimise as optimise: 5,
    "plan" super::plan as plan: 4,
    "publish" super::prepare as publish_prepare: 4,
    "publish" super::publish as publish: 10,
    "publish" super::retire as publish_retire: 5,
    "reconcile" crate::reconcile::sweep as reconcile: 10,
    "refresh" crate::refresh::sweep as refresh: 8,
    "remount" super::remount as remount: 5,
    "schema" super::schema as schema: 1,
    "status" super::status as status: 5,
    "units" super::units as units: 8,
    "up" super::up as up: 24,
    "url" super::url as url: 1,
    "warm" super::warm as warm: 8,
    "warm" super::warm_forget as warm_forget: 6,
}

/// Commands that are killed at every step elsewhere, with what is to be found before they run again.
const KILLED_ELSEWHERE: [(&str, fn()); 5] = [
    (
        "down",
        crate::kill::down_killed_at_any_step_is_finished_by_the_next,
    ),
    (
        "optimise",
        crate::optimise::killed_at_any_step_one_copy_is_whole_and_the_next_run_finishes,
    ),
    (
        "publish",
        crate::publish::publish_killed_at_any_step_leaves_a_whole_current_generation,
    ),
    (
        "refresh",
        crate::refresh::refresh_killed_at_any_step_leaves_one_generation_or_the_other,
    ),
    (
        "up",
        crate::kill::up_killed_at_any_step_is_finished_by_the_next,
    ),
];

/// Commands that change nothing, as [`what_only_looks_changes_nothing`] finds.
const LOOKING: &[(&str, &[&str])] = &[
    ("bug-report", &["bug-report", "--output", "-", "example"]),
    ("check", &["check", "--lower", "--contents", "example"]),
    ("completions", &["completions", "bash"]),
    ("list", &["list"]),
    ("new", &["new"]),
    ("plan", &["plan", "example"]),
    ("schema", &["schema", "report"]),
    ("status", &["status", "--sizes", "example"]),
    ("url", &["url", "example"]),
];

/// A command is in the sweep of failing calls, and in that of kills unless it only looks. It is called
/// in `cli`, so that nobody forgets a new one.
pub fn assert_every_command_is_swept() {
    let mut all = commands();
    // The same program by another name.
    all.insert("generator".to_owned());
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|it| (*it).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(all, names(failing::COMMANDS), "whose calls fail");
    let looking: Vec<_> = LOOKING.iter().map(|(command, _)| *command).collect();
    let elsewhere: Vec<_> = KILLED_ELSEWHERE
        .iter()
        .map(|(command, _)| *command)
        .collect();
    let killed = names(&[killed::COMMANDS, &elsewhere, &looking].concat());
    assert_eq!(all, killed, "that are killed, or only look");
}

/// What there is of the example: files, mounts, roots and rows, without what differs from run to run.
fn state(world: &World) -> String {
    let script = "cd /mnt/example; \
        find . \\( -path ./merged-store/nix/store -o -path ./store-a -o -path ./workdir/work \
        -o -name '*.overstore-new' -o -name 'db.sqlite*' -o -name state.json -o -name reserved \\) \
        -prune -o -printf '%y %m %U:%G %p %l\\n' | sort; \
        grep ' /mnt/example' /proc/self/mounts | sed s/,uuid=on//; \
        sqlite3 merged-store/nix/var/nix/db/db.sqlite \
        'select path, hash from ValidPaths order by path' 2>/dev/null || true";
    world.ok(["sh", "-c", script])
}

/// What a directory holds.
fn tree(world: &World, directory: &str) -> String {
    let script = "cd \"$0\"; find . -printf '%y %m %U:%G %p %l\\n' | sort; \
                  find . -type f -exec md5sum {} + | sort";
    world.ok(["sh", "-c", script, directory])
}

/// As before the first `up`.
fn nothing(world: &World) {
    world.ok([
        "sh",
        "-c",
        "umount /mnt/example/merged-store/nix/store 2>/dev/null; cd /mnt/example; \
         rm -rf merged-store workdir store-b /run/overstore",
    ]);
}

fn up(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("[warm]\nall = true");
    let words = ["overstore", "up", "example"];
    sweep.run(&world, &words, &|| nothing(&world), &|| state(&world));
}

fn exec(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("");
    let words = ["overstore", "exec", "example", "--", "true"];
    sweep.run(&world, &words, &|| nothing(&world), &|| state(&world));
}

/// A scene in which the example is up, and `fresh` makes what the command begins with.
fn with_example_up(sweep: Sweep, words: &[&str], fresh: &dyn Fn(&Example<'_>)) {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let fresh = || fresh(&example);
    sweep.run(&world, words, &fresh, &|| state(&world));
}

fn down(sweep: Sweep) {
    let up = |example: &Example<'_>| {
        example.up();
    };
    with_example_up(sweep, &["overstore", "down", "example"], &up);
}

fn remount(sweep: Sweep) {
    with_example_up(sweep, &["overstore", "remount", "example"], &|_| {});
}

fn looking(sweep: Sweep, command: &str) {
    let (_, words) = LOOKING
        .iter()
        .find(|(it, _)| *it == command)
        .expect("one that looks");
    with_example_up(sweep, &[&["overstore"][..], words].concat(), &|_| {});
}

fn bug_report(sweep: Sweep) {
    looking(sweep, "bug-report");
}

fn check(sweep: Sweep) {
    looking(sweep, "check");
}

fn completions(sweep: Sweep) {
    looking(sweep, "completions");
}

fn list(sweep: Sweep) {
    looking(sweep, "list");
}

fn new(sweep: Sweep) {
    looking(sweep, "new");
}

fn plan(sweep: Sweep) {
    looking(sweep, "plan");
}

fn schema(sweep: Sweep) {
    looking(sweep, "schema");
}

fn status(sweep: Sweep) {
    looking(sweep, "status");
}

fn url(sweep: Sweep) {
    looking(sweep, "url");
}

fn warm(sweep: Sweep) {
    let words = ["overstore", "warm", "--all", "--keep", "example"];
    with_example_up(sweep, &words, &without_metadata);
}

/// Nothing is copied from below, and nothing kept.
pub fn without_metadata(example: &Example<'_>) {
    example.command("warm").args(["--forget"]).run();
    let rows = "delete from DerivationOutputs; delete from Refs; delete from ValidPaths";
    let database = format!("{}/db/db.sqlite", Example::STATE);
    example.world.ok(["sqlite3", &database, rows]);
}

/// Roots and rows of metadata that was copied up, given up again.
fn warm_forget(sweep: Sweep) {
    let words = ["overstore", "warm", "--forget", "example"];
    with_example_up(sweep, &words, &|example| {
        example.command("warm").args(["--all", "--keep"]).ok();
    });
}

/// With all that Nix does for it: what garbage is left goes with the next one.
fn gc(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let add = |name: &str| {
        let file = format!("/tmp/{name}");
        world.write(&file, name);
        let added = example.nix(&["nix-store", "--add", &file]).ok();
        added.trim().to_owned()
    };
    let kept = add("kept");
    let root = format!("{}/gcroots/kept", Example::STATE);
    world.ok(["ln", "-s", &kept, &root]);
    let fresh = || {
        add("garbage");
        add("more-garbage");
    };
    let words = ["overstore", "gc", "example"];
    // Locks that nobody holds are for the next collection.
    let left = || {
        let state = state(&world);
        state
            .lines()
            .filter(|it| !it.contains(".lock"))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    sweep.run(&world, &words, &fresh, &left);
    let check = example.run("check");
    assert_eq!(check.code(), Some(0), "{check}");
}

fn optimise(sweep: Sweep) {
    with_example_up(sweep, &["overstore", "optimise", "example"], &|example| {
        example.world.write("/tmp/garbage", "garbage\n");
        example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    });
}

fn units(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("[daemon]\nsocket = \"/run/example.socket\"");
    let words = [
        "overstore",
        "units",
        "--force",
        "--output",
        "/mnt/units",
        Example::CONFIGURATION,
    ];
    let fresh = || {
        world.ok(["rm", "-rf", "/mnt/units"]);
    };
    sweep.run(&world, &words, &fresh, &|| tree(&world, "/mnt/units"));
}

/// At boot it runs once: what it is disturbed at is one store's, and it ends with what it could do.
fn generator(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("[daemon]\nsocket = \"/run/example.socket\"");
    world.ok(["ln", "-s", "overstore", "/usr/bin/overstore-generator"]);
    // What goes wrong is told on standard error where the kernel's log takes nothing.
    let read_only = "touch /tmp/log; mount --bind /tmp/log /dev/kmsg; \
                     mount -o remount,bind,ro /dev/kmsg";
    world.ok(["sh", "-c", read_only]);
    let words = [
        "overstore-generator",
        "/mnt/units/normal",
        "/mnt/units/early",
        "/mnt/units/late",
    ];
    let fresh = || {
        world.ok([
            "sh",
            "-c",
            "rm -rf /mnt/units; mkdir -p /mnt/units/normal /mnt/units/early /mnt/units/late",
        ]);
    };
    sweep.run(&world, &words, &fresh, &|| tree(&world, "/mnt/units"));
}

fn manual(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let fresh = || {
        world.ok(["rm", "-rf", "/mnt/man"]);
    };
    let words = ["overstore", "manual", "/mnt/man"];
    sweep.run(&world, &words, &fresh, &|| tree(&world, "/mnt/man"));
}

/// A live store and its publication, of which each run makes another generation: told without numbers,
/// and without what tells one from another.
fn published(world: &World) -> String {
    let script = "cd /mnt; find publications live/nix/var/nix/gcroots -printf '%y %m %U:%G %p %l\\n' \
                  | sed 's/[0-9][0-9]*/N/g' | sort; \
                  sqlite3 -readonly 'file:publications/main/current/db/db.sqlite?immutable=1' \
                  'select path, hash from ValidPaths order by path'";
    world.ok(["sh", "-c", script])
}

fn publish(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "[keep]\ngenerations = 1\ngrace = \"0m\"");
    owner.root("shell", &owner.lower.path("mksh-static"));
    owner.published();
    let words = ["overstore", "publish", "main"];
    sweep.run(&world, &words, &|| {}, &|| published(&world));
}

fn retire(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    owner.root("shell", &owner.lower.path("mksh-static"));
    let words = [
        "overstore",
        "publish",
        "main",
        "--retire-all-but",
        "1",
        "--now",
    ];
    let fresh = || {
        owner.published();
        owner.published();
    };
    sweep.run(&world, &words, &fresh, &|| published(&world));
}

/// What consumers' Nix wants to find in a lower store, made in one that lacks it.
fn prepare(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    world.lower_store(LIVE);
    let words = ["overstore", "publish", "--check", LIVE, "--prepare"];
    let fresh = || {
        world.ok([
            "sh",
            "-c",
            &format!(
                "cd {LIVE}/nix; rm -rf store/.links var/nix/temproots var/nix/profiles \
                 var/nix/gcroots var/nix/db/reserved"
            ),
        ]);
    };
    let left = || {
        world.ok([
            "sh",
            "-c",
            &format!("find {LIVE} -printf '%y %m %U:%G %s %p %l\\n' | grep -v db.sqlite | sort"),
        ])
    };
    sweep.run(&world, &words, &fresh, &left);
}

/// Of commands that look, no call changes anything but what the process has to itself: its output, its
/// locks, and what is mounted in a namespace of its own.
#[test]
fn what_only_looks_changes_nothing() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    for (_, words) in LOOKING {
        let (outcome, trace) = world.overstore(*words).traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        for directory in [
            "/mnt", "/etc", "/run", "/nix", "/var", "/usr", "/root", "/home",
        ] {
            let changes = trace.changes_below(directory);
            let changes: Vec<_> = changes.into_iter().filter(|it| !is_lock(it)).collect();
            assert!(changes.is_empty(), "{words:?}: {changes:#?}");
        }
    }
}

fn is_lock(call: &Syscall) -> bool {
    matches!(call.name.as_str(), "fcntl" | "flock")
}
