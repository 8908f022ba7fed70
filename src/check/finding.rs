//! The one type for everything that can be wrong with a store.

use schemars::JsonSchema;
use serde::Serialize;

use std::path::Path;

use super::Code;
use super::code::StopsUp;
use crate::escape::show_path;
use crate::remedy::Remedy;

/// Something that is not as it should be. Made with [`Finding::new`] or [`Finding::at`] and what is
/// particular: the rest comes from the code.
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
    /// What fixes it.
    #[serde(flatten)]
    pub remedy: Remedy,
    /// Whether `up` does nothing while this is so.
    pub stops_up: bool,
    /// What was found too and only follows from this: it goes with it. Not shown to people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consequences: Vec<Finding>,
}

impl Finding {
    /// A finding about something that has a name.
    pub(crate) fn new(code: Code, subject: impl Into<String>) -> Finding {
        let declared = code.declaration();
        Finding {
            code,
            severity: declared.severities[0],
            part: declared.parts[0],
            subject: subject.into(),
            expected: String::new(),
            actual: String::new(),
            remedy: Remedy::default(),
            stops_up: declared.stops_up == StopsUp::Always,
            consequences: Vec::new(),
        }
    }

    /// A finding about a path.
    pub(crate) fn at(code: Code, path: &Path) -> Finding {
        Finding::new(code, show_path(path))
    }

    /// Gives it another severity than the usual one.
    pub(crate) fn severity(self, severity: Severity) -> Finding {
        Finding { severity, ..self }
    }

    /// Gives it another part than the usual one.
    pub(crate) fn part(self, part: Part) -> Finding {
        Finding { part, ..self }
    }

    /// What should be there.
    pub(crate) fn expected(self, expected: impl Into<String>) -> Finding {
        let expected = expected.into();
        Finding { expected, ..self }
    }

    /// What is there.
    pub(crate) fn found(self, actual: impl Into<String>) -> Finding {
        let actual = actual.into();
        Finding { actual, ..self }
    }

    /// What fixes it.
    pub(crate) fn remedy(self, remedy: impl Into<Remedy>) -> Finding {
        let remedy = remedy.into();
        Finding { remedy, ..self }
    }

    /// Keeps what follows from this one, flat, with what follows from that in turn.
    pub(crate) fn explains(&mut self, consequences: impl IntoIterator<Item = Finding>) {
        for mut consequence in consequences {
            let further = std::mem::take(&mut consequence.consequences);
            self.consequences.push(consequence);
            self.consequences.extend(further);
        }
    }

    /// `up` cannot make what is missing: for codes that stop `up` only then.
    pub(crate) fn not_made_by_up(self) -> Finding {
        Finding {
            stops_up: self.code.declaration().stops_up != StopsUp::Never,
            ..self
        }
    }
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

impl Severity {
    /// As people and JSON read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

impl Part {
    /// As people read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Part::LowerStore => "lower store",
            Part::UpperLayer => "upper layer",
            Part::WorkDirectory => "work directory",
            Part::Mount => "mount",
            Part::State => "state",
            Part::UpperDatabase => "upper database",
            Part::Nix => "Nix",
        }
    }
}
