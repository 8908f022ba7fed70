//! What a daemon of Nix does in ordinary work with its memory of path infos, and without it
//! (`path-info-cache-size = 0`, without which its collector fails).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::generator::Result;
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Daemon, ROOT, Store, sql, with_root};

/// Paths below, all of them in the closure of one.
const BELOW: u32 = 20_000;
/// Derivations of an evaluation.
const DERIVATIONS: u32 = 1_000;
/// Builds in one run of a client.
const BUILDS: u32 = 10;
/// How often each is measured.
const ROUNDS: u32 = 5;

/// One thing that a client asks for.
#[derive(Serialize, Deserialize)]
pub struct Work {
    pub work: String,
    pub with: Times,
    pub without: Times,
}

/// The same store with the memory, or without, behind a daemon each.
struct Served {
    _store: Store,
    url: String,
    daemon: Daemon,
}

impl Served {
    fn new(place: &Place, name: &str, lower: &Path, more: &str) -> Result<Self> {
        let text = format!("{}?read-only=true", lower.display());
        let store = Store::new(place, name, &text, more)?;
        store.anew()?;
        measure::time(&mut store.overstore(&["warm", "--all"]))?;
        let socket = PathBuf::from(format!("/run/{name}.socket"));
        let daemon = Daemon::start(store.url.as_ref(), &socket)?;
        let url = format!(
            "unix://{}?root={}",
            socket.display(),
            store.directory.join("merged").display()
        );
        Ok(Self {
            _store: store,
            url,
            daemon,
        })
    }

    /// A command of Nix, as a client of the daemon: seconds of processor time of both, and of the
    /// builders, which do not depend on what else the machine does.
    fn time(&self, words: Vec<String>) -> Result<f64> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["--store", &self.url]);
        let settings = format!("{}\nsandbox = true\nmax-jobs = 1", crate::support::FEATURES);
        let before = self.daemon.spent()?;
        let client = measure::processor_time(command.env("NIX_CONFIG", settings))?;
        Ok(client + self.daemon.spent()? - before)
    }
}

pub fn measure(place: &Place) -> Result<Vec<Work>> {
    eprintln!("a daemon without its memory of path infos");
    let lower = with_root(place, BELOW)?;
    let shell = add_shell(&lower)?;
    let requests = requests(place, &lower, &shell)?;
    let served = [
        Served::new(
            place,
            "cache-on",
            &lower,
            "[parameters]\npath-info-cache-size = 65536\n",
        )?,
        Served::new(
            place,
            "cache-off",
            &lower,
            "[parameters]\npath-info-cache-size = 0\n",
        )?,
    ];
    let mut work = Vec::new();
    for (words, what) in requests {
        let mut times = [Times::default(), Times::default()];
        for round in 0..=ROUNDS {
            for turn in 0..2 {
                let which = (round + turn) as usize % 2;
                let words = words
                    .iter()
                    .map(|word| word.replace("ROUND", &round.to_string()));
                let seconds = served[which].time(words.collect())?;
                // One before it counts, for what is loaded once.
                if round > 0 {
                    times[which].push(seconds);
                }
            }
        }
        let [with, without] = times;
        eprintln!(
            "{what}: {:.2} s, without {:.2} s",
            with.median(),
            without.median()
        );
        work.push(Work {
            work: what,
            with,
            without,
        });
    }
    drop(served);
    fs::remove_dir_all(lower)?;
    Ok(work)
}

/// Adds a shell that needs nothing else to a lower store: its store path.
fn add_shell(lower: &Path) -> Result<String> {
    let shell = fs::canonicalize("/bin/mksh-static")?;
    let mut add = Command::new("nix-store");
    add.arg("--add").arg(shell).arg("--store").arg(lower);
    let output = add.env("NIX_CONFIG", crate::support::FEATURES).output()?;
    let database = lower.join("nix/var/nix/db/db.sqlite");
    sql(&database, "pragma wal_checkpoint(truncate)")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What a client asks for: its words, where `ROUND` is another in each round, and what it is.
fn requests(place: &Place, lower: &Path, shell: &str) -> Result<Vec<(Vec<String>, String)>> {
    let database = lower.join("nix/var/nix/db/db.sqlite");
    let paths = query(
        &database,
        "select path from ValidPaths order by id limit 1000",
    )?;
    let dependency = paths.last().ok_or("an empty store")?;
    let closure = query(
        &database,
        &format!(
            "with recursive closure (id) as (select id from ValidPaths where path = '{dependency}'
             union select reference from Refs join closure on referrer = closure.id)
             select id from closure"
        ),
    )?;
    let builds = place.scratch.join("builds.nix");
    fs::write(
        &builds,
        format!(
            "{{ round }}: builtins.genList (n: derivation {{
                 name = \"built-${{round}}-${{toString n}}\"; system = \"x86_64-linux\";
                 builder = builtins.storePath \"{shell}\"; args = [ \"-c\" \"print >$out\" ];
                 needs = builtins.storePath \"{dependency}\"; }}) {BUILDS}"
        ),
    )?;
    let mut evaluation = "{ round }: rec {\n".to_owned();
    for number in 0..DERIVATIONS {
        let before = (1..=3).filter_map(|back| number.checked_sub(back * back));
        let needs: Vec<String> = before.map(|number| format!("${{d{number}}}")).collect();
        let below = &paths[number as usize % paths.len()];
        evaluation += &format!(
            "d{number} = derivation {{ name = \"d{number}-${{round}}\"; system = \"x86_64-linux\";
                 builder = \"/bin/sh\"; needs = \"{}\"; below = builtins.storePath \"{below}\"; }};\n",
            needs.join(" ")
        );
    }
    let evaluated = place.scratch.join("evaluated.nix");
    fs::write(&evaluated, evaluation + "}\n")?;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (builds, evaluated) = (builds.to_string_lossy(), evaluated.to_string_lossy());
    let round = ["--argstr", "round", "ROUND"];
    let first = ["--argstr", "round", "0"];
    Ok(vec![
        (
            words(&[&["nix-build", "--no-out-link", &builds], &round[..]].concat()),
            format!(
                "{BUILDS} builds, each with a closure of {} paths",
                closure.len()
            ),
        ),
        (
            words(&["nix-store", "--query", "--requisites", ROOT]),
            format!("a closure of {BELOW} paths"),
        ),
        (
            words(&[&["nix-instantiate", &evaluated], &round[..]].concat()),
            format!("an evaluation to {DERIVATIONS} new derivations"),
        ),
        (
            words(&[&["nix-instantiate", &evaluated], &first[..]].concat()),
            format!("an evaluation to {DERIVATIONS} derivations that are there"),
        ),
    ])
}

/// The first column of what a query gives.
fn query(database: &Path, query: &str) -> Result<Vec<String>> {
    let output = Command::new("sqlite3").arg(database).arg(query).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::to_owned).collect())
}
