use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::verify::Problems;
use crate::apply;
use crate::compare::AcrossError;
use crate::escape::show_path;
use crate::linux::safe_path::Obstacle;
use crate::lower::publication::PublicationError;
use crate::lower::{LowerError, Transient};
use crate::nix::schema::Verdict;
use crate::nix::store_path::StorePath;
use crate::remedy::{HasRemedy, Remedy, command, of_file_system};
use crate::sqlite::open::OpenError;
use crate::warm::WarmError;

/// Why nothing was published, or retired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", show_path(path))]
    Io {
        /// What was tried, as in "cannot ...".
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// A path does not lead to where it should, or not safely.
    #[error("cannot use {}: {obstacle}", show_path(path))]
    Path {
        /// The path.
        path: PathBuf,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// The directory that the publication's is to be made in is missing.
    #[error("{} is missing, in which the publication would be made", show_path(.0))]
    NoParent(PathBuf),
    /// A lock could not be taken.
    #[error(transparent)]
    Lock(#[from] apply::Error),
    /// The live store's database cannot be opened.
    #[error("cannot open the database {}: {source}", show_path(path))]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// A database cannot be read or written.
    #[error("cannot {action} the database {}: {source}", show_path(path))]
    Sqlite {
        /// What was tried, as in "cannot ...".
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A database that is there already cannot be read.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Objects cannot be read, for a reason that is not theirs.
    #[error(transparent)]
    Across(#[from] AcrossError),
    /// Directories of roots cannot be read.
    #[error(transparent)]
    Roots(#[from] WarmError),
    /// The live store's schema is not one that can be published.
    #[error(
        "the database {} does not have Nix's schema: {}",
        show_path(path),
        differences(verdict)
    )]
    Schema {
        /// The database.
        path: PathBuf,
        /// How it differs.
        verdict: Verdict,
    },
    /// Paths that are to be published are not valid in the live store.
    #[error("not valid in the live store: {}", listed(.0))]
    NotValid(Vec<StorePath>),
    /// A path that is to be published is none of the store, and no link to one.
    #[error("{} is neither a store path nor a link to one", show_path(.0))]
    NoPath(PathBuf),
    /// Nothing would be in the generation.
    #[error("the generation would be empty: no root of the live store leads to a valid path")]
    Empty,
    /// What would be published is not whole.
    #[error("the generation would be incomplete")]
    NotWhole(Problems),
    /// A file of a publication is not one that overstore wrote.
    #[error("{} is not what overstore writes: {what}", show_path(path))]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A registration of paths cannot be read.
    #[error("{}, line {line}: {what}", show_path(path))]
    Registration {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// What is where an image is to be made is none.
    #[error("{} exists already, and is not an image", show_path(.0))]
    NoImage(PathBuf),
    /// There is less room than an image needs.
    #[error(
        "{} needs {needed} bytes at least while it is made, and {available} are free",
        show_path(path)
    )]
    NoRoom {
        /// Where the image is to be.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
    },
    /// The program that makes images is not there: its name, and that of its package.
    #[error("{0} was not found, and is needed to make the image")]
    NoTool(&'static str, &'static str),
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Tool {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// There is no such generation.
    #[error("there is no generation {0}")]
    NoGeneration(u64),
    /// The current generation cannot be retired.
    #[error("generation {0} is the current one, which new connections of consumers use")]
    Current(u64),
}

impl HasRemedy for PublishError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Lock(error) => error.remedy(),
            Self::Lower(error) => error.remedy(),
            Self::Across(error) => error.remedy(),
            Self::Roots(error) => error.remedy(),
            Self::Path { obstacle, .. } => obstacle.remedy(),
            Self::NoParent(parent) => Remedy::say(
                "mount what holds it, or correct `publication` in the description; or make it",
            )
            .run(command!["mkdir", "-p", parent]),
            Self::Schema { .. } => Remedy::say(
                "use a version of overstore that knows it, or have Nix open the live store once",
            ),
            Self::NotValid(_) | Self::NoPath(_) => Remedy::say(
                "build or copy it into the live store, or correct `paths` under `[include]`",
            ),
            Self::Empty => Remedy::say(
                "make roots of what is to be published in the live store (`nix-store --add-root`)",
            )
            .or("name what is to be published under `[include]`"),
            Self::Record { .. } => Remedy::say(
                "bring it back from a backup; or move the publication away, and publish anew: \
                 consumers then take it for another one",
            ),
            Self::Registration { .. } => {
                Remedy::say("make it anew: `nix-store --dump-db PATHS`, or nixpkgs' `closureInfo`")
            }
            Self::NoImage(path) => Remedy::say("name another file; or, if nobody needs it")
                .run(command!["rm", "-ri", path]),
            Self::NoRoom { path, .. } => {
                let above = path.parent().unwrap_or(path);
                of_file_system(io::ErrorKind::StorageFull, above)
            }
            Self::NoTool(_, package) => Remedy::say(format!(
                "install it (package {package}), or name its directory in PATH"
            )),
            Self::Tool { program, said, .. } if said.contains("No space left") => Remedy::say(
                format!("make room for what {program} makes, then run this again"),
            ),
            Self::Io { source, .. } => source.remedy(),
            Self::Open { .. }
            | Self::Sqlite { .. }
            | Self::Tool { .. }
            | Self::NotWhole(_)
            | Self::NoGeneration(_)
            | Self::Current(_) => Remedy::default(),
        }
    }
}

impl From<PublicationError> for PublishError {
    fn from(error: PublicationError) -> Self {
        match error {
            PublicationError::Unreachable { path, error } => Self::io("read", &path, error),
            PublicationError::Wrong { path, what } => Self::Record { path, what },
        }
    }
}

impl PublishError {
    /// The error of a system call.
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The error of walking a path.
    pub(super) fn path(path: &Path, obstacle: Obstacle) -> Self {
        Self::Path {
            path: path.to_owned(),
            obstacle,
        }
    }
}

fn differences(verdict: &Verdict) -> String {
    let kinds = [
        ("missing", &verdict.missing),
        ("altered", &verdict.altered),
        ("recorded, and unknown here", &verdict.unknown_migrations),
    ];
    let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
    let kinds: Vec<_> = kinds
        .map(|(kind, names)| format!("{kind}: {}", names.join(", ")))
        .collect();
    kinds.join("; ")
}

/// The first few paths.
fn listed(paths: &[StorePath]) -> String {
    const MOST: usize = 5;
    let mut names: Vec<_> = paths.iter().take(MOST).map(StorePath::to_string).collect();
    if paths.len() > MOST {
        names.push(format!("and {} more", paths.len() - MOST));
    }
    names.join(", ")
}

impl Transient for PublishError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Lower(error) if error.is_transient())
    }
}
