//! The time of day.

/// The time, in seconds since 1970; 0 for a clock that is before that.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
