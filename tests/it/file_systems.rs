//! File systems that can play the part of an upper layer, and those that cannot.

use std::path::Path;
use std::process::Child;

use crate::support::{Example, Snapshot, Tree, World, skip, wait_until};

/// The example with its upper layer and work directory in these.
fn example<'w>(world: &'w World, upper: &str, work: &str) -> Example<'w> {
    let example = world.example("");
    let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
    let text = text
        .replace(Example::UPPER, upper)
        .replace(Example::WORKDIR, work);
    world.write(Example::CONFIGURATION, text);
    example
}

/// The codes that a command finds, and its exit code.
fn found(example: &Example, command: &str) -> (Vec<String>, Option<i32>) {
    let outcome = example.command(command).args(["--json"]).run();
    let report: serde_json::Value =
        serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let findings = report["findings"].as_array().expect("a list");
    let codes = findings
        .iter()
        .filter_map(|finding| finding["code"].as_str());
    (codes.map(str::to_owned).collect(), outcome.code())
}

#[test]
fn disks_take_new_objects() {
    let Some(world) = World::trixie() else { return };
    for kind in ["ext4", "xfs", "btrfs"] {
        let at = format!("/mnt/{kind}");
        if !world.disk(kind, &at) {
            continue;
        }
        let upper = format!("{at}/upper");
        let example = example(&world, &upper, &format!("{at}/work"));
        assert_eq!(found(&example, "up"), (vec![], Some(0)), "{kind}");
        world.write("/tmp/note", format!("on {kind}\n"));
        let added = example.nix(&["nix-store", "--add", "/tmp/note"]).ok();
        let name = added.trim().trim_start_matches("/nix/store/");
        let content = world.read(format!("{upper}/{name}"));
        assert_eq!(content, format!("on {kind}\n").as_bytes());
        example.nix(&["nix-store", "--gc"]).ok();
        assert_eq!(world.ok(["find", &upper, "-type", "c"]), "", "{kind}");
        assert_eq!(found(&example, "check"), (vec![], Some(0)), "{kind}");
        example.command("down").ok();
    }
}

#[test]
fn the_top_of_a_disk_has_a_name_at_which_the_collector_stops() {
    let Some(world) = World::trixie() else { return };
    if !world.disk("ext4", "/mnt/disk") {
        return;
    }
    // Nothing can be inside an upper layer, and the work directory has to be on its mount.
    let example = example(&world, "/mnt/disk", "/mnt/work");
    let (codes, exit_code) = found(&example, "check");
    assert_eq!(exit_code, Some(1));
    assert!(codes.contains(&"upper-stranger".to_owned()), "{codes:?}");
    assert_eq!(
        found(&example, "up"),
        (vec!["workdir-elsewhere".to_owned()], Some(1))
    );
}

#[test]
fn what_cannot_be_an_upper_layer_is_refused_before_anything_is_made() {
    let Some(world) = World::trixie() else { return };
    world.mkdir("/mnt/content/upper");
    world.mkdir("/mnt/content/work");
    let mut places = Vec::new();
    for kind in ["squashfs", "erofs"] {
        let at = format!("/mnt/{kind}");
        if world.image(kind, "/mnt/content", &at) {
            places.push(at);
        }
    }
    for (at, options) in [("/mnt/ramfs", "mode=0755"), ("/mnt/tmpfs", "mode=0755")] {
        world.mkdir(at);
        let kind = at.trim_start_matches("/mnt/");
        world.ok(["mount", "-t", kind, "-o", options, kind, at]);
        world.ok(["cp", "-a", "/mnt/content/.", at]);
        places.push(at.to_owned());
    }
    world.ok(["mount", "-o", "remount,ro", "/mnt/tmpfs"]);
    for at in places {
        let (upper, work) = (format!("{at}/upper"), format!("{at}/work"));
        let example = example(&world, &upper, &work);
        let before = Snapshot::of(world.path("/mnt"));
        let refused = (vec!["upper-file-system-unfit".to_owned()], Some(1));
        assert_eq!(found(&example, "up"), refused, "{at}");
        before.assert_unchanged(world.path("/mnt"));
        let options = format!(
            "lowerdir={},upperdir={upper},workdir={work}",
            Example::LOWER
        );
        if at == "/mnt/ramfs" {
            // The kernel takes it, and then cannot keep what makes a directory opaque.
            let flags = rustix::fs::XattrFlags::CREATE;
            let upper = world.path(&upper);
            let kept = rustix::fs::setxattr(upper, "trusted.overlay.opaque", b"y", flags);
            assert_eq!(kept, Err(rustix::io::Errno::OPNOTSUPP));
            continue;
        }
        world.mkdir("/tmp/merged");
        let mount = ["mount", "-t", "overlay", "overlay", "-o", &options];
        world.command(mount).args(["/tmp/merged"]).fails();
    }
}

/// Where a World with [`Fuse`] has this machine's `/usr`.
const MACHINE: &str = "/opt/machine";

/// A directory that is shown at another place by a FUSE file system, as long as this lives.
struct Fuse<'w> {
    world: &'w World,
    at: String,
    bindfs: Child,
}

impl<'w> Fuse<'w> {
    /// A World in which such file systems can be mounted; `None` (reported) where they cannot.
    fn world() -> Option<World> {
        let here = |path: &str| Path::new(path).exists();
        if !here("/usr/bin/bindfs") || !here("/dev/fuse") {
            skip(
                "fuse",
                "there is no bindfs, which tests/setup installs, or no /dev/fuse",
            );
            return None;
        }
        Some(World::showing(
            Tree::trixie()?,
            &[(Path::new("/usr"), MACHINE)],
        ))
    }

