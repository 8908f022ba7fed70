//! `overstore publish --image`: a lower store in one file, on the real Nix and the real file systems.

use crate::support::owner::{LIVE, Owner, PLACE, rows};
use crate::support::{LowerStore, World, sample};

/// The kinds of images, and of the file systems in them.
const KINDS: [&str; 2] = ["squashfs", "erofs"];
/// Where images are made.
const OUT: &str = "/mnt/out";

/// The file of this kind, in its directory.
fn image(world: &World, kind: &str) -> String {
    world.mkdir(OUT);
    format!("{OUT}/lower.{kind}")
}

fn digest(world: &World, file: &str) -> String {
    let sum = world.ok(["sha256sum", file]);
    sum.split_whitespace().next().unwrap().to_owned()
}

/// A store is set up over an image that is mounted on `at`: its URL.
fn set_up_over(world: &World, name: &str, at: &str) -> String {
    world.write(
        format!("/etc/overstore/{name}.toml"),
        format!(
            "root = \"/mnt/{name}/merged\"\nlower-store = {at:?}\nlower.read-only = true\n\
             upper-layer = \"/mnt/{name}/upper\"\nworkdir = \"/mnt/{name}/work\"\n"
        ),
    );
    world.mkdir(format!("/mnt/{name}"));
    world.overstore(["up", name]).ok();
    world.overstore(["url", name]).ok().trim().to_owned()
}

/// What the roots reach is in it and nothing else; the kernel mounts it, overstore finds it fit, and
/// Nix, with its mount check on, builds on top of it.
#[test]
fn an_image_is_a_lower_store() {
    for world in World::each() {
        let owner = Owner::new(&world, "");
        owner.root("shell", &owner.lower.path("mksh-static"));
        owner.root("chain", &owner.lower.path("chain-3"));
        let unrooted = owner.add("unrooted");
        for kind in KINDS {
            let file = image(&world, kind);
            let made = owner.publish(&["--image", kind, &file]);
            assert_eq!(made.code(), Some(0), "{made}");
            let said = format!("{file}: {kind} of 4 paths, ");
            assert!(made.stdout().starts_with(&said), "{made}");
            assert_eq!(world.list(OUT).len(), 1, "{:?}", world.list(OUT));
            let at = format!("/mnt/image-{kind}");
            if !world.mount_image(kind, &file, &at) {
                continue;
            }
            let database = format!("{at}/nix/var/nix/db/db.sqlite?immutable=1");
            let valid = rows(&world, &database);
            assert_eq!(valid.len(), 4, "{valid:?}");
            assert!(!valid.contains(&unrooted), "{valid:?}");
            let objects = world.list(format!("{at}/nix/store"));
            let objects = objects.iter().filter(|name| *name != ".links");
            let objects: Vec<_> = objects.map(|it| it.to_str().unwrap()).collect();
            let names = valid.iter().map(|path| &path["/nix/store/".len()..]);
            assert_eq!(objects, names.collect::<Vec<_>>());
            let check = ["publish", "--check", &at, "--contents"];
            let found = world.overstore(check).run();
            assert_eq!(found.code(), Some(0), "{found}");
            let url = set_up_over(&world, kind, &at);
            owner.lower.add_and_build(&world, &url);
            for path in &valid {
                let nix = world.nix(["nix-store", "--verify-path", path]);
                nix.args(["--store", &url]).ok();
            }
            let check = world.overstore(["check", "--lower", "--contents", "--nix", kind]);
            let check = check.run();
            assert_eq!(check.code(), Some(0), "{check}");
            let clean = format!("{kind}: as described\n");
            assert!(check.stdout().ends_with(&clean), "{check}");
            world.ok(["rm", &file]);
        }
    }
}

