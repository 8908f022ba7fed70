//! Every command disturbed at every one of its steps: killed there, and with the call failing once. Run
//! again, it ends as if nothing had been. What a killed `up`, `down`, `optimise`, `publish` or `refresh`
//! leaves in between is tested by itself, with what is particular to them.

use std::collections::BTreeSet;

use crate::cli::commands;
use crate::own_store::with_system_store;
use crate::support::owner::{LIVE, Owner, PLACE};
use crate::support::trace::Syscall;
use crate::support::{Again, Disturbance, Example, StoreUp, World, base_name};

/// How one of the scenes below is disturbed, and at about how many of its steps.
#[derive(Clone, Copy)]
pub struct Sweep {
    disturbance: Disturbance,
    about: usize,
    /// The command, and the flags that it is given.
    command: &'static str,
}

impl Sweep {
    /// Disturbs a command that begins with what `fresh` makes and leaves what `left` tells.
    #[track_caller]
    pub fn run(self, world: &World, words: &[&str], fresh: &dyn Fn(), left: &dyn Fn() -> String) {
        let own: Vec<&str> = words.iter().copied().take_while(|it| *it != "--").collect();
        let flags: BTreeSet<&str> = own.into_iter().filter(|it| it.starts_with("--")).collect();
        let told: BTreeSet<&str> = self.command.split(' ').skip(1).collect();
        assert_eq!(flags, told, "the flags of {words:?}, and those in the list");
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
            /// The commands that are disturbed so, with their flags.
            pub const COMMANDS: &[&str] = &[$($command),*];
            $(
                #[test]
                fn $test() {
                    let disturbance = Disturbance::$disturbance;
                    $scene(Sweep { disturbance, about: $about, command: $command });
                }
            )*
        }
    };
}

sweeps! {
    killed, Kill,
    "down --unrecorded" super::down_unrecorded as down_unrecorded: 3,
    "exec" super::exec as exec: 12,
    "gc --delete-generations --leftovers --metadata" super::gc_of_all as gc_of_all: 4,
    "gc" super::gc as gc: 6,
    "generator" super::generator as generator: 8,
    "manual" super::manual as manual: 5,
    "optimise --trust-databases" super::optimise_trusting as optimise_trusting: 4,
    "publish --check --prepare" super::prepare as publish_prepare: 6,
    "publish --image --registration --real" super::image_of_registration as publish_image: 4,
    "publish --retire-all-but --now" super::retire as publish_retire: 8,
    "reconcile --old" crate::reconcile::sweep as reconcile: 20,
    "remount" super::remount as remount: 6,
    "units --force --output --publication" super::units as units: 12,
    "up --fix-permissions --restore-marks" super::up_fixing as up_fixing: 4,
    "warm --all --keep" super::warm as warm: 6,
    "warm --forget" super::warm_forget as warm_forget: 6,
}

sweeps! {
    failing, Fail,
    "bug-report --output" super::bug_report as bug_report: 4,
    "check --lower --contents" super::check as check: 5,
    "completions" super::completions as completions: 1,
    "down --unrecorded" super::down_unrecorded as down_unrecorded: 3,
    "down" super::down as down: 8,
    "exec --ephemeral --dir" super::ephemeral as exec_ephemeral: 6,
    "exec" super::exec as exec: 8,
    "gc --delete-generations --leftovers --metadata" super::gc_of_all as gc_of_all: 4,
    "gc" super::gc as gc: 8,
    "generator" super::generator as generator: 6,
    "list" super::list as list: 3,
    "manual" super::manual as manual: 4,
    "new" super::new as new: 1,
    "optimise --trust-databases" super::optimise_trusting as optimise_trusting: 4,
    "optimise" super::optimise as optimise: 5,
    "plan" super::plan as plan: 4,
    "publish --check --prepare" super::prepare as publish_prepare: 4,
    "publish --image" super::image as publish_image: 8,
    "publish --image --registration --real" super::image_of_registration as publish_registration: 5,
    "publish --retire-all-but --now" super::retire as publish_retire: 5,
    "publish" super::publish as publish: 10,
    "reconcile --old" crate::reconcile::sweep as reconcile: 10,
    "refresh" crate::refresh::sweep as refresh: 8,
    "remount" super::remount as remount: 5,
    "schema" super::schema as schema: 1,
    "status --sizes" super::status as status: 5,
    "units --force --output --publication" super::units as units: 8,
    "up --fix-permissions --restore-marks" super::up_fixing as up_fixing: 4,
    "up" super::up as up: 24,
    "url" super::url as url: 1,
    "warm --all --keep" super::warm as warm: 8,
    "warm --forget" super::warm_forget as warm_forget: 6,
}

