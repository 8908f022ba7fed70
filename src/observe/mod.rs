//! What is there: everything that looks at the machine, and nothing that changes it.

mod environment;
mod facts;
pub mod record;

pub use environment::{environment, environment_of_target, hook};
pub use facts::*;
