//! Long work at a terminal: its steps and bars, and what an interrupt tells. Each piece of work is held
//! where it waits for somebody, so that it is under way however fast the machine is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::support::owner::{LIVE, Owner};
use crate::support::{Example, Outcome, World, wait_until};

/// A terminal that shows nothing new for so long shows nothing any more.
const HANG: Duration = Duration::from_secs(120);
/// One that has shown so many bytes will not show what is waited for.
const MOST_SHOWN: usize = 1 << 20;

/// A command at a terminal.
struct Terminal {
    keys: File,
    child: Child,
    screen: Receiver<u8>,
    shown: Vec<u8>,
}

impl Terminal {
    fn run(world: &World, command: &str) -> Terminal {
        world.ok(["sh", "-c", "rm -f /run/keys; mkfifo /run/keys"]);
        let keys = OpenOptions::new()
            .read(true)
            .write(true)
            .open(world.path("/run/keys"))
            .unwrap();
        let typed = format!(
            "exec script -qec 'stty cols 100 rows 30; exec {command}' /dev/null </run/keys"
        );
        let command = world.command(["sh", "-c", &typed]).env("TERM", "xterm");
        let mut child = command.spawn();
        let mut screen = child.stdout.take().unwrap();
        let (shows, screen_shows) = channel();
        thread::spawn(move || {
            let mut byte = [0];
            while matches!(screen.read(&mut byte), Ok(1)) && shows.send(byte[0]).is_ok() {}
        });
        Terminal {
            keys,
            child,
            screen: screen_shows,
            shown: Vec::new(),
        }
    }

    /// Reads until the screen has shown this.
    fn until(&mut self, text: &str) {
        while !self.shown().contains(text) {
            match self.screen.recv_timeout(HANG) {
                Ok(byte) => self.shown.push(byte),
                Err(_) => panic!("no {text:?} in {}", self.shown()),
            }
            if self.shown.len() > MOST_SHOWN {
                panic!("no {text:?} in {}", self.shown());
            }
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Presses Ctrl-C, and gives all that was shown until the end, and the exit code as a shell has it.
    fn interrupt(mut self) -> (String, Option<i32>) {
        self.keys.write_all(b"\x03").unwrap();
        while let Ok(byte) = self.screen.recv_timeout(HANG) {
            self.shown.push(byte);
        }
        let code = self.child.wait().unwrap().code();
        (self.shown().replace('\r', ""), code)
    }
}

/// Holds something until it is dropped.
struct Held(Vec<Child>);

impl Drop for Held {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Holds a lock file.
fn hold(world: &World, file: &str) -> Held {
    world.ok(["rm", "-f", "/run/held"]);
    let script = "touch /run/held; exec sleep infinity";
    // Without a child, which would hold it on.
    let flock = ["flock", "--no-fork", file, "sh", "-c", script];
    let child = world.command(flock).spawn();
    wait_until("it is locked", || world.path("/run/held").exists());
    Held(vec![child])
}

/// Holds the upper database for writing.
fn hold_database(world: &World) -> Held {
    let database = format!("{}/db/db.sqlite", Example::STATE);
    world.ok([
        "sh",
        "-c",
        "rm -f /run/locked /run/statements; mkfifo /run/statements",
    ]);
    let script = "exec sqlite3 \"$0\" </run/statements";
    let writer = world.command(["sh", "-c", script, &database]).spawn();
    let statements = "begin immediate;\\n.shell touch /run/locked\\n";
    let script = format!("exec >/run/statements; printf '{statements}'; exec sleep infinity");
    let kept_open = world.command(["sh", "-c", &script]).spawn();
    wait_until("it is locked", || world.path("/run/locked").exists());
    Held(vec![writer, kept_open])
}

/// Runs a command at a terminal until it has shown all of `shows`, interrupts it, and expects that it
/// told all of `tells` then and ended as the interrupt ends a process.
#[track_caller]
fn interrupted(world: &World, command: &str, shows: &[&str], tells: &[&str]) {
    let mut terminal = Terminal::run(world, command);
    for text in shows {
        terminal.until(text);
    }
    let (shown, code) = terminal.interrupt();
    for text in tells {
        assert!(shown.contains(text), "{command}: no {text:?} in {shown}");
    }
    let again = format!("remedy: {command}\n");
    assert!(shown.ends_with(&again), "{command}: {shown}");
    assert_eq!(code, Some(130), "{command}: {shown}");
}

#[test]
fn up_tells_which_steps_are_done() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let lock = format!("{}/db/big-lock", Example::STATE);
    world.ok(["install", "-D", "-m", "600", "/dev/null", &lock]);
    let held = hold(&world, &lock);
    let step = "make the upper database";
    interrupted(
        &world,
        "overstore up example",
        &[step],
        &[
            "done: make the directory /mnt/example/workdir",
            "interrupted at: make the upper database",
            "what is done stays, and the next run does the rest",
        ],
    );
    drop(held);
    example.up();
}

#[test]
fn warm_and_up_with_it_show_a_bar() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("[warm]\nall = true");
    example.up();
    let paths = example.lower.paths().len();
    let held = hold_database(&world);
    let bar = format!("0/{paths} paths");
    let step = format!(
        "interrupted at: copying metadata from the lower store (0 of {paths} paths); the copy is either complete"
    );
    interrupted(
        &world,
        "overstore warm --all example",
        &["copying metadata from the lower store", &bar, "waiting for"],
        &[&step],
    );
    example.command("down").ok();
    interrupted(
        &world,
        "overstore up example",
        &[&bar],
        &["done: mount the overlay at", "interrupted at: copying"],
    );

    // With --json, and where standard error is no terminal, there is no bar.
    let mut terminal = Terminal::run(&world, "overstore warm --all --json example");
    terminal.until("waiting for");
    let (shown, code) = terminal.interrupt();
    assert_eq!(code, Some(130), "{shown}");
    assert!(shown.contains("interrupted at: copying"), "{shown}");
    assert!(!shown.contains(&bar), "{shown}");
    // Interrupted when it has told what it waits for.
    let script = "(while [ -e /proc/$$ ] && ! grep -q 'waiting for' /run/told; do sleep 0.05; done
                   kill -INT $$) >/dev/null 2>&1 &
                  exec overstore warm --all example 2>/run/told";
    let outcome = world.command(["sh", "-c", script]).run();
    assert_eq!(outcome.signal(), Some(2), "{outcome}");
    assert_eq!(outcome.stdout(), "");
    let told = String::from_utf8(world.read("/run/told")).unwrap();
    assert!(
        told.starts_with("waiting for ") && told.lines().count() == 1,
        "{told}"
    );
    drop(held);
    let outcome = example.command("warm").args(["--all"]).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

#[test]
fn gc_tells_what_is_deleted() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/garbage", "garbage");
    example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    let held = hold(&world, &format!("{}/gc.lock", Example::STATE));
    interrupted(
        &world,
        "overstore gc example",
        &["Nix deletes 1 object", "0/1 objects"],
        &[
            "done: choosing what is garbage",
            "interrupted at: Nix deletes 1 object (0 of 1 objects); what was deleted is gone",
        ],
    );
    drop(held);
    let outcome = example.run("gc");
    assert!(outcome.stdout().contains("1 object"), "{outcome}");
}

