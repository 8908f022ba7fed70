//! Seeded stores of any size that look like real ones, to be lower stores of tests and benchmarks.
//!
//! ```ignore
//! let store = Recipe { paths: 1_000_000, ..Recipe::default() }.cached()?;
//! ```
//!
//! The same recipe always makes the same store. What is realistic about it:
//! - the database: Nix's schema, page size and journal mode; every column in Nix's normal form;
//!   checkpointed as a publisher has to leave it. Real Nix opens it;
//! - the references: about ten a path, a fifth of the paths without any, a few paths with hundreds;
//!   half of them to a few paths that much of the store needs (glibc, bash), half to neighbours; a quarter of the
//!   programs refer to themselves; otherwise no cycles, and each path comes after what it needs;
//! - names, several outputs, NAR sizes, times, signatures and content addresses;
//! - with `derivations`: a `.drv` for every program and every fetched source, with the store paths,
//!   output paths and hashes that Nix computes for them, so that Nix accepts them;
//! - with `objects`: a name in the store directory for every path. Derivations are real files. Of
//!   the others, one in 64 is an empty directory; the rest are hard links to a few files, because a
//!   million inodes and directory blocks would cost gigabytes and show nothing more of programs that
//!   look names up. NAR hashes and sizes of these are made up: they do not fit what is there.

mod content;
mod database;
mod objects;
mod packages;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use database::Database;
use objects::Objects;
use packages::Packages;

/// Changes with what a recipe makes: part of the name in the cache.
const VERSION: u32 = 1;

/// The store directory as it is named in store paths.
const STORE: &str = "/nix/store";

/// The result of making a store, which can fail in the file system or in SQLite.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What store to make.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Another seed makes another store of the same kind.
    pub seed: u64,
    /// How many store paths.
    pub paths: u32,
    /// Whether derivations are among them, as on the machine that built them, or only their outputs,
    /// as where they were substituted.
    pub derivations: bool,
    /// Whether the store directory has the objects, or nothing but `.links`.
    pub objects: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            paths: 1000,
            derivations: false,
            objects: true,
        }
    }
}

/// One store path with everything about it.
struct Row {
    /// Its base name, `HASH-NAME`.
    base_name: String,
    nar_hash: [u8; 32],
    /// Seconds since 1970.
    registration_time: i64,
    /// The base name of its derivation.
    deriver: Option<String>,
    nar_size: u64,
    /// Whether it was built here.
    ultimate: bool,
    signature: Option<String>,
    content_address: Option<String>,
    /// Numbers of the rows it refers to, ascending. The first row is 1.
    references: Vec<u32>,
    /// Of a derivation: its outputs' names and base names.
    outputs: Vec<(&'static str, String)>,
    /// What its file holds, if that matters.
    content: Option<String>,
}

impl Recipe {
    /// Makes the store below `root`, which has to exist: `nix/store` and `nix/var/nix`.
    ///
    /// # Errors
    /// When something cannot be made; there may be parts of it then.
    pub fn make(&self, root: &Path) -> Result<()> {
        let (real, state) = (root.join("nix/store"), root.join("nix/var/nix"));
        let make = |path: &Path, mode| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
        };
        for directory in ["db", "gcroots/per-user", "profiles/per-user", "temproots"] {
            make(&state.join(directory), 0o755)?;
        }
        make(&real.join(".links"), 0o755)?;
        fs::write(state.join("db/schema"), "10")?;
        // Nix would make these, even in a store that it is told to take as read-only.
        for (name, size) in [("big-lock", 0), ("reserved", 8 << 20)] {
            let path = state.join("db").join(name);
            let file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.set_len(size)?;
        }

        let mut objects = self.objects.then(|| Objects::new(&real)).transpose()?;
        let mut database = Database::create(&state.join("db/db.sqlite"))?;
        Packages::new(self).generate(&mut |row| {
            if let Some(objects) = &mut objects {
                objects.add(&row)?;
            }
            Ok(database.add(&row)?)
        })?;
        database.finish()?;
        Ok(())
    }

    /// Makes the store in the cache, or finds it there: `$OVERSTORE_TEST_CACHE/stores`
    /// (`target/test-cache`). It is shared: only to be read.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub fn cached(&self) -> Result<PathBuf> {
        let cache = cache()?.join("stores");
        fs::create_dir_all(&cache)?;
        let name = self.name();
        let (store, partial) = (cache.join(&name), cache.join(format!("{name}.partial")));
        // Whoever makes the same at the same time waits here.
        let lock = File::create(cache.join(format!("{name}.lock")))?;
        lock.lock()?;
        if !store.exists() {
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir(&partial)?;
            self.make(&partial)?;
            fs::rename(&partial, &store)?;
        }
        Ok(store)
    }

    /// The name of the store in the cache.
    pub fn name(&self) -> String {
        let Self {
            seed,
            paths,
            derivations,
            objects,
        } = self;
        let part = |has, text| if has { text } else { "" };
        format!(
            "v{VERSION}-seed{seed}-{paths}{}{}",
            part(*derivations, "-derivations"),
            part(*objects, "-objects")
        )
    }
}

/// Where tests and benchmarks keep what is dear to make, as `tests/trees` does.
///
/// # Errors
/// When it cannot be made.
pub fn cache() -> io::Result<PathBuf> {
    let cache = std::env::var_os("OVERSTORE_TEST_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-cache"),
        PathBuf::from,
    );
    fs::create_dir_all(&cache)?;
    cache.canonicalize()
}
