//! A daemon below that is hostile, or broken: a table of what it does, and every command that talks to
//! it. Each ends, by itself and with a documented exit code, shows nothing that acts on a terminal, and
//! leaves a store that is as good as before.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::support::{Example, Outcome, World, sample};

/// What the lower store's honest daemon listens on, and what the store is described with.
const HONEST: &str = "/run/honest.socket";
const HOSTILE: &str = "/run/hostile.socket";

/// Bytes of the worker protocol: the daemon's magic number and its versions.
const MAGIC: u64 = 0x6478_696f;
const VERSION: u64 = 1 << 8 | 38;

/// A daemon's behaviour.
#[derive(Clone, Copy)]
enum Does {
    /// It says this, whatever it is asked, and goes on listening until the client ends.
    Says(fn() -> Vec<u8>),
    /// It says this again and again.
    Repeats(fn() -> Vec<u8>),
    /// It says this, byte by byte, slowly.
    Trickles(fn() -> Vec<u8>),
    /// It hangs up.
    Closes,
    /// It is the honest one.
    Honest,
    /// It is the honest one, but for what is done to its words after the handshake: the words, and how
    /// many bytes of them came before. `false` hangs up.
    Changes(fn(&mut Vec<u8>, usize) -> bool),
}

use Does::{Changes, Closes, Honest, Repeats, Says, Trickles};

/// The length of an honest handshake, at least: what comes after it are answers.
const HANDSHAKE: usize = 64;

