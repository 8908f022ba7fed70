//! What systemd is told: units, made by a generator, and messages while a command runs.

pub(crate) mod generator;
pub(crate) mod journal;
pub(crate) mod notify;
pub(crate) mod output;
pub(crate) mod publications;
pub(crate) mod text;
pub(crate) mod units;
