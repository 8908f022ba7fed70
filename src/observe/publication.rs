//! The publication of a lower store, and the generation of it that a store uses.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, readlinkat, statat};
use rustix::io::Errno;

use super::{LinkFacts, PublicationFacts, UsedGeneration};
use crate::config::Lower;
use crate::linux::processes;
use crate::linux::regular_file::kind_name;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Obstacle, Symlinks};
use crate::lower::publication::{LEAVING, Publication, number_of};
use crate::nix::layout;
use crate::remedy::Fault;

/// Looks at it, if the lower store is of one.
pub(super) fn observe(lower: &Lower) -> Option<PublicationFacts> {
    let (path, link) = lower.published()?;
    let link = look(path, link);
    let publication = Publication::open(path);
    let current = match &publication {
        Ok(publication) => publication.current().map_err(|error| Fault::of(&error)),
        Err(error) => Err(Fault::of(error)),
    };
    let used = match (&link, &publication) {
        (LinkFacts::Generation(number), Ok(publication)) => publication
            .generation(*number)
            .map_err(|error| Fault::of(&error))
            .map(|listed| {
                listed.map(|listed| UsedGeneration {
                    time: listed.generation.time,
                    retired_until: listed.retired.map(|retired| retired.until),
                })
            }),
        (LinkFacts::Generation(_), Err(error)) => Err(Fault::of(error)),
        _ => Ok(None),
    };
    Some(PublicationFacts {
        link,
        current,
        used,
    })
}

/// What is at a store's own link.
pub(crate) fn look(publication: &Path, link: &Path) -> LinkFacts {
    // A generation is looked at itself before it is gone on to.
    if let Some(number) = number_of(publication, link) {
        return LinkFacts::Generation(number);
    }
    let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else {
        return LinkFacts::Missing;
    };
    let directory = match safe_path::directory(parent, Symlinks::Refuse) {
        Ok(directory) => directory,
        Err(Obstacle::Missing { .. }) => return LinkFacts::Missing,
        Err(obstacle) => return LinkFacts::Other(io::Error::from(obstacle).to_string().into()),
    };
    match readlinkat(&directory, name, Vec::new()) {
        Ok(target) => {
            let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
            match number_of(publication, &target) {
                Some(number) => LinkFacts::Generation(number),
                None => LinkFacts::Elsewhere(target),
            }
        }
        Err(Errno::NOENT) => LinkFacts::Missing,
        Err(Errno::INVAL) => {
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let kind = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
            LinkFacts::Other(kind_name(kind.unwrap_or(FileType::Unknown)).into())
        }
        Err(errno) => LinkFacts::Other(io::Error::from(errno).to_string().into()),
    }
}

/// The processes that have a database of one of the publication's generations open, by the generation's
/// number: connections of Nix. By what the kernel says that they opened, so that those of generations
/// are found that are gone, and no file system is asked.
pub(crate) fn readers(system: &System, publication: &Path) -> BTreeMap<u64, Vec<u32>> {
    let mut readers: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for process in processes::all(system).unwrap_or_default() {
        let mut numbers: Vec<u64> = processes::open_files(system, process)
            .iter()
            .filter_map(|file| processes::link(system, process, &format!("fd/{file}")))
            .filter_map(|path| number_of_database(publication, &path))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            readers.entry(number).or_default().push(process);
        }
    }
    readers
}

/// The number of the generation whose database this is, as the kernel names an open file.
fn number_of_database(publication: &Path, path: &Path) -> Option<u64> {
    let bytes = path.as_os_str().as_bytes();
    let path = Path::new(OsStr::from_bytes(
        bytes.strip_suffix(b" (deleted)").unwrap_or(bytes),
    ));
    let state = path.ancestors().nth(2)?;
    // What its owner has removed is still open under the name that it had last.
    let left = state
        .as_os_str()
        .as_bytes()
        .strip_suffix(LEAVING.as_bytes());
    let named = left.map_or(state, |left| Path::new(OsStr::from_bytes(left)));
    let number = number_of(publication, named)?;
    (layout::database(state) == path).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_of_generations_are_known_by_their_paths() {
        let of = |path: &str| number_of_database(Path::new("/srv/p"), Path::new(path));
        assert_eq!(of("/srv/p/generations/7/db/db.sqlite"), Some(7));
        assert_eq!(of("/srv/p/generations/7/db/db.sqlite (deleted)"), Some(7));
        assert_eq!(of("/srv/p/generations/7/db/schema"), None);
        assert_eq!(of("/srv/q/generations/7/db/db.sqlite"), None);
        let left = "/srv/p/generations/7.overstore-old/db/db.sqlite (deleted)";
        assert_eq!(of(left), Some(7));
        assert_eq!(of("/srv/p/generations/7.old/db/db.sqlite"), None);
        assert_eq!(of("db.sqlite"), None);
    }
}
