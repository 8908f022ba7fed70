//! What OverlayFS reads and prints: option text, `mountinfo`. Pure.

pub mod mountinfo;
mod octal;
pub mod options;
