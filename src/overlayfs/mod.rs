//! What OverlayFS reads and prints: option text, `mountinfo`. Pure.

pub(crate) mod defaults;
pub(crate) mod markers;
pub(crate) mod mountinfo;
pub(crate) mod octal;
pub(crate) mod options;
