//! The worked example of the manual, in a World.

use super::{LowerStore, Outcome, Run, World};

/// The store `example`: the fixture's lower store in `/mnt/example/store-a`, everything else to be
/// made by `overstore up`.
pub struct Example<'w> {
    /// Where it is.
    pub world: &'w World,
    /// The lower store.
    pub lower: LowerStore,
}

impl Example<'_> {
    /// The configuration file.
    pub const CONFIGURATION: &'static str = "/etc/overstore/example.toml";
    /// The merged store directory.
    pub const REAL: &'static str = "/mnt/example/merged-store/nix/store";
    /// The state directory.
    pub const STATE: &'static str = "/mnt/example/merged-store/nix/var/nix";
    /// The lower store directory.
    pub const LOWER: &'static str = "/mnt/example/store-a/nix/store";
    /// The upper layer.
    pub const UPPER: &'static str = "/mnt/example/store-b";
    /// The work directory.
    pub const WORKDIR: &'static str = "/mnt/example/workdir";
}

impl World {
    /// Unpacks the lower store and writes the four lines of the worked example, the lower store
    /// read-only, and `more` lines.
    pub fn example(&self, more: &str) -> Example<'_> {
        let lower = self.lower_store("/mnt/example/store-a");
        self.write(
            Example::CONFIGURATION,
            format!(
                "root = \"/mnt/example/merged-store\"\n\
                 lower-store = \"/mnt/example/store-a?read-only=true\"\n\
                 upper-layer = \"/mnt/example/store-b\"\n\
                 workdir = \"/mnt/example/workdir\"\n\
                 {more}\n"
            ),
        );
        Example { world: self, lower }
    }
}

impl<'w> Example<'w> {
    /// `overstore COMMAND example`.
    pub fn run(&self, command: &str) -> Outcome {
        self.command(command).run()
    }

    /// `overstore COMMAND example`, to be changed and run.
    pub fn command(&self, command: &str) -> Run<'w> {
        self.world.overstore([command, "example"])
    }

    /// `overstore up example`, which has to succeed.
    #[track_caller]
    pub fn up(&self) -> String {
        self.command("up").ok()
    }

    /// The mounts at the merged store directory, topmost last, as `findmnt` prints these columns.
    pub fn mounts(&self, columns: &str) -> Vec<String> {
        let found = self.world.run([
            "findmnt",
            "--noheadings",
            "--list",
            "--output",
            columns,
            Self::REAL,
        ]);
        found.stdout().lines().map(str::to_owned).collect()
    }

    /// A command of Nix on the store.
    pub fn nix(&self, words: &[&str]) -> Run<'w> {
        let url = self.command("url").ok();
        self.world.nix(words).args(["--store", url.trim()])
    }
}
