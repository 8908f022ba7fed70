//! What cannot be run here.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result};

/// Reports that a test does not test what it should, because `part` (a guest, a program) is not to be
/// had: as all tests of the project do, on standard error, and as the line
/// `PART<tab>TEST<tab>REASON` at the end of the file named by `OVERSTORE_SKIPPED`, with which
/// `.ci/run` decides.
pub fn skip(part: &str, test: &str, reason: &str) -> Result<()> {
    let first = reason.lines().next().unwrap_or_default();
    eprintln!("SKIPPED: {test}: {part}: {first}");
    let Some(list) = std::env::var_os("OVERSTORE_SKIPPED") else {
        return Ok(());
    };
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| {
            file.write_all(format!("{part}\tvm-tests {test}\t{first}\n").as_bytes())
        })
        .with_context(|| format!("recording a skip in {}", list.display()))
}
