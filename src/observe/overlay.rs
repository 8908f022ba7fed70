//! The mount at a merged store directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mount_table::{MountTable, is_overlay};
use super::path::Visited;
use super::{Depth, Identity, MountFacts, OverlayFacts, Recorded, shows};
use crate::linux::root::System;
use crate::linux::safe_path::Reached;
use crate::nix::mount_check;
use crate::overlayfs::mountinfo::{MountInfo, stack_at};
use crate::overlayfs::options::SuperOptions;
use crate::records::mount_record::{DirectoryIdentity, MountIdentity, Record};

/// What the mount at a merged store directory should be.
pub(super) struct Expected<'a> {
    pub real: &'a Visited,
    pub lower: &'a Visited,
    pub upper_layer: &'a Visited,
    /// Not known of a nested store.
    pub workdir: Option<&'a Visited>,
}

/// Looks at the mount at a merged store directory.
pub(super) fn observe(
    system: &System,
    mounts: &MountTable,
    expected: &Expected<'_>,
    depth: Depth,
) -> MountFacts {
    let path = &expected.real.place.path;
    let stack: Vec<MountInfo> = stack_at(&mounts.all, path).into_iter().cloned().collect();
    let buried = mounts
        .all
        .iter()
        .filter(|mount| mount.mount_point == *path && is_overlay(mount))
        .filter(|mount| !stack.contains(mount))
        .cloned()
        .collect();
    let overlay = in_effect(&stack).and_then(|(info, under_bind)| {
        let merged = expected.real.reached.as_ref()?;
        Some(overlay_facts(
            system, info, under_bind, merged, expected, depth,
        ))
    });
    let nix_check = mount_check::predict(
        &mounts.text,
        path.as_os_str().as_bytes(),
        expected.lower.place.path.as_os_str().as_bytes(),
        expected.upper_layer.place.path.as_os_str().as_bytes(),
    );
    MountFacts {
        place: expected.real.place.clone(),
        above: above(mounts, expected),
        stack,
        buried,
        overlay,
        nix_check,
    }
}

/// Where the overlay is mounted that the merged store directory lies in, if it is of these layers: by
/// hand, one directory too high.
fn above(mounts: &MountTable, expected: &Expected<'_>) -> Option<PathBuf> {
    let real = expected.real.reached.as_ref()?;
    let mount = mounts.by_id(real.status().mount_id)?;
    if !is_overlay(mount) || mount.mount_point == expected.real.place.path {
        return None;
    }
    let written = SuperOptions::parse(&mount.super_options).upper?;
    let layer = &expected.upper_layer.place.path;
    layer
        .starts_with(written)
        .then(|| mount.mount_point.clone())
}

/// The overlay that is in effect in a stack of mounts, and whether it is reached through a bind
/// mount of itself on top, as NixOS makes one.
fn in_effect(stack: &[MountInfo]) -> Option<(&MountInfo, bool)> {
    let whole_overlay = |mount: &&MountInfo| is_overlay(mount) && mount.root == Path::new("/");
    let top = stack.first().filter(whole_overlay)?;
    let same: Vec<&MountInfo> = stack
        .iter()
        .take_while(|mount| whole_overlay(mount) && mount.is_of_same_file_system(top))
        .collect();
    let lowest = same.last()?;
    Some((lowest, same.len() > 1))
}

fn overlay_facts(
    system: &System,
    info: &MountInfo,
    under_bind: bool,
    merged: &Reached,
    expected: &Expected<'_>,
    depth: Depth,
) -> OverlayFacts {
    let options = SuperOptions::parse(&info.super_options);
    let upper = expected.upper_layer.reached.as_ref();
    let lower = expected.lower.reached.as_ref();
    let recorded = lower.and_then(|lower| {
        let mount = identity_of(info, under_bind, merged)?;
        recorded(system, &expected.real.place.path, &mount, lower)
    });
    let layers: Vec<PathBuf> = options.lower.iter().chain(&options.data).cloned().collect();
    let lower = match (lower, depth, &recorded) {
        // What `up` compared when it mounted is still there.
        (Some(_), Depth::Up | Depth::UpLocked, Some(Recorded::Same)) if layers.len() == 1 => {
            Identity::Same
        }
        (Some(lower), ..) => shows::lower(merged, lower, upper, &layers),
        (None, ..) => Identity::Unknown,
    };
    OverlayFacts {
        info: info.clone(),
        under_bind,
        lower,
        upper: match upper {
            Some(upper) => shows::upper(merged, upper, options.upper.as_deref()),
            None => shows::missing(&expected.upper_layer.place, options.upper.as_deref()),
        },
        workdir: match expected.workdir {
            None => Identity::Unknown,
            Some(workdir) => match &workdir.reached {
                Some(workdir) => shows::workdir(workdir, options.work.as_deref()),
                None => shows::missing(&workdir.place, options.work.as_deref()),
            },
        },
        recorded,
    }
}

/// The identity of an overlay's mount. Only of the topmost mount does the kernel tell the number
/// that is never given again.
fn identity_of(info: &MountInfo, under_bind: bool, merged: &Reached) -> Option<MountIdentity> {
    let top = MountIdentity::of(merged).ok()?;
    Some(match under_bind {
        false => top,
        true => MountIdentity {
            dev: top.dev,
            mount_id: info.id,
            unique_mount_id: None,
        },
    })
}

/// What `up` recorded of the lower store directory, against now.
fn recorded(
    system: &System,
    real: &Path,
    mount: &MountIdentity,
    lower: &Reached,
) -> Option<Recorded> {
    let record = Record::read(system, real).ok().flatten()?;
    let now = DirectoryIdentity::of(lower).ok()?;
    record
        .overlay?
        .is(mount)
        .then(|| match record.lower == now {
            true => Recorded::Same,
            false => Recorded::Different(format!(
                "when it was mounted, the lower store directory was {}; now it is {}",
                record.lower, now
            )),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(lines: &[&str]) -> Vec<MountInfo> {
        lines
            .iter()
            .map(|line| MountInfo::parse(line.as_bytes()).unwrap())
            .collect()
    }

    const OVERLAY: &str =
        "30 20 0:40 / /m rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w";

    #[test]
    fn the_overlay_on_top_is_in_effect() {
        let stack = stack(&[OVERLAY, "29 20 0:39 / /m rw - tmpfs tmpfs rw"]);
        assert_eq!(in_effect(&stack), Some((&stack[0], false)));
    }

    #[test]
    fn an_overlay_is_in_effect_under_a_bind_of_itself() {
        let bind = "31 30 0:40 / /m ro,nosuid - overlay overlay rw,lowerdir=/l";
        let stack = stack(&[bind, OVERLAY]);
        assert_eq!(in_effect(&stack), Some((&stack[1], true)));
    }

    #[test]
    fn nothing_else_is_in_effect() {
        let other = "31 30 0:41 / /m rw - tmpfs tmpfs rw";
        let part = "31 30 0:40 /part /m ro - overlay overlay rw,lowerdir=/l";
        assert_eq!(in_effect(&stack(&[other, OVERLAY])), None);
        assert_eq!(in_effect(&stack(&[part, OVERLAY])), None);
        assert_eq!(in_effect(&[]), None);
    }
}
