//! What `overstore reconcile` does to the rows that belong to a path: what it refers to, what it derives.

use std::collections::BTreeSet;

use serde_json::json;

use crate::reconcile::{Exchanged, OLD, Object, ROOT, each_line, objects_named};
use crate::support::{Example, World, base_name};

/// The merged store's root.
const UPPER: &str = "/mnt/example/merged-store";

/// A path that is another one below, whose new references the lower store does not have: the old
/// object is carried, with the row that it had.
#[test]
fn what_lacks_references_below_is_carried() {
    for world in World::each() {
        let object = Object::named;
        let objects = vec![
            object("needed").old(0).now(0),
            object("without-object").now(0),
            object("other")
                .old(0)
                .now(1)
                .rooted()
                .refers_by_version(&[0], &[0, 1]),
            // The same, which nothing needs.
            object("unneeded")
                .old(0)
                .now(1)
                .refers_by_version(&[], &[1]),
            object("mine").above(0).refers_to(&[2]),
        ];
        let store = Exchanged::new(&world, objects);
        let without = format!(
            "{}/{}",
            Example::LOWER,
            base_name(&store.path("without-object"))
        );
        world.ok(["rm", "-r", &without]);
        let content = store.content(&format!("{OLD}/nix/store"), &store.path("other"));
        let says = format!(
            "select hash, narSize, (select group_concat(reference) from Refs where referrer = id) \
             from ValidPaths where path = '{}'",
            store.path("other")
        );
        let before = store.sql(UPPER, &says);
        let planned = store.reconcile(&["--dry-run", "--old", OLD], 0);
        let done = store.reconcile(&["--old", OLD], 0);
        for report in [&planned, &done] {
            assert_eq!(objects_named(report, "carried"), ["other"]);
            assert_eq!(report["rows-taken"], json!([]));
            assert_eq!(report["rows-dropped"], json!(store.paths(&["unneeded"])));
        }
        assert_eq!(store.sql(UPPER, &says), before);
        assert_eq!(store.merged(&store.path("other")), content);
        world.ok(["rm", "-rf", OLD]);
        store.assert_sound();
        let survive = ["needed", "other", "mine"].map(|name| store.path(name));
        store.build_on(&BTreeSet::from(survive));
    }
}

/// Derivations know their outputs: with the row that stays, is described anew, is carried, or whose
/// copy goes. Those of a row that goes, go.
#[test]
fn outputs_of_derivations_follow_their_paths() {
    for world in World::each() {
        let store = Exchanged::new(&world, each_line());
        let instantiate = |names: &[&str], url: &str| -> Vec<String> {
            let one = |name: &&str| {
                let expression = format!(
                    "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
                     outputs = [ \"out\" \"dev\" ]; }}"
                );
                let words = ["nix-instantiate", "--store", url, "-E", &expression];
                let printed = world.nix(words).ok();
                let path = printed.trim().split('!').next().expect("a path");
                path.to_owned()
            };
            names.iter().map(one).collect()
        };
        let old = instantiate(&["stays", "described", "carried", "dropped"], OLD);
        let [stays, described, carried, dropped] = &old[..] else {
            panic!("{old:?}");
        };
        store.sql(OLD, "pragma wal_checkpoint(truncate)");
        // The store is over the old one once more, and takes them from there.
        world.ok(["mv", ROOT, "/mnt/next"]);
        world.ok(["mv", OLD, ROOT]);
        store.example.up();
        world.overstore(["warm", "example"]).args(&old).ok();
        let above = instantiate(&["copy", "own"], &store.url);
        store.example.command("down").ok();
        world.ok(["mv", ROOT, OLD]);
        world.ok(["mv", "/mnt/next", ROOT]);
        instantiate(&["stays", "described", "copy"], ROOT);
        let describe = format!(
            "update ValidPaths set sigs = 'key:c2lnbmF0dXJl' where path = '{described}'; \
             pragma wal_checkpoint(truncate)"
        );
        store.sql(ROOT, &describe);
        let link = format!("{}/gcroots/carried", Example::STATE);
        world.ok(["ln", "-s", carried, &link]);

        let outputs = || {
            let sql = "select v.path, o.id, o.path from DerivationOutputs o join ValidPaths v on v.id = drv \
                       where v.path like '%.drv' order by 1, 2";
            let rows = store.sql(UPPER, sql);
            rows.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let mut expected = outputs();
        let of = |path: &String| expected.iter().filter(|row| row.starts_with(path)).count();
        for path in old.iter().chain(&above) {
            assert_eq!(of(path), 2, "{path}: {expected:?}");
        }
        expected.retain(|row| !row.starts_with(dropped));
        let done = store.reconcile(&["--old", OLD], 0);
        let has = |list: &str, path: &String| done[list].to_string().contains(path);
        assert!(has("carried", carried), "{done}");
        assert!(has("rows-dropped", dropped), "{done}");
        assert!(has("copies-removed", &above[0]), "{done}");
        assert!(!has("copies-removed", &above[1]), "{done}");
        let signed = format!("select sigs from ValidPaths where path = '{described}'");
        assert_eq!(store.sql(UPPER, &signed), "key:c2lnbmF0dXJl\n");
        assert_eq!(outputs(), expected);
        // Nix knows them.
        for path in [stays, described, carried, &above[0]] {
            let words = [
                "nix-store",
                "--query",
                "--outputs",
                path,
                "--store",
                &store.url,
            ];
            assert_eq!(world.nix(words).ok().lines().count(), 2, "{path}");
        }
        world.ok(["rm", "-rf", OLD]);
        store.assert_sound();
    }
}
