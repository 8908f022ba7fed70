//! The generator (systemd.generator(7)): reads every description of the machine and writes the
//! units. It runs early, before any file system but the root one is mounted, and whenever systemd
//! reads its units again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{Output, OutputError};
use super::publications::{DescribedPublication, publication_units};
use super::text::unit_name;
use super::units::{Described, Places, units};
use crate::config;
use crate::config::names::DESCRIPTION_DIRECTORIES;
use crate::escape::show_path;
use crate::linux::regular_file;
use crate::observe;
use crate::records::atomic_file::DRAFT;
use crate::remedy::Fault;

/// Where those of publications are, in each directory of descriptions.
const PUBLICATIONS: &str = "publications";

/// Where the service manager has its system generators write (systemd.generator(7)), so where units
/// find what stands beside them.
const OUTPUT: &str = "/run/systemd/generator";

/// How long the name of a store can be in a unit's: systemd takes 255 bytes (systemd.unit(5)), of
/// which `overstore-gc@` and `.service` are the most that is added, and a draft of the file needs some.
const LONGEST_NAME: usize = 255 - "overstore-gc@.service".len() - DRAFT.len();

/// The same for a publication.
const LONGEST_PUBLICATION_NAME: usize = 255 - "overstore-publish@.service".len() - DRAFT.len();

/// A description that no units are made for, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Runs the generator: the arguments are the three output directories of systemd.generator(7), of
/// which the first is used. Its exit code says whether every description was fit.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(output) = arguments.next() else {
        log(&["expected a directory to write units to".to_owned()]);
        return ExitCode::from(2);
    };
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/overstore".into());
    let hook = observe::hook();
    match generate(
        Path::new("/"),
        Path::new(&output),
        &program,
        hook.as_deref(),
    ) {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            for one in broken {
                let first = format!("{}: no unit is made for this store", show_path(&one.file));
                log(&[first]);
                log(&one
                    .fault
                    .to_string()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>());
            }
            ExitCode::from(1)
        }
        Err(error) => {
            log(&[error.to_string()]);
            ExitCode::from(3)
        }
    }
}

/// Reads the descriptions of the system below `root` and writes its units to `output`. `program` is
/// overstore's path in that system, `remount_hook` that of the hook installed with it, if one is.
/// Returns the descriptions that are broken, or claim what another store has.
///
/// # Errors
/// When something cannot be written.
pub fn generate(
    root: &Path,
    output: &Path,
    program: &Path,
    remount_hook: Option<&Path>,
) -> Result<Vec<Broken>, OutputError> {
    let places = Places {
        program,
        nix_daemon: Path::new("nix-daemon"),
        variables: Path::new(OUTPUT),
        remount_hook,
    };
    let environment = places.environment();
    let mut stores: Vec<Described> = Vec::new();
    let mut broken = Vec::new();
    for (name, file) in descriptions(root, "") {
        let store = read(root, &name, &file, |name, label, text| {
            config::parse(name, label, text, &environment)
        });
        let described = store.map(|store| {
            let file = file.clone();
            store.map(|store| Described { store, file })
        });
        match described {
            Ok(None) => {}
            Ok(Some(described)) => match conflict(&described, &stores) {
                Some(fault) => broken.push(Broken { file, fault }),
                None => stores.push(described),
            },
            Err(fault) => broken.push(Broken { file, fault }),
        }
    }
    let mut publications: Vec<DescribedPublication> = Vec::new();
    for (name, file) in descriptions(root, PUBLICATIONS) {
        let described = read(root, &name, &file, config::parse_publication).map(|publication| {
            let file = file.clone();
            publication.map(|publication| DescribedPublication { publication, file })
        });
        match described {
            Ok(None) => {}
            Ok(Some(described)) => match publication_conflict(&described, &publications) {
                Some(fault) => broken.push(Broken { file, fault }),
                None => publications.push(described),
            },
            Err(fault) => broken.push(Broken { file, fault }),
        }
    }
    let mut files = units(&stores, places, &environment);
    files.extend(publication_units(&publications, places));
    Output::open(output)?.write(&files)?;
    Ok(broken)
}

/// The files that count in one directory of descriptions, by the names of what they describe; their
/// paths are those of the system.
fn descriptions(root: &Path, below: &str) -> BTreeMap<OsString, PathBuf> {
    let mut found = BTreeMap::new();
    for directory in DESCRIPTION_DIRECTORIES {
        // A directory that is not there, or not readable, has none.
        let directory = Path::new(directory).join(below);
        let there = directory.strip_prefix("/").unwrap_or(&directory);
        let Ok(entries) = fs::read_dir(root.join(there)) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let file = directory.join(entry.file_name());
            if file.extension() == Some(OsStr::new("toml"))
                && let Some(name) = file.file_stem()
            {
                found.entry(name.to_owned()).or_insert(file);
            }
        }
    }
    found
}

