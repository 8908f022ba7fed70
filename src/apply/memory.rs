//! What overstore remembers of a store over reboots: `${state}/overstore/state.json`. Losing it
//! loses nothing else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat, renameat};
use serde::{Deserialize, Serialize};

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error, walked};
use super::lock::DirectoryLock;
use super::mount::Overlay;
use super::warmed_paths;
use crate::check::{self, Severity};
use crate::config::{MEMORY_FILE, Store};
use crate::lower::Identity;
use crate::observe::Observed;
use crate::path_set::PathSet;
use crate::path_walk::{self, Reached, Symlinks};
use crate::show::{show, show_path};
use crate::system::{self, System};

/// The version of the format that this program reads and writes.
const VERSION: u32 = 1;

/// More than any has: what is longer is none.
const MAXIMUM_SIZE: u64 = 64 * 1024;

/// What overstore remembers of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// The version of the format: 1.
    pub version: u32,
    /// The lower store when the upper database was made, if overstore made it.
    pub lower: Option<LowerMemory>,
    /// What `up` mounted last, unless `down` unmounted it.
    pub mounted: Option<Mounted>,
    /// What the check at the end of the last `up` that changed something found.
    pub checked: Option<Checked>,
    /// What was copied up from the lower store last.
    #[serde(default)]
    pub warmed: Option<Warmed>,
}

/// Metadata copied up, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Warmed {
    /// When, in seconds since 1970.
    pub time: u64,
    /// How many paths then had a row of those that were asked for and what they refer to.
    pub paths: u64,
    /// The hash of the file beside this one that says which paths.
    #[serde(default)]
    pub hash: Option<String>,
    /// When the mount was made after which `up` last did it, in seconds since 1970.
    #[serde(default)]
    pub after_mount: Option<u64>,
}

/// The lower store, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LowerMemory {
    /// `lower-store`, as the configuration wrote it.
    pub store: String,
    /// What tells it from another one, where that could be read.
    pub identity: Option<Identity>,
}

/// A mount, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mounted {
    /// The merged store directory, escaped where it cannot be printed.
    pub real: String,
    /// The options' text, escaped where it cannot be printed.
    pub options: String,
}

/// A check, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checked {
    /// When, in seconds since 1970.
    pub time: u64,
    /// The codes of the errors.
    pub errors: Vec<String>,
    /// The codes of the warnings.
    pub warnings: Vec<String>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            version: VERSION,
            lower: None,
            mounted: None,
            checked: None,
            warmed: None,
        }
    }
}

impl Mounted {
    /// An overlay, remembered.
    pub(super) fn of(overlay: &Overlay) -> Mounted {
        let text = overlay.options.text().unwrap_or_default();
        Mounted {
            real: show_path(&overlay.real).into_owned(),
            options: show(&text).into_owned(),
        }
    }
}

impl Memory {
    /// Remembers what a check finds now.
    pub(super) fn check(&mut self, store: &Store, observed: &Observed) {
        let findings = check::check(store, observed);
        let codes = |severity| {
            findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .map(|finding| finding.code.to_string())
                .collect()
        };
        self.checked = Some(Checked {
            time: system::now(),
            errors: codes(Severity::Error),
            warnings: codes(Severity::Warning),
        });
    }

    /// Remembers that the metadata of these paths was copied up now, under the store's lock; with
    /// `after_mount`, that `up` did it after the mount of that time.
    ///
    /// # Errors
    /// When it cannot be locked or written.
    pub fn remember_warmed(
        store: &Store,
        system: &System,
        paths: &PathSet,
        after_mount: Option<u64>,
    ) -> Result<(), Error> {
        let workdir = path_walk::directory(&store.workdir, Symlinks::Refuse);
        let workdir = walked(&store.workdir, workdir)?;
        let _turn = DirectoryLock::wait(&workdir, system, &mut |_| {})?;
        let mut memory = Memory::read(store);
        let before = memory.warmed.and_then(|warmed| warmed.after_mount);
        let directory = make(store)?;
        let path = store.memory();
        memory.warmed = Some(Warmed {
            time: system::now(),
            paths: paths.len(),
            hash: Some(warmed_paths::write(&directory, paths).doing("write", &path)?),
            after_mount: after_mount.or(before),
        });
        memory.write(store)
    }

    /// The paths whose metadata was copied up last. `None` where they are not remembered, or where
    /// what is remembered of them is damaged.
    pub fn warmed_paths(&self, store: &Store) -> Option<PathSet> {
        let warmed = self.warmed.as_ref()?;
        let directory = path_walk::directory(&store.memory(), Symlinks::Refuse).ok()?;
        let hash = warmed.hash.as_deref()?;
        warmed_paths::read(&directory, warmed.paths, hash).ok()?
    }

    /// Reads it. What is missing, damaged or of another version is as if nothing were remembered.
    pub fn read(store: &Store) -> Memory {
        let Ok(directory) = path_walk::directory(&store.memory(), Symlinks::Refuse) else {
            return Memory::default();
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = || {
            let file = openat(&directory, MEMORY_FILE, flags, Mode::empty())?;
            let mut text = Vec::new();
            File::from(file).take(MAXIMUM_SIZE).read_to_end(&mut text)?;
            Ok::<_, io::Error>(serde_json::from_slice::<Memory>(&text)?)
        };
        read()
            .ok()
            .filter(|memory| memory.version == VERSION)
            .unwrap_or_default()
    }

    /// Writes it, at once or not at all. It is not synced: it may get lost.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, store: &Store) -> Result<(), Error> {
        let directory = make(store)?;
        let path = store.memory().join(MEMORY_FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .doing("write", &path)?;
        text.push(b'\n');
        replace(&directory, MEMORY_FILE, |file| file.write_all(&text)).doing("write", &path)
    }
}

/// The directory of overstore's own, made where it is missing.
fn make(store: &Store) -> Result<Reached, Error> {
    directory::make(&store.memory(), 0o755, None, &mut Unsynced::default())
}

/// Replaces a file of overstore's own by what `write` writes, at once or not at all. Only under the
/// store's lock, since all write the same draft first.
pub(super) fn replace<T>(
    directory: impl AsFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let draft = format!("{name}.overstore-new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&directory, &draft, flags, Mode::from_raw_mode(0o644))?;
    let written = write(&mut File::from(file))?;
    renameat(&directory, &draft, &directory, name)?;
    Ok(written)
}
