//! Nix's profiles of a user, in a store of one's own.
//!
//! A profile outside refers to paths of the store outside. Were it changed inside, it would refer to what
//! only is there inside, and its old generations would be deleted with the garbage of another store. So
//! Nix has another directory for what it keeps of a user (`NIX_STATE_HOME`, with the setting
//! `use-xdg-base-directories`; `getDefaultProfile` in its `profiles.cc`).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::symlinkat;
use rustix::io::Errno;

use super::{print_warning, private};
use crate::config::Own;
use crate::linux::new_directories;

/// The setting of Nix that has it look for profiles where the variable says.
pub(super) const SETTING: &str = "use-xdg-base-directories = true\n";

/// Where Nix looks for expressions of the user's, below such a directory.
const EXPRESSIONS: &str = "defexpr";

/// What Nix has there of channels.
const CHANNELS: [&str; 2] = ["channels", "channels_root"];

/// The variables that have Nix use profiles in the store's own directory, and a shell find what is in the
/// one that it uses by default. Channels are seen as they are outside.
pub(super) fn variables(own: &Own) -> Vec<(&'static str, OsString)> {
    let directory = own.directory.join("user-state");
    if let Err(error) = make(&directory) {
        print_warning(&private::doing("make", &directory, error));
        return Vec::new();
    }
    let mut variables = vec![("NIX_STATE_HOME", directory.clone().into_os_string())];
    if let Some(path) = std::env::var_os("PATH") {
        let programs = directory.join("profile/bin");
        let others = std::env::split_paths(&path).filter(|other| *other != programs);
        if let Ok(path) = std::env::join_paths(std::iter::once(programs.clone()).chain(others)) {
            variables.push(("PATH", path));
        }
    }
    variables
}

fn make(directory: &Path) -> io::Result<()> {
    let outside = expressions_outside(directory);
    let directory = new_directories::private(directory)?.open()?;
    let Some(outside) = outside else {
        return Ok(());
    };
    let expressions = new_directories::entry(&directory, EXPRESSIONS.as_ref())?;
    for name in CHANNELS {
        let channels = outside.join(name);
        if channels.symlink_metadata().is_err() {
            continue;
        }
        match symlinkat(&channels, &expressions, name) {
            // Of an earlier run, or the store's own by now.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Where this user's expressions are outside of the store, if there are any.
fn expressions_outside(inside: &Path) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|it| it.as_bytes().starts_with(b"/"));
    let home = variable("HOME").map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(home.as_ref()?.join(".local/state")));
    let places = [
        variable("NIX_STATE_HOME").map(|it| Path::new(&it).join(EXPRESSIONS)),
        home.map(|it| it.join(".nix-defexpr")),
        state.map(|it| it.join("nix").join(EXPRESSIONS)),
    ];
    let places = places.into_iter().flatten();
    let mut outside = places.filter(|place| !place.starts_with(inside));
    outside.find(|place| place.is_dir())
}
