//! The upper layer and the work directory.

use super::path::{self, Named};
use super::{Code, Finding, Part, down, down_up, fix_permissions, move_away, up};
use crate::config::Store;
use crate::escape::{show, show_path};
use crate::nix::layout;
use crate::observe::{Found, LayerFacts, Links, Machine, Observed, Stat, Usage};
use crate::overlayfs::options::USERXATTR;
use crate::remedy::{Remedy, command};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A new directory would not be the one that the overlay has.
    let mounted = observed.mount.overlay.is_some();
    let make = match mounted {
        true => down_up(store, observed),
        false => up(store).into(),
    };
    let upper = Named {
        part: Part::UpperLayer,
        what: "the upper layer",
        key: "upper-layer",
        below: None,
        missing: Code::UpperMissing,
        made_by_up: !mounted,
        remedy: make.clone(),
    };
    let workdir = Named {
        part: Part::WorkDirectory,
        what: "the work directory",
        key: "workdir",
        below: None,
        missing: Code::WorkdirMissing,
        made_by_up: !mounted,
        remedy: make,
    };
    let machine = &observed.machine;
    findings.extend(path::finding(&observed.upper_layer.place, &upper, machine));
    findings.extend(path::finding(&observed.workdir.place, &workdir, machine));
    findings.extend(too_deep(store, observed));
    if let Found::Directory(stat) = &observed.upper_layer.place.found {
        findings.extend(unfit(store, observed, stat));
        findings.extend(not_yours(store, machine, stat));
        // That one is told as what it is: mounted in the wrong place.
        if observed.mount.above.is_none() {
            findings.extend(in_use(store, &observed.upper_layer.usage));
        }
        findings.extend(permissions(store, machine, stat));
        findings.extend(links(store, observed));
        findings.extend(strangers(store, observed));
        findings.extend(temporary(store, observed));
        if let Found::Directory(work) = &observed.workdir.place.found {
            findings.extend(elsewhere(store, stat, work));
        }
    }
    findings.extend(work_in_use(store, observed));
    findings.extend(incompatible(store, observed));
    findings.extend(unchangeable(observed));
    findings.extend(not_shown(store, observed));
    findings
}

/// The store was set up by another user, and is about to be used by this one in namespaces of its
/// own.
fn not_yours(store: &Store, machine: &Machine, stat: &Stat) -> Option<Finding> {
    if !machine.user_namespace || stat.uid == machine.uid {
        return None;
    }
    Some(
        Finding::at(Code::NotYours, &store.upper_layer)
            .expected("an upper layer of the user who uses it without root")
            .found("one that belongs to another user, such as root, who set the store up")
            .remedy(how_to_have_one(store)),
    )
}

/// What a user does for whom a store is somebody else's.
pub(super) fn how_to_have_one(store: &Store) -> Remedy {
    let own = Remedy::say(
        "have a store of your own: a description with `root`, `upper-layer` and `workdir` in \
         directories of yours, and this store's daemon or its lower store as `lower-store`",
    )
    .run(store.bare_command(["new"]));
    match &store.daemon {
        Some(_) => Remedy::say("use the daemon that serves it; its store URL")
            .run(store.command(["url", "--client"]))
            .or(own),
        None => own.or(
            "have root serve it with a daemon (`[daemon]` in the description), for its users to go \
             through",
        ),
    }
}

/// Another overlay uses the work directory: the kernel warns, and calls the result undefined.
fn work_in_use(store: &Store, observed: &Observed) -> Option<Finding> {
    let Usage::Mounted(what) = &observed.workdir.usage else {
        return None;
    };
    // One overlay that has both is told once.
    if observed.upper_layer.usage == observed.workdir.usage {
        return None;
    }
    Some(
        Finding::at(Code::WorkdirInUse, &store.workdir)
            .expected("a work directory that no other overlay uses")
            .found(format!("{what} uses it, or a directory above it"))
            .remedy("set `workdir` to a directory of its own beside the upper layer"),
    )
}

/// What an earlier mount has left there so that no other mount follows it.
fn incompatible(store: &Store, observed: &Observed) -> Option<Finding> {
    let left = &observed.left.incompatible;
    let names: Vec<_> = left
        .iter()
        .map(|name| show(name.as_encoded_bytes()))
        .collect();
    let remove = || {
        let mark = store.workdir.join("work/incompat");
        command!["rm", "-r", "--", mark]
    };
    (!names.is_empty()).then(|| {
        Finding::at(Code::WorkdirIncompatible, &store.workdir)
            .expected("a work directory that the kernel will mount again")
            .found(format!(
                "`work/incompat` in it has {}: it was mounted with an option after which the kernel refuses to mount it again, with or without that option",
                names.join(", ")
            ))
            .remedy(
                Remedy::say(
                    "if the machine did not stop without unmounting it, nothing is lost: remove OverlayFS's mark, and the option from `mount.options`",
                )
                .run(remove())
                .or(Remedy::say(
                    "after a power cut or a crash, objects that were added since it was mounted may \
                     be damaged: look at all of them when the store is up",
                )
                .run(remove())
                .run(up(store))
                .run(store.command(["check", "--contents"]))),
            )
    })
}

