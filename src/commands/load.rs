//! From the STORE argument to a validated description.

use crate::config::Store;
use crate::system::System;

/// A description and the machine it is for.
#[derive(Debug)]
pub struct Loaded {
    /// The description.
    pub store: Store,
    /// The machine.
    pub system: System,
}
