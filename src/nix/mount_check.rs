//! Nix's own mount check, predicted.

/// What Nix's check will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Accepted,
}
