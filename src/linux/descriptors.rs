//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the rest of a command may need meanwhile.
const OTHERS: u64 = 256;

/// Raises the limit as far as it takes to have so many files open at once, or as far as it can be: gives
/// how many can be, 64 at least. What this process starts later has the raised limit too.
pub(crate) fn allow(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let needed = (wanted as u64).saturating_add(OTHERS);
    let most = limit.maximum.unwrap_or(u64::MAX).min(needed);
    let mut current = limit.current.unwrap_or(u64::MAX);
    if current < most {
        let raised = Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            current = most;
        }
    }
    let free = current.saturating_sub(OTHERS).max(64);
    usize::try_from(free).unwrap_or(wanted).min(wanted)
}
