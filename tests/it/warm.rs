//! What `overstore warm` copies is what Nix copies.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::support::trace::Syscall;
use crate::support::{Example, Outcome, Run, Snapshot, World, wait_until};

use overstore::testing::nix::NixVersion;

/// All rows, without their ids, as text that tells types apart.
const ROWS: &str = "
    select path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca
    from ValidPaths order by path;
    select a.path, b.path from Refs join ValidPaths a on a.id = referrer
    join ValidPaths b on b.id = reference order by 1, 2;
    select p.path, d.id, d.path from DerivationOutputs d join ValidPaths p on p.id = d.drv
    order by 1, 2;";

/// A mounted overlay of which one state directory is Nix's (`/mnt/nix`) and one ours
/// (`/mnt/ours`): each with an upper database that Nix has made.
struct Stores<'w> {
    world: &'w World,
    /// The lower store, as it is written in a URL.
    lower: String,
}

/// One lower store, as a database and behind a daemon on this socket.
const LOWERS: [&str; 2] = [
    "/mnt/lower?read-only=true",
    "unix:///run/lower.socket?root=/mnt/lower",
];

impl<'w> Stores<'w> {
    /// In the place of those that were there, if any.
    fn anew(world: &'w World, lower: &str) -> Stores<'w> {
        world.run(["umount", "/mnt/merged/nix/store"]);
        world.ok(["rm", "-rf", "/mnt/ours", "/mnt/nix"]);
        Stores::new(world, lower)
    }

    fn new(world: &'w World, lower: &str) -> Stores<'w> {
        world.ok([
            "mkdir",
            "-p",
            "/mnt/upper",
            "/mnt/work",
            "/mnt/merged/nix/store",
        ]);
        world.ok([
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            "lowerdir=/mnt/lower/nix/store,upperdir=/mnt/upper,workdir=/mnt/work",
            "/mnt/merged/nix/store",
        ]);
        let stores = Stores {
            world,
            lower: lower.to_owned(),
        };
        for state in ["nix", "ours"] {
            world
                .nix(["nix", "store", "info", "--store", &stores.url(state)])
                .ok();
        }
        world.write(
            "/etc/overstore/example.toml",
            format!(
                "root = \"/mnt/merged\"\nstate = \"/mnt/ours\"\nlower-store = \"{lower}\"\n\
                 upper-layer = \"/mnt/upper\"\nworkdir = \"/mnt/work\"\n"
            ),
        );
        stores
    }

    fn url(&self, state: &str) -> String {
        let lower = self.lower.replace('?', "%3F").replace('&', "%26");
        format!(
            "local-overlay://?root=/mnt/merged&state=/mnt/{state}&lower-store={lower}\
             &upper-layer=/mnt/upper"
        )
    }

    /// Has Nix copy the closures of these paths up.
    fn nix(&self, paths: &[&str]) {
        self.world
            .nix(["nix-store", "--store", &self.url("nix"), "--check-validity"])
            .args(paths)
            .ok();
    }

    fn warm(&self, arguments: &[&str]) -> Run<'w> {
        self.world.overstore(["warm", "example"]).args(arguments)
    }

    fn rows(&self, state: &str) -> String {
        let database = format!("/mnt/{state}/db/db.sqlite");
        self.world.ok(["sqlite3", "-quote", &database, ROWS])
    }

    #[track_caller]
    fn assert_same(&self) {
        let (nix, ours) = (self.rows("nix"), self.rows("ours"));
        for (nix, ours) in nix.lines().zip(ours.lines()) {
            assert_eq!(ours, nix);
        }
        assert_eq!(ours.lines().count(), nix.lines().count());
        let database = "/mnt/ours/db/db.sqlite";
        let check = "pragma integrity_check; pragma foreign_key_check";
        assert_eq!(self.world.ok(["sqlite3", database, check]), "ok\n");
    }
}

/// The lower store of the fixtures, with what Nix itself seldom writes.
fn lower_store(world: &World) -> Vec<String> {
    let lower = world.lower_store("/mnt/lower");
    world.ok([
        "sqlite3",
        "/mnt/lower/nix/var/nix/db/db.sqlite",
        "update ValidPaths set sigs = 'b-1:Ymw= a-1:YWE= b-1:Ymw=' where id % 3 = 0;
         update ValidPaths set sigs = '' where id % 3 = 1;
         update ValidPaths set ca = '' where ca is null and id % 2 = 0;
         update ValidPaths set ultimate = 0, narSize = 0 where id % 4 = 1;
         update ValidPaths set ultimate = 1, narSize = null where id % 4 = 2;
         update ValidPaths set registrationTime = 1000000 + id;
         pragma wal_checkpoint(truncate);",
    ]);
    lower.paths()
}

fn strings(paths: &[String]) -> Vec<&str> {
    paths.iter().map(String::as_str).collect()
}

#[test]
fn everything_is_copied_as_nix_copies_it() {
    for world in World::each() {
        let paths = lower_store(&world);
        let stores = Stores::new(&world, "/mnt/lower?read-only=true");
        let before = Snapshot::of(world.path("/mnt/lower"));
        stores.nix(&strings(&paths));
        let said = stores.warm(&["--all"]).ok();
        assert!(
            said.starts_with(&format!("{} paths copied", paths.len())),
            "{said}"
        );
        stores.assert_same();
        assert!(stores.rows("ours").contains(".drv','out',"));
        // Once more changes nothing.
        let said = stores.warm(&["--all"]).ok();
        assert!(
            said.contains(&format!("{} already present", paths.len())),
            "{said}"
        );
        stores.assert_same();
        before.assert_unchanged(world.path("/mnt/lower"));
        world
            .nix(["nix-store", "--store", &stores.url("ours"), "--verify"])
            .ok();
    }
}

#[test]
fn each_closure_is_copied_as_nix_copies_it() {
    for world in World::each() {
        let paths = lower_store(&world);
        let stores = Stores::new(&world, "/mnt/lower?read-only=true");
        for path in strings(&paths) {
            stores.nix(&[path]);
            stores.warm(&[path]).ok();
            stores.assert_same();
        }
    }
}

#[test]
fn a_daemon_below_gives_the_same() {
    for world in World::each() {
        let paths = lower_store(&world);
        let _daemon = world.nix_daemon("/mnt/lower", "/run/lower.socket");
        let stores = Stores::new(&world, "unix:///run/lower.socket?root=/mnt/lower");
        stores.nix(&strings(&paths[..2]));
        stores.warm(&strings(&paths[..2])).ok();
        stores.assert_same();
        stores.nix(&strings(&paths));
        stores.warm(&["--all"]).ok();
        stores.assert_same();
    }
}

/// Signatures are copied each once, in the order of their text, as the manual says. Nix before 2.34
/// does the same; Nix since then orders them by key and then by their bytes, and everything else is
/// the same.
#[test]
fn signatures_are_copied_in_the_order_of_their_text() {
    let by_text = "a-1:AAAA a-1:ZZZZ a:+AAA a:/AAA a:0AAA a:AAAA a:aaaa b:AAAA";
    let by_key = "a:AAAA a:aaaa a:0AAA a:+AAA a:/AAA a-1:AAAA a-1:ZZZZ b:AAAA";
    let unsorted =
        "b:AAAA a:aaaa a:/AAA a-1:ZZZZ a:0AAA a:aaaa a:AAAA b:AAAA a-1:AAAA a:+AAA a:/AAA";
    for world in World::each() {
        let paths = lower_store(&world);
        let sql =
            format!("update ValidPaths set sigs = '{unsorted}'; pragma wal_checkpoint(truncate)");
        world.ok(["sqlite3", "/mnt/lower/nix/var/nix/db/db.sqlite", &sql]);
        let version = world.nix(["nix", "--version"]).ok();
        let version = NixVersion::from_version_output(&version).unwrap();
        let of_nix = match version < NixVersion::new(2, 34) {
            true => by_text,
            false => by_key,
        };
        let _daemon = world.nix_daemon("/mnt/lower", "/run/lower.socket");
        for lower in LOWERS {
            let stores = Stores::anew(&world, lower);
            stores.nix(&strings(&paths));
            stores.warm(&["--all"]).ok();
            let (nix, ours) = (stores.rows("nix"), stores.rows("ours"));
            let count = |rows: &str, signatures| rows.matches(&format!("'{signatures}'")).count();
            assert_eq!(
                count(&nix, of_nix),
                paths.len(),
                "{version} over {lower}: {nix}"
            );
            assert_eq!(
                count(&ours, by_text),
                paths.len(),
                "{version} over {lower}: {ours}"
            );
            assert_eq!(ours, nix.replace(of_nix, by_text), "{version} over {lower}");
        }
    }
}

#[test]
fn an_empty_deriver_reads_as_none() {
    let Some(world) = World::trixie() else { return };
    lower_store(&world);
    let stores = Stores::new(&world, "/mnt/lower?read-only=true");
    world.ok([
        "sqlite3",
        "/mnt/lower/nix/var/nix/db/db.sqlite",
        "update ValidPaths set deriver = ''; pragma wal_checkpoint(truncate);",
    ]);
    stores.warm(&["--all"]).ok();
    let derivers = "select count(*) from ValidPaths where deriver is not null";
    assert_eq!(
        world.ok(["sqlite3", "/mnt/ours/db/db.sqlite", derivers]),
        "0\n"
    );
}

#[test]
fn rows_in_the_log_of_a_store_in_use_are_copied() {
    let Some(world) = World::trixie() else { return };
    let paths = lower_store(&world);
    let stores = Stores::new(&world, "/mnt/lower?read-only=true");
    world.write("/tmp/new", "new");
    let new = world
        .nix(["nix-store", "--store", "/mnt/lower", "--add", "/tmp/new"])
        .ok();
    stores.warm(&["--all"]).ok();
    assert!(stores.rows("ours").contains(new.trim_end()));
    let count = "select count(*) from ValidPaths";
    let count = world.ok(["sqlite3", "/mnt/ours/db/db.sqlite", count]);
    assert_eq!(count.trim().parse(), Ok(paths.len() + 1));
}

#[test]
fn what_is_not_valid_or_incomplete_leaves_nothing_behind() {
    let Some(world) = World::trixie() else { return };
    let paths = lower_store(&world);
    let _daemon = world.nix_daemon("/mnt/lower", "/run/lower.socket");
    for lower in LOWERS {
        let stores = Stores::anew(&world, lower);
        let missing = "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-missing";
        let outcome = stores.warm(&[&paths[0], missing]).fails();
        assert_eq!(outcome.code(), Some(2));
        assert!(outcome.stderr().contains("-missing"), "{outcome}");
        assert_eq!(stores.rows("ours"), "");
        let outcome = stores.warm(&["/etc"]).fails();
        assert_eq!(outcome.code(), Some(2));
    }
    let stores = Stores {
        world: &world,
        lower: String::new(),
    };
    world.write(
        "/etc/overstore/example.toml",
        String::from_utf8(world.read("/etc/overstore/example.toml"))
            .unwrap()
            .replace(
                "unix:///run/lower.socket?root=/mnt/lower",
                "/mnt/lower?read-only=true",
            ),
    );
    world.ok([
        "sqlite3",
        "/mnt/lower/nix/var/nix/db/db.sqlite",
        "update Refs set reference = 9999 where rowid =
         (select min(rowid) from Refs where referrer != reference)",
    ]);
    let outcome = stores.warm(&["--all"]).fails();
    assert_eq!(outcome.code(), Some(3));
    assert!(outcome.stderr().contains("refers to row 9999"), "{outcome}");
    assert_eq!(stores.rows("ours"), "");
}

#[test]
fn roots_keep_what_was_warmed_from_the_collector() {
    for world in World::each() {
        let paths = lower_store(&world);
        let stores = Stores::new(&world, "/mnt/lower?read-only=true");
        let collect = || {
            world
                .nix(["nix-store", "--store", &stores.url("ours"), "--gc"])
                .ok();
        };
        let count = || stores.rows("ours").lines().count();
        stores.warm(&["--all"]).ok();
        let all = count();
        collect();
        assert!(count() < all);
        stores.warm(&["--all", "--keep"]).ok();
        assert_eq!(count(), all);
        collect();
        assert_eq!(count(), all);
        let roots = world.list("/mnt/ours/gcroots/overstore").len();
        assert!(roots > 0);
        for removed in [roots, 0] {
            let said = stores.warm(&["--forget"]).ok();
            assert_eq!(said, format!("{removed} roots removed\n"));
        }
        collect();
        assert!(count() < all);

        // Roots of the lower store, one of which is of no use any more.
        world.ok(["mkdir", "/mnt/roots"]);
        world.ok(["ln", "-s", &paths[3], "/mnt/roots/valid"]);
        let gone = "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-gone";
        world.ok(["ln", "-s", gone, "/mnt/roots/gone"]);
        let said = stores.warm(&["--roots", "/mnt/roots"]).ok();
        assert!(said.contains("1 root left out: not valid below"), "{said}");
        assert!(stores.rows("ours").contains(&paths[3]));
    }
}

/// Killed at each of its steps, the next run finds a database that is whole, and ends the work.
#[test]
fn it_is_safe_to_kill() {
    let Some(world) = World::trixie() else { return };
    lower_store(&world);
    let stores = Stores::new(&world, "/mnt/lower?read-only=true");
    for call in ["pwrite64", "fsync", "symlinkat", "mkdirat"] {
        for nth in 1..100 {
            let before = stores.rows("ours");
            let outcome = stores.warm(&["--all", "--keep"]).killed_at(call, nth);
            let after = stores.rows("ours");
            assert!(
                after == before || after.lines().count() > 18,
                "{call} {nth}: {after}"
            );
            if outcome.signal() != Some(9) {
                assert!(nth > 1, "it makes no {call}");
                break;
            }
        }
        stores.warm(&["--all", "--keep"]).ok();
        stores.warm(&["--forget"]).ok();
        world.ok([
            "sqlite3",
            "/mnt/ours/db/db.sqlite",
            "pragma foreign_keys = off; delete from Refs; delete from DerivationOutputs;
             delete from ValidPaths",
        ]);
    }
}

/// Whatever its kind and its state, the lower store is only read.
#[test]
fn the_lower_store_is_only_read() {
    let Some(world) = World::trixie() else { return };
    lower_store(&world);
    // Rows in the log, and nobody there.
    world.write("/tmp/new", "new");
    world
        .nix(["nix-store", "--store", "/mnt/lower", "--add", "/tmp/new"])
        .ok();
    let stores = Stores::new(&world, "/mnt/lower?read-only=true");
    let before = Snapshot::of(world.path("/mnt/lower"));
    for arguments in [
        &["warm", "example", "--all", "--keep"][..],
        &["status", "example", "--sizes"],
        &["check", "example", "--contents", "--lower"],
    ] {
        let (_, trace) = world.overstore(arguments).traced();
        trace.assert_only_read("/mnt/lower");
    }
    before.assert_unchanged(world.path("/mnt/lower"));
    assert!(!stores.rows("ours").is_empty());
}

/// The middle store's own paths, and those below it.
#[test]
fn a_nested_store_below_gives_the_same() {
    for world in World::each() {
        let paths = lower_store(&world);
        world.write(
            "/etc/overstore/middle.toml",
            "root = \"/mnt/middle\"\nlower-store = \"/mnt/lower?read-only=true\"\n\
             upper-layer = \"/mnt/middle-upper\"\nworkdir = \"/mnt/middle-work\"\n",
        );
        world.overstore(["up", "middle"]).ok();
        let middle = world.overstore(["url", "middle"]).ok();
        let middle = middle.split("&remount-hook").next().unwrap().trim_end();
        world.write("/tmp/new", "new");
        let add = ["nix-store", "--store", middle, "--add", "/tmp/new"];
        let new = world.nix(add).ok();
        world.write(
            "/etc/overstore/top.toml",
            format!(
                "root = \"/mnt/top\"\nlower-store = \"{}\"\n\
                 upper-layer = \"/mnt/top-upper\"\nworkdir = \"/mnt/top-work\"\n",
                middle.replace("?read-only=true", "%3Fread-only=true")
            ),
        );
        world.overstore(["up", "top"]).ok();
        let before = Snapshot::of(world.path("/mnt/middle-upper"));
        world.overstore(["warm", "top", "--all"]).ok();
        before.assert_unchanged(world.path("/mnt/middle-upper"));
        let rows = |database: &str| world.ok(["sqlite3", "-quote", database, ROWS]);
        let ours = rows("/mnt/top/nix/var/nix/db/db.sqlite");
        assert!(ours.contains(new.trim_end()), "{ours}");
        world.overstore(["warm", "middle", "--all"]).ok();
        // What is copied through two stores is what is copied through one.
        assert_eq!(ours, rows("/mnt/middle/nix/var/nix/db/db.sqlite"));
        assert!(paths.iter().all(|path| ours.contains(path)));
    }
}

/// Nix adds to the same store meanwhile: both end well.
#[test]
fn it_is_safe_beside_nix() {
    for world in World::each() {
        let paths = lower_store(&world);
        let stores = Stores::new(&world, "/mnt/lower?read-only=true");
        let add = |number: usize| {
            let file = format!("/tmp/{number}");
            world.write(&file, number.to_string());
            let url = stores.url("ours");
            let words = ["nix-store", "--store", &url, "--add", &file].map(str::to_owned);
            world.nix(words).spawn()
        };
        let mut children: Vec<_> = (0..8).map(add).collect();
        children.extend((0..4).map(|_| stores.warm(&["--all"]).spawn()));
        for child in children {
            let outcome = crate::support::Outcome::of(child);
            assert!(outcome.status.success(), "{outcome}");
        }
        let database = "/mnt/ours/db/db.sqlite";
        let count = "select count(*) from ValidPaths; pragma foreign_key_check;
                     pragma integrity_check";
        let expected = format!("{}\nok\n", paths.len() + 8);
        assert_eq!(world.ok(["sqlite3", database, count]), expected);
    }
}

/// The warm lines of a description at work in `up`: what is copied, by both versions of Nix.
#[test]
fn up_copies_up_what_the_description_names() {
    for world in World::each() {
        let example = world.example("[warm]\nall = true\nkeep = true");
        let last = "- copy metadata from the lower store\nexample: 9 steps\n";
        assert!(example.command("plan").ok().ends_with(last));
        let up = example.up();
        let line = "+ copy metadata from the lower store: 18 paths copied (20 references, \
                    8 outputs); 0 already present\nexample: is up\n";
        assert!(up.ends_with(line), "{up}");
        // Nix finds the rows, and its collector leaves them.
        example.nix(&["nix-store", "--gc"]).ok();
        let kept = example.nix(&["nix", "path-info", "--all"]).ok();
        assert_eq!(kept.lines().count(), 18, "{kept}");
        assert_eq!(example.run("check").code(), Some(0));

        assert_eq!(example.up(), "example: is up, nothing changed\n");
        example.command("down").ok();
        let again = example.up();
        assert!(again.contains(": 0 paths copied"), "{again}");
    }
}

#[test]
fn up_is_up_when_warming_fails() {
    let Some(world) = World::trixie() else { return };
    let missing = "/nix/store/00000000000000000000000000000000-missing";
    let example = world.example(&format!("[warm]\npaths = [\"{missing}\"]"));
    let up = example.run("up");
    assert_eq!(up.code(), Some(0), "{up}");
    let text = up.stdout();
    for part in [
        "warning [warm-failed] /mnt/example/merged-store/nix/var/nix/db/db.sqlite",
        "not valid in the lower store: 0000",
        "by hand: overstore warm example /nix/store/0",
        "\nexample: is up (1 warning)\n",
    ] {
        assert!(text.contains(part), "{part} in {up}");
    }
    assert_eq!(example.mounts("TARGET").len(), 1);
    // It is tried again, and a description without the mistake mends it, without another mount.
    assert!(example.up().contains("warm-failed"));
    let text = String::from_utf8(world.read(crate::support::Example::CONFIGURATION)).unwrap();
    let hello = example.lower.path("hello-1.0");
    world.write(
        crate::support::Example::CONFIGURATION,
        text.replace(missing, &hello),
    );
    assert!(
        example
            .up()
            .starts_with("+ copy metadata from the lower store: ")
    );
    assert_eq!(example.up(), "example: is up, nothing changed\n");
    // The command that it names says the same.
    let by_hand = world.overstore(["warm", "example", missing]).fails();
    assert!(by_hand.stderr().contains("not valid in the lower store"));
}

/// References that lead in a circle, which no real store has, end in an answer all the same.
#[test]
fn a_circle_of_references_is_gone_through_once() {
    let Some(world) = World::trixie() else { return };
    let paths = lower_store(&world);
    world.ok([
        "sqlite3",
        "/mnt/lower/nix/var/nix/db/db.sqlite",
        "insert or ignore into Refs select a.id, b.id from ValidPaths a, ValidPaths b;
         pragma wal_checkpoint(truncate);",
    ]);
    let stores = Stores::new(&world, "/mnt/lower?read-only=true");
    let said = stores.warm(&[&paths[0]]).ok();
    assert!(
        said.starts_with(&format!("{} paths copied", paths.len())),
        "{said}"
    );
    let all = stores.warm(&["--all", "--keep"]).run();
    assert!(matches!(all.code(), Some(0 | 3)), "{all}");
    let check = "pragma integrity_check; pragma foreign_key_check";
    assert_eq!(
        world.ok(["sqlite3", "/mnt/ours/db/db.sqlite", check]),
        "ok\n"
    );
}

/// Security case W2: what Nix 2.34 could not read later is not copied, and told; nor is what refers to
/// it, and everything else is.
#[test]
fn a_row_that_nix_cannot_read_stops_its_referrers_only() {
    let Some(world) = World::trixie() else { return };
    let lower = world.lower_store("/mnt/lower");
    let bad = lower.path("chain-2");
    let _daemon = world.nix_daemon("/mnt/lower", "/run/lower.socket");
    let sql = |database: &str, sql: &str| world.ok(["sqlite3", database, sql]);
    let below = "/mnt/lower/nix/var/nix/db/db.sqlite";
    let others = sql(
        below,
        &format!(
            "with recursive Bad(id) as (select id from ValidPaths where path = '{bad}'
             union select referrer from Bad join Refs on reference = Bad.id)
             select path from ValidPaths where id not in Bad order by path"
        ),
    );
    assert!(
        others.lines().count() < 17,
        "nothing refers to it: {others}"
    );
    for (column, value, said) in [
        ("sigs", "'cache-1:Ymw= corrupt'", "'corrupt'"),
        ("sigs", "'cache-1:not*base64'", "'cache-1:not*base64'"),
        ("hash", "'sha256:00'", "expected a SHA-256 hash"),
        ("narSize", "-5", "expected a size, found -5"),
        ("ca", "'rubbish'", "expected a content address"),
        ("deriver", "'/etc/passwd'", "expected a path in"),
        ("path", "'/nix/store/short'", "is no store path"),
    ] {
        sql(below, "create table Saved as select * from ValidPaths");
        let damage = format!(
            "update ValidPaths set {column} = {value} where path = '{bad}';
             pragma wal_checkpoint(truncate)"
        );
        sql(below, &damage);
        for source in LOWERS {
            // A real daemon stops at some of these by itself.
            if source.contains("unix") && column != "sigs" {
                continue;
            }
            let stores = Stores::anew(&world, source);
            let warm = stores.warm(&["--all"]).fails();
            assert_eq!(warm.code(), Some(1), "{source}: {warm}");
            let left_out = 18 - others.lines().count();
            let count = format!("{left_out} paths left out");
            let text = warm.stdout();
            assert!(
                text.contains(said) && text.contains(&count),
                "{column}: {warm}"
            );
            let rows = "select path from ValidPaths order by path";
            assert_eq!(sql("/mnt/ours/db/db.sqlite", rows), others, "{source}");
            let dangling = sql("/mnt/ours/db/db.sqlite", "pragma foreign_key_check");
            assert_eq!(dangling, "");
        }
        let restore = "pragma foreign_keys = 0; update ValidPaths set (path, hash, narSize, deriver, sigs, ca) = \
             (select path, hash, narSize, deriver, sigs, ca from Saved s where s.id = ValidPaths.id); \
             drop table Saved";
        sql(below, restore);
    }
}

