//! `overstore exec`: a command in a private set-up of the store.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::{Failure, load, print_error};
use crate::apply::{DirectoryLock, End, Ended, Progress, SetUp};
use crate::check::{self, Severity};
use crate::cli::{self, RootArgument};
use crate::config::names::{STORE_VARIABLE, URL_VARIABLE};
use crate::config::{Lower, MetadataSource, Store};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{namespaces, processes, users};
use crate::nix::layout;
use crate::nix::url::UrlRules;
use crate::nix::version::NixVersion;
use crate::observe::{self, Member};
use crate::plan::Allowed;
use crate::remedy::{Fault, Remedy};
use crate::report;
use crate::systemd::notify::ServiceManager;

/// overstore's own failures, told apart from the command's exit codes as `env` and `nice` do it.
const SET_UP_FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(super) fn run(arguments: &cli::Exec) -> Result<ExitCode, Failure> {
    let loaded = load(&arguments.store, &RootArgument::default())?;
    let store = &loaded.store;
    let can_mount = namespaces::can_mount().unwrap_or(false);
    if !can_mount {
        refuse_foreign_lower(&store.lower)?;
    }
    if let Err(fault) = enter(&loaded.system, store, can_mount) {
        print_error(None, &fault);
        return Ok(ExitCode::from(SET_UP_FAILED));
    }
    let shell;
    let command = match &arguments.command[..] {
        [] => {
            shell = [users_shell()];
            &shell[..]
        }
        command => command,
    };
    Ok(ExitCode::from(become_command(command, store)))
}

/// The shell of the one who runs this.
fn users_shell() -> OsString {
    let user = rustix::process::getuid().as_raw();
    std::env::var_os("SHELL")
        .filter(|shell| !shell.is_empty())
        .or_else(|| users::shell(user).map(OsString::from))
        .unwrap_or_else(|| "/bin/sh".into())
}

/// Joins the set-up of the store that another `exec` has made, or makes one.
fn enter(system: &System, store: &Store, can_mount: bool) -> Result<(), Fault> {
    // Of several that start at once, one sets up, and the others find what it made.
    let _turn = turn(system, store)?;
    match observe::member(system, store, !can_mount) {
        Some(member) => join(system, store, &member)?,
        None if can_mount => namespaces::private_mounts().map_err(|error| Fault::of(&error))?,
        None => namespaces::private_user_and_mounts().map_err(|error| Fault::of(&error))?,
    }
    set_up(store)
}

/// Waits until nobody else is between looking for a set-up of this store and having made one. What is
/// locked has to be there before the store is, and to be nobody else's: a directory above.
fn turn(system: &System, store: &Store) -> Result<Option<DirectoryLock>, Fault> {
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

/// Joins the namespaces of a process, and its hold on the upper layer. The working directory is the
/// one of that name there.
fn join(system: &System, store: &Store, member: &Member) -> Result<(), Fault> {
    let words = || processes::in_words(system, member.process);
    let failed = |error: &dyn std::fmt::Display| {
        Fault::new(format!("cannot join the set-up of {}: {error}", words()))
    };
    let directory = std::env::current_dir();
    let upper = safe_path::directory(&store.upper_layer, Symlinks::Refuse)
        .map_err(|error| failed(&error))?;
    let lock = member.share_lock(system, upper.status().identity.ino);
    namespaces::join(&member.descriptor, member.users).map_err(|error| failed(&error))?;
    let directory = directory.map_err(|error| failed(&error))?;
    std::env::set_current_dir(&directory).map_err(|error| {
        let directory = show_path(&directory);
        Fault::new(format!(
            "cannot go to {directory} in the set-up of {}: {error}",
            words()
        ))
    })?;
    match lock {
        Some(lock) => DirectoryLock::from(lock)
            .leave_to_descendants()
            .map_err(|error| Fault::of(&error)),
        // What runs there has closed all that it was left.
        None => Ok(()),
    }
}

/// Without root, Nix cannot open the database of somebody else's store for writing, so the lower
/// store has to be one that it only reads.
fn refuse_foreign_lower(lower: &Lower) -> Result<(), Failure> {
    let (state, read_only) = match &lower.source {
        MetadataSource::Database { state, read_only } => (state, *read_only),
        MetadataSource::Overlay {
            state,
            read_only,
            lower,
            ..
        } => {
            refuse_foreign_lower(lower)?;
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
        "the lower store's database {} belongs to user {owner}, and Nix, run by user {user}, would \
         open it for writing",
        show_path(&database)
    ));
    let daemon = Remedy::say("use its daemon").and_set("lower-store", "\"daemon\"");
    Err(failure.remedy(
        Remedy::say("if nobody changes that store meanwhile")
            .and_set("lower.read-only", "true")
            .or(daemon),
    ))
}

/// Sets the store up in this process's namespaces, where it may be already. The mount is gone with the
/// last process that is in them; until then those hold the upper layer's lock.
fn set_up(store: &Store) -> Result<(), Fault> {
    // As it is in the new namespace.
    let system = System::here().map_err(|error| Failure::observing(error).fault())?;
    let set_up = SetUp {
        store,
        system: &system,
        allowed: Allowed::default(),
        remember: false,
    };
    let Ended {
        end, upper_lock, ..
    } = set_up.run(&mut |progress| super::tell(&progress, &ServiceManager::default()));
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
        return Err(
            Fault::new(format!("the store {} is not as described", store.name))
                .remedy("follow what is printed above"),
        );
    }
    match upper_lock {
        Some(lock) => lock
            .leave_to_descendants()
            .map_err(|error| Fault::of(&error)),
        // It was mounted already, for everybody.
        None => Ok(()),
    }
}

/// Replaces this process by the command, or gives the exit code that says why not.
fn become_command(words: &[OsString], store: &Store) -> u8 {
    let Some((program, arguments)) = words.split_first() else {
        return CANNOT_RUN;
    };
    let url = url(store);
    let error = Command::new(program)
        .args(arguments)
        .env("NIX_CONFIG", nix_config(store, &url))
        .env(STORE_VARIABLE, &store.name)
        .env(URL_VARIABLE, &url)
        .env("OVERSTORE_REAL", store.real.as_os_str())
        .env("OVERSTORE_STATE", store.state.as_os_str())
        .env("OVERSTORE_UPPER_LAYER", &store.upper_layer)
        .exec();
    let program = show_path(program.as_ref());
    if error.kind() == io::ErrorKind::NotFound {
        print_error(None, &Fault::new(format!("there is no command {program}")));
        NOT_FOUND
    } else {
        print_error(None, &Fault::new(format!("cannot run {program}: {error}")));
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

/// `NIX_CONFIG` for the command: what it is already, then the settings of this store. Of two
/// settings of one name the last wins, and `NIX_CONFIG` beats `nix.conf`, as `NIX_REMOTE` does not.
fn nix_config(store: &Store, url: &str) -> OsString {
    let mut config = std::env::var_os("NIX_CONFIG").unwrap_or_default();
    if !config.is_empty() {
        config.push("\n");
    }
    config.push(format!(
        "store = {url}\nextra-experimental-features = {}\n",
        store.experimental_features().join(" ")
    ));
    if !store.use_sqlite_wal {
        config.push("use-sqlite-wal = false\n");
    }
    config
}
