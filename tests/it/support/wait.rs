//! Waiting for the thing itself.

use std::time::{Duration, Instant};

/// Only what would never end is given up: no verdict depends on how fast the machine is.
const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until the condition holds. `what` is said when it never does.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
