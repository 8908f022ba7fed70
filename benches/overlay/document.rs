//! The tables, and the page that they are on.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::generator::Result;
use crate::inside::Results;
use crate::measure::Times;
use crate::setup::PHASES;

const BEGIN: &str = "<!-- begin: written by make bench -->\n";
const END: &str = "<!-- end: written by make bench -->\n";

/// The tables about setting stores up.
pub fn setup(results: &Results, rounds: &str) -> String {
    let mut text = format!(
        "## Setting a store up\n\nMedians of {rounds} rounds; in brackets, between which two half of \
         all rounds were. Milliseconds.\n\n\
         | file system | lower store | command | overstore | shell | ratio |\n\
         | --- | ---: | --- | ---: | ---: | ---: |\n"
    );
    let mut line = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    for setup in &results.setups {
        for (phase, name) in PHASES.iter().enumerate() {
            let (ours, theirs) = (&setup.overstore[phase].times, &setup.shell[phase].times);
            line(&[
                setup.file_system.clone(),
                setup.paths.to_string(),
                (*name).to_owned(),
                milliseconds(ours),
                milliseconds(theirs),
                format!("{:.2}", ours.median() / theirs.median()),
            ]);
        }
    }
    let _ = write!(
        text,
        "\n### Peak memory\n\nMiB resident at most, shared pages included, in any one process. \
         Measured in this way, `true` needs {:.1}.\n\n\
         | file system | lower store | command | overstore | shell |\n\
         | --- | ---: | --- | ---: | ---: |\n",
        mebibytes(results.least_peak)
    );
    for setup in &results.setups {
        for (phase, name) in PHASES.iter().enumerate() {
            let _ = writeln!(
                text,
                "| {} | {} | {name} | {:.1} | {:.1} |",
                setup.file_system,
                setup.paths,
                mebibytes(setup.overstore[phase].peak),
                mebibytes(setup.shell[phase].peak),
            );
        }
    }
    text
}

fn milliseconds(times: &Times) -> String {
    let (low, high) = times.middle();
    format!(
        "{:.1} ({:.1} to {:.1})",
        times.median() * 1e3,
        low * 1e3,
        high * 1e3
    )
}

fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

/// Replaces the written part of `docs/benchmarks.md`.
pub fn write(text: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let page = fs::read_to_string(&path)?;
    let marks = page
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.ok_or("docs/benchmarks.md has lost its begin and end marks")?;
    Ok(fs::write(
        &path,
        format!("{before}{BEGIN}\n{text}\n{END}{after}"),
    )?)
}
