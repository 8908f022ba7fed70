use std::io::Write;

use indicatif::BinaryBytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::{LeftReport, ObjectReport, Outcome};

/// How many paths of each kind are listed for people.
const MOST_LISTED: usize = 20;

/// The result of `reconcile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ReconcileReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// How it went.
    pub outcome: Outcome,
    /// Whether it only says what would be done (`--dry-run`).
    pub dry_run: bool,
    /// Whether the store is mounted at the end. Not told by a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted: Option<bool>,
    /// Where objects are carried from: directories of old lower stores.
    pub old: Vec<String>,
    /// Paths whose rows were taken from the lower store.
    pub rows_taken: Vec<String>,
    /// How many rows have their signatures, derivers and times from below now.
    pub rows_described: u64,
    /// Objects that were carried.
    pub carried: Vec<ObjectReport>,
    /// Bytes that these take up.
    pub carried_bytes: u64,
    /// Objects that Nix has fetched from a substituter.
    pub fetched: Vec<String>,
    /// What is needed and cannot be found anywhere; in a dry run, which does not ask substituters, what
    /// no old store has.
    pub missing: Vec<MissingReport>,
    /// What depends on that, and does not work without it.
    pub depending: Vec<String>,
    /// Paths whose rows went, since the lower store lost them and nothing needs them.
    pub rows_dropped: Vec<String>,
    /// Paths whose rows went, since they were given up (`--drop-missing`).
    pub given_up: Vec<String>,
    /// Objects whose upper copies went, since the lower store has equal ones.
    pub copies_removed: Vec<ObjectReport>,
    /// Objects of the upper layer that stay where the lower store has others, which they hide.
    pub hiding: Vec<LeftReport>,
    /// Objects of the upper layer that went for those of the lower store (`--prefer-lower`).
    pub replaced: Vec<ObjectReport>,
    /// Paths whose whiteouts went.
    pub whiteouts_removed: Vec<String>,
    /// Objects of the upper layer without rows.
    pub without_rows: Vec<WithoutRowReport>,
    /// Why nothing was done, path by path: what is wrong with the lower store.
    pub refused: Vec<LeftReport>,
    /// Bytes free on the upper layer's file system at the end.
    pub free: u64,
}

/// An object that is needed and cannot be found anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct MissingReport {
    /// Its store path.
    pub path: String,
    /// What refers to it: the first few.
    pub referrers: Vec<String>,
    /// Why an old store could not help, if one has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An object of the upper layer without a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WithoutRowReport {
    /// Its store path.
    pub path: String,
    /// Bytes that it takes up.
    pub bytes: u64,
    /// Whether it hides an object that is valid in the lower store.
    pub hides: bool,
    /// Whether it was removed (`--remove-without-rows`).
    pub removed: bool,
}

impl ReconcileReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    /// What it comes to, in one line.
    pub(crate) fn summary(&self) -> String {
        let would = match self.dry_run {
            true => "would be ",
            false => "",
        };
        if !self.refused.is_empty() {
            return format!("{}: not reconciled, the lower store is wrong", self.store);
        }
        let parts = self.parts();
        match parts.is_empty() {
            true => format!("{}: fits its lower store", self.store),
            false => format!("{}: {would}{parts}", self.store),
        }
    }

    /// What was done, in a few words; nothing if that is nothing.
    pub(crate) fn parts(&self) -> String {
        let count = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let carried = format!("carried ({})", BinaryBytes(self.carried_bytes));
        let parts: Vec<String> = [
            count(self.rows_taken.len(), "rows taken from below"),
            count(self.carried.len(), &carried),
            count(self.fetched.len(), "fetched"),
            count(self.copies_removed.len(), "upper copies removed"),
            count(self.replaced.len(), "upper objects given up"),
            count(self.whiteouts_removed.len(), "whiteouts removed"),
            count(self.rows_dropped.len(), "rows dropped"),
            count(self.given_up.len(), "rows given up"),
            count(
                usize::try_from(self.rows_described).unwrap_or(usize::MAX),
                "rows described anew",
            ),
            count(self.missing.len(), "missing"),
        ]
        .into_iter()
        .flatten()
        .collect();
        parts.join(", ")
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let objects = |objects: &[ObjectReport]| -> Vec<String> {
            let text = |it: &ObjectReport| format!("{}  {}", it.path, BinaryBytes(it.bytes));
            objects.iter().map(text).collect()
        };
        let reasons = |left: &[LeftReport]| -> Vec<String> {
            let text = |it: &LeftReport| format!("{}: {}", it.path, it.reason);
            left.iter().map(text).collect()
        };
        let all = [
            ("wrong in the lower store", reasons(&self.refused)),
            ("row taken from below", self.rows_taken.clone()),
            ("carried", objects(&self.carried)),
            ("fetched", self.fetched.clone()),
            ("upper copy removed", objects(&self.copies_removed)),
            ("upper object given up", objects(&self.replaced)),
            ("whiteout removed", self.whiteouts_removed.clone()),
            ("row dropped", self.rows_dropped.clone()),
            ("row given up", self.given_up.clone()),
            ("hides another one below", reasons(&self.hiding)),
            (
                "without a row",
                self.without_rows
                    .iter()
                    .map(WithoutRowReport::text)
                    .collect(),
            ),
            (
                "missing",
                self.missing.iter().map(MissingReport::text).collect(),
            ),
            ("depends on what is missing", self.depending.clone()),
        ];
        for (what, lines) in all {
            for line in lines.iter().take(MOST_LISTED) {
                writeln!(out, "{what}: {line}")?;
            }
            if lines.len() > MOST_LISTED {
                writeln!(out, "{what}: {} more", lines.len() - MOST_LISTED)?;
            }
        }
        writeln!(out, "{}", self.summary())
    }
}

impl MissingReport {
    fn text(&self) -> String {
        let mut text = self.path.clone();
        if !self.referrers.is_empty() {
            text += &format!(", which {} need", self.referrers.join(", "));
        }
        if let Some(reason) = &self.reason {
            text += &format!(": {reason}");
        }
        text
    }
}

impl WithoutRowReport {
    fn text(&self) -> String {
        let hides = match self.hides {
            true => ", and hides the one below",
            false => "",
        };
        let removed = match self.removed {
            true => ", removed",
            false => "",
        };
        format!("{}  {}{hides}{removed}", self.path, BinaryBytes(self.bytes))
    }
}
