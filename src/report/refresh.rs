use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;

use super::{OptimiseReport, Outcome};
use crate::check::Finding;

/// The result of `refresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RefreshReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// How it went.
    pub outcome: Outcome,
    /// Whether it only says what would be done (`--dry-run`).
    pub dry_run: bool,
    /// The generation that was in use before. Absent where the lower store is of no publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// The current generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// Whether the store uses the current generation now.
    pub switched: bool,
    /// Whether the overlay was remounted.
    pub remounted: bool,
    /// How many rows of the upper database were compared with the current generation.
    pub compared: u64,
    /// What keeps the store from using it.
    pub findings: Vec<Finding>,
    /// What was optimised afterwards, where the description has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimised: Option<OptimiseReport>,
}

impl RefreshReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let name = &self.store;
        let columns = super::wrap::columns(std::io::stdout());
        for finding in &self.findings {
            super::text::write_finding(out, finding, columns)?;
        }
        let (Some(before), Some(current)) = (self.before, self.current) else {
            match self.dry_run {
                true => writeln!(out, "{name}: would be remounted")?,
                false => writeln!(out, "{name}: remounted")?,
            }
            return self.write_optimised(out);
        };
        if before == current {
            return writeln!(
                out,
                "{name}: generation {current} is in use, and is the current one"
            );
        }
        if !self.findings.is_empty() {
            return writeln!(
                out,
                "{name}: generation {before} stays in use; the current one, {current}, cannot be used"
            );
        }
        let rows = match self.compared {
            1 => "1 row compared".to_owned(),
            rows => format!("{rows} rows compared"),
        };
        match self.dry_run {
            true => writeln!(out, "{name}: generation {current} would be used ({rows})")?,
            false => writeln!(out, "{name}: generation {current} is in use ({rows})")?,
        }
        self.write_optimised(out)
    }

    fn write_optimised(&self, out: &mut dyn Write) -> std::io::Result<()> {
        self.optimised.as_ref().map_or(Ok(()), |it| it.write(out))
    }
}
