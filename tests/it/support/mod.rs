//! What the tests share: real Nix in Debian trees ([`Tree`]), a private machine for one test
//! ([`World`]), proof that a directory was left alone ([`Snapshot`]), and system-call traces and
//! kills at any step ([`trace`]).
//!
//! Each test that needs root or real Nix begins with
//!
//! ```ignore
//! let Some(world) = World::trixie() else { return };
//! ```
//!
//! which reports the test as skipped where that is not to be had. Tests run side by side, each in
//! its own World. `tests/setup` makes the trees beforehand; without it the first test does.

mod example;
mod lower;
mod snapshot;
pub mod trace;
mod tree;
mod world;

pub use example::Example;
pub use lower::LowerStore;
pub use snapshot::Snapshot;
pub use tree::{Tree, skip};
pub use world::{Daemon, FEATURES, Outcome, Run, World};
