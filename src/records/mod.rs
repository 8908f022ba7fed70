//! What overstore remembers: a record of each mount under `/run`, and one small file a store in its
//! state directory. Losing either loses nothing else.

pub(crate) mod atomic_file;
pub(crate) mod layer_mark;
pub(crate) mod mount_record;
mod store_memory;
mod warmed_paths;

pub(crate) use store_memory::{Collected, LayerMemory, LowerMemory, Memory, Mounted};