/// Commands that are killed at every step elsewhere, with what is to be found before they run again.
const KILLED_ELSEWHERE: [(&str, fn()); 8] = [
    (
        "bug-report --output",
        crate::bug_report::killed_at_any_step_a_report_is_whole_or_not_there,
    ),
    (
        "down",
        crate::kill::down_killed_at_any_step_is_finished_by_the_next,
    ),
    (
        "exec --ephemeral --dir",
        crate::own_store::an_ephemeral_store_that_is_killed_is_gone,
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
        "publish --image",
        crate::images::an_image_killed_at_any_step_is_whole_or_not_there,
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

/// What changes nothing, as [`what_only_looks_changes_nothing`] finds: commands, and others with flags
/// that have them only look. `above` is a store over the publication `main`.
const LOOKING: &[(&str, &[&str])] = &[
    ("bug-report", &["bug-report", "--output", "-", "example"]),
    ("check", &["check", "--lower", "--contents", "example"]),
    ("check", &["check", "--list"]),
    ("completions", &["completions", "bash"]),
    (
        "gc",
        &["gc", "--dry-run", "--metadata", "--leftovers", "example"],
    ),
    ("list", &["list"]),
    ("list", &["list", "--names", "--publications"]),
    ("new", &["new"]),
    ("new", &["new", "--publication"]),
    ("optimise", &["optimise", "--dry-run", "example"]),
    ("plan", &["plan", "example"]),
    ("publish", &["publish", "--check", PLACE, "--contents"]),
    ("refresh", &["refresh", "--dry-run", "above"]),
    ("schema", &["schema", "report"]),
    ("status", &["status", "--sizes", "example"]),
    ("status", &["status", "--metrics", "--all"]),
    ("url", &["url", "example"]),
];

/// Commands of which no run changes anything.
const ONLY_LOOKING: &[&str] = &[
    "check",
    "completions",
    "list",
    "new",
    "plan",
    "schema",
    "status",
    "url",
];

/// Flags that change nothing of how it is written what a command writes: they say what is looked at or
/// told, what is chosen, where something is, or what is written into a file that is written anyhow.
const CHOOSING: &[(&str, &[&str])] = &[
    ("down", &["--root", "--description-here"]),
    // All at once, where the kernel unmounts.
    ("down", &["--lazy"]),
    ("exec", &["--lower", "--warm"]),
    // As with `up`, which it does.
    ("exec", &["--fix-permissions", "--restore-marks"]),
    (
        "exec",
        &[
            "--accept-lost-database",
            "--accept-other-layer",
            "--accept-lost-objects",
        ],
    ),
    (
        "gc",
        &[
            "--all",
            "--dry-run",
            "--why",
            "--older-than",
            "--min-free",
            "--max-free",
            "--nix",
            "--accept-lost-rows",
            "--ignore-absent-roots",
        ],
    ),
    ("optimise", &["--dry-run"]),
    (
        "publish",
        &[
            "--path",
            "--roots",
            "--from",
            "--processors",
            "--all-valid",
            "--contents",
            "--store",
            "--list",
        ],
    ),
    // Another choice of the same.
    ("publish", &["--retire", "--retire-older-than"]),
    // Fewer, or others, of the same steps, each of which is tested with what it gives up.
    (
        "reconcile",
        &[
            "--dry-run",
            "--drop-missing",
            "--prefer-lower",
            "--remove-without-rows",
            "--ignore-absent-roots",
            "--nix",
        ],
    ),
    ("refresh", &["--all", "--dry-run"]),
    ("units", &["--variables", "--program", "--nix-daemon"]),
    ("up", &["--root", "--description-here", "--unit"]),
    // What is refused otherwise is then done as for a new store.
    (
        "up",
        &[
            "--accept-lost-database",
            "--accept-other-layer",
            "--accept-lost-objects",
        ],
    ),
    ("warm", &["--roots"]),
];

/// Every flag by which a command writes in another way, as in `publish --image`, and every command.
pub fn modes() -> BTreeSet<String> {
    let mut modes = BTreeSet::new();
    for command in commands() {
        let chosen = CHOOSING.iter().filter(|(it, _)| *it == command);
        let chosen: BTreeSet<&str> = chosen
            .flat_map(|(_, flags)| flags.iter().copied())
            .collect();
        let flags = crate::cli::flags(&command);
        let unknown: Vec<_> = chosen.iter().filter(|it| !flags.contains(**it)).collect();
        assert!(unknown.is_empty(), "{command} has no {unknown:?}");
        if !ONLY_LOOKING.contains(&&*command) {
            let writing = flags.iter().filter(|it| !chosen.contains(&***it));
            modes.extend(writing.map(|flag| format!("{command} {flag}")));
        }
        modes.insert(command);
    }
    modes
}

/// What a list of commands with flags has: each command, and each of its flags.
pub fn each_mode<'a>(list: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let modes = list.into_iter().flat_map(|words| {
        let (command, flags) = words.split_once(' ').unwrap_or((words, ""));
        let flags = flags.split(' ').filter(|it| !it.is_empty());
        let flags = flags.map(move |flag| format!("{command} {flag}"));
        flags.chain([command.to_owned()])
    });
    modes.collect()
}

