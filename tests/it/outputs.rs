//! Standard output and standard error that take nothing: the exit code still says what was found, and
//! nothing aborts.

use crate::support::{Example, Outcome, Running, World, wait_until};

/// A pipe that nobody reads, as standard output of what follows.
const NOBODY_READS: &str =
    "mkfifo /tmp/pipe; exec 3<>/tmp/pipe; exec >/tmp/pipe; exec 3>&-; rm /tmp/pipe; exec \"$@\"";

/// Security case E1, and `--help`, which ended with exit code 0 too.
#[test]
fn a_reader_that_went_away_makes_no_broken_store_a_good_one() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    for more in [&[][..], &["--json"]] {
        let check = |script: &str| {
            let words = ["bash", "-c", script, "bash"];
            example.command("check").args(more).under(words).run()
        };
        let unread = check(NOBODY_READS);
        assert_eq!(unread.code(), Some(1), "{unread}");
        let full = check("exec \"$@\" >/dev/full");
        assert_eq!(full.code(), Some(3), "{full}");
        assert!(full.stderr().contains("cannot write the result"), "{full}");
        let closed = check("exec \"$@\" >&-");
        assert_eq!(closed.code(), Some(1), "{closed}");
    }
    let help = world.run(["bash", "-c", "overstore --help >/dev/full"]);
    assert_eq!(help.code(), Some(3), "{help}");
    let help = world.run(["bash", "-c", NOBODY_READS, "bash", "overstore", "--help"]);
    assert_eq!(help.code(), Some(0), "{help}");
}

/// Security case X1.
#[test]
fn exec_that_waits_needs_no_standard_error() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    example.command("down").ok();
    // The first versions locked the work directory itself, and ended by a signal here.
    let locks = [&world.lock_file(Example::WORKDIR), Example::WORKDIR];
    let holders = locks.map(|lock| {
        let words = ["flock", "--close", lock, "sleep", "infinity"];
        let holder = Running(world.command(words).spawn());
        wait_until("the lock is held", || {
            world.run(["flock", "--nonblock", lock, "true"]).code() == Some(1)
        });
        holder
    });
    let mut exec = world
        .command(["strace", "-o", "/run/trace", "-e", "trace=write"])
        .args(["bash", "-c", "exec \"$@\" 2>/dev/full", "bash"])
        .args(["overstore", "exec", "example", "--", "true"])
        .spawn();
    let has_said_so = || world.run(["grep", "-q", "ENOSPC", "/run/trace"]).code() == Some(0);
    wait_until("it has said that it waits, or has ended", || {
        has_said_so() || exec.try_wait().expect("a child of this test").is_some()
    });
    assert!(has_said_so(), "{}", Outcome::of(exec));
    drop(holders);
    let outcome = Outcome::of(exec);
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}
