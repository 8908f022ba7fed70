//! `overstore reconcile` with an old or a new lower store that somebody has tampered with: nothing of the
//! user's goes, nothing outside is touched, and over the right one it is put right all the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::reconcile::{Exchanged, OLD, Object, ROOT, each_line, objects, objects_named};
use crate::support::{Example, Outcome, Snapshot, World, base_name, sample};

/// What the user has above.
const MINE: [&str; 5] = [
    "mine",
    "equal",
    "other-above",
    "file-above",
    "gone-and-mine",
];

/// An exchanged store, what it was like before, and a place that nobody may touch.
struct Hostile<'w> {
    store: Exchanged<'w>,
    mine: BTreeMap<String, String>,
    elsewhere: Snapshot,
}

impl<'w> Hostile<'w> {
    fn new(world: &'w World) -> Self {
        let store = Exchanged::new(world, each_line());
        world.ok([
            "sh",
            "-ec",
            "mkdir -p /mnt/elsewhere; echo precious >/mnt/elsewhere/file; \
             cp /mnt/example/store-a/nix/var/nix/db/db.sqlite /mnt/elsewhere; \
             rm -rf /mnt/prepared /mnt/old-prepared; cp -a /mnt/example /mnt/prepared; cp -a /mnt/old /mnt/old-prepared",
        ]);
        let mine = MINE.map(|name| {
            let path = store.path(name);
            let content = store.content(Example::UPPER, &path);
            (path, content)
        });
        Self {
            store,
            mine: mine.into(),
            elsewhere: Snapshot::of(world.path("/mnt/elsewhere")),
        }
    }

    /// Makes everything anew, and does `damage`: a shell script that is run where the lower store's
    /// database is, and in which `$lower` is the directory of objects.
    fn damage(&self, damage: &str) {
        let script = format!(
            "umount -q {real} || :; rm -rf /mnt/example /mnt/old /run/overstore
             cp -a /mnt/prepared /mnt/example; cp -a /mnt/old-prepared /mnt/old
             lower={lower}; cd {ROOT}/nix/var/nix/db\n{damage}",
            real = Example::REAL,
            lower = Example::LOWER,
        );
        self.store.world.ok(["sh", "-ec", &script]);
    }

    /// Runs it, after this damage.
    #[track_caller]
    fn run(&self, damage: &str, arguments: &[&str]) -> Outcome {
        let world = self.store.world;
        let stores = [ROOT, OLD].map(|store| (store, Snapshot::of(world.path(store))));
        let limits = [
            // For what never ends.
            "timeout",
            "--signal=KILL",
            "300",
            "prlimit",
            "--as=2147483648",
        ];
        let words = ["reconcile", "example", "--json", "--old", OLD];
        let outcome = world.overstore(words).args(arguments).under(limits).run();
        assert!(
            matches!(outcome.code(), Some(0 | 1 | 3)),
            "{damage}\n{outcome}"
        );
        for (store, before) in stores {
            before.assert_unchanged(world.path(store));
        }
        // A flag names what may go.
        let report: Value = serde_json::from_slice(&outcome.out).unwrap_or_default();
        let replaced = match report["replaced"].is_array() {
            true => objects(&report, "replaced"),
            false => Vec::new(),
        };
        assert!(replaced.is_empty() || arguments.contains(&"--prefer-lower"));
        self.assert_kept(&replaced, &format!("{damage}\n{outcome}"));
        outcome
    }

    /// Nothing of the user's is gone but what was `replaced`, and nobody has touched what is elsewhere.
    #[track_caller]
    fn assert_kept(&self, replaced: &[String], context: &str) {
        let world = self.store.world;
        self.elsewhere
            .assert_unchanged(world.path("/mnt/elsewhere"));
        let equal = self.store.path("equal");
        for (path, content) in &self.mine {
            if replaced.contains(path) {
                continue;
            }
            let found = self.store.content(Example::UPPER, path);
            // One that the lower store has too, byte by byte, may go.
            let may_go = *path == equal
                && found.is_empty()
                && self.store.content(Example::LOWER, path) == *content;
            assert!(may_go || found == *content, "{path}: {context}");
        }
        let rows = self.store.rows();
        for path in self.mine.keys() {
            assert!(rows.contains(path), "{path}: {context}");
        }
        let checks = "pragma integrity_check; pragma foreign_key_check";
        let sound = self.store.sql("/mnt/example/merged-store", checks);
        assert_eq!(sound, "ok\n", "{context}");
    }

    /// Over the right lower store, and with the right old one, it is put right.
    fn assert_put_right(&self, context: &str) {
        let script = format!(
            "umount -q {} || :; rm -rf {ROOT} /mnt/old; cp -a /mnt/prepared/store-a {ROOT}; \
             cp -a /mnt/old-prepared /mnt/old",
            Example::REAL
        );
        self.store.world.ok(["sh", "-c", &script]);
        let done = self.store.run(&["--old", OLD]);
        assert_eq!(done.code(), Some(0), "{context}: {done}");
        self.assert_kept(&[], context);
        self.store.assert_sound();
    }
}

