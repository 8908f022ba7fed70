//! The kernel's facts: paths walked safely, which file something is, locks, processes, other programs,
//! namespaces, users.

pub(crate) mod clock;
pub(crate) mod descent;
pub(crate) mod descriptors;
pub(crate) mod exhaustion;
pub(crate) mod file_handle;
pub(crate) mod file_identity;
pub(crate) mod forbidden;
pub(crate) mod held_paths;
pub(crate) mod id_map;
pub(crate) mod kernel_log;
pub(crate) mod locks;
pub(crate) mod mount_log;
pub(crate) mod mount_points;
pub(crate) mod namespaces;
pub(crate) mod new_directories;
pub(crate) mod processes;
pub(crate) mod processors;
pub(crate) mod programs;
pub(crate) mod regular_file;
pub(crate) mod removal;
pub(crate) mod root;
pub(crate) mod safe_path;
pub(crate) mod sync;
pub(crate) mod tree;
pub(crate) mod users;
