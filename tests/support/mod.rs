//! What the tests share: real Nix in Debian trees ([`Tree`]), a private machine for one test
//! ([`World`]), proof that a directory was left alone ([`Snapshot`]), and system-call traces and
//! kills at any step ([`trace`]).
//!
//! A test file says `mod support;` and begins each test that needs root or real Nix with
//!
//! ```ignore
//! let Some(world) = World::trixie() else { return };
//! ```
//!
//! which reports the test as skipped where that is not to be had. Tests run side by side, each in
//! its own World. `tests/setup` makes the trees beforehand; without it the first test does.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses a part of this"
)]

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
