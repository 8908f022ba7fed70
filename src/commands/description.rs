//! From the STORE argument to a validated description.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::{RootArgument, StoreArgument};
use crate::commands::Failure;
use crate::config::names::DESCRIPTION_DIRECTORIES;
use crate::config::{self, Environment, Publication, Store, nearest};
use crate::escape::show_path;
use crate::linux::file_identity::FileIdentity;
use crate::linux::regular_file::{self, ReadError};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Obstacle, Status, Symlinks};
use crate::observe;
use crate::remedy::{Fault, Remedy, command};

/// Where the descriptions of stores are that have a name.
const DIRECTORY: &str = "/etc/overstore";

/// Where those of publications are.
const PUBLICATIONS: &str = "/etc/overstore/publications";

/// A description and the machine it is for.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The description.
    pub store: Store,
    /// The machine.
    pub system: System,
}

/// Reads the description of a store and prepares to work on its machine. With `--root`, this
/// process's root directory is changed first, and the description is looked for below it unless
/// `--description-here` says otherwise.
///
/// # Errors
/// When there is no such description, when it is wrong, or when the root directory cannot be
/// changed.
pub(super) fn load(store: &StoreArgument, root: &RootArgument) -> Result<Loaded, Failure> {
    let Some(directory) = &root.root else {
        let store = description(store)?;
        let system = System::here().map_err(Failure::observing)?;
        return Ok(Loaded { store, system });
    };
    let environment = observe::environment_of_target(observe::hook());
    let outer = if root.description_here {
        Some(read(store, &environment)?)
    } else {
        None
    };
    let system = System::enter(directory).map_err(|error| {
        let what = format!("cannot work on the system below {}", show_path(directory));
        Failure::doing(what, error)
            .remedy("run this as root, with the directory that the system is mounted on")
    })?;
    let mut store = match outer {
        Some(store) => store,
        None => read(store, &environment)?,
    };
    let mut arguments = vec!["--root".into(), directory.clone().into_os_string()];
    arguments.extend(root.description_here.then(|| "--description-here".into()));
    arguments.append(&mut store.arguments);
    store.arguments = arguments;
    Ok(Loaded { store, system })
}

/// Reads the description of a store of this machine.
///
/// # Errors
/// When there is none, or it is wrong.
pub(super) fn description(store: &StoreArgument) -> Result<Store, Failure> {
    Ok(description_and_environment(store)?.0)
}

/// [`description`], and the environment that it was read in.
pub(super) fn description_and_environment(
    store: &StoreArgument,
) -> Result<(Store, Environment), Failure> {
    let environment = observe::environment();
    Ok((read(store, &environment)?, environment))
}

fn read(store: &StoreArgument, environment: &Environment) -> Result<Store, Failure> {
    let file = file(&store.store, DIRECTORY, "store")?;
    let mut environment = environment.clone();
    // What is described for everybody means the same for everybody.
    let is_below = |file: PathBuf| {
        DESCRIPTION_DIRECTORIES
            .iter()
            .any(|it| file.starts_with(it))
    };
    if !std::path::absolute(&file).is_ok_and(is_below) {
        environment.own_stores = observe::own_stores();
    }
    let mut described = read_file(&file, &environment)?;
    described.program = observe::program_name();
    described.arguments = vec![store.store.clone()];
    Ok(described)
}

/// The file that describes a store, by its name or path; it need not be there.
///
/// # Errors
/// When it can be the name of none.
pub(super) fn file_of(store: &OsStr) -> Result<PathBuf, Failure> {
    file(store, DIRECTORY, "store")
}

/// Reads a description from a file.
///
/// # Errors
/// When it cannot be read, or is wrong.
pub(super) fn read_file(file: &Path, environment: &Environment) -> Result<Store, Failure> {
    let (text, identity) = contents(file, "overstore new")?;
    let mut store = config::parse(&name(file), &show_path(file), &text, environment)?;
    store.file = Some(identity);
    Ok(store)
}

/// Reads the description of a publication.
///
/// # Errors
/// When there is none, or it is wrong.
pub(super) fn publication(argument: &OsStr) -> Result<Publication, Failure> {
    read_publication(&file(argument, PUBLICATIONS, "publication")?)
}

