//! Whether the objects are what the databases say: their NAR hashes, computed again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::AtFlags;

use crate::compare::layers::AcrossError;
use crate::config::Store;
use crate::counts::Counts;
use crate::escape::show_path;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::sqlite::SqliteSource;
use crate::lower::{LowerError, Source};
use crate::nix::nar;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::overlayfs::markers;

/// Objects that wait for a free processor.
const QUEUE: usize = 64;

/// What the hashing found.
#[derive(Debug, Default)]
pub struct Contents {
    /// Objects hashed.
    pub objects: u64,
    /// Objects there are to hash.
    pub of: u64,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
    /// Those that are not what their rows say.
    pub damaged: Vec<Damaged>,
}

/// An object that is not what its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its path.
    pub path: StorePath,
    /// Whether it is in the upper layer, not in the lower store directory.
    pub upper: bool,
    /// The hash in its row.
    pub expected: [u8; 32],
    /// The hash it has, or why it could not be hashed.
    pub actual: Result<[u8; 32], String>,
}

/// An object to hash.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its path.
    pub path: StorePath,
    /// Whether it is in the upper layer, not in the lower store directory.
    pub upper: bool,
    /// The hash in its row.
    pub expected: [u8; 32],
}

/// Hashes every object that the upper database has and the upper layer holds; with `lower`, also
/// those that only the lower store directory holds. In parallel; memory does not grow with the store.
///
/// # Errors
/// When the upper database or a layer cannot be read. What is wrong with objects is part of the
/// result.
pub fn contents(store: &Store, lower: bool, counts: &Counts) -> Result<Contents, AcrossError> {
    let objects = Objects {
        database: store.database(),
        directory: StoreDirectory::new(store.store.as_os_str().as_bytes()),
        layers: [open(&store.upper_layer)?, open(&store.lower.real)?],
        lower,
    };
    let mut found = Contents::default();
    let mut total = 0;
    objects.each(|_, size| {
        found.of += 1;
        total = u64::saturating_add(total, u64::try_from(size).unwrap_or(0));
    })?;
    counts.expect(total);
    (found.objects, found.damaged) = objects.hash(counts)?;
    found.interrupted = counts.is_stopped();
    Ok(found)
}

/// The objects to hash.
struct Objects {
    database: PathBuf,
    directory: StoreDirectory,
    /// The upper layer, then the lower store directory.
    layers: [Layer; 2],
    /// Whether those that only the lower store directory holds belong to them.
    lower: bool,
}

impl Objects {
    /// Calls `visit` with each, and the size that its row has.
    fn each(&self, mut visit: impl FnMut(Job, i64)) -> Result<(), LowerError> {
        let mut source = self.source()?;
        let mut reader = self.source()?;
        source.all_paths(&mut |path| {
            let upper = self.holds(0, &path);
            if upper || (self.lower && self.holds(1, &path)) {
                reader.ask(&path)?;
                if let Some(info) = reader.answer()? {
                    let expected = info.nar_hash;
                    let job = Job {
                        path,
                        upper,
                        expected,
                    };
                    visit(job, info.nar_size);
                }
            }
            Ok::<_, LowerError>(())
        })
    }

    fn source(&self) -> Result<SqliteSource, LowerError> {
        SqliteSource::open(&self.database, self.directory.clone())
    }

    /// Whether a layer has an object of its own, not a whiteout.
    fn holds(&self, layer: usize, path: &StorePath) -> bool {
        let layer = &self.layers[layer].directory;
        rustix::fs::statat(layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| !markers::is_whiteout_stat(&stat))
    }

    /// Hashes them all: how many were, and those that are not what their rows say.
    fn hash(&self, counts: &Counts) -> Result<(u64, Vec<Damaged>), AcrossError> {
        let [upper, lower] = &self.layers;
        let (hashed, damaged) = hash_each([upper, lower], counts, |queue| {
            self.each(|job, _| queue(job)).map_err(AcrossError::from)
        })?;
        Ok((hashed, self.still_expected(damaged)?))
    }

    /// Those whose row is still as it was: somebody may have collected an object, or added it again,
    /// meanwhile.
    fn still_expected(&self, damaged: Vec<Damaged>) -> Result<Vec<Damaged>, LowerError> {
        let mut now = self.source()?;
        let mut still = Vec::new();
        for item in damaged {
            now.ask(&item.path)?;
            let row = now.answer()?;
            if row.is_some_and(|info| info.nar_hash == item.expected) {
                still.push(item);
            }
        }
        Ok(still)
    }
}