/// A command, with each flag by which it writes in another way, is in the sweep of failing calls, and in
/// that of kills unless it only looks. It is called in `cli`, so that nobody forgets a new one.
pub fn assert_every_command_is_swept() {
    let mut all = modes();
    // The same program by another name.
    all.insert("generator".to_owned());
    let missing = |from: BTreeSet<String>| -> Vec<String> {
        all.iter()
            .filter(|it| !from.contains(*it))
            .cloned()
            .collect()
    };
    let none: [String; 0] = [];
    let failing = each_mode(failing::COMMANDS.iter().copied());
    assert_eq!(missing(failing), none, "whose calls do not fail");
    let elsewhere = KILLED_ELSEWHERE.iter().map(|(command, _)| *command);
    let killed = killed::COMMANDS.iter().copied().chain(elsewhere);
    let killed = each_mode(killed.chain(ONLY_LOOKING.iter().copied()));
    assert_eq!(missing(killed), none, "that are not killed");
}

/// The description of a publication.
const PUBLICATION: &str = "/etc/overstore/publications/main.toml";

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

/// As the first `up`, where an administrator has changed the mode of a directory, and a copy has lost
/// the marks of another.
fn up_fixing(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let fresh = || {
        nothing(&world);
        example.up();
        example.command("down").ok();
        world.ok(["chmod", "700", Example::UPPER]);
        let links = world.path(format!("{}/.links", Example::UPPER));
        rustix::fs::removexattr(links, "trusted.overlay.opaque").expect("it is marked");
    };
    let left = || state(&world) + &crate::reconcile::opaque(&world);
    let words = [
        "overstore",
        "up",
        "--fix-permissions",
        "--restore-marks",
        "example",
    ];
    sweep.run(&world, &words, &fresh, &left);
}

/// Of a mount that nobody has recorded.
fn down_unrecorded(sweep: Sweep) {
    let fresh = |example: &Example<'_>| {
        example.up();
        let forget = "find /run/overstore -maxdepth 1 -type f -delete";
        example.world.ok(["sh", "-c", forget]);
    };
    with_example_up(
        sweep,
        &["overstore", "down", "--unrecorded", "example"],
        &fresh,
    );
}

