//! Why the kernel refused to mount an overlay.
//!
//! `mount(2)` tells an error number, and `EINVAL` stands for a dozen reasons. So the reasons that can
//! be seen from outside are looked for first; then the mount API is asked, which keeps a log of its
//! own for some of them; then the kernel's log is read, which has the rest, but only root may, and in
//! which there may be what other mounts have been told meanwhile.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};

use crate::escape::show_path;
use crate::linux::kernel_log::KernelLog;
use crate::linux::mount_log;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::overlayfs::options::{OptionsTooLong, escape, escape_lower};
use crate::plan::Overlay;
use crate::remedy::{self, HasRemedy, Remedy, command};

/// `OVERLAYFS_SUPER_MAGIC` in Linux's `magic.h`.
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// The kernel's refusal, explained.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel refused to mount the overlay at {}: {cause} ({})",
    show_path(real),
    std::io::Error::from(*errno)
)]
pub struct MountFailure {
    /// Where it was to be mounted.
    pub real: PathBuf,
    /// What `mount(2)` said.
    pub errno: Errno,
    /// Why.
    pub cause: Cause,
}

/// Why the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The text of the options is too long.
    #[error(transparent)]
    TextTooLong(OptionsTooLong),
    /// The options cannot be a text.
    #[error("a path or an option contains a zero byte")]
    ZeroByte,
    /// Mounting is not permitted.
    #[error("mounting is not permitted here: it needs CAP_SYS_ADMIN")]
    NotPermitted,
    /// The kernel has no OverlayFS.
    #[error("this kernel has no OverlayFS, or has not loaded it")]
    NoOverlay,
    /// A directory cannot be used.
    #[error("{} cannot be used: {why}", show_path(path))]
    Directory {
        /// The path as described.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The upper layer's file system is mounted read-only.
    #[error("the upper layer {} is on a read-only mount", show_path(.0))]
    UpperReadOnly(PathBuf),
    /// Upper layer and work directory are on different mounts.
    #[error(
        "the work directory {} is not on the same mount as the upper layer {}",
        show_path(workdir),
        show_path(upper_layer)
    )]
    DifferentMounts {
        /// The upper layer.
        upper_layer: PathBuf,
        /// The work directory.
        workdir: PathBuf,
    },
    /// A directory lies inside another, where OverlayFS wants them apart.
    #[error(
        "{} is inside {}, or is the same directory",
        show_path(inner),
        show_path(outer)
    )]
    Nested {
        /// The inner one.
        inner: PathBuf,
        /// The outer one.
        outer: PathBuf,
    },
    /// Too many file systems on top of each other.
    #[error(
        "the lower store directory {} is an overlay over an overlay already, and the kernel stacks no \
         third level",
        show_path(.0)
    )]
    TooDeep(PathBuf),
    /// Another overlay uses the upper layer or the work directory.
    #[error(
        "the upper layer {} or its work directory is in use by another overlay, in this or another \
         mount namespace",
        show_path(.0)
    )]
    InUse(PathBuf),
    /// The upper layer's file system cannot be one.
    #[error(
        "the file system of the upper layer {} cannot take an upper layer",
        show_path(.0)
    )]
    UpperUnfit(PathBuf),
    /// The upper layer's file system is full, or there may be no more mounts.
    #[error(
        "no room or no inodes are left on the file system of the upper layer {}, or this mount \
         namespace may have no more mounts",
        show_path(.0)
    )]
    NoRoom(PathBuf),
    /// What the mount API's log says.
    #[error("{0}")]
    Option(String),
    /// What the kernel's log says.
    #[error("the kernel's log says: {}", .0.join("; "))]
    KernelLog(Vec<String>),
    /// It cannot be told.
    #[error("the cause is unknown")]
    Unknown,
}

impl HasRemedy for MountFailure {
    fn remedy(&self) -> Remedy {
        match &self.cause {
            Cause::TextTooLong(_) => Remedy::say(
                "use shorter paths for the lower store directory, the upper layer and the work \
                 directory",
            ),
            Cause::NotPermitted => needs_root(),
            Cause::NoOverlay => Remedy::say("load it")
                .run(command!["modprobe", "overlay"])
                .or("use a kernel that has it (CONFIG_OVERLAY_FS)"),
            Cause::UpperReadOnly(_) => Remedy::say("remount it writable")
                .or("put the upper layer and the work directory elsewhere"),
            Cause::DifferentMounts { .. } => Remedy::say("put both on one mount"),
            Cause::Nested { .. } => Remedy::say("put them side by side"),
            Cause::TooDeep(_) => Remedy::say("use one of those below as the lower store"),
            Cause::InUse(_) => {
                Remedy::say("unmount that one").or("use an upper layer of its own for each store")
            }
            Cause::UpperUnfit(_) => Remedy::say(
                "put the upper layer and the work directory on ext4, xfs, btrfs or tmpfs",
            ),
            Cause::NoRoom(upper_layer) => {
                remedy::of_file_system(ErrorKind::StorageFull, upper_layer).or(Remedy::say(
                    "where there is room, see how many mounts there are and may be",
                )
                .run(command!["sysctl", "fs.mount-max"]))
            }
            Cause::Option(_) => Remedy::say("correct `options` under `[mount]`"),
            Cause::Unknown => {
                Remedy::say("as root, read the kernel's own message").run(command!["dmesg"])
            }
            Cause::ZeroByte | Cause::Directory { .. } | Cause::KernelLog(_) => Remedy::default(),
        }
    }
}