/// Statements of SQL as a script.
fn sql(statements: &str) -> String {
    format!(
        "sqlite3 -cmd '.dbconfig defensive off' db.sqlite <<'END' >/dev/null
         pragma foreign_keys = 0; {statements}; pragma wal_checkpoint(truncate);\nEND"
    )
}

/// Each: what the lower store's database is, the exit code, and a part of what is said.
#[test]
fn a_hostile_database_of_the_new_lower_store() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    let same = hostile.store.path("same");
    let of = |column: &str, value: &str| {
        let set = format!("update ValidPaths set {column} = {value} where path = '{same}'");
        sql(&set)
    };
    let is_nix_s = "is not a database of Nix";
    let table: Vec<(String, i32, &str)> = vec![
        // What could run, and what is not ordered.
        (
            sql("create trigger t after insert on ValidPaths begin delete from Refs; end"),
            0,
            "",
        ),
        (
            sql("alter table ValidPaths rename to V; create view ValidPaths as select * from V"),
            3,
            is_nix_s,
        ),
        (
            sql("alter table Refs rename to R; create view Refs as select * from R"),
            3,
            is_nix_s,
        ),
        (sql("drop index IndexReference"), 3, is_nix_s),
        // Rows.
        (of("hash", "'sha256:zz'"), 3, "expected a SHA-256 hash"),
        (of("hash", "x'00ff'"), 3, "expected text in hash"),
        (of("narSize", "'many'"), 3, "expected an integer in narSize"),
        (of("narSize", "-1"), 3, "expected a size"),
        (of("deriver", "'/etc/passwd'"), 3, "expected a path in"),
        (of("sigs", "'no-colon'"), 3, "expected a signature"),
        (of("sigs", "hex(randomblob(700000))"), 3, "too big"),
        (of("ca", "'fixed'"), 3, "expected a content address"),
        (of("path", "'/nix/store/../../etc/passwd'"), 0, ""),
        (of("path", "'/nix/store/' || char(10) || 'x'"), 0, ""),
        (
            sql(&format!(
                "update ValidPaths set path = '/nix/store/../../etc/passwd' where path = '{}'",
                hostile.store.path("needed")
            )),
            3,
            "/etc/passwd",
        ),
        (of("id", "9223372036854775807"), 0, ""),
        (of("id", "-9223372036854775807"), 0, ""),
        // References.
        (
            sql(&format!(
                "insert into Refs select id, 77777 from ValidPaths where path = '{same}'"
            )),
            3,
            "it refers to row 77777, which is not there",
        ),
        // Of a row that nothing above names.
        (sql("insert into Refs select 1, 77777"), 0, ""),
        (sql("insert into Refs select 77777, 1"), 0, ""),
        (
            sql("insert or ignore into Refs select a.id, b.id from ValidPaths a, ValidPaths b"),
            0,
            "",
        ),
        (sql("delete from Refs"), 0, ""),
        (sql("delete from ValidPaths"), 0, ""),
        // Pages, and other files.
        (
            "dd if=/dev/urandom of=db.sqlite bs=4096 seek=1 count=6 conv=notrunc".to_owned(),
            3,
            "",
        ),
        (
            "printf '\\377\\377\\377\\377' | dd of=db.sqlite bs=1 seek=28 conv=notrunc".to_owned(),
            3,
            "malformed",
        ),
        ("truncate -s 8192 db.sqlite".to_owned(), 3, ""),
        ("truncate -s 0 db.sqlite".to_owned(), 3, ""),
        ("rm db.sqlite; mkfifo db.sqlite".to_owned(), 1, ""),
        ("rm db.sqlite; mkdir db.sqlite".to_owned(), 1, ""),
        (
            "rm db.sqlite; ln -s /mnt/elsewhere/db.sqlite db.sqlite".to_owned(),
            0,
            "",
        ),
        ("rm db.sqlite".to_owned(), 1, ""),
        (
            "head -c 100000 /dev/urandom >db.sqlite-wal".to_owned(),
            0,
            "",
        ),
        ("mkfifo db.sqlite-wal".to_owned(), 1, "lower-wal-pending"),
        (
            "rm schema; mkfifo schema".to_owned(),
            1,
            "lower-schema-unknown",
        ),
    ];
    let mut wrong = Vec::new();
    for (damage, code, said) in &sample(table, 3) {
        hostile.damage(damage);
        for arguments in [&["--dry-run"][..], &[]] {
            let outcome = hostile.run(damage, arguments);
            let all = format!("{}{}", outcome.stdout(), outcome.stderr());
            if outcome.code() != Some(*code) || !all.contains(said) {
                wrong.push(format!("{damage}\n{arguments:?}: {outcome}"));
            }
        }
        hostile.assert_put_right(damage);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What is in the lower store's directory is compared, and not followed.
#[test]
fn hostile_objects_of_the_new_lower_store() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    let mut cases = Vec::new();
    for name in ["equal", "other-above"] {
        let path = hostile.store.path(name);
        let below = format!("$lower/{}", base_name(&path));
        let above = format!("{}/{}", Example::UPPER, base_name(&path));
        cases.extend(
            [
                format!("rm -rf {below}; mkfifo {below}"),
                format!("rm -rf {below}; mknod {below} b 1 5"),
                format!("rm -rf {below}; ln -s /mnt/elsewhere {below}"),
                format!("rm -rf {below}; ln -s . {below}"),
                format!("truncate -s 1T {below}/file"),
                format!("rm {below}/file; mkfifo {below}/file"),
                format!("rm {below}/file; ln -s {above}/file {below}/file"),
                format!(
                    "cd {below}; i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i + 1)); done"
                ),
            ]
            .map(|damage| (path.clone(), damage)),
        );
    }
    for (path, damage) in sample(cases, 3) {
        for arguments in [&["--prefer-lower"][..], &[]] {
            hostile.damage(&damage);
            let outcome = hostile.run(&damage, arguments);
            assert_eq!(outcome.code(), Some(0), "{damage}\n{outcome}");
            let report: Value = serde_json::from_slice(&outcome.out).expect("JSON");
            // It is told, and hides what is below.
            let context = format!("{damage}\n{outcome}");
            assert!(objects(&report, "hiding").contains(&path), "{context}");
            assert!(!objects(&report, "replaced").contains(&path), "{context}");
            assert_eq!(
                hostile.store.merged(&path),
                hostile.mine[&path],
                "{context}"
            );
        }
        hostile.assert_put_right(&damage);
    }
}