/// A behaviour's name, what it is, and whether a command waits until its patience is over.
const BEHAVIOURS: &[(&str, Does, bool)] = &[
    ("silence", Says(Vec::new), true),
    ("slow bytes", Trickles(|| numbers(&[MAGIC; 10_000])), true),
    ("closing at once", Closes, false),
    (
        "another protocol",
        Says(|| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        false,
    ),
    (
        "a wrong magic number",
        Says(|| numbers(&[MAGIC + 1, VERSION])),
        false,
    ),
    (
        "an old protocol",
        Says(|| numbers(&[MAGIC, 1 << 8 | 14])),
        false,
    ),
    (
        "a protocol of the future",
        Says(|| numbers(&[MAGIC, 2 << 8])),
        false,
    ),
    ("an empty handshake", Says(|| numbers(&[MAGIC])), true),
    (
        "features without number",
        Says(|| numbers(&[MAGIC, VERSION, u64::MAX])),
        false,
    ),
    (
        "a string of all memory",
        Says(|| numbers(&[MAGIC, VERSION, 0, u64::MAX])),
        false,
    ),
    (
        "strings without end",
        Repeats(|| [numbers(&[MAGIC, VERSION, 0, 1 << 20]), vec![b'a'; 1 << 20]].concat()),
        false,
    ),
    ("zeros without end", Repeats(|| vec![0; 1 << 16]), false),
    (
        "messages without end",
        Repeats(|| {
            let said = [numbers(&[0x6f6c_6d67, 1 << 16]), vec![b'm'; 1 << 16]].concat();
            [numbers(&[MAGIC, 1 << 8 | 30]), said].concat()
        }),
        false,
    ),
    (
        "an error that acts on the terminal",
        Says(|| {
            let text = b"error: \x1b[2J\x1b]0;owned\x07\r\nremedy: rm -rf /\n\xe2\x80\xae\xff";
            let mut said = numbers(&[MAGIC, 1 << 8 | 21, 0x6378_7470, text.len() as u64]);
            said.extend_from_slice(text);
            said.resize(said.len().next_multiple_of(8), 0);
            said.extend(numbers(&[1]));
            said
        }),
        false,
    ),
    (
        "closing after the handshake",
        Changes(|_, before| before < HANDSHAKE),
        false,
    ),
    (
        "closing in an answer",
        Changes(|words, before| {
            words.truncate(900_usize.saturating_sub(before).max(8));
            before < 900
        }),
        false,
    ),
    (
        "an answer cut in a number",
        Changes(|words, before| {
            if before >= HANDSHAKE {
                words.truncate(words.len() - words.len().min(3));
            }
            before < 4 * HANDSHAKE
        }),
        false,
    ),
    (
        "counts without end",
        Changes(|words, before| after(before, || each(words, |_| u64::MAX))),
        false,
    ),
    (
        "counts that are large",
        Changes(|words, before| after(before, || each(words, |_| 1 << 31))),
        false,
    ),
    (
        "nothing but zeros",
        Changes(|words, before| after(before, || each(words, |_| 0))),
        false,
    ),
    (
        "nothing but ones",
        Changes(|words, before| after(before, || each(words, |_| 1))),
        false,
    ),
    (
        "numbers off by one",
        Changes(|words, before| {
            after(before, || {
                each(
                    words,
                    |number| if number < 1 << 32 { number + 1 } else { number },
                );
            })
        }),
        false,
    ),
    (
        "another store's paths",
        Changes(|words, before| after(before, || replace(words, b"/nix/store/", b"/gnu/store/"))),
        false,
    ),
    (
        "paths that lead out",
        Changes(|words, before| after(before, || replace(words, b"/nix/store/", b"/../../etc/"))),
        false,
    ),
    (
        "paths that act on the terminal",
        Changes(|words, before| {
            after(before, || replace(words, b"/nix/store/", b"/\x1b[2Jstore/"))
        }),
        false,
    ),
    (
        "names that are none",
        Changes(|words, before| after(before, || replace(words, b"chain-", b"ch/in\0"))),
        false,
    ),
    (
        "other answers than were asked for",
        Changes(|words, before| after(before, || replace(words, b"chain-1", b"chain-2"))),
        false,
    ),
    (
        "hashes that are none",
        Changes(|words, before| {
            after(before, || {
                for byte in words.iter_mut().filter(|byte| byte.is_ascii_hexdigit()) {
                    *byte = b'x';
                }
            })
        }),
        false,
    ),
    (
        "each answer twice",
        Changes(|words, before| after(before, || words.extend_from_within(..))),
        false,
    ),
    (
        "nonsense in each answer",
        Changes(|words, before| {
            after(before, || {
                let mut state = before as u64 | 1;
                for byte in words.iter_mut() {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    if state >> 61 == 0 {
                        *byte = (state >> 32) as u8;
                    }
                }
            })
        }),
        false,
    ),
];

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// Does something to answers, and leaves the handshake.
fn after(before: usize, change: impl FnOnce()) -> bool {
    if before >= HANDSHAKE {
        change();
    }
    true
}

/// Changes each number of eight bytes.
fn each(words: &mut [u8], change: impl Fn(u64) -> u64) {
    for word in words.chunks_exact_mut(8) {
        let number = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        word.copy_from_slice(&change(number).to_le_bytes());
    }
}

fn replace(words: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    for at in 0..words.len().saturating_sub(from.len() - 1) {
        if words[at..].starts_with(from) {
            words[at..at + to.len()].copy_from_slice(to);
        }
    }
}

/// Listens as the hostile daemon, until nobody can connect any more.
fn listen(world: &World, does: Does) {
    let path = world.path(HOSTILE);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket in the World");
    let honest = world.path(HONEST);
    // Ends with the test's process.
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let honest = honest.clone();
            thread::spawn(move || behave(does, client, honest));
        }
    });
}

/// One conversation. A client that has gone away is no fault.
fn behave(does: Does, mut client: UnixStream, honest: PathBuf) {
    let hear_out = |client: &mut UnixStream| {
        let mut heard = [0; 4096];
        while matches!(client.read(&mut heard), Ok(1..)) {}
    };
    match does {
        Closes => {}
        Says(words) => {
            let _ = client.write_all(&words());
            hear_out(&mut client);
        }
        Repeats(words) => {
            let words = words();
            while client.write_all(&words).is_ok() {}
        }
        Trickles(words) => {
            for byte in words() {
                if client.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(300));
            }
        }
        Honest => relay(|_, _| true, None, client, honest),
        Changes(change) => relay(change, Some(PATIENCE), client, honest),
    }
}

