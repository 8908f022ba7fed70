//! Collecting the garbage of the upper layer: what no root needs.
//!
//! Nix's own collector mostly fails over a local-overlay store, and lists the merged directory, so
//! that its cost is that of the lower store. Here the garbage is chosen in the upper database
//! ([`choice`], [`graph`]), from roots that are read as Nix reads them and from those that it does not
//! see ([`roots`], [`processes`]); and Nix deletes it, path by path ([`nix`]), after it has looked at
//! roots, temporary roots and locks itself. So a wrong choice is refused, and loses nothing.
//!
//! Objects in both layers are never given to Nix: it would delete them behind OverlayFS's back. They
//! are for `optimise`; a collection lists them and leaves them.

mod absent;
mod aside;
mod choice;
mod copies;
mod database;
mod error;
mod generations;
mod graph;
mod layers;
mod leftovers;
mod limits;
mod nix;
mod optimise;
mod processes;
mod root;
mod roots;
mod run;
mod space;
mod why;

pub(crate) use absent::Absent;
pub(crate) use aside::Aside;
pub(crate) use choice::{Choice, Chooser, Garbage, Limits};
pub(crate) use database::{Keep, UpperRows};
pub(crate) use error::CollectError;
pub(crate) use generations::delete as delete_generations;
pub(crate) use graph::{Edges, Nodes};
pub(crate) use layers::{Kind, Layer, Layers};
pub(crate) use leftovers::Removed;
pub(crate) use nix::{Programs, Settings, keep, nix_config, url as nix_url};
pub(crate) use optimise::{Optimised, Optimiser, Step};
pub(crate) use root::{RootKind, Roots};
pub(crate) use run::{Collected, Collector, Incomplete, Options, Progress};
pub(crate) use why::{Why, why};
