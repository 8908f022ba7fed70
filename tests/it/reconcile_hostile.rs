//! `overstore reconcile` with an old lower store that somebody has tampered with.

use serde_json::json;

use crate::reconcile::{Exchanged, OLD, Object, objects_named};
use crate::support::{Example, World, base_name};

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
