//! Metadata and contents: overstore beside Nix, and beside what the machine can do at most.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};

/// Lower stores of these sizes show how cost grows.
const GROWTH: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// The closure that is copied up from a database.
const CLOSURE: u32 = 50_000;
/// The closure that is copied up through a daemon's socket.
const ASKED: u32 = 20_000;
/// Objects in the upper layer where `check` and `status` are measured.
const ABOVE: u32 = 10_000;
/// Objects whose contents are hashed: so many files of 16 MiB, and as many directories of that size.
const HASHED: u32 = 64;
/// Paths below where Nix's collector runs: it takes minutes for many more.
const COLLECTED: u32 = 2_000;
/// How often each command runs.
const ROUNDS: u32 = 3;

/// Refers to everything that nothing else refers to: its closure is the whole store.
pub const ROOT: &str = "/nix/store/00000000000000000000000000000000-root";

/// A command beside another one that does the same.
#[derive(Serialize, Deserialize)]
pub struct Contest {
    pub work: String,
    pub against: String,
    pub ours: Times,
    pub theirs: Times,
    /// What is aimed at, in words.
    pub aim: String,
}

/// What a lower store of some size costs.
#[derive(Serialize, Deserialize)]
pub struct Growth {
    pub paths: u32,
    /// Seconds of `warm --all`, and of `check` and `status` after that.
    pub seconds: [f64; 3],
    /// KiB, as [`measure::peak`] gives it.
    pub peaks: [u64; 3],
}

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Metadata {
    pub contests: Vec<Contest>,
    pub growth: Vec<Growth>,
    /// What `nix-store --gc` took, in which state of the store.
    pub collections: Vec<(String, f64)>,
}

/// The lower stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    let sizes = GROWTH.into_iter().chain([CLOSURE, ASKED, COLLECTED]);
    sizes.map(of_size)
}

pub fn of_size(paths: u32) -> Recipe {
    Recipe {
        paths,
        ..Recipe::default()
    }
}

pub fn measure(place: &Place) -> Result<Metadata> {
    let mut contests = Vec::new();
    from_a_database(place, &mut contests)?;
    through_a_socket(place, &mut contests)?;
    objects_above(place, &mut contests)?;
    contents(place, &mut contests)?;
    Ok(Metadata {
        contests,
        growth: growth(place)?,
        collections: collections(place)?,
    })
}

/// A store to be measured on, set up anew for every run.
pub struct Store {
    pub directory: PathBuf,
    description: String,
    pub url: String,
}

impl Store {
    pub fn new(place: &Place, name: &str, lower_store: &str, more: &str) -> Result<Store> {
        let directory = place.scratch.join(name);
        fs::create_dir_all(&directory)?;
        let path = directory.with_extension("toml");
        let text = format!(
            "root = {:?}\nlower-store = {lower_store:?}\nupper-layer = {:?}\nworkdir = {:?}\n{more}",
            directory.join("merged"),
            directory.join("upper"),
            directory.join("work"),
        );
        fs::write(&path, text)?;
        let description = path.display().to_string();
        let url = Command::new("overstore")
            .args(["url", &description])
            .output()?;
        Ok(Store {
            directory,
            description,
            url: String::from_utf8(url.stdout)?.trim().to_owned(),
        })
    }

    pub fn overstore(&self, words: &[&str]) -> Command {
        let mut command = Command::new("overstore");
        command.args(words).arg(&self.description);
        command
    }

    pub fn nix(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nix-store");
        command.args(words).args(["--store", &self.url]);
        command.env("NIX_CONFIG", crate::support::FEATURES);
        command
    }

    pub fn database(&self) -> PathBuf {
        self.directory.join("merged/nix/var/nix/db/db.sqlite")
    }

    /// Sets it up with nothing in it.
    pub fn anew(&self) -> Result<()> {
        self.down();
        fs::remove_dir_all(&self.directory)?;
        fs::create_dir(&self.directory)?;
        measure::time(&mut self.overstore(&["up"]))?;
        Ok(())
    }

    pub fn down(&self) {
        // It need not be up.
        let _ = self.overstore(&["down"]).output();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.down();
    }
}

