//! `overstore exec`: a command in a private set-up of the store.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::private::{self, Entered, Lasts};
use super::{Failure, load, print_error};
use crate::cli::{self, Exec, RootArgument, StoreArgument};
use crate::config::names::{STORE_VARIABLE, URL_VARIABLE};
use crate::config::{Lower, MetadataSource, SetUpFor, Store};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::linux::{exhaustion, id_map, namespaces, new_directories, regular_file, users};
use crate::nix::layout;
use crate::nix::url::UrlRules;
use crate::nix::version::NixVersion;
use crate::observe;
use crate::records::atomic_file;
use crate::remedy::{self, Fault, Remedy};

/// overstore's own failures, told apart from the command's exit codes as `env` and `nice` do it.
pub(super) const SET_UP_FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The file with Nix's settings in a directory of its configuration.
const NIX_CONF: &str = "nix.conf";

/// The size in bytes above which such a file is something else.
const LONGEST_SETTINGS: u64 = 1 << 20;

pub(super) fn run(store: &StoreArgument, arguments: &Exec) -> Result<ExitCode, Failure> {
    let mut loaded = load(store, &RootArgument::default())?;
    let can_mount = namespaces::can_mount().unwrap_or(false);
    if !can_mount {
        loaded.store.set_up_for = SetUpFor::Processes;
        refuse_foreign_lower(&loaded.store, &loaded.store.lower)?;
    }
    let store = &loaded.store;
    if let Err(fault) = set_up(&loaded.system, store, can_mount, arguments.allowed) {
        print_error(None, &fault);
        return Ok(ExitCode::from(SET_UP_FAILED));
    }
    let mut command = command(&arguments.command, store);
    Ok(ExitCode::from(not_run(&command.exec(), &command)))
}

fn set_up(
    system: &System,
    store: &Store,
    can_mount: bool,
    allowed: cli::Allowed,
) -> Result<(), Fault> {
    // Of several that start at once, one sets up, and the others find what it made.
    let _turn = private::turn(system, store)?;
    match private::enter(system, store, can_mount)? {
        // Who made it has looked at it.
        Entered::Joined => Ok(()),
        Entered::Begun => private::set_up(store, allowed.into(), Lasts::Yes),
    }
}

/// The shell of the one who runs this.
fn users_shell() -> OsString {
    let user = rustix::process::getuid().as_raw();
    std::env::var_os("SHELL")
        .filter(|shell| !shell.is_empty())
        .or_else(|| users::shell(user).map(OsString::from))
        .unwrap_or_else(|| "/bin/sh".into())
}

/// Without root, Nix cannot open the database of somebody else's store for writing, so the lower
/// store has to be one that it only reads.
pub(super) fn refuse_foreign_lower(store: &Store, lower: &Lower) -> Result<(), Failure> {
    let (state, read_only) = match &lower.source {
        MetadataSource::Database { state, read_only } => (state, *read_only),
        MetadataSource::Overlay {
            state,
            read_only,
            lower,
            ..
        } => {
            refuse_foreign_lower(store, lower)?;
            (state, *read_only)
        }
        MetadataSource::Daemon { .. } | MetadataSource::Ssh { .. } => return Ok(()),
    };
    let database = state.join(layout::DATABASE_DIRECTORY);
    // Its absence is a finding of its own.
    let Ok(metadata) = std::fs::metadata(&database) else {
        return Ok(());
    };
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if read_only || owner == user {
        return Ok(());
    }
    let failure = Failure::refused(format!(
        "the lower store's database {} belongs to {}, and Nix, run by {}, would open it for writing",
        show_path(&database),
        users::in_words(owner),
        users::in_words(user)
    ));
    let daemon = Remedy::say("use its daemon").and_set("lower-store", "\"daemon\"");
    let read_only = Remedy::say("if nobody changes that store meanwhile");
    let remedy = read_only.and_set("lower.read-only", "true").or(daemon);
    Err(failure.remedy(store.fit(remedy)))
}

/// The command, or the user's shell if there are no words, with all that tells it of the store.
pub(super) fn command(words: &[OsString], store: &Store) -> Command {
    let (program, arguments) = match words {
        [program, arguments @ ..] => (program.clone(), arguments),
        [] => (users_shell(), words),
    };
    let url = url(store);
    let (variable, value) = nix_settings(store, &url);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env(variable, value)
        .env(STORE_VARIABLE, &store.name)
        .env(URL_VARIABLE, &url)
        .env("OVERSTORE_REAL", store.real.as_os_str())
        .env("OVERSTORE_STATE", store.state.as_os_str())
        .env("OVERSTORE_UPPER_LAYER", &store.upper_layer);
    command
}

/// Says why a command was not run, and gives the exit code for that.
pub(super) fn not_run(error: &io::Error, command: &Command) -> u8 {
    let program = show_path(command.get_program().as_ref());
    if error.kind() == io::ErrorKind::NotFound {
        print_error(None, &Fault::new(format!("there is no command {program}")));
        NOT_FOUND
    } else {
        let of_processes = exhaustion::remedy_of_processes(error).some();
        let remedy =
            of_processes.unwrap_or_else(|| remedy::of_io(error, Path::new(command.get_program())));
        let what = format!("cannot run {program}: {error}");
        print_error(None, &Fault::new(what).remedy(remedy));
        CANNOT_RUN
    }
}

