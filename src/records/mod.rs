//! What overstore remembers: a record of each mount under `/run`, and one small file a store in its
//! state directory. Losing either loses nothing else. And the files under `/run` that are locked.

pub(crate) mod atomic_file;
pub(crate) mod atomic_link;
pub(crate) mod deleted_paths;
pub(crate) mod layer_mark;
mod lock_file;
pub(crate) mod mount_record;
mod store_memory;
mod warmed_paths;

pub(crate) use lock_file::LockFile;
pub(crate) use store_memory::{Collected, Compared, LayerMemory, LowerMemory, Memory, Mounted};
