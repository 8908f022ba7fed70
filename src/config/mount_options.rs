//! `mount.options`.

use super::problem::{Problem, Span};
use super::raw::RawMount;
use super::read::At;
use crate::overlayfs::options::MountOption;

/// Options that follow from other keys, with the key to write instead.
const OWN: &[(&str, &str)] = &[
    ("lowerdir", "it follows from `lower-store`"),
    (
        "lowerdir+",
        "it follows from `lower-store`, and Nix wants exactly one lower layer",
    ),
    (
        "datadir+",
        "data-only layers are no part of a local-overlay store",
    ),
    ("upperdir", "it follows from `upper-layer`"),
    ("workdir", "it follows from `workdir`"),
    (
        "userxattr",
        "it is used where the mount is made in a user namespace, and nowhere else",
    ),
];

/// What mount(8) takes as an option and the kernel as a flag of the mount, not of OverlayFS.
const FLAGS: &[&str] = &[
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "lazytime",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "private",
    "relatime",
    "remount",
    "ro",
    "rw",
    "shared",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "user",
    "users",
    "_netdev",
];

/// Reads the options.
pub(super) fn read(raw: Option<&At<RawMount>>, problems: &mut Vec<Problem>) -> Vec<MountOption> {
    let Some(options) = raw.and_then(|raw| raw.value.options.as_ref()) else {
        return Vec::new();
    };
    let mut read: Vec<(MountOption, &Span)> = Vec::new();
    for given in &options.value {
        let (name, value) = match given.value.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (given.value.as_str(), None),
        };
        if let Some(problem) = wrong(name, given) {
            problems.push(problem);
        } else if let Some((_, span)) = read.iter().find(|(option, _)| option.name == name) {
            problems.push(
                Problem::new(format!("the mount option `{name}` is given twice"))
                    .at(&given.span, "given again here")
                    .at(span, "first given here")
                    .help("keep one of the two"),
            );
        } else {
            let option = MountOption {
                name: name.to_owned(),
                value: value.map(str::to_owned),
            };
            read.push((option, &given.span));
        }
    }
    read.into_iter().map(|(option, _)| option).collect()
}

fn wrong(name: &str, given: &At<String>) -> Option<Problem> {
    let span = &given.span;
    if let Some((_, why)) = OWN.iter().find(|(own, _)| *own == name) {
        return Some(
            Problem::new(format!(
                "the mount option `{name}` is set by overstore itself"
            ))
            .at(span, *why)
            .help("leave it out"),
        );
    }
    if matches!(name, "ro" | "rw") {
        return Some(
            Problem::new(format!("`{name}` is no mount option of OverlayFS"))
                .at(
                    span,
                    "the overlay is always writable: Nix adds store objects to it",
                )
                .help("leave it out"),
        );
    }
    if FLAGS.contains(&name) {
        return Some(
            Problem::new(format!("`{name}` is no mount option of OverlayFS"))
                .at(
                    span,
                    "it is a flag of a mount, which overstore does not set",
                )
                .help("leave it out, or bind the merged store directory elsewhere with that flag"),
        );
    }
    if given.value.contains(',') {
        return Some(
            Problem::new("a comma in a mount option")
                .at(span, "expected one option, `name` or `name=value`")
                .help(format!(
                    "write each option as a string of its own: {}",
                    given
                        .value
                        .split(',')
                        .map(|one| format!("{one:?}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
        );
    }
    let well_formed = |c: char| c.is_ascii_graphic() && c != '\\' && c != '"';
    if name.is_empty() || !given.value.chars().all(well_formed) {
        return Some(
            Problem::new("this is no mount option")
                .at(span, "expected `name` or `name=value`, without spaces"),
        );
    }
    None
}