/// What it makes and what it leaves.
fn ephemeral(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    let words = [
        "overstore",
        "exec",
        "--ephemeral",
        "--dir",
        "/mnt/mine",
        "--",
        "true",
    ];
    let fresh = || {
        world.ok(["rm", "-rf", "/mnt/mine"]);
    };
    sweep.run(&world, &words, &fresh, &|| tree(&world, "/mnt/mine"));
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

/// The same without locks: those that nobody holds are for the next collection.
fn without_locks(world: &World) -> String {
    let state = state(world);
    let lines = state.lines().filter(|it| !it.contains(".lock"));
    lines.fold(String::new(), |all, line| all + line + "\n")
}

/// With all that Nix does for it: what garbage is left goes with the next one.
fn gc(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    store.root("kept", &store.add("kept"));
    let fresh = || {
        store.add("garbage");
        store.add("more-garbage");
    };
    let words = ["overstore", "gc", "example"];
    sweep.run(&world, &words, &fresh, &|| without_locks(&world));
    let check = store.example.run("check");
    assert_eq!(check.code(), Some(0), "{check}");
}

/// Generations of a profile, what was left of an addition, and metadata that nothing needs, too.
fn gc_of_all(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let kept = store.add("kept");
    let fresh = || {
        let old = store.add("old");
        let script = "cd \"$0\"; ln -sfn \"$1\" p-1-link; ln -sfn \"$2\" p-2-link; ln -sfn p-2-link p; \
                      mkdir -p /mnt/example/store-b/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-left/over";
        let profiles = format!("{}/profiles", Example::STATE);
        world.ok(["sh", "-ec", script, &profiles, &old, &kept]);
        store.example.command("warm").args(["--all"]).ok();
    };
    let words = [
        "overstore",
        "gc",
        "--delete-generations",
        "old",
        "--leftovers",
        "--metadata",
        "example",
    ];
    sweep.run(&world, &words, &fresh, &|| without_locks(&world));
    let above = world.list(Example::UPPER);
    let objects = above
        .iter()
        .filter(|it| !it.to_string_lossy().contains(".l"));
    assert_eq!(objects.collect::<Vec<_>>(), [base_name(&kept)]);
}

/// What is in both layers, by what the databases say of it.
fn optimise_trusting(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let store = StoreUp::up(&world);
    let both = store.register(&[("one", &[]), ("two", &["one"])]);
    store.copy_below(&both);
    world.ok(["cp", "-a", Example::UPPER, "/mnt/before"]);
    let fresh = || {
        for path in &both {
            let copy = format!("/mnt/before/{}", base_name(path));
            world.ok(["cp", "-a", &copy, Example::UPPER]);
        }
        store.example.command("remount").ok();
    };
    let words = ["overstore", "optimise", "--trust-databases", "example"];
    sweep.run(&world, &words, &fresh, &|| without_locks(&world));
    assert_eq!(store.rows().len(), 2);
}

fn optimise(sweep: Sweep) {
    with_example_up(sweep, &["overstore", "optimise", "example"], &|example| {
        example.world.write("/tmp/garbage", "garbage\n");
        example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    });
}

/// A store and a publication, from which units are made.
fn described(world: &World) {
    world.example("[daemon]\nsocket = \"/run/example.socket\"");
    world.write(
        PUBLICATION,
        "root = \"/mnt/live\"\npublication = \"/mnt/publications/main\"\nschedule = \"daily\"\n",
    );
}

fn units(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    described(&world);
    let words = [
        "overstore",
        "units",
        "--force",
        "--output",
        "/mnt/units",
        "--publication",
        PUBLICATION,
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
    described(&world);
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

/// Where an image is made, and what there is in it.
const IMAGE: &str = "/mnt/out/image";

fn images(sweep: Sweep, world: &World, words: &[&str]) {
    world.mkdir("/mnt/out");
    sweep.run(world, words, &|| {}, &|| tree(world, "/mnt/out"));
}

/// A lower store in one file, in place of an older one.
fn image(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    owner.root("chain", &owner.lower.path("chain-3"));
    let words = ["overstore", "publish", "main", "--image", "squashfs", IMAGE];
    images(sweep, &world, &words);
}

/// The same, of a store that has no database.
fn image_of_registration(sweep: Sweep) {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    let chain = owner.lower.path("chain-3");
    let closure = owner
        .nix(&["nix-store", "--query", "--requisites", &chain])
        .ok();
    let dump = owner.nix(&["nix-store", "--dump-db"]);
    world.write("/mnt/registration", dump.args(closure.lines()).ok());
    let words = [
        "overstore",
        "publish",
        "--image",
        "erofs",
        IMAGE,
        "--registration",
        "/mnt/registration",
        "--real",
        "/mnt/live/nix/store",
    ];
    images(sweep, &world, &words);
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
    let owner = Owner::new(&world, "");
    owner.root("chain", &owner.lower.path("chain-3"));
    owner.published();
    owner.describe_above();
    world.overstore(["up", "above"]).ok();
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
