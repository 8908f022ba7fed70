//! What is in which layer, and whether the upper database and the layers fit together.
//!
//! Looked at in the layers themselves and row by row in the upper database: the cost is that of the
//! upper layer and the upper database, whatever the lower store's size. Nothing is locked, and the
//! upper database is read like a lower one, as one state of it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::config::Store;
use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::sqlite::SqliteSource;
use crate::lower::{self, LowerError, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_object;
use crate::nix::store_path::{Entry, StorePath};
use crate::overlayfs::markers::{self, Marks};
use crate::remedy::{self, HasRemedy, Remedy};

/// How many of each a finding can use; more are only counted.
const MAXIMUM: usize = 100;
/// How many paths that depend on a missing one are named.
pub(super) const MOST_REFERRERS: usize = 5;

/// The layers and the upper database, compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Across {
    /// Objects in the upper layer.
    pub objects: u64,
    /// Rows of objects in the upper layer.
    pub own_rows: u64,
    /// Rows of objects that are only in the lower store: copied.
    pub copied_rows: u64,
    /// Rows of the paths that were asked for, whatever there is of their objects.
    pub rows_asked_for: u64,
    /// Rows whose object is in neither layer.
    pub missing: Several<Missing>,
    /// Objects in the upper layer that neither database knows, and that nobody is making.
    pub unknown: Several<StorePath>,
    /// Whiteouts, opaque directories and what is no store object, over an object that is valid below.
    pub hiding: Several<StorePath>,
    /// Objects in both layers.
    pub both: Several<StorePath>,
    /// Objects in both layers whose metadata above differs from that below, and in what.
    pub differing: Several<(StorePath, &'static str)>,
}

/// A row whose object is in neither layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its path.
    pub path: StorePath,
    /// Paths that refer to it: the first few.
    pub referrers: Vec<StorePath>,
    /// What is in its place and is no store object.
    pub odd: Option<Odd>,
}

/// What has taken an object's place and is no store object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd {
    /// Whether it is in the upper layer, and not in the lower store directory.
    pub is_above: bool,
    /// What it is: `a named pipe`, for one.
    pub kind: &'static str,
}

/// The first hundred of many, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Several<T> {
    /// The first hundred.
    pub first: Vec<T>,
    /// All of them.
    pub count: u64,
}

impl<T> Default for Several<T> {
    fn default() -> Self {
        Self {
            first: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Several<T> {
    /// Whether more are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.first.len() >= MAXIMUM
    }

    pub(crate) fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < MAXIMUM {
            self.first.push(item);
        }
    }
}

/// Why that could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AcrossError {
    /// A database or a daemon cannot be read.
    #[error(transparent)]
    Source(#[from] LowerError),
    /// A layer cannot be read.
    #[error("cannot read {path}: {source}")]
    Layer {
        /// The layer's directory, shown.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl HasRemedy for AcrossError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Layer { path, source } => remedy::of_io(source, Path::new(path)),
            Self::Thread(_) => exhaustion::too_many_processes().1,
        }
    }
}

impl lower::Transient for AcrossError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_transient())
    }
}

/// Compares the layers and the upper database of a store, and counts the rows of the paths that are
/// `asked_for` on the way.
///
/// # Errors
/// When one of them cannot be read.
pub fn across(store: &Store, asked_for: &PathSet) -> Result<Across, AcrossError> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let database = store.database();
    let layers = Layers {
        upper: Layer::open(&store.upper_layer)?,
        lower: Layer::open(&store.lower.real)?,
    };
    lower::retry(
        || {
            Ok(Box::new(Sources {
                upper: SqliteSource::open(&database, directory.clone())?,
                lower: lower::open(&store.lower.source, &directory)?,
            }))
        },
        |sources| {
            let mut across = Across::default();
            layers.objects(sources, &mut across)?;
            layers.rows(sources, asked_for, &mut across)?;
            sources.upper.confirm()?;
            sources.lower.confirm()?;
            // Somebody may have been adding or collecting while we looked.
            let now = SqliteSource::open(&database, directory.clone())?;
            let again = |path: &StorePath, has_row| Ok(now.is_valid(path)? == has_row);
            across.unknown.look_again(|path| again(path, false))?;
            across.missing.look_again(|it| again(&it.path, true))?;
            now.confirmed()?;
            Ok(across)
        },
    )
}

impl<T> Several<T> {
    /// Drops those of the first that are no more.
    fn look_again(
        &mut self,
        mut still: impl FnMut(&T) -> Result<bool, LowerError>,
    ) -> Result<(), LowerError> {
        let mut kept = Vec::new();
        for item in self.first.drain(..) {
            if still(&item)? {
                kept.push(item);
            } else {
                self.count -= 1;
            }
        }
        self.first = kept;
        Ok(())
    }
}

struct Sources {
    upper: SqliteSource,
    lower: Box<dyn Source>,
}

struct Layers {
    upper: Layer,
    lower: Layer,
}