/// Security case W3: whom it waits for is told while it waits.
#[test]
fn who_waits_for_a_writer_says_so() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.ok(["mkfifo", "/run/statements"]);
    let database = format!("{}/db/db.sqlite", Example::STATE);
    let script = "exec sqlite3 \"$0\" </run/statements";
    let mut writer = world.command(["sh", "-c", script, &database]).spawn();
    let statements = "begin immediate;\\n.shell touch /run/locked\\n";
    let script = format!("exec >/run/statements; printf '{statements}'; exec sleep infinity");
    let mut kept_open = world.command(["sh", "-c", &script]).spawn();
    wait_until("it is locked", || world.path("/run/locked").exists());
    let mut warm = example.command("warm").args(["--all"]).spawn();
    let mut said = String::new();
    let stderr = warm.stderr.take().expect("piped");
    BufReader::new(stderr)
        .read_line(&mut said)
        .expect("it says something");
    assert!(said.starts_with("waiting for "), "{said}");
    for child in [&mut writer, &mut kept_open] {
        child.kill().expect("a child of this test");
        child.wait().expect("a child of this test");
    }
    let outcome = Outcome::of(warm);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

/// Roots that a run made and was killed before it had synced them are synced by the next one, which finds
/// them there.
#[test]
fn roots_that_are_there_are_synced_too() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let keep = || example.command("warm").args(["--all", "--keep"]);
    let gcroots = format!("{}/gcroots", Example::STATE);
    let own = format!("{gcroots}/overstore");
    let of = |directory: &str| {
        let directory = directory.to_owned();
        move |call: &Syscall| {
            call.name == "fsync" && call.paths().any(|path| path == Path::new(&directory))
        }
    };
    let (outcome, trace) = keep().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    for directory in [&gcroots, &own] {
        let synced = trace.nth_calls(of(directory));
        assert!(!synced.is_empty(), "{directory}");
        for (call, nth) in synced {
            crate::sweeps::without_metadata(&example);
            let killed = keep().killed_at(&call, nth);
            assert_eq!(killed.signal(), Some(9), "{killed}");
            assert!(world.path(&own).exists(), "{killed}");
            let (again, trace) = keep().traced();
            assert_eq!(again.code(), Some(0), "{again}");
            let last = trace
                .calls
                .iter()
                .rposition(|call| call.name == "symlinkat");
            let after = trace.calls.iter().rposition(of(&own));
            assert!(after > last, "{last:?} {after:?}");
            assert!(trace.calls.iter().any(of(&gcroots)), "{directory}");
        }
    }
}

