//! The lower store. Nothing here writes to it, locks it or opens one of its files for writing: its
//! files are read as plain files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::mount_table::MountTable;
use super::overlay::{self, Expected};
use super::path::{self, Visited};
use super::{
    Depth, FileFacts, LogFacts, LowerFacts, PublicationFacts, SourceFacts, names, publication,
};
use crate::config::{Lower, MetadataSource};
use crate::linux::regular_file::{self, ReadError};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Obstacle, Reached, Symlinks};
use crate::lower::publication::path_of;
use crate::nix::layout;
use crate::nix::worker_protocol;
use crate::remedy::Fault;
use crate::sqlite::pending;

/// How long a daemon may take to answer: it opens its store first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any `schema` file has.
const MAXIMUM_SCHEMA_SIZE: u64 = 64;

/// Walks to the lower store directory.
pub(super) fn visit(lower: &Lower, mounts: &MountTable) -> Visited {
    path::visit(&lower.real, Symlinks::Follow, mounts)
}

/// Looks at a lower store, whose directory was visited.
pub(super) fn observe(
    system: &System,
    mounts: &MountTable,
    lower: &Lower,
    visited: &Visited,
    depth: Depth,
) -> LowerFacts {
    let strangers = match (depth, &visited.reached) {
        (Depth::Check { lower_names: true }, Some(directory)) => names::strangers(directory).ok(),
        _ => None,
    };
    let publication = publication::observe(lower);
    LowerFacts {
        directory: visited.place.clone(),
        resolved: visited
            .reached
            .as_ref()
            .map(|reached| reached.path().to_owned())
            .filter(|path| *path != lower.real),
        strangers,
        source: match publication.as_ref().and_then(PublicationFacts::read) {
            // By the name that it has itself, which is told to its owner.
            Some(number) => {
                let publication = lower.publication.as_deref().unwrap_or(&lower.real);
                let state = path_of(publication, number);
                database(mounts, visited, &state, true, depth)
            }
            None => source(system, mounts, lower, visited, depth),
        },
        publication,
    }
}

fn source(
    system: &System,
    mounts: &MountTable,
    lower: &Lower,
    visited: &Visited,
    depth: Depth,
) -> SourceFacts {
    match &lower.source {
        MetadataSource::Database { state, read_only } => {
            database(mounts, visited, state, *read_only, depth)
        }
        MetadataSource::Daemon { socket } => SourceFacts::Daemon {
            answer: matches!(depth, Depth::Check { .. }).then(|| ask(socket)),
        },
        MetadataSource::Overlay {
            state,
            upper_layer,
            read_only,
            lower: below,
        } => {
            let visited_below = visit(below, mounts);
            let expected = Expected {
                real: visited,
                lower: &visited_below,
                upper_layer: &path::visit(upper_layer, Symlinks::Follow, mounts),
                workdir: None,
            };
            SourceFacts::Overlay {
                upper: Box::new(database(mounts, visited, state, *read_only, depth)),
                mount: Box::new(overlay::observe(system, mounts, &expected, depth)),
                lower: Box::new(observe(system, mounts, below, &visited_below, depth)),
            }
        }
        MetadataSource::Ssh { .. } => SourceFacts::Ssh,
    }
}

/// Looks at a local lower store for its owner, as at one that is read as read-only: at every name and
/// at the whole log.
///
/// # Errors
/// When the mount table cannot be read.
pub(crate) fn observe_for_owner(
    system: &System,
    real: &Path,
    state: &Path,
) -> io::Result<LowerFacts> {
    read_only(system, real, state, Depth::Check { lower_names: true })
}

/// Looks at a generation of a publication, of which a store above is to read: whether Nix can.
///
/// # Errors
/// When the mount table cannot be read.
pub(crate) fn observe_generation(
    system: &System,
    real: &Path,
    state: &Path,
) -> io::Result<LowerFacts> {
    read_only(system, real, state, Depth::Up)
}

/// Looks at a local lower store that is read as read-only.
fn read_only(system: &System, real: &Path, state: &Path, depth: Depth) -> io::Result<LowerFacts> {
    let mounts = MountTable::read(system)?;
    let visited = path::visit(real, Symlinks::Follow, &mounts);
    let reached = visited.reached.as_ref();
    let strangers = match depth {
        Depth::Check { lower_names: true } => reached.map(names::strangers),
        _ => None,
    };
    Ok(LowerFacts {
        directory: visited.place.clone(),
        resolved: None,
        strangers: strangers.and_then(Result::ok),
        source: database(&mounts, &visited, state, true, depth),
        publication: None,
    })
}

/// Asks a daemon for its version.
///
/// # Errors
/// Why it does not answer, or not this user.
pub(crate) fn ask(socket: &Path) -> Result<String, Fault> {
    match worker_protocol::probe(socket, ANSWER_TIMEOUT) {
        Ok(info) => Ok(info
            .nix_version
            .unwrap_or_else(|| format!("protocol {}.{}", info.protocol.0, info.protocol.1))),
        Err(error) => Err(Fault::of(&error)),
    }
}

/// The database, or a file that SQLite keeps beside it, below a state directory.
fn database_name(suffix: &str) -> String {
    format!(
        "{}/{}{suffix}",
        layout::DATABASE_DIRECTORY,
        layout::DATABASE_FILE
    )
}

