//! The progress of hashing objects.

use super::Failure;
use super::long_work::{LongWork, OnInterrupt, Unit};
use crate::counts::Counts;

/// Has `hash` hash objects, with a progress bar; an interrupt ends it early.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn with_hashing<T>(json: bool, hash: impl FnOnce(&Counts) -> T) -> Result<T, Failure> {
    let work = LongWork::begin(OnInterrupt::Stop, json)?;
    work.counted("hashing objects", Unit::Bytes, 0);
    Ok(hash(work.counts()))
}
