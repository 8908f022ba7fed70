//! Builds, additions, copies and collections of one store at once, and kill -9 among them.
//!
//! Nix until 2.34 loses a temporary root that is told to it while it deletes what refers to that path:
//! it says yes, and deletes the path all the same (`collectGarbage` asks for temporary roots when it
//! first visits a path, and again before deleting it only since 2.35). What that does to a build is no
//! failure of overstore's; each time it is proved from what Nix says that it was that.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Example, FEATURES, Outcome, Run, StoreUp, World, wait_until};

/// The socket of the store's daemon.
const SOCKET: &str = "/run/example.socket";

/// A command of Nix through the daemon.
fn nix<'w>(world: &'w World, words: &[&str]) -> Run<'w> {
    world
        .command(words)
        .args([
            "--store",
            &format!("unix://{SOCKET}?root=/mnt/example/merged-store"),
        ])
        .env("NIX_CONFIG", FEATURES)
}

/// Where a `nix-daemon` is that writes down what it says to overstore.
const WATCHED: &str = "/opt/watched";

/// Makes it.
fn watch(world: &World) {
    let program = format!("{WATCHED}/nix-daemon");
    world.mkdir(format!("{WATCHED}/said"));
    // Where temporary roots are told, and what is deleted, are told at this verbosity.
    world.write(
        &program,
        "#!/bin/bash\nfile=$(mktemp /opt/watched/said/XXXXXXXX)\n\
         exec /usr/bin/nix-daemon -vvv \"$@\" > >(exec tee \"$file\")\n",
    );
    world.ok(["chmod", "755", &program]);
}

/// What a command of Nix prints; `None` where it failed because Nix has lost a temporary root.
#[track_caller]
fn done(world: &World, command: Run) -> Option<String> {
    let outcome = command.run();
    if outcome.code() == Some(0) {
        return Some(outcome.stdout());
    }
    let said = outcome.stderr();
    let lost = said.split(|c: char| !c.is_ascii_alphanumeric() && !"+-._?=".contains(c));
    let lost = lost.filter(|word| word.len() > 33 && word.as_bytes()[32] == b'-');
    let is_lost = lost.into_iter().any(|path| is_lost(world, path));
    assert!(is_lost, "no temporary root was lost: {outcome}");
    None
}

/// Whether Nix was told a temporary root while it was not deleting it, and deleted it afterwards in the
/// same collection.
fn is_lost(world: &World, path: &str) -> bool {
    let directory = format!("{WATCHED}/said");
    world.list(&directory).iter().any(|file| {
        let text = world.read(format!("{directory}/{}", file.display()));
        let text = String::from_utf8_lossy(&text);
        let Some((before, _)) = text.split_once(&format!("deleting '/nix/store/{path}'")) else {
            return false;
        };
        let told = format!("got new GC root '/nix/store/{path}'");
        // Who is told this waits until it is deleted.
        let waiting = format!("synchronising with deletion of path '/nix/store/{path}'");
        before.matches(&told).count() > before.matches(&waiting).count()
    })
}

/// Builds what depends on what it has just added: both can be garbage at any moment.
fn build(world: &World, shell: &str, number: usize, worker: usize) {
    // The same names come again, so that what is being deleted is built again.
    let (file, expression) = (
        format!("/tmp/in-{worker}"),
        format!("/tmp/build-{worker}.nix"),
    );
    world.write(&file, format!("input {}", number % 3));
    world.write(
        &expression,
        format!(
            "derivation {{ name = \"built-{}\"; system = \"x86_64-linux\"; \
             builder = builtins.storePath \"{shell}\" + \"/bin/mksh\"; \
             args = [ \"-c\" \"read line <${{{file}}}; print $line >$out\" ]; }}",
            number % 3
        ),
    );
    let out = format!("/root/result-{worker}");
    let built = nix(world, &["nix-build", &expression, "--out-link", &out]);
    let Some(built) = done(world, built) else {
        return;
    };
    let path = built.trim().rsplit('/').next().expect("a path").to_owned();
    // Its root keeps it, whatever is collected.
    let content = world.read(format!("{}/{path}", Example::REAL));
    assert_eq!(content, format!("input {}\n", number % 3).into_bytes());
    world.ok(["rm", &out]);
}