/// Holds a command at each of these calls in turn, while something else happens; each time it ends well.
/// Gives how often it got there.
fn held_at_each<'w>(
    points: &[(String, usize)],
    command: &dyn Fn() -> Run<'w>,
    fresh: &dyn Fn(),
    meanwhile: &dyn Fn(),
) -> usize {
    let mut held = 0;
    for (call, nth) in points {
        fresh();
        let ended = match command().held_at(call, *nth) {
            Ok(command) => {
                held += 1;
                meanwhile();
                command.go_on()
            }
            Err(ended) => ended,
        };
        assert_eq!(ended.code(), Some(0), "held at {call} {nth}: {ended}");
    }
    held
}

/// Security case P1: whoever makes roots and whoever removes them have both done it, whatever one of them
/// has seen and the other has removed meanwhile. With b104179 each of these fails.
#[test]
fn roots_are_made_and_removed_at_once() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let keep = || example.command("warm").args(["--all", "--keep"]);
    let forget = || example.command("warm").args(["--forget"]);
    let own = format!("{}/gcroots/overstore", Example::STATE);
    let roots = || world.list(&own).len();
    let below = |call: &Syscall| call.changes().iter().any(|path| path.starts_with(&own));

    forget().ok();
    let (outcome, trace) = keep().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let all = roots();
    let made = trace.nth_calls(|call| call.name == "symlinkat" && below(call));
    assert_eq!(made.len(), all);
    let (outcome, trace) = forget().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let removed = trace.nth_calls(|call| call.name == "unlinkat" && below(call));
    assert_eq!(removed.len(), all + 1);

    // Before the first is made, all is as it was: the directory goes.
    let forgets = || drop(forget().ok());
    let keeps = || drop(keep().ok());
    assert_eq!(held_at_each(&made[..1], &keep, &forgets, &forgets), 1);
    assert_eq!(roots(), all);
    // The first, the last and the directory were removed by somebody else, and made anew.
    let ends = [&removed[..1], &removed[all - 1..]].concat();
    assert_eq!(held_at_each(&ends, &forget, &keeps, &forgets), 3);
    assert!(!world.path(&own).exists());
    assert_eq!(held_at_each(&ends, &forget, &keeps, &keeps), 3);
}

