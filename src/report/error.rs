//! What a command tells that came to no result.

use schemars::JsonSchema;
use serde::Serialize;

use super::Outcome;
use crate::config::Mistake;
use crate::remedy::Remedy;

/// Why a command came to no result, as JSON in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ErrorReport {
    /// The version of this format: 1.
    pub version: u32,
    /// `not-as-described` (exit code 1), `refused` (2) or `failed` (3).
    pub outcome: Outcome,
    /// Why, in words.
    pub failure: String,
    /// What fixes that.
    #[serde(flatten)]
    pub remedy: Option<Remedy>,
    /// Everything that is wrong with the configuration file, if that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
}

impl ErrorReport {
    /// Prints it to standard output, as JSON.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        super::print(self, true, |_| Ok(()))
    }
}
