//! What `overstore check --list` tells.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{Code, Declaration, StopsUp};

/// Everything that can be found, in the order of the manual.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CodesReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The codes of findings, with what does not depend on the store.
    pub codes: Vec<Declaration>,
}

impl CodesReport {
    /// All that can be found.
    pub(crate) fn new() -> CodesReport {
        CodesReport {
            version: 1,
            codes: Code::ALL.iter().map(|code| code.declaration()).collect(),
        }
    }

    /// Prints it to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for declared in &self.codes {
            writeln!(out, "{} ({})", declared.code, kind(declared))?;
            writeln!(out, "    {}", declared.meaning)?;
        }
        Ok(())
    }
}

/// Severities, parts, and whether `up` stops, in words.
fn kind(declared: &Declaration) -> String {
    let severities: Vec<&str> = declared.severities.iter().map(|it| it.as_str()).collect();
    let parts: Vec<&str> = declared.parts.iter().map(|it| it.as_str()).collect();
    let stops_up = match declared.stops_up {
        StopsUp::Never => "",
        StopsUp::UnlessMade => "; stops `up` unless `up` makes it",
        StopsUp::Always => "; stops `up`",
    };
    format!(
        "{}; {}{stops_up}",
        severities.join(" or "),
        parts.join(", ")
    )
}
