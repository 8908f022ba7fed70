//! What `list` tells, and what other commands tell of several stores.

use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The result of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ListReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The stores, by name.
    pub stores: Vec<ListedReport>,
}

/// A store as `list` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ListedReport {
    /// The store's name.
    pub store: String,
    /// The file that describes it.
    pub description: String,
    /// How it is.
    pub state: State,
    /// The codes of what `status` finds wrong, errors first.
    pub findings: Vec<String>,
    /// The merged store directory; absent where the description cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<String>,
    /// The lower store, as the description writes it; absent likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_store: Option<String>,
    /// Why nothing more is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How a store is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Mounted, and without an error.
    Up,
    /// Mounted, and with an error.
    UpWithErrors,
    /// Not mounted; it was set up before.
    Down,
    /// It was never set up.
    NotSetUp,
    /// Its description is wrong or cannot be read.
    DescriptionWrong,
    /// The machine did not let it be looked at.
    Unknown,
}

impl State {
    fn shown(self) -> &'static str {
        match self {
            State::Up => "up",
            State::UpWithErrors => "up, with errors",
            State::Down => "down",
            State::NotSetUp => "never set up",
            State::DescriptionWrong => "wrong description",
            State::Unknown => "unknown",
        }
    }
}

impl ListReport {
    /// Prints the report to standard output, as JSON or as text.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        super::print(self, json, |out| self.write(out))
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let names = self.stores.iter().map(|it| it.store.chars().count());
        let width = names.max().unwrap_or(0);
        for it in &self.stores {
            let mut rest = it.real.clone().unwrap_or_else(|| it.description.clone());
            if let Some(lower) = &it.lower_store {
                rest = format!("{rest} over {lower}");
            }
            let findings = match it.findings.is_empty() {
                true => String::new(),
                false => format!("  [{}]", it.findings.join(", ")),
            };
            writeln!(
                out,
                "{:<width$}  {:<17}  {rest}{findings}",
                it.store,
                it.state.shown()
            )?;
        }
        Ok(())
    }
}

/// The result of `check`, `status`, `gc` or `refresh` for several stores.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StoresReport {
    /// The version of this format: 1.
    pub version: u32,
    /// Each store's, in the order in which they were given, or by name.
    pub stores: Vec<OfStore>,
}

/// What a command came to for one of several stores.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OfStore {
    /// The store as it was given.
    pub store: String,
    /// The exit code that the command would have had for this store alone.
    pub exit_code: u8,
    /// What it would have printed: its own schema is that of the command, or the one called `error`.
    /// Null where it printed nothing.
    pub result: Value,
}
