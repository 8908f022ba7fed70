//! Stores of one's own, without root, beside what one would do by hand.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::generator::{Recipe, Result};
use crate::inside::Place;
use crate::measure::{self, Times};
use crate::metadata::{Contest, Daemon, ROOT, of_size, with_root};

/// Paths below where nothing of them is used.
const BELOW: u32 = 1_000;
/// Paths of the closure that is used.
const CLOSURE: u32 = 3_000;
/// Stores at once.
const CROWD: u32 = 100;
/// How often a command runs that is done at once, and one that takes longer.
const ROUNDS: u32 = 30;
const FEW: u32 = 5;
/// An ordinary user of a World.
const ALICE: u32 = 1000;
/// Where that user's files are, in memory.
const HERE: &str = "/mnt/memory/own";

/// Everything that was measured.
#[derive(Serialize, Deserialize)]
pub struct Own {
    pub contests: Vec<Contest>,
    /// Seconds until the last of many stores was gone that were made at once.
    pub crowd: f64,
    /// KiB that the largest of them took in memory, beside its objects.
    pub largest: u64,
}

/// The stores that this needs.
pub fn recipes() -> impl Iterator<Item = Recipe> {
    [BELOW, CLOSURE].into_iter().map(of_size)
}

pub fn measure(place: &Place) -> Result<Own> {
    fs::create_dir_all(HERE)?;
    chown(HERE, Some(ALICE), Some(ALICE))?;
    fs::set_permissions(&place.scratch, fs::Permissions::from_mode(0o755))?;
    let lower = place.stores.join(of_size(BELOW).name());
    let mut contests = vec![from_nothing(&lower)?, joining(&lower)?];
    first_use(place, &mut contests)?;
    let (crowd, largest) = crowd(&lower)?;
    Ok(Own {
        contests,
        crowd,
        largest,
    })
}

/// A command of the ordinary user.
fn by_alice<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let program = words.next();
    let program = program.as_ref().map_or("true".as_ref(), AsRef::as_ref);
    let mut command = Command::new(program);
    command
        .args(words)
        .uid(ALICE)
        .gid(ALICE)
        .current_dir(HERE)
        .env("HOME", HERE)
        .env("XDG_STATE_HOME", HERE);
    command
}

fn ephemeral(lower: &str, more: &[&str], words: &[&str]) -> Command {
    let mut command = by_alice(["overstore", "exec", "--ephemeral", "--lower", lower]);
    command.args(more).arg("--").args(words);
    command
}

fn read_only(lower: &Path) -> String {
    format!("{}?read-only=true", lower.display())
}

/// Runs one and the other in turns; once before it counts.
fn in_turns(
    rounds: u32,
    mut ours: impl FnMut(u32) -> Command,
    mut theirs: impl FnMut(u32) -> Command,
) -> Result<[Times; 2]> {
    let mut times = [Times::default(), Times::default()];
    for round in 0..=rounds {
        for turn in 0..2 {
            let which = (round + turn) as usize % 2;
            let mut command = if which == 0 {
                ours(round)
            } else {
                theirs(round)
            };
            let seconds = measure::time(&mut command)?;
            if round > 0 {
                times[which].push(seconds);
            }
        }
    }
    Ok(times)
}

/// A new store, for a command that does nothing.
fn from_nothing(lower: &Path) -> Result<Contest> {
    eprintln!("ephemeral stores, one after the other");
    let empty = format!("{HERE}/empty.sqlite");
    let schema = format!(
        "sqlite3 'file:{}/nix/var/nix/db/db.sqlite?immutable=1' .schema | grep -v sqlite_sequence \
         | sqlite3 {empty}",
        lower.display()
    );
    measure::time(&mut by_alice(["sh", "-c", &schema]))?;
    let by_hand = format!(
        "cd {HERE}; mkdir -p $0/upper $0/work $0/merged $0/state/db
         mount -t overlay overlay -o userxattr,lowerdir={}/nix/store,upperdir=$0/upper,workdir=$0/work \
             $0/merged
         cp {empty} $0/state/db/db.sqlite
         exec true",
        lower.display()
    );
    let text = read_only(lower);
    let [ours, theirs] = in_turns(
        ROUNDS,
        |_| ephemeral(&text, &[], &["true"]),
        |round| {
            let directory = format!("by-hand-{round}");
            by_alice(["unshare", "-Urm", "sh", "-ec", &by_hand, &directory])
        },
    )?;
    Ok(Contest {
        work: "`exec --ephemeral -- true`".to_owned(),
        against:
            "`unshare -Urm`, directories, `mount -t overlay`, an empty database copied, `true`"
                .to_owned(),
        ours,
        theirs,
        aim: "at most 1.5".to_owned(),
    })
}