/// Who may mount, and what does without.
pub(super) fn needs_root() -> Remedy {
    Remedy::say("run this as root")
        .or("use `overstore exec`, which sets the store up for one command without root")
}

impl MountFailure {
    /// Finds out why mounting failed with `errno`. `log` is the kernel's log since before that,
    /// `asked` what [`Cause::from_mount_api`] gave where the mount was tried.
    pub fn explain(
        overlay: &Overlay,
        errno: Errno,
        log: KernelLog,
        asked: Option<Cause>,
    ) -> MountFailure {
        let cause = from_outside(overlay, errno)
            .or_else(|| from_number(overlay, errno))
            .or(asked)
            .or_else(|| log.about_overlays().map(|lines| from_log(overlay, lines)))
            .unwrap_or(Cause::Unknown);
        MountFailure {
            real: overlay.real.clone(),
            errno,
            cause,
        }
    }
}

impl Cause {
    /// What the mount API's own log says, when the same is tried through it without attaching
    /// anything. The kernel takes the layers by path here too, and empties the work directory: only
    /// where the paths are held.
    pub fn from_mount_api(overlay: &Overlay) -> Option<Cause> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        let layers = [
            ("lowerdir", escape_lower(&overlay.options.lowerdir)),
            ("upperdir", escape(&overlay.options.upperdir)),
            ("workdir", escape(&overlay.options.workdir)),
        ];
        let refused = layers
            .iter()
            .map(|(name, path)| fsconfig_set_string(&context, *name, path.as_slice()))
            .chain(
                overlay
                    .options
                    .further
                    .iter()
                    .map(|option| match &option.value {
                        Some(value) => fsconfig_set_string(&context, &option.name, value),
                        None => fsconfig_set_flag(&context, &option.name),
                    }),
            )
            .find_map(Result::err)
            .or_else(|| fsconfig_create(&context).err());
        refused?;
        mount_log::read(&context).map(Cause::Option)
    }
}

/// The causes that can be seen from outside, most basic first.
fn from_outside(overlay: &Overlay, errno: Errno) -> Option<Cause> {
    match overlay.options.text() {
        Err(too_long) => return Some(Cause::TextTooLong(too_long)),
        Ok(text) if text.contains(&0) => return Some(Cause::ZeroByte),
        Ok(_) => {}
    }
    match errno {
        Errno::PERM | Errno::ACCESS => return Some(Cause::NotPermitted),
        Errno::NODEV => return Some(Cause::NoOverlay),
        Errno::NOSPC | Errno::DQUOT => {
            return Some(Cause::NoRoom(overlay.options.upperdir.clone()));
        }
        _ => {}
    }
    let open = |path: &Path, symlinks| {
        safe_path::directory(path, symlinks).map_err(|obstacle| Cause::Directory {
            path: path.to_owned(),
            why: obstacle.to_string(),
        })
    };
    let opened = || -> Result<[Reached; 4], Cause> {
        Ok([
            open(&overlay.real, Symlinks::Refuse)?,
            open(&overlay.options.lowerdir, Symlinks::Follow)?,
            open(&overlay.options.upperdir, Symlinks::Refuse)?,
            open(&overlay.options.workdir, Symlinks::Refuse)?,
        ])
    };
    let [_, lower, upper, work] = match opened() {
        Ok(directories) => directories,
        Err(cause) => return Some(cause),
    };
    let read_only = |directory: &Reached| {
        rustix::fs::fstatvfs(directory)
            .is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    if read_only(&upper) {
        return Some(Cause::UpperReadOnly(overlay.options.upperdir.clone()));
    }
    if upper.status().mount_id != work.status().mount_id {
        return Some(Cause::DifferentMounts {
            upper_layer: overlay.options.upperdir.clone(),
            workdir: overlay.options.workdir.clone(),
        });
    }
    let nested = [
        (&work, &upper),
        (&upper, &work),
        (&upper, &lower),
        (&lower, &upper),
        (&work, &lower),
        (&lower, &work),
    ];
    for (inner, outer) in nested {
        if is_inside(inner, outer) {
            return Some(Cause::Nested {
                inner: inner.path().to_owned(),
                outer: outer.path().to_owned(),
            });
        }
    }
    None
}

/// Whether a directory is another or lies below it.
fn is_inside(inner: &Reached, outer: &Reached) -> bool {
    inner.path().starts_with(outer.path()) || inner.status().identity == outer.status().identity
}

/// The cause behind lines of the kernel's log, in our own words where they are known.
fn from_log(overlay: &Overlay, lines: Vec<String>) -> Cause {
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    if says("maximum fs stacking depth exceeded") {
        // Some file systems, such as proc, count as the deepest of all.
        match is_overlay(&overlay.options.lowerdir) {
            true => Cause::TooDeep(overlay.options.lowerdir.clone()),
            false => Cause::UpperUnfit(overlay.options.upperdir.clone()),
        }
    } else if says("not supported as upperdir") || says("upper fs does not support") {
        Cause::UpperUnfit(overlay.options.upperdir.clone())
    } else {
        Cause::KernelLog(lines)
    }
}

fn is_overlay(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|found| found.f_type as u64 == OVERLAYFS_MAGIC)
}

/// What the error number says, where it stands for one thing.
fn from_number(overlay: &Overlay, errno: Errno) -> Option<Cause> {
    match errno {
        Errno::BUSY => Some(Cause::InUse(overlay.options.upperdir.clone())),
        _ => None,
    }
}