fn database(
    mounts: &MountTable,
    real: &Visited,
    state: &Path,
    read_only: bool,
    depth: Depth,
) -> SourceFacts {
    let state = path::visit(state, Symlinks::Follow, mounts);
    let (database, file) = match open(&state, &database_name("")) {
        Ok(file) => (file_facts(&file), Some(file)),
        Err(error) => (unopened(error), None),
    };
    let log = file
        .filter(|_| read_only)
        .and_then(|file| log_facts(&file, &state, depth));
    SourceFacts::Database {
        database,
        log,
        schema: schema(&state),
        missing: missing(real, &state),
        state: state.place,
    }
}

/// What the log beside a database that is read as read-only has that the database has not.
fn log_facts(database: &File, state: &Visited, depth: Depth) -> Option<LogFacts> {
    let beside = |suffix: &str| match open(state, &database_name(suffix)) {
        Ok(file) => Ok(Some(file)),
        Err(error) => match unopened(error) {
            FileFacts::Missing => Ok(None),
            FileFacts::Unreachable(errno) => Err(LogFacts::Unreadable(errno)),
            FileFacts::Other(kind) => Err(LogFacts::Other(kind)),
            FileFacts::File { .. } => Ok(None),
        },
    };
    let thorough = matches!(depth, Depth::Check { .. });
    let log = match beside("-wal") {
        Ok(log) => log,
        Err(facts) => return Some(facts),
    };
    // Without its index, the log still tells everything itself.
    let index = beside("-shm").unwrap_or_default();
    match pending::pages(database, log.as_ref(), index.as_ref(), thorough) {
        Ok(pages) => pages.map(|pages| match pages {
            0 => LogFacts::Empty,
            pending => LogFacts::Pending(pending),
        }),
        Err(error) => Some(LogFacts::Unreadable(
            error.raw_os_error().unwrap_or_default(),
        )),
    }
}

fn schema(state: &Visited) -> Option<String> {
    let file = open(state, "db/schema").ok()?;
    let content = regular_file::read_to_end(file, MAXIMUM_SCHEMA_SIZE).ok()?;
    let text = String::from_utf8(content).ok()?;
    Some(text.trim_end().to_owned())
}

/// What Nix wants to find and is not there: directories, and the file of reserved space.
fn missing(real: &Visited, state: &Visited) -> Vec<PathBuf> {
    let wanted = layout::WANTED_BELOW.iter().map(|name| (state, *name));
    // Walked one by one, since each may be behind links of its own. What cannot be reached for
    // another reason may be there.
    std::iter::once((real, layout::LINKS))
        .chain(wanted)
        .filter(|(directory, name)| match walk(directory, name) {
            Ok(reached) => reached.status().kind != FileType::Directory,
            Err(Obstacle::Missing { .. } | Obstacle::NotDirectory { .. }) => true,
            Err(_) => false,
        })
        .map(|(directory, name)| directory.place.path.join(name))
        .chain(reserved(state))
        .collect()
}

/// The file of reserved space, if it is missing and we, as Nix, could make it.
fn reserved(state: &Visited) -> Option<PathBuf> {
    let directory = walk(state, layout::DATABASE_DIRECTORY).ok()?;
    let (access, flags) = (Access::WRITE_OK, AtFlags::EACCESS);
    rustix::fs::accessat(CWD, directory.path(), access, flags).ok()?;
    match walk(state, layout::RESERVED) {
        Err(Obstacle::Missing { .. }) => Some(state.place.path.join(layout::RESERVED)),
        _ => None,
    }
}

/// Walks from a directory of the lower store. Its owner may have put links in the way.
fn walk(directory: &Visited, name: &str) -> Result<Reached, Obstacle> {
    match &directory.reached {
        Some(reached) => safe_path::walk_below(reached, Path::new(name), Symlinks::Follow),
        None => safe_path::walk(&directory.place.path.join(name), Symlinks::Follow),
    }
}

/// Opens a regular file of the lower store for reading.
fn open(directory: &Visited, name: &str) -> Result<File, ReadError> {
    match &directory.reached {
        Some(reached) => {
            regular_file::open_walked_below(reached, Path::new(name), Symlinks::Follow)
        }
        None => regular_file::open_walked(&directory.place.path.join(name), Symlinks::Follow),
    }
}

/// Why a file of the lower store was not opened, as facts.
fn unopened(error: ReadError) -> FileFacts {
    match error {
        ReadError::NotRegular(kind) => FileFacts::Other(kind.into()),
        ReadError::Obstacle(Obstacle::Missing { .. } | Obstacle::NotDirectory { .. }) => {
            FileFacts::Missing
        }
        ReadError::Obstacle(Obstacle::Unreachable { errno, .. }) => FileFacts::Unreachable(errno),
        ReadError::Io(error) => match error.raw_os_error() {
            Some(errno) if errno == Errno::NOENT.raw_os_error() => FileFacts::Missing,
            Some(errno) => FileFacts::Unreachable(errno),
            None => FileFacts::Other(error.to_string().into()),
        },
        other => FileFacts::Other(other.to_string().into()),
    }
}

fn file_facts(file: &File) -> FileFacts {
    match rustix::fs::fstat(file) {
        Ok(stat) => path::file_facts(&stat),
        Err(errno) => FileFacts::Unreachable(errno.raw_os_error()),
    }
}
