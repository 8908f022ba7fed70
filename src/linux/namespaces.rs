//! Namespaces of one's own: for set-ups that nobody else sees and that leave nothing behind.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, move_into_thread_name_spaces};

use super::users;
use crate::remedy::{HasRemedy, Remedy, command};

/// Why a namespace could not be made, and what can be done about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A user namespace is not to be had.
    #[error("this system does not let ordinary users make a user namespace: {reason}")]
    UserNamespaceForbidden {
        /// What forbids it.
        reason: String,
        /// Which setting allows it.
        remedy: Remedy,
    },
    /// A mount namespace is not to be had.
    #[error("cannot make a private mount namespace: {0}")]
    Mount(io::Error),
    /// The mounts of the new namespace could not be kept from spreading.
    #[error("cannot make the mounts private: {0}")]
    Private(Errno),
    /// The new user namespace could not be given its user and capabilities.
    #[error("cannot set up the user namespace: {0}")]
    Mapping(#[from] io::Error),
}

impl HasRemedy for Error {
    fn remedy(&self) -> Remedy {
        match self {
            Error::UserNamespaceForbidden { remedy, .. } => remedy.clone(),
            Error::Private(_) => Remedy::say(
                "inside a chroot, make its directory a mount point first (`mount --bind DIR DIR`)",
            )
            .or("enter it with pivot_root"),
            Error::Mount(_) | Error::Mapping(_) => Remedy::default(),
        }
    }
}

/// Moves this process into a mount namespace of its own, from which no mount spreads.
///
/// # Errors
/// See [`Error`]; needs `CAP_SYS_ADMIN`.
pub(crate) fn private_mounts() -> Result<(), Error> {
    users::unshare_mounts().map_err(Error::Mount)?;
    make_private()
}

/// Moves this process, which must have one thread, into a user namespace and a mount namespace of
/// its own. The user is mapped to itself, not to root, and keeps all capabilities over what it
/// executes: Nix then opens, builds and remounts without another configuration
/// (`build-users-group` concerns root only).
///
/// # Errors
/// See [`Error`].
pub(crate) fn private_user_and_mounts() -> Result<(), Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    users::unshare_user_and_mounts().map_err(forbidden)?;
    // An unprivileged process may map its group only once it cannot drop groups any more:
    // user_namespaces(7).
    write_once("/proc/self/setgroups", "deny")?;
    write_once("/proc/self/uid_map", &format!("{uid} {uid} 1\n"))?;
    write_once("/proc/self/gid_map", &format!("{gid} {gid} 1\n"))?;
    keep_capabilities().map_err(io::Error::from)?;
    make_private().map_err(|error| match error {
        // Where a security module strips the capabilities of a new user namespace, making it
        // works and the first use of it does not.
        Error::Private(errno @ (Errno::PERM | Errno::ACCESS)) => forbidden(errno.into()),
        other => other,
    })
}

/// Moves this process, which must have one thread, into the mount namespace of another, and with
/// `users` into its user namespace too, where it has all capabilities over what it executes. Its root
/// and working directory are then the root of that mount namespace.
///
/// # Errors
/// Those of setns(2), which fails unless this process could have made these namespaces.
pub(crate) fn join(process: impl AsFd, users: bool) -> io::Result<()> {
    let mut kinds = ThreadNameSpaceType::MOUNT;
    kinds.set(ThreadNameSpaceType::USER, users);
    move_into_thread_name_spaces(process.as_fd(), kinds)?;
    if users {
        keep_capabilities()?;
    }
    Ok(())
}

fn make_private() -> Result<(), Error> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(Error::Private)
}

/// A program that is executed by anybody but root loses its capabilities, except for those that
/// are ambient: capabilities(7).
fn keep_capabilities() -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    for capability in sets.permitted.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// These files take their content in one write(2) or not at all.
fn write_once(path: &str, content: &str) -> io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(content.as_bytes())
}

/// What keeps this user from making a user namespace: the kernel says only that it is not to be.
fn forbidden(error: io::Error) -> Error {
    let setting = |path: &str| {
        std::fs::read_to_string(Path::new("/proc/sys").join(path))
            .map(|value| value.trim().to_owned())
            .ok()
    };
    let sysctl = |why: &str, value: &str| Remedy::say(why).run(command!["sysctl", value]);
    let (reason, remedy) = if setting("user/max_user_namespaces").as_deref() == Some("0") {
        (
            "user.max_user_namespaces is 0".to_owned(),
            sysctl("as root, allow them", "user.max_user_namespaces=15000"),
        )
    } else if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        (
            "kernel.unprivileged_userns_clone is 0".to_owned(),
            sysctl("as root, allow them", "kernel.unprivileged_userns_clone=1"),
        )
    } else if setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        (
            "kernel.apparmor_restrict_unprivileged_userns is 1".to_owned(),
            Remedy::say("as root, give overstore an AppArmor profile that allows `userns`").or(
                sysctl(
                    "as root, allow them to every program",
                    "kernel.apparmor_restrict_unprivileged_userns=0",
                ),
            ),
        )
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        (
            "Operation not permitted (inside a chroot or a container it usually is not)".to_owned(),
            Remedy::say("run it outside the chroot or container")
                .or("allow user namespaces in the container's settings")
                .or("run it as root"),
        )
    } else {
        (error.to_string(), Remedy::say("run it as root"))
    };
    Error::UserNamespaceForbidden { reason, remedy }
}

/// Whether this process may mount here: `CAP_SYS_ADMIN` in effect.
///
/// # Errors
/// Those of capget(2).
pub(crate) fn can_mount() -> io::Result<bool> {
    Ok(rustix::thread::capabilities(None)?
        .effective
        .contains(CapabilitySet::SYS_ADMIN))
}
