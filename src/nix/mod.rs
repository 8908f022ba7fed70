//! What Nix makes of a store: URLs, store paths, metadata, the database, its mount check, archives,
//! derivations, the worker protocol. Pure, but for the protocol.

pub(crate) mod derivation;
pub(crate) mod hash;
pub mod layout;
pub mod mount_check;
pub(crate) mod nar;
mod object_writer;
pub(crate) mod path_info;
pub(crate) mod path_set;
mod percent;
pub mod schema;
pub(crate) mod store_directory;
pub(crate) mod store_object;
pub(crate) mod store_path;
pub(crate) mod tar_writer;
pub mod url;
pub(crate) mod version;
pub(crate) mod worker_protocol;
