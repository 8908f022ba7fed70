//! How Nix is told of a store that `overstore exec` sets up.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{print_warning, profiles};
use crate::config::{MetadataSource, SetUpFor, Store};
use crate::escape::show_path;
use crate::linux::{id_map, new_directories, regular_file};
use crate::observe;
use crate::records::atomic_file;
use crate::remedy::Fault;

/// The file with Nix's settings in a directory of its configuration.
const NIX_CONF: &str = "nix.conf";

/// The size in bytes above which such a file is something else.
const LONGEST_SETTINGS: u64 = 1 << 20;

/// How Nix is told of the store: variables, and their values.
///
/// `NIX_CONFIG` has what it has already, then the settings of this store. Of two settings of one name
/// the last wins, and `NIX_CONFIG` beats `nix.conf`, as `NIX_REMOTE` does not. But such settings are
/// passed on to a daemon below, which warns of each that is not for this user to set. Those of the
/// system's configuration are not passed on, so that a store of one's own has them in a copy of that,
/// unless the user's settings say which store it is. The experimental features are in `NIX_CONFIG` all
/// the same: they are never passed on (`RemoteStore::setOptions`), and most users' own settings have
/// `experimental-features`, which takes away those of the system's.
pub(super) fn variables(store: &Store, url: &str) -> Vec<(&'static str, OsString)> {
    let mut config = std::env::var_os("NIX_CONFIG").unwrap_or_default();
    match system_settings(store, url, &config) {
        Some(directory) => {
            add_settings(&mut config, &features(store));
            vec![("NIX_CONF_DIR", directory.into()), ("NIX_CONFIG", config)]
        }
        None => {
            add_settings(&mut config, &settings(store, url));
            vec![("NIX_CONFIG", config)]
        }
    }
}

/// Adds settings to those of `NIX_CONFIG`, unless it ends with them, as in the store itself.
fn add_settings(config: &mut OsString, settings: &str) {
    let settings = settings.trim_end();
    if config
        .as_bytes()
        .trim_ascii_end()
        .ends_with(settings.as_bytes())
    {
        return;
    }
    if !config.is_empty() {
        config.push("\n");
    }
    config.push(settings);
}

/// The directory of a copy of the system's configuration that has a store's settings, where that is the
/// way to tell Nix of it.
fn system_settings(store: &Store, url: &str, config: &OsStr) -> Option<PathBuf> {
    let (Some(own), MetadataSource::Daemon { .. }) = (&store.own, &store.lower.source) else {
        return None;
    };
    if users_settings(config).any(|text| sets_store(&text)) {
        return None;
    }
    // What is for one command stays with it.
    let runtime = match store.set_up_for {
        SetUpFor::Command => None,
        _ => observe::own_runtime().map(|it| it.join(&store.name)),
    };
    let settings = settings(store, url);
    if let Some(directory) = runtime
        && write_system_settings(&directory, &settings).is_ok()
    {
        return Some(directory);
    }
    let directory = own.directory.join("conf");
    match write_system_settings(&directory, &settings) {
        Ok(()) => Some(directory),
        Err(error) => {
            print_warning(&Fault::new(format!(
                "cannot write {}, so Nix's daemon may warn of settings: {error}",
                show_path(&directory.join(NIX_CONF))
            )));
            None
        }
    }
}

/// The settings that have Nix open the store.
fn settings(store: &Store, url: &str) -> String {
    let mut settings = format!("store = {url}\n{}", features(store));
    if store.own.is_some() {
        settings.push_str(profiles::SETTING);
    }
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

/// The setting that has Nix use what the store's URL needs.
fn features(store: &Store) -> String {
    let features = store.experimental_features().join(" ");
    format!("extra-experimental-features = {features}\n")
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
