//! What changes the machine: the steps of a plan, each safe to repeat.

mod plan;

pub use plan::{Plan, Step, StepReport};
