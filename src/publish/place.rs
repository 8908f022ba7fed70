//! The directory of a publication, its generations and what is written of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::PublishError;
use super::tree::{LISTING, remove_tree, sync_tree};
use crate::apply::DirectoryLock;
use crate::escape::{show, show_path};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Obstacle, Reached, Symlinks};
use crate::linux::sync;
use crate::lower::publication::{
    self, CHANGES, CURRENT, GENERATION, GENERATIONS, Generation, LEAVING, Listed, OWN, RETIRED,
    Retired, number, number_in,
};
use crate::nix::layout;
use crate::records::{atomic_file, layer_mark};

/// Within the directory of the publication: what it is.
const PUBLICATION: &str = "publication.json";

/// Mode of the directories and files that consumers read.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// What a publication is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Identity {
    version: u32,
    /// A text that no other publication has.
    pub id: String,
    /// The number of the last generation that was begun: none is given twice.
    last: u64,
    /// The live store directory, where the owner has it.
    pub real: String,
}

/// The directory of a publication, locked: one run at a time works in it.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    directory: OwnedFd,
    generations: OwnedFd,
    pub(super) identity: Identity,
    _lock: DirectoryLock,
}

impl Place {
    /// Opens the directory, and makes what is missing of it. `waiting` is called once if another run
    /// works in it.
    pub(super) fn open(
        path: &Path,
        real: &Path,
        system: &System,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, PublishError> {
        let walked = |path: &Path| match safe_path::directory(path, Symlinks::Refuse) {
            Err(Obstacle::Missing { .. }) => Ok(None),
            Err(obstacle) => Err(PublishError::path(path, obstacle)),
            Ok(reached) => Ok(Some(reached)),
        };
        let reached = match walked(path)? {
            Some(reached) => reached,
            None => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(PublishError::NoParent(path.to_owned()));
                };
                let Some(parent) = walked(parent)? else {
                    return Err(PublishError::NoParent(parent.to_owned()));
                };
                make_directory(&parent, Path::new(name))?;
                enter(&parent, name)?
            }
        };
        make_directory(&reached, Path::new(GENERATIONS))?;
        let generations = enter(&reached, GENERATIONS.as_ref())?;
        let lock = DirectoryLock::wait(&generations, system, waiting)?;
        let open = |reached: &Reached| {
            let opened = reached.open();
            opened.map_err(|errno| PublishError::io("open", reached.path(), errno))
        };
        let mut place = Self {
            path: path.to_owned(),
            directory: open(&reached)?,
            generations: open(&generations)?,
            identity: Identity {
                version: 1,
                id: String::new(),
                last: 0,
                real: String::new(),
            },
            _lock: lock,
        };
        let real = show_path(real).into_owned();
        match read::<Identity>(&place.directory, PUBLICATION, &place.path)? {
            Some(identity) if identity.real == real => place.identity = identity,
            Some(identity) => place.identify(Identity { real, ..identity })?,
            None => {
                let id = layer_mark::new()
                    .map_err(|errno| PublishError::io("name", &place.path, errno))?;
                place.identify(Identity {
                    id,
                    real,
                    ..place.identity.clone()
                })?;
            }
        }
        Ok(place)
    }

    fn identify(&mut self, identity: Identity) -> Result<(), PublishError> {
        write(&self.directory, PUBLICATION, &identity, &self.path)?;
        self.identity = identity;
        Ok(())
    }

    /// Where the directory of a generation is, or of a draft.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.path.join(GENERATIONS).join(name)
    }

    /// The directory of a generation's database, and where it is.
    pub(super) fn database(&self, number: u64) -> Result<(OwnedFd, PathBuf), PublishError> {
        let name = format!("{number}/{}", layout::DATABASE_DIRECTORY);
        let path = self.of(&name);
        let opened = openat(&self.generations, &name, LISTING, Mode::empty());
        let opened = opened.map_err(|errno| PublishError::io("open", &path, errno))?;
        Ok((opened, path))
    }

    /// Every generation that is there, the oldest first.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, PublishError> {
        let mut listed = Vec::new();
        for number in self.numbers("")? {
            let name = format!("{number}/{OWN}");
            let path = self.of(&name);
            let own = openat(&self.generations, &name, LISTING, Mode::empty())
                .map_err(|errno| PublishError::io("open", &path, errno))?;
            let Some(generation) = read::<Generation>(&own, GENERATION, &path)? else {
                return Err(PublishError::Record {
                    path: path.join(GENERATION),
                    what: "it is missing".to_owned(),
                });
            };
            let retired = read(&own, RETIRED, &path)?;
            listed.push(Listed {
                generation,
                retired,
            });
        }
        Ok(listed)
    }

    /// The number of the current generation.
    pub(crate) fn current(&self) -> Result<Option<u64>, PublishError> {
        let path = self.path.join(CURRENT);
        let target = match rustix::fs::readlinkat(&self.directory, CURRENT, Vec::new()) {
            Err(Errno::NOENT) => return Ok(None),
            target => target.map_err(|errno| PublishError::io("read", &path, errno))?,
        };
        let target = target.to_bytes();
        number_in(target)
            .map(Some)
            .ok_or_else(|| PublishError::Record {
                path,
                what: format!(
                    "expected a link to a generation, found one to {}",
                    show(target)
                ),
            })
    }

    /// The numbers in the names of what is in the directory of the generations and ends with `suffix`.
    fn numbers(&self, suffix: &str) -> Result<Vec<u64>, PublishError> {
        let path = self.path.join(GENERATIONS);
        let list = || -> Result<Vec<u64>, Errno> {
            let mut numbers = Vec::new();
            for entry in Dir::read_from(&self.generations)? {
                let entry = entry?;
                let name = entry.file_name().to_str().unwrap_or_default();
                numbers.extend(name.strip_suffix(suffix).and_then(number));
            }
            numbers.sort_unstable();
            Ok(numbers)
        };
        list().map_err(|errno| PublishError::io("list", &path, errno))
    }

    /// Removes what killed runs left: drafts, and generations that were being removed. Gives the
    /// numbers that there are generations of.
    pub(super) fn clean(&self) -> Result<Vec<u64>, PublishError> {
        for suffix in [atomic_file::DRAFT, LEAVING] {
            for number in self.numbers(suffix)? {
                self.remove_tree(&format!("{number}{suffix}"))?;
            }
        }
        self.numbers("")
    }

    /// Begins a generation: its number, and its draft.
    pub(super) fn begin(&mut self) -> Result<(u64, Making), PublishError> {
        let highest = self.numbers("")?.last().copied().unwrap_or(0);
        let number = self.identity.last.max(highest) + 1;
        self.identify(Identity {
            last: number,
            ..self.identity.clone()
        })?;
        let name = format!("{number}{}", atomic_file::DRAFT);
        let path = self.of(&name);
        let make = || {
            rustix::fs::mkdirat(&self.generations, &name, DIRECTORY_MODE)?;
            openat(&self.generations, &name, LISTING, Mode::empty())
        };
        let directory = make().map_err(|errno| PublishError::io("make", &path, errno))?;
        Ok((number, Making { directory, path }))
    }

    /// Gives a whole draft its name, and makes it the current generation.
    pub(super) fn announce(&self, number: u64, making: &Making) -> Result<(), PublishError> {
        making.sync()?;
        let draft = format!("{number}{}", atomic_file::DRAFT);
        let name = number.to_string();
        let path = self.of(&name);
        renameat(&self.generations, &draft, &self.generations, &name)
            .map_err(|errno| PublishError::io("name", &path, errno))?;
        sync::sync(&self.generations).map_err(|errno| PublishError::io("sync", &path, errno))?;
        self.switch(number)
            .map_err(|errno| PublishError::io("switch", &self.path.join(CURRENT), errno))
    }

    fn switch(&self, number: u64) -> Result<(), Errno> {
        let draft = format!("{CURRENT}{}", atomic_file::DRAFT);
        match unlinkat(&self.directory, &draft, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let target = format!("{GENERATIONS}/{number}");
        rustix::fs::symlinkat(&target, &self.directory, &draft)?;
        renameat(&self.directory, &draft, &self.directory, CURRENT)?;
        sync::sync(&self.directory)
    }

    /// Marks a generation as retired.
    pub(super) fn retire(&self, number: u64, retired: Retired) -> Result<(), PublishError> {
        let name = format!("{number}/{OWN}");
        let path = self.of(&name);
        let own = openat(&self.generations, &name, LISTING, Mode::empty())
            .map_err(|errno| PublishError::io("open", &path, errno))?;
        write(&own, RETIRED, &retired, &path)
    }

    /// Removes a generation. It is gone at once, whatever happens afterwards.
    pub(super) fn remove(&self, number: u64) -> Result<(), PublishError> {
        let leaving = format!("{number}{LEAVING}");
        let name = number.to_string();
        let rename = || {
            renameat(&self.generations, &name, &self.generations, &leaving)?;
            sync::sync(&self.generations)
        };
        rename().map_err(|errno| PublishError::io("remove", &self.of(&name), errno))?;
        self.remove_tree(&leaving)
    }

    fn remove_tree(&self, name: &str) -> Result<(), PublishError> {
        remove_tree(&self.generations, name.as_ref())
            .map_err(|errno| PublishError::io("remove", &self.of(name), errno))
    }
}

