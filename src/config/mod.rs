//! TOML to a validated [`Store`]; errors that point into the file. Pure: no file system, no
//! environment; what a store URL takes from the environment comes in as a value.

mod store;

pub use store::{Lower, MetadataSource, Setting, Store};
