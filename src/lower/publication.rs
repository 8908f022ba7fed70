//! A publication: a directory with the generations of a lower store and a link to the current one.
//! Its format, which `overstore publish` writes, and how consumers read it: whatever is in it may be
//! somebody else's.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::escape::{show, show_path};
use crate::linux::regular_file::{self, ReadError};
use crate::linux::safe_path::{self, Symlinks};
use crate::nix::store_path::StorePath;
use crate::remedy::{HasRemedy, Remedy};

/// The link to the current generation.
pub(crate) const CURRENT: &str = "current";

/// The directory of the generations.
pub(crate) const GENERATIONS: &str = "generations";

/// What a generation is renamed to before it is removed, after its number.
pub(crate) const LEAVING: &str = ".overstore-old";

/// Within a generation, which is a state directory of Nix: the directory of what overstore writes.
pub(crate) const OWN: &str = "overstore";

/// Within that: what the generation is.
pub(crate) const GENERATION: &str = "generation.json";

/// Within that: what left or changed since the generation before. A line each: `- NAME` for an object
/// that left, `~ NAME` for one that has other contents.
pub(crate) const CHANGES: &str = "changes";

/// Within that, once it is retired: since when, and until when it stays.
pub(crate) const RETIRED: &str = "retired.json";

/// The size in bytes above which a record is something else.
const LONGEST_RECORD: u64 = 64 << 10;

/// How much of what is written of changes is read, in bytes: looking at each row is faster then.
const LONGEST_CHANGES: u64 = 64 << 20;

/// How many generations are gone back.
const MOST_GENERATIONS: u32 = 10_000;

/// What a generation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// The version of this format: 1.
    pub version: u32,
    /// The publication's identity.
    pub publication: String,
    /// Its number.
    pub number: u64,
    /// The number of the generation before, that `changes` is about.
    pub before: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// The store directory, as store paths name it.
    pub store: String,
    /// Valid paths in it.
    pub paths: u64,
    /// References between them.
    pub references: u64,
    /// Roots in the live store that keep it.
    pub roots: u64,
    /// Paths that were not in the generation before.
    pub added: u64,
    /// Paths that were in the generation before and are not in this one.
    pub left: u64,
    /// Paths that have other contents than in the generation before.
    pub changed: u64,
}

/// That a generation is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Retired {
    /// Since when, in seconds since 1970.
    pub time: u64,
    /// When its database and its roots may go.
    pub until: u64,
}

/// A generation that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub generation: Generation,
    /// That it is retired, if it is.
    pub retired: Option<Retired>,
}

/// Why a publication cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// It, or something of it, cannot be reached.
    #[error("cannot reach {}: {error}", show_path(.path))]
    Unreachable {
        /// What.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not what a publication has there.
    #[error("{} is not what a publication has there: {what}", show_path(.path))]
    Wrong {
        /// What.
        path: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
}

impl HasRemedy for PublicationError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable { .. } => Remedy::say(
                "mount the directory of the publication, or correct `lower.publication`",
            ),
            Self::Wrong { .. } => {
                Remedy::say("have the owner of the publication make a new generation of it")
            }
        }
    }
}

impl PublicationError {
    fn unreachable(path: PathBuf, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        Self::Unreachable { path, error }
    }
}

/// The directory of a publication, open.
#[derive(Debug)]
pub struct Publication {
    path: PathBuf,
    directory: OwnedFd,
}

impl Publication {
    /// Opens the directory of a publication. Its owner may have put links in the way.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn open(path: &Path) -> Result<Self, PublicationError> {
        match safe_path::open_directory(path, Symlinks::Follow) {
            Ok(directory) => Ok(Self {
                path: path.to_owned(),
                directory,
            }),
            Err(error) => Err(PublicationError::unreachable(path.to_owned(), error)),
        }
    }

    /// The number of the current generation.
    ///
    /// # Errors
    /// When there is none, or the link to it leads elsewhere.
    pub fn current(&self) -> Result<u64, PublicationError> {
        let path = self.path.join(CURRENT);
        let wrong = |path, found: &str| PublicationError::Wrong {
            path,
            what: format!("expected a link to a generation, found {found}"),
        };
        match readlinkat(&self.directory, CURRENT, Vec::new()) {
            Ok(target) => match number_in(target.to_bytes()) {
                Some(number) => Ok(number),
                None => Err(wrong(path, &format!("one to {}", show(target.to_bytes())))),
            },
            Err(Errno::INVAL) => Err(wrong(path, "something else")),
            Err(errno) => Err(PublicationError::unreachable(path, errno)),
        }
    }

    /// What a generation is. `None` if it is not there.
    ///
    /// # Errors
    /// When it cannot be read, or is not what a publication has.
    pub fn generation(&self, number: u64) -> Result<Option<Listed>, PublicationError> {
        let path = path_of(&self.path, number).join(OWN);
        let Some(own) = self.own(number)? else {
            return Ok(None);
        };
        let generation: Option<Generation> = record(&own, GENERATION, &path)?;
        let wrong = |what: &str| PublicationError::Wrong {
            path: path.join(GENERATION),
            what: what.to_owned(),
        };
        let generation = generation.ok_or_else(|| wrong("it is missing"))?;
        if generation.version != 1 {
            return Err(wrong("expected version 1 of the format, found another"));
        }
        if generation.number != number || generation.before.is_some_and(|it| it >= number) {
            return Err(wrong(
                "expected its own number, and a smaller one before it",
            ));
        }
        let retired = record(&own, RETIRED, &path)?;
        Ok(Some(Listed {
            generation,
            retired,
        }))
    }

    /// What overstore wrote into a generation: its directory, if the generation is there.
    fn own(&self, number: u64) -> Result<Option<OwnedFd>, PublicationError> {
        let mut reached = None;
        let names = [GENERATIONS, &number.to_string(), OWN];
        for (depth, name) in names.into_iter().enumerate() {
            let at = reached.as_ref().unwrap_or(&self.directory);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            reached = match openat(at, name, flags, Mode::empty()) {
                Ok(opened) => Some(opened),
                Err(Errno::NOENT) if depth == 1 => return Ok(None),
                Err(errno) => {
                    let path: PathBuf = names[..=depth].iter().collect();
                    return Err(PublicationError::unreachable(self.path.join(path), errno));
                }
            };
        }
        Ok(reached)
    }
}