    /// Shows the directory `from` at `at`.
    fn of(world: &'w World, from: &str, at: &str, options: &[&str]) -> Self {
        for directory in [from, at] {
            world.mkdir(directory);
        }
        // With this machine's own libraries.
        let run = format!(
            "cd {MACHINE}/lib/*-linux-gnu && exec ./ld-linux-*.so.* --library-path \"$PWD\" \
             {MACHINE}/bin/bindfs -f -o allow_other,dev,suid \"$@\""
        );
        let bindfs = world.command(["sh", "-c", &run, "sh"]);
        let bindfs = bindfs.args(options).args([from, at]).spawn();
        wait_until("bindfs has mounted", || {
            world
                .run(["findmnt", "--types", "fuse,fuse.bindfs", at])
                .code()
                == Some(0)
        });
        Self {
            world,
            at: at.to_owned(),
            bindfs,
        }
    }
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        self.world.run(["umount", "--lazy", &self.at]);
        let _ = self.bindfs.kill();
        let _ = self.bindfs.wait();
    }
}

/// Whether the kernel mounts an overlay with these directories, and objects can be deleted and made in it
/// as Nix does: what went wrong first, if anything.
fn kernel_says(world: &World, upper: &str, work: &str) -> Option<String> {
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work}",
        Example::LOWER
    );
    let script = "mkdir -p /tmp/hand $1 $2; mount -t overlay overlay -o $0 /tmp/hand || exit 1; cd /tmp/hand; \
        object=$(ls -d *-mksh-static*) && rm -r $object && mkdir $object && [ -z \"$(ls -A $object)\" ] && \
        echo new >one && mv one $object/two && grep -q new $object/two && rm $object/two && rmdir $object; \
        wrong=$?; ls -d *-mksh-static* 2>/dev/null && wrong=1; cd /; umount /tmp/hand; exit $wrong";
    let tried = world.run(["sh", "-c", script, &options, upper, work]);
    (tried.code() != Some(0)).then(|| tried.stderr())
}

/// A FUSE file system that has no attributes to give, or takes none, is refused before anything is made.
/// That one has no `RENAME_WHITEOUT` only the kernel tells: then `up` says what it is, and the store comes
/// up once its upper layer is elsewhere.
#[test]
fn fuse_file_systems_that_cannot_be_an_upper_layer_are_told() {
    let Some(world) = Fuse::world() else { return };
    let (upper, work) = ("/mnt/fuse/upper", "/mnt/fuse/work");
    for (options, expected) in [
        (&["--xattr-none"][..], "upper-file-system-unfit"),
        (&["--xattr-ro"], "upper-file-system-unfit"),
        (&[], ""),
    ] {
        world.ok(["rm", "-rf", "/mnt/below", "/mnt/example"]);
        let example = example(&world, upper, work);
        let fuse = Fuse::of(&world, "/mnt/below", "/mnt/fuse", options);
        let before = Snapshot::of(world.path("/mnt/below"));
        let (plan, plan_code) = found(&example, "plan");
        if expected.is_empty() {
            assert_eq!((plan, plan_code), (vec![], Some(0)));
            let up = example.run("up");
            assert_eq!(up.code(), Some(3), "{up}");
            let said = up.stderr();
            assert!(said.contains("the file system of the upper layer"), "{up}");
            assert!(said.contains("remedy: put the upper layer"), "{up}");
        } else {
            let refused = (vec![expected.to_owned()], Some(1));
            assert_eq!((plan, plan_code), refused, "{options:?}");
            assert_eq!(found(&example, "up"), refused, "{options:?}");
            before.assert_unchanged(world.path("/mnt/below"));
        }
        let wrong = kernel_says(&world, upper, work);
        assert!(wrong.is_some(), "{options:?}: the kernel can use it");
        let text = String::from_utf8(world.read(Example::CONFIGURATION)).expect("TOML");
        world.write(
            Example::CONFIGURATION,
            text.replace("/mnt/fuse", "/mnt/example"),
        );
        assert_eq!(found(&example, "up"), (vec![], Some(0)), "{options:?}");
        let kernel = kernel_says(&world, "/mnt/example/upper2", "/mnt/example/work2");
        assert_eq!(kernel, None, "what it is asked for is what Nix does");
        example.command("down").ok();
        drop(fuse);
    }
}

/// Inode numbers and device numbers below are new after each mount of a FUSE file system: what was
/// remembered of the lower store is compared by what it holds.
#[test]
fn a_lower_store_on_fuse_is_the_same_after_it_was_mounted_again() {
    let Some(world) = Fuse::world() else { return };
    let example = world.example("");
    world.ok(["mv", "/mnt/example/store-a", "/mnt/below"]);
    for round in 0..3 {
        let fuse = Fuse::of(&world, "/mnt/below", "/mnt/example/store-a", &[]);
        assert_eq!(found(&example, "plan"), (vec![], Some(0)), "{round}");
        assert_eq!(found(&example, "up"), (vec![], Some(0)), "{round}");
        let url = example.command("url").ok();
        example.lower.add_and_build(&world, url.trim());
        assert_eq!(found(&example, "check"), (vec![], Some(0)), "{round}");
        example.command("down").ok();
        drop(fuse);
    }
}

/// SQLite's write-ahead log needs memory that processes share, which not every such file system has.
#[test]
fn a_state_directory_on_fuse_is_warned_of() {
    let Some(world) = Fuse::world() else { return };
    let example = world.example("state = \"/mnt/fuse/state\"");
    let _fuse = Fuse::of(&world, "/mnt/below", "/mnt/fuse", &[]);
    let warned = (vec!["state-file-system-unfit".to_owned()], Some(0));
    assert_eq!(found(&example, "plan"), warned);
    assert_eq!(found(&example, "up"), warned);
    let url = example.command("url").ok();
    example.lower.add_and_build(&world, url.trim());
}