/// A command in a store that is set up already.
fn joining(lower: &Path) -> Result<Contest> {
    eprintln!("joining a store");
    let description = PathBuf::from(HERE).join("mine.toml");
    fs::write(
        &description,
        format!("lower-store = {:?}\n", read_only(lower)),
    )?;
    let description = description.display().to_string();
    let exec = |words: &[&str]| {
        let mut command = by_alice(["overstore", "exec", &description, "--"]);
        command.args(words);
        command
    };
    let mut running = exec(&["sh", "-c", "echo $$; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut process = String::new();
    let out = running.stdout.take().ok_or("piped")?;
    BufReader::new(out).read_line(&mut process)?;
    let target = format!("--target={}", process.trim());
    let [ours, theirs] = in_turns(
        ROUNDS,
        |_| exec(&["true"]),
        |_| {
            by_alice([
                "nsenter",
                &target,
                "--user",
                "--mount",
                "--preserve-credentials",
                "true",
            ])
        },
    )?;
    drop(running.stdin.take());
    running.wait()?;
    Ok(Contest {
        work: "`exec` of a store that runs".to_owned(),
        against: "`nsenter`".to_owned(),
        ours,
        theirs,
        aim: "at most 2".to_owned(),
    })
}

/// What a closure's first use costs, from the start of the command to its end.
fn first_use(place: &Place, contests: &mut Vec<Contest>) -> Result<()> {
    eprintln!("the first use of a closure of {CLOSURE} paths");
    let lower = with_root(place, CLOSURE)?;
    let socket = Path::new("/run/own.socket");
    let _daemon = Daemon::start(lower.as_os_str(), socket)?;
    let through_daemon = format!("unix://{}?root={}", socket.display(), lower.display());
    for (text, how) in [
        (through_daemon, "through a daemon's socket"),
        (read_only(&lower), "from a database"),
    ] {
        let used = ["nix-store", "--check-validity", ROOT];
        let [ours, theirs] = in_turns(
            FEW,
            |_| ephemeral(&text, &["--warm", ROOT], &used),
            |_| ephemeral(&text, &[], &used),
        )?;
        contests.push(Contest {
            work: format!(
                "`exec --ephemeral --warm` and `nix-store --check-validity` of a closure of {CLOSURE} \
                 paths, {how}"
            ),
            against: "the same without `--warm`".to_owned(),
            ours,
            theirs,
            aim: "at most 0.1".to_owned(),
        });
    }
    fs::remove_dir_all(lower)?;
    Ok(())
}

/// Many at once, each of which adds a file: seconds, and KiB of the largest.
fn crowd(lower: &Path) -> Result<(f64, u64)> {
    eprintln!("{CROWD} ephemeral stores at once");
    let text = read_only(lower);
    let script = "nix-store --add /etc/passwd >/dev/null
        du -skx --exclude=upper ${OVERSTORE_STATE%/state}";
    let start = Instant::now();
    let mut running = Vec::new();
    for _ in 0..CROWD {
        let mut one = ephemeral(&text, &[], &["sh", "-ec", script]);
        running.push(one.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    let mut largest = 0;
    for one in running {
        let output = one.wait_with_output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let told = String::from_utf8(output.stdout)?;
        let size = told.split_whitespace().next().ok_or("no size")?;
        largest = largest.max(size.parse()?);
    }
    Ok((start.elapsed().as_secs_f64(), largest))
}
