//! What is there: everything that looks at the machine, and nothing that changes it.

mod facts;
pub mod record;

pub use facts::*;
