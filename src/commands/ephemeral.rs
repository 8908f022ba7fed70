//! `overstore exec --ephemeral`: a new store for one command, gone with it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, XattrFlags, flock, fremovexattr, fsetxattr,
    mkdirat, openat, statat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::exec::{self, SET_UP_FAILED};
use super::private::{self, Lasts};
use super::{Failure, LongWork, pid_namespace, print_error, warm};
use crate::cli;
use crate::config::{self, SetUpFor, Store, WarmAtUp};
use crate::linux::file_identity::FileIdentity;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Status, Symlinks};
use crate::linux::{id_map, namespaces, new_directories, removal};
use crate::observe;
use crate::remedy::Fault;
use crate::report::WarmReport;
use crate::systemd::notify::ServiceManager;

/// The name of such a store.
const NAME: &str = "ephemeral";

/// Where it is, in namespaces of its own, if nothing is there.
const IN_MEMORY: &str = "/overstore";

/// What the names of directories begin with that hold such stores.
const PREFIX: &str = "ephemeral-";

pub(super) fn run(arguments: &cli::Exec) -> Result<ExitCode, Failure> {
    let can_mount = namespaces::can_mount().unwrap_or(false);
    let directory = arguments.dir.as_deref();
    let (store, _place) = match set_up(arguments, directory, can_mount) {
        Ok(made) => made,
        Err(Stop::Description(failure)) => return Err(failure),
        Err(Stop::SetUp(fault)) => {
            print_error(None, &fault);
            return Ok(ExitCode::from(SET_UP_FAILED));
        }
    };
    let mut command = exec::command(&arguments.command, &store);
    command.env("NIX_CACHE_HOME", store.upper_layer.with_file_name("cache"));
    match pid_namespace::run(&mut command) {
        Ok(code) => Ok(code),
        Err(fault) => {
            print_error(None, &fault);
            Ok(ExitCode::from(SET_UP_FAILED))
        }
    }
}

/// Why there is no store.
enum Stop {
    /// What was asked for is wrong.
    Description(Failure),
    /// It could not be set up.
    SetUp(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::SetUp(fault)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Description(failure)
    }
}

/// Makes the store, in namespaces that this process moves into.
fn set_up(
    arguments: &cli::Exec,
    directory: Option<&Path>,
    can_mount: bool,
) -> Result<(Store, Place), Stop> {
    // What is wrong with it is said before anything is made.
    let memory = in_memory();
    let mut store = describe(arguments, &memory)?;
    if !can_mount {
        exec::refuse_foreign_lower(&store, &store.lower)?;
    }
    private::namespaces(can_mount)?;
    let further = match directory {
        None => &[memory.as_path()][..],
        Some(_) => &[],
    };
    let covered = match &store.own {
        Some(own) => Some(private::make_room(&store, own, further)?),
        None => None,
    };
    let place = Place::make(directory, memory)?;
    if place.files.is_some() {
        store = describe(arguments, &place.path)?;
    }
    if let Some(covered) = covered {
        private::show_lower(&store, covered)?;
    }
    private::set_up(&store, arguments.allowed.into(), Lasts::No)?;
    if !arguments.warm.is_empty() {
        let wanted = WarmAtUp {
            all: false,
            paths: arguments.warm.clone(),
            roots: Vec::new(),
            keep: false,
        };
        let system = System::here().map_err(Failure::observing)?;
        let mut report = WarmReport::new(&store.name);
        // Without a thread beside it: what the command runs in has been entered already.
        let (work, manager) = (LongWork::unseen(), ServiceManager::default());
        let meanwhile = warm::Meanwhile {
            work: &work,
            manager: &manager,
        };
        warm::copy(&store, &system, &wanted, &mut report, None, meanwhile)
            .map_err(|failure| failure.fault())?;
    }
    Ok((store, place))
}

/// The store, below a directory.
fn describe(arguments: &cli::Exec, below: &Path) -> Result<Store, Failure> {
    let text = match &arguments.lower {
        Some(lower) => format!("lower-store = {}\n", toml::Value::from(lower.as_str())),
        None => String::new(),
    };
    let mut environment = observe::environment();
    environment.own_stores = Some(below.to_owned());
    let mut store = config::parse(NAME, "--lower", &text, &environment)?;
    store.program = observe::program_name();
    store.set_up_for = SetUpFor::Command;
    Ok(store)
}

/// Where the layers and the state are.
struct Place {
    path: PathBuf,
    /// The directory that it was made in, if it is of files, to be removed at the end.
    files: Option<OwnedFd>,
}

impl Place {
    /// An empty one: in `memory`, where that can serve and no directory is given.
    fn make(directory: Option<&Path>, memory: PathBuf) -> Result<Place, Fault> {
        if directory.is_none() && takes_marks(&memory) {
            return Ok(Place {
                path: memory,
                files: None,
            });
        }
        let default = || match observe::own_caches() {
            Some(directory) => directory,
            None => PathBuf::from("/var/cache/overstore"),
        };
        let directory = directory.map_or_else(default, Path::to_owned);
        let directory = std::path::absolute(&directory)
            .map_err(|error| private::doing("use", &directory, error))?;
        Place::below(&directory)
            .map_err(|error| private::doing("make a store below", &directory, error))
    }

