//! An upper database with hostile contents, looked at, and copied into.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use overstore::testing::check;
use overstore::testing::compare;
use overstore::testing::counts::Counts;
use overstore::testing::linux::System;
use overstore::testing::nix::PathSet;
use overstore::testing::observe;
use overstore::testing::observe::Depth;
use overstore::testing::warm::Wanted;
use overstore_fuzz::{Image, Scratch, path};
use rusqlite::Connection;

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| {
    let scratch = Scratch::new();
    scratch.database("lower/nix/var/nix", None);
    let database = scratch.path("lower/nix/var/nix/db/db.sqlite");
    let lower = Connection::open(&database).expect("a database");
    for id in [1, 2, 4] {
        lower
            .execute(
                "insert into ValidPaths (id, path, hash, registrationTime) values (?, ?, ?, 1)",
                (id, path(id - 1), format!("sha256:{}", "0f".repeat(32))),
            )
            .expect("a row");
    }
    lower
        .execute_batch("insert into Refs values (1, 2), (1, 1), (4, 2)")
        .expect("rows");
    drop(lower);
    let bytes = std::fs::read(&database).expect("a file");
    scratch.write("lower/nix/var/nix/db/db.sqlite", &bytes);
    scratch
});

static SYSTEM: LazyLock<System> = LazyLock::new(|| System::here().expect("this system"));

fuzz_target!(|image: Image| {
    let Some(files) = image.files() else { return };
    SCRATCH.database("state", Some(&files));
    let depth = Depth::Check { lower_names: true };
    let observed = observe::observe(&SYSTEM, &SCRATCH.store, depth).expect("an observation");
    for finding in check::check(&SCRATCH.store, &observed) {
        assert!(!finding.actual.contains('\x1b'), "{finding:?}");
    }
    if let Ok(across) = compare::across(&SCRATCH.store, &PathSet::default()) {
        check::compare::findings(&SCRATCH.store, &across);
    }
    let _ = compare::contents(&SCRATCH.store, true, &Counts::default());
    SCRATCH.database("state", Some(&files));
    let _ = SCRATCH.warm(Wanted::All);
});
