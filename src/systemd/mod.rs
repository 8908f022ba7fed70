//! What systemd is told: units, made by a generator, and messages while a command runs.

pub mod generator;
pub mod journal;
pub mod notify;
pub mod text;
pub mod units;
