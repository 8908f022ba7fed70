//! Whether the rows of the upper database have their objects.
//!
//! Every row is looked at: a sample could not tell that nothing is missing. It costs a listing of
//! the upper layer and one pass through the table; only what is not in the upper layer is looked for
//! below, by name, or in one listing where that is cheaper.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::layers::{MOST_REFERRERS, Missing, Odd, Several};
use crate::linux::regular_file::kind_name;
use crate::lower::sqlite::{OfOthers, SqliteSource};
use crate::lower::{self, LowerError, Source};
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_object;
use crate::nix::store_path::{Entry, StorePath};
use crate::overlayfs::markers::is_whiteout_stat;

/// So many names are looked for one by one; for more, the directory is listed.
const MOST_LOOKUPS: usize = 1000;

/// The rows of the upper database and their objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// All rows.
    pub rows: u64,
    /// Those whose object is in the upper layer.
    pub above: u64,
    /// Those whose object is in neither layer.
    pub missing: Several<Missing>,
    /// Those whose object is in the lower layer, and hidden by a whiteout or by what is no object.
    pub hidden: Several<StorePath>,
    /// Rows of another store directory.
    pub of_others: OfOthers,
}

/// The names of store objects in an upper layer.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Objects.
    pub objects: HashSet<StorePath>,
    /// Whiteouts: what is below of these names does not show.
    pub whiteouts: HashSet<StorePath>,
    /// What is no store object: pipes, sockets and devices. What is below of these names does not show
    /// either.
    pub others: HashSet<StorePath>,
}

/// What a layer's directory has of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What a store object can be.
    Object,
    /// The mark that hides what is below.
    Whiteout,
    /// What no store object can be.
    Other,
}

/// Why that could not be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    /// The upper database cannot be read.
    #[error(transparent)]
    Database(#[from] LowerError),
    /// A layer cannot be read.
    #[error("a layer cannot be read: {0}")]
    Layer(#[from] io::Error),
}

impl lower::Transient for ObjectsError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_transient())
    }
}

/// What a layer's directory holds of what is named as a store object.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn held(layer: impl AsFd) -> io::Result<Held> {
    let mut held = Held::default();
    each_held(layer, |path, kind| {
        match kind {
            Kind::Object => held.objects.insert(path),
            Kind::Whiteout => held.whiteouts.insert(path),
            Kind::Other => held.others.insert(path),
        };
    })?;
    Ok(held)
}

/// Calls `visit` with what a layer's directory holds of what is named as a store object, and what it
/// is.
fn each_held(layer: impl AsFd, mut visit: impl FnMut(StorePath, Kind)) -> io::Result<()> {
    for entry in Dir::read_from(&layer)? {
        let entry = entry?;
        if let Entry::StorePath(path) = Entry::of(entry.file_name().to_bytes())
            && !path.is_temporary()
        {
            let kind = match entry.file_type() {
                // Whiteouts are character devices.
                FileType::Unknown | FileType::CharacterDevice => look(&layer, &path)?,
                kind if store_object::can_be(kind) => Some(Kind::Object),
                _ => Some(Kind::Other),
            };
            if let Some(kind) = kind {
                visit(path, kind);
            }
        }
    }
    Ok(())
}

/// Looks for the object of every row: in the directory of the upper layer, of which `held` tells what
/// was there a moment ago, if there is one, and in that of the lower one.
///
/// # Errors
/// When the database or a layer cannot be read.
pub(crate) fn objects(
    database: &Path,
    store: &StoreDirectory,
    held: &Held,
    upper: Option<BorrowedFd<'_>>,
    lower: impl AsFd,
) -> Result<Objects, ObjectsError> {
    lower::retry(
        || SqliteSource::open(database, store.clone()).map(Box::new),
        |source| {
            let mut objects = Objects::default();
            let mut below = Below::new(lower.as_fd());
            let (mut missing, mut failed) = (Vec::new(), None);
            source.all_paths(&mut |path| {
                objects.rows += 1;
                if held.objects.contains(&path) {
                    objects.above += 1;
                    return Ok(());
                }
                let is_hidden = held.whiteouts.contains(&path) || held.others.contains(&path);
                match below.has(&path) {
                    Ok(true) if is_hidden => objects.hidden.push(path),
                    Ok(true) => {}
                    Ok(false) => missing.push(path),
                    Err(error) => failed = failed.take().or(Some(error)),
                }
                Ok(())
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            objects.of_others = source.of_others();
            objects.rows += objects.of_others.count;
            // Somebody may have been adding, or collecting, while we looked: a row comes after its
            // object.
            let looked_for = missing.len();
            let missing = match upper {
                Some(upper) => {
                    let mut still = Vec::new();
                    for path in missing {
                        if !has(upper, &path)? {
                            still.push(path);
                        }
                    }
                    still
                }
                None => missing,
            };
            objects.above += (looked_for - missing.len()) as u64;
            let now = match missing.is_empty() {
                true => None,
                false => Some(SqliteSource::open(database, store.clone())?),
            };
            for path in missing {
                if let Some(now) = &now
                    && now.is_valid(&path)?
                {
                    let referrers = match objects.missing.is_full() {
                        true => Vec::new(),
                        false => now.referrers(&path, MOST_REFERRERS)?,
                    };
                    let odd = match objects.missing.is_full() {
                        true => None,
                        false => odd(upper, lower.as_fd(), &path)?,
                    };
                    objects.missing.push(Missing {
                        path,
                        referrers,
                        odd,
                    });
                } else {
                    objects.rows -= 1;
                }
            }
            source.confirmed()?;
            Ok(objects)
        },
    )
}

/// What the lower layer's directory has: looked for by name, and from some number on in a listing,
/// of which eight bytes a path are kept.
#[derive(Debug)]
pub(crate) struct Below<'a> {
    directory: BorrowedFd<'a>,
    lookups: usize,
    listed: Option<Listed>,
}

/// The beginnings of hash parts that a listing has found.
#[derive(Debug)]
struct Listed {
    objects: PathSet,
    others: PathSet,
}

impl<'a> Below<'a> {
    /// What this directory has.
    pub(crate) fn new(directory: BorrowedFd<'a>) -> Self {
        Self {
            directory,
            lookups: 0,
            listed: None,
        }
    }

    /// Whether it has an object.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn has(&mut self, path: &StorePath) -> io::Result<bool> {
        Ok(self.look(path)? == Some(Kind::Object))
    }

    /// What it has of a path.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn look(&mut self, path: &StorePath) -> io::Result<Option<Kind>> {
        if self.looks_up() {
            self.lookups += 1;
            return look(self.directory, path);
        }
        self.look_for_prefix(path.hash_prefix())
    }

    /// Whether [`look`](Self::look) looks the next one up by its name, and does not only compare the
    /// first bits of its hash part.
    pub(crate) fn looks_up(&self) -> bool {
        self.lookups < MOST_LOOKUPS
    }

    /// What it has whose hash part begins with these bits, whiteouts aside: the directory is listed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn look_for_prefix(&mut self, prefix: u64) -> io::Result<Option<Kind>> {
        let listed = match &self.listed {
            Some(listed) => listed,
            None => self.listed.insert(list(self.directory)?),
        };
        Ok(if listed.objects.contains(prefix) {
            Some(Kind::Object)
        } else if listed.others.contains(prefix) {
            Some(Kind::Other)
        } else {
            None
        })
    }
}