/// Adds, copies in, and keeps what it has until it has looked at it.
fn add(world: &World, number: usize) {
    let file = format!("/tmp/added-{}", number % 3);
    world.write(&file, format!("content {}", number % 3));
    let root = "/root/added";
    let Some(added) = done(world, nix(world, &["nix-store", "--add", &file])) else {
        return;
    };
    // Nothing keeps it between the two: it may have gone.
    let rooted = nix(
        world,
        &["nix-store", "--realise", added.trim(), "--add-root", root],
    )
    .run();
    if rooted.code() == Some(0) {
        nix(world, &["nix-store", "--check-validity", added.trim()]).ok();
        nix(world, &["nix-store", "--verify-path", added.trim()]).ok();
        world.ok(["rm", root]);
    }
    let copied = world
        .nix(["nix-store", "--add", &file, "--store", "/mnt/scratch"])
        .ok();
    let to = format!("unix://{SOCKET}?root=/mnt/example/merged-store");
    let from = ["--no-check-sigs", "--from", "/mnt/scratch"];
    let copy = world.nix(["nix", "copy"]).args(from).args(["--to", &to]);
    done(world, copy.args([copied.trim()]));
}

/// Builds what waits for itself for ever, and has kill -9 end the builder, or the daemon's part in it.
fn be_killed(world: &World, shell: &str, number: usize) {
    world.write(
        "/tmp/victim.nix",
        format!(
            "derivation {{ name = \"victim-{}\"; system = \"x86_64-linux\"; \
             builder = builtins.storePath \"{shell}\" + \"/bin/mksh\"; \
             args = [ \"-c\" \"print victim >$out; {{ read x; }} |& read -p y\" ]; }}",
            number % 2
        ),
    );
    let script = r#"
        "$@" >/dev/null 2>&1 &
        client=$!
        process() {
            for process in /proc/[0-9]*; do
                mapfile -d '' -t words 2>/dev/null <"$process/cmdline" || continue
                case ${words[*]} in $1) echo "${process#/proc/}" ;; esac
            done
        }
        while kill -0 "$client" 2>/dev/null; do
            builder=$(process 'mksh -c print victim*')
            if [ -z "$builder" ]; then sleep 0.02; continue; fi
            case $0 in builder) kill -KILL $builder ;; *) kill -KILL $(process "*nix-daemon $client *") ;; esac
            wait "$client" && exit 1
            # What has lost its daemon may still wait for it.
            kill -KILL $builder 2>/dev/null
            exit 0
        done
        exit 2"#;
    let victim = if number.is_multiple_of(2) {
        "builder"
    } else {
        "daemon"
    };
    let store = format!("unix://{SOCKET}?root=/mnt/example/merged-store");
    let build = [
        "nix-build",
        "/tmp/victim.nix",
        "--no-out-link",
        "--store",
        &store,
    ];
    let outcome = world
        .command(["bash", "-c", script, victim])
        .args(build)
        .env("NIX_CONFIG", FEATURES)
        .run();
    assert_eq!(outcome.code(), Some(0), "{victim}: {outcome}");
}

