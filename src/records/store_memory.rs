//! What overstore remembers of a store over reboots: `${state}/overstore/state.json`. Losing it
//! loses nothing else.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{atomic_file, warmed_paths};
use crate::compare::Identity;
use crate::config::{MEMORY_FILE, Store};
use crate::escape::{show, show_path};
use crate::linux::clock;
use crate::linux::regular_file;
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::path_set::PathSet;

/// The version of the format that this program reads and writes.
const VERSION: u32 = 1;

/// More than any has: what is longer is none.
const MAXIMUM_SIZE: u64 = 64 * 1024;

/// What overstore remembers of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Memory {
    /// The version of the format: 1.
    pub version: u32,
    /// The lower store when the upper database was made, if overstore made it.
    pub lower: Option<LowerMemory>,
    /// What `up` mounted last, unless `down` unmounted it.
    pub mounted: Option<Mounted>,
    /// What was copied from the lower store last.
    #[serde(default)]
    pub warmed: Option<Warmed>,
    /// What the last collection of garbage came to.
    #[serde(default)]
    pub collected: Option<Collected>,
    /// The upper layer that belongs to the upper database. `None` of a store that was set up before
    /// there were marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_layer: Option<LayerMemory>,
    /// Of a store over a publication: up to where its upper database was compared with which
    /// generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

/// The upper database, compared with a generation of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Compared {
    /// The publication's identity.
    pub publication: String,
    /// The generation's number.
    pub generation: u64,
    /// When the store went on to it, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// The highest id of a row then: those that came later may be from another generation, since
    /// connections keep theirs to their end.
    pub highest: i64,
}

/// A collection of garbage, remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Collected {
    /// When it ended, in seconds since 1970.
    pub time: u64,
    /// How many objects it deleted.
    pub objects: u64,
    /// How many bytes these took up.
    pub bytes: u64,
    /// How many objects it left although nothing needs them.
    pub left: u64,
}

/// The upper layer, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LayerMemory {
    /// Its mark. `None` where its file system cannot have one.
    pub mark: Option<String>,
    /// How many of its objects had a row in the upper database when it was mounted last.
    #[serde(default)]
    pub rows: u64,
    /// Whether somebody said that objects which the upper database names are lost, and that the
    /// store is to come up all the same.
    #[serde(default)]
    pub accepted_loss: bool,
}

/// Metadata copied, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Warmed {
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
pub(crate) struct LowerMemory {
    /// `lower-store`, as the configuration wrote it.
    pub store: String,
    /// What tells it from another one, where that could be read.
    pub identity: Option<Identity>,
}

/// A mount, remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Mounted {
    /// The merged store directory, escaped where it cannot be printed.
    pub real: String,
    /// The options' text, escaped where it cannot be printed.
    pub options: String,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            version: VERSION,
            lower: None,
            mounted: None,
            warmed: None,
            collected: None,
            upper_layer: None,
            compared: None,
        }
    }
}

impl Mounted {
    /// An overlay at `real`, mounted with these options.
    pub(crate) fn new(real: &Path, options: &[u8]) -> Mounted {
        Mounted {
            real: show_path(real).into_owned(),
            options: show(options).into_owned(),
        }
    }
}

impl Memory {
    /// The paths whose metadata was copied last. `None` where they are not remembered, or where
    /// what is remembered of them is damaged.
    pub(crate) fn warmed_paths(&self, store: &Store) -> Option<PathSet> {
        let warmed = self.warmed.as_ref()?;
        let directory = safe_path::directory(&store.memory(), Symlinks::Refuse).ok()?;
        let hash = warmed.hash.as_deref()?;
        warmed_paths::read(&directory, warmed.paths, hash).ok()?
    }

    /// Reads it. What is missing, damaged or of another version is as if nothing were remembered.
    pub(crate) fn read(store: &Store) -> Memory {
        Self::read_any(store).unwrap_or_default()
    }

    /// Reads it, if anything is remembered.
    pub(crate) fn read_any(store: &Store) -> Option<Memory> {
        let directory = safe_path::directory(&store.memory(), Symlinks::Refuse).ok()?;
        let read = || {
            let text =
                regular_file::read_at(&directory, MEMORY_FILE, Symlinks::Refuse, MAXIMUM_SIZE)?;
            Ok::<_, io::Error>(serde_json::from_slice::<Memory>(&text)?)
        };
        read().ok().filter(|memory| memory.version == VERSION)
    }

    /// Remembers that the metadata of these paths was copied now; with `after_mount`, that `up` did
    /// it after the mount of that time. Writes which paths these are to `directory`, overstore's own
    /// in the state directory, but not the memory itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn remember_warmed(
        &mut self,
        directory: impl AsFd,
        paths: &PathSet,
        after_mount: Option<u64>,
    ) -> io::Result<()> {
        let before = self.warmed.take().and_then(|warmed| warmed.after_mount);
        self.warmed = Some(Warmed {
            time: clock::now(),
            paths: paths.len(),
            hash: Some(warmed_paths::write(directory, paths)?),
            after_mount: after_mount.or(before),
        });
        Ok(())
    }

    /// Writes it to `directory`, overstore's own in the state directory: at once or not at all. It is
    /// not synced: it may get lost.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, directory: impl AsFd) -> io::Result<()> {
        let text = self.text()?;
        atomic_file::replace(directory, MEMORY_FILE, |file| file.write_all(&text))
    }

    /// The same, so that it survives a power cut.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_durably(&self, directory: impl AsFd) -> io::Result<()> {
        let text = self.text()?;
        atomic_file::replace_durably(directory, MEMORY_FILE, |file| file.write_all(&text))
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}
