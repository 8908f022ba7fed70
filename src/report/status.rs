use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{Code, Finding, Severity};
use crate::escape::counted;
use crate::linux::clock;

use super::Outcome;

/// Where the second column begins.
const INDENT: usize = 22;

/// The result of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StatusReport {
    /// The version of this format: 1.
    pub version: u32,
    /// When `status` looked at the store, in seconds since 1970.
    pub time: u64,
    /// The store's name.
    pub store: String,
    /// The outcome: `unchanged`, or `not-as-described` if there is an error.
    pub outcome: Outcome,
    /// The command that says more of what is wrong.
    #[serde(skip)]
    pub check: String,
    /// The merged store directory.
    pub real: String,
    /// Whether an overlay is in effect there.
    pub mounted: bool,
    /// When `up` mounted it, in seconds since 1970; absent if `up` did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_since: Option<u64>,
    /// The upper layer.
    pub upper_layer: String,
    /// The work directory.
    pub workdir: String,
    /// The upper database.
    pub database: String,
    /// The lower store, as the description writes it.
    pub lower_store: String,
    /// Its kind: `database`, `daemon`, `overlay` or `ssh`.
    pub lower_kind: &'static str,
    /// The lower store directory.
    pub lower_real: String,
    /// Over a publication: the generation in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationReport>,
    /// Whether the lower store is another one than when the upper database was made; absent if that
    /// is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_changed: Option<bool>,
    /// What is in the layers and the upper database; absent if these cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Why `content` cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// How much space the objects take; only with `--sizes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizes: Option<SizesReport>,
    /// The upper layer's file system; absent if there is no upper layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystemReport>,
    /// Roots that keep what was warmed.
    pub warm_roots: u64,
    /// How many of these roots have a path without a row in the upper database.
    pub warm_roots_gone: u64,
    /// What `warm` last copied from the lower store; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmed: Option<WarmedReport>,
    /// When `refresh` last moved on to another generation; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreshed: Option<RefreshedReport>,
    /// The last collection of garbage with `gc`; null if none is known.
    pub collected: Option<CollectedReport>,
    /// What is wrong now, as far as `status` looks.
    pub now: NowReport,
}

/// The generation of a publication that a store uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GenerationReport {
    /// The directory of the publication.
    pub publication: String,
    /// Its number; null if the store has no link to one.
    pub number: Option<u64>,
    /// When it was made, in seconds since 1970; null if that cannot be read.
    pub time: Option<u64>,
    /// Until when it stays, in seconds since 1970, if it is retired.
    pub retired_until: Option<u64>,
    /// The number of the current generation; null if that cannot be read.
    pub current: Option<u64>,
    /// The generations that Nix has open; null without the permission to look.
    pub open: Option<Vec<OpenReport>>,
}

/// Open connections to a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OpenReport {
    /// The generation's number.
    pub number: u64,
    /// The processes that have its database open.
    pub processes: Vec<u32>,
}

impl GenerationReport {
    fn text(&self) -> String {
        let mut text = match (self.number, self.time) {
            (Some(number), Some(time)) => format!("{number}, made {}", ago(time)),
            (Some(number), None) => format!("{number}, which cannot be read"),
            (None, _) => "none".to_owned(),
        };
        if self.retired_until.is_some() {
            text += ", retired";
        }
        match self.current {
            Some(current) if Some(current) != self.number => {
                text += &format!("; {current} is current");
            }
            _ => {}
        }
        for open in self.open.iter().flatten() {
            let count = match open.processes.len() {
                1 => "1 process".to_owned(),
                count => format!("{count} processes"),
            };
            text += &format!("; {count} on {}", open.number);
        }
        text
    }
}

/// What is in the layers and the upper database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Content {
    /// Objects in the upper layer.
    pub objects: u64,
    /// Objects in the upper layer that the lower store has too.
    pub objects_in_both_layers: u64,
    /// Rows whose object is in the upper layer.
    pub own_rows: u64,
    /// Rows copied from the lower store.
    pub copied_rows: u64,
    /// Rows whose object is in neither layer.
    pub rows_without_object: u64,
}

/// How much space the objects in the upper layer take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SizesReport {
    /// All objects.
    pub upper_layer: u64,
    /// How much removing the objects that the lower store has too would free.
    pub in_both_layers: u64,
}

/// The upper layer's file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct FileSystemReport {
    /// Its size.
    pub size: u64,
    /// How much is free for ordinary users.
    pub free: u64,
}

/// A refresh that moved on to another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RefreshedReport {
    /// When, in seconds since 1970.
    pub time: u64,
    /// The generation's number.
    pub generation: u64,
}

/// Metadata that was copied with `warm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WarmedReport {
    /// When, in seconds since 1970.
    pub time: u64,
    /// How many of the paths asked for had a row then.
    pub paths: u64,
    /// How many of these have no row any more; null if that is not known.
    pub gone: Option<u64>,
}

