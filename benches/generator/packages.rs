//! What is in the store: names, sizes, times, and who needs whom.

use std::collections::BTreeSet;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal, Zipf};

use super::content::{
    Derivation, Hash, base32, nar_of_file, output_name, source_address, source_name,
};
use super::{Recipe, Result, Row};

/// The first programs of every store: the ones that most others need, most wanted first.
const BASE: &[(&str, &[&str])] = &[
    ("glibc-2.40-66", &["out", "bin", "dev"]),
    ("bash-5.2p37", &["out"]),
    ("gcc-14.2.1.20250322", &["out", "lib"]),
    ("zlib-1.3.1", &["out", "dev"]),
    ("coreutils-9.6", &["out"]),
    ("openssl-3.4.1", &["out", "bin", "dev"]),
    ("ncurses-6.5", &["out", "dev"]),
    ("python3-3.12.9", &["out"]),
    ("perl-5.40.0", &["out"]),
    ("gnugrep-3.11", &["out"]),
    ("gnused-4.9", &["out"]),
    ("xz-5.6.3", &["out", "bin"]),
    ("bzip2-1.0.8", &["out", "bin"]),
    ("zstd-1.5.6", &["out", "bin"]),
    ("libffi-3.4.6", &["out"]),
    ("glib-2.82.5", &["out", "dev"]),
    ("systemd-257.3", &["out", "dev"]),
    ("util-linux-minimal-2.40.4", &["lib", "bin"]),
    ("curl-8.12.1", &["bin", "dev", "out"]),
    ("stdenv-linux", &["out"]),
];

const PREFIXES: &[&str] = &[
    "",
    "",
    "",
    "lib",
    "python3.12-",
    "perl5.40.0-",
    "ruby3.3-",
    "texlive-",
    "vimplugin-",
    "ghc-9.8.4-",
];
const FIRST: &[&str] = &[
    "aws", "event", "json", "yaml", "async", "crypto", "data", "font", "gtk", "image", "kernel",
    "mail", "net", "parse", "qt", "sound", "test", "unicode", "video", "xml",
];
const SECOND: &[&str] = &[
    "agent", "base", "client", "core", "driver", "engine", "filter", "graph", "helper", "index",
    "kit", "lexer", "model", "proxy", "reader", "server", "tools", "utils", "view", "writer",
];
const FILES: &[&str] = &[
    "builder.sh",
    "fix-build.patch",
    "setup-hook.sh",
    "config.patch",
    "source",
    "separate-debug-info.sh",
];

/// How many of the first packages are the ones that everybody may need.
const POPULAR: usize = 2000;

/// The probability that a reference goes to one of these, and not to a neighbour.
const TO_POPULAR: f64 = 0.5;

/// The most that one object refers to; in nixpkgs, environments reach such numbers.
const MOST_REFERENCES: f64 = 600.0;

/// Objects that were made together.
struct Package {
    outputs: &'static [&'static str],
    /// The row of the first output; the others follow.
    row: u32,
    origin: Origin,
}

enum Origin {
    /// Substituted, or built by a derivation that is no longer there.
    Unknown,
    /// A file that somebody added: its base name.
    Added(String),
    /// A derivation that is in the store.
    Derivation {
        base_name: String,
        row: u32,
        modulo: Hash,
    },
}

/// Outputs that something needs: the position of the package, and of the output in it.
type Needs = BTreeSet<(usize, usize)>;

type Sink<'a> = &'a mut dyn FnMut(Row) -> Result<()>;

/// The store, while it is being thought up.
pub struct Packages {
    random: Xoshiro256PlusPlus,
    paths: u32,
    derivations: bool,
    rows: u32,
    time: i64,
    packages: Vec<Package>,
    references: LogNormal<f64>,
    size: LogNormal<f64>,
}