/// Reads the description of a publication from a file.
///
/// # Errors
/// When it cannot be read, or is wrong.
pub(super) fn read_publication(file: &Path) -> Result<Publication, Failure> {
    let (text, _) = contents(file, "overstore new --publication")?;
    Ok(config::parse_publication(
        &name(file),
        &show_path(file),
        &text,
    )?)
}

/// The name of what a file describes. One that is not UTF-8 is shown escaped everywhere.
fn name(file: &Path) -> String {
    show_path(Path::new(file.file_stem().unwrap_or_default())).into_owned()
}

/// The file that an argument means: itself, or one of this name in the directory of what is `named`.
fn file(argument: &OsStr, directory: &str, named: &str) -> Result<PathBuf, Failure> {
    let bytes = argument.as_bytes();
    if bytes.contains(&b'/') || bytes.ends_with(b".toml") {
        return Ok(PathBuf::from(argument));
    }
    if bytes.is_empty() || bytes.starts_with(b".") {
        return Err(Failure::refused(format!(
            "`{}` is not the name of a {named}",
            show_path(Path::new(argument))
        ))
        .remedy(format!(
            "give a name, for {directory}/NAME.toml, or the path of a file"
        )));
    }
    let mut name = OsString::from(argument);
    name.push(".toml");
    let usual = Path::new(directory).join(&name);
    if directory != DIRECTORY {
        return Ok(usual);
    }
    // Where the generator finds them, too, in its order.
    let found = with_names()
        .map(|directory| directory.join(&name))
        .find(|file| file.symlink_metadata().is_ok());
    Ok(found.unwrap_or(usual))
}

/// The text of a file, of which `starter` prints one to start from, and which file it is.
fn contents(file: &Path, starter: &str) -> Result<(String, FileIdentity), Failure> {
    let read = || {
        let opened = regular_file::open(file)?;
        let status = Status::of(&opened)?;
        Ok((regular_file::read_to_end(opened, config::MAX_SIZE)?, status))
    };
    let (content, status) = read().map_err(|error| unreadable(file, starter, error))?;
    warn_of_others(file, &status);
    let text = config::text(&show_path(file), content)
        .map_err(|wrong| Failure::refused(wrong).remedy(config::SAVE_AS_UTF8))?;
    Ok((text, status.identity))
}

/// Warns root of a description that somebody else could have written: it decides what root does.
fn warn_of_others(file: &Path, status: &Status) {
    if !safe_path::is_root() {
        return;
    }
    let reached = std::path::absolute(file).map(|file| safe_path::walk(&file, Symlinks::Follow));
    let (who, remedy) = match reached {
        Ok(Err(Obstacle::Unsafe { component, why })) => (
            format!("{} {why}", show_path(&component)),
            Remedy::say("move it to where root alone may write")
                .run(command!["mv", "-n", "--", file, DIRECTORY]),
        ),
        _ if status.uid != 0 => (
            format!("it belongs to user {}", status.uid),
            Remedy::from(command!["chown", "root", file]),
        ),
        _ if status.mode & 0o022 != 0 => (
            format!("its mode is {:04o}", status.mode),
            Remedy::from(command!["chmod", "go-w", file]),
        ),
        _ => return,
    };
    let shown = show_path(file);
    let warning =
        format!("users other than root can write to {shown}, which decides what root does: {who}");
    super::print_warning(&Fault::new(warning).remedy(remedy));
}

/// Why a description cannot be read, and what to do.
fn unreadable(file: &Path, starter: &str, error: ReadError) -> Failure {
    let shown = show_path(file);
    let error = match error {
        ReadError::Io(error) => error,
        ReadError::Obstacle(obstacle) => {
            return Failure::doing(format!("{shown} cannot be read"), obstacle)
                .refusing()
                .remedy("give the path of a readable TOML file");
        }
        ReadError::NotRegular("a directory") => {
            return Failure::refused(format!("{shown} is a directory"))
                .remedy("give the path of a TOML file in it");
        }
        ReadError::NotRegular(kind) => {
            return Failure::refused(format!("{shown} is {kind}, not a file"))
                .remedy("give the path of a TOML file");
        }
        ReadError::TooLong(limit) => {
            return Failure::refused(format!(
                "{shown} has more than {limit} bytes, so it cannot be a description"
            ))
            .remedy(format!(
                "give the path of a TOML file as `{starter}` prints it"
            ));
        }
    };
    let unreadable = format!("{shown} cannot be read");
    match error.kind() {
        io::ErrorKind::NotFound => missing(file, starter),
        io::ErrorKind::PermissionDenied => Failure::doing(unreadable, error)
            .refusing()
            .remedy("run this as root, or make the file readable"),
        _ => Failure::doing(unreadable, error)
            .refusing()
            .remedy("give the path of a readable TOML file"),
    }
}

