//! `overstore gc` leaves what Nix's own collector leaves, on random stores, where that one works: with
//! its cache off. (Why it fails otherwise: `nix_fails`.)

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Example, Running, World, base_name as name, wait_until};

/// The settings that decide what else is kept.
pub const KEEP: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

/// Derivations below and above.
const DERIVATIONS: [usize; 2] = [4, 9];
/// Other objects below and above.
const OBJECTS: [usize; 2] = [12, 30];

/// Numbers that look random, and are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("64 bits") % end
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a>(&mut self, from: &'a [String]) -> &'a String {
        &from[self.below(from.len())]
    }
}

/// A random store, with a copy of its upper layer and its state to begin again from.
struct Store<'w> {
    world: &'w World,
    url: String,
    random: Random,
    /// Every valid path, below and above.
    valid: Vec<String>,
    /// Whether derivations say of outputs that are not theirs that they have built them.
    odd_derivers: bool,
    _running: Vec<Running>,
}

impl<'w> Store<'w> {
    fn new(world: &'w World, seed: u64, odd_derivers: bool) -> Self {
        world.mkdir("/mnt/example/store-a/nix/store");
        world.write(
            "/etc/overstore/example.toml",
            format!(
                "root = \"/mnt/example/merged-store\"\n\
                 lower-store = \"/mnt/example/store-a?read-only=true\"\n\
                 upper-layer = \"{}\"\nworkdir = \"{}\"\n\
                 [parameters]\npath-info-cache-size = 0\n",
                Example::UPPER,
                Example::WORKDIR
            ),
        );
        let mut store = Self {
            world,
            url: "/mnt/example/store-a".to_owned(),
            random: Random::new(seed),
            valid: Vec::new(),
            odd_derivers,
            _running: Vec::new(),
        };
        store.fill(0, Example::LOWER);
        let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
        world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
        world.overstore(["up", "example"]).ok();
        store.url = world.overstore(["url", "example"]).ok().trim().to_owned();
        store.fill(1, Example::REAL);
        store.add_roots();
        store.add_leftovers();
        world.overstore(["down", "example"]).ok();
        for part in [Example::UPPER, Example::STATE] {
            world.ok(["cp", "-a", part, &format!("{part}.before")]);
        }
        store
    }

    fn nix(&self, words: &[&str]) -> String {
        self.nix_with(words, "")
    }

    fn nix_with(&self, words: &[&str], input: impl Into<Vec<u8>>) -> String {
        let run = self.world.nix(words).args(["--store", &self.url]);
        run.stdin(input).ok()
    }

    /// Makes derivations, some of their outputs, and other objects, with references to what is there
    /// already, and registers them.
    fn fill(&mut self, layer: usize, real: &str) {
        let mut expression = "rec {\n".to_owned();
        for number in 0..DERIVATIONS[layer] {
            let outputs = ["\"out\"", "\"out\" \"dev\"", "\"dev\" \"doc\" \"out\""];
            let mut needs = String::new();
            for _ in 0..self.random.below(3).min(number) {
                needs += &format!("${{d{}}} ", self.random.below(number));
            }
            let fixed = match self.random.one_in(4) {
                true => format!(
                    "outputHash = \"{:064}\"; outputHashAlgo = \"sha256\"; outputHashMode = \"flat\";",
                    100 * layer + number + 1
                ),
                false => format!("outputs = [ {} ];", outputs[self.random.below(3)]),
            };
            expression += &format!(
                "d{number} = derivation {{ name = \"d{number}-{layer}\"; system = \"x86_64-linux\"; \
                 builder = \"/bin/sh\"; needs = \"{needs}\"; {fixed} }};\n"
            );
        }
        self.world.write("/tmp/all.nix", expression + "}");
        self.nix(&["nix-instantiate", "/tmp/all.nix"]);
        let outputs = "builtins.mapAttrs (_: d: { drv = d.drvPath; \
                       outputs = map (o: d.${o}.outPath) (d.outputs or [ \"out\" ]); }) \
                       (import /tmp/all.nix)";
        let outputs = self.nix(&[
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "-E",
            outputs,
        ]);
        let outputs: Value = serde_json::from_str(&outputs).expect("JSON");
        let (mut rows, hash) = (String::new(), "0".repeat(64));
        let mut objects = Vec::new();
        for derivation in outputs.as_object().expect("an object").values() {
            let drv = derivation["drv"].as_str().expect("text").to_owned();
            for output in derivation["outputs"].as_array().expect("a list") {
                if !self.random.one_in(3) {
                    // Now and then another derivation, or none, says that it has built it.
                    let deriver = match self.random.below(6) {
                        0 => String::new(),
                        1 if !self.valid.is_empty() => {
                            let other = self.random.pick(&self.valid).clone();
                            if self.odd_derivers {
                                other
                            } else {
                                drv.clone()
                            }
                        }
                        _ => drv.clone(),
                    };
                    objects.push((output.as_str().expect("text").to_owned(), deriver));
                }
            }
            self.valid.push(drv);
        }
        for number in 0..OBJECTS[layer] {
            let hash = format!("{:0>32}", 1000 * (layer + 1) + number);
            objects.push((format!("/nix/store/{hash}-object"), String::new()));
        }
        for (path, deriver) in objects {
            let mut references = BTreeSet::new();
            for _ in 0..self.random.below(4) {
                if !self.valid.is_empty() {
                    references.insert(self.random.pick(&self.valid).clone());
                }
            }
            if self.random.one_in(4) {
                references.insert(path.clone());
            }
            self.world
                .write(format!("{real}/{}/file", name(&path)), &path);
            rows += &format!("{path}\n{hash}\n120\n{deriver}\n{}\n", references.len());
            rows.extend(references.into_iter().map(|reference| reference + "\n"));
            self.valid.push(path);
        }
        // What is below has no row yet.
        let valid = self
            .valid
            .iter()
            .filter(|path| !rows.contains(&format!("{path}\n{hash}\n")));
        let words: Vec<&str> = ["nix-store", "--check-validity", "--print-invalid"]
            .into_iter()
            .chain(valid.map(String::as_str))
            .collect();
        self.nix(&words);
        self.nix_with(&["nix-store", "--load-db"], rows);
    }

