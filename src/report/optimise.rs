use std::io::Write;

use indicatif::BinaryBytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::{LeftReport, ObjectReport, Outcome};
use crate::escape::counted;

/// The result of `optimise`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OptimiseReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// How it went.
    pub outcome: Outcome,
    /// Whether it only says what would be done (`--dry-run`).
    pub dry_run: bool,
    /// Whether the copies were not compared (`--trust-databases`).
    pub trust_databases: bool,
    /// The objects whose upper copies were removed, or would be.
    pub objects: Vec<ObjectReport>,
    /// Bytes that these took up in the upper layer.
    pub bytes: u64,
    /// Objects that are different in the two layers, and stay in both.
    pub different: Vec<LeftReport>,
    /// Objects whose upper copies are in use: a later run removes them.
    pub left: Vec<LeftReport>,
    /// Objects whose upper copies were to be removed, and are back in the upper layer, since the lower
    /// store has no equal ones any more.
    pub restored: Vec<String>,
    /// Bytes free on the upper layer's file system at the end.
    pub free: u64,
}

impl OptimiseReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.dry_run {
            for object in &self.objects {
                writeln!(out, "{}  {}", object.path, BinaryBytes(object.bytes))?;
            }
        }
        let verb = match self.dry_run {
            true => "would remove",
            false => "removed",
        };
        writeln!(
            out,
            "{verb} the upper copies of {}, {}; {} are free",
            counted(self.objects.len() as u64, "object"),
            BinaryBytes(self.bytes),
            BinaryBytes(self.free)
        )?;
        for different in &self.different {
            writeln!(
                out,
                "both copies of {} stay: {}",
                different.path, different.reason
            )?;
        }
        for left in &self.left {
            writeln!(out, "left for a later run {}: {}", left.path, left.reason)?;
        }
        for path in &self.restored {
            writeln!(
                out,
                "put back {path}: the lower store has no equal copy any more"
            )?;
        }
        Ok(())
    }
}