/// Collects, and is killed in every third turn: the collector, or the Nix that it has started.
fn collect(world: &World, number: usize) {
    let path = format!("{WATCHED}:/usr/local/bin:/usr/sbin:/usr/bin");
    let gc = world.overstore(["gc", "example", "--leftovers"]);
    let gc = gc.env("PATH", path);
    if number % 3 != 2 {
        gc.ok();
        return;
    }
    let mut gc = gc.spawn();
    let victim = if number.is_multiple_of(2) {
        "overstore"
    } else {
        "nix-daemon"
    };
    // At whatever it is doing when it is seen.
    while gc.try_wait().expect("a child").is_none() {
        let processes = world.list("/proc").into_iter().filter_map(|process| {
            let file = |name: &str| {
                let path = world.path("/proc").join(&process).join(name);
                std::fs::read(path).unwrap_or_default()
            };
            let is_victim = file("comm").trim_ascii_end() == victim.as_bytes();
            let is_stdio = victim == "overstore"
                || file("cmdline").windows(7).any(|words| words == b"--stdio");
            (is_victim && is_stdio).then(|| process.to_string_lossy().into_owned())
        });
        let processes: Vec<String> = processes.collect();
        if !processes.is_empty() {
            world.run(
                ["sh", "-c", "kill -KILL \"$@\"", "kill"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain(processes),
            );
            break;
        }
    }
    Outcome::of(gc);
}

/// So many collections or more, beside two builders, somebody who adds, and builds that are killed.
fn stress(world: &World, collections: usize) {
    let lower = world.lower_store("/mnt/example/store-a");
    let kept = lower.path("chain-3");
    world.write(
        Example::CONFIGURATION,
        format!(
            "root = \"/mnt/example/merged-store\"\n\
             lower-store = \"/mnt/example/store-a?read-only=true\"\n\
             upper-layer = \"{}\"\nworkdir = \"{}\"\n\
             [parameters]\npath-info-cache-size = 0\n",
            Example::UPPER,
            Example::WORKDIR
        ),
    );
    world.overstore(["up", "example"]).ok();
    watch(world);
    let url = world.overstore(["url", "example"]).ok().trim().to_owned();
    let daemon = world.nix_daemon(&url, SOCKET);
    let shell = lower.path("mksh-static");
    world.write("/tmp/kept", "kept");
    let always = nix(world, &["nix-store", "--add", "/tmp/kept"]).ok();
    let link = format!("{}/gcroots/always", Example::STATE);
    world.ok(["ln", "-s", always.trim(), &link]);
    let done = AtomicBool::new(false);
    let worked = [const { AtomicUsize::new(0) }; 4];
    std::thread::scope(|scope| {
        for (worker, worked) in worked.iter().enumerate() {
            let (done, shell) = (&done, &shell);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let number = worked.fetch_add(1, Ordering::Relaxed);
                    match worker {
                        0 => add(world, number),
                        1 => be_killed(world, shell, number),
                        _ => build(world, shell, number, worker),
                    }
                }
            });
        }
        let finish = Finish(&done);
        // However fast one of them is, each of the others is met at its work.
        let met = || worked.iter().all(|it| it.load(Ordering::Relaxed) > 1);
        let mut number = 0;
        while number < collections || !met() {
            collect(world, number);
            number += 1;
        }
        drop(finish);
    });
    drop(daemon);
    world.overstore(["gc", "example", "--leftovers"]).ok();
    let verify = ["nix-store", "--verify", "--check-contents", "--store", &url];
    let verified = world.nix(verify).run();
    assert_eq!(verified.code(), Some(0), "{verified}");
    assert!(!verified.stderr().contains("error"), "{verified}");
    let objects = world.list(Example::UPPER);
    let always = always.trim().rsplit('/').next().expect("a path");
    assert_eq!(objects, [".links", always].map(std::ffi::OsString::from));
    world
        .nix(["nix-store", "--check-validity", &kept, "--store", &url])
        .ok();
    let check = world.overstore(["check", "--contents", "example"]).run();
    assert_eq!(check.code(), Some(0), "{check}");
}

/// Ends the others, also when a collection has failed.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the tolerance above rests on. Where it fails, Nix has the repair, and the tolerance can go.
#[test]
fn nix_itself_loses_temporary_roots_while_it_deletes() {
    for world in World::each() {
        let store = StoreUp::up(&world);
        let paths = store.register(&[("needed", &[]), ("user", &["needed"])]);
        // It can choose, and not delete, as long as somebody else writes to the database.
        let database = format!("{}/db/db.sqlite", Example::STATE);
        let writer = world.command(["sqlite3", "-batch", &database]).stdin(
            "begin immediate;\n\
             .shell touch /tmp/locked; until [ -e /tmp/go ]; do sleep 0.02; done\n\
             rollback;\n",
        );
        let writer = writer.spawn();
        let locked = world.path("/tmp/locked");
        wait_until("the database is locked", || locked.exists());
        let delete = store.nix(&["nix-store", "--delete"]).args(&paths).spawn();
        wait_until("Nix waits for the database", || {
            let mut processes = world.list("/proc").into_iter();
            processes.any(|process| {
                let file = |name| std::fs::read(world.path("/proc").join(&process).join(name));
                file("comm").is_ok_and(|name| name == b"nix-store\n")
                    && file("wchan").is_ok_and(|place| place == b"hrtimer_nanosleep")
            })
        });
        let socket = world.path(format!("{}/gc-socket/socket", Example::STATE));
        // As a process does that is about to use it.
        let mut nix = UnixStream::connect(socket).expect("Nix takes temporary roots");
        writeln!(nix, "{}", paths[0]).expect("Nix reads");
        let mut answer = [0];
        nix.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *b"1", "{}", world.tree.name);
        assert!(store.has(&paths[0]) && store.has(&paths[1]));
        world.write("/tmp/go", "");
        assert_eq!(Outcome::of(writer).code(), Some(0));
        let outcome = Outcome::of(delete);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let is_lost = !store.has(&paths[0]);
        assert!(is_lost, "{}: Nix is repaired: {outcome}", world.tree.name);
    }
}

#[test]
fn nothing_alive_is_lost_and_no_build_fails() {
    for world in World::each() {
        stress(&world, 12);
    }
}

#[test]
#[ignore = "takes ten minutes a version"]
fn soak_nothing_alive_is_lost_and_no_build_fails() {
    for world in World::each() {
        stress(&world, 400);
    }
}
