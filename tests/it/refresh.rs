//! `overstore refresh`, and stores over a publication: on the real Nix.

use crate::support::owner::{LIVE, Owner, PLACE};
use crate::support::{Run, Snapshot, World};

/// The description of the store over the publication.
const ABOVE: &str = "/etc/overstore/above.toml";
/// The link of its own.
const LINK: &str = "/mnt/above/merged/nix/var/nix/overstore/generation";

/// A publication, and a store over it.
struct Fleet<'w> {
    world: &'w World,
    owner: Owner<'w>,
}

impl<'w> Fleet<'w> {
    /// One generation is published; `more` lines are in the store's description.
    fn new(world: &'w World, more: &str) -> Self {
        let owner = Owner::new(world, "");
        owner.root("shell", &owner.lower.path("mksh-static"));
        owner.root("chain", &owner.lower.path("chain-3"));
        owner.published();
        world.write(
            ABOVE,
            format!(
                "root = \"/mnt/above/merged\"\nupper-layer = \"/mnt/above/upper\"\n\
                 workdir = \"/mnt/above/work\"\n{more}\n[lower]\npublication = {PLACE:?}\n\
                 real = \"{LIVE}/nix/store\"\n"
            ),
        );
        world.mkdir("/mnt/above");
        Self { world, owner }
    }

    fn overstore(&self, command: &str) -> Run<'w> {
        self.world.overstore([command, "above"])
    }

    fn up(&self) -> String {
        self.overstore("up").ok()
    }

    /// A command of Nix on the store above.
    fn nix(&self, words: &[&str]) -> Run<'w> {
        let url = self.overstore("url").ok();
        self.world.nix(words).args(["--store", url.trim()])
    }

    /// The codes that `check` finds.
    fn codes(&self) -> Vec<String> {
        let said = self.overstore("check").args(["--json"]).run().stdout();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let findings = said["findings"].as_array().unwrap();
        let codes = findings.iter().map(|it| it["code"].as_str().unwrap());
        codes.map(str::to_owned).collect()
    }

    /// Where the store's own link leads.
    fn link(&self) -> String {
        self.world.ok(["readlink", LINK]).trim().to_owned()
    }
}

fn generation(number: u64) -> String {
    format!("{PLACE}/generations/{number}")
}

/// `up` links the current generation once: afterwards the owner moves nobody, and nothing is written
/// below.
#[test]
fn a_store_reads_one_generation_through_a_link_of_its_own() {
    for world in World::each() {
        let fleet = Fleet::new(&world, "");
        let plan = fleet.overstore("plan").ok();
        assert!(plan.contains(&format!("link {LINK} to")), "{plan}");
        let before = Snapshot::of(world.path("/mnt/publications"));
        fleet.up();
        assert_eq!(fleet.link(), generation(1));
        let url = fleet.overstore("url").ok();
        fleet.owner.lower.add_and_build(&world, url.trim());
        let check = fleet.overstore("check").args(["--nix"]).run();
        assert!(check.stdout().ends_with("above: as described\n"), "{check}");
        before.assert_unchanged(world.path("/mnt/publications"));
        fleet.overstore("warm").args(["--all"]).ok();

        let added = fleet.owner.add("second");
        fleet.owner.root("second", &added);
        fleet.owner.published();
        fleet.up();
        assert_eq!(fleet.link(), generation(1));
        fleet.overstore("down").ok();
        fleet.up();
        assert_eq!(fleet.link(), generation(1), "whatever is needed is there");
        fleet
            .nix(&["nix-store", "--check-validity", &added])
            .fails();
    }
}

/// What keeps the store from reading a generation is told, and what `up` can make it makes.
#[test]
fn what_is_wrong_with_a_publication_is_told() {
    let Some(world) = World::trixie() else { return };
    let fleet = Fleet::new(&world, "");
    let away = || world.ok(["mv", PLACE, "/mnt/away"]);
    let back = || world.ok(["mv", "/mnt/away", PLACE]);
    away();
    let up = fleet.overstore("up").run();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(
        up.stdout().contains("error [publication-unreadable]"),
        "{up}"
    );
    back();
    fleet.up();
    away();
    assert_eq!(fleet.codes(), ["publication-unreadable"]);
    back();
    world.ok(["mv", &format!("{PLACE}/current"), "/mnt/current"]);
    let check = fleet.overstore("check").run();
    assert_eq!(check.code(), Some(0), "the generation is there: {check}");
    assert!(
        check.stdout().contains("warning [publication-unreadable]"),
        "{check}"
    );
    world.ok(["mv", "/mnt/current", &format!("{PLACE}/current")]);

    // What was lost `up` makes, and nothing is in the way of that but somebody's.
    world.ok(["rm", LINK]);
    assert_eq!(fleet.codes(), ["generation-unset"]);
    assert!(fleet.up().contains("link "), "the link");
    world.ok(["rm", LINK]);
    world.mkdir(LINK);
    let up = fleet.overstore("up").run();
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(up.stdout().contains("error [generation-unset]"), "{up}");
    world.ok(["mv", "-n", "--", LINK, "/mnt/above"]);
    fleet.up();
    world.ok(["ln", "-sfn", "/mnt/other/generations/1", LINK]);
    assert_eq!(fleet.codes(), ["generation-unset"]);
}
