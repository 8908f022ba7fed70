//! What the fuzz targets share: hostile databases, and stores to put them in.

mod image;
mod store;

pub use image::{Files, Image};
pub use store::{NAMES, Scratch, path};
