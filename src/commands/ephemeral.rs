//! `overstore exec --ephemeral`: a new store for one command, gone with it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{FlockOperation, XattrFlags, flock, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level;

use super::exec::{self, SET_UP_FAILED};
use super::{Failure, print_error, private, warm};
use crate::cli;
use crate::config::{self, Store, WarmAtUp};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{mount_points, namespaces, removal, users};
use crate::observe;
use crate::remedy::Fault;
use crate::report::WarmReport;
use crate::systemd::notify::ServiceManager;

/// The name of such a store.
const NAME: &str = "ephemeral";

/// Where it is, in namespaces of its own.
const IN_MEMORY: &str = "/overstore";

/// What the names of directories begin with that hold such stores.
const PREFIX: &str = "ephemeral-";

/// Signals that are passed on to the command. A terminal sends it those of its keys itself.
const PASSED_ON: [i32; 4] = [SIGHUP, SIGTERM, SIGUSR1, SIGUSR2];

/// The exit code of process 1 if the process ended that started it.
const ABANDONED: u8 = 125;

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
    match run_in_processes_of_its_own(&arguments.command, &store) {
        Ok(code) => Ok(code),
        Err(error) => {
            let what = format!("cannot run the command in a PID namespace of its own: {error}");
            print_error(None, &Fault::new(what));
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
    let lower = describe(arguments, Path::new(IN_MEMORY))?.lower;
    if !can_mount {
        exec::refuse_foreign_lower(&lower)?;
    }
    private::namespaces(can_mount)?;
    let place = Place::make(directory, can_mount)?;
    let store = describe(arguments, &place.path)?;
    if let Some(own) = &store.own {
        private::place(&store, own)?;
    }
    private::set_up(&store, arguments.allowed.into())?;
    if !arguments.warm.is_empty() {
        let wanted = WarmAtUp {
            all: false,
            paths: arguments.warm.clone(),
            roots: Vec::new(),
            keep: false,
        };
        let system = System::here().map_err(Failure::observing)?;
        let mut report = WarmReport::new(&store.name);
        let mut tell = |progress: crate::apply::Progress<'_>| {
            super::tell(&progress, &ServiceManager::default());
        };
        warm::copy(&store, &system, &wanted, &mut report, None, &mut tell)
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
    /// Makes an empty one.
    fn make(directory: Option<&Path>, can_mount: bool) -> Result<Place, Fault> {
        if directory.is_none() {
            let path = Path::new(IN_MEMORY);
            mount_points::make(path).map_err(|error| private::doing("make", path, error))?;
            if takes_marks(path, can_mount) {
                let path = path.to_owned();
                return Ok(Place { path, files: false });
            }
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

/// Whether OverlayFS's marks can be set there. Tried, because which file systems take them in memory,
/// and in user namespaces, is different from kernel to kernel.
fn takes_marks(directory: &Path, can_mount: bool) -> bool {
    let name = match can_mount {
        true => "trusted.overlay.overstore",
        false => "user.overlay.overstore",
    };
    setxattr(directory, name, b"y", XattrFlags::empty()).is_ok()
        && rustix::fs::removexattr(directory, name).is_ok()
}

/// Runs a command in a PID namespace of its own and gives its exit code; where it was ended by a
/// signal, so is this process. All that it has started ends with it, and with this process.
fn run_in_processes_of_its_own(
    words: &[std::ffi::OsString],
    store: &Store,
) -> io::Result<ExitCode> {
    let mut command = exec::command(words, store);
    command.env("NIX_CACHE_HOME", store.upper_layer.with_file_name("cache"));
    let (alive, still_here) = io::pipe()?;
    let (mut result, tells) = io::pipe()?;
    let mut pipes = Some((alive, still_here, result.try_clone()?, tells));
    let init = users::start_process_1(|| match pipes.take() {
        Some((alive, still_here, result, tells)) => {
            drop((still_here, result));
            process_1(&mut command, alive, tells)
        }
        None => SET_UP_FAILED,
    })?;
    let Some((_, _still_here, _, _)) = pipes.take() else {
        return Err(io::Error::other("its pipes are closed"));
    };
    for signal in [SIGINT, SIGQUIT] {
        // The terminal sends it to the command too, which decides.
        let ignored = std::sync::Arc::default();
        signal_hook::flag::register(signal, ignored)?;
    }
    let init = Pid::from_raw(init.cast_signed());
    pass_on(init)?;
    let mut told = [0; 5];
    let told = result.read_exact(&mut told).is_ok().then_some(told);
    while let Err(rustix::io::Errno::INTR) = waitpid(init, WaitOptions::empty()) {}
    match told {
        Some([0, code @ ..]) => {
            let code = i32::from_ne_bytes(code);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        Some([_, signal @ ..]) => {
            low_level::emulate_default_handler(i32::from_ne_bytes(signal))?;
            Ok(ExitCode::from(SET_UP_FAILED))
        }
        None => Err(io::Error::other("its process 1 was killed")),
    }
}

/// Passes signals on to a process from now on.
fn pass_on(to: Option<Pid>) -> io::Result<()> {
    for number in PASSED_ON {
        let (mut arrived, handler) = io::pipe()?;
        low_level::pipe::register(number, std::os::fd::OwnedFd::from(handler))?;
        let signal = Signal::from_named_raw(number);
        std::thread::spawn(move || {
            while arrived.read_exact(&mut [0]).is_ok() {
                if let (Some(to), Some(signal)) = (to, signal) {
                    // It may have ended.
                    let _ = kill_process(to, signal);
                }
            }
        });
    }
    Ok(())
}

/// Process 1 of the PID namespace: starts the command, reaps whatever ends, and ends with the command,
/// or with the process that started it, of which `alive` tells. `tells` is told how the command ended.
fn process_1(command: &mut Command, mut alive: PipeReader, mut tells: PipeWriter) -> u8 {
    // Where the namespace shows only parts of /proc, as in containers, that stays as it is.
    let _ = mount("proc", "/proc", "proc", MountFlags::empty(), None);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = exec::not_run(&error, command);
            tell(&mut tells, 0, code.into());
            return code;
        }
    };
    std::thread::spawn(move || {
        let _ = alive.read(&mut [0]);
        std::process::exit(ABANDONED.into());
    });
    let child = Pid::from_raw(child.id().cast_signed());
    if pass_on(child).is_err() {
        return SET_UP_FAILED;
    }
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if Some(ended) == child => {
                match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => tell(&mut tells, 0, code),
                    (_, Some(signal)) => tell(&mut tells, 1, signal),
                    _ => continue,
                }
                return 0;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return SET_UP_FAILED,
        }
    }
}

/// Tells how the command ended: by itself (0, with its exit code) or by a signal (1, with its number).
fn tell(to: &mut PipeWriter, how: u8, number: i32) {
    let mut text = vec![how];
    text.extend(number.to_ne_bytes());
    // Nobody is there to be told of it.
    let _ = to.write_all(&text);
}
