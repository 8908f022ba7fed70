//! What Nix makes of a store: URLs, store paths, the database, its mount check. Pure.

pub mod mount_check;
pub mod schema;
pub mod url;