    fn add_roots(&mut self) {
        let auto = format!("{}/gcroots/auto", Example::STATE);
        self.world.mkdir(&auto);
        self.world.mkdir("/home/alice/project");
        self.world.write("/home/alice/project/file", "");
        for number in 0..9 {
            let path = self.random.pick(&self.valid).clone();
            let at = |directory: &str| format!("{}/{directory}/r{number}", Example::STATE);
            let link = |target: &str, link: &str| self.world.ok(["ln", "-s", target, link]);
            match self.random.below(6) {
                0 | 1 => drop(link(&path, &at("gcroots"))),
                2 => drop(link(&(path + "/file"), &at("gcroots"))),
                3 => {
                    let result = format!("/home/alice/project/result-{number}");
                    link(&path, &result);
                    link(&result, &at("gcroots/auto"));
                }
                4 => {
                    let generation = format!("{}-1-link", at("profiles"));
                    link(&path, &generation);
                    link(&generation, &at("profiles"));
                }
                _ => self
                    .world
                    .write(format!("{}/gcroots/{}", Example::STATE, name(&path)), ""),
            }
        }
        // No roots: removed, not valid, not in the store.
        for (target, name) in [
            ("/home/alice/project/removed", "gcroots/auto/removed"),
            (
                "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-x",
                "gcroots/invalid",
            ),
            ("/etc/passwd", "gcroots/elsewhere"),
        ] {
            let link = format!("{}/{name}", Example::STATE);
            self.world.ok(["ln", "-s", target, &link]);
        }
    }

    fn add_leftovers(&mut self) {
        let real = |name: String| format!("{}/{name}", Example::REAL);
        let hash = |digit: char| String::from(digit).repeat(32);
        self.world.write(real(hash('a') + "-x.lock"), "");
        self.world.write(real(hash('b') + "-half/file"), "half");
        self.world
            .write(real(hash('c') + "-x.drv.chroot/file"), "half");
    }

    /// Begins again from the copy, with a process that holds temporary roots.
    fn again(&mut self) {
        let world = self.world;
        world.run(["umount", Example::REAL]);
        self._running.clear();
        for part in [Example::UPPER, Example::STATE] {
            world.ok(["rm", "-rf", part]);
            world.ok(["cp", "-a", &format!("{part}.before"), part]);
        }
        world.overstore(["up", "example"]).ok();
        let temporary = format!("{}/temproots/99999", Example::STATE);
        let held = [&self.valid[5], &self.valid[self.valid.len() - 7]];
        world.write(&temporary, held.map(|path| format!("{path}\0")).concat());
        let stale = format!("{}/temproots/88888", Example::STATE);
        world.write(&stale, format!("{}\0", self.valid[self.valid.len() - 3]));
        self._running.push(Running(
            world
                .command(["flock", "-F", &temporary, "sleep", "infinity"])
                .spawn(),
        ));
        wait_until("the temporary roots are locked", || {
            !world
                .run(["flock", "-n", &temporary, "true"])
                .status
                .success()
        });
    }

    /// The objects in the upper layer, and those that have a row.
    fn left(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let find = [
            "find",
            Example::UPPER,
            "-mindepth",
            "1",
            "-maxdepth",
            "1",
            "-not",
            "-type",
            "c",
            "-printf",
            "%f\n",
        ];
        let objects: BTreeSet<String> = self.world.ok(find).lines().map(str::to_owned).collect();
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let rows = self
            .world
            .ok(["sqlite3", &database, "select path from ValidPaths"]);
        let rows = rows.lines().map(|path| name(path).to_owned());
        let rows = rows.filter(|name| objects.contains(name)).collect();
        (objects, rows)
    }
}

