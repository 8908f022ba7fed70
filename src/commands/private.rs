//! Private set-ups: a store in namespaces that only one user's processes are in.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::Loaded;
use super::failure::Failure;
use crate::apply::{self, DirectoryLock, End, Ended, Progress, SetUp};
use crate::check::{self, Severity};
use crate::config::{Lower, MetadataSource, Own, Store};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Reached, Symlinks};
use crate::linux::{
    exhaustion, forbidden, locks, mount_points, namespaces, new_directories, processes,
};
use crate::lower;
use crate::nix::store_directory::StoreDirectory;
use crate::observe::{self, Member};
use crate::plan::Allowed;
use crate::records::LockFile;
use crate::remedy::{self, Fault, Remedy, command};
use crate::report;
use crate::systemd::notify::ServiceManager;

/// Whether a store outlives the processes that are in its set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    Yes,
    /// It is gone with them.
    No,
}

/// How long the last process of a set-up may take to end, or to let go of its lock.
const ENDING: Duration = Duration::from_secs(10);

/// Whose set-up of a store this process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// Another process's, which is complete.
    Joined,
    /// Its own, for which there are namespaces.
    Begun,
}

/// Joins the set-up of the store that another process of this user is in, or makes namespaces for
/// one.
pub(super) fn enter(system: &System, store: &Store, can_mount: bool) -> Result<Entered, Fault> {
    let mut waiting = || waiting_for_the_last(store);
    let attempt = |patience| find(system, store, can_mount, patience);
    match locks::wait(ENDING, &mut waiting, || attempt(Patience::Some))? {
        Some(entered) => Ok(entered),
        // Who has the lock is told when it is to be taken.
        None => match attempt(Patience::None)? {
            Some(entered) => Ok(entered),
            // It has ended just now.
            None => begin(system, store, can_mount),
        },
    }
}

fn waiting_for_the_last(store: &Store) {
    let holder = format!("what used {} to end", store.name);
    super::tell(&Progress::Waiting(&holder), &ServiceManager::default());
}

/// Whether there is time to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Some,
    None,
}

/// Joins a set-up, or begins one where there is none; `None` where one is just ending, or beginning.
fn find(
    system: &System,
    store: &Store,
    can_mount: bool,
    patience: Patience,
) -> Result<Option<Entered>, Fault> {
    let mut without = None;
    for member in observe::members(system, store, !can_mount) {
        let lock = match hold(system, store, &member)? {
            Hold::Shared(lock) => Some(lock),
            Hold::Refused => None,
            Hold::Nothing => {
                without.get_or_insert(member);
                continue;
            }
            Hold::Ending => continue,
        };
        if join(system, &member, lock)? {
            return Ok(Some(Entered::Joined));
        }
    }
    // In it already, it is this process that holds the lock.
    let is_inside = observe::shows(system, std::process::id(), store);
    let lock = match upper_lock(system, store) {
        Some(Ok(lock)) => Some(lock),
        // Somebody who is on the way in, or who is ending and no member any more.
        Some(Err(apply::Error::UpperLocked { .. })) if patience == Patience::Some && !is_inside => {
            return Ok(None);
        }
        _ => None,
    };
    match without {
        // Those who are in it have closed the lock, so that this process takes it.
        Some(member) => {
            let joined = join(system, &member, lock)?;
            Ok(joined.then_some(Entered::Joined))
        }
        None => {
            drop(lock);
            begin(system, store, can_mount).map(Some)
        }
    }
}

/// The upper layer's lock, where it can be taken; `None` where there is no such directory.
fn upper_lock(system: &System, store: &Store) -> Option<Result<DirectoryLock, apply::Error>> {
    let upper = safe_path::directory(&store.upper_layer, Symlinks::Refuse).ok()?;
    Some(DirectoryLock::upper_layer(&upper, system))
}