/// A copy of a lower store that has [`ROOT`] too, and may be written to.
pub fn with_root(place: &Place, paths: u32) -> Result<PathBuf> {
    let copy = place.scratch.join(format!("lower-{paths}"));
    let store = place.stores.join(of_size(paths).name());
    measure::time(Command::new("cp").arg("-a").args([&store, &copy]))?;
    fs::write(
        copy.join("nix/store").join(&ROOT["/nix/store/".len()..]),
        "",
    )?;
    let root = format!(
        "insert into ValidPaths (path, hash, registrationTime, narSize) values
             ('{ROOT}', 'sha256:{:064}', 1700000000, 96);
         insert into Refs (referrer, reference)
             select (select id from ValidPaths where path = '{ROOT}'), id from ValidPaths v
             where path != '{ROOT}' and not exists
                 (select 1 from Refs where reference = v.id and referrer != v.id);
         pragma wal_checkpoint(truncate);",
        0
    );
    sql(&copy.join("nix/var/nix/db/db.sqlite"), &root)?;
    Ok(copy)
}

pub fn sql(database: &Path, script: &str) -> Result<f64> {
    measure::time(Command::new("sqlite3").arg(database).arg(script))
}

/// Copies a closure up: overstore, Nix, and SQLite alone.
fn from_a_database(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("a closure of {CLOSURE} paths from a database");
    let lower = with_root(place, CLOSURE)?;
    let text = format!("{}?read-only=true", lower.display());
    let store = Store::new(place, "closure", &text, "")?;
    let raw = format!(
        "pragma foreign_keys = off; pragma journal_mode = wal;
         attach 'file:{}?immutable=1' as lower;
         begin;
         insert into ValidPaths select * from lower.ValidPaths;
         insert into Refs select * from lower.Refs;
         insert into DerivationOutputs select * from lower.DerivationOutputs;
         commit;
         pragma wal_checkpoint(truncate);",
        lower.join("nix/var/nix/db/db.sqlite").display()
    );
    let (mut ours, mut nix, mut limit) = <(Times, Times, Times)>::default();
    for _ in 0..ROUNDS {
        store.anew()?;
        ours.push(measure::time(store.overstore(&["warm"]).arg(ROOT))?);
        store.anew()?;
        nix.push(measure::time(&mut store.nix(&["--check-validity", ROOT]))?);
        store.anew()?;
        limit.push(sql(&store.database(), &raw)?);
    }
    let work = format!("`warm` of a closure of {CLOSURE} paths");
    contests.push(Contest {
        work: work.clone(),
        against: "`nix-store --check-validity` of its root".to_owned(),
        ours: ours.clone(),
        theirs: nix,
        aim: "at most 0.05".to_owned(),
    });
    contests.push(Contest {
        work,
        against: "one `insert ... select`, ids as they are".to_owned(),
        ours,
        theirs: limit,
        aim: "at most 2".to_owned(),
    });
    Ok(())
}

/// A daemon that is ended with this.
pub struct Daemon {
    child: Child,
    /// Its words, as `/proc` has them.
    words: Vec<u8>,
}

