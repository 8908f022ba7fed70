//! Whether the objects are what the databases say: their NAR hashes, computed again.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::compare::layers::AcrossError;
use crate::config::Store;
use crate::escape::show_path;
use crate::lower::sqlite::SqliteSource;
use crate::lower::{LowerError, Source};
use crate::nix::nar;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

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

/// How far it is: to be looked at from other threads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Bytes there are to read, about; 0 until that is known.
    pub total: AtomicU64,
    /// Set to end it early.
    pub stop: AtomicBool,
}

struct Job {
    path: StorePath,
    upper: bool,
    expected: [u8; 32],
}

/// Hashes every object that the upper database has and the upper layer holds; with `lower`, also
/// those that only the lower store directory holds. In parallel; memory does not grow with the store.
///
/// # Errors
/// When the upper database or a layer cannot be read. What is wrong with objects is part of the
/// result.
pub fn contents(store: &Store, lower: bool, progress: &Progress) -> Result<Contents, AcrossError> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let layers = [open(&store.upper_layer)?, open(&store.lower.real)?];
    let holds = |layer: &OwnedFd, path: &StorePath| {
        rustix::fs::statat(layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device())
    };
    let each = |source: &mut SqliteSource, visit: &mut dyn FnMut(Job, i64)| {
        let mut reader = SqliteSource::open(&store.database(), directory.clone())?;
        source.all_paths(&mut |path| {
            let upper = holds(&layers[0], &path);
            if upper || (lower && holds(&layers[1], &path)) {
                reader.ask(&path)?;
                if let Some(info) = reader.answer()? {
                    let expected = info.nar_hash;
                    visit(
                        Job {
                            path,
                            upper,
                            expected,
                        },
                        info.nar_size,
                    );
                }
            }
            Ok::<_, LowerError>(())
        })
    };

    let mut found = Contents::default();
    let mut source = SqliteSource::open(&store.database(), directory.clone())?;
    let mut total = 0;
    each(&mut source, &mut |_, size| {
        found.of += 1;
        total = u64::saturating_add(total, u64::try_from(size).unwrap_or(0));
    })?;
    progress.total.store(total, Ordering::Relaxed);

    let hashed = AtomicU64::new(0);
    let damaged = Mutex::new(Vec::new());
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&receiver, &layers, progress, &hashed, &damaged));
        }
        let result = each(&mut source, &mut |job, _| {
            // Workers end only after the sender is gone.
            let _ = sender.send(job);
        });
        drop(sender);
        result
    })?;
    found.objects = hashed.into_inner();
    found.interrupted = progress.stop.load(Ordering::Relaxed);
    found.damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    found
        .damaged
        .sort_by(|one, other| one.path.cmp(&other.path));
    // Somebody may have collected it, or added it again, meanwhile.
    let mut now = SqliteSource::open(&store.database(), directory)?;
    let mut still = Vec::new();
    for item in found.damaged.drain(..) {
        now.ask(&item.path)?;
        if now
            .answer()?
            .is_some_and(|info| info.nar_hash == item.expected)
        {
            still.push(item);
        }
    }
    found.damaged = still;
    Ok(found)
}

fn work(
    jobs: &Mutex<Receiver<Job>>,
    layers: &[OwnedFd; 2],
    progress: &Progress,
    hashed: &AtomicU64,
    damaged: &Mutex<Vec<Damaged>>,
) {
    let go_on = |bytes| {
        progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        !progress.stop.load(Ordering::Relaxed)
    };
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if !go_on(0) {
            // The queue is emptied, so that its other end does not wait.
            continue;
        }
        let layer = &layers[usize::from(!job.upper)];
        let actual = nar::hash(layer.as_fd(), job.path.as_str(), &go_on);
        if !go_on(0) {
            continue;
        }
        hashed.fetch_add(1, Ordering::Relaxed);
        let actual = match actual {
            Ok((hash, _)) if hash == job.expected => continue,
            Ok((hash, _)) => Ok(hash),
            Err(error) => Err(error.to_string()),
        };
        let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.push(Damaged {
            path: job.path,
            upper: job.upper,
            expected: job.expected,
            actual,
        });
    }
}

fn open(path: &Path) -> Result<OwnedFd, AcrossError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| AcrossError::Layer {
        path: show_path(path).into_owned(),
        source: error.into(),
    })
}
