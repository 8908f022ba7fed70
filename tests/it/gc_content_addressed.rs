//! Content-addressed derivations: what Nix keeps for them is in its realisations, and `overstore gc`
//! leaves what Nix's own collector leaves, realisations too.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::gc_like_nix::{KEEP, Random};
use crate::support::{Example, FEATURES, Run, World, base_name};

/// Derivations below and above.
const DERIVATIONS: [usize; 2] = [4, 9];

/// A store with the results of real builds.
struct Built<'w> {
    world: &'w World,
    url: String,
    shell: String,
    random: Random,
    /// Derivations and their outputs.
    paths: Vec<String>,
    /// Those of the lower store, as Nix's language has them.
    expression: String,
}

impl<'w> Built<'w> {
    fn new(world: &'w World, seed: u64) -> Self {
        let example = world.example("[parameters]\npath-info-cache-size = 0");
        let mut store = Self {
            world,
            url: example.lower.root.clone(),
            shell: example.lower.path("mksh-static"),
            random: Random::new(seed),
            paths: Vec::new(),
            expression: String::new(),
        };
        store.build(0);
        let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
        world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
        example.up();
        store.url = example.run("url").stdout().trim().to_owned();
        store.build(1);
        for number in 0..4 {
            let target = store.random.pick(&store.paths).clone();
            let link = format!("{}/gcroots/r{number}", Example::STATE);
            world.ok(["ln", "-s", &target, &link]);
        }
        example.run("down");
        for part in [Example::UPPER, Example::STATE] {
            world.ok(["cp", "-a", part, &format!("{part}.before")]);
        }
        store
    }

    fn nix(&self, words: &[&str]) -> Run<'w> {
        let run = self.world.command(words).args(["--store", &self.url]);
        run.env("NIX_CONFIG", format!("{FEATURES} ca-derivations"))
    }

    /// Builds derivations, most of them content-addressed, with what was built before in the same
    /// layer as inputs: with one whose realisation is below, Nix fails (`it depends on the non
    /// existent`).
    fn build(&mut self, layer: usize) {
        for number in 0..DERIVATIONS[layer] {
            let before = self.expression.lines().map(str::to_owned);
            let before = before.filter(|line| line.starts_with(&format!("d{layer}x")));
            let before: Vec<String> = before.collect();
            let mut needs = String::new();
            for _ in 0..self.random.below(3).min(before.len()) {
                let name = self.random.pick(&before).split(' ').next();
                let _ = write!(needs, "${{{}}} ", name.expect("a name"));
            }
            let addressed = match self.random.one_in(4) {
                true => "",
                false => {
                    "__contentAddressed = true; outputHashMode = \"recursive\"; \
                     outputHashAlgo = \"sha256\";"
                }
            };
            let outputs = ["\"out\"", "\"out\" \"dev\""][self.random.below(2)];
            // Now and then the same content comes from another derivation.
            let content = if self.random.one_in(4) { 0 } else { number + 1 };
            let _ = writeln!(
                self.expression,
                "d{layer}x{number} = derivation {{ name = \"d-{layer}\"; count = {number}; \
                 system = \"x86_64-linux\"; builder = builtins.storePath \"{}\" + \"/bin/mksh\"; \
                 outputs = [ {outputs} ]; {addressed} args = [ \"-c\" \"print {content} {needs} >$out; \
                 if [[ -n $dev ]]; then print dev {content} >$dev; fi\" ]; }};",
                self.shell
            );
        }
        let file = "/tmp/all.nix";
        self.world
            .write(file, format!("rec {{\n{}}}", self.expression));
        let part = format!(
            "let all = import {file}; in map (name: all.${{name}}) (builtins.filter \
             (name: builtins.match \"d{layer}x.*\" name != null) (builtins.attrNames all))"
        );
        let drvs = self.nix(&["nix-instantiate", "-E", &part]).ok();
        for drv in drvs.lines() {
            let drv = drv.split('!').next().expect("a path");
            let built = self.nix(&["nix-store", "--realise", drv]).ok();
            self.paths.extend(built.lines().map(str::to_owned));
            self.paths.push(drv.to_owned());
        }
        self.paths.sort();
        self.paths.dedup();
    }

    fn again(&self) {
        self.world.run(["umount", Example::REAL]);
        for part in [Example::UPPER, Example::STATE] {
            self.world.ok(["rm", "-rf", part]);
            self.world.ok(["cp", "-a", &format!("{part}.before"), part]);
        }
        self.world.overstore(["up", "example"]).ok();
    }

    /// The objects in the upper layer, and what the database says of those.
    fn left(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let objects = self.world.list(Example::UPPER).into_iter();
        let objects: BTreeSet<String> = objects
            .map(|name| name.into_string().expect("ASCII"))
            .collect();
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let rows = self.world.ok([
            "sqlite3",
            &database,
            "select path, path from ValidPaths;
             select v.path, r.drvPath, r.outputName from Realisations r
                 join ValidPaths v on v.id = r.outputPath;
             select v.path, r.drvPath, r.outputName, o.drvPath, o.outputName
                 from RealisationsRefs f join Realisations r on r.id = f.referrer
                 join ValidPaths v on v.id = r.outputPath
                 join Realisations o on o.id = f.realisationReference;",
        ]);
        let is_above = |row: &&str| {
            let path = row.split('|').next().expect("a path");
            objects.contains(base_name(path))
        };
        let rows = rows.lines().filter(is_above).map(str::to_owned).collect();
        (objects, rows)
    }
}

