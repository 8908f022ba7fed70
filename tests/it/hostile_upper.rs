//! Upper databases that somebody has tampered with: every command ends with an error or a finding,
//! and touches nothing outside of the store.

use crate::support::{Example, Outcome, Snapshot, World, sample};

const DIRECTORY: &str = "/mnt/example/merged-store/nix/var/nix/db";
/// Everything that looks into the upper database.
const COMMANDS: [&[&str]; 5] = [
    &["check", "example"],
    &["check", "example", "--contents", "--lower"],
    &["status", "example", "--sizes"],
    &["warm", "example", "--all", "--keep"],
    &["up", "example"],
];
const CHECK: usize = 0;
const WARM: usize = 3;
const UP: usize = 4;

/// A store that is up, with metadata copied up and a copy of its database to begin again from, and a
/// place that nobody may touch.
struct Hostile<'w> {
    example: Example<'w>,
    elsewhere: Snapshot,
}

impl<'w> Hostile<'w> {
    fn new(world: &'w World) -> Self {
        let example = world.example("");
        example.up();
        let prepare = format!(
            "cd {DIRECTORY}; sqlite3 db.sqlite 'pragma wal_checkpoint(truncate)'
             mkdir /mnt/elsewhere; cp db.sqlite /mnt/elsewhere; echo precious >/mnt/elsewhere/file
             ln -s /nix/store/x /mnt/elsewhere/00000000000000000000000000000000-root
             overstore warm example --all
             sqlite3 db.sqlite 'pragma wal_checkpoint(truncate)'; cp -a . /mnt/saved"
        );
        world.ok(["sh", "-ec", &prepare]);
        let elsewhere = Snapshot::of(world.path("/mnt/elsewhere"));
        Self { example, elsewhere }
    }

    /// Runs a command after `damage`, a shell script that is run where the database is.
    #[track_caller]
    fn run(&self, damage: &str, command: &[&str]) -> Outcome {
        let world = self.example.world;
        let damage =
            format!("rm -r {DIRECTORY}; cp -a /mnt/saved {DIRECTORY}; cd {DIRECTORY}\n{damage}");
        world.ok(["sh", "-ec", &damage]);
        let limit = ["timeout", "--signal=KILL", "600"];
        let outcome = world.overstore(command).under(limit).run();
        assert!(
            matches!(outcome.code(), Some(0 | 1 | 3)),
            "{damage}\n{outcome}"
        );
        self.elsewhere
            .assert_unchanged(world.path("/mnt/elsewhere"));
        outcome
    }

    /// Runs every command after `damage`: `check` has to find `code` (none, where that is empty), and
    /// `warm` to fail for this reason (to succeed, where that is empty).
    #[track_caller]
    fn expect(&self, damage: &str, code: &str, reason: &str) {
        for (place, command) in COMMANDS.iter().enumerate() {
            let outcome = self.run(damage, command);
            match place {
                CHECK => {
                    let text = outcome.stdout();
                    let codes = text.matches(" [").count();
                    let expected = if code.is_empty() {
                        codes == 0
                    } else {
                        text.contains(code)
                    };
                    assert!(expected, "{damage}\n{outcome}");
                }
                WARM if reason.is_empty() => {
                    assert_eq!(outcome.code(), Some(0), "{damage}\n{outcome}");
                }
                WARM => {
                    assert_eq!(outcome.code(), Some(3), "{damage}\n{outcome}");
                    assert!(outcome.stderr().contains(reason), "{damage}\n{outcome}");
                }
                _ => {}
            }
        }
    }

    /// The same, after statements of SQL.
    #[track_caller]
    fn expect_sql(&self, sql: &str, code: &str, reason: &str) {
        let damage = format!(
            "sqlite3 -cmd '.dbconfig defensive off' db.sqlite <<'END' >/dev/null
             pragma foreign_keys = 0;\n{sql};\nEND"
        );
        self.expect(&damage, code, reason);
    }
}

