//! Layers against databases: what only one of them has, what the bytes are, what it all takes, and
//! what tells one lower store from another.

mod contents;
mod copies;
mod fingerprint;
mod layers;
mod needs;
mod objects;
mod sizes;

pub use contents::contents;
pub(crate) use contents::{Contents, Damaged, Job, Layer, hash_each};
pub(crate) use copies::Comparer;
pub(crate) use fingerprint::Difference;
pub use fingerprint::Identity;
pub use layers::across;
pub(crate) use layers::{Across, AcrossError, Several};
pub(crate) use layers::{Missing, Odd};
pub(crate) use needs::{Among, Lacking, Needs, needs};
pub(crate) use objects::Below as LowerObjects;
pub(crate) use objects::Objects;
pub(crate) use objects::{Held, Kind as HeldKind, held, objects};
pub(crate) use sizes::sizes;
