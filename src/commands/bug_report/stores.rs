//! The stores and publications, for a bug report.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::cli::StoreArgument;
use crate::commands::{description, several};
use crate::config;
use crate::escape::{show_lines, show_path};
use crate::linux::{programs, regular_file};
use crate::report::Section;

/// How long a look at a store may take.
const LOOK_TIME: Duration = Duration::from_secs(120);

/// Where Nix is, whatever a store says.
const NIX: &str = "/nix";

/// A store by its name, and the file that describes it.
pub(super) type Described = (OsString, PathBuf);

/// The stores that were named, and what is said of those that cannot be found.
pub(super) fn given(stores: &[OsString]) -> (Vec<Described>, Vec<Section>) {
    let (mut described, mut missing) = (Vec::new(), Vec::new());
    for store in stores {
        match description::file_of(store) {
            Ok(file) => described.push((store.clone(), file)),
            Err(failure) => {
                let title = format!("store {}", show_path(Path::new(store)));
                missing.push(Section::new(title, "").failed(&failure.to_string()));
            }
        }
    }
    (described, missing)
}

/// The directories that stores are made of, as far as their descriptions tell.
pub(super) fn parts(described: &[Described]) -> Vec<PathBuf> {
    let mut parts = vec![PathBuf::from(NIX)];
    for (_, file) in described {
        let store = file.clone().into_os_string();
        let Ok(store) = description::description(&StoreArgument { store }) else {
            continue;
        };
        parts.extend([store.real.value, store.state.value, store.upper_layer]);
        parts.extend([store.workdir, store.lower.real]);
    }
    parts
}

/// The description of a store, and what overstore says of it.
pub(super) fn sections(name: &OsStr, file: &Path) -> Vec<Section> {
    let shown = show_path(Path::new(name)).into_owned();
    let mut sections = vec![text(format!("store {shown}: {}", show_path(file)), file)];
    for command in ["status", "check"] {
        let title = format!("store {shown}: {command}");
        sections.push(look(title, command, &several::argument(name, file)));
    }
    sections
}

/// The descriptions of publications.
pub(super) fn publications() -> Vec<Section> {
    let files = description::publication_files();
    let text = |file: &PathBuf| text(format!("publication {}", show_path(file)), file);
    files.iter().map(text).collect()
}

/// A file as it is.
fn text(title: String, file: &Path) -> Section {
    match regular_file::read(file, config::MAX_SIZE) {
        Ok(content) => Section::new(title, &show_lines(&content)),
        Err(error) => Section::new(title, "").failed(&error.to_string()),
    }
}

/// What a command says of a store, in a process of its own: whatever becomes of that, the report goes
/// on.
fn look(title: String, command: &str, store: &OsStr) -> Section {
    let process = several::process(&[command.into()], store, true);
    let said = match programs::run(process, LOOK_TIME) {
        Ok(said) => said,
        Err(error) => return Section::new(title, "").failed(&error.to_string()),
    };
    let result = serde_json::from_slice::<Value>(&said.output).ok();
    let has_result = result.is_some();
    let section = match result {
        Some(result) => Section::new(title, "").result(result),
        None => Section::new(title, &show_lines(&said.output)),
    };
    let errors = show_lines(&said.errors);
    match said.status {
        // With a result, the exit code says nothing more.
        Some(_) if has_result && errors.is_empty() => section,
        Some(status) => section.failed(format!("{status}: {errors}").trim_end_matches([':', ' '])),
        None => section.failed(&format!(
            "it did not end within {} seconds: {errors}",
            LOOK_TIME.as_secs()
        )),
    }
}