/// Directories in which nothing can be changed: the kernel mounts the overlay read-only, or each
/// change fails later.
fn unchangeable(observed: &Observed) -> impl Iterator<Item = Finding> {
    let layers = [
        (&observed.upper_layer, Part::UpperLayer),
        (&observed.workdir, Part::WorkDirectory),
    ];
    // On a read-only file system, which is told, everything is.
    let writable = |layer: &LayerFacts| {
        let stat = layer.place.found.directory();
        stat.is_some_and(|stat| !stat.fs.read_only)
    };
    let marked = layers
        .into_iter()
        .filter(move |(layer, _)| layer.unchangeable && writable(layer));
    marked.map(|(layer, part)| {
        let path = &layer.place.path;
        Finding::at(Code::LayerUnchangeable, path)
            .part(part)
            .expected("a directory that can be changed")
            .found("it is marked immutable or append-only (lsattr(1))")
            .remedy(command!["chattr", "-ia", path])
    })
}

/// What is mounted inside a layer.
fn not_shown<'a>(store: &'a Store, observed: &'a Observed) -> impl Iterator<Item = Finding> + 'a {
    observed.not_shown.iter().map(|point| {
        Finding::at(Code::MountNotShown, point)
            .part(match point.starts_with(&store.upper_layer) {
                true => Part::UpperLayer,
                false => Part::LowerStore,
            })
            .expected("layers in which nothing is mounted")
            .found(
                "a mount: the overlay shows what is below it, and Nix takes the object to be whole",
            )
            .remedy(
                Remedy::say(
                    "see what it is; put what it shows into the layer itself, or unmount it",
                )
                .run(command!["findmnt", "--target", point]),
            )
    })
}

fn too_deep(store: &Store, observed: &Observed) -> Option<Finding> {
    (observed.overlays_below > 1).then(|| {
        Finding::at(Code::StackingTooDeep, &store.real)
            .expected("at most one overlay below this one: the kernel stacks two")
            .found(format!("{} overlays below it", observed.overlays_below))
            .remedy(
                "put the upper layer and the lower store directory on file systems that are not \
                 overlays",
            )
    })
}

/// The longest name that Nix gives anything in a store directory is shorter than this; OverlayFS takes
/// what is longer than the upper layer's names for missing.
const LONGEST_NAME: u64 = 255;

fn unfit(store: &Store, observed: &Observed, stat: &Stat) -> Option<Finding> {
    let name = &stat.fs.name;
    let actual = if stat.fs.read_only {
        format!("{name}, which is read-only there")
    } else if name == "overlay" {
        "an overlay, which cannot be the upper layer of another".to_owned()
    } else if observed.upper_layer.xattrs == Some(false) {
        format!("{name}, which has no extended attributes that OverlayFS can use")
    } else if observed.upper_layer.d_type == Some(false) {
        format!("{name}, whose listings do not tell the type of entries")
    } else if stat.fs.longest_name < LONGEST_NAME {
        format!(
            "{name}, whose names have at most {} bytes",
            stat.fs.longest_name
        )
    } else if stat.fs.unbindable && observed.mount.overlay.is_none() {
        format!("{name}, on an unbindable mount, of which no overlay can be made")
    } else {
        return None;
    };
    let other_option = match store.userxattr() {
        true => Remedy::say("leave \"userxattr\" out of `mount.options`"),
        false => Remedy::say("with its `user.*` attributes")
            .and_set("mount.options", format!("[\"{USERXATTR}\"]")),
    };
    let elsewhere =
        Remedy::say("put `upper-layer` and `workdir` on ext4, xfs (with ftype=1), btrfs or tmpfs");
    Some(
        Finding::at(Code::UpperFileSystemUnfit, &store.upper_layer)
            .expected(
                "a writable file system with extended attributes that tells the type of entries",
            )
            .found(actual)
            .remedy(if stat.fs.read_only {
                Remedy::say("find out why it is read-only, then make it writable").run(command![
                    "findmnt",
                    "--target",
                    store.upper_layer
                ])
            } else if observed.upper_layer.other_xattrs == Some(true) {
                other_option.or(elsewhere)
            } else if stat.fs.unbindable && name != "overlay" {
                Remedy::say("make that mount private; see which it is")
                    .run(command!["findmnt", "--target", store.upper_layer])
                    .or(elsewhere)
            } else {
                elsewhere
            }),
    )
}

/// Lists the processes in whose mount namespace the first argument is part of a mount.
const WHO_HAS_IT: &str = "grep -lF \"$0\" /proc/*/mountinfo";