/// There is no such file: whoever may have one of their own by this name is told how.
fn missing(file: &Path, starter: &str) -> Failure {
    let Others { similar, names } = others(file);
    let shown = show_path(file);
    let is_named = file.parent() == Some(Path::new(DIRECTORY));
    let own = observe::own_descriptions().filter(|_| is_named);
    let own = own.map(|directory| {
        let file = directory.join(file.file_name().unwrap_or_default());
        let remedy = Remedy::say("for a store of your own, an empty description will do")
            .run(command!["mkdir", "-p", directory])
            .run(command!["touch", file]);
        (file, remedy)
    });
    let failure = Failure::refused(match &own {
        Some((own, _)) => format!("there is no file {}, and no {shown}", show_path(own)),
        None => format!("there is no file {shown}"),
    });
    let own = own.map(|(_, remedy)| remedy).unwrap_or_default();
    failure.remedy(match similar {
        Some(similar) => Remedy::say(format!("did you mean `{similar}`?")).or(own),
        None if !names.is_empty() => Remedy::say(format!(
            "give one of these names: {}; or the path of a file",
            names.join(", ")
        ))
        .or(own),
        None if own.is_empty() => Remedy::say(format!(
            "write one: `{starter} > {shown}`, then edit it; or give the path of a file"
        )),
        None => own.or("give the path of a file"),
    })
}

/// The stores that have a name, and the files that describe them.
pub(super) fn named() -> BTreeMap<OsString, PathBuf> {
    let mut named = BTreeMap::new();
    for directory in with_names() {
        for (name, file) in in_directory(&directory) {
            named.entry(name).or_insert(file);
        }
    }
    named
}

/// The publications that have a name.
pub(super) fn named_publications() -> Vec<OsString> {
    let mut names: Vec<OsString> = in_directory(Path::new(PUBLICATIONS))
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
}

/// The files that describe publications that have a name.
pub(super) fn publication_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = in_directory(Path::new(PUBLICATIONS))
        .map(|(_, file)| file)
        .collect();
    files.sort();
    files
}

/// The descriptions in a directory: their names and files, hidden ones left out.
fn in_directory(directory: &Path) -> impl Iterator<Item = (OsString, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| {
        let file = entry.ok()?.path();
        let described = file.extension() == Some(OsStr::new("toml"));
        let name = file.file_stem().filter(|_| described)?.to_owned();
        (!name.as_bytes().starts_with(b".")).then_some((name, file))
    })
}

/// Where descriptions of stores are that have a name, from the directory that counts most: one's own,
/// then the system's.
fn with_names() -> impl Iterator<Item = PathBuf> {
    let system = DESCRIPTION_DIRECTORIES.map(PathBuf::from);
    observe::own_descriptions().into_iter().chain(system)
}

/// What may have been meant by a file that is not there: the names of descriptions of its kind where
/// it was meant by a name, otherwise the files beside it.
fn others(file: &Path) -> Others {
    let directories = [DIRECTORY, PUBLICATIONS].map(Path::new);
    let directory = match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let is_name = directories.contains(&directory);
    let places: Vec<PathBuf> = match directory == Path::new(DIRECTORY) {
        true => with_names().collect(),
        false => vec![directory.to_owned()],
    };
    let found: BTreeMap<String, PathBuf> = places
        .iter()
        .flat_map(|directory| in_directory(directory))
        .map(|(name, file)| (show_path(Path::new(&name)).into_owned(), file))
        .collect();
    let similar = nearest(&name(file), found.keys().map(String::as_str));
    Others {
        similar: similar.map(|name| match is_name {
            true => name.to_owned(),
            false => show_path(&found[name]).into_owned(),
        }),
        names: match is_name {
            true => found.keys().map(|name| format!("`{name}`")).collect(),
            false => Vec::new(),
        },
    }
}

/// What there is in the place of what was named.
struct Others {
    /// The one whose name is nearly the same.
    similar: Option<String>,
    /// All of them.
    names: Vec<String>,
}
