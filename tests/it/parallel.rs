//! Many at once.

use crate::support::{Example, Outcome, World};

const MANY: usize = 20;

#[test]
fn of_many_that_set_one_store_up_one_works_and_the_others_find_it_done() {
    for world in World::each() {
        // What follows the mount takes its time, and the others do not wait for that.
        let example = world.example("[warm]\nall = true\n");
        let running: Vec<_> = (0..MANY).map(|_| example.command("up").spawn()).collect();
        let outcomes: Vec<_> = running.into_iter().map(Outcome::of).collect();
        for outcome in &outcomes {
            assert_eq!(outcome.code(), Some(0), "{outcome}");
        }
        let mounted = |outcome: &&Outcome| outcome.stdout().contains("+ mount the overlay");
        assert_eq!(outcomes.iter().filter(mounted).count(), 1);
        assert_eq!(example.mounts("TARGET"), [Example::REAL]);
        assert!(example.up().ends_with("nothing changed\n"));
        assert_eq!(world.records().len(), 1);
        example.nix(&["nix", "store", "info"]).ok();
    }
}

#[test]
fn set_ups_and_take_downs_at_once_leave_one_or_the_other() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let commands = ["up", "down"].into_iter().cycle().take(MANY);
    let running: Vec<_> = commands
        .map(|command| example.command(command).spawn())
        .collect();
    for outcome in running.into_iter().map(Outcome::of) {
        // A `down` may find another process that looks at the mount; nothing else goes wrong.
        let busy = outcome.code() == Some(3) && outcome.stderr().contains("is in use");
        assert!(outcome.code() == Some(0) || busy, "{outcome}");
    }
    example.up();
    assert_eq!(example.mounts("TARGET"), [Example::REAL]);
    example.command("down").ok();
}

#[test]
fn of_many_stores_that_share_an_upper_layer_one_comes_up() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    let mut running = Vec::new();
    for number in 0..8 {
        let text = text.replace(
            "/mnt/example/workdir",
            &format!("/mnt/example/work-{number}"),
        );
        let text = text.replace("merged-store", &format!("merged-{number}"));
        world.write(format!("/etc/overstore/store-{number}.toml"), text);
        running.push(world.overstore(["up", &format!("store-{number}")]).spawn());
    }
    let outcomes: Vec<_> = running.into_iter().map(Outcome::of).collect();
    let up = outcomes.iter().filter(|outcome| outcome.code() == Some(0));
    assert_eq!(
        up.count(),
        1,
        "{}",
        outcomes.iter().map(Outcome::to_string).collect::<String>()
    );
    let mounts = world.ok([
        "sh",
        "-c",
        "grep -c upperdir=/mnt/example/store-b, /proc/self/mounts",
    ]);
    assert_eq!(mounts, "1\n");
    for outcome in outcomes.iter().filter(|outcome| outcome.code() != Some(0)) {
        let text = outcome.to_string();
        assert!(
            text.contains("upper-in-use") || text.contains("is locked by"),
            "{text}"
        );
    }
    drop(example);
}

#[test]
fn many_stores_with_common_parents_come_up_at_once() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("text");
    let mut running = Vec::new();
    for number in 0..MANY {
        let text = text.replace(
            "/mnt/example/workdir",
            &format!("/mnt/many/deep/work-{number}"),
        );
        let text = text.replace(
            "/mnt/example/store-b",
            &format!("/mnt/many/deep/upper-{number}"),
        );
        let text = text.replace(
            "/mnt/example/merged-store",
            &format!("/mnt/many/deeper/still/{number}"),
        );
        world.write(format!("/etc/overstore/store-{number}.toml"), text);
        running.push(world.overstore(["up", &format!("store-{number}")]).spawn());
    }
    for outcome in running.into_iter().map(Outcome::of) {
        assert_eq!(outcome.code(), Some(0), "{outcome}");
    }
    drop(example);
}
