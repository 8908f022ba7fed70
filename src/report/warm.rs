use schemars::JsonSchema;
use serde::Serialize;

use crate::escape::counted;
use crate::warm::Warmed;

/// The result of `warm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WarmReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// Paths whose metadata was copied.
    pub copied: u64,
    /// Paths looked at whose metadata was there already.
    pub present: u64,
    /// References copied.
    pub references: u64,
    /// Outputs of derivations copied.
    pub outputs: u64,
    /// Roots found with `--roots` that are not valid in the lower store.
    pub invalid: u64,
    /// Paths that were not copied since their metadata below is wrong, or that of something they
    /// refer to.
    pub left_out: u64,
    /// What is wrong with the first of those.
    pub wrong: Vec<String>,
    /// Roots that now keep what was warmed (`--keep`).
    pub kept: u64,
    /// Roots removed (`--forget`).
    pub forgotten: u64,
    /// Whether that was all there was to do.
    #[serde(skip)]
    pub forgets: bool,
}

impl WarmReport {
    /// A report of nothing so far.
    pub(crate) fn new(store: &str) -> Self {
        Self {
            version: 1,
            store: store.to_owned(),
            copied: 0,
            present: 0,
            references: 0,
            outputs: 0,
            invalid: 0,
            left_out: 0,
            wrong: Vec::new(),
            kept: 0,
            forgotten: 0,
            forgets: false,
        }
    }

    /// Adds what one copy did.
    pub(crate) fn add(&mut self, warmed: &Warmed) {
        self.copied += warmed.copied;
        self.present += warmed.present;
        self.references += warmed.references;
        self.outputs += warmed.outputs;
        self.invalid += warmed.invalid;
        self.left_out += warmed.left_out.count;
        self.wrong.extend_from_slice(&warmed.left_out.first);
    }

    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    /// What was copied, in words.
    pub(crate) fn summary(&self) -> String {
        let Self {
            copied,
            references,
            outputs,
            present,
            ..
        } = self;
        format!(
            "{} copied ({}, {}); {present} already present",
            counted(*copied, "path"),
            counted(*references, "reference"),
            counted(*outputs, "output")
        )
    }

    fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        if self.forgets {
            return writeln!(out, "{} removed", counted(self.forgotten, "root"));
        }
        writeln!(out, "{}", self.summary())?;
        if self.invalid > 0 {
            writeln!(
                out,
                "{} left out: not valid below",
                counted(self.invalid, "root")
            )?;
        }
        if self.left_out > 0 {
            let paths = counted(self.left_out, "path");
            writeln!(out, "{paths} left out, whose metadata below is wrong:")?;
            for wrong in &self.wrong {
                writeln!(out, "  {wrong}")?;
            }
        }
        if self.kept > 0 {
            writeln!(out, "kept by {}", counted(self.kept, "root"))?;
        }
        Ok(())
    }
}
