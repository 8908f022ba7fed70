//! The mount at the merged store directory.

use std::path::Path;

use super::path::{self, Named};
use super::{Code, Finding, Part, down_up, up};
use crate::config::Store;
use crate::escape::{show, show_path};
use crate::nix::mount_check::{self, CheckedPath, Verdict};
use crate::observe::{Identity, MountFacts, Observed, OverlayFacts, Place, Recorded};
use crate::overlayfs::defaults::Defaults;
use crate::overlayfs::options::{self, MountOption, SuperOptions};
use crate::remedy::{CommandLine, Remedy, command};
use std::os::unix::ffi::OsStrExt;

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let facts = &observed.mount;
    let (key, below) = path::key(store, "real", &store.real);
    let named = Named {
        part: Part::Mount,
        what: "the merged store directory",
        key,
        below,
        missing: Code::MountMissing,
        made_by_up: true,
        remedy: up(store).into(),
    };
    if let Some(finding) = path::finding(&facts.place, &named, &observed.machine) {
        let mut findings = vec![finding];
        findings.extend(unsupported(observed));
        findings.extend(before_mounting(store, observed, &findings));
        return findings;
    }
    let mut findings = wrong(&store.real, &store.lower.real, facts, &up(store));
    let Some(overlay) = &facts.overlay else {
        findings.extend(unsupported(observed));
        findings.extend(before_mounting(store, observed, &findings));
        return findings;
    };
    let options = SuperOptions::parse(&overlay.info.super_options);
    findings.extend(differing_options(store, observed, &options));
    findings.extend(undescribed(store, observed, &options));
    findings.extend(risky(store, observed, &options));
    findings.extend(risky_defaults(store, observed, Some(&options)));
    findings.extend(nix_check(store, observed, facts));
    findings
}

/// What would be wrong with an overlay that is not mounted yet.
fn before_mounting(store: &Store, observed: &Observed, found: &[Finding]) -> Vec<Finding> {
    let mut findings = risky_defaults(store, observed, None);
    findings.extend(index(store, observed));
    // What was found out is told in better words.
    if found.iter().chain(&findings).all(|it| !it.stops_up) {
        findings.extend(refused(store, observed));
    }
    findings
}

/// The kernel would not mount it.
fn refused(store: &Store, observed: &Observed) -> Option<Finding> {
    let why = observed.refused.as_ref()?;
    // The kernel's log is not for everybody. What is described goes together; in a user namespace
    // there is one option more.
    let options = store.overlay_options(observed.machine.user_namespace);
    let why = match options::conflicts(&options).first() {
        Some([first, second]) => format!("it does not take `{first}` together with `{second}`"),
        None => why.clone(),
    };
    let path = &observed.lower.directory.path;
    Some(
        Finding::at(Code::MountRefused, &store.real)
            .expected(format!(
                "an overlay over {} that the kernel mounts",
                show_path(path)
            ))
            .found(format!("it refuses one: {why}"))
            .remedy(match store.mount_options.is_empty() {
                true => Remedy::say("see which file system the lower store directory is on")
                    .run(command!["findmnt", "--target", path]),
                false => Remedy::say(
                    "remove from `mount.options` what this kernel does not take; if it is the \
                     directory, see which file system it is on",
                )
                .run(command!["findmnt", "--target", path]),
            }),
    )
}

/// What an index was made for is not what is described.
fn index(store: &Store, observed: &Observed) -> Option<Finding> {
    let left = &observed.left;
    let found = match (left.index_over_another, left.index_of_another) {
        (true, _) => format!(
            "one that was made over another directory than the present {}",
            show_path(&store.lower.real)
        ),
        (false, true) => format!(
            "one in the work directory that was made for another directory than the present {}",
            show_path(&store.upper_layer)
        ),
        (false, false) => return None,
    };
    Some(
        Finding::at(Code::IndexMismatch, &store.real)
            .expected("an index (`index=on`) that belongs to these directories")
            .found(found)
            .remedy(
                Remedy::say(
                    "put back the directory that was there; a copy of it, or another file system \
                     with the same in it, is not the same to the kernel",
                )
                .or(Remedy::say(
                    "mount it without an index, which Nix does not need",
                )
                .and_set("mount.options", "[\"index=off\"]")),
            ),
    )
}