/// Hashes, in parallel, what `feed` hands to the queue that it is given: how many objects were hashed,
/// and those that are not what their rows say, sorted. The layers are the upper one, then the lower
/// store directory.
///
/// # Errors
/// Those of `feed`; and when an object cannot be read for a reason that is not its own.
pub(crate) fn hash_each<E: From<AcrossError>>(
    layers: [&Layer; 2],
    counts: &Counts,
    feed: impl FnOnce(&mut dyn FnMut(Job)) -> Result<(), E>,
) -> Result<(u64, Vec<Damaged>), E> {
    let (sender, receiver) = sync_channel(QUEUE);
    let work = Work {
        jobs: Mutex::new(receiver),
        layers,
        counts,
        hashed: AtomicU64::new(0),
        damaged: Mutex::default(),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for number in 0..workers {
            let started = thread::Builder::new().spawn_scoped(scope, || work.run());
            match started {
                Err(error) if number == 0 => return Err(AcrossError::Thread(error).into()),
                // Fewer do it as well.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        let result = feed(&mut |job| {
            // Workers end only after the sender is gone.
            let _ = sender.send(job);
        });
        drop(sender);
        result
    })?;
    let failed = work.failed.into_inner();
    if let Some((object, source)) = failed.unwrap_or_else(PoisonError::into_inner) {
        let path = show_path(&object).into_owned();
        return Err(AcrossError::Layer { path, source }.into());
    }
    let damaged = work.damaged.into_inner();
    let mut damaged = damaged.unwrap_or_else(PoisonError::into_inner);
    damaged.sort_by(|one: &Damaged, other| one.path.cmp(&other.path));
    Ok((work.hashed.into_inner(), damaged))
}

/// What the workers share.
struct Work<'a> {
    jobs: Mutex<Receiver<Job>>,
    layers: [&'a Layer; 2],
    counts: &'a Counts,
    hashed: AtomicU64,
    damaged: Mutex<Vec<Damaged>>,
    /// An object that this machine would not read, and why: that says nothing of the object.
    failed: Mutex<Option<(PathBuf, io::Error)>>,
    /// Set with it.
    stop: AtomicBool,
}

impl Work<'_> {
    fn run(&self) {
        let go_on = |bytes| {
            self.counts.add(bytes);
            !self.counts.is_stopped() && !self.stop.load(Ordering::Relaxed)
        };
        loop {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(job) = jobs.recv() else { return };
            drop(jobs);
            if !go_on(0) {
                // The queue is emptied, so that its other end does not wait.
                continue;
            }
            let layer = self.layers[usize::from(!job.upper)];
            let actual = nar::hash(layer.directory.as_fd(), job.path.as_str(), &go_on);
            if !go_on(0) {
                continue;
            }
            self.hashed.fetch_add(1, Ordering::Relaxed);
            let actual = match actual {
                Ok((hash, _)) if hash == job.expected => continue,
                Ok((hash, _)) => Ok(hash),
                Err(error) if tells_of_damage(&error) => Err(error.to_string()),
                Err(error) => {
                    let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert((layer.path.join(job.path.as_str()), error));
                    self.stop.store(true, Ordering::Relaxed);
                    continue;
                }
            };
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.push(Damaged {
                path: job.path,
                upper: job.upper,
                expected: job.expected,
                actual,
            });
        }
    }
}

/// Whether an error of reading an object is the object's, or its disk's: all others (no descriptors,
/// no memory, no permission) are of this machine or of who runs this.
fn tells_of_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_disk = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    ) || error
        .raw_os_error()
        .is_some_and(|number| of_disk.iter().any(|errno| errno.raw_os_error() == number))
}

/// A directory of store objects.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Where it is.
    pub path: PathBuf,
    /// It, open.
    pub directory: OwnedFd,
}

fn open(path: &Path) -> Result<Layer, AcrossError> {
    match safe_path::open_directory(path, Symlinks::Follow) {
        Ok(directory) => Ok(Layer {
            path: path.to_owned(),
            directory,
        }),
        Err(source) => Err(AcrossError::Layer {
            path: show_path(path).into_owned(),
            source,
        }),
    }
}
