//! What Nix makes of a store: URLs, store paths, the database, its mount check. Pure.

pub mod hash;
pub mod layout;
pub mod mount_check;
mod percent;
pub mod schema;
pub mod store_path;
pub mod url;
pub mod version;
