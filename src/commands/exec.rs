//! `overstore exec`: a command in a private set-up of the store.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::private::{self, Entered, Lasts};
use super::{Failure, load, nix_settings, not_started, print_error, profiles};
use crate::cli::{self, Exec, RootArgument, StoreArgument};
use crate::config::names::{STORE_VARIABLE, URL_VARIABLE};
use crate::config::{Lower, MetadataSource, SetUpFor, Store};
use crate::escape::show_path;
use crate::linux::root::System;
use crate::linux::{namespaces, users};
use crate::nix::layout;
use crate::nix::url::UrlRules;
use crate::nix::version::NixVersion;
use crate::remedy::{Fault, Remedy};

/// overstore's own failures, told apart from the command's exit codes as `env` and `nice` do it.
pub(super) const SET_UP_FAILED: u8 = 125;

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
    Ok(ExitCode::from(not_started::tell(&command.exec(), &command)))
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
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(nix_settings::variables(store, &url))
        .env(STORE_VARIABLE, &store.name)
        .env(URL_VARIABLE, &url)
        .env("OVERSTORE_REAL", store.real.as_os_str())
        .env("OVERSTORE_STATE", store.state.as_os_str())
        .env("OVERSTORE_UPPER_LAYER", &store.upper_layer);
    if let Some(own) = &store.own {
        command.envs(profiles::variables(own));
    }
    command
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