impl Packages {
    pub fn new(recipe: &Recipe) -> Self {
        let finite = "the deviation is finite";
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(recipe.seed),
            paths: recipe.paths,
            derivations: recipe.derivations,
            rows: 0,
            time: 1_740_000_000,
            packages: Vec::new(),
            references: LogNormal::new(2.5, 1.0).expect(finite),
            size: LogNormal::new(11.0, 2.2).expect(finite),
        }
    }

    /// Makes every path and passes it on, after all those that it refers to.
    pub fn generate(mut self, sink: Sink) -> Result<()> {
        let mut base = BASE.iter().copied();
        while self.rows < self.paths {
            let left = self.paths - self.rows;
            let popular = base.next();
            let roll: f64 = self.random.random();
            if left < 2 || popular.is_none() && roll < 0.12 {
                self.added_file(sink)?;
            } else if popular.is_none() && roll < 0.3 && self.derivations {
                self.fetched_source(sink)?;
            } else {
                let (name, outputs) = match popular {
                    Some((name, outputs)) => (name.to_owned(), outputs),
                    None => self.program_name(),
                };
                let fits = outputs.len() < left as usize;
                self.program(name, if fits { outputs } else { &["out"] }, sink)?;
            }
        }
        Ok(())
    }

    /// A file that somebody added: a builder, a patch. It refers to nothing.
    fn added_file(&mut self, sink: Sink) -> Result<()> {
        let name = self.choose(FILES);
        let row = self.row(String::new());
        let base_name = source_name(&row.nar_hash, name);
        let row = Row {
            base_name: base_name.clone(),
            content_address: Some(source_address(&row.nar_hash)),
            signature: None,
            ultimate: false,
            ..row
        };
        let row = self.emit(row, sink)?;
        self.packages.push(Package {
            outputs: &["out"],
            row,
            origin: Origin::Added(base_name),
        });
        Ok(())
    }

    /// A source that was fetched: a derivation with a fixed output.
    fn fetched_source(&mut self, sink: Sink) -> Result<()> {
        let (program, _) = self.program_name();
        let row = self.row(String::new());
        let derivation = Derivation {
            name: format!("{program}-source"),
            outputs: &["out"],
            fixed: Some(row.nar_hash),
            ..Derivation::default()
        };
        let inputs = self.needs(3);
        let (origin, deriver, mut outputs) = self.derivation(derivation, &inputs, sink)?;
        let row = Row {
            base_name: outputs.remove(0),
            content_address: Some(source_address(&row.nar_hash)),
            deriver: Some(deriver),
            ..row
        };
        let row = self.emit(row, sink)?;
        self.packages.push(Package {
            outputs: &["out"],
            row,
            origin,
        });
        Ok(())
    }

    /// A program with one or more outputs.
    fn program(
        &mut self,
        name: String,
        outputs: &'static [&'static str],
        sink: Sink,
    ) -> Result<()> {
        let count = if self.random.random_bool(0.2) {
            0.0
        } else {
            self.references.sample(&mut self.random)
        };
        let needs = self.needs(count.min(MOST_REFERENCES) as usize);
        let (origin, deriver, base_names) = if self.derivations {
            // What is needed to build, and not afterwards.
            let mut inputs = self.needs(4);
            inputs.extend(&needs);
            self.derivation(
                Derivation {
                    name,
                    outputs,
                    ..Derivation::default()
                },
                &inputs,
                sink,
            )?
        } else {
            let base_names = outputs
                .iter()
                .map(|output| self.any_base_name(&output_name(&name, output)));
            let base_names = base_names.collect();
            (
                Origin::Unknown,
                self.any_base_name(&format!("{name}.drv")),
                base_names,
            )
        };
        let first = self.rows + 1;
        for base_name in base_names {
            let this = self.rows + 1;
            let mut references: BTreeSet<u32> = if this == first {
                needs
                    .iter()
                    .map(|(package, output)| self.packages[*package].row + *output as u32)
                    .collect()
            } else {
                BTreeSet::from([first])
            };
            if self.random.random_bool(0.25) {
                references.insert(this);
            }
            let references = references.into_iter().collect();
            let row = Row {
                deriver: Some(deriver.clone()),
                references,
                ..self.row(base_name)
            };
            self.emit(row, sink)?;
        }
        self.packages.push(Package {
            outputs,
            row: first,
            origin,
        });
        Ok(())
    }

    /// Adds a derivation; gives it as an origin, its base name, and those of its outputs.
    fn derivation(
        &mut self,
        mut derivation: Derivation,
        inputs: &Needs,
        sink: Sink,
    ) -> Result<(Origin, String, Vec<String>)> {
        let mut references = BTreeSet::new();
        for (package, output) in inputs {
            let package = &self.packages[*package];
            match &package.origin {
                Origin::Derivation {
                    base_name,
                    row,
                    modulo,
                } => {
                    let (_, outputs) = derivation
                        .inputs
                        .entry(base_name.clone())
                        .or_insert((*modulo, BTreeSet::new()));
                    outputs.insert(package.outputs[*output]);
                    references.insert(*row);
                }
                Origin::Added(base_name) => {
                    derivation.sources.insert(base_name.clone());
                    references.insert(package.row);
                }
                Origin::Unknown => {}
            }
        }
        let made = derivation.instantiate();
        let (nar_hash, nar_size) = nar_of_file(&made.content);
        let outputs = derivation
            .outputs
            .iter()
            .copied()
            .zip(made.outputs.iter().cloned())
            .collect();
        let row = Row {
            nar_hash,
            nar_size,
            references: references.into_iter().collect(),
            outputs,
            content_address: Some(made.content_address),
            content: Some(made.content),
            signature: None,
            ultimate: false,
            ..self.row(made.base_name.clone())
        };
        let row = self.emit(row, sink)?;
        let base_name = made.base_name;
        let origin = Origin::Derivation {
            base_name: base_name.clone(),
            row,
            modulo: made.modulo,
        };
        Ok((origin, base_name, made.outputs))
    }

    /// So many different outputs of earlier packages, or as many as there are.
    fn needs(&mut self, count: usize) -> Needs {
        let mut needs = Needs::new();
        let packages = self.packages.len();
        // Popular ones come up again and again: do not look for new ones for ever.
        for _ in 0..count * 3 {
            if needs.len() == count || packages == 0 {
                break;
            }
            let package = if self.random.random_bool(TO_POPULAR) {
                let most = packages.min(POPULAR) as f64;
                let rank = Zipf::new(most, 1.3).expect("there is at least one");
                rank.sample(&mut self.random) as usize - 1
            } else {
                // Near ones more than far ones, at every scale.
                let distance = (packages as f64).powf(self.random.random());
                packages - (distance as usize).clamp(1, packages)
            };
            let output = self
                .random
                .random_range(0..self.packages[package].outputs.len());
            needs.insert((package, output));
        }
        needs
    }

    /// A row as most are, with a hash and a size made up.
    fn row(&mut self, base_name: String) -> Row {
        // Several a second while something is being built or fetched, and pauses.
        self.time += match self.random.random_range(0..1000) {
            0 => self.random.random_range(60..86_400),
            1..200 => 1,
            _ => 0,
        };
        let built_here = self.derivations && self.random.random_bool(0.5);
        Row {
            base_name,
            nar_hash: self.random.random(),
            registration_time: self.time,
            deriver: None,
            nar_size: (self.size.sample(&mut self.random) as u64)
                .clamp(112, 1 << 33)
                .next_multiple_of(8),
            ultimate: built_here,
            signature: (!built_here).then(|| self.signature()),
            content_address: None,
            references: Vec::new(),
            outputs: Vec::new(),
            content: None,
        }
    }

    fn emit(&mut self, row: Row, sink: Sink) -> Result<u32> {
        sink(row)?;
        self.rows += 1;
        Ok(self.rows)
    }

    fn any_base_name(&mut self, name: &str) -> String {
        format!("{}-{name}", base32(&self.random.random::<[u8; 20]>()))
    }

    fn program_name(&mut self) -> (String, &'static [&'static str]) {
        let (prefix, first, second) = (
            self.choose(PREFIXES),
            self.choose(FIRST),
            self.choose(SECOND),
        );
        let outputs = match self.random.random_range(0..10) {
            0..7 => &["out"][..],
            7 => &["out", "dev"],
            8 => &["out", "bin", "dev"],
            _ => &["out", "lib", "dev", "man"],
        };
        let (major, minor) = (
            self.random.random_range(0..30),
            self.random.random_range(0..100),
        );
        (format!("{prefix}{first}-{second}-{major}.{minor}"), outputs)
    }

    /// 64 bytes in base 64, after the name of the key.
    fn signature(&mut self) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut signature = String::from("cache.nixos.org-1:");
        signature
            .extend((0..85).map(|_| char::from(*DIGITS.choose(&mut self.random).expect("64"))));
        // The last digit stands for two bits.
        signature.push_str(self.choose(&["A==", "Q==", "g==", "w=="]));
        signature
    }

    fn choose(&mut self, from: &[&'static str]) -> &'static str {
        from.choose(&mut self.random).expect("there are some")
    }
}
