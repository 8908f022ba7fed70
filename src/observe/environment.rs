//! What Nix takes from the environment, read off this machine.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use crate::config::names::{PROGRAM, REMOUNT_HOOK};
use crate::config::{Auto, Environment};
use crate::linux::exhaustion;
use crate::linux::users;

/// The environment of this process, on this machine.
pub(crate) fn environment() -> Environment {
    let mut environment = Environment {
        state_dir: variable("NIX_STATE_DIR"),
        log_dir: variable("NIX_LOG_DIR"),
        store_dir: variable("NIX_STORE_DIR").or_else(|| variable("NIX_STORE")),
        daemon_socket: variable("NIX_DAEMON_SOCKET_PATH"),
        remount_hook: hook(),
        ..Environment::default()
    };
    let (state, socket) = (environment.state_dir(), environment.socket());
    let user = rustix::process::getuid().as_raw();
    environment.auto = auto(&state, &socket, user);
    environment.auto_for_root = auto(&state, &socket, 0);
    environment
}

/// Where the user who runs this keeps the descriptions of stores of their own
/// (`$XDG_CONFIG_HOME/overstore`). Root has none: what root does is not to depend on variables.
pub(crate) fn own_descriptions() -> Option<PathBuf> {
    own("XDG_CONFIG_HOME", ".config")
}

/// Where the user who runs this keeps stores of their own (`$XDG_STATE_HOME/overstore`), as for
/// [`own_descriptions`].
pub(crate) fn own_stores() -> Option<PathBuf> {
    own("XDG_STATE_HOME", ".local/state")
}

/// Where overstore keeps what can be lost (`$XDG_CACHE_HOME/overstore`), as for [`own_descriptions`].
pub(crate) fn own_caches() -> Option<PathBuf> {
    own("XDG_CACHE_HOME", ".cache")
}

/// Where overstore keeps what is of no use once the user has logged out (`$XDG_RUNTIME_DIR/overstore`),
/// as for [`own_descriptions`]; `None` where there is no such directory.
pub(crate) fn own_runtime() -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let base = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && !user.is_root())?;
    Some(base.join("overstore"))
}

/// A directory of overstore's by the XDG Base Directory Specification: a path that is not absolute
/// counts as not set.
fn own(base: &str, below_home: &str) -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return None;
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = variable(base).filter(absolute).or_else(|| {
        let home = variable("HOME").filter(absolute);
        let home = home.or_else(|| users::home(user.as_raw()))?;
        Some(home.join(below_home))
    })?;
    Some(base.join("overstore"))
}

/// The environment of a system that is not running: no variables, and everything is opened by root,
/// for whom `auto` is the local store. Take the hook before the root directory is changed.
pub(crate) fn environment_of_target(remount_hook: Option<PathBuf>) -> Environment {
    Environment {
        remount_hook,
        ..Environment::default()
    }
}

/// The remount hook beside the running program, if there is one.
pub(crate) fn hook() -> Option<PathBuf> {
    let hook = program()?.with_file_name(REMOUNT_HOOK);
    exhaustion::look(&hook).map(|_| hook)
}

/// The running program, unless it was deleted or replaced meanwhile.
pub(super) fn program() -> Option<PathBuf> {
    // Asked for once: below another root directory there need not be a `/proc` that tells.
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM
        .get_or_init(|| std::env::current_exe().ok())
        .clone()?;
    exhaustion::look(&program).map(|_| program)
}

/// What to write in a shell to run this program: its name where that is found, else its path.
pub(crate) fn program_name() -> OsString {
    let Some(program) = program() else {
        return PROGRAM.into();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .filter_map(|directory| directory.join(PROGRAM).metadata().ok())
        .find(|found| found.is_file() && found.mode() & 0o111 != 0);
    let same = |found: &Metadata, running: &Metadata| {
        (found.dev(), found.ino()) == (running.dev(), running.ino())
    };
    match (found, program.metadata()) {
        (Some(found), Ok(running)) if same(&found, &running) => PROGRAM.into(),
        _ => program.into_os_string(),
    }
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// What `auto` is for a user, as Nix tells it: see [`Auto`].
fn auto(state: &Path, socket: &Path, user: u32) -> Auto {
    if may_write(state, user) {
        Auto::Local
    } else if exists(socket) {
        Auto::Daemon
    } else if !exists(state) && user != 0 && !moved() {
        home_store().map_or(Auto::Local, Auto::InHome)
    } else {
        Auto::Local
    }
}

/// What `access(2)` says, or would say to root.
fn may_write(directory: &Path, user: u32) -> bool {
    if user == rustix::process::getuid().as_raw() {
        return access(directory, Access::READ_OK | Access::WRITE_OK).is_ok();
    }
    exists(directory)
        && statvfs(directory).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether a variable says where the system's store is.
fn moved() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some();
    set("NIX_STORE_DIR") || set("NIX_STATE_DIR")
}

/// The root of the store that Nix makes for a user without `/nix` and without a daemon.
fn home_store() -> Option<PathBuf> {
    let data = match (
        std::env::var_os("NIX_DATA_HOME"),
        std::env::var_os("XDG_DATA_HOME"),
    ) {
        (Some(data), _) => PathBuf::from(data),
        (None, Some(data)) => Path::new(&data).join("nix"),
        (None, None) => home()?.join(".local/share/nix"),
    };
    Some(data.join("root"))
}

/// The home directory as Nix finds it: `HOME`, unless it is somebody else's.
fn home() -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let given = std::env::var_os("HOME").map(PathBuf::from).filter(|home| {
        home.as_os_str() != OsStr::new("")
            && home
                .metadata()
                .map_or(true, |metadata| metadata.uid() == user)
    });
    given.or_else(|| users::home(user))
}
