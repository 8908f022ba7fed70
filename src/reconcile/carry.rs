//! Carrying: objects copied from an old store into the upper layer.
//!
//! Each is made under a draft in the work directory, which is on the upper layer's file system, and
//! hashed meanwhile. Those that are what their rows say are on the disk before they are renamed to
//! where they belong: whatever is there of an object is all of it, also after a power cut.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::ReconcileError;
use super::old::OldStores;
use crate::collect::{Aside, Kind, Layers};
use crate::linux::{removal, sync};
use crate::nix::hash::render_sha256;
use crate::nix::nar::{self, CopyError};
use crate::nix::store_path::StorePath;
use crate::overlayfs::markers::{Marks, make_opaque};

/// How many objects are made before they are put in their places, and how many bytes at most where that
/// is more than one: what is told in between keeps a service manager waiting.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 1 << 30;
/// More threads than this do not make a disk faster.
const MOST_THREADS: usize = 4;

/// An object to carry.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its node.
    pub node: u32,
    /// Its path.
    pub path: StorePath,
    /// The hash in its row.
    pub hash: [u8; 32],
    /// The size of its NAR in its row, in bytes; 0 if unknown.
    pub size: u64,
    /// What it takes up in the old store, in bytes.
    pub bytes: u64,
}

/// One that no old store has as its row says.
#[derive(Debug)]
pub(super) struct NotCarried {
    /// Its node.
    pub node: u32,
    /// Why.
    pub why: String,
}

/// What carries.
#[derive(Debug)]
pub(super) struct Carrier<'a> {
    /// The old stores.
    pub old: &'a OldStores,
    /// The layers.
    pub layers: &'a Layers,
    /// Where drafts are made.
    pub aside: &'a Aside,
    /// Whose extended attributes the overlay's marks are in.
    pub marks: Marks,
}

