//! A lower store of another user, who has root read it: what that user may not read is neither read
//! nor shown, and what is wrong with the store is told as of any other.

use crate::support::{Example, World};

/// The lower store's database directory.
const DB: &str = "/mnt/example/store-a/nix/var/nix/db";

/// The worked example with a lower store that is Alice's, and secrets of root's.
fn example_over_alices(world: &World) -> Example<'_> {
    let example = world.example("");
    world.ok([
        "sh",
        "-c",
        "umask 77; mkdir /root/private; echo 'the secret' >/root/secret; \
        echo 'the secret' >/root/private/0000000000000000000000000000000a-secret",
    ]);
    world.ok(["cp", &format!("{DB}/db.sqlite"), "/root/secret.sqlite"]);
    world.ok([
        "sqlite3",
        "/root/secret.sqlite",
        "update ValidPaths set path = path || '-the-secret'; pragma wal_checkpoint(truncate)",
    ]);
    world.ok([
        "sh",
        "-c",
        "rm -f /root/secret.sqlite-*; chmod 600 /root/secret.sqlite",
    ]);
    world.ok(["chown", "-R", "alice", "/mnt/example/store-a"]);
    example
}

/// Security case K1.
#[test]
fn links_of_another_user_do_not_lead_root_out_of_the_lower_store() {
    let links = [
        (format!("{DB}/schema"), "/root/secret"),
        (format!("{DB}/db.sqlite"), "/root/secret.sqlite"),
        (format!("{DB}/db.sqlite-wal"), "/root/secret"),
        (format!("{DB}/db.sqlite-journal"), "/root/secret"),
        (format!("{DB}/reserved"), "/root/secret"),
        (DB.to_owned(), "/root/private"),
        ("/mnt/example/store-a/nix/store".to_owned(), "/root/private"),
        ("/mnt/example/store-a/nix".to_owned(), "/root/private"),
    ];
    for (at, target) in links {
        let Some(world) = World::trixie() else { return };
        let example = example_over_alices(&world);
        let link = format!("rm -rf {at}; ln -s {target} {at}; chown -h alice {at}");
        world.ok(["sh", "-c", &link]);
        for arguments in [
            &["check", "--lower", "example"][..],
            &["up", "example"],
            &["check", "--lower", "--contents", "example"],
            &["warm", "--all", "example"],
            &["status", "--sizes", "example"],
            &["exec", "example", "--", "ls", Example::REAL],
        ] {
            let outcome = world.overstore(arguments).run();
            let said = format!("{}{}", outcome.stdout(), outcome.stderr());
            assert!(
                !said.contains("the secret") && !said.contains("-secret"),
                "{at}: {outcome}"
            );
        }
        let there = world.run(["ls", Example::REAL]).stdout();
        assert!(!there.contains("secret"), "{at}: {there}");
        let copied = "/mnt/example/merged-store/nix/var/nix/db/db.sqlite";
        let rows = world
            .run(["sqlite3", copied, "select path from ValidPaths"])
            .stdout();
        assert!(!rows.contains("secret"), "{at}: {rows}");
        // The schema and the reserved file are looked at and not needed.
        if !at.ends_with("reserved") && !at.ends_with("schema") {
            let check = example.run("check").stdout();
            let said =
                format!("{target} belongs to user 0, and a symbolic link of user 1000 leads there");
            assert!(check.contains(&said), "{at}: {check}");
        }
    }
}

/// Links that stay with what is Alice's own are hers to make.
#[test]
fn links_of_another_user_lead_to_what_is_theirs() {
    let Some(world) = World::trixie() else { return };
    let example = example_over_alices(&world);
    world.ok([
        "sh",
        "-c",
        "cd /mnt/example/store-a/nix; mv var elsewhere; ln -s elsewhere var; \
        mv store objects; ln -s /mnt/example/store-a/nix/objects store; chown -h alice var store",
    ]);
    // What Nix says of them is another matter.
    for command in ["up", "check"] {
        let outcome = example.run(command);
        assert_eq!(outcome.stdout().matches("error [").count(), 1, "{outcome}");
        assert!(outcome.stdout().contains("lower-path-symlink"), "{outcome}");
    }
    let warmed = world.overstore(["warm", "--all", "example"]).ok();
    assert!(warmed.starts_with("18 paths copied"), "{warmed}");
}

/// Security case K2.
#[test]
fn what_is_missing_in_a_lower_store_of_another_user_is_told_as_missing() {
    let Some(world) = World::trixie() else { return };
    let example = example_over_alices(&world);
    example.up();
    world.ok([
        "rm",
        "-rf",
        "/mnt/example/store-a/nix/var/nix/temproots",
        "/mnt/example/store-a/nix/store/.links",
    ]);
    let check = example.run("check");
    let said = check.stdout();
    assert_eq!(
        said.matches("[lower-directory-missing]").count(),
        2,
        "{check}"
    );
    assert!(
        !said.contains("not permitted") && !said.contains("not-checked"),
        "{check}"
    );
    world.ok(["rm", "-rf", DB]);
    let check = example.run("check");
    assert!(
        check.stdout().contains("[lower-database-missing]"),
        "{check}"
    );
    assert!(!check.stdout().contains("not permitted"), "{check}");
}

/// Security case W2: what Nix would stop at once it was copied is found before, and is told of no other
/// row.
#[test]
fn rows_that_nix_would_stop_at_are_found_before_they_are_copied() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let lower = format!("{}/nix/var/nix/db/db.sqlite", example.lower.root);
    world.ok(["cp", &lower, "/tmp/whole.sqlite"]);
    let codes = || {
        let check = world.overstore(["check", "--lower", "--json", "example"]);
        let check = check.run();
        let report: serde_json::Value = serde_json::from_slice(&check.out).expect("JSON");
        let findings = report["findings"].as_array().expect("a list").iter();
        let code = |it: &serde_json::Value| it["code"].as_str().expect("a code").to_owned();
        findings.map(code).collect::<Vec<_>>()
    };
    assert_eq!(codes(), [""; 0]);
    for change in [
        "sigs = 'no-colon'",
        "sigs = 'key:AAAA no-colon'",
        "path = '/nix/store/short'",
        "path = '/nix/store/../../etc/passwd'",
        "path = path || '/below'",
        "path = path || char(10)",
        "path = x'00'",
        "hash = 'sha256:00'",
        "hash = 'md4:' || substr(hash, 8)",
        "hash = ''",
        "hash = 7",
        "narSize = -1",
        "narSize = 'many'",
        "registrationTime = 'once'",
        "deriver = 'nothing'",
        "ca = 'perhaps'",
    ] {
        world.ok(["cp", "/tmp/whole.sqlite", &lower]);
        let sql = format!("update ValidPaths set {change} where id = 2");
        world.ok(["sqlite3", &lower, &sql]);
        world.ok(["sqlite3", &lower, "pragma wal_checkpoint(truncate)"]);
        let found = codes();
        assert_eq!(found[0], "lower-row-unreadable", "{change}: {found:?}");
        // The oldest paths are what the lower store is known by.
        let others = found[1..].iter();
        let others: Vec<_> = others
            .filter(|code| **code != "lower-store-changed")
            .collect();
        assert!(others.is_empty(), "{change}: {others:?}");
    }
}