/// Security case R1: what vanishes from a directory of roots while it is read is no root any more. With
/// b104179 each of these fails.
#[test]
fn roots_that_vanish_meanwhile_are_none() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let chain = example.lower.path("chain-3");
    let fresh = || {
        let script = "mkdir -p /tmp/roots/goes; ln -sfn \"$0\" /tmp/roots/stays; \
                      ln -sfn /tmp/roots/stays /tmp/roots/goes/link; ln -sfn stays /tmp/roots/goes-too";
        world.ok(["sh", "-ec", script, &chain]);
    };
    let vanish = || {
        world.ok(["sh", "-c", "rm -r /tmp/roots/goes /tmp/roots/goes-too"]);
    };
    let warm = || {
        example
            .command("warm")
            .args(["--keep", "--roots", "/tmp/roots"])
    };
    fresh();
    // Metadata is copied once only.
    warm().ok();
    let (outcome, trace) = warm().traced();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let goes = |path: &Path| path.to_string_lossy().starts_with("/tmp/roots/goes");
    let looks = ["newfstatat", "openat", "readlinkat"];
    let seen = trace.nth_calls(|call| {
        looks.contains(&call.name.as_str()) && call.paths().any(|path| goes(&path))
    });
    assert!(seen.len() >= 4, "{seen:?}");
    assert_eq!(held_at_each(&seen, &warm, &fresh, &vanish), seen.len());
    assert_eq!(
        world
            .list(format!("{}/gcroots/overstore", Example::STATE))
            .len(),
        1
    );
}
