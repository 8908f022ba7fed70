//! The progress of hashing objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Failure, progress};
use crate::compare::Progress;

/// Has `hash` hash objects, with a progress bar; an interrupt ends it early.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn with_hashing<T>(hash: impl FnOnce(&Progress) -> T) -> Result<T, Failure> {
    let machine = |error| Failure::doing("cannot hash the objects", error);
    let hashed = Progress::default();
    let interrupted = Arc::new(AtomicBool::new(false));
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM].map(|signal| {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(machine)
    });
    let bar = progress::bytes();
    let done = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        let watching = thread::Builder::new().spawn_scoped(scope, || {
            while !done.load(Ordering::Relaxed) {
                if interrupted.load(Ordering::Relaxed) {
                    hashed.stop.store(true, Ordering::Relaxed);
                }
                bar.set_length(hashed.total.load(Ordering::Relaxed));
                bar.set_position(hashed.bytes.load(Ordering::Relaxed));
                thread::sleep(Duration::from_millis(50));
            }
        });
        // Without it, an interrupt would not end it.
        watching.map_err(|error| Failure::doing("cannot start a thread", error))?;
        let found = hash(&hashed);
        done.store(true, Ordering::Relaxed);
        Ok::<_, Failure>(found)
    })?;
    bar.finish_and_clear();
    for signal in signals {
        signal_hook::low_level::unregister(signal?);
    }
    Ok(found)
}