#[test]
fn publish_tells_what_consumers_see() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    owner.root("shell", &owner.lower.path("mksh-static"));
    let held = hold(&world, &format!("{LIVE}/nix/var/nix/gc.lock"));
    interrupted(
        &world,
        "overstore publish main",
        &["opening the publication", "waiting for"],
        &["interrupted at: opening the publication; consumers see either"],
    );
    drop(held);
    assert!(owner.published().contains("generation 1 is current"));
}

#[test]
fn reconcile_says_how_the_store_is_left() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    let held = hold(&world, &world.lock_file(Example::WORKDIR));
    interrupted(
        &world,
        "overstore reconcile example",
        &[
            "comparing the upper store with the lower one",
            "waiting for",
        ],
        &["interrupted at: comparing the upper store with the lower one; nothing is lost"],
    );
    drop(held);
    let outcome = example.run("reconcile");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

/// Hashing ends early instead, and what it came to is printed.
#[test]
fn check_tells_how_much_is_hashed() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/large", "large");
    let added = example.nix(&["nix-store", "--add", "/tmp/large"]).ok();
    // Sparse: it takes no space, and long to hash.
    let object = added.trim_end().replace("/nix/store", Example::UPPER);
    world.ok(["truncate", "--size=1T", &object]);
    let mut terminal = Terminal::run(&world, "overstore check --contents example");
    terminal.until("hashing objects");
    terminal.until("iB/");
    let (shown, code) = terminal.interrupt();
    assert_eq!(code, Some(3), "{shown}");
    assert!(
        shown.contains("interrupted: 0 of 1 objects were hashed"),
        "{shown}"
    );
}

/// Of several stores, the rest is not begun with, and that is said.
#[test]
fn several_stores_end_with_the_one_that_is_interrupted() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    world.write("/tmp/garbage", "garbage");
    example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    let held = hold(&world, &format!("{}/gc.lock", Example::STATE));
    let mut terminal = Terminal::run(&world, "overstore gc example other");
    terminal.until("0/1 objects");
    let (shown, code) = terminal.interrupt();
    assert_eq!(code, Some(130), "{shown}");
    assert!(
        shown.contains("interrupted at: Nix deletes 1 object"),
        "{shown}"
    );
    let told = "interrupted: 1 of 2 stores were started\n";
    assert!(shown.ends_with(told), "{shown}");
    drop(held);
    let outcome: Outcome = example.run("gc");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}