    /// Makes an empty one below a directory, and removes those there that nobody uses any more.
    fn below(directory: &Path) -> io::Result<Place> {
        let reached = new_directories::private(directory)?;
        let status = reached.status();
        if status.uid != rustix::process::geteuid().as_raw() || status.mode & 0o022 != 0 {
            return Err(io::Error::other(
                "it is not yours, or others may write to it",
            ));
        }
        let opened = reached.open()?;
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name.as_bytes().starts_with(PREFIX.as_bytes())
                && let Ok(Some(_unused)) = lock(&opened, name)
            {
                removal::remove_tree(&opened, name)?;
            }
        }
        loop {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
            match mkdirat(&opened, &name, Mode::from_raw_mode(0o700)) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            // Somebody who removes what is unused may have been quicker.
            if let Ok(Some(held)) = lock(&opened, name.as_ref()) {
                // Until the last process of the store has ended.
                rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty())?;
                std::mem::forget(held);
                return Ok(Place {
                    path: reached.path().join(name),
                    files: Some(opened),
                });
            }
        }
    }

    /// Removes the files. The lower store shows there, and is not removed with them.
    fn remove(&self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (&self.files, self.path.file_name()) else {
            return Ok(());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(parent, name, flags, Mode::empty())?;
        // Of a store that could not be set up there may be nothing in it.
        if let Ok(store) = openat(place, NAME, flags, Mode::empty()) {
            // What takes a path is done from where that is a name. Nothing comes after this for which
            // the working directory counts.
            rustix::process::fchdir(store)?;
            // It shows in this mount namespace, and is not there where the mount covers nothing.
            let _ = unmount("lower", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        removal::remove_tree(parent, name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is tried again by the next one.
        let _ = self.remove();
    }
}

/// Takes the lock on a directory in a directory, unless somebody has it or has removed the directory.
fn lock(parent: impl AsFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(&parent, name, flags, Mode::empty())?;
    lock_opened(parent, name, directory)
}

/// The same of one that was opened. Who had its lock may have removed it since, and a directory without
/// a name can be locked, too.
fn lock_opened(parent: impl AsFd, name: &OsStr, directory: OwnedFd) -> io::Result<Option<OwnedFd>> {
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_named(parent, name, &directory).then_some(directory)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a directory still has its name.
fn is_named(parent: impl AsFd, name: &OsStr, directory: impl AsFd) -> bool {
    let named = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let held = Status::of(directory);
    matches!((named, held), (Ok(named), Ok(held)) if FileIdentity::from(&named) == held.identity)
}

/// A path at the top where nothing is: inside of such a store there is that one already.
fn in_memory() -> PathBuf {
    let mut path = PathBuf::from(IN_MEMORY);
    while path.symlink_metadata().is_ok() {
        path.as_mut_os_string().push("-inside");
    }
    path
}

/// Whether OverlayFS's marks can be set there. Tried, because which file systems take them in memory,
/// and in user namespaces, is different from kernel to kernel.
fn takes_marks(directory: &Path) -> bool {
    let name = match id_map::is_first_of_users() {
        true => "trusted.overlay.overstore",
        false => "user.overlay.overstore",
    };
    let Ok(directory) = safe_path::open_directory(directory, Symlinks::Refuse) else {
        return false;
    };
    fsetxattr(&directory, name, b"y", XattrFlags::empty()).is_ok()
        && fremovexattr(&directory, name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever looks for what is unused may be stopped between opening and locking it, while its user
    /// removes it and ends.
    #[test]
    fn what_is_gone_meanwhile_is_not_locked() {
        let parent = tempfile::tempdir().unwrap();
        let name = OsStr::new("ephemeral-1");
        let place = parent.path().join(name);
        let directory = |path: &Path| OwnedFd::from(std::fs::File::open(path).unwrap());
        let opened = directory(parent.path());

        std::fs::create_dir(&place).unwrap();
        let held = lock_opened(&opened, name, directory(&place)).unwrap();
        assert!(held.is_some());
        let second = lock_opened(&opened, name, directory(&place)).unwrap();
        assert!(second.is_none());
        drop(held);

        let stale = directory(&place);
        std::fs::remove_dir(&place).unwrap();
        let gone = lock_opened(&opened, name, stale).unwrap();
        assert!(gone.is_none());

        std::fs::create_dir(&place).unwrap();
        let stale = directory(&place);
        std::fs::rename(&place, parent.path().join("elsewhere")).unwrap();
        std::fs::create_dir(&place).unwrap();
        let replaced = lock_opened(&opened, name, stale).unwrap();
        assert!(replaced.is_none());
    }
}
