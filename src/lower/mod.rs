//! Lower metadata sources: how the metadata of a lower store is read.
//!
//! Everything here is read-only by construction: no function of this module
//! writes to a lower store, takes a lock on it, or opens one of its files for
//! writing.

pub mod daemon;
