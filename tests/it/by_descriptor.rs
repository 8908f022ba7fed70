//! What root changes it reaches by descriptor: every command is traced, and each call that makes,
//! changes, opens for writing, mounts on or removes anything names something in a directory that is
//! held, and follows no link there. What takes a path all the same is in the table of SECURITY.md.

use std::collections::BTreeSet;

use crate::cli::commands;
use crate::own_store::with_system_store;
use crate::support::owner::Owner;
use crate::support::trace::Syscall;
use crate::support::{Example, Run, World};
use crate::sweeps::{each_mode, modes};

/// Whether a call is one of a row of that table.
type IsAbout = fn(&Syscall) -> bool;

/// What the table of SECURITY.md has in its first column, and the calls that it is about.
const BY_PATH: &[(&str, IsAbout)] = &[
    ("other programs", |call| !is_overstore(call)),
    // The mount of /proc that it is mounted over gives the tmpfs its name.
    ("`linux/held_paths.rs`", |call| {
        call.has_own_mounts() && (call.has_own_root() || call.text.contains("</proc>, \"root/"))
    }),
    ("`linux/namespaces.rs`", |call| {
        call.has_own_mounts()
            && call
                .text
                .starts_with("mount(NULL, \"/\", NULL, MS_REC|MS_PRIVATE")
    }),
    ("`publish/place.rs`", |call| {
        call.text.contains("/generations/") && call.text.contains(".overstore-new>, \"")
    }),
    ("`/dev/null`", |call| call.text.contains("\"/dev/null\"")),
];

fn is_overstore(call: &Syscall) -> bool {
    let program = call.program().to_string_lossy().into_owned();
    program.contains("/overstore") || program == "/proc/self/exe"
}

/// The commands that are traced below, by their first words.
const TRACED: &[&str] = &[
    "bug-report",
    "check",
    "completions",
    "down",
    "exec",
    "gc",
    "list",
    "manual",
    "new",
    "optimise",
    "plan",
    "publish",
    "reconcile",
    "refresh",
    "remount",
    "schema",
    "status",
    "units",
    "up",
    "url",
    "warm",
];

/// Called in `cli`, so that nobody forgets a new command.
pub fn assert_every_command_is_traced() {
    let traced: BTreeSet<String> = TRACED.iter().map(|it| (*it).to_owned()).collect();
    assert_eq!(commands(), traced);
}

/// What was found.
#[derive(Default)]
struct Audit {
    /// Commands with their flags.
    traced: BTreeSet<String>,
    used: BTreeSet<&'static str>,
    wrong: BTreeSet<String>,
    calls: usize,
}

impl Audit {
    /// Traces a command of overstore, which has to succeed.
    #[track_caller]
    fn run(&mut self, world: &World, words: &[&str]) {
        self.command(world.overstore(words), words);
    }

    #[track_caller]
    fn command(&mut self, command: Run<'_>, words: &[&str]) {
        let (outcome, trace) = command.traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let own = words.iter().take_while(|it| **it != "--");
        let flags = own.skip(1).filter(|it| it.starts_with("--"));
        let traced = flags.fold(words[0].to_owned(), |all, flag| all + " " + flag);
        self.traced.insert(traced);
        for call in &trace.calls {
            let paths = call.by_path();
            self.calls += usize::from(!call.changes().is_empty());
            if paths.is_empty() {
                continue;
            }
            match BY_PATH.iter().find(|(_, matches)| matches(call)) {
                Some((row, _)) => {
                    self.used.insert(row);
                }
                None => {
                    let what = format!("{words:?}: {paths:?}: {}", call.text);
                    self.wrong.insert(what);
                }
            }
        }
    }
}

