//! The small real lower store of `fixtures/`.

use std::fs;
use std::path::Path;

use super::World;

/// The lower store of `fixtures/lower-store`, unpacked in a [`World`]. Its README says what is in it.
pub struct LowerStore {
    /// Nix's `root` for it.
    pub root: String,
    names: Vec<String>,
}

impl World {
    /// Unpacks the lower store at the directory `root`, which is made. It belongs to root, also where
    /// `root` is `/`, which makes it the system's own.
    pub fn lower_store(&self, root: &str) -> LowerStore {
        let archive =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lower-store/lower-store.tar.xz");
        let archive = fs::read(&archive).unwrap_or_else(|error| panic!("{archive:?}: {error}"));
        self.mkdir(root);
        self.command([
            "tar",
            "--extract",
            "--xz",
            "--same-owner",
            "--directory",
            root,
        ])
        .stdin(archive)
        .ok();
        let names = self.list(Path::new(root).join("nix/store"));
        let names = names
            .into_iter()
            .map(|name| name.into_string().expect("store paths are ASCII"));
        LowerStore {
            root: root.to_owned(),
            names: names.collect(),
        }
    }
}

impl LowerStore {
    /// The store path (`/nix/store/HASH-NAME`) of the store object with this name.
    pub fn path(&self, name: &str) -> String {
        let object = self
            .names
            .iter()
            .find(|object| object.get(33..) == Some(name));
        format!(
            "/nix/store/{}",
            object.unwrap_or_else(|| panic!("the fixture has no {name}"))
        )
    }

    /// All store paths, sorted.
    pub fn paths(&self) -> Vec<String> {
        let objects = self.names.iter().filter(|name| *name != ".links");
        objects.map(|name| format!("/nix/store/{name}")).collect()
    }

    /// Adds a file to the store at `url`, which has this one below it, and builds with this one's shell
    /// as the builder, in the sandbox. Gives the two new store paths.
    pub fn add_and_build(&self, world: &World, url: &str) -> [String; 2] {
        world.write("/tmp/added.txt", "something new\n");
        let expression = format!(
            r#"derivation {{
                name = "built";
                system = "x86_64-linux";
                builder = builtins.storePath "{}" + "/bin/mksh";
                args = [ "-c" "print {} >$out" ];
            }}"#,
            self.path("mksh-static"),
            self.path("chain-3")
        );
        world.write("/tmp/built.nix", expression);
        let added = world.nix(["nix-store", "--add", "/tmp/added.txt"]);
        let built = world.nix(["nix-build", "--no-out-link", "/tmp/built.nix"]);
        [added, built].map(|command| command.args(["--store", url]).ok().trim().to_owned())
    }
}
