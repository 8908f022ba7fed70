//! The owner of a lower store that is published.

use super::{LowerStore, Outcome, Run, World};

/// The root of the live store.
pub const LIVE: &str = "/mnt/live";
/// The directory of the publication.
pub const PLACE: &str = "/mnt/publications/main";
/// The live store, as Nix is told to use it.
pub const URL: &str = "local?root=/mnt/live";

/// A live store that Nix goes on using, and its publication.
pub struct Owner<'w> {
    /// Where it is.
    pub world: &'w World,
    /// The objects that it began with.
    pub lower: LowerStore,
}

impl<'w> Owner<'w> {
    /// The description of the publication has `more` lines.
    pub fn new(world: &'w World, more: &str) -> Self {
        let lower = world.lower_store(LIVE);
        world.mkdir("/mnt/publications");
        world.write(
            "/etc/overstore/publications/main.toml",
            format!("root = {LIVE:?}\npublication = {PLACE:?}\n{more}\n"),
        );
        // As a store in use: with a write-ahead log.
        let owner = Self { world, lower };
        owner.add("first");
        owner
    }

    pub fn nix(&self, words: &[&str]) -> Run<'w> {
        self.world.nix(words).args(["--store", URL])
    }

    /// Adds a file to the live store: its store path.
    pub fn add(&self, content: &str) -> String {
        let file = format!("/tmp/{content}");
        self.world.write(&file, content);
        self.nix(&["nix-store", "--add", &file])
            .ok()
            .trim()
            .to_owned()
    }

    /// Makes a root of a store path.
    pub fn root(&self, name: &str, path: &str) {
        let link = format!("{LIVE}/nix/var/nix/gcroots/{name}");
        self.world.ok(["ln", "-s", path, &link]);
    }

    pub fn publish(&self, more: &[&str]) -> Outcome {
        self.world.overstore(["publish", "main"]).args(more).run()
    }

    #[track_caller]
    pub fn published(&self) -> String {
        let outcome = self.publish(&[]);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        outcome.stdout()
    }

    /// The paths that are valid in a generation.
    pub fn rows(&self, generation: &str) -> Vec<String> {
        rows(
            self.world,
            &format!("{PLACE}/{generation}/db/db.sqlite?immutable=1"),
        )
    }

    pub fn collect(&self) {
        self.nix(&["nix-store", "--gc"]).ok();
    }

    pub fn has(&self, path: &str) -> bool {
        self.world
            .path(format!("{LIVE}{path}"))
            .symlink_metadata()
            .is_ok()
    }

    /// Describes the store `above`, over the publication.
    pub fn describe_above(&self) {
        self.world.write(
            "/etc/overstore/above.toml",
            format!(
                "root = \"/mnt/above/merged\"\nupper-layer = \"/mnt/above/upper\"\n\
                 workdir = \"/mnt/above/work\"\n[lower]\npublication = {PLACE:?}\n\
                 real = \"{LIVE}/nix/store\"\n"
            ),
        );
        self.world.mkdir("/mnt/above");
    }

    /// A description of a store over a generation.
    pub fn consumer(&self, generation: &str) -> String {
        self.world.write(
            "/etc/overstore/above.toml",
            format!(
                "root = \"/mnt/above/merged\"\nlower-store = \"local\"\n\
                 upper-layer = \"/mnt/above/upper\"\nworkdir = \"/mnt/above/work\"\n\
                 [lower]\nreal = \"{LIVE}/nix/store\"\nstate = \"{PLACE}/{generation}\"\n\
                 read-only = true\n"
            ),
        );
        self.world.mkdir("/mnt/above");
        self.world.overstore(["up", "above"]).ok();
        self.world
            .overstore(["url", "above"])
            .ok()
            .trim()
            .to_owned()
    }
}

/// The paths that are valid in a database.
pub fn rows(world: &World, database: &str) -> Vec<String> {
    let query = "select path from ValidPaths order by path";
    let rows = world.ok(["sqlite3", "-readonly", &format!("file:{database}"), query]);
    rows.lines().map(str::to_owned).collect()
}