/// What is in an image never changes, so there is nothing to refresh: `refresh` says so, and the way that
/// it names leads to the next image.
#[test]
fn an_image_is_not_refreshed_but_exchanged() {
    for world in World::each() {
        let owner = Owner::new(&world, "");
        owner.root("shell", &owner.lower.path("mksh-static"));
        for kind in KINDS {
            let at = format!("/mnt/image-{kind}");
            let file = image(&world, kind);
            assert_eq!(owner.publish(&["--image", kind, &file]).code(), Some(0));
            if !world.mount_image(kind, &file, &at) {
                continue;
            }
            let url = set_up_over(&world, kind, &at);
            let refused = world.overstore(["refresh", kind]).run();
            assert_eq!(refused.code(), Some(1), "{refused}");
            let why = format!(
                "the lower store directory {at}/nix/store is in an image ({kind}), whose content \
                 never changes\nremedy: unmount the store (`overstore down {kind}`), mount another \
                 image there, and put the store right over it (`overstore reconcile {kind}`)"
            );
            assert!(refused.stderr().contains(&why), "{refused}");
            let new = owner.add(&format!("new-in-{kind}"));
            owner.root(kind, &new);
            assert_eq!(owner.publish(&["--image", kind, &file]).code(), Some(0));
            world.overstore(["down", kind]).ok();
            world.ok(["umount", &at]);
            assert!(world.mount_image(kind, &file, &at));
            world.overstore(["reconcile", kind]).ok();
            world.overstore(["up", kind]).ok();
            let valid = world.nix(["nix-store", "--check-validity", &new]);
            valid.args(["--store", &url]).ok();
            world.overstore(["check", "--lower", kind]).ok();
        }
    }
}

/// Two stores have the same objects, which came in another order, at another time, and had their files'
/// modes and times changed: the images are the same bytes.
#[test]
fn the_same_objects_give_the_same_bytes() {
    for world in World::each() {
        let lower = world.lower_store("/mnt/source");
        let paths = lower.paths();
        let copy = |root: &str, paths: &[&String]| {
            let to = format!("local?root={root}");
            let copy = world.nix(["nix", "copy", "--no-check-sigs", "--to", &to]);
            copy.args(["--from", "local?root=/mnt/source"])
                .args(paths)
                .ok();
        };
        let (first, rest): (Vec<_>, Vec<_>) = paths.iter().partition(|path| path.contains("chain"));
        copy("/mnt/one", &first);
        copy("/mnt/one", &rest);
        for paths in rest.chunks(5) {
            copy("/mnt/other", paths);
        }
        copy("/mnt/other", &first);
        let database = "/mnt/other/nix/var/nix/db/db.sqlite";
        let ids = |root: &str| {
            let database = format!("{root}/nix/var/nix/db/db.sqlite");
            world.ok([
                "sqlite3",
                &database,
                "select id, path from ValidPaths order by id",
            ])
        };
        assert_ne!(ids("/mnt/one"), ids("/mnt/other"));
        let sql = "update ValidPaths set registrationTime = registrationTime + id * 1000";
        world.ok(["sqlite3", database, sql]);
        let change =
            "chmod -R u+w /mnt/other/nix/store && find /mnt/other/nix/store -exec touch -h {} +";
        world.ok(["sh", "-c", change]);
        for kind in ["squashfs", "erofs"] {
            let made = ["one", "other"].map(|name| {
                let (root, file) = (format!("/mnt/{name}"), format!("/mnt/{name}.{kind}"));
                world
                    .overstore(["publish", "--image", kind, &file, "--from", &root])
                    .args(["--all-valid", "--contents"])
                    .ok();
                digest(&world, &file)
            });
            assert_eq!(made[0], made[1], "{kind}");
        }
    }
}

/// Killed at each of its steps, there is the image of before or a whole one, never half of one, and the
/// next run makes the same and leaves nothing else.
#[test]
pub(crate) fn an_image_killed_at_any_step_is_whole_or_not_there() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    owner.root("chain", &owner.lower.path("chain-3"));
    for (kind, about) in [("squashfs", 40), ("erofs", 15), ("state", 15)] {
        let file = image(&world, kind);
        let make = || world.overstore(["publish", "main", "--image", kind, &file]);
        let (outcome, trace) = make().traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let whole = || match kind {
            "state" => digest(&world, &format!("{file}/nix/var/nix/db/db.sqlite")),
            _ => digest(&world, &file),
        };
        let wanted = whole();
        let points = trace.kill_points();
        for call in ["mkdirat", "renameat", "fsync", "unlinkat", "pwrite64"] {
            let has = points.iter().any(|(kind, _)| kind.starts_with(call));
            assert!(has, "{call}: {points:?}");
        }
        for (call, nth) in sample(points, about) {
            world.ok(["rm", "-rf", &file]);
            let killed = make().killed_at(&call, nth);
            let what = format!("{kind} killed at {call} {nth}");
            // Where it was the tool that was killed, that is told.
            let of_tool = killed.code() == Some(3) && killed.stderr().contains("failed (signal: 9");
            assert!(
                killed.signal() == Some(9) || killed.code() == Some(0) || of_tool,
                "{what}: {killed}"
            );
            if world.path(&file).exists() {
                assert_eq!(whole(), wanted, "{what}");
                if kind == "state" {
                    world.ok(["rm", "-r", &file]);
                }
            }
            let again = make().run();
            assert_eq!(again.code(), Some(0), "{what}: {again}");
            assert_eq!(whole(), wanted, "{what}");
            assert_eq!(world.list(OUT).len(), 1, "{what}: {:?}", world.list(OUT));
        }
        world.ok(["rm", "-r", &file]);
    }
}