#[test]
fn files_that_are_none() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    for (other, regular) in [
        (
            "ln -s /mnt/elsewhere/db.sqlite",
            "expected a regular file as db.sqlite",
        ),
        ("mkfifo", "expected a regular file as db.sqlite"),
        ("mkdir", "expected a regular file as db.sqlite"),
    ] {
        let damage = format!("rm -f db.sqlite*; {other} db.sqlite");
        hostile.expect(&damage, "database-unreadable", regular);
    }
    for other in ["ln -s /mnt/elsewhere/file", "mkfifo", "mkdir"] {
        for suffix in ["wal", "shm", "journal"] {
            let damage = format!("rm -f db.sqlite-*; {other} db.sqlite-{suffix}");
            let regular = format!("expected a regular file as db.sqlite-{suffix}");
            hostile.expect(&damage, "database-unreadable", &regular);
        }
        for name in ["schema", "big-lock"] {
            for command in [COMMANDS[CHECK], COMMANDS[WARM], COMMANDS[UP]] {
                hostile.run(&format!("rm {name}; {other} {name}"), command);
            }
        }
        // What cannot be read is no reason to make a new database.
        let damage = format!("rm schema; {other} schema");
        let check = hostile.run(&damage, COMMANDS[CHECK]);
        assert!(check.stdout().contains("[schema-unknown]"), "{check}");
        let plan = hostile.run(&damage, &["plan", "example"]);
        assert!(!plan.stdout().contains("make the upper database"), "{plan}");
        let up = hostile.run(&damage, COMMANDS[UP]);
        assert_eq!(up.code(), Some(1), "{up}");
        // What a making that was interrupted has left is taken up.
        let damage = format!("rm schema; rm -f db.sqlite*; {other} db.sqlite");
        hostile.run(&damage, COMMANDS[UP]);
    }
    let link =
        format!("rm -rf /mnt/moved; mv {DIRECTORY} /mnt/moved; ln -s /mnt/moved {DIRECTORY}; cd /");
    hostile.expect(&link, "symbolic link", "is a symbolic link");
}

#[test]
fn directories_of_overstore_that_lead_elsewhere() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    for (directory, needed) in [
        ("gcroots", true),
        ("gcroots/overstore", true),
        ("overstore", false),
    ] {
        let link = |place: &str| {
            format!("cd ..; rm -rf kept; mv {place} kept; ln -s /mnt/elsewhere {place}")
        };
        for command in [
            &["warm", "example", "--all", "--keep"][..],
            &["warm", "example", "--forget"],
            &["status", "example"],
            &["check", "example"],
            &["up", "example"],
        ] {
            let roots = hostile.run("", &["warm", "example", "--all", "--keep"]);
            assert_eq!(roots.code(), Some(0), "{roots}");
            let outcome = hostile.run(&link(directory), command);
            if command[0] == "warm" {
                let expected = if needed { 3 } else { 0 };
                assert_eq!(outcome.code(), Some(expected), "{directory}: {outcome}");
            }
            let back = format!("cd {DIRECTORY}/..; rm {directory}; mv kept {directory}");
            world.ok(["sh", "-ec", &back]);
        }
    }
}

#[test]
fn tables_that_are_none() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    let columns = "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca";
    let endless = "with recursive n(x) as (select 1 union all select x + 1 from n)";
    let no_table = "expected the table ValidPaths, as Nix makes it";
    for sql in [
        format!(
            "create view ValidPaths ({columns}) as {endless} select x, x, x, x, x, x, x, x, x from n"
        ),
        format!("create virtual table ValidPaths using fts5 ({columns})"),
        format!("create table ValidPaths ({columns}, more as (hex(zeroblob(400000000))))"),
    ] {
        hostile.expect_sql(
            &format!("drop table ValidPaths; {sql}"),
            "schema-incomplete",
            no_table,
        );
    }
    // What only runs when something is written, or is not asked for, does not run.
    for sql in [
        "create trigger T before insert on ValidPaths begin
         select count(*) from sqlite_master a, sqlite_master b, sqlite_master c, sqlite_master d,
         sqlite_master e, sqlite_master f, sqlite_master g, sqlite_master h; end",
        "create trigger T after insert on Refs begin delete from ValidPaths; end",
        &format!("create view V as {endless} select x from n"),
    ] {
        let sql = format!("delete from Refs; delete from ValidPaths; {sql}");
        hostile.expect_sql(&sql, "schema-foreign", "");
    }
    hostile.expect_sql(
        &format!("drop table SchemaMigrations; create view SchemaMigrations as {endless} select x as migration from n"),
        "schema-incomplete",
        "",
    );
}

#[test]
fn rows_that_are_none() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    let unreadable = "layers-unreadable";
    for value in [
        "x'00ff'",
        "'/nix/store/../../../../mnt/elsewhere/file'",
        "'/mnt/elsewhere/file'",
        "'/nix/store/' || char(27) || '[2J'",
        "''",
    ] {
        let sql = format!("update ValidPaths set path = {value} where id = 3");
        hostile.expect_sql(&sql, unreadable, "");
    }
    // Nothing of these is read unless it is asked for.
    for column in [
        "hash",
        "deriver",
        "sigs",
        "ca",
        "narSize",
        "registrationTime",
        "ultimate",
    ] {
        for value in [
            "x'00ff'",
            "'\u{1b}[2J'",
            "1.5",
            "hex(zeroblob(5000000))",
            "-9223372036854775808",
        ] {
            let sql = format!("update ValidPaths set {column} = {value}");
            hostile.run(&format!("sqlite3 db.sqlite \"{sql}\""), COMMANDS[1]);
        }
    }
    hostile.expect_sql(
        "update ValidPaths set narSize = 9223372036854775807",
        "",
        "",
    );
    // Everything refers to everything, itself too.
    hostile.expect_sql(
        "insert or ignore into Refs select a.id, b.id from ValidPaths a, ValidPaths b",
        "",
        "",
    );
    let some =
        "delete from Refs; delete from DerivationOutputs; delete from ValidPaths where id > 3";
    for (sequence, reason) in [
        (
            "9223372036854775807",
            "found the row id 9223372036854775807",
        ),
        ("-9223372036854775808", ""),
        ("'many'", "Invalid column type Text"),
    ] {
        let sql = format!("{some}; update sqlite_sequence set seq = {sequence}");
        hostile.expect_sql(&sql, "", reason);
    }
    let sql = format!("{some}; update ValidPaths set id = 9223372036854775807 where id = 3");
    hostile.expect_sql(&sql, "", "found the row id 9223372036854775807");
}