impl Layers {
    /// Goes through the upper layer.
    fn objects(&self, sources: &mut Sources, across: &mut Across) -> Result<(), AcrossError> {
        self.upper.each(|name| {
            let Entry::StorePath(path) = Entry::of(name.as_bytes()) else {
                return Ok(());
            };
            let Some(kind) = self.upper.kind(path.as_str())? else {
                return Ok(());
            };
            let below = self.lower.has(&path)?;
            if matches!(kind, Kind::Whiteout | Kind::Other) {
                if below && info(&mut *sources.lower, &path)?.is_some() {
                    across.hiding.push(path);
                } else if kind == Kind::Other
                    && info(&mut sources.upper, &path)?.is_none()
                    && !self.being_made(&path)?
                {
                    across.unknown.push(path);
                }
                return Ok(());
            }
            let above = info(&mut sources.upper, &path)?;
            if below {
                match (above, info(&mut *sources.lower, &path)?) {
                    (Some(above), Some(below)) => {
                        across.objects += 1;
                        across.both.push(path.clone());
                        if let Some(what) = difference(&above, &below) {
                            across.differing.push((path, what));
                        }
                        return Ok(());
                    }
                    (None, Some(_)) if kind == Kind::Opaque => {
                        across.hiding.push(path);
                        return Ok(());
                    }
                    (None, Some(_)) => {
                        across.objects += 1;
                        across.both.push(path);
                        return Ok(());
                    }
                    (Some(_), None) => {
                        across.objects += 1;
                        return Ok(());
                    }
                    (None, None) => {}
                }
            } else if above.is_some() {
                across.objects += 1;
                return Ok(());
            }
            if !self.being_made(&path)? {
                across.unknown.push(path);
            }
            Ok(())
        })
    }

    /// Whether Nix is at work on an object, or has named it so that it is none: lock files, what
    /// builds leave for a moment, and what is about to be deleted.
    fn being_made(&self, path: &StorePath) -> Result<bool, AcrossError> {
        if path.is_temporary() {
            return Ok(true);
        }
        Ok(self.upper.kind(&path.lock_file())?.is_some())
    }

    /// Goes through the upper database.
    fn rows(
        &self,
        sources: &mut Sources,
        asked_for: &PathSet,
        across: &mut Across,
    ) -> Result<(), AcrossError> {
        let mut failed = None;
        let mut missing = Several::default();
        sources.upper.all_paths(&mut |path| {
            across.rows_asked_for += u64::from(asked_for.contains(path.hash_prefix()));
            let mut look = || {
                match self.upper.kind(path.as_str())? {
                    Some(Kind::Object | Kind::Opaque) => across.own_rows += 1,
                    Some(Kind::Whiteout | Kind::Other) => missing.push(path.clone()),
                    None if self.lower.has(&path)? => across.copied_rows += 1,
                    None => missing.push(path.clone()),
                }
                Ok(())
            };
            if failed.is_none() {
                failed = look().err();
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        across.missing.count = missing.count;
        for path in missing.first {
            let referrers = sources.upper.referrers(&path, MOST_REFERRERS)?;
            across.missing.first.push(Missing {
                path,
                referrers,
                odd: None,
            });
        }
        Ok(())
    }
}

fn info(
    source: &mut (impl Source + ?Sized),
    path: &StorePath,
) -> Result<Option<PathInfo>, LowerError> {
    source.ask(path)?;
    source.answer()
}

/// In what the metadata of one object differ, if in anything that says what the object is.
fn difference(above: &PathInfo, below: &PathInfo) -> Option<&'static str> {
    if above.nar_hash != below.nar_hash {
        Some("hash")
    } else if above.nar_size != below.nar_size && above.nar_size != 0 && below.nar_size != 0 {
        Some("size")
    } else if above.references != below.references {
        Some("references")
    } else if above.content_address != below.content_address {
        Some("content address")
    } else {
        None
    }
}

/// A layer's directory.
struct Layer {
    directory: OwnedFd,
    shown: String,
}

/// What a name in a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    /// A directory that hides the one below it.
    Opaque,
    Whiteout,
    /// What is no store object.
    Other,
}

impl Layer {
    fn open(path: &Path) -> Result<Self, AcrossError> {
        let shown = show_path(path).into_owned();
        match safe_path::open_directory(path, Symlinks::Follow) {
            Ok(directory) => Ok(Self { directory, shown }),
            Err(source) => Err(AcrossError::Layer {
                path: shown,
                source,
            }),
        }
    }

    fn each(
        &self,
        mut visit: impl FnMut(&OsStr) -> Result<(), AcrossError>,
    ) -> Result<(), AcrossError> {
        let entries = Dir::read_from(&self.directory).map_err(|error| self.error(error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.error(error))?;
            visit(OsStr::from_bytes(entry.file_name().to_bytes()))?;
        }
        Ok(())
    }

    fn kind(&self, name: &str) -> Result<Option<Kind>, AcrossError> {
        let stat = match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.error(error)),
        };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            _ if markers::is_whiteout_stat(&stat) => Kind::Whiteout,
            FileType::Directory if self.is_opaque(name)? => Kind::Opaque,
            kind if store_object::can_be(kind) => Kind::Object,
            _ => Kind::Other,
        }))
    }

    /// Whether it has an object of this path.
    fn has(&self, path: &StorePath) -> Result<bool, AcrossError> {
        let kind = self.kind(path.as_str())?;
        Ok(matches!(kind, Some(Kind::Object | Kind::Opaque)))
    }

    fn is_opaque(&self, name: &str) -> Result<bool, AcrossError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, name, flags, Mode::empty());
        let directory = directory.map_err(|error| self.error(error))?;
        for marks in [Marks::Trusted, Marks::User] {
            match markers::is_opaque(&directory, marks) {
                Ok(true) => return Ok(true),
                Ok(false) | Err(Errno::PERM) => {}
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(false)
    }

    fn error(&self, error: Errno) -> AcrossError {
        AcrossError::Layer {
            path: self.shown.clone(),
            source: error.into(),
        }
    }
}
