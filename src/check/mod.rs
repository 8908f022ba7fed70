//! Rules: a described store and the machine as observed, to findings. Pure: no file system, no
//! clock, no environment. One file an area.

mod code;
pub mod description;
mod finding;

pub use code::Code;
pub use finding::{Finding, Part, Severity};
