//! Whoever joins a store of one's own holds its lock too, whatever those do meanwhile who were in it.

use std::process::Child;

use crate::own_store::{alice, describe, with_system_store};
use crate::support::{Outcome, Run, World, wait_until};

fn exec<'w>(world: &'w World, script: &str) -> Run<'w> {
    alice(world, ["exec", "mine", "--", "bash", "-c", script])
}

/// Whether this process has the lock, as the kernel tells it.
const HOLDS: &str = "grep -q FLOCK /proc/self/fdinfo/*";

/// Something that runs in the store until it is told to end, after it has done this.
struct Runs<'w> {
    world: &'w World,
    name: String,
    child: Child,
}

impl<'w> Runs<'w> {
    fn begin(world: &'w World, name: &str, script: &str) -> Runs<'w> {
        let gate = format!("/home/alice/{name}.gate");
        world.ok(["mkfifo", "--mode=666", &gate]);
        let script =
            format!("{script} && echo $$ >{name}.new && mv {name}.new {name} && read <{gate}");
        let child = exec(world, &script).spawn();
        let there = world.path(format!("/home/alice/{name}"));
        wait_until("it runs", || there.exists());
        Runs {
            world,
            name: name.to_owned(),
            child,
        }
    }

    fn end(self) {
        let gate = format!("echo end >/home/alice/{}.gate", self.name);
        self.world.ok(["sh", "-c", &gate]);
        let ended = Outcome::of(self.child);
        assert_eq!(ended.code(), Some(0), "{ended}");
    }
}

#[test]
fn whoever_joins_holds_the_lock() {
    let Some(world) = World::trixie() else { return };
    let (_daemon, _) = with_system_store(&world);
    describe(&world, "");
    let first = Runs::begin(&world, "first", HOLDS);
    // The one that is found has closed it by the time it is asked for it, as when it is ending.
    let joined = exec(&world, HOLDS).failing_at("pidfd_getfd", 1, "ESRCH");
    assert_eq!(joined.code(), Some(0), "{joined}");
    first.end();
    // It has closed all that it was left, and the lock is nobody's.
    let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd > 2)) && eval \"exec $fd>&-\"; done; true";
    let closed = Runs::begin(&world, "closed", close);
    let joined = Runs::begin(&world, "joined", HOLDS);
    // Of the two, one has it.
    exec(&world, HOLDS).ok();
    closed.end();
    exec(&world, HOLDS).ok();
    joined.end();
    exec(&world, HOLDS).ok();
}