fn list(directory: BorrowedFd<'_>) -> io::Result<Listed> {
    let (mut objects, mut others) = (Vec::new(), Vec::new());
    each_held(directory, |path, kind| match kind {
        Kind::Object => objects.push(path.hash_prefix()),
        Kind::Other => others.push(path.hash_prefix()),
        Kind::Whiteout => {}
    })?;
    Ok(Listed {
        objects: PathSet::new(objects),
        others: PathSet::new(others),
    })
}

/// Whether a layer's directory has an object.
fn has(directory: BorrowedFd<'_>, path: &StorePath) -> io::Result<bool> {
    Ok(look(directory, path)? == Some(Kind::Object))
}

/// What a layer's directory has of a path.
fn look(directory: impl AsFd, path: &StorePath) -> io::Result<Option<Kind>> {
    match statat(directory, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout_stat(&stat) => Ok(Some(Kind::Whiteout)),
        Ok(stat) if store_object::can_be(FileType::from_raw_mode(stat.st_mode)) => {
            Ok(Some(Kind::Object))
        }
        Ok(_) => Ok(Some(Kind::Other)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What has taken the place of an object that neither layer has, if anything has.
fn odd(
    upper: Option<BorrowedFd<'_>>,
    lower: BorrowedFd<'_>,
    path: &StorePath,
) -> io::Result<Option<Odd>> {
    for (layer, is_above) in [(upper, true), (Some(lower), false)] {
        if let Some(layer) = layer
            && look(layer, path)? == Some(Kind::Other)
        {
            let stat = statat(layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = kind_name(FileType::from_raw_mode(stat.st_mode));
            return Ok(Some(Odd { is_above, kind }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::fs;

    /// By name and in a listing.
    #[test]
    fn a_pipe_or_a_socket_is_no_object() {
        let root = tempfile::tempdir().unwrap();
        let path = |letter: u8| {
            let name = [&[letter; 32][..], b"-x"].concat();
            StorePath::parse(&name).unwrap()
        };
        let at = |letter| root.path().join(path(letter).as_str());
        fs::create_dir(at(b'a')).unwrap();
        fs::write(at(b'b'), "").unwrap();
        std::os::unix::fs::symlink("/nowhere", at(b'c')).unwrap();
        let pipe = rustix::fs::mknodat(
            rustix::fs::CWD,
            at(b'd'),
            FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        );
        pipe.unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at(b'f')).unwrap();
        let directory = fs::File::open(root.path()).unwrap();
        let mut below = Below::new(directory.as_fd());
        let expected = [
            (b'a', Some(Kind::Object)),
            (b'b', Some(Kind::Object)),
            (b'c', Some(Kind::Object)),
            (b'd', Some(Kind::Other)),
            (b'f', Some(Kind::Other)),
            (b'g', None),
        ];
        for (letter, kind) in expected {
            let path = path(letter);
            assert_eq!(below.look(&path).unwrap(), kind, "{path}");
            let listed = below.look_for_prefix(path.hash_prefix()).unwrap();
            assert_eq!(listed, kind, "{path}");
        }
        let held = held(&directory).unwrap();
        assert_eq!(held.objects, HashSet::from([b'a', b'b', b'c'].map(path)));
        assert_eq!(held.others, HashSet::from([b'd', b'f'].map(path)));
        assert!(held.whiteouts.is_empty());
    }
}