/// What of the upper layer's lock a process in the set-up lets this one have.
enum Hold {
    /// It has it, and this process too.
    Shared(DirectoryLock),
    /// It has closed all that it was left.
    Nothing,
    /// Something forbids this process to have what others have.
    Refused,
    /// It is ending, and the set-up perhaps with it.
    Ending,
}

fn hold(system: &System, store: &Store, member: &Member) -> Result<Hold, Fault> {
    let upper = safe_path::directory(&store.upper_layer, Symlinks::Refuse)
        .map_err(|error| cannot_join(system, member, &error))?;
    let lock =
        LockFile::find(&upper, system).map_err(|error| cannot_join(system, member, &error))?;
    let shared = match lock.and_then(|lock| lock.status().ok()) {
        Some(locked) => member.share_lock(system, locked.identity.ino),
        None => Ok(None),
    };
    Ok(match shared {
        Ok(Some(lock)) => Hold::Shared(lock.into()),
        // What it had it has closed since it was looked for.
        Err(Errno::SRCH | Errno::BADF) => Hold::Ending,
        // Looked at afterwards: if it is not ending now, that is not why it has no lock.
        _ if member.is_ending(system) => Hold::Ending,
        Ok(None) => Hold::Nothing,
        Err(_) => Hold::Refused,
    })
}

/// A store that is an ordinary user's own is looked at in its set-up: from here on this process is in
/// it. What keeps it from being set up is left to whoever looks. Other stores are as they are.
///
/// # Errors
/// When its namespaces can neither be joined nor made.
pub(super) fn inside(loaded: Loaded) -> Result<Loaded, Failure> {
    if loaded.store.own.is_none() {
        return Ok(loaded);
    }
    let _turn = turn(&loaded.system, &loaded.store).map_err(Failure::of)?;
    let loaded = beside(loaded)?;
    let allowed = Allowed::default();
    let Ended { upper_lock, .. } = run(&loaded.store, &loaded.system, allowed, Lasts::Yes);
    if let Some(lock) = upper_lock {
        lock.leave_to_descendants().map_err(Failure::observing)?;
    }
    Ok(loaded)
}

/// As [`inside`], but the store is not set up where nobody has done so.
///
/// # Errors
/// As for [`inside`].
pub(super) fn beside(loaded: Loaded) -> Result<Loaded, Failure> {
    let Loaded { store, system } = &loaded;
    if store.own.is_none() {
        return Ok(loaded);
    }
    let can_mount = namespaces::can_mount().unwrap_or(false);
    enter(system, store, can_mount).map_err(Failure::of)?;
    let system = System::here().map_err(Failure::observing)?;
    Ok(Loaded { system, ..loaded })
}

/// A store that is an ordinary user's own is mounted for that user's processes alone.
///
/// # Errors
/// If it is one.
pub(super) fn refuse_own(store: &Store) -> Result<(), Failure> {
    if store.own.is_none() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} is a store of your own, which is mounted only for your processes, while they run",
        store.name
    ))
    .remedy(Remedy::from(store.command(["exec"]))))
}

/// Moves this process into namespaces of its own, in which the parts of the store are where they are
/// described.
fn begin(system: &System, store: &Store, can_mount: bool) -> Result<Entered, Fault> {
    namespaces(can_mount)?;
    if observe::shows(system, std::process::id(), store) {
        return Ok(Entered::Begun);
    }
    if let Some(own) = &store.own {
        place(store, own)?;
    }
    wait_for_the_last(store);
    Ok(Entered::Begun)
}

/// Waits until the last process of a set-up has not only let go of the lock, but left its namespaces,
/// with which the overlay goes: the kernel does that in this order. Whoever uses the layer for longer is
/// told when the store is set up.
fn wait_for_the_last(store: &Store) {
    let mut waiting = || waiting_for_the_last(store);
    observe::stays_used_by_an_overlay(&store.upper_layer, ENDING, &mut waiting);
}

