//! Every call by which a command changes anything fails once: the command ends by itself and says why,
//! and run again it ends as if nothing had been.

use crate::support::{Again, Disturbance, Example, World};

/// What there is: files, mounts, roots and rows, without what differs from run to run.
fn state(world: &World) -> String {
    let script = "cd /mnt/example; \
        find . \\( -path ./merged-store/nix/store -o -path ./store-a -o -path ./workdir/work \
        -o -name '*.overstore-new' -o -name 'db.sqlite*' -o -name state.json -o -name reserved \\) \
        -prune -o -printf '%y %m %U:%G %p %l\\n' | sort; \
        grep ' /mnt/example' /proc/self/mounts | sed s/,uuid=on//; \
        sqlite3 merged-store/nix/var/nix/db/db.sqlite \
        'select path, hash from ValidPaths order by path' 2>/dev/null || true";
    world.ok(["sh", "-c", script])
}

fn fails_once(
    world: &World,
    words: &[&str],
    about: usize,
    fresh: &dyn Fn(),
    left: &dyn Fn() -> String,
) {
    let again = Again {
        world,
        words,
        fresh,
        left,
    };
    again.ends_alike(Disturbance::Fail, about);
}

fn nothing_of_it(world: &World) {
    world.ok([
        "sh",
        "-c",
        "umount /mnt/example/merged-store/nix/store 2>/dev/null; cd /mnt/example; \
         rm -rf merged-store workdir store-b /run/overstore",
    ]);
}

#[test]
fn setting_up_and_taking_down() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("[warm]\nall = true");
    let left = || state(&world);
    let nothing = || nothing_of_it(&world);
    fails_once(&world, &["overstore", "up", "example"], 24, &nothing, &left);
    fails_once(
        &world,
        &["overstore", "exec", "example", "--", "true"],
        8,
        &nothing,
        &left,
    );
    let up = || {
        example.command("up").run();
    };
    fails_once(&world, &["overstore", "down", "example"], 8, &up, &left);
}

#[test]
fn looking() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let left = || state(&world);
    for words in [
        &["overstore", "check", "--lower", "--contents", "example"][..],
        &["overstore", "status", "--sizes", "example"],
        &["overstore", "plan", "example"],
        &["overstore", "url", "example"],
        &["overstore", "schema", "report"],
        &["overstore", "remount", "example"],
    ] {
        fails_once(&world, words, 5, &|| {}, &left);
    }
}

#[test]
fn metadata_and_garbage() {
    let Some(world) = World::trixie() else { return };
    let example = world.example("");
    example.up();
    let left = || state(&world);
    let without = || {
        example.command("warm").args(["--forget"]).run();
        let rows = "delete from DerivationOutputs; delete from Refs; delete from ValidPaths";
        world.ok(["sqlite3", &format!("{}/db/db.sqlite", Example::STATE), rows]);
    };
    let warm = ["overstore", "warm", "--all", "--keep", "example"];
    fails_once(&world, &warm, 8, &without, &left);
    let with = || {
        example.command("warm").args(["--all", "--keep"]).ok();
    };
    fails_once(
        &world,
        &["overstore", "warm", "--forget", "example"],
        6,
        &with,
        &left,
    );
    world.write("/tmp/garbage", "garbage\n");
    let garbage = || {
        example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    };
    fails_once(&world, &["overstore", "gc", "example"], 8, &garbage, &left);
    let both = || {
        example.nix(&["nix-store", "--add", "/tmp/garbage"]).ok();
    };
    fails_once(
        &world,
        &["overstore", "optimise", "example"],
        5,
        &both,
        &left,
    );
}

#[test]
fn units() {
    let Some(world) = World::trixie() else { return };
    let _example = world.example("[daemon]\nsocket = \"/run/example.socket\"");
    let left = || {
        let script = "cd /mnt/units; find . -printf '%y %m %U:%G %p %l\\n' | sort; \
                      find . -type f -exec md5sum {} + | sort";
        world.ok(["sh", "-c", script])
    };
    let fresh = || {
        world.ok(["rm", "-rf", "/mnt/units"]);
    };
    let words = [
        "overstore",
        "units",
        "--force",
        "--output",
        "/mnt/units",
        Example::CONFIGURATION,
    ];
    fails_once(&world, &words, 8, &fresh, &left);
}
