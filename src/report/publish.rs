use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;

use super::Outcome;
use crate::check::Finding;
use crate::escape::counted;

/// The result of `publish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PublishReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The publication's name.
    pub publication: String,
    /// How it went.
    pub outcome: Outcome,
    /// The number of the generation that was made, if one was.
    pub made: Option<u64>,
    /// The number of the current generation, if there is one.
    pub current: Option<u64>,
    /// The generations that are there, the oldest first.
    pub generations: Vec<PublishedReport>,
    /// The numbers of those that were retired.
    pub retired: Vec<u64>,
    /// The numbers of those whose databases and roots were removed.
    pub removed: Vec<u64>,
    /// Why nothing was published: what is wrong with the live store.
    pub findings: Vec<Finding>,
}

/// A generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PublishedReport {
    /// Its number.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Valid paths in it.
    pub paths: u64,
    /// Roots in the live store that keep it.
    pub roots: u64,
    /// Paths that were not in the generation before it.
    pub added: u64,
    /// Paths that were in the generation before it and are not in this one.
    pub left: u64,
    /// Paths that have other contents than in the generation before it.
    pub changed: u64,
    /// When its database and roots may go, if it is retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_until: Option<u64>,
}

impl PublishReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let name = &self.publication;
        let columns = super::wrap::columns(std::io::stdout());
        for finding in &self.findings {
            super::text::write_finding(out, finding, columns)?;
        }
        if !self.findings.is_empty() {
            return writeln!(out, "{name}: incomplete, so nothing was published");
        }
        for retired in &self.retired {
            writeln!(out, "{name}: generation {retired} is retired")?;
        }
        for removed in &self.removed {
            writeln!(out, "{name}: generation {removed} is removed")?;
        }
        let made = |it: &&PublishedReport| Some(it.number) == self.made;
        if let Some(made) = self.generations.iter().find(made) {
            return writeln!(
                out,
                "{name}: generation {} is current: {} ({} new, {} left, {} changed), kept by {}",
                made.number,
                counted(made.paths, "path"),
                made.added,
                made.left,
                made.changed,
                counted(made.roots, "root")
            );
        }
        for generation in &self.generations {
            let state = match (generation.retired_until, self.current) {
                (Some(_), _) => ", retired",
                (None, Some(current)) if current == generation.number => ", current",
                (None, _) => "",
            };
            writeln!(
                out,
                "{name}: generation {}{state}: {}",
                generation.number,
                counted(generation.paths, "path")
            )?;
        }
        if self.generations.is_empty() {
            writeln!(out, "{name}: no generations")?;
        }
        Ok(())
    }
}

/// The result of `publish --check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LowerCheckReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The directory that was looked at.
    pub directory: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was missing and was made (`--prepare`).
    pub made: Vec<String>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl LowerCheckReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for made in &self.made {
            writeln!(out, "+ make {made}")?;
        }
        let columns = super::wrap::columns(std::io::stdout());
        for finding in &self.findings {
            super::text::write_finding(out, finding, columns)?;
        }
        let directory = &self.directory;
        match self.outcome {
            Outcome::NotAsDescribed => writeln!(out, "{directory}: not fit to be a lower store"),
            _ => writeln!(out, "{directory}: fit to be a lower store"),
        }
    }
}

/// The result of `publish --image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ImageReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The file that was to be made.
    pub file: String,
    /// What it is: `squashfs`, `erofs`, or `state` (a directory).
    pub kind: String,
    /// How it went.
    pub outcome: Outcome,
    /// Valid paths in it.
    pub paths: u64,
    /// Its size in bytes; of `state`, that of the database.
    pub bytes: u64,
    /// Whether there was an image before.
    pub replaced: bool,
    /// Why none was made: what is wrong with the store.
    pub findings: Vec<Finding>,
}

impl ImageReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let columns = super::wrap::columns(std::io::stdout());
        for finding in &self.findings {
            super::text::write_finding(out, finding, columns)?;
        }
        let (file, kind, paths) = (&self.file, &self.kind, self.paths);
        if !self.findings.is_empty() {
            return writeln!(out, "{file}: incomplete, so nothing was made");
        }
        let again = if self.replaced {
            ", in place of an older one"
        } else {
            ""
        };
        let size = indicatif::BinaryBytes(self.bytes);
        writeln!(
            out,
            "{file}: {kind} of {}, {size}{again}",
            counted(paths, "path")
        )
    }
}