/// Whatever is wrong, it is told with the exit code for it, what was there stays, and nothing is left.
#[test]
fn what_cannot_be_packed_is_told() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    let big = format!("{LIVE}-big");
    world.ok(["sh", "-c", &format!("head -c 3M /dev/urandom >{big}")]);
    let big = owner.nix(&["nix-store", "--add", &big]).ok();
    owner.root("big", big.trim());
    let damaged = owner.add("damaged");
    owner.root("damaged", &damaged);
    let file = image(&world, "squashfs");
    let expect = |code: i32, said: &str, more: &[&str]| {
        let there = || {
            world.ok([
                "find",
                OUT,
                "-printf",
                "%p %y %s\n",
                "-type",
                "f",
                "-printf",
                "%i %T@\n",
            ])
        };
        let before = there();
        let run = world.command(["env"]).args(more);
        let outcome = run.run();
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        let all = format!("{}{}", outcome.stdout(), outcome.stderr());
        assert!(all.contains(said), "{said}: {outcome}");
        assert_eq!(there(), before);
    };
    let publish = ["/usr/bin/overstore", "publish", "main", "--image"];
    let with = |more: &[&'static str]| {
        let words: Vec<&str> = publish.iter().chain(more).copied().collect();
        words
    };
    expect(
        3,
        "mksquashfs was not found, and is needed to make the image\nremedy: install it (package squashfs-tools)",
        &[&["PATH=/nowhere"][..], &with(&["squashfs", "/mnt/out/new"])].concat(),
    );
    expect(
        2,
        "no kind of image called iso",
        &with(&["iso", "/mnt/out/new"]),
    );
    expect(3, "/mnt/nowhere", &with(&["erofs", "/mnt/nowhere/new"]));
    expect(
        2,
        "PUBLICATION",
        &[
            "/usr/bin/overstore",
            "publish",
            "--image",
            "erofs",
            "/mnt/out/new",
        ],
    );
    world.write("/mnt/out/letter", "to somebody");
    for kind in ["squashfs", "state"] {
        let words = [
            publish[0],
            publish[1],
            publish[2],
            publish[3],
            kind,
            "/mnt/out/letter",
        ];
        expect(2, "exists already, and is not an image", &words);
    }
    world.mkdir("/mnt/out/directory");
    expect(
        3,
        "/mnt/out/directory",
        &with(&["erofs", "/mnt/out/directory"]),
    );
    for (size, said) in [("64k", "bytes at least"), ("1m", "mksquashfs failed")] {
        world.mkdir("/mnt/out/small");
        let options = format!("size={size}");
        world.ok([
            "mount",
            "-t",
            "tmpfs",
            "-o",
            &options,
            "tmpfs",
            "/mnt/out/small",
        ]);
        expect(3, said, &with(&["squashfs", "/mnt/out/small/new"]));
        assert!(world.list("/mnt/out/small").is_empty(), "{size}");
        world.ok(["umount", "/mnt/out/small"]);
    }
    // An image is replaced by a whole one only.
    assert_eq!(
        owner.publish(&["--image", "squashfs", &file]).code(),
        Some(0)
    );
    let object = format!("{LIVE}{damaged}");
    world.ok([
        "sh",
        "-c",
        &format!("chmod u+w {object}; echo other >{object}"),
    ]);
    let again = owner.publish(&["--image", "squashfs", &file]);
    assert!(
        again.stdout().contains("in place of an older one"),
        "{again}"
    );
    let contents = with(&["squashfs", "/mnt/out/lower.squashfs", "--contents"]);
    expect(1, "[object-damaged]", &contents);
    world.ok(["rm", &object]);
    expect(
        1,
        "[lower-row-without-object]",
        &with(&["squashfs", "/mnt/out/lower.squashfs"]),
    );
}

