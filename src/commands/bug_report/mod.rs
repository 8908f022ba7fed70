//! `overstore bug-report`.

mod file;
mod machine;
mod stores;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, description, print_note};
use crate::cli;
use crate::escape::show_path;
use crate::linux::clock;
use crate::linux::root::System;
use crate::report::BugReport;

/// Where it goes if nothing else is said, as text and as JSON.
const USUAL: [&str; 2] = ["overstore-bug-report.txt", "overstore-bug-report.json"];

/// The word for standard output.
const STANDARD_OUTPUT: &str = "-";

pub(super) fn run(arguments: &cli::BugReport, json: bool) -> Result<ExitCode, Failure> {
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None => PathBuf::from(USUAL[usize::from(json)]),
    };
    let to_output = path == Path::new(STANDARD_OUTPUT);
    if !to_output {
        file::expect_none(&path)?;
    }
    let report = collected(arguments)?;
    if to_output {
        report.write(std::io::stdout().lock(), json)?;
        return Ok(ExitCode::SUCCESS);
    }
    file::write(&path, |file| report.write(file, json))?;
    print_note(&format!(
        "{} is written. Read it before you give it to others: it has paths, names and descriptions of \
         this machine.",
        show_path(&path)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Everything that can be found out. What cannot is said in its place.
fn collected(arguments: &cli::BugReport) -> Result<BugReport, Failure> {
    let system = System::here().map_err(Failure::observing)?;
    let (described, missing) = match &arguments.stores[..] {
        [] => (description::named().into_iter().collect(), Vec::new()),
        stores => stores::given(stores),
    };
    let mut sections = machine::sections(&system, &stores::parts(&described));
    sections.extend(missing);
    for (name, file) in &described {
        sections.extend(stores::sections(name, file));
    }
    if arguments.stores.is_empty() {
        sections.extend(stores::publications());
    }
    Ok(BugReport {
        version: 1,
        time: clock::now(),
        sections,
    })
}