#[test]
fn root_reaches_what_it_changes_by_descriptor() {
    let Some(world) = World::trixie() else { return };
    let mut audit = Audit::default();
    a_store(&world, &mut audit);
    a_publication(&world, &mut audit);
    let Some(world) = World::trixie() else { return };
    stores_of_a_command(&world, &mut audit);

    let wrong: Vec<&str> = audit.wrong.iter().map(String::as_str).collect();
    assert!(wrong.is_empty(), "reached by path:\n{}", wrong.join("\n"));
    assert!(audit.calls > 1000, "{} calls change anything", audit.calls);
    let traced = each_mode(audit.traced.iter().map(String::as_str));
    let missing: Vec<_> = modes()
        .into_iter()
        .filter(|it| !traced.contains(it))
        .collect();
    assert!(missing.is_empty(), "never traced: {missing:?}");
    let page = include_str!("../../SECURITY.md");
    let table = page
        .split("### To change something\n")
        .nth(1)
        .expect("a section");
    let rows = table.split("\n#").next().expect("a section").lines();
    let rows = rows.filter(|line| line.starts_with("| ")).skip(2);
    let rows: BTreeSet<&str> = rows
        .filter_map(|row| row.split('|').nth(1))
        .map(str::trim)
        .collect();
    assert_eq!(audit.used, rows, "what is used, and what SECURITY.md names");
}

/// A store from its first `up` to its last `down`.
fn a_store(world: &World, audit: &mut Audit) {
    let example = world.example("[daemon]\nsocket = \"/run/example.socket\"");
    audit.run(world, &["plan", "example"]);
    audit.run(world, &["up", "example"]);
    audit.run(
        world,
        &["up", "--fix-permissions", "--restore-marks", "example"],
    );
    audit.run(world, &["warm", "--all", "--keep", "example"]);
    let chain = example.lower.path("chain-3");
    world.ok(["ln", "-s", &chain, "/tmp/root"]);
    audit.run(world, &["warm", "--roots", "/tmp", "example"]);
    audit.run(world, &["warm", "--forget", "example"]);
    world.write("/tmp/garbage", "garbage\n");
    let add = || example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    add();
    audit.run(world, &["check", "--lower", "--contents", "example"]);
    audit.run(world, &["check", "--all"]);
    audit.run(world, &["status", "--sizes", "example"]);
    audit.run(world, &["list"]);
    audit.run(world, &["bug-report", "--output", "/tmp/report", "example"]);
    audit.run(world, &["list", "--names", "--below", "example"]);
    audit.run(world, &["url", "example"]);
    audit.run(
        world,
        &[
            "gc",
            "--metadata",
            "--leftovers",
            "--delete-generations",
            "old",
            "example",
        ],
    );
    let added = add();
    let below = added.trim().replace("/nix/store", Example::LOWER);
    world.ok([
        "cp",
        "-a",
        &added.trim().replace("/nix/store", Example::UPPER),
        &below,
    ]);
    let rows = "attach '/mnt/example/merged-store/nix/var/nix/db/db.sqlite' as above; \
                insert into ValidPaths select * from above.ValidPaths where path like '%-garbage'";
    world.ok([
        "sqlite3",
        "/mnt/example/store-a/nix/var/nix/db/db.sqlite",
        rows,
    ]);
    let above = added.trim().replace("/nix/store", Example::UPPER);
    world.ok(["cp", "-a", &above, "/tmp/copy"]);
    audit.run(world, &["optimise", "example"]);
    world.fails(["test", "-e", &above]);
    world.ok(["cp", "-a", "/tmp/copy", &above]);
    world.overstore(["remount", "example"]).ok();
    audit.run(world, &["optimise", "--trust-databases", "example"]);
    world.fails(["test", "-e", &above]);
    audit.run(world, &["remount", "example"]);
    audit.run(world, &["refresh", "example"]);
    let hook = world.command(["overstore-remount", Example::REAL]);
    audit.command(hook, &["remount"]);
    audit.run(world, &["down", "example"]);
    example.up();
    world.ok([
        "sh",
        "-c",
        "find /run/overstore -maxdepth 1 -type f -delete",
    ]);
    audit.run(world, &["down", "--unrecorded", "example"]);
    audit.run(world, &["exec", "example", "--", "true"]);
    let of_the_store = ["units", "--output", "/mnt/units", Example::CONFIGURATION];
    audit.run(world, &of_the_store);
    let again = [
        "units",
        "--force",
        "--output",
        "/mnt/units",
        Example::CONFIGURATION,
        "--publication",
        "/etc/overstore/publications/other.toml",
    ];
    world.write(
        "/etc/overstore/publications/other.toml",
        "root = \"/mnt/live\"\npublication = \"/mnt/publications/other\"\nschedule = \"daily\"\n",
    );
    audit.run(world, &again);
    audit.run(world, &["manual", "/mnt/man"]);
    audit.run(world, &["new"]);
    audit.run(world, &["schema", "report"]);
    audit.run(world, &["completions", "bash"]);
    world.ok(["ln", "-s", "overstore", "/usr/bin/overstore-generator"]);
    world.ok([
        "mkdir",
        "-p",
        "/mnt/g/normal",
        "/mnt/g/early",
        "/mnt/g/late",
    ]);
    let generator = world.command([
        "overstore-generator",
        "/mnt/g/normal",
        "/mnt/g/early",
        "/mnt/g/late",
    ]);
    audit.command(generator, &["units"]);

    // The lower store is replaced by one that lacks something.
    let needed = example.lower.path("chain-3");
    audit.run(world, &["up", "example"]);
    audit.run(world, &["warm", "example", &needed]);
    let root = format!("{}/gcroots/needed", Example::STATE);
    world.ok(["ln", "-s", &needed, &root]);
    audit.run(world, &["down", "example"]);
    let below = needed.replace("/nix/store", Example::LOWER);
    world.ok([
        "sh",
        "-ec",
        &format!(
            "cp -a /mnt/example/store-a /mnt/old; cd /mnt/example/store-a; rm -r {below}; \
         sqlite3 nix/var/nix/db/db.sqlite \"pragma foreign_keys = off; \
         delete from Refs where referrer in (select id from ValidPaths where path = '{needed}') \
         or reference in (select id from ValidPaths where path = '{needed}'); \
         delete from ValidPaths where path = '{needed}'\""
        ),
    ]);
    audit.run(world, &["reconcile", "--old", "/mnt/old", "example"]);
    world.ok(["test", "-e", &needed.replace("/nix/store", Example::UPPER)]);
    audit.run(world, &["down", "--lazy", "example"]);
}

