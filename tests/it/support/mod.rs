//! What the tests share: real Nix in Debian trees ([`Tree`]), a private machine for one test
//! ([`World`]), proof that a directory was left alone ([`Snapshot`]), system-call traces and kills at
//! any step ([`trace`], [`Again`]), races that are won each time ([`held`]), directories that say what is expected ([`assert_expected`]), the one way to
//! wait ([`wait_until`]), and the one way to be skipped ([`skip`]).
//!
//! Each test that needs root or real Nix begins with
//!
//! ```ignore
//! let Some(world) = World::trixie() else { return };
//! ```
//!
//! which reports the test as skipped where that is not to be had. Tests run side by side, each in
//! its own World. `tests/setup` makes the trees beforehand; without it the first test does.

mod again;
mod example;
mod expected;
mod held;
mod lower;
pub mod owner;
mod skip;
mod snapshot;
mod soak;
mod store_up;
pub mod trace;
mod tree;
mod wait;
mod world;

pub use again::{Again, Disturbance, assert_says_why};
pub use example::Example;
pub use expected::{Content, Files, assert_expected, cases, data, files};
pub use lower::LowerStore;
pub use skip::skip;
pub use snapshot::Snapshot;
pub use soak::{sample, soaks};
pub use store_up::{Running, StoreUp, base_name};
pub use tree::Tree;
pub use wait::wait_until;
pub use world::{Daemon, FEATURES, Outcome, Run, World, end};