/// Compares the two collectors on the stores of these seeds; gives how many of them had garbage.
///
/// With `odd_derivers` Nix's own collector, where it keeps outputs, leaves what its order of looking
/// makes of them: from an object that is alive it goes to the deriver, whatever that one's outputs are
/// (`computeFSClosure`), and to an object from its deriver only where it is one of these. Stores of
/// which it leaves more for that are not for comparing.
fn compare(world: &World, seeds: std::ops::Range<u64>, odd_derivers: bool) -> usize {
    let mut collected = 0;
    for seed in seeds {
        world.run(["umount", Example::REAL]);
        world.ok(["rm", "-rf", "/mnt/example", "/home/alice/project"]);
        let mut store = Store::new(world, seed, odd_derivers);
        for (derivations, outputs) in KEEP {
            let settings = format!(
                "experimental-features = nix-command local-overlay-store read-only-local-store\n\
                 keep-derivations = {derivations}\nkeep-outputs = {outputs}\n"
            );
            store.again();
            let before = store.left();
            world
                .command(["nix-store", "--gc", "--store", &store.url])
                .env("NIX_CONFIG", &settings)
                .ok();
            let nix = store.left();
            store.again();
            let report = world
                .overstore(["gc", "example", "--leftovers", "--json"])
                .env("NIX_CONFIG", &settings)
                .ok();
            let ours = store.left();
            let what = format!("seed {seed}, keep {derivations} {outputs}: {report}");
            assert_eq!(ours, nix, "{what}");
            let report: Value = serde_json::from_str(&report).expect("JSON");
            assert_eq!(report["left"], serde_json::json!([]), "{what}");
            assert_eq!(report["keep-outputs"], outputs, "{what}");
            collected += usize::from(before.1 != nix.1 && !nix.1.is_empty());
        }
    }
    collected
}

#[test]
fn both_collectors_leave_the_same() {
    for world in World::each() {
        // The comparison says something only where some goes and some stays.
        let collected = compare(&world, 1..11, true);
        assert!(collected >= 30, "{collected}");
    }
}

/// On a lower store like a package set, of which nothing is rooted above, Nix's collector fails, and
/// frees nothing; that is what `overstore gc` is for. When this test fails, Nix has changed.
#[test]
fn nix_s_own_collector_fails_where_this_one_works() {
    for world in World::each() {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let path = |number: usize| {
            // Hashes in no order, as real ones are.
            let hash = format!("{:0>32}", (number * 611_953 + 104_729) % 1_000_003);
            format!("/nix/store/{hash}-package-{number}")
        };
        let mut rows = String::new();
        for number in 0..300 {
            let references: BTreeSet<String> = (0..random.below(12))
                .filter(|_| number > 0)
                .map(|_| path(random.below(number)))
                .collect();
            rows += &format!("{}\n{:064}\n120\n\n{}\n", path(number), 0, references.len());
            rows.extend(references.into_iter().map(|reference| reference + "\n"));
        }
        // Nix goes through the directory in its order: on tmpfs that of the making.
        let mut objects: Vec<String> = (0..300).map(path).collect();
        objects.sort();
        for path in &objects {
            world.write(format!("{}/{}/file", Example::LOWER, name(path)), "");
        }
        world
            .nix(["nix-store", "--load-db", "--store", "/mnt/example/store-a"])
            .stdin(rows)
            .ok();
        let database = "/mnt/example/store-a/nix/var/nix/db/db.sqlite";
        world.ok(["sqlite3", database, "pragma wal_checkpoint(truncate)"]);
        world.write(
            "/etc/overstore/example.toml",
            format!(
                "root = \"/mnt/example/merged-store\"\n\
                 lower-store = \"/mnt/example/store-a?read-only=true\"\n\
                 upper-layer = \"{}\"\nworkdir = \"{}\"\n",
                Example::UPPER,
                Example::WORKDIR
            ),
        );
        world.overstore(["up", "example"]).ok();
        let url = world.overstore(["url", "example"]).ok().trim().to_owned();
        world.write("/tmp/garbage", "garbage");
        let garbage = world
            .nix(["nix-store", "--add", "/tmp/garbage", "--store", &url])
            .ok();
        let upper = format!("{}/{}", Example::UPPER, name(garbage.trim()));
        let failed = world.nix(["nix-store", "--gc", "--store", &url]).fails();
        assert!(failed.stderr().contains("is not valid"), "{failed}");
        assert!(world.path(&upper).exists());
        let collected = world.overstore(["gc", "example"]).ok();
        assert!(collected.starts_with("deleted 1 object,"), "{collected}");
        assert!(!world.path(&upper).exists());
    }
}

/// Two hundred stores a version: `make soak`.
#[test]
#[ignore = "takes half an hour"]
fn soak_both_collectors_leave_the_same() {
    for world in World::each() {
        compare(&world, 100..300, false);
    }
}