/// A publication, and a store over it.
fn a_publication(world: &World, audit: &mut Audit) {
    let owner = Owner::new(world, "");
    owner.root("shell", &owner.lower.path("mksh-static"));
    audit.run(world, &["publish", "main"]);
    owner.describe_above();
    audit.run(world, &["up", "above"]);
    owner.root("chain", &owner.lower.path("chain-3"));
    audit.run(world, &["publish", "main", "--contents"]);
    audit.run(world, &["refresh", "above"]);
    audit.run(
        world,
        &["publish", "main", "--retire-all-but", "1", "--now"],
    );
    audit.run(world, &["publish", "main", "--list"]);
    world.mkdir("/mnt/out");
    for kind in ["squashfs", "erofs", "state"] {
        let file = format!("/mnt/out/{kind}");
        audit.run(world, &["publish", "main", "--image", kind, &file]);
    }
    let again = ["publish", "main", "--image", "erofs", "/mnt/out/squashfs"];
    audit.run(world, &again);
    let registered = owner.nix(&["nix-store", "--dump-db"]).ok();
    world.write("/mnt/registration", registered);
    let of_registration = [
        "publish",
        "--image",
        "erofs",
        "/mnt/out/erofs",
        "--registration",
        "/mnt/registration",
        "--real",
        "/mnt/live/nix/store",
    ];
    audit.run(world, &of_registration);
    world.lower_store("/mnt/sealed");
    let gone = "cd /mnt/sealed/nix; rm -rf store/.links var/nix/temproots var/nix/profiles \
                var/nix/db/reserved";
    world.ok(["sh", "-c", gone]);
    audit.run(world, &["publish", "--check", "/mnt/sealed", "--prepare"]);
    audit.run(world, &["down", "above"]);
}

/// Stores that a command has to itself.
fn stores_of_a_command(world: &World, audit: &mut Audit) {
    let (_daemon, _) = with_system_store(world);
    audit.run(world, &["exec", "--ephemeral", "--", "true"]);
    audit.run(
        world,
        &["exec", "--ephemeral", "--dir", "/mnt/mine", "--", "true"],
    );
}
