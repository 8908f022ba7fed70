//! What a run says: a line a scenario, TAP for other programs, a table at the
//! end.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::runner::Run;

/// What became of a scenario on a guest.
pub enum Outcome {
    /// It was run.
    Run(Run),
    /// It was not, for this reason.
    Skipped(String),
}

/// One scenario on one guest.
pub struct Entry {
    /// The scenario's name.
    pub scenario: String,
    /// The guest's name.
    pub guest: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Shows what happens while it happens, and keeps it.
pub struct Report {
    bar: ProgressBar,
    entries: Vec<Entry>,
}

impl Report {
    /// A report of `length` entries. The bar shows on a terminal only.
    pub fn new(length: usize) -> Self {
        let bar = ProgressBar::new(length as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self {
            bar,
            entries: Vec::new(),
        }
    }

    /// Says what is being done.
    pub fn doing(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Prints a line of its own.
    pub fn line(&self, text: &str) {
        // `println` of a hidden bar prints nothing.
        self.bar.suspend(|| println!("{text}"));
    }

    /// Adds an entry, and prints its line; a failure with all that is known.
    pub fn add(&mut self, entry: Entry) {
        let name = format!("{:<13} {:<18}", entry.guest, entry.scenario);
        match &entry.outcome {
            Outcome::Run(run) => {
                let result = if run.failure.is_some() {
                    "FAILED"
                } else {
                    "ok"
                };
                let boots = match run.boots {
                    0 => String::new(),
                    1 => ", 1 boot".to_owned(),
                    more => format!(", {more} boots"),
                };
                let seconds = run.time.as_secs_f64();
                let processor = run.processor_time.as_secs_f64();
                self.line(&format!(
                    "{result:<7} {name} {seconds:6.1} s ({processor:.1} s of processor){boots}"
                ));
                for note in &run.notes {
                    self.line(&indented(note));
                }
                if let Some(failure) = &run.failure {
                    self.line(&indented(failure));
                }
            }
            Outcome::Skipped(reason) => {
                let first = reason.lines().next().unwrap_or_default();
                self.line(&format!("SKIPPED {name} {first}"));
            }
        }
        self.bar.inc(1);
        self.entries.push(entry);
    }

    /// Adds what was skipped to a file, a line each: guest, scenario and the reason's first line.
    pub fn append_skipped(&self, file: &Path) -> Result<()> {
        let mut text = String::new();
        for entry in &self.entries {
            if let Outcome::Skipped(reason) = &entry.outcome {
                let first = reason.lines().next().unwrap_or_default();
                text += &format!("{}\tvm-tests {}\t{first}\n", entry.guest, entry.scenario);
            }
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        !self.entries.iter().any(|entry| {
            matches!(
                &entry.outcome,
                Outcome::Run(Run {
                    failure: Some(_),
                    ..
                })
            )
        })
    }

    /// How many kernels the scenarios started.
    pub fn boots(&self) -> u32 {
        let boots = self.entries.iter().map(|entry| match &entry.outcome {
            Outcome::Run(run) => run.boots,
            Outcome::Skipped(_) => 0,
        });
        boots.sum()
    }

    /// Scenarios against guests.
    pub fn table(&self, guests: &[String]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = vec!["scenario".to_owned()];
        header.extend_from_slice(guests);
        table.set_header(header);
        let mut scenarios: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !scenarios.contains(&entry.scenario.as_str()) {
                scenarios.push(&entry.scenario);
            }
        }
        for scenario in scenarios {
            let mut row = vec![scenario.to_owned()];
            row.extend(guests.iter().map(|guest| {
                let entry = self
                    .entries
                    .iter()
                    .find(|entry| entry.scenario == scenario && &entry.guest == guest);
                match entry.map(|entry| &entry.outcome) {
                    None => String::new(),
                    Some(Outcome::Skipped(_)) => "SKIPPED".to_owned(),
                    Some(Outcome::Run(run)) => {
                        let result = if run.failure.is_some() {
                            "FAILED"
                        } else {
                            "ok"
                        };
                        format!("{result} {:.0} s", run.time.as_secs_f64())
                    }
                }
            }));
            table.add_row(row);
        }
        table
    }

    /// The entries in the Test Anything Protocol, version 14.
    pub fn tap(&self) -> String {
        let mut text = format!("TAP version 14\n1..{}\n", self.entries.len());
        for (index, entry) in self.entries.iter().enumerate() {
            let number = index + 1;
            let name = format!("{} on {}", entry.scenario, entry.guest);
            // Writing to a string cannot fail.
            let _ = match &entry.outcome {
                Outcome::Skipped(reason) => {
                    let first = reason.lines().next().unwrap_or_default();
                    writeln!(text, "ok {number} - {name} # SKIP {first}")
                }
                Outcome::Run(run) => {
                    let result = if run.failure.is_some() {
                        "not ok"
                    } else {
                        "ok"
                    };
                    let time = run.time.as_millis();
                    let failure = match &run.failure {
                        Some(failure) => {
                            format!("  failure: |\n{}\n", indented(&indented(failure)))
                        }
                        None => String::new(),
                    };
                    writeln!(
                        text,
                        "{result} {number} - {name}\n  ---\n  duration_ms: {time}\n  boots: {}\n{failure}  ...",
                        run.boots
                    )
                }
            };
        }
        text
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(3);
        let run = |failure: Option<&str>| {
            Outcome::Run(Run {
                time: Duration::from_millis(1500),
                processor_time: Duration::from_millis(1200),
                boots: 1,
                notes: Vec::new(),
                failure: failure.map(str::to_owned),
            })
        };
        for (scenario, guest, outcome) in [
            ("boot", "trixie", run(None)),
            ("reboot", "trixie", run(Some("it fell\nover"))),
            ("boot", "sid", Outcome::Skipped("no image\nlog".to_owned())),
        ] {
            report.add(Entry {
                scenario: scenario.to_owned(),
                guest: guest.to_owned(),
                outcome,
            });
        }
        report
    }

    #[test]
    fn tap_has_a_line_for_each_and_says_why() {
        assert_eq!(
            report().tap(),
            "TAP version 14\n1..3\n\
             ok 1 - boot on trixie\n  ---\n  duration_ms: 1500\n  boots: 1\n  ...\n\
             not ok 2 - reboot on trixie\n  ---\n  duration_ms: 1500\n  boots: 1\n  \
             failure: |\n    it fell\n    over\n  ...\n\
             ok 3 - boot on sid # SKIP no image\n"
        );
    }

    #[test]
    fn the_table_has_scenarios_and_guests() {
        let report = report();
        assert!(!report.is_good());
        assert_eq!(report.boots(), 2);
        let text = report
            .table(&["trixie".to_owned(), "sid".to_owned()])
            .to_string();
        assert_eq!(
            text,
            "| scenario | trixie     | sid     |\n\
             |----------|------------|---------|\n\
             | boot     | ok 2 s     | SKIPPED |\n\
             | reboot   | FAILED 2 s |         |"
        );
    }
}