/// Options and flags in force that nobody described.
fn undescribed(store: &Store, observed: &Observed, shown: &SuperOptions) -> Vec<Finding> {
    let expected = store.overlay_options(observed.machine.user_namespace);
    let options = shown.others.iter().filter_map(|(name, value)| {
        let option = MountOption {
            name: show(name).into_owned(),
            value: value.as_deref().map(|value| show(value).into_owned()),
        };
        let value = option.value.as_deref();
        let kind = options::kind(&option.name)?;
        let known = kind.turns_on(value) && kind.risk_of(value).is_none();
        let asked_for = expected.iter().any(|it| it.name == option.name)
            || options::implied(&expected, &option);
        (known && !asked_for).then(|| {
            Finding::at(Code::MountOptionsDiffer, &store.real)
                .expected(format!(
                    "an overlay mounted without `{option}`, which the description does not have"
                ))
                .found("one with that option")
                .remedy(down_up(store, observed))
        })
    });
    // Whoever mounted it on top may want it so, but no program of the store runs.
    let noexec = observed
        .mount
        .stack
        .first()
        .is_some_and(|it| it.option("noexec"));
    let flag = noexec.then(|| {
        Finding::at(Code::MountOptionsDiffer, &store.real)
            .expected("a mount from which programs can be run")
            .found("one with the flag `noexec`")
            .remedy(command!["mount", "-o", "remount,bind,exec", *store.real])
    });
    options.chain(flag).collect()
}

/// Options that risk the data and that nobody gave: the kernel's own defaults.
fn risky_defaults(
    store: &Store,
    observed: &Observed,
    shown: Option<&SuperOptions>,
) -> Vec<Finding> {
    let expected = store.overlay_options(observed.machine.user_namespace);
    let one_file_system = one_file_system(observed);
    let Some(defaults) = observed.machine.overlay_defaults else {
        return Vec::new();
    };
    // With it the kernel leaves both off.
    if expected
        .iter()
        .any(|option| option.name == options::USERXATTR)
    {
        return Vec::new();
    }
    let risks = ["metacopy", "redirect_dir"].into_iter().filter_map(|name| {
        let given = expected.iter().any(|option| option.name == name);
        // What is shown is told as what it is.
        if given || shown.is_some_and(|shown| shown.value(name).is_some()) {
            return None;
        }
        let value = defaults.of(name, one_file_system)?;
        let why = options::kind(name)?.risk_of(Some(value))?;
        Some(
            Finding::at(Code::MountOptionRisky, &store.real)
                .expected("mount options that keep the upper layer complete by itself")
                .found(format!("`{name}={value}` is this kernel's default: {why}"))
                .remedy(
                    Remedy::say("turn it off, and mount the store again").and_set(
                        "mount.options",
                        "[\"metacopy=off\", \"redirect_dir=nofollow\"]",
                    ),
                ),
        )
    });
    risks.collect()
}

/// What is wrong with a mount whatever its layers should be; as it applies to a nested store too.
pub(super) fn wrong(
    real: &Path,
    lower: &Path,
    facts: &MountFacts,
    up: &CommandLine,
) -> Vec<Finding> {
    let Some(overlay) = &facts.overlay else {
        return vec![no_overlay(real, facts, up)];
    };
    let mut findings = Vec::new();
    if overlay.info.super_option("ro") {
        findings.push(
            Finding::at(Code::MountReadOnly, real)
                .expected("an overlay that can be written to")
                .found("its file system is read-only")
                .remedy(command![
                    "env",
                    "LIBMOUNT_FORCE_MOUNT2=always",
                    "mount",
                    "-o",
                    "remount,rw",
                    real
                ]),
        );
    }
    findings.extend(layers(real, lower, overlay, up));
    findings
}

