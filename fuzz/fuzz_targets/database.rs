//! A lower database with hostile contents, read, and copied into an upper database of Nix.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use overstore::testing::compare::Identity;
use overstore::testing::lower::SqliteSource;
use overstore::testing::lower::{LowerError, Source};
use overstore::testing::nix::StoreDirectory;
use overstore::testing::nix::StorePath;
use overstore::testing::warm::Wanted;
use overstore_fuzz::{Image, NAMES, Scratch};

static SCRATCH: LazyLock<Scratch> = LazyLock::new(Scratch::new);

fn read() -> Result<(), LowerError> {
    let database = SCRATCH.path("lower/nix/var/nix/db/db.sqlite");
    let mut source = SqliteSource::open(&database, StoreDirectory::new(b"/nix/store"))?;
    let mut all = Vec::new();
    let listed = source.all_paths(&mut |path| {
        assert!(!path.as_str().contains('/'));
        all.push(path);
        Ok(())
    });
    let _ = source.tops(&mut |_| Ok(()));
    for name in NAMES {
        let path = StorePath::parse(name.as_bytes()).expect("a store path");
        source.ask(&path)?;
        let _ = source.answer();
        let _ = source.referrers(&path, 5);
    }
    let _ = Identity::of(&SCRATCH.store, None);
    listed?;
    source.confirm()
}

fuzz_target!(|input: (Image, bool)| {
    let Some(files) = input.0.files() else { return };
    SCRATCH.database("lower/nix/var/nix", Some(&files));
    let _ = read();
    SCRATCH.database("state", None);
    let paths = NAMES.map(|name| StorePath::parse(name.as_bytes()).expect("a store path"));
    let wanted = match input.1 {
        true => Wanted::All,
        false => Wanted::ValidClosures(&paths),
    };
    let _ = SCRATCH.warm(wanted);
    SCRATCH.expect_whole();
});