/// Moves this process into namespaces of its own.
pub(super) fn namespaces(can_mount: bool) -> Result<(), Fault> {
    exhaustion::expect_room().map_err(|error| Fault::of(&error))?;
    namespaces::expect_to_survive(!can_mount).map_err(|error| Fault::of(&error))?;
    if can_mount {
        namespaces::private_mounts().map_err(|error| Fault::of(&error))?;
    } else {
        namespaces::private_user_and_mounts().map_err(|error| Fault::of(&error))?;
    }
    Ok(())
}

/// Shows the lower store where the mount does not cover it, and makes a place for the mount.
fn place(store: &Store, own: &Own) -> Result<(), Fault> {
    let covered = make_room(store, own, &[])?;
    show_lower(store, covered)
}

/// What the mount will cover: the lower store directory as it was, attached nowhere.
pub(super) struct Covered(Option<OwnedFd>);

/// Makes a place for the mount, where nothing is mounted, and empty directories at `further` paths.
pub(super) fn make_room(store: &Store, own: &Own, further: &[&Path]) -> Result<Covered, Fault> {
    let hold = |path: &Path| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, path, flags)
    };
    let covered = match &own.covered {
        None => None,
        Some(path) => Some(
            match hold(path) {
                // A daemon of Nix makes its store when it is first asked for anything.
                Err(Errno::NOENT) if answers(store) => hold(path),
                held => held,
            }
            .map_err(|errno| doing("show", path, errno.into()).remedy(no_lower(path, errno)))?,
        ),
    };
    let mut points: Vec<&Path> = further.to_vec();
    points.push(&store.real);
    mount_points::make(&points).map_err(|error| doing("make", &store.real, error))?;
    Ok(Covered(covered))
}

fn answers(store: &Store) -> bool {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    lower::open(&store.lower.source, &directory).is_ok()
}

fn no_lower(path: &Path, errno: Errno) -> Remedy {
    match errno {
        Errno::NOENT => Remedy::say("have root make the store below")
            .run(command!["nix-store", "--init"])
            .or(Remedy::say(
                "name another one: `--lower STORE` with `--ephemeral`, `lower-store` in a description",
            )),
        _ => remedy::of_io(&errno.into(), path),
    }
}

/// Shows what the mount covers where it is described to be.
pub(super) fn show_lower(store: &Store, covered: Covered) -> Result<(), Fault> {
    let Covered(Some(covered)) = covered else {
        return Ok(());
    };
    let at = &store.lower.real;
    let place = make_private(at)?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&covered, "", &place, "", onto)
        .map_err(|errno| doing("show the lower store at", at, errno.into()))
}

pub(super) fn doing(what: &str, path: &Path, error: io::Error) -> Fault {
    let remedy = remedy::of_io(&error, path);
    Fault::new(format!("cannot {what} {}: {error}", show_path(path))).remedy(remedy)
}

/// Waits until nobody else is between looking for a set-up of this store and having made one. What is
/// locked has to be there before the store is, and to be nobody else's: a directory above.
pub(super) fn turn(system: &System, store: &Store) -> Result<Option<DirectoryLock>, Fault> {
    let user = rustix::process::geteuid().as_raw();
    let above = store.workdir.ancestors().skip(1);
    let above = above.map(|path| safe_path::directory(path, Symlinks::Refuse));
    let Some(above) = above.flatten().next() else {
        return Ok(None);
    };
    if above.status().uid != user {
        return Ok(None);
    }
    let mut tell = |holder: &str| {
        super::tell(&Progress::Waiting(holder), &ServiceManager::default());
    };
    DirectoryLock::wait(&above, system, &mut tell)
        .map(Some)
        .map_err(|error| Fault::of(&error))
}

