//! Several stores over one publication, in use without a pause while the owner publishes, retires and
//! collects, and each of them follows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::owner::{LIVE, Owner, PLACE};
use crate::support::{Run, Snapshot, World};

const STORES: [&str; 3] = ["one", "two", "three"];

#[test]
fn three_stores_follow_one_owner() {
    for world in World::each() {
        follow(&world, |round, met| round < 3 || !met);
    }
}

#[test]
#[ignore = "takes five minutes a version"]
fn soak_three_stores_follow_one_owner() {
    for world in World::each() {
        let begin = Instant::now();
        follow(&world, |_, met| {
            begin.elapsed() < Duration::from_secs(300) || !met
        });
    }
}

/// One of the stores.
struct Consumer<'w> {
    world: &'w World,
    name: &'static str,
    url: String,
    /// How often it added and built something.
    rounds: AtomicUsize,
}

impl<'w> Consumer<'w> {
    fn new(world: &'w World, name: &'static str) -> Self {
        world.write(
            format!("/etc/overstore/{name}.toml"),
            format!(
                "root = \"/mnt/{name}/merged\"\nupper-layer = \"/mnt/{name}/upper\"\n\
                 workdir = \"/mnt/{name}/work\"\n[lower]\npublication = {PLACE:?}\n\
                 real = \"{LIVE}/nix/store\"\n"
            ),
        );
        world.mkdir(format!("/mnt/{name}"));
        world.overstore(["up", name]).ok();
        let url = world.overstore(["url", name]).ok().trim().to_owned();
        Self {
            world,
            name,
            url,
            rounds: AtomicUsize::new(0),
        }
    }

    fn nix(&self, words: &[&str]) -> Run<'w> {
        self.world.nix(words).args(["--store", &self.url])
    }

    /// Adds something, and builds something that refers to it and to what is below.
    fn work(&self, shell: &str, chain: &str, round: usize) {
        let name = self.name;
        let (file, expression) = (format!("/tmp/{name}-{round}"), format!("/tmp/{name}.nix"));
        self.world.write(&file, format!("{name} {round}"));
        self.nix(&["nix-store", "--add", &file]).ok();
        let text = format!(
            "derivation {{ name = \"{name}-{round}\"; system = \"x86_64-linux\"; \
             builder = builtins.storePath \"{shell}\" + \"/bin/mksh\"; \
             args = [ \"-c\" \"print ${{builtins.storePath \"{chain}\"}} ${{{file}}} >$out\" ]; }}"
        );
        self.world.write(&expression, text);
        let out = format!("/mnt/{name}/result");
        self.nix(&["nix-build", &expression, "--out-link", &out])
            .ok();
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes, has all follow, retires and collects, as long as `more` says, which hears how often that
/// was done, and whether every store has worked between.
fn follow(world: &World, more: impl Fn(usize, bool) -> bool) {
    let owner = Owner::new(world, "");
    let (shell, chain) = (owner.lower.path("mksh-static"), owner.lower.path("chain-3"));
    owner.root("shell", &shell);
    owner.root("chain", &chain);
    owner.published();
    let stores = STORES.map(|name| Consumer::new(world, name));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        for store in &stores {
            scope.spawn(|| {
                let stop = Stop(&done);
                for round in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    store.work(&shell, &chain, round);
                }
                drop(stop);
            });
        }
        let mut published: Vec<String> = Vec::new();
        for round in 0.. {
            let met = stores
                .iter()
                .all(|store| store.rounds.load(Ordering::Relaxed) > 2);
            if !more(round, met) || done.load(Ordering::Relaxed) {
                break;
            }
            let new = owner.add(&format!("new-{round}"));
            world.ok([
                "ln",
                "-sfn",
                &new,
                &format!("{LIVE}/nix/var/nix/gcroots/new"),
            ]);
            owner.published();
            for store in &stores {
                let below = Snapshot::of(world.path(PLACE));
                world.overstore(["refresh", store.name]).ok();
                // Not asked of Nix, which would copy its metadata up: then it might not leave again.
                let merged = format!("/mnt/{}/merged{new}", store.name);
                assert_eq!(world.read(merged), format!("new-{round}").into_bytes());
                below.assert_unchanged(world.path(PLACE));
            }
            // Builds that are still on the one before go on.
            let retired = owner.publish(&["--retire-all-but", "2", "--now"]);
            assert_eq!(retired.code(), Some(0), "{retired}");
            owner.collect();
            assert!(owner.has(&new));
            // What only a generation had that is gone is gone, too.
            published.push(new);
            if let [.., gone, _, _] = &published[..] {
                assert!(!owner.has(gone), "{gone}");
            }
        }
        drop(stop);
    });
    for store in &stores {
        let check = world.overstore(["check", store.name, "--contents"]).run();
        assert_eq!(check.code(), Some(0), "{check}");
        let verified = store
            .nix(&["nix-store", "--verify", "--check-contents"])
            .run();
        assert_eq!(verified.code(), Some(0), "{verified}");
    }
}

/// Sets a flag when it goes, whatever the reason.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