impl Daemon {
    /// A daemon of a store, once it answers.
    pub fn start(store: &OsStr, socket: &Path) -> Result<Daemon> {
        let daemon = Command::new("nix-daemon")
            .arg("--store")
            .arg(store)
            .env("NIX_DAEMON_SOCKET_PATH", socket)
            .env("NIX_CONFIG", crate::support::FEATURES)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut words = b"nix-daemon\0--store\0".to_vec();
        words.extend_from_slice(store.as_encoded_bytes());
        words.push(0);
        let daemon = Daemon {
            child: daemon,
            words,
        };
        let patience = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            if Instant::now() > patience {
                return Err("nix-daemon does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Seconds of processor time of the conversations that have ended, and of what they started.
    pub fn spent(&self) -> Result<f64> {
        const TICKS_A_SECOND: f64 = 100.0;
        // Each conversation is a process of its own, which the daemon waits for.
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let processes = processes()?;
            let daemon = processes.iter().find(|process| process.words == self.words);
            let daemon = daemon.ok_or("the daemon has ended")?;
            let talks = processes.iter().any(|process| process.parent == daemon.id);
            if !talks || Instant::now() > patience {
                return Ok(daemon.ticks_of_children as f64 / TICKS_A_SECOND);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process, as `/proc` here shows it.
struct Process {
    id: u64,
    parent: u64,
    words: Vec<u8>,
    ticks_of_children: u64,
}

fn processes() -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let directory = entry?.path();
        let id = directory
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        // Those that have ended meanwhile are none.
        let (Some(id), Ok(stat), Ok(words)) = (
            id,
            fs::read_to_string(directory.join("stat")),
            fs::read(directory.join("cmdline")),
        ) else {
            continue;
        };
        let (_, fields) = stat.rsplit_once(')').ok_or("no status")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |place: usize| fields.get(place).and_then(|it| it.parse::<u64>().ok());
        processes.push(Process {
            id,
            parent: number(1).unwrap_or_default(),
            words,
            ticks_of_children: number(13).unwrap_or_default() + number(14).unwrap_or_default(),
        });
    }
    Ok(processes)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn through_a_socket(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("a closure of {ASKED} paths through a socket");
    let lower = with_root(place, ASKED)?;
    let socket = Path::new("/run/bench.socket");
    let _daemon = Daemon::start(lower.as_os_str(), socket)?;
    let text = format!("unix://{}?root={}", socket.display(), lower.display());
    let store = Store::new(place, "asked", &text, "")?;
    let (mut ours, mut nix) = <(Times, Times)>::default();
    for _ in 0..ROUNDS {
        store.anew()?;
        ours.push(measure::time(store.overstore(&["warm"]).arg(ROOT))?);
        store.anew()?;
        nix.push(measure::time(&mut store.nix(&["--check-validity", ROOT]))?);
    }
    contests.push(Contest {
        work: format!("`warm` of a closure of {ASKED} paths through a daemon's socket"),
        against: "`nix-store --check-validity` of its root".to_owned(),
        ours,
        theirs: nix,
        aim: "at most 0.2".to_owned(),
    });
    Ok(())
}

/// `check` and `status` over a small and over a large lower store.
fn objects_above(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("check and status with {ABOVE} objects above");
    let (small, large) = (GROWTH[0], GROWTH[GROWTH.len() - 1]);
    let mut stores = Vec::new();
    for paths in [small, large] {
        let lower = place.stores.join(of_size(paths).name());
        let text = format!("{}?read-only=true", lower.display());
        let store = Store::new(place, &format!("above-{paths}"), &text, "")?;
        store.anew()?;
        store.down();
        // What another store has: the names are of another seed.
        let above = place.stores.join(above().name());
        let upper = store.directory.join("upper");
        let copy = "cd \"$0\" && find . -mindepth 1 -maxdepth 1 ! -name .links -print0 \
                    | xargs -0 cp -a -t \"$1\"";
        measure::time(
            Command::new("sh")
                .args(["-c", copy])
                .args([&above.join("nix/store"), &upper]),
        )?;
        let rows = format!(
            "attach 'file:{}?immutable=1' as above;
             insert into ValidPaths select * from above.ValidPaths;
             insert into Refs select * from above.Refs;
             pragma wal_checkpoint(truncate);",
            above.join("nix/var/nix/db/db.sqlite").display()
        );
        sql(&store.database(), &rows)?;
        measure::time(&mut store.overstore(&["up"]))?;
        stores.push(store);
    }
    for command in ["check", "status"] {
        let mut times = [Times::default(), Times::default()];
        for _ in 0..ROUNDS * 3 {
            for (store, times) in stores.iter().zip(&mut times) {
                times.push(measure::time(&mut store.overstore(&[command]))?);
            }
        }
        let [few, many] = times;
        contests.push(Contest {
            work: format!("`{command}`, {ABOVE} objects above, {large} below"),
            against: format!("the same, {small} below"),
            ours: many,
            theirs: few,
            aim: "1: no slower".to_owned(),
        });
    }
    Ok(())
}

/// The store whose objects are above.
pub fn above() -> Recipe {
    Recipe {
        seed: 2,
        paths: ABOVE,
        ..Recipe::default()
    }
}

/// Hashes everything in the upper layer: overstore, Nix, and sha256sum.
fn contents(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("the contents of {} MiB", HASHED * 2 * 16);
    let lower = place.stores.join(of_size(GROWTH[0]).name());
    let text = format!("{}?read-only=true", lower.display());
    let store = Store::new(place, "contents", &text, "")?;
    store.anew()?;
    let new = place.scratch.join("new");
    fs::create_dir(&new)?;
    let fill = format!(
        "set -e; cd \"$0\"
         for i in $(seq {HASHED}); do
             head -c 16M /dev/urandom >file-$i
             mkdir directory-$i && head -c 16M /dev/urandom | split -b 64K - directory-$i/
         done"
    );
    measure::time(Command::new("sh").arg("-c").arg(fill).arg(&new))?;
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&new)? {
        names.push(entry?.path());
    }
    measure::time(store.nix(&["--add"]).args(&names))?;
    fs::remove_dir_all(&new)?;
    let (mut ours, mut nix, mut limit) = <(Times, Times, Times)>::default();
    let sums = "find \"$0\" -type f -print0 | xargs -0 -P \"$(nproc)\" -n 32 sha256sum";
    for _ in 0..ROUNDS {
        ours.push(measure::time(
            &mut store.overstore(&["check", "--contents"]),
        )?);
        nix.push(measure::time(
            &mut store.nix(&["--verify", "--check-contents"]),
        )?);
        let mut sums_of_all = Command::new("sh");
        sums_of_all
            .args(["-c", sums])
            .arg(store.directory.join("upper"));
        limit.push(measure::time(&mut sums_of_all)?);
    }
    let work = format!("`check --contents` of {} MiB", HASHED * 2 * 16);
    contests.push(Contest {
        work: work.clone(),
        against: "`nix-store --verify --check-contents`".to_owned(),
        ours: ours.clone(),
        theirs: nix,
        aim: "at most 0.56".to_owned(),
    });
    contests.push(Contest {
        work,
        against: "`sha256sum`, a process for each core".to_owned(),
        ours,
        theirs: limit,
        aim: "at most 1.11".to_owned(),
    });
    Ok(())
}

fn growth(place: &Place) -> Result<Vec<Growth>> {
    let mut growth = Vec::new();
    for paths in GROWTH {
        eprintln!("growth: {paths} paths");
        let lower = place.stores.join(of_size(paths).name());
        let text = format!("{}?read-only=true", lower.display());
        let store = Store::new(place, &format!("growth-{paths}"), &text, "")?;
        let commands: [&[&str]; 3] = [&["warm", "--all"], &["check"], &["status"]];
        let (mut seconds, mut peaks) = ([0.0; 3], [0; 3]);
        store.anew()?;
        for (command, peak) in commands.iter().zip(&mut peaks) {
            *peak = measure::peak(&store.overstore(command))?;
        }
        store.anew()?;
        for (command, seconds) in commands.iter().zip(&mut seconds) {
            *seconds = measure::time(&mut store.overstore(command))?;
        }
        growth.push(Growth {
            paths,
            seconds,
            peaks,
        });
    }
    Ok(growth)
}

/// What Nix's collector costs: it copies the metadata of everything below up, and drops it again
/// where nothing roots it.
fn collections(place: &Place) -> Result<Vec<(String, f64)>> {
    eprintln!("collecting garbage over {COLLECTED} paths");
    let lower = place.stores.join(of_size(COLLECTED).name());
    let text = format!("{}?read-only=true", lower.display());
    // Without this, Nix's collector can fail on what it dropped itself. With roots it does not, and
    // going through their closures would take Nix minutes.
    let no_cache = "[parameters]\npath-info-cache-size = 0\n";
    let rootless = Store::new(place, "rootless", &text, no_cache)?;
    let rooted = Store::new(place, "rooted", &text, "")?;
    let mut collections = Vec::new();
    for (store, state, words) in [
        (&rootless, "before `warm`", None),
        (
            &rootless,
            "after `warm --all`",
            Some(&["warm", "--all"][..]),
        ),
        (
            &rooted,
            "after `warm --all --keep`",
            Some(&["warm", "--all", "--keep"]),
        ),
    ] {
        store.anew()?;
        if let Some(words) = words {
            measure::time(&mut store.overstore(words))?;
        }
        let seconds = measure::time(&mut store.nix(&["--gc"]))?;
        collections.push((format!("{COLLECTED} paths below, {state}"), seconds));
    }
    Ok(collections)
}