/// The draft of a generation.
#[derive(Debug)]
pub(super) struct Making {
    directory: OwnedFd,
    path: PathBuf,
}

impl Making {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of its database, which was made, and where it is.
    pub(super) fn database(&self) -> Result<(OwnedFd, PathBuf), PublishError> {
        let name = layout::DATABASE_DIRECTORY;
        let path = self.path.join(name);
        let opened = openat(&self.directory, name, LISTING, Mode::empty());
        let opened = opened.map_err(|errno| PublishError::io("open", &path, errno))?;
        Ok((opened, path))
    }

    /// Makes a directory in it.
    pub(super) fn directory(&self, name: &str) -> Result<(), PublishError> {
        rustix::fs::mkdirat(&self.directory, name, DIRECTORY_MODE)
            .map_err(|errno| PublishError::io("make", &self.path.join(name), errno))
    }

    /// Makes a file in it, to be written to.
    pub(super) fn file(&self, name: &str, mode: u32) -> Result<File, PublishError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&self.directory, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|errno| PublishError::io("make", &self.path.join(name), errno))
    }

    /// Makes the file of what left or changed.
    pub(super) fn changes(&self) -> Result<(File, PathBuf), PublishError> {
        let name = format!("{OWN}/{CHANGES}");
        Ok((self.file(&name, 0o644)?, self.path.join(&name)))
    }

    /// Writes what it is.
    pub(super) fn describe(&self, generation: &Generation) -> Result<(), PublishError> {
        let name = format!("{OWN}/{GENERATION}");
        let mut file = self.file(&name, 0o644)?;
        serde_json::to_writer_pretty(&mut file, generation)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| PublishError::io("write", &self.path.join(&name), error))
    }

    fn sync(&self) -> Result<(), PublishError> {
        sync_tree(&self.directory).map_err(|errno| PublishError::io("sync", &self.path, errno))
    }
}