/// The old store is not believed: what is not what its row says is not taken.
#[test]
fn a_hostile_old_store_gives_nothing() {
    let Some(world) = World::trixie() else { return };
    let bad = [
        "changed", "longer", "pipe", "device", "deep", "many", "whiteout", "link", "absent",
    ];
    let mut made: Vec<Object> = bad
        .iter()
        .map(|name| Object::named(name).old(0).rooted())
        .collect();
    made.push(Object::named("good").old(0).rooted());
    // What is done to it does not show in its NAR, and is not taken with it.
    made.push(Object::named("marked").old(0).rooted());
    let store = Exchanged::new(&world, made);
    let at = |name: &str| format!("{OLD}/nix/store/{}", base_name(&store.path(name)));
    let damage = format!(
        "set -e; echo bad >{}/file; truncate -s 1T {}/file; rm {pipe}/file; mkfifo {pipe}/file
         rm -rf {device}; mknod {device} c 1 5; rm -rf {link}; ln -s /etc {link}
         chmod 4666 {marked}/file; chmod 777 {marked}; chown 1000 {marked}/file
         cd {many}; i=0; while [ $i -lt 20000 ]; do echo >$i; i=$((i + 1)); done
         cd {whiteout}; mknod hidden c 0 0
         cd {deep}; i=0; while [ $i -lt 900 ]; do mkdir d; cd d; i=$((i + 1)); done
         rm -rf {absent}",
        at("changed"),
        at("longer"),
        pipe = at("pipe"),
        device = at("device"),
        link = at("link"),
        marked = at("marked"),
        many = at("many"),
        whiteout = at("whiteout"),
        deep = at("deep"),
        absent = at("absent"),
    );
    world.ok(["sh", "-c", &damage]);
    let marked = world.path(at("marked"));
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&marked, "trusted.overlay.redirect", b"/etc", flags).expect("root may");
    // Its database is not looked at, whatever it is.
    let database =
        format!("cd {OLD}/nix/var/nix/db; rm -f *; mkfifo db.sqlite schema db.sqlite-wal");
    world.ok(["sh", "-c", &database]);
    let report = store.reconcile(&["--old", OLD], 1);
    assert_eq!(objects_named(&report, "carried"), ["good", "marked"]);
    assert_eq!(objects_named(&report, "missing"), bad);
    for name in bad {
        let above = format!("{}/{}", Example::UPPER, base_name(&store.path(name)));
        world.fails(["test", "-e", &above]);
    }
    let drafts = world.list("/mnt/example/workdir/overstore/carried");
    assert!(drafts.is_empty(), "{drafts:?}");
    let why = report["missing"].to_string();
    for part in ["its row says", "more than the"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let above = format!("{}/{}", Example::UPPER, base_name(&store.path("marked")));
    let modes = world.ok(["stat", "-c", "%a %u", &above, &format!("{above}/file")]);
    assert_eq!(modes, "555 0\n444 0\n");
    let redirect =
        rustix::fs::getxattr(world.path(&above), "trusted.overlay.redirect", &mut [0; 64]);
    assert_eq!(redirect, Err(rustix::io::Errno::NODATA));
    // Named again, whole: the rest is carried.
    store.example.command("down").ok();
    world.ok(["sh", "-c", &format!("rm -rf {OLD}")]);
    let left = store.reconcile(&["--dry-run"], 1);
    assert_eq!(objects_named(&left, "missing"), bad);
    assert_eq!(left["carried"], json!([]));
}
