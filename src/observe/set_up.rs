//! Private set-ups of a store, which `overstore exec` makes and which other processes are in.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mount_table::is_overlay;
use crate::config::Store;
use crate::config::names::STORE_VARIABLE;
use crate::linux::processes;
use crate::linux::root::System;
use crate::overlayfs::mountinfo::{MountInfo, stack_at};
use crate::overlayfs::options::SuperOptions;

/// A process in a private set-up of a store.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its number.
    pub process: u32,
    /// By which it is found again, and no other that has got its number since.
    pub descriptor: OwnedFd,
    /// Whether the set-up has a user namespace of its own.
    pub users: bool,
}

impl Member {
    /// The open file by which the process holds the lock on what has this inode, if it has one: this
    /// process holds the lock too from now on.
    ///
    /// # Errors
    /// See [`processes::share_lock`].
    pub(crate) fn share_lock(&self, system: &System, inode: u64) -> Result<Option<OwnedFd>, Errno> {
        processes::share_lock(system, self.process, &self.descriptor, inode)
    }

    /// Whether it is ending: its set-up may end with it, and it has let go of the lock before.
    pub(crate) fn is_ending(&self, system: &System) -> bool {
        processes::is_ending(system, self.process)
    }
}

/// The processes in a private set-up of the store that this user made: with `users`, in a user namespace
/// besides; otherwise in this one, since whoever made another one has control over what is in it. Each
/// is looked for when it is asked for.
pub(crate) fn members<'a>(
    system: &'a System,
    store: &'a Store,
    users: bool,
) -> impl Iterator<Item = Member> + 'a {
    let user = rustix::process::geteuid().as_raw();
    let ours = std::process::id();
    let our_mounts = processes::mount_namespace(system, ours);
    let our_users = processes::user_namespace(system, ours);
    let is_known = our_mounts.is_some() && our_users.is_some();
    let mut namespaces: HashMap<Vec<u8>, bool> = HashMap::new();
    let processes = processes::all(system).unwrap_or_default();
    processes
        .into_iter()
        .filter(move |_| is_known)
        .filter_map(move |process| {
            if processes::owner(system, process)? != user {
                return None;
            }
            let namespace = processes::mount_namespace(system, process);
            let of_our_users =
                processes::user_namespace(system, process)? == *our_users.as_ref()?;
            if namespace == our_mounts || of_our_users == users {
                return None;
            }
            let namespace = namespace?;
            let shows = *namespaces
                .entry(namespace.clone())
                .or_insert_with(|| shows(system, process, store));
            // Services have mount namespaces of their own, too, in which it may still show.
            if !shows || !processes::was_given(system, process, STORE_VARIABLE, &store.name) {
                return None;
            }
            let pid = Pid::from_raw(process.try_into().ok()?)?;
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let is_it_still = processes::mount_namespace(system, process)? == namespace
                && processes::owner(system, process)? == user;
            is_it_still.then_some(Member {
                process,
                descriptor,
                users,
            })
        })
}

/// Whether a process's mount namespace has the store's overlay, by the text of the mount table.
pub(crate) fn shows(system: &System, process: u32, store: &Store) -> bool {
    let content = processes::read(system, process, "mountinfo").unwrap_or_default();
    let mounts = MountInfo::parse_all(&content).unwrap_or_default();
    let stack = stack_at(&mounts, &store.real);
    stack.first().is_some_and(|mount| {
        is_overlay(mount)
            && SuperOptions::parse(&mount.super_options).upper.as_deref()
                == Some(store.upper_layer.as_path())
    })
}
