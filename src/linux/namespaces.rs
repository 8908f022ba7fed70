//! Namespaces of one's own: for set-ups that nobody else sees and that leave nothing behind.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, move_into_thread_name_spaces};

use super::forbidden::{self, Asked, Forbidden};
use super::{safe_path, users};
use crate::remedy::{HasRemedy, Remedy};

/// Why a namespace could not be made, and what can be done about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something forbids it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The mounts of the new namespace could not be kept from spreading.
    #[error("cannot make the mounts private: {0}")]
    Private(Errno),
    /// Root of this user namespace may be root of no further one. Linux requires that since 5.12
    /// (`verify_root_map`).
    #[error(
        "root of this container lacks CAP_SETFCAP, without which it cannot use a user namespace"
    )]
    Root,
    /// The new user namespace could not be given its user and capabilities.
    #[error("cannot set up the user namespace: {0}")]
    Mapping(#[from] io::Error),
}

impl HasRemedy for Error {
    fn remedy(&self) -> Remedy {
        match self {
            Error::Forbidden(forbidden) => forbidden.remedy(),
            Error::Private(_) => Remedy::say(
                "inside a chroot, make its directory a mount point first (`mount --bind DIR DIR`)",
            )
            .or("enter it with pivot_root"),
            Error::Root => Remedy::say(
                "run it as another user of the container (Docker, Podman: `--user`; Podman: \
                 `--userns=keep-id`)",
            )
            .or("give the container that capability (Docker, Podman: `--cap-add=setfcap`)"),
            Error::Mapping(error) => error.remedy(),
        }
    }
}

/// Moves this process into a mount namespace of its own, from which no mount spreads.
///
/// # Errors
/// See [`Error`]; needs `CAP_SYS_ADMIN`.
pub(crate) fn private_mounts() -> Result<(), Error> {
    users::unshare_mounts().map_err(|errno| Forbidden::because(Asked::Mounts, errno))?;
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
    let may_be_root = uid != 0 || has(CapabilitySet::SETFCAP)?;
    users::unshare_user_and_mounts().map_err(|errno| Forbidden::because(Asked::Users, errno))?;
    // An unprivileged process may map its group only once it cannot drop groups any more:
    // user_namespaces(7).
    write_once("/proc/self/setgroups", "deny")?;
    let map = format!("{uid} {uid} 1\n");
    write_once("/proc/self/uid_map", &map).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied if !may_be_root => Error::Root,
        _ => Error::Mapping(error),
    })?;
    safe_path::note_user_namespace(map.as_bytes());
    write_once("/proc/self/gid_map", &format!("{gid} {gid} 1\n"))?;
    keep_capabilities().map_err(io::Error::from)?;
    make_private()
}

/// Whether this process would live through [`private_mounts`], or, with `users`, through
/// [`private_user_and_mounts`]: a filter of system calls may end a process that tries. A copy of this
/// process tries first, where there is such a filter; this one must have one thread.
///
/// # Errors
/// When it would not.
pub(crate) fn expect_to_survive(users: bool) -> Result<(), Error> {
    if !forbidden::is_filtered() {
        return Ok(());
    }
    let tried = users::try_in_a_copy(|| {
        let made = match users {
            true => private_user_and_mounts(),
            false => private_mounts(),
        };
        u8::from(made.is_err())
    });
    match tried {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Forbidden::by_death(if users { Asked::Users } else { Asked::Mounts }).into())
        }
        Err(errno) => Err(Forbidden::because(Asked::Users, errno).into()),
    }
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
    mount_change("/", private).map_err(|errno| match errno {
        // Where a security module strips the capabilities of a new user namespace, making it works
        // and the first use of it does not.
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => {
            Forbidden::because(Asked::Mounting, errno).into()
        }
        errno => Error::Private(errno),
    })?;
    Ok(forbidden::expect_to_change_root()?)
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

/// Whether this process may mount here: `CAP_SYS_ADMIN` in effect.
///
/// # Errors
/// Those of capget(2).
pub(crate) fn can_mount() -> io::Result<bool> {
    has(CapabilitySet::SYS_ADMIN)
}

/// Whether a capability is in effect.
fn has(capability: CapabilitySet) -> io::Result<bool> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(sets.effective.contains(capability))
}