impl Carrier<'_> {
    /// Carries all of these: those that it could not. `tell` hears of each that is made.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(super) fn carry(
        &self,
        wanted: &[Wanted],
        tell: &mut dyn FnMut(u64),
    ) -> Result<Vec<NotCarried>, ReconcileError> {
        let mut failed = Vec::new();
        for batch in batches(wanted) {
            let before = failed.len();
            let made = self.make(batch, &mut failed)?;
            let upper = self.layers.upper.fd();
            let error = ReconcileError::write(self.layers.upper.path());
            rustix::fs::syncfs(&upper).map_err(|errno| error(errno.into()))?;
            for path in made {
                self.put(path).map_err(ReconcileError::write(
                    &self.layers.upper.path().join(path.as_str()),
                ))?;
            }
            let error = ReconcileError::write(self.layers.upper.path());
            sync::sync(&upper).map_err(|errno| error(errno.into()))?;
            tell((batch.len() - (failed.len() - before)) as u64);
        }
        Ok(failed)
    }

    /// Makes drafts: of which objects.
    fn make<'w>(
        &self,
        batch: &'w [Wanted],
        failed: &mut Vec<NotCarried>,
    ) -> Result<Vec<&'w StorePath>, ReconcileError> {
        let next = Mutex::new(batch.iter());
        let work = || {
            let (mut made, mut failed) = (Vec::new(), Vec::new());
            loop {
                let wanted = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(wanted) = wanted else {
                    return Ok((made, failed));
                };
                match self.draft(wanted)? {
                    Ok(()) => made.push(&wanted.path),
                    Err(why) => failed.push(NotCarried {
                        node: wanted.node,
                        why,
                    }),
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MOST_THREADS).min(batch.len()).max(1);
        thread::scope(|scope| {
            let mut running = Vec::new();
            for _ in 1..threads {
                let thread = thread::Builder::new().spawn_scoped(scope, work);
                running.push(thread.map_err(ReconcileError::Thread)?);
            }
            let mut results = vec![work()];
            for thread in running {
                let ended = io::Error::other("it ended early");
                results.push(thread.join().unwrap_or(Err(ReconcileError::Thread(ended))));
            }
            let mut all = Vec::new();
            for result in results {
                let (made, not_made) = result?;
                all.extend(made);
                failed.extend(not_made);
            }
            Ok(all)
        })
    }

    /// Makes the draft of one object, from the first old store that has it as its row says; or why
    /// there is none.
    fn draft(&self, wanted: &Wanted) -> Result<Result<(), String>, ReconcileError> {
        let drafts = self.aside.carried();
        let mut why = "no old store has it".to_owned();
        for (place, old) in self.old.with(&wanted.path) {
            let write = || ReconcileError::write(&drafts.path().join(wanted.path.as_str()));
            match self.copy(wanted, old, drafts.fd().as_fd()) {
                Ok(()) => return Ok(Ok(())),
                Err(Failed::Write(error)) => {
                    self.remove(&wanted.path).map_err(write())?;
                    return Err(write()(error));
                }
                Err(Failed::Wrong(what)) => {
                    why = format!("in {}: {what}", crate::escape::show_path(place));
                    self.remove(&wanted.path).map_err(write())?;
                }
            }
        }
        Ok(Err(why))
    }

    fn copy(
        &self,
        wanted: &Wanted,
        old: BorrowedFd<'_>,
        drafts: BorrowedFd<'_>,
    ) -> Result<(), Failed> {
        let name = wanted.path.as_str();
        let limit = match wanted.size {
            // Unknown: a NAR is larger than what it holds by its names.
            0 => wanted.bytes.saturating_mul(2).saturating_add(1 << 20),
            size => size,
        };
        match nar::copy(old, name, drafts, limit, &|_| true) {
            Ok((hash, _)) if hash == wanted.hash => {}
            Ok((hash, _)) => {
                let (found, expected) = (render_sha256(&hash), render_sha256(&wanted.hash));
                return Err(Failed::Wrong(format!(
                    "it has the hash {found}, and its row says {expected}"
                )));
            }
            Err(CopyError::Write(error)) => return Err(Failed::Write(error)),
            Err(CopyError::Read(error)) if is_of_this_machine(&error) => {
                return Err(Failed::Write(error));
            }
            Err(CopyError::Read(error)) => return Err(Failed::Wrong(error.to_string())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(drafts, name, flags, Mode::empty()) {
            Ok(directory) => make_opaque(&directory, self.marks).map_err(Failed::errno),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(Failed::errno(errno)),
        }
    }

    /// Removes a draft.
    fn remove(&self, path: &StorePath) -> io::Result<()> {
        let drafts = self.aside.carried();
        match unlinkat(drafts.fd(), path.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                removal::remove_tree(drafts.fd(), path.as_str().as_ref())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Puts a draft where it belongs. A whiteout of its name hides nothing that is valid.
    fn put(&self, path: &StorePath) -> io::Result<()> {
        let name = path.as_str();
        let upper = &self.layers.upper;
        let look = upper
            .look(name)
            .map_err(|error| io::Error::other(error.to_string()))?;
        if matches!(look, Some((Kind::Whiteout, _))) {
            unlinkat(upper.fd(), name, AtFlags::empty())?;
        }
        let drafts = self.aside.carried();
        match renameat_with(drafts.fd(), name, upper.fd(), name, RenameFlags::NOREPLACE) {
            // Somebody has put it there meanwhile.
            Err(Errno::EXIST | Errno::NOTEMPTY) => self.remove(path),
            renamed => Ok(renamed?),
        }
    }
}

/// Cut into what is made at once.
fn batches(wanted: &[Wanted]) -> impl Iterator<Item = &[Wanted]> {
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let mut bytes = 0_u64;
        let fits = rest.iter().take(BATCH).take_while(|it| {
            bytes = bytes.saturating_add(it.bytes);
            bytes <= BATCH_BYTES
        });
        let (batch, left) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = left;
        (!batch.is_empty()).then_some(batch)
    })
}

enum Failed {
    /// The old store does not have it as it should be.
    Wrong(String),
    /// It cannot be written, or this machine has no more of what both sides need.
    Write(io::Error),
}

impl Failed {
    fn errno(errno: Errno) -> Self {
        Self::Write(errno.into())
    }
}

/// Whether an error says nothing of what was read, so that no other old store helps.
fn is_of_this_machine(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_end_with_their_bytes_and_their_number() {
        let of = |sizes: &[u64]| {
            let wanted = |&bytes| Wanted {
                node: 0,
                path: StorePath::parse(b"00000000000000000000000000000000-a").unwrap(),
                hash: [0; 32],
                size: 0,
                bytes,
            };
            let all: Vec<_> = sizes.iter().map(wanted).collect();
            batches(&all).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [0; 0]);
        assert_eq!(of(&[1, 2, 3]), [3]);
        assert_eq!(of(&[u64::MAX, BATCH_BYTES, 1, BATCH_BYTES - 1]), [1, 1, 2]);
        assert_eq!(of(&[1; BATCH + 1]), [BATCH, 1]);
    }
}
