//! What systemd is told.

pub mod notify;
