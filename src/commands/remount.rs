//! `overstore remount`, and the same as Nix's `remount-hook`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, load, private};
use crate::apply::remount;
use crate::cli::{self, RootArgument, StoreArgument};
use crate::config::names::REMOUNT_HOOK;
use crate::linux::root::System;
use crate::remedy::{Remedy, command};

pub(super) fn run(arguments: &cli::Remount) -> Result<ExitCode, Failure> {
    let (system, directory) = match directory(&arguments.target) {
        Some(directory) => (System::here().map_err(Failure::machine)?, directory),
        None => {
            let target = StoreArgument {
                store: arguments.target.clone(),
            };
            let loaded = private::inside(load(&target, &RootArgument::default())?)?;
            (loaded.system, loaded.store.real.value)
        }
    };
    remount(&system, &directory).map_err(Failure::machine)?;
    Ok(ExitCode::SUCCESS)
}

/// What Nix calls: `overstore-remount DIRECTORY`. Prints nothing when it worked, since Nix shows
/// its output to whoever collects garbage.
///
/// # Errors
/// Only when the remount failed, or when it was not called with one directory: Nix takes a hook's
/// failure for its own.
pub fn hook(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let arguments: Vec<OsString> = arguments.collect();
    let [directory] = arguments.as_slice() else {
        return Err(Failure::refused(format!(
            "{REMOUNT_HOOK} takes one argument, the merged store directory; it was given {}",
            arguments.len()
        ))
        .remedy(Remedy::say("read more").run(command!["overstore", "remount", "--help"])));
    };
    let system = System::here().map_err(Failure::machine)?;
    remount(&system, Path::new(directory)).map_err(Failure::machine)?;
    Ok(ExitCode::SUCCESS)
}

/// The argument as a directory, if it is one: a name without a `/` is always a store's.
fn directory(target: &OsStr) -> Option<PathBuf> {
    let path = Path::new(target);
    (target.as_bytes().contains(&b'/') && path.is_dir()).then(|| path.to_owned())
}