fn compare(world: &World, seeds: std::ops::Range<u64>) -> usize {
    let mut collected = 0;
    for seed in seeds {
        world.run(["umount", Example::REAL]);
        world.ok(["rm", "-rf", "/mnt/example"]);
        let store = Built::new(world, seed);
        let mut exact = None;
        for (derivations, outputs) in KEEP {
            let settings = format!(
                "{FEATURES} ca-derivations\nkeep-derivations = {derivations}\n\
                 keep-outputs = {outputs}\n"
            );
            store.again();
            let before = store.left();
            let nix = store.nix(&["nix-store", "--gc"]);
            nix.env("NIX_CONFIG", &settings).ok();
            let nix = store.left();
            store.again();
            let gc = world.overstore(["gc", "example", "--leftovers", "--json"]);
            let report = gc.env("NIX_CONFIG", &settings).ok();
            let what = format!("seed {seed}, keep {derivations} {outputs}: {report}");
            let ours = store.left();
            if outputs {
                // What Nix leaves depends on the order in which it looks: only when it comes to the
                // derivation first does it keep what a realisation names.
                let (objects, _) = exact.as_ref().expect("without it comes first");
                assert!(ours.0.is_superset(objects), "{what}");
            } else {
                assert_eq!(ours, nix, "{what}");
                exact = Some(ours);
            }
            let report: Value = serde_json::from_str(&report).expect("JSON");
            assert_eq!(report["left"], json!([]), "{what}");
            let is_realisation = |row: &String| row.split('|').count() == 3;
            let kept = nix.1.iter().any(is_realisation);
            collected += usize::from(before.1 != nix.1 && kept);
        }
    }
    collected
}

#[test]
fn both_collectors_leave_the_same_realisations() {
    for world in World::each() {
        let collected = compare(&world, 1..3);
        assert!(collected >= 4, "{collected}");
    }
}

/// A derivation of which one layer has the file, and the other one the output.
struct Split {
    /// Whether its output is content-addressed.
    addressed: bool,
    /// Whether the derivation is above, and the output below; or the other way round.
    is_above: bool,
    root: Root,
}

/// What a root keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Root {
    Derivation,
    Output,
    Neither,
}

impl Split {
    fn each() -> impl Iterator<Item = Self> {
        let roots = [Root::Derivation, Root::Output, Root::Neither];
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        kinds.into_iter().flat_map(move |(addressed, is_above)| {
            roots.into_iter().map(move |root| Self {
                addressed,
                is_above,
                root,
            })
        })
    }

    fn name(&self) -> String {
        let kind = if self.addressed { "floating" } else { "plain" };
        let place = if self.is_above { "above" } else { "below" };
        format!("{kind}-{place}-{:?}", self.root)
    }

    /// Whether what is above stays, by the words of Nix's manual.
    fn stays(&self, derivations: bool, outputs: bool) -> bool {
        match self.root {
            Root::Derivation => self.is_above || outputs,
            Root::Output => !self.is_above || derivations,
            Root::Neither => false,
        }
    }
}