/// Why there is no overlay in effect at a merged store directory.
fn no_overlay(real: &Path, facts: &MountFacts, up: &CommandLine) -> Finding {
    let Some(top) = facts.stack.first() else {
        return match facts.buried.first() {
            Some(_) => Finding::at(Code::MountHidden, real)
                .expected("the overlay, with nothing mounted over it or over a directory above it")
                .found(
                    "an overlay that cannot be reached: something is mounted over a directory above it",
                )
                .remedy(
                    Remedy::say("see what it is, and unmount it")
                        .run(command!["findmnt", "--target", real]),
                ),
            None => match &facts.above {
                Some(above) => Finding::at(Code::MountMissing, real)
                    .expected("an overlay, mounted there")
                    .found(format!(
                        "an overlay of this upper layer that is mounted above it, at {}",
                        show_path(above)
                    ))
                    .remedy(
                        Remedy::say(
                            "unmount that one when nothing uses it, then mount the store; what an \
                             overlay over all of /nix has written goes on as this store with \
                             `store` in its `upperdir` as `upper-layer`, and `var/nix` there as \
                             `state`",
                        )
                        .run(command!["umount", above])
                        .run(up.clone()),
                    )
                    .not_made_by_up(),
                None => Finding::at(Code::MountMissing, real)
                    .expected("an overlay")
                    .found("nothing is mounted there")
                    .remedy(up.clone()),
            },
        };
    };
    let kind = show(top.fs_type.as_bytes());
    let mut below = facts.stack.iter().skip(1);
    match below.any(|mount| mount.fs_type == "overlay") {
        true => Finding::at(Code::MountHidden, real)
            .expected("the overlay as the topmost mount, or under a bind mount of itself")
            .found(format!("a mount of type {kind} on top of it"))
            .remedy(command!["umount", real]),
        false => Finding::at(Code::MountForeign, real)
            .expected("an overlay")
            .found(format!("a mount of type {kind}"))
            .remedy(
                Remedy::say("unmount it if nobody needs it, then mount the store")
                    .run(command!["umount", real])
                    .run(up.clone()),
            ),
    }
}

/// An overlay whose layers are not those described.
fn layers(real: &Path, lower: &Path, overlay: &OverlayFacts, up: &CommandLine) -> Vec<Finding> {
    let options = SuperOptions::parse(&overlay.info.super_options);
    // `down --unrecorded` leaves alone what is of other directories.
    let again = |remedy: Remedy| remedy.run(command!["umount", real]).run(up.clone());
    let mut findings = Vec::new();
    let replaced = match (&overlay.lower, &overlay.recorded) {
        (_, Some(Recorded::Different(how))) | (Identity::Different(how), _) => Some(how),
        _ => None,
    };
    if let Some(how) = replaced {
        // The option text is what was asked for when it was mounted.
        findings.push(match options.lower == [lower] {
            true => Finding::at(Code::LowerReplaced, real)
                .expected("the lower store directory that the overlay was mounted over")
                .found(how)
                .remedy(again(Remedy::say(
                    "put it back, or mount the store again over the new one",
                ))),
            false => Finding::at(Code::LowerdirDiffers, real)
                .expected("an overlay over the lower store directory described, and nothing else")
                .found(how)
                .remedy(again(Remedy::default())),
        });
    }
    if let Identity::Different(how) = &overlay.upper {
        findings.push(
            Finding::at(Code::UpperdirDiffers, real)
                .expected("an overlay that writes to the upper layer described")
                .found(how)
                .remedy(again(Remedy::default())),
        );
    }
    if let Identity::Different(how) = &overlay.workdir {
        findings.push(
            Finding::at(Code::WorkdirDiffers, real)
                .expected("an overlay with the work directory described")
                .found(how)
                .remedy(again(Remedy::default())),
        );
    }
    findings
}

/// Options that are described and not in force.
fn differing_options(store: &Store, observed: &Observed, shown: &SuperOptions) -> Vec<Finding> {
    let found = Shown {
        options: shown,
        // Where the defaults are unknown, an option that is not shown may be one.
        defaults: observed.machine.overlay_defaults,
        one_file_system: one_file_system(observed),
    };
    let differing = store.mount_options.iter().filter_map(|option| {
        let actual = found.instead_of(option)?;
        Some(
            Finding::at(Code::MountOptionsDiffer, &store.real)
                .expected(format!("an overlay mounted with {option}"))
                .found(actual)
                .remedy(down_up(store, observed)),
        )
    });
    differing.collect()
}

/// Whether all layers are on one file system, as far as can be told.
fn one_file_system(observed: &Observed) -> bool {
    let device = |place: &Place| place.found.directory().map(|stat| stat.identity.dev);
    let layers = [&observed.lower.directory, &observed.upper_layer.place].map(device);
    layers.contains(&None) || layers[0] == layers[1]
}