/// The store URL, written for the Nix on `PATH` where that matters.
fn url(store: &Store) -> String {
    let reference = store.reference();
    reference.render_for_all().unwrap_or_else(|texts| {
        let version = Command::new("nix").arg("--version").output().ok();
        let version = version.and_then(|output| {
            NixVersion::from_version_output(&String::from_utf8_lossy(&output.stdout)).ok()
        });
        match version.map(UrlRules::from) {
            Some(UrlRules::Before2_34) => texts.before_2_34,
            _ => texts.since_2_34,
        }
    })
}

/// How Nix is told of the store: by which variable, and its value.
///
/// `NIX_CONFIG` has what it has already, then the settings of this store. Of two settings of one name
/// the last wins, and `NIX_CONFIG` beats `nix.conf`, as `NIX_REMOTE` does not. But such settings are
/// passed on to a daemon below, which warns of each that is not for this user to set. Those of the
/// system's configuration are not passed on, so that a store of one's own has them in a copy of that,
/// unless the user's settings say which store it is.
fn nix_settings(store: &Store, url: &str) -> (&'static str, OsString) {
    let config = std::env::var_os("NIX_CONFIG").unwrap_or_default();
    if let (Some(own), MetadataSource::Daemon { .. }) = (&store.own, &store.lower.source)
        && !users_settings(&config).any(|text| sets_store(&text))
    {
        // What is for one command stays with it.
        let runtime = match store.set_up_for {
            SetUpFor::Command => None,
            _ => observe::own_runtime().map(|it| it.join(&store.name)),
        };
        let settings = settings(store, url);
        if let Some(directory) = runtime
            && write_system_settings(&directory, &settings).is_ok()
        {
            return ("NIX_CONF_DIR", directory.into());
        }
        let directory = own.directory.join("conf");
        match write_system_settings(&directory, &settings) {
            Ok(()) => return ("NIX_CONF_DIR", directory.into()),
            Err(error) => super::print_warning(&Fault::new(format!(
                "cannot write {}, so Nix's daemon may warn of settings: {error}",
                show_path(&directory.join(NIX_CONF))
            ))),
        }
    }
    let mut config = config;
    if !config.is_empty() {
        config.push("\n");
    }
    config.push(settings(store, url));
    ("NIX_CONFIG", config)
}

/// The settings that have Nix open the store.
fn settings(store: &Store, url: &str) -> String {
    let features = store.experimental_features().join(" ");
    let mut settings = format!("store = {url}\nextra-experimental-features = {features}\n");
    if !store.use_sqlite_wal {
        settings.push_str("use-sqlite-wal = false\n");
    }
    // Root of a container without capabilities is alone in its user namespace, and Nix, run by root,
    // would give the store to a group that has no number there, and change its own groups.
    if rustix::process::geteuid().is_root() && !id_map::maps_others() {
        settings.push_str("build-users-group =\nrequire-drop-supplementary-groups = false\n");
    }
    settings
}

/// The texts of a user's own settings, as Nix finds them (`getUserConfigFiles` in its `settings.cc`).
fn users_settings(config: &OsStr) -> impl Iterator<Item = Vec<u8>> {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let files: Vec<PathBuf> = match path("NIX_USER_CONF_FILES") {
        Some(files) => std::env::split_paths(&files).collect(),
        None => {
            let own = path("XDG_CONFIG_HOME").map(PathBuf::from);
            let home = path("HOME").map(|home| Path::new(&home).join(".config"));
            let others = path("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
            let others: Vec<_> = std::env::split_paths(&others).collect();
            let directories = own.or(home).into_iter().chain(others);
            directories.map(|path| path.join("nix/nix.conf")).collect()
        }
    };
    let read = |file: PathBuf| regular_file::read(&file, LONGEST_SETTINGS).ok();
    std::iter::once(config.as_bytes().to_vec()).chain(files.into_iter().filter_map(read))
}

/// Whether settings of Nix say which store it is to use.
fn sets_store(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("store") && words.next() == Some("=")
    })
}

/// Writes the system's configuration of Nix with these settings added.
fn write_system_settings(directory: &Path, settings: &str) -> io::Result<()> {
    let system = std::env::var_os("NIX_CONF_DIR").filter(|value| !value.is_empty());
    let system = system.map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
    if system == directory {
        // Of the store that this runs in, which has them.
        return Ok(());
    }
    let mut text = b"!include ".to_vec();
    text.extend(system.join(NIX_CONF).as_os_str().as_bytes());
    text.push(b'\n');
    text.extend(settings.as_bytes());
    let directory = new_directories::private(directory)?.open()?;
    atomic_file::replace(&directory, NIX_CONF, |file| file.write_all(&text))
}