/// Reads one description with `parse`, which is given its name, what messages call it, and its text.
/// One that is empty, such as a link to `/dev/null`, masks what has that name.
fn read<T>(
    root: &Path,
    name: &OsStr,
    file: &Path,
    parse: impl FnOnce(&str, &str, &str) -> Result<T, config::Errors>,
) -> Result<Option<T>, Fault> {
    let there = root.join(file.strip_prefix("/").unwrap_or(file));
    if rustix::fs::stat(&there).is_ok_and(|stat| regular_file::is_null(&stat)) {
        return Ok(None);
    }
    let content = regular_file::read(&there, config::MAX_SIZE)
        .map_err(|error| Fault::new(format!("cannot be read: {error}")))?;
    let text = config::text(&show_path(file), content)
        .map_err(|wrong| Fault::new(wrong).remedy(config::SAVE_AS_UTF8))?;
    if text.is_empty() {
        return Ok(None);
    }
    let name = show_path(Path::new(name));
    let parsed = parse(&name, &show_path(file), &text);
    parsed.map(Some).map_err(|errors| Fault::of(&errors))
}

/// Why no units can be made of a store, by itself or beside those before it.
pub(crate) fn conflict(new: &Described, stores: &[Described]) -> Option<Fault> {
    let others = stores.iter().map(|it| (&*it.store.name, &*it.file));
    if let Some(fault) = name_conflict(&new.store.name, LONGEST_NAME, others) {
        return Some(fault);
    }
    let mine = new.store.daemon.as_ref()?;
    let other = stores.iter().find(|other| {
        let daemon = other.store.daemon.as_ref();
        daemon.is_some_and(|daemon| daemon.socket == mine.socket)
    })?;
    let what = format!(
        "expected a daemon of its own, found that {} is served at the same socket, {}",
        show_path(&other.file),
        show_path(&mine.socket)
    );
    Some(Fault::new(what).remedy("give one of the two another `daemon.socket`"))
}

/// The same for a publication.
pub(crate) fn publication_conflict(
    new: &DescribedPublication,
    publications: &[DescribedPublication],
) -> Option<Fault> {
    let others = publications
        .iter()
        .map(|it| (&*it.publication.name, &*it.file));
    let name = name_conflict(&new.publication.name, LONGEST_PUBLICATION_NAME, others);
    name.or_else(|| {
        let other = publications
            .iter()
            .find(|other| other.publication.directory == new.publication.directory)?;
        let what = format!(
            "expected a directory of its own, found that {} has its generations there, too: {}",
            show_path(&other.file),
            show_path(&new.publication.directory)
        );
        Some(Fault::new(what).remedy("give one of the two another `publication`"))
    })
}

/// Why no units can be called after a name, with those before it, of which the files are given.
fn name_conflict<'a>(
    name: &str,
    longest: usize,
    mut others: impl Iterator<Item = (&'a str, &'a Path)>,
) -> Option<Fault> {
    let name = unit_name(name);
    if name.len() > longest {
        let what = format!(
            "expected a name of at most {longest} bytes as systemd writes it, found one of {}",
            name.len()
        );
        return Some(Fault::new(what).remedy(
            "give the file a shorter name; letters, digits, `_` and `.` are one byte each",
        ));
    }
    let (_, file) = others.find(|(other, _)| unit_name(other) == name)?;
    let what = format!(
        "expected a name of its own, found that {} is shown alike, and its units are called the \
         same",
        show_path(file)
    );
    Some(Fault::new(what).remedy("rename one of the two"))
}

/// Writes lines to the kernel's log, from where the journal takes them: a generator's standard error
/// is lost. `<3>` is the priority of an error.
fn log(lines: &[String]) {
    let mut kernel = OpenOptions::new().write(true).open("/dev/kmsg");
    for line in lines {
        let written = match &mut kernel {
            // One write is one entry.
            Ok(kernel) => kernel.write_all(format!("<3>overstore-generator: {line}\n").as_bytes()),
            Err(error) => Err(io::Error::from(error.kind())),
        };
        if written.is_err() {
            // Run by hand, and not by root.
            let _ = writeln!(io::stderr(), "overstore-generator: {line}");
        }
    }
}