/// What left or changed between two generations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The paths, each once.
    pub paths: BTreeSet<StorePath>,
}

impl Publication {
    /// What left or changed since the generation `then`, as it was written beside `now` and all between
    /// them; `None` where that is not all there, or is more than is worth reading, so that each row has
    /// to be looked at.
    ///
    /// # Errors
    /// When something of it cannot be reached.
    pub fn changes(
        &self,
        then: &Generation,
        now: &Generation,
    ) -> Result<Option<Changes>, PublicationError> {
        let mut changes = Changes::default();
        let mut left = LONGEST_CHANGES;
        let mut at = now.clone();
        for _ in 0..MOST_GENERATIONS {
            if at.publication != then.publication || at.store != then.store {
                return Ok(None);
            }
            if at.number <= then.number {
                return Ok((at.number == then.number).then_some(changes));
            }
            match self.read_changes(&at, &mut left, &mut changes)? {
                true => {}
                false => return Ok(None),
            }
            let before = match at.before {
                Some(before) => self.generation(before),
                None => return Ok(None),
            };
            at = match before {
                Ok(Some(listed)) => listed.generation,
                Ok(None) | Err(PublicationError::Wrong { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(None)
    }

    /// Reads what is written beside one generation: whether it is what a publication has.
    fn read_changes(
        &self,
        of: &Generation,
        left: &mut u64,
        changes: &mut Changes,
    ) -> Result<bool, PublicationError> {
        let path = path_of(&self.path, of.number).join(OWN).join(CHANGES);
        let Some(own) = self.own(of.number)? else {
            return Ok(false);
        };
        let text = match regular_file::read_at(own, CHANGES, Symlinks::Refuse, *left) {
            Ok(text) => text,
            Err(ReadError::Io(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PublicationError::unreachable(path, error));
            }
            Err(_) => return Ok(false),
        };
        *left -= text.len() as u64;
        let (mut gone, mut changed) = (0, 0);
        for line in text
            .split(|byte| *byte == b'\n')
            .filter(|it| !it.is_empty())
        {
            let (count, name) = match line {
                [b'-', b' ', name @ ..] => (&mut gone, name),
                [b'~', b' ', name @ ..] => (&mut changed, name),
                _ => return Ok(false),
            };
            let Ok(name) = StorePath::parse(name) else {
                return Ok(false);
            };
            *count += 1;
            changes.paths.insert(name);
        }
        Ok((gone, changed) == (of.left, of.changed))
    }
}

/// Where the directory of a generation is.
pub(crate) fn path_of(publication: &Path, number: u64) -> PathBuf {
    publication.join(GENERATIONS).join(number.to_string())
}

/// The number of the generation of a publication that is at a path.
pub(crate) fn number_of(publication: &Path, path: &Path) -> Option<u64> {
    let below = path.strip_prefix(publication).ok()?;
    number_in(below.as_os_str().as_bytes())
}

/// The number in the path of a generation, below the directory of its publication.
pub(crate) fn number_in(path: &[u8]) -> Option<u64> {
    let name = path
        .strip_prefix(GENERATIONS.as_bytes())?
        .strip_prefix(b"/")?;
    number(std::str::from_utf8(name).ok()?)
}

/// A number as names of generations have it.
pub(crate) fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

/// Reads a record, if it is there.
///
/// # Errors
/// When it cannot be read, or is none.
pub(crate) fn record<T: DeserializeOwned>(
    directory: impl AsFd,
    name: &str,
    at: &Path,
) -> Result<Option<T>, PublicationError> {
    let path = at.join(name);
    let content = match regular_file::read_at(directory, name, Symlinks::Refuse, LONGEST_RECORD) {
        Ok(content) => content,
        Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(ReadError::Io(error)) => return Err(PublicationError::unreachable(path, error)),
        Err(error) => {
            let what = error.to_string();
            return Err(PublicationError::Wrong { path, what });
        }
    };
    match serde_json::from_slice(&content) {
        Ok(read) => Ok(Some(read)),
        Err(error) => Err(PublicationError::Wrong {
            path,
            what: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_current_generation_is_one_of_the_publication() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let current = || Publication::open(&root).unwrap().current();
        assert!(matches!(
            current(),
            Err(PublicationError::Unreachable { .. })
        ));
        let link = root.join(CURRENT);
        for (target, number) in [
            ("generations/7", Some(7)),
            ("generations/07", None),
            ("generations/0", None),
            ("generations/../../7", None),
            ("/generations/7", None),
            ("generations/7/", None),
            ("generations/18446744073709551616", None),
        ] {
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            assert_eq!(current().ok(), number, "{target}");
        }
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert!(matches!(current(), Err(PublicationError::Wrong { .. })));
        let path = path_of(Path::new("/srv/p"), 12);
        assert_eq!(number_of(Path::new("/srv/p"), &path), Some(12));
        assert_eq!(number_of(Path::new("/srv/q"), &path), None);
    }
}
