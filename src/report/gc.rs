use std::io::Write;

use indicatif::BinaryBytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::Outcome;
use crate::escape::counted;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// The result of `gc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GcReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// How it went.
    pub outcome: Outcome,
    /// Whether it only says what would be done (`--dry-run`).
    pub dry_run: bool,
    /// The value of Nix's `keep-derivations` that was used.
    pub keep_derivations: bool,
    /// The value of Nix's `keep-outputs` that was used.
    pub keep_outputs: bool,
    /// How many roots there are.
    pub roots: u64,
    /// Processes that could not be looked into: what they use may not be known.
    pub unseen_processes: u32,
    /// Directories of roots that only others than this user may look into, such as the store's daemon.
    /// Without that, as in a dry run, what their roots keep is not known.
    pub unseen_directories: Vec<String>,
    /// Whether nothing was to be done because enough is free (`--min-free`).
    pub enough_free: bool,
    /// The objects that were deleted, or would be.
    pub objects: Vec<ObjectReport>,
    /// Bytes that these take up in the upper layer.
    pub bytes: u64,
    /// Rows of lower objects that were dropped, or would be.
    pub rows: u64,
    /// Leftovers of interrupted work that were removed, or would be.
    pub leftovers: RemovedReport,
    /// Leftovers that were left, since only root can remove them.
    pub leftovers_for_root: RemovedReport,
    /// Garbage that Nix would not delete.
    pub left: Vec<LeftReport>,
    /// Garbage that is in both layers and is left there; a dry run lists what a collection first
    /// compares.
    pub in_both_layers: Vec<String>,
    /// Objects of both layers whose upper copies were removed, since the lower ones are equal.
    pub optimised: Vec<ObjectReport>,
    /// Garbage that is left because of `--older-than` or `--max-free`.
    pub kept_by_limits: u64,
    /// Objects that neither database knows and that are left: `--leftovers` deletes them.
    pub unknown: Vec<String>,
    /// Bytes free on the upper layer's file system at the end.
    pub free: u64,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ObjectReport {
    /// Its store path.
    pub path: String,
    /// Bytes that go with it.
    pub bytes: u64,
}

impl ObjectReport {
    /// Objects with the bytes that go with them.
    pub(crate) fn all(directory: &StoreDirectory, objects: &[(StorePath, u64)]) -> Vec<Self> {
        let report = |(path, bytes): &(StorePath, u64)| ObjectReport {
            path: String::from_utf8_lossy(&directory.print(path)).into_owned(),
            bytes: *bytes,
        };
        objects.iter().map(report).collect()
    }
}

/// An object that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LeftReport {
    /// Its store path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Leftovers of interrupted work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RemovedReport {
    /// Temporary directories.
    pub temporary_directories: u64,
    /// Lock files.
    pub lock_files: u64,
    /// Whiteouts below which there is nothing.
    pub whiteouts: u64,
}

impl GcReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    /// What it comes to, in one line.
    pub(crate) fn summary(&self) -> String {
        let verb = if self.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        if self.enough_free {
            return format!("nothing to do: {} are free", BinaryBytes(self.free));
        }
        format!(
            "{verb} {}, {}; {} are free",
            counted(self.objects.len() as u64, "object"),
            BinaryBytes(self.bytes),
            BinaryBytes(self.free)
        )
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.dry_run {
            for object in &self.objects {
                writeln!(out, "{}  {}", object.path, BinaryBytes(object.bytes))?;
            }
        }
        writeln!(out, "{}", self.summary())?;
        let verb = if self.dry_run {
            "would drop"
        } else {
            "dropped"
        };
        if self.rows > 0 {
            writeln!(
                out,
                "{verb} the metadata of {}",
                counted(self.rows, "lower object")
            )?;
        }
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        self.leftovers.write(out, verb)?;
        self.leftovers_for_root.write(out, "left for root:")?;
        self.write_left(out)?;
        let yes_no = |value| if value { "true" } else { "false" };
        writeln!(
            out,
            "{}; keep-derivations = {}, keep-outputs = {}",
            counted(self.roots, "root"),
            yes_no(self.keep_derivations),
            yes_no(self.keep_outputs)
        )
    }

    /// What was left, and why.
    fn write_left(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.kept_by_limits > 0 {
            writeln!(
                out,
                "{} left by a limit",
                counted(self.kept_by_limits, "garbage object")
            )?;
        }
        for left in &self.left {
            writeln!(out, "left {}: {}", left.path, left.reason)?;
        }
        if !self.optimised.is_empty() {
            writeln!(
                out,
                "removed the upper copies of {} that the lower store has too, {}",
                counted(self.optimised.len() as u64, "object"),
                BinaryBytes(self.optimised.iter().map(|object| object.bytes).sum())
            )?;
        }
        for path in &self.in_both_layers {
            writeln!(out, "left {path}: it is in both layers (see `optimise`)")?;
        }
        for path in &self.unknown {
            writeln!(
                out,
                "left {path}: neither database knows it (--leftovers deletes it)"
            )?;
        }
        if self.unseen_processes > 0 {
            writeln!(
                out,
                "{} processes could not be looked into; what they use is garbage unless a root keeps it",
                self.unseen_processes
            )?;
        }
        for directory in &self.unseen_directories {
            let seen = match self.dry_run {
                true => "what roots there keep is not garbage",
                false => "the daemon has looked",
            };
            writeln!(out, "{directory} could not be looked into; {seen}")?;
        }
        Ok(())
    }
}

impl RemovedReport {
    fn write(self, out: &mut dyn Write, verb: &str) -> std::io::Result<()> {
        let Self {
            temporary_directories,
            lock_files,
            whiteouts,
        } = self;
        if temporary_directories + lock_files + whiteouts == 0 {
            return Ok(());
        }
        writeln!(
            out,
            "{verb} leftovers: temporary directories {temporary_directories}, lock files {lock_files}, \
             whiteouts {whiteouts}"
        )
    }
}

/// The result of `gc --why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WhyReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// The store path that was asked about.
    pub path: String,
    /// Whether anything keeps it.
    pub alive: bool,
    /// The roots that keep it, each with a shortest way from what it names to the path.
    pub roots: Vec<KeptReport>,
    /// Directories of roots that this user may not look into: a root there may keep it, too.
    pub unseen_directories: Vec<String>,
}

/// A root that keeps an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct KeptReport {
    /// The root: a link, a process, a file of temporary roots.
    pub root: String,
    /// The store paths from what it names to the path that was asked about.
    pub by_way_of: Vec<String>,
}

impl WhyReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if !self.alive {
            writeln!(out, "{}: nothing keeps it", self.path)?;
        }
        for kept in &self.roots {
            writeln!(out, "{}", kept.root)?;
            for path in &kept.by_way_of {
                writeln!(out, "  -> {path}")?;
            }
        }
        for directory in &self.unseen_directories {
            writeln!(
                out,
                "{directory} could not be looked into; a root there may keep it"
            )?;
        }
        Ok(())
    }
}
