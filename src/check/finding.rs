//! The one type for everything that can be wrong with a store.

use schemars::JsonSchema;
use serde::Serialize;

use super::Code;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What it is: a stable name with a section of its own in the manual.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The part of the store it belongs to.
    pub part: Part,
    /// What it is about: a path, a row. Not printable bytes are shown escaped.
    pub subject: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub actual: String,
    /// What mends it: a command or a setting.
    pub remedy: String,
}

/// How bad a finding is. Ordered from the least to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It works, and will hurt.
    Warning,
    /// Nix will fail, or data can be lost.
    Error,
}

/// The parts of a store, in the order in which reports name them: from below upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The lower store: its directory and its metadata source.
    LowerStore,
    /// The upper layer.
    UpperLayer,
    /// The work directory.
    WorkDirectory,
    /// The OverlayFS mount at the merged store directory.
    Mount,
    /// The state directory and what is in it, the upper database apart.
    State,
    /// The upper database.
    UpperDatabase,
    /// The store URL and what Nix makes of it.
    Nix,
}