/// How long a client is left waiting for more than there is: the commands themselves wait for minutes.
const PATIENCE: Duration = Duration::from_secs(2);

fn relay(
    change: fn(&mut Vec<u8>, usize) -> bool,
    patience: Option<Duration>,
    mut client: UnixStream,
    honest: PathBuf,
) {
    let Ok(mut daemon) = UnixStream::connect(honest) else {
        return;
    };
    let (Ok(mut asks), Ok(mut asked)) = (client.try_clone(), daemon.try_clone()) else {
        return;
    };
    thread::spawn(move || {
        let _ = std::io::copy(&mut asks, &mut asked);
        let _ = asked.shutdown(std::net::Shutdown::Both);
    });
    daemon.set_read_timeout(patience).expect("a time");
    let mut before = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = daemon.read(&mut buffer) {
        let mut words = buffer[..length].to_vec();
        let goes_on = change(&mut words, before);
        before += length;
        if client.write_all(&words).is_err() || !goes_on {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = daemon.shutdown(std::net::Shutdown::Both);
}

/// It ended by itself, and nothing that it shows acts on a terminal.
fn assert_well_behaved(outcome: &Outcome, what: &str) {
    assert!(
        matches!(outcome.code(), Some(0..=3 | 125)),
        "{what}: {outcome}"
    );
    for said in [&outcome.out, &outcome.err] {
        assert!(said.len() < 100_000, "{what}: {} bytes", said.len());
        let hostile = said
            .iter()
            .find(|byte| byte.is_ascii_control() && **byte != b'\n');
        assert_eq!(hostile, None, "{what}: {outcome}");
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains("panicked"), "{what}: {outcome}");
        for shown in ["\u{202e}", "\nremedy: rm -rf"] {
            assert!(!said.contains(shown), "{what}: {outcome}");
        }
    }
}

/// Every row that was copied is one of a store path.
fn assert_sound(world: &World, what: &str) {
    let database = format!("{}/db/db.sqlite", Example::STATE);
    let query = "pragma integrity_check; pragma foreign_key_check; \
                 select quote(path) from ValidPaths where path not glob '/nix/store/*-*' \
                 or length(path) < 44 or substr(path, 12) glob '*[^0-9a-zA-Z+._?=-]*'; \
                 select quote(hash) from ValidPaths where hash not glob 'sha256:*' or length(hash) != 71";
    assert_eq!(world.ok(["sqlite3", &database, query]), "ok\n", "{what}");
}

/// Security cases W1 and B1, and their neighbours.
#[test]
fn whatever_a_daemon_does_every_command_ends_well() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let lower = format!("unix://{HOSTILE}?root=/mnt/example/store-a");
    let text = text.replace("/mnt/example/store-a?read-only=true", &lower);
    world.write(Example::CONFIGURATION, text);
    let _daemon = world.nix_daemon("/mnt/example/store-a", HONEST);
    listen(&world, Honest);
    example.up();
    let path = example.lower.path("chain-3");
    let commands: [&[&str]; 7] = [
        &["check", "--lower", "example"],
        &["status", "example"],
        &["plan", "example"],
        &["up", "example"],
        &["warm", "example", &path],
        &["warm", "--all", "--keep", "example"],
        &["warm", "--forget", "example"],
    ];
    let (waits, rest): (Vec<_>, Vec<_>) =
        BEHAVIOURS.iter().copied().partition(|(_, _, waits)| *waits);
    // Those that have to be waited for are few, and only where a wait is short.
    for (name, does, waits) in sample(waits, 1).into_iter().chain(rest) {
        listen(&world, does);
        for words in commands.iter().take(if waits { 3 } else { commands.len() }) {
            let what = format!("{name}: {words:?}");
            assert_well_behaved(&world.overstore(*words).run(), &what);
            assert_sound(&world, &what);
        }
    }
    // With an honest daemon it is what it was.
    listen(&world, Honest);
    world.overstore(["warm", "--all", "example"]).ok();
    let check = example.run("check");
    assert_eq!(check.code(), Some(0), "{check}");
}
