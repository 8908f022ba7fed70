//! What `overstore bug-report` writes.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::secrets::masked;

/// The content of a bug report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BugReport {
    /// The version of this format: 1.
    pub version: u32,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// What was collected.
    pub sections: Vec<Section>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Section {
    /// What it is: `mounts`, or `store example: check`.
    pub title: String,
    /// What was found, as text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What a command of overstore's printed as JSON: its schema is that of the command, or the one
    /// called `error`.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Why it could not be found out, or not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Section {
    /// A section with a text. Secrets are masked.
    pub(crate) fn new(title: impl Into<String>, text: &str) -> Section {
        Section {
            title: title.into(),
            text: masked(text.trim_end()),
            ..Section::default()
        }
    }

    /// The same with a result.
    pub(crate) fn result(self, mut result: Value) -> Section {
        mask(&mut result);
        Section { result, ..self }
    }

    /// The same with what kept it from being found out.
    pub(crate) fn failed(self, why: &str) -> Section {
        let failure = Some(masked(why.trim()));
        Section { failure, ..self }
    }
}

/// Masks the secrets in all texts of a value.
fn mask(value: &mut Value) {
    match value {
        Value::String(text) => *text = masked(text),
        Value::Array(values) => values.iter_mut().for_each(mask),
        Value::Object(values) => values.values_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl BugReport {
    /// Writes it as JSON, or as text.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn write(&self, mut out: impl Write, json: bool) -> io::Result<()> {
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            return writeln!(out);
        }
        writeln!(
            out,
            "A bug report of overstore, made at {} (seconds since 1970)",
            self.time
        )?;
        for section in &self.sections {
            writeln!(out, "\n=== {}", section.title)?;
            if !section.text.is_empty() {
                writeln!(out, "{}", section.text)?;
            }
            if !section.result.is_null() {
                serde_json::to_writer_pretty(&mut out, &section.result)?;
                writeln!(out)?;
            }
            if let Some(failure) = &section.failure {
                writeln!(out, "(not told: {failure})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_results_and_failures_are_written_without_secrets() {
        let report = BugReport {
            version: 1,
            time: 5,
            sections: vec![
                Section::new("machine", "Linux 6.12\n"),
                Section::new("store a: status", "")
                    .result(json!({"lower": ["ssh://u:p@h"]}))
                    .failed("exit code 1: ssh://u:p@h"),
            ],
        };
        let mut text = Vec::new();
        report.write(&mut text, false).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap());
        let mut json = Vec::new();
        report.write(&mut json, true).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["sections"][1]["result"]["lower"][0], "ssh://***@h");
        assert_eq!(json["sections"][0].get("failure"), None);
    }
}