/// The options of a mounted overlay.
struct Shown<'a> {
    options: &'a SuperOptions,
    defaults: Option<Defaults>,
    one_file_system: bool,
}

impl Shown<'_> {
    /// What is there instead of a described option, if it is not in force.
    fn instead_of(&self, option: &MountOption) -> Option<String> {
        let name = option.name.as_str();
        let Some(described) = option.value.as_deref() else {
            let there = match name {
                "volatile" => self.options.is_volatile(),
                // No kernel shows these.
                "override_creds" | "nooverride_creds" => true,
                _ => self.options.has(name),
            };
            return (!there).then(|| "one without that option".to_owned());
        };
        if (name, described) == ("fsync", "volatile") {
            return (!self.options.is_volatile()).then(|| "one without that option".to_owned());
        }
        let defaults = self.defaults.unwrap_or_default();
        match self.options.value(name) {
            Some(shown) => {
                let shown = show(shown);
                (!defaults.may_become(name, described, &shown)).then(|| format!("{name}={shown}"))
            }
            None => {
                let default = self.defaults?.of(name, self.one_file_system)?;
                (!defaults.may_become(name, described, default))
                    .then(|| format!("{name}={default}, the default"))
            }
        }
    }
}

/// Options in force that risk the data although the description does not ask for them.
fn risky(store: &Store, observed: &Observed, options: &SuperOptions) -> Vec<Finding> {
    let described = |shown: &MountOption| {
        store.mount_options.contains(shown)
            || options::implied(&store.mount_options, shown)
            // Newer kernels show the one as the other.
            || (shown.value.as_deref() == Some("volatile")
                && store.mount_options.iter().any(|option| option.name == "volatile"))
    };
    options
        .others
        .iter()
        .filter_map(|(name, value)| {
            let shown = MountOption {
                name: show(name).into_owned(),
                value: value.as_deref().map(|value| show(value).into_owned()),
            };
            let why = options::kind(&shown.name)?.risk_of(shown.value.as_deref())?;
            (!described(&shown)).then(|| {
                Finding::at(Code::MountOptionRisky, &store.real)
                    .expected("mount options that keep the upper layer safe")
                    .found(format!("it is mounted with `{shown}`: {why}"))
                    .remedy(down_up(store, observed))
            })
        })
        .collect()
}

/// Nix's own check will not pass, although the paths allow it.
fn nix_check(store: &Store, observed: &Observed, facts: &MountFacts) -> Option<Finding> {
    if !*store.check_mount || facts.nix_check == Verdict::Accepted {
        return None;
    }
    let paths = [
        (CheckedPath::Real, &*store.real),
        (CheckedPath::Lower, &store.lower.real),
        (CheckedPath::Upper, &store.upper_layer),
        (CheckedPath::Work, &store.workdir),
    ];
    // Paths that can never pass are the description's matter.
    let impossible = paths
        .iter()
        .any(|(part, path)| mount_check::unmatchable(*part, path.as_os_str().as_bytes()).is_some());
    if impossible {
        return None;
    }
    let actual = match &facts.nix_check {
        Verdict::LowerDiffers { line } | Verdict::UpperDiffers { line } => show(line).into_owned(),
        _ => "no line for an overlay whose source is called `overlay`".to_owned(),
    };
    Some(
        Finding::at(Code::MountCheckFails, &store.real)
            .expected(format!(
                "in /proc/self/mounts, the source `overlay`, lowerdir={} and upperdir={}, which is \
                 what Nix looks for",
                show_path(&store.lower.real),
                show_path(&store.upper_layer)
            ))
            .found(actual)
            .remedy(down_up(store, observed)),
    )
}

/// No sign of OverlayFS in the kernel.
fn unsupported(observed: &Observed) -> Option<Finding> {
    (!observed.machine.overlay_loaded).then(|| {
        Finding::new(
            Code::OverlayUnsupported,
            format!("Linux {}", observed.machine.kernel),
        )
        .expected("`overlay` in /proc/filesystems")
        .found("it is missing (mounting may still load its module)")
        .remedy(command!["modprobe", "overlay"])
    })
}
