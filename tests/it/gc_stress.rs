//! Builds, additions, copies and collections of one store at once, and kill -9 among them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Example, FEATURES, Outcome, Run, World};

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
    let built = nix(world, &["nix-build", &expression, "--out-link", &out]).ok();
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
    let added = nix(world, &["nix-store", "--add", &file]).ok();
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
    world
        .nix([
            "nix",
            "copy",
            "--no-check-sigs",
            "--from",
            "/mnt/scratch",
            "--to",
            &to,
        ])
        .args([copied.trim()])
        .ok();
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
    let gc = world.overstore(["gc", "example", "--leftovers"]);
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

#[test]
fn nothing_alive_is_lost_and_no_build_fails() {
    let Some(world) = World::trixie() else { return };
    stress(&world, 15);
}

#[test]
#[ignore = "takes ten minutes a version"]
fn soak_nothing_alive_is_lost_and_no_build_fails() {
    for world in World::each() {
        stress(&world, 400);
    }
}
