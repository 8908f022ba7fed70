//! The mount table, and the mount at a merged store directory.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::path::Visited;
use super::{Depth, Identity, MountFacts, OverlayFacts, Recorded, shows};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::nix::mount_check;
use crate::overlayfs::mountinfo::{MountInfo, stack_at};
use crate::overlayfs::options::SuperOptions;
use crate::records::mount_record::{DirectoryIdentity, MountIdentity, Record};

/// The mounts of this mount namespace.
pub(super) struct Mounts {
    all: Vec<MountInfo>,
    /// `/proc/self/mounts`, which Nix reads.
    text: Vec<u8>,
}

/// What the mount at a merged store directory should be.
pub(super) struct Expected<'a> {
    pub real: &'a Visited,
    pub lower: &'a Visited,
    pub upper_layer: &'a Visited,
    /// Not known of a nested store.
    pub workdir: Option<&'a Visited>,
}

impl Mounts {
    /// Reads the mount table.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn read(system: &System) -> io::Result<Mounts> {
        let all = MountInfo::parse_all(&system.read_proc("self/mountinfo")?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Mounts {
            all,
            text: system.read_proc("self/mounts")?,
        })
    }

    /// The mount of that number.
    pub(super) fn by_id(&self, id: u64) -> Option<&MountInfo> {
        self.all.iter().find(|mount| mount.id == id)
    }

    /// How many overlays are stacked at a directory, as far as their options tell.
    pub(super) fn overlays_at(&self, directory: &Reached) -> u32 {
        self.overlays_on(directory.status().mount_id, 0)
    }

    fn overlays_on(&self, mount_id: u64, depth: u32) -> u32 {
        let Some(mount) = self.by_id(mount_id).filter(|mount| is_overlay(mount)) else {
            return 0;
        };
        // The kernel stacks two; more can only be a mistake of this search.
        if depth > 2 {
            return 0;
        }
        let options = SuperOptions::parse(&mount.super_options);
        let layers = options.lower.iter().chain(&options.upper);
        let below = layers
            .filter_map(|layer| safe_path::directory(layer, Symlinks::Follow).ok())
            .map(|layer| layer.status().mount_id)
            .filter(|id| *id != mount_id)
            .map(|id| self.overlays_on(id, depth + 1));
        1 + below.max().unwrap_or(0)
    }

    /// Another overlay than `in_effect` that writes to a directory, in words.
    pub(super) fn other_writer(
        &self,
        upper: &Reached,
        in_effect: Option<&MountInfo>,
    ) -> Option<String> {
        find_writer(&self.all, upper, in_effect, Path::new("/"))
            .map(|mount| format!("the overlay at {}", show(&mount.mount_point)))
    }

    /// Another overlay than `in_effect` that writes to a directory, in another mount namespace that
    /// some process of this machine is in.
    pub(super) fn other_writer_elsewhere(
        &self,
        system: &System,
        upper: &Reached,
        in_effect: Option<&MountInfo>,
    ) -> Option<String> {
        crate::linux::processes::one_of_each_other_mount_namespace(system).find_map(|process| {
            let content = system.read_proc(&format!("{process}/mountinfo")).ok()?;
            let all = MountInfo::parse_all(&content).ok()?;
            let root = PathBuf::from(format!("/proc/{process}/root"));
            let mount = find_writer(&all, upper, in_effect, &root)?;
            Some(format!(
                "the overlay at {} in the mount namespace of process {process}",
                show(&mount.mount_point)
            ))
        })
    }

    /// Looks at the mount at a merged store directory.
    pub(super) fn at(&self, system: &System, expected: &Expected<'_>, depth: Depth) -> MountFacts {
        let path = &expected.real.place.path;
        let stack: Vec<MountInfo> = stack_at(&self.all, path).into_iter().cloned().collect();
        let buried = self
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
            &self.text,
            path.as_os_str().as_bytes(),
            expected.lower.place.path.as_os_str().as_bytes(),
            expected.upper_layer.place.path.as_os_str().as_bytes(),
        );
        MountFacts {
            place: expected.real.place.clone(),
            stack,
            buried,
            overlay,
            nix_check,
        }
    }
}

fn show(path: &Path) -> std::borrow::Cow<'_, str> {
    crate::escape::show_path(path)
}

fn is_overlay(mount: &MountInfo) -> bool {
    mount.fs_type == "overlay"
}

/// Whether two mounts show one file system.
fn same_device(one: &MountInfo, other: &MountInfo) -> bool {
    (one.major, one.minor) == (other.major, other.minor)
}

/// The overlay that is in effect in a stack of mounts, and whether it is reached through a bind
/// mount of itself on top, as NixOS makes one.
fn in_effect(stack: &[MountInfo]) -> Option<(&MountInfo, bool)> {
    let whole_overlay = |mount: &&MountInfo| is_overlay(mount) && mount.root == Path::new("/");
    let top = stack.first().filter(whole_overlay)?;
    let same: Vec<&MountInfo> = stack
        .iter()
        .take_while(|mount| whole_overlay(mount) && same_device(mount, top))
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
    let Some(overlay) = record.overlay else {
        return (record.lower == now).then_some(Recorded::Unfinished);
    };
    overlay.is(mount).then(|| match record.lower == now {
        true => Recorded::Same,
        false => Recorded::Different(format!(
            "when it was mounted, the lower store directory was {}; now it is {}",
            record.lower, now
        )),
    })
}

/// The overlay among `mounts`, another than `in_effect`, whose upper layer is a directory. Paths of
/// the options are taken below `root`.
fn find_writer<'a>(
    mounts: &'a [MountInfo],
    upper: &Reached,
    in_effect: Option<&MountInfo>,
    root: &Path,
) -> Option<&'a MountInfo> {
    mounts
        .iter()
        .filter(|mount| is_overlay(mount))
        .filter(|mount| in_effect.is_none_or(|ours| !same_device(mount, ours)))
        .find(|mount| {
            let Some(path) = SuperOptions::parse(&mount.super_options).upper else {
                return false;
            };
            let here = path.strip_prefix("/").unwrap_or(&path);
            match rustix::fs::stat(root.join(here)) {
                Ok(found) => {
                    (found.st_dev, found.st_ino) == (upper.status().dev, upper.status().ino)
                }
                // Not to be found by that name any more: the text is all there is.
                Err(_) => path.as_os_str().as_bytes() == upper.path().as_os_str().as_bytes(),
            }
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