/// A store by its root or URL, a generation, what is named, and a registration.
#[test]
fn an_image_is_made_of_any_store_that_is_there() {
    let Some(world) = World::trixie() else { return };
    let owner = Owner::new(&world, "");
    let (chain, shell) = (owner.lower.path("chain-3"), owner.lower.path("mksh-static"));
    owner.root("chain", &chain);
    owner.published();
    let valid = |more: &[&str]| {
        let file = format!("{OUT}/state");
        world.mkdir(OUT);
        world
            .overstore(["publish", "--image", "state", &file])
            .args(more)
            .ok();
        let found = rows(
            &world,
            &format!("{file}/nix/var/nix/db/db.sqlite?immutable=1"),
        );
        world.ok(["rm", "-r", &file]);
        found
    };
    let of_chain: Vec<String> = owner.rows("current");
    let url = format!("local?real={LIVE}/nix/store&state={LIVE}/nix/var/nix");
    for from in [LIVE, &url, PLACE] {
        assert_eq!(valid(&["--from", from]), of_chain, "{from}");
    }
    assert_eq!(valid(&["main"]), of_chain);
    let live = rows(&world, &format!("{LIVE}/nix/var/nix/db/db.sqlite"));
    assert_eq!(valid(&["--from", LIVE, "--all-valid"]), live);
    assert_eq!(valid(&["main", "--path", &shell]), [shell.as_str()]);
    world.ok(["ln", "-s", &shell, "/mnt/link"]);
    let both = valid(&["--from", LIVE, "--path", "/mnt/link", "--path", &chain]);
    assert_eq!(both.len(), of_chain.len() + 1, "{both:?}");
    let roots = format!("{LIVE}/nix/var/nix/gcroots");
    assert_eq!(valid(&["--from", LIVE, "--roots", &roots]), of_chain);

    let dump = |more: &[&str]| owner.nix(&["nix-store", "--dump-db"]).args(more).ok();
    world.write("/mnt/registration", dump(&[]));
    let registered = [
        "--registration",
        "/mnt/registration",
        "--real",
        "/mnt/live/nix/store",
    ];
    assert_eq!(valid(&registered), live);
    let wrong = |text: &str, code: i32, said: &str| {
        world.write("/mnt/registration", text);
        let made = world
            .overstore(["publish", "--image", "state", "/mnt/out/state"])
            .args(registered)
            .run();
        assert_eq!(made.code(), Some(code), "{made}");
        let all = format!("{}{}", made.stdout(), made.stderr());
        assert!(all.contains(said), "{said}: {made}");
        assert!(world.list(OUT).is_empty());
    };
    let whole = dump(&[&chain]);
    wrong(&whole, 1, "[lower-reference-missing]");
    let cut = whole.lines().take(4).collect::<Vec<_>>().join("\n");
    wrong(
        &cut,
        2,
        "line 5: expected a number of references, found the end",
    );
    let hash = whole.replacen(whole.lines().nth(1).unwrap(), "nonsense", 1);
    wrong(
        &hash,
        2,
        "line 2: expected a SHA-256 hash, found 'nonsense'",
    );
    wrong("", 1, "the generation would be empty");
}

/// Whoever may not hold the collector off can pack what they can read: everything is hashed then.
#[test]
fn an_ordinary_user_packs_what_is_readable() {
    let Some(world) = World::trixie() else { return };
    let lower: LowerStore = world.lower_store("/mnt/live");
    let pack = || {
        world
            .overstore(["publish", "--image", "squashfs", "/home/alice/image"])
            .args(["--from", "/mnt/live", "--all-valid"])
            .by_alice()
    };
    pack().ok();
    assert_eq!(
        world
            .list("/home/alice")
            .iter()
            .filter(|name| *name == "image")
            .count(),
        1
    );
    let object = format!("/mnt/live{}/words", lower.path("chain-1"));
    let object = match world.path(&object).exists() {
        true => object,
        false => format!("/mnt/live{}", lower.path("settings.txt")),
    };
    world.ok([
        "sh",
        "-c",
        &format!("chmod u+w {object}; echo other >{object}"),
    ]);
    let refused = pack().run();
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stdout().contains("[object-damaged]"), "{refused}");
}
