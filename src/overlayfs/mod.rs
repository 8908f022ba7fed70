//! What OverlayFS reads and prints: option text, `mountinfo`. Pure.

pub mod defaults;
pub mod mountinfo;
pub(crate) mod octal;
pub mod options;
