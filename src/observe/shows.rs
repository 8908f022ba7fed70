//! Whether an overlay really shows the directories that it is described to show. The text of its
//! options does not prove it: it is kept as given, and what is at those paths can change.
//!
//! An object that only one layer has shows with that layer's own attributes through the merged
//! directory: size, times, mode, and the inode number except for directories. With `xino` the highest bits of
//! the number tell the layer.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;

use crate::escape::{show, show_path};
use crate::linux::file_identity::FileIdentity;
use crate::linux::safe_path::{Reached, Status};
use crate::nix::layout;
use crate::observe::{Found, Identity, Place, names};
use std::os::unix::ffi::OsStrExt;

/// How many objects are compared.
const SAMPLES: usize = 8;

/// The bits of an inode number that `xino` never uses for the layer's number: it takes two bits more
/// than the number of file systems has, from the top.
const OWN_BITS: u64 = (1 << 56) - 1;

/// Compares the merged directory with the lower store directory.
pub(super) fn lower(
    merged: &Reached,
    lower: &Reached,
    upper: Option<&Reached>,
    layers: &[std::path::PathBuf],
) -> Identity {
    let [layer] = layers else {
        let paths: Vec<_> = layers.iter().map(|path| show_path(path)).collect();
        return Identity::Different(format!(
            "it has {} lower layers: {}",
            layers.len(),
            paths.join(", ")
        ));
    };
    if let Some(different) = by_path(layer, lower) {
        return different;
    }
    by_samples(merged, lower, upper)
}

/// Compares a path from the overlay's options with the directory it should be. What is at the path
/// now need not be what was mounted, so only a difference tells something.
fn by_path(given: &Path, described: &Reached) -> Option<Identity> {
    if !given.is_absolute() {
        return None;
    }
    let found = identity(given)?;
    (found != described.status().identity).then(|| {
        Identity::Different(format!(
            "its options say {}, which is another directory",
            show_path(given)
        ))
    })
}

/// What is at a path, symbolic links followed.
fn identity(path: &Path) -> Option<FileIdentity> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?;
    Some(Status::of(fd).ok()?.identity)
}

/// Compares some of the objects that only the lower store has.
fn by_samples(merged: &Reached, lower: &Reached, upper: Option<&Reached>) -> Identity {
    // What the upper layer has too, whiteouts included, shows from there.
    let only_below = |name: &OsStr| {
        name != layout::LINKS
            && upper.is_none_or(|upper| attributes(upper, name).err() == Some(Errno::NOENT))
    };
    let samples = lower
        .open()
        .and_then(|lower| names::first(lower, SAMPLES, only_below));
    let Ok(samples) = samples else {
        return Identity::Unknown;
    };
    let mut compared = 0;
    let mut missing = 0;
    for sample in &samples {
        let name = sample.name.as_os_str();
        let Ok(below) = attributes(lower, name) else {
            continue;
        };
        match attributes(merged, name) {
            Ok(above) => {
                compared += 1;
                if let Some(difference) = difference(&below, &above) {
                    return Identity::Different(format!("{} {difference}", show(name.as_bytes())));
                }
            }
            // The kernel may still hold it for missing if it is new below.
            Err(Errno::NOENT) => missing += 1,
            Err(_) => {}
        }
    }
    match (compared, missing) {
        (0, 0) => Identity::Unknown,
        (0, _) => Identity::Different(format!(
            "{} of the lower store does not show in it",
            show(samples[0].name.as_bytes())
        )),
        _ => Identity::Same,
    }
}

/// Compares the merged directory with the upper layer, whose attributes it shows.
pub(super) fn upper(merged: &Reached, upper: &Reached, given: Option<&Path>) -> Identity {
    let Some(given) = given else {
        return Identity::Different("it has no upper layer".to_owned());
    };
    if let Some(different) = by_path(given, upper) {
        return different;
    }
    // Somebody may change the directory between two looks: three tries, of which one must be quiet.
    for _ in 0..3 {
        let looks = (
            attributes(upper, "".as_ref()),
            attributes(merged, "".as_ref()),
        );
        let (Ok(before), Ok(above)) = looks else {
            return Identity::Unknown;
        };
        let Ok(after) = attributes(upper, "".as_ref()) else {
            return Identity::Unknown;
        };
        if difference(&before, &after).is_some() {
            continue;
        }
        return match difference(&before, &above) {
            Some(difference) => {
                Identity::Different(format!("the merged store directory {difference}"))
            }
            None => Identity::Same,
        };
    }
    Identity::Unknown
}

/// Compares the work directory that the overlay's options name with the one described. Nothing of
/// it shows in the merged directory.
pub(super) fn workdir(described: &Reached, given: Option<&Path>) -> Identity {
    match given {
        None => Identity::Different("it has no work directory".to_owned()),
        Some(given) => match identity(given) {
            Some(found) if found == described.status().identity => Identity::Same,
            _ => by_path(given, described).unwrap_or(Identity::Unknown),
        },
    }
}

/// Compares a directory that is described and not there with the path in the overlay's options: if
/// that is another one, so is the directory.
pub(super) fn missing(described: &Place, given: Option<&Path>) -> Identity {
    match (&described.found, given) {
        (Found::Missing { .. }, Some(given)) if given.is_absolute() && given != described.path => {
            Identity::Different(format!("its options say {}", show_path(given)))
        }
        _ => Identity::Unknown,
    }
}

/// The attributes of an entry of a directory, or with an empty name of the directory itself.
fn attributes(directory: &Reached, name: &OsStr) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

/// How an object shows with other attributes above than it has below, if it does.
fn difference(below: &Statx, above: &Statx) -> Option<String> {
    let kind = FileType::from_raw_mode(below.stx_mode.into());
    let same_number = below.stx_ino == above.stx_ino
        || (below.stx_ino ^ above.stx_ino) & OWN_BITS == 0
        || kind == FileType::Directory;
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let what = if below.stx_mode != above.stx_mode {
        "type or mode"
    } else if below.stx_size != above.stx_size {
        "size"
    } else if time(&below.stx_mtime) != time(&above.stx_mtime) {
        "modification time"
    } else if time(&below.stx_ctime) != time(&above.stx_ctime) {
        "change time"
    } else if !same_number {
        "inode number"
    } else {
        return None;
    };
    Some(format!("has another {what} there"))
}
