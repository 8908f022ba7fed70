//! The publication of a lower store, and the generation of it that a store uses.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, readlinkat, statat};
use rustix::io::Errno;

use super::{LinkFacts, PublicationFacts, UsedGeneration};
use crate::config::Lower;
use crate::linux::regular_file::kind_name;
use crate::linux::safe_path::{self, Obstacle, Symlinks};
use crate::lower::publication::{Publication, number_of};
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
pub(super) fn look(publication: &Path, link: &Path) -> LinkFacts {
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