#[test]
fn pages_that_are_none() {
    let Some(world) = World::trixie() else { return };
    let hostile = Hostile::new(&world);
    let write = |sql: &str| format!("pragma writable_schema = 1; update sqlite_master set {sql}");
    for sql in [
        "rootpage = 2",
        "rootpage = 2147483647 where name = 'Refs'",
        "sql = 'create table ValidPaths (path)' where name = 'ValidPaths'",
        "sql = 'rubbish' where name = 'ValidPaths'",
        "type = 'view' where name = 'ValidPaths'",
    ] {
        let damage = format!(
            "sqlite3 -cmd '.dbconfig defensive off' db.sqlite \"{}\"",
            write(sql)
        );
        for command in COMMANDS {
            hostile.run(&damage, command);
        }
    }
    for damage in [
        "truncate -s 5000 db.sqlite",
        "truncate -s 50 db.sqlite",
        "for page in 1 2 3 4 5 6; do
           dd if=/dev/urandom of=db.sqlite bs=4096 seek=$page count=1 conv=notrunc 2>/dev/null
         done",
        "dd if=/dev/urandom of=db.sqlite bs=1 seek=18 count=82 conv=notrunc 2>/dev/null",
    ] {
        let code = hostile.run(damage, COMMANDS[CHECK]).code();
        assert_eq!(code, Some(1), "{damage}");
        for command in &COMMANDS[1..] {
            hostile.run(damage, command);
        }
    }
    let log = "head -c 9000 /dev/urandom >db.sqlite-wal; head -c 32768 /dev/urandom >db.sqlite-shm";
    for command in COMMANDS {
        hostile.run(log, command);
    }
}

/// What is there and cannot be looked at is not what an interrupted `up` did not write: no new database
/// takes the place of the store's, whichever look at it or at the file `schema` fails.
#[test]
fn a_database_that_cannot_be_looked_at_is_not_a_missing_one() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/mine", "the user's");
    let mine = example.nix(&["nix-store", "--add", "/tmp/mine"]).ok();
    example.command("down").ok();
    let database = format!("{}/db", Example::STATE);
    // It is the same file, with the same rows.
    let kept = || {
        let script = "cd $0; stat -c %i db.sqlite; cat schema; \
                      sqlite3 db.sqlite 'select path, hash from ValidPaths order by path'";
        world.ok(["sh", "-c", script, &database])
    };
    let (mut told, mut failures) = (0, 0);
    for (command, errors) in [
        ("plan", &["EIO"][..]),
        ("check", &["EIO"]),
        ("up", &["EIO", "EACCES", "EPERM"]),
    ] {
        let (_, trace) = example.command(command).traced();
        example.run("down");
        let looks = trace.nth_calls(|call| {
            let looks = ["openat", "openat2", "statx", "newfstatat", "faccessat2"];
            let names = ["\"schema\"", "\"db.sqlite\"", "/schema\"", "/db.sqlite\""];
            looks.contains(&call.name.as_str()) && names.iter().any(|it| call.text.contains(it))
        });
        assert!(looks.len() > 2, "{command}: {looks:?}");
        let looks = sample(looks, 6);
        for ((call, nth), error) in looks
            .iter()
            .flat_map(|it| errors.iter().map(move |e| (it, e)))
        {
            let what = format!("{command}: {error} at {call} {nth}");
            let before = kept();
            let failed = example.command(command).failing_at(call, *nth, error);
            let said = failed.stdout() + &failed.stderr();
            assert!(
                !said.contains("make the upper database"),
                "{what}: {failed}"
            );
            assert!(!said.contains("[database-missing]"), "{what}: {failed}");
            assert!(!said.contains("panicked"), "{what}: {failed}");
            told += usize::from(said.contains("schema-unknown"));
            failures += usize::from(failed.code() != Some(0));
            if command == "up" && failed.code() == Some(0) {
                example.command("down").ok();
            }
            assert_eq!(kept(), before, "{what}: {failed}");
        }
    }
    assert!(told > 0 && failures > 3, "{told} {failures}");
    example.up();
    let valid = ["nix-store", "--check-validity", mine.trim()];
    example.nix(&valid).ok();
}
