//! A lower store, published by its owner: from a live store, in use by Nix, to a generation that does
//! not change.
//!
//! A generation is a state directory, as `local?real=LIVE&state=GENERATION&read-only=true` takes it: a
//! database of its own, complete and without a write-ahead log, over the live store's objects. Those
//! are shared by all generations; roots in the live store keep them from its collector.
//!
//! The order of the work is what makes it safe to kill at any moment. The live store's collector is
//! held off; the database is copied in one transaction, verified and synced under a draft's name; the
//! roots are made; the draft is renamed; only then the link `current` is exchanged, and the collector
//! let go. Removing goes the other way. What a killed run left is removed by the next.
//!
//! An image is the same in one file (`image`).

mod database;
mod error;
mod examine;
mod findings;
mod image;
mod place;
mod roots;
mod run;
mod tree;
mod verify;

pub(crate) use error::PublishError;
pub(crate) use examine::LowerStore;
pub(crate) use findings::{Verified, findings};
pub(crate) use image::{Format, Image, Made, Metadata, Origin, PACKING};
pub(crate) use run::{Publisher, Retire, Swept, Told};
pub(crate) use verify::Problems;