/// A collection of garbage that was remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CollectedReport {
    /// When it ended, in seconds since 1970.
    pub time: u64,
    /// How many objects it deleted.
    pub objects: u64,
    /// How many bytes these took.
    pub bytes: u64,
    /// How many objects it left although nothing needs them.
    pub left: u64,
}

/// What is wrong now: the findings of `check` except for what takes long to find, each code once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct NowReport {
    /// The codes of the errors.
    pub errors: BTreeSet<Code>,
    /// The codes of the warnings.
    pub warnings: BTreeSet<Code>,
}

impl NowReport {
    /// The codes among these findings.
    pub(crate) fn of(findings: &[Finding]) -> NowReport {
        let codes = |severity| {
            let those = findings.iter().filter(|it| it.severity == severity);
            those.map(|finding| finding.code).collect()
        };
        NowReport {
            errors: codes(Severity::Error),
            warnings: codes(Severity::Warning),
        }
    }
}

/// A name, and what it is, in as many lines as that takes.
fn write_line(out: &mut dyn Write, name: &str, value: &str) -> std::io::Result<()> {
    let columns = super::wrap::columns(std::io::stdout());
    let value = super::wrap::wrap(value.split(' '), INDENT, columns);
    let value = value.replace('\n', &format!("\n{:INDENT$}", ""));
    writeln!(out, "{name:<INDENT$}{value}")
}

impl StatusReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut line = |name: &str, value: &str| write_line(out, name, value);
        line("store", &self.store)?;
        let mounted = match (self.mounted, self.mounted_since) {
            (false, _) => "not mounted".to_owned(),
            (true, None) => "mounted".to_owned(),
            (true, Some(time)) => format!("mounted {}", ago(time)),
        };
        line("merged store", &format!("{} ({mounted})", self.real))?;
        line("upper layer", &self.upper_layer)?;
        line("work directory", &self.workdir)?;
        line("upper database", &self.database)?;
        let changed = match self.lower_changed {
            Some(true) => ", another one than when the upper database was made",
            Some(false) => ", the same as when the upper database was made",
            None => "",
        };
        let lower = format!("{} ({}{changed})", self.lower_store, self.lower_kind);
        line("lower store", &lower)?;
        line("lower store directory", &self.lower_real)?;
        if let Some(generation) = &self.generation {
            line("generation", &generation.text())?;
        }
        if let Some(content) = self.content {
            let objects = format!(
                "{} in the upper layer, {} of them in both layers",
                content.objects, content.objects_in_both_layers
            );
            line("objects", &objects)?;
            let rows = format!(
                "{} of its own, {} copied, {} without an object",
                content.own_rows, content.copied_rows, content.rows_without_object
            );
            line("metadata", &rows)?;
        }
        let set_up = !self.now.errors.contains(&Code::NotSetUp);
        if let Some(unreadable) = self.unreadable.as_ref().filter(|_| set_up) {
            line("content", &format!("unknown: {unreadable}"))?;
        }
        if let Some(sizes) = self.sizes {
            let text = format!(
                "{} in the upper layer, {} of them in both layers",
                indicatif::BinaryBytes(sizes.upper_layer),
                indicatif::BinaryBytes(sizes.in_both_layers)
            );
            line("space", &text)?;
        }
        if self.warm_roots > 0 {
            let text = format!("{}, {} of them gone", self.warm_roots, self.warm_roots_gone);
            line("warmed and kept", &text)?;
        }
        if let Some(warmed) = self.warmed {
            let gone = match warmed.gone {
                Some(gone) => format!("{gone} of them gone"),
                None => "how many of them are gone is not known".to_owned(),
            };
            let text = format!(
                "{} {}, {gone}",
                counted(warmed.paths, "path"),
                ago(warmed.time)
            );
            line("last warmed", &text)?;
        }
        if let Some(collected) = self.collected {
            let text = format!(
                "{}, {}, {} left, {}",
                counted(collected.objects, "object"),
                indicatif::BinaryBytes(collected.bytes),
                collected.left,
                ago(collected.time)
            );
            line("last collection", &text)?;
        }
        let codes = self.now.errors.iter().chain(&self.now.warnings);
        let codes: Vec<&str> = codes.map(|code| code.as_str()).collect();
        let text = match codes.is_empty() {
            true => "nothing wrong".to_owned(),
            false => format!("{}; `{}` says more", codes.join(", "), self.check),
        };
        line("now", &text)
    }
}

/// How long ago a time in seconds since 1970 is, in words.
fn ago(time: u64) -> String {
    let passed = Duration::from_secs(clock::now().saturating_sub(time));
    format!("{} ago", indicatif::HumanDuration(passed))
}
