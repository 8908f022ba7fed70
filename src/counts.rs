//! How far long work is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far long work is: counted by those who do it, and looked at from another thread. Of what is
/// counted, they know best.
#[derive(Debug, Default)]
pub struct Counts {
    /// How much is done.
    pub done: AtomicU64,
    /// How much there is to do, about; 0 until that is known.
    pub of: AtomicU64,
    /// Set to end the work early, where it looks at that.
    pub stop: AtomicBool,
}

impl Counts {
    /// Another piece of work begins, of so much; 0 where that is not known yet.
    pub(crate) fn begin(&self, of: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    /// There is so much more to do.
    pub(crate) fn expect(&self, more: u64) {
        self.of.fetch_add(more, Ordering::Relaxed);
    }

    /// Whether the work is to end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How much is done, and of how much.
    pub(crate) fn now(&self) -> (u64, u64) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (load(&self.done), load(&self.of))
    }
}