fn in_use(store: &Store, usage: &Usage) -> Option<Finding> {
    let (actual, remedy) = match usage {
        Usage::Unknown | Usage::Free => return None,
        Usage::Locked(pids) if pids.is_empty() => (
            "a process holds overstore's lock on it".to_owned(),
            Remedy::say("see which one").run(command!["fuser", "-v", store.upper_layer]),
        ),
        Usage::Locked(pids) => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            (
                format!(
                    "overstore's lock on it is held by process {}",
                    pids.join(", ")
                ),
                Remedy::say("wait until it ends; see what it is").run(command![
                    "ps",
                    "-fp",
                    pids.join(",")
                ]),
            )
        }
        Usage::Mounted(what) => (
            format!("{what} writes to it too, or to a directory above it"),
            Remedy::say(
                "unmount that one, or give this store an `upper-layer` of its own; see who has it",
            )
            .run(command!["sh", "-c", WHO_HAS_IT, store.upper_layer]),
        ),
    };
    Some(
        Finding::at(Code::UpperInUse, &store.upper_layer)
            .expected("an upper layer that no other overlay uses")
            .found(actual)
            .remedy(remedy),
    )
}

fn permissions(store: &Store, machine: &Machine, stat: &Stat) -> Option<Finding> {
    // A store of an ordinary user is used in that user's namespace, whose Nix has no build users.
    let own = machine.user_namespace || (machine.uid != 0 && stat.uid == machine.uid);
    let group = machine.build_users_gid.filter(|_| !own);
    let mode = layout::store_directory_mode(group.is_some());
    // Nobody but root makes a store for others.
    let owner_fits = stat.uid == 0 || stat.uid == machine.uid;
    let fits = owner_fits
        && match group {
            Some(gid) => stat.gid == gid && stat.mode == mode,
            None => stat.mode & 0o002 == 0,
        };
    (!fits).then(|| {
        Finding::at(Code::UpperPermissions, &store.upper_layer)
            .expected(match group {
                Some(gid) => format!("owner 0, group {gid}, mode {mode:04o}, as Nix makes it"),
                None => format!("its owner's alone to write to (mode {mode:04o})"),
            })
            .found(format!(
                "owner {}, group {}, mode {:04o}",
                stat.uid, stat.gid, stat.mode
            ))
            .remedy(fix_permissions(store))
    })
}

fn links(store: &Store, observed: &Observed) -> Option<Finding> {
    let actual = match observed.upper_layer.links {
        Links::Opaque | Links::Unknown => return None,
        Links::Missing => "nothing",
        Links::Transparent => "it is not opaque, so that the lower store's entries show",
        Links::Foreign => "it is opaque only in mounts of another kind (root's, or a user's)",
        Links::Other => "it is not a directory",
    };
    Some(
        Finding::at(Code::LinksNotOpaque, &store.upper_layer.join(layout::LINKS))
            .expected("an opaque directory, so that the garbage collector leaves no whiteouts")
            .found(actual)
            .remedy(
                match (observed.mount.overlay.is_some(), observed.upper_layer.links) {
                    (_, Links::Other) => Remedy::say("move it away while the store is down")
                        .run(down(store, observed))
                        .run(move_away(store, &store.upper_layer.join(layout::LINKS)))
                        .run(up(store)),
                    (true, _) => down_up(store, observed),
                    (false, _) => up(store).into(),
                },
            ),
    )
}

fn strangers(store: &Store, observed: &Observed) -> Vec<Finding> {
    let names = observed.upper_layer.strangers.iter().flatten();
    let mounted = observed.mount.overlay.is_some();
    names
        .map(|name| {
            Finding::at(Code::UpperStranger, &store.upper_layer.join(name))
                .expected("names of store paths only")
                .found(format!(
                    "{}, at which Nix's garbage collector stops",
                    show(name.as_encoded_bytes())
                ))
                .remedy(match (name == "lost+found", mounted) {
                    (true, _) => Remedy::from(
                        "use a directory of that file system as `upper-layer`, not its root",
                    ),
                    // Through the mount: a layer must not change below it.
                    (false, true) => move_away(store, &store.real.join(name)).into(),
                    (false, false) => move_away(store, &store.upper_layer.join(name)).into(),
                })
        })
        .collect()
}

/// What an interrupted addition left.
fn temporary(store: &Store, observed: &Observed) -> impl Iterator<Item = Finding> {
    let mounted = observed.mount.overlay.is_some();
    let left = observed.upper_layer.left.iter().flatten();
    left.map(move |name| {
        Finding::at(Code::TemporaryName, &store.upper_layer.join(name))
            .expected("no directory in which an object is received, while nobody receives one")
            .found("one that an interrupted addition left, at which Nix's garbage collector stops")
            // Through the mount: a layer must not change below it.
            .remedy(match mounted {
                true => move_away(store, &store.real.join(name)),
                false => move_away(store, &store.upper_layer.join(name)),
            })
    })
}

fn elsewhere(store: &Store, upper: &Stat, work: &Stat) -> Option<Finding> {
    (upper.fs.mount_id != work.fs.mount_id).then(|| {
        Finding::at(Code::WorkdirElsewhere, &store.workdir)
            .expected(format!(
                "a directory on the mount of {}",
                show_path(&store.upper_layer)
            ))
            .found("it is on another mount, which OverlayFS refuses")
            .remedy("set `workdir` to a directory beside the upper layer")
    })
}
