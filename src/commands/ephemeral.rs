//! `overstore exec --ephemeral`: a new store for one command, gone with it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, XattrFlags, flock, setxattr};
use rustix::mount::{UnmountFlags, unmount};

use super::exec::{self, SET_UP_FAILED};
use super::private::{self, Lasts};
use super::{Failure, LongWork, pid_namespace, print_error, warm};
use crate::cli;
use crate::config::{self, Store, WarmAtUp};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{id_map, namespaces, removal};
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
        exec::refuse_foreign_lower(&store.lower)?;
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
    if place.files {
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
    Ok(store)
}

/// Where the layers and the state are.
struct Place {
    path: PathBuf,
    /// Whether they are files, to be removed at the end.
    files: bool,
}

impl Place {
    /// An empty one: in `memory`, where that can serve and no directory is given.
    fn make(directory: Option<&Path>, memory: PathBuf) -> Result<Place, Fault> {
        if directory.is_none() && takes_marks(&memory) {
            return Ok(Place {
                path: memory,
                files: false,
            });
        }
        let default = || match observe::own_caches() {
            Some(directory) => directory,
            None => PathBuf::from("/var/cache/overstore"),
        };
        let directory = directory.map_or_else(default, Path::to_owned);
        let directory = std::path::absolute(&directory)
            .map_err(|error| private::doing("use", &directory, error))?;
        let path = Place::below(&directory)
            .map_err(|error| private::doing("make a store below", &directory, error))?;
        Ok(Place { path, files: true })
    }

    /// Makes an empty one below a directory, and removes those there that nobody uses any more.
    fn below(directory: &Path) -> io::Result<PathBuf> {
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700);
        private.recursive(true).create(directory)?;
        let reached = safe_path::directory(directory, Symlinks::Follow)?;
        let status = reached.status();
        if status.uid != rustix::process::geteuid().as_raw() || status.mode & 0o022 != 0 {
            return Err(io::Error::other(
                "it is not yours, or others may write to it",
            ));
        }
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
                && let Ok(Some(_unused)) = lock(&entry.path())
            {
                removal::remove_tree(&reached.open()?, &entry.file_name())?;
            }
        }
        private.recursive(false);
        loop {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
            let path = directory.join(name);
            match private.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Somebody who removes what is unused may have been quicker.
            if let Ok(Some(held)) = lock(&path)
                && path.exists()
            {
                // Until the last process of the store has ended.
                rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty())?;
                std::mem::forget(held);
                return Ok(path);
            }
        }
    }
}

impl Place {
    /// Removes the files. The lower store shows there, and is not removed with them.
    fn remove(&self) -> io::Result<()> {
        let store = self.path.join(NAME);
        // It shows in this mount namespace, and is not there where the mount covers nothing.
        let _ = unmount(store.join("lower"), UnmountFlags::DETACH);
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let parent = safe_path::open_directory(parent, Symlinks::Follow)?;
        removal::remove_tree(&parent, name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.files {
            // What cannot be removed is tried again by the next one.
            let _ = self.remove();
        }
    }
}

/// Takes the lock on a directory, unless somebody has it.
fn lock(path: &Path) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let directory = safe_path::open_directory(path, Symlinks::Follow)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    setxattr(directory, name, b"y", XattrFlags::empty()).is_ok()
        && rustix::fs::removexattr(directory, name).is_ok()
}