/// Joins the namespaces of a process, with a hold on the upper layer. The working directory is the
/// one of that name there. Tells whether the process was still there.
fn join(system: &System, member: &Member, lock: Option<DirectoryLock>) -> Result<bool, Fault> {
    let directory = std::env::current_dir();
    match namespaces::join(&member.descriptor, member.users) {
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(false),
        joined => joined.map_err(|error| cannot_join(system, member, &error))?,
    }
    let directory = directory.map_err(|error| cannot_join(system, member, &error))?;
    std::env::set_current_dir(&directory).map_err(|error| {
        let shown = show_path(&directory);
        Fault::new(format!(
            "cannot go to {shown} in the set-up of {}: {error}",
            processes::in_words(system, member.process)
        ))
        .remedy(remedy::of_io(&error, &directory))
    })?;
    match lock {
        Some(lock) => {
            let left = lock.leave_to_descendants();
            left.map(|()| true).map_err(|error| Fault::of(&error))
        }
        None => Ok(true),
    }
}

fn cannot_join(system: &System, member: &Member, error: &dyn std::fmt::Display) -> Fault {
    let words = processes::in_words(system, member.process);
    Fault::new(format!("cannot join the set-up of {words}: {error}"))
        .remedy(forbidden::remedy_of_filter())
}

/// Sets the store up in this process's namespaces, where it may be already. The mount is gone with the
/// last process that is in them; until then those hold the upper layer's lock.
pub(super) fn set_up(store: &Store, allowed: Allowed, lasts: Lasts) -> Result<(), Fault> {
    expect_answers(&store.lower, &store.name)?;
    if let Some(own) = &store.own {
        make_directory(store, own)?;
    }
    // As it is in the new namespace.
    let system = System::here().map_err(|error| Failure::observing(error).fault())?;
    let Ended {
        end, upper_lock, ..
    } = run(store, &system, allowed, lasts);
    let findings = match end {
        End::Done(observed) => check::check(store, &observed),
        End::Refused { findings, .. } => findings,
        End::Failed(error) => return Err(Fault::of(&error)),
    };
    let errors: Vec<_> = findings
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    // Warned of, it goes on without some objects, as the store does that is up for everybody.
    report::warn(&errors);
    if errors
        .iter()
        .any(|finding| !finding.code.is_of_a_missing_object())
    {
        return Err(not_as_described(&store.name));
    }
    match upper_lock {
        Some(lock) => lock
            .leave_to_descendants()
            .map_err(|error| Fault::of(&error)),
        // It was mounted already, for everybody.
        None => Ok(()),
    }
}

/// Expects the daemon below to answer this user, if there is one: Nix asks it for every path.
fn expect_answers(lower: &Lower, name: &str) -> Result<(), Fault> {
    match &lower.source {
        MetadataSource::Daemon { socket } => match observe::ask_daemon(socket) {
            Ok(_version) => Ok(()),
            Err(why) => {
                report::warn(&[check::silent_daemon(socket, &why)]);
                Err(not_as_described(name))
            }
        },
        MetadataSource::Overlay { lower, .. } => expect_answers(lower, name),
        MetadataSource::Database { .. } | MetadataSource::Ssh { .. } => Ok(()),
    }
}

fn not_as_described(name: &str) -> Fault {
    Fault::new(format!("the store {name} is not as described"))
        .remedy("follow what is printed above")
}

/// Makes the directory of what the description does not place, for its user alone.
fn make_directory(store: &Store, own: &Own) -> Result<(), Fault> {
    let parts = [&store.upper_layer, &store.workdir, &*store.state];
    if !parts.iter().any(|part| part.starts_with(&own.directory)) {
        return Ok(());
    }
    make_private(&own.directory).map(drop)
}

/// Makes a directory for this user alone, with those above it.
fn make_private(at: &Path) -> Result<Reached, Fault> {
    let elsewhere = "put the store where you can write: set `XDG_STATE_HOME`, or the keys of its \
                     description, to a directory on a disk of this machine";
    new_directories::private(at).map_err(|error| doing("make", at, error).remedy(elsewhere))
}

fn run(store: &Store, system: &System, allowed: Allowed, lasts: Lasts) -> Ended {
    let set_up = SetUp {
        store,
        system,
        allowed,
        remember: false,
        lasts: lasts == Lasts::Yes,
    };
    set_up.run(&mut |progress| super::tell(&progress, &ServiceManager::default()))
}
