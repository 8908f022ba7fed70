//! File systems that can play the part of an upper layer, and those that cannot.

use crate::support::{Example, Snapshot, World};

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