/// The live store directory of the publication in a directory, where its owner has it; `None` where
/// there is none.
pub(super) fn real_of(directory: &Path) -> Result<Option<PathBuf>, PublishError> {
    let path = directory.join(PUBLICATION);
    let opened = match safe_path::open_directory(directory, Symlinks::Follow) {
        Ok(opened) => opened,
        Err(error) => return Err(PublishError::io("open", directory, error)),
    };
    let identity: Option<Identity> = read(opened, PUBLICATION, directory)?;
    let Some(identity) = identity else {
        return Ok(None);
    };
    let real = PathBuf::from(identity.real);
    match real.is_absolute() {
        true => Ok(Some(real)),
        false => Err(PublishError::Record {
            path,
            what: "expected an absolute path as `real`".to_owned(),
        }),
    }
}

fn enter(directory: &Reached, name: &OsStr) -> Result<Reached, PublishError> {
    let path = directory.path().join(name);
    directory
        .enter(name)
        .map_err(|obstacle| PublishError::path(&path, obstacle))
}

/// Makes a directory that may be there already. It is durable when this returns.
fn make_directory(directory: &Reached, name: &Path) -> Result<(), PublishError> {
    let path = directory.path().join(name);
    let make = || {
        let directory = directory.open()?;
        match rustix::fs::mkdirat(&directory, name, DIRECTORY_MODE) {
            Ok(()) => sync::sync(&directory),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    };
    make().map_err(|errno| PublishError::io("make", &path, errno))
}

/// Reads a record, if it is there.
fn read<T: DeserializeOwned>(
    directory: impl AsFd,
    name: &str,
    at: &Path,
) -> Result<Option<T>, PublishError> {
    Ok(publication::record(directory, name, at)?)
}

/// Replaces a record, durably.
fn write(
    directory: impl AsFd,
    name: &str,
    record: &impl Serialize,
    at: &Path,
) -> Result<(), PublishError> {
    atomic_file::replace_durably(directory, name, |file| {
        serde_json::to_writer_pretty(&mut *file, record)?;
        file.write_all(b"\n")
    })
    .map_err(|error| PublishError::io("write", &at.join(name), error))
}
