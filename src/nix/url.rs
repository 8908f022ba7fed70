//! Store URLs.

/// A store as Nix refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreReference;
