//! The schema of Nix's database.

/// A schema, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict;