/// Makes all of them. The rows of what is below are in the upper database where Nix has copied them, or
/// are not.
fn split(world: &World, rows_are_copied: bool) -> (Built<'_>, Vec<(Split, String)>) {
    let example = world.example("[parameters]\npath-info-cache-size = 0");
    let mut store = Built {
        world,
        url: example.lower.root.clone(),
        shell: example.lower.path("mksh-static"),
        random: Random::new(1),
        paths: Vec::new(),
        expression: String::new(),
    };
    let instantiate = |store: &Built<'_>, it: &Split| {
        let addressed = match it.addressed {
            true => {
                "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";"
            }
            false => "",
        };
        let expression = format!(
            "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; {addressed} \
             builder = builtins.storePath \"{}\" + \"/bin/mksh\"; args = [ \"-c\" \"print {name} >$out\" ]; }}",
            store.shell,
            name = it.name()
        );
        let drv = store.nix(&["nix-instantiate", "-E", &expression]).ok();
        drv.trim().to_owned()
    };
    let realise = |store: &Built<'_>, drv: &str| {
        let output = store.nix(&["nix-store", "--realise", drv]).ok();
        output.trim().to_owned()
    };
    let (mut above, mut roots) = (Vec::new(), Vec::new());
    let mut below = Vec::new();
    for it in Split::each() {
        let drv = instantiate(&store, &it);
        let mut output = None;
        if it.is_above {
            output = Some(realise(&store, &drv));
            store
                .nix(&["nix-store", "--delete", &drv])
                .env(
                    "NIX_CONFIG",
                    format!("{FEATURES} ca-derivations\nkeep-derivations = false"),
                )
                .ok();
        }
        below.push((it, output));
    }
    let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
    world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
    example.up();
    store.url = example.run("url").stdout().trim().to_owned();
    for (it, output) in below {
        let drv = instantiate(&store, &it);
        let output = output.unwrap_or_else(|| realise(&store, &drv));
        match it.root {
            Root::Derivation => roots.push(drv.clone()),
            Root::Output => roots.push(output.clone()),
            Root::Neither => {}
        }
        let mine = if it.is_above { drv } else { output };
        assert!(
            world
                .path(format!("{}/{}", Example::UPPER, base_name(&mine)))
                .exists()
        );
        above.push((it, mine));
    }
    for (number, root) in roots.iter().enumerate() {
        let link = format!("{}/gcroots/r{number}", Example::STATE);
        world.ok(["ln", "-s", root, &link]);
    }
    if !rows_are_copied {
        let list: Vec<String> = above.iter().map(|(_, path)| format!("'{path}'")).collect();
        let are_below = "path like '%-plain-%' or path like '%-floating-%'";
        let sql = format!(
            "pragma foreign_keys = on;
             create temp table gone as select id from ValidPaths where ({are_below}) and path not in ({});
             delete from Refs where referrer in gone; delete from ValidPaths where id in gone;",
            list.join(", ")
        );
        world.ok(["sqlite3", &format!("{}/db/db.sqlite", Example::STATE), &sql]);
    }
    example.run("down");
    for part in [Example::UPPER, Example::STATE] {
        world.ok(["cp", "-a", part, &format!("{part}.before")]);
    }
    (store, above)
}

#[test]
fn both_collectors_leave_the_same_where_a_derivation_and_its_output_are_in_two_layers() {
    for world in World::each() {
        for rows_are_copied in [true, false] {
            world.run(["umount", Example::REAL]);
            world.ok(["rm", "-rf", "/mnt/example"]);
            let (store, above) = split(&world, rows_are_copied);
            for (derivations, outputs) in KEEP {
                let settings = format!(
                    "{FEATURES} ca-derivations\nkeep-derivations = {derivations}\n\
                     keep-outputs = {outputs}\n"
                );
                store.again();
                let gc = store.nix(&["nix-store", "--gc"]);
                gc.env("NIX_CONFIG", &settings).ok();
                let nix = store.left();
                store.again();
                let gc = world.overstore(["gc", "example", "--leftovers", "--json"]);
                let report = gc.env("NIX_CONFIG", &settings).ok();
                let ours = store.left();
                let what =
                    format!("copied {rows_are_copied}, keep {derivations} {outputs}: {report}");
                for (it, path) in &above {
                    let has = |left: &(BTreeSet<String>, _)| left.0.contains(base_name(path));
                    let what = format!("{}: {what}", it.name());
                    if it.addressed && outputs {
                        // What Nix keeps of these depends on the order in which it looks.
                        assert!(has(&ours) || !has(&nix), "{what}");
                    } else {
                        assert_eq!(has(&nix), it.stays(derivations, outputs), "{what}");
                        assert_eq!(has(&ours), has(&nix), "{what}");
                    }
                }
                let report: Value = serde_json::from_str(&report).expect("JSON");
                assert_eq!(report["left"], json!([]), "{what}");
            }
        }
    }
}

#[test]
#[ignore = "takes minutes"]
fn soak_both_collectors_leave_the_same_realisations() {
    for world in World::each() {
        compare(&world, 100..125);
    }
}
