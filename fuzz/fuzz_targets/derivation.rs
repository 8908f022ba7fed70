//! A derivation that is not one: its outputs are read when its metadata is copied.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use overstore::testing::warm::Wanted;
use overstore_fuzz::{NAMES, Scratch, path};
use rusqlite::Connection;

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| {
    let scratch = Scratch::new();
    scratch.database("lower/nix/var/nix", None);
    let database = scratch.path("lower/nix/var/nix/db/db.sqlite");
    let lower = Connection::open(&database).expect("a database");
    lower
        .execute(
            "insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)",
            (path(2), format!("sha256:{}", "0f".repeat(32))),
        )
        .expect("a row");
    drop(lower);
    let bytes = std::fs::read(&database).expect("a file");
    scratch.write("lower/nix/var/nix/db/db.sqlite", &bytes);
    scratch
});

fuzz_target!(|text: &[u8]| {
    SCRATCH.write(&format!("lower/nix/store/{}", NAMES[2]), text);
    SCRATCH.database("state", None);
    if SCRATCH.warm(Wanted::All).is_ok() {
        SCRATCH.expect_whole();
    }
});
