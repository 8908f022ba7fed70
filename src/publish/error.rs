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
use crate::remedy::{HasRemedy, Remedy, command, of_file_system, of_io};
use crate::sqlite::open::{self, OpenError};
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
            Self::Tool { program, .. } => {
                Remedy::say(format!("see what {program} says, then run this again"))
                    .or("have another kind of image made")
            }
            Self::Io { path, source, .. } => of_io(source, path),
            Self::Open { path, source } => source.remedy_at(path),
            Self::Sqlite { path, source, .. } => open::remedy_of(source, path),
            Self::NotWhole(_) => Remedy::say("have Nix repair what is named, or leave it out"),
            Self::NoGeneration(_) => Remedy::say("name one of those that `--list` shows"),
            Self::Current(_) => Remedy::say("make a newer one first"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::safe_path::Danger;
    use rusqlite::ffi;
    use rustix::io::Errno;
    use std::os::unix::process::ExitStatusExt;

    /// How a system call may fail, and what is no system call's.
    fn failures() -> Vec<io::Error> {
        let numbers = (1..=133).map(io::Error::from_raw_os_error);
        numbers.chain([io::Error::other("a link")]).collect()
    }

    /// Errors of SQLite's, of every kind.
    fn of_sqlite() -> Vec<rusqlite::Error> {
        let codes = (ffi::SQLITE_ERROR..=ffi::SQLITE_NOTADB).map(|code| {
            let error = ffi::Error::new(code);
            rusqlite::Error::SqliteFailure(error, Some("what it says".to_owned()))
        });
        codes
            .chain([rusqlite::Error::QueryReturnedNoRows])
            .collect()
    }

    fn path() -> PathBuf {
        PathBuf::from("/srv/live/nix/store")
    }

    fn store_path() -> StorePath {
        StorePath::parse(b"7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a").unwrap()
    }

    fn obstacles() -> Vec<Obstacle> {
        let nearest = crate::linux::safe_path::directory(
            Path::new("/"),
            crate::linux::safe_path::Symlinks::Refuse,
        );
        vec![
            Obstacle::Missing {
                component: path(),
                nearest: Box::new(nearest.unwrap()),
            },
            Obstacle::Symlink { component: path() },
            Obstacle::NotDirectory {
                component: path(),
                kind: rustix::fs::FileType::Fifo,
            },
            Obstacle::Unsafe {
                component: path(),
                why: Danger::OpenDirectory,
            },
            Obstacle::Unreachable {
                component: path(),
                errno: Errno::IO.raw_os_error(),
            },
        ]
    }

    /// Every kind of error, for a variant of each: who adds one has to say here what it looks like.
    fn of_each_kind() -> Vec<PublishError> {
        let mut all = vec![
            PublishError::NoParent(path()),
            PublishError::Lock(apply::Error::Observe(Errno::IO.into())),
            PublishError::Schema {
                path: path(),
                verdict: Verdict::default(),
            },
            PublishError::NotValid(vec![store_path()]),
            PublishError::NoPath(path()),
            PublishError::Empty,
            PublishError::NotWhole(Problems::default()),
            PublishError::Record {
                path: path(),
                what: "it is empty".to_owned(),
            },
            PublishError::Registration {
                path: path(),
                line: 1,
                what: "it is empty".to_owned(),
            },
            PublishError::NoImage(path()),
            PublishError::NoRoom {
                path: path(),
                needed: 2,
                available: 1,
            },
            PublishError::NoTool("mksquashfs", "squashfs-tools"),
            PublishError::NoGeneration(3),
            PublishError::Current(3),
        ];
        let tool = |said: &str| PublishError::Tool {
            program: "mksquashfs",
            status: ExitStatus::from_raw(256),
            said: said.to_owned(),
        };
        all.extend(["", "No space left on device", "killed"].map(tool));
        let io = |source| PublishError::Io {
            action: "open",
            path: path(),
            source,
        };
        all.extend(failures().into_iter().map(io));
        let open = |source| PublishError::Open {
            path: path(),
            source,
        };
        all.extend(failures().into_iter().map(OpenError::Io).map(open));
        all.extend(of_sqlite().into_iter().map(OpenError::Sqlite).map(open));
        all.extend(of_sqlite().into_iter().map(|source| PublishError::Sqlite {
            action: "read",
            path: path(),
            source,
        }));
        let obstacle = |obstacle| PublishError::path(&path(), obstacle);
        all.extend(obstacles().into_iter().map(obstacle));
        all.extend(failures().into_iter().map(|source| {
            PublishError::Across(AcrossError::Layer {
                path: "/srv".to_owned(),
                source,
            })
        }));
        all.push(PublishError::Across(AcrossError::Thread(
            Errno::AGAIN.into(),
        )));
        all.extend(failures().into_iter().map(|source| {
            PublishError::Roots(WarmError::Io {
                path: path(),
                source,
            })
        }));
        all.extend(of_sqlite().into_iter().map(|source| {
            PublishError::Lower(LowerError::Sqlite {
                path: path(),
                source,
            })
        }));
        all.push(PublishError::Lower(LowerError::NotNix {
            path: path(),
            table: "Refs".to_owned(),
        }));
        all
    }

    /// The variant's place in the list of all.
    fn kind(error: &PublishError) -> usize {
        match error {
            PublishError::Io { .. } => 0,
            PublishError::Path { .. } => 1,
            PublishError::NoParent(_) => 2,
            PublishError::Lock(_) => 3,
            PublishError::Open { .. } => 4,
            PublishError::Sqlite { .. } => 5,
            PublishError::Lower(_) => 6,
            PublishError::Across(_) => 7,
            PublishError::Roots(_) => 8,
            PublishError::Schema { .. } => 9,
            PublishError::NotValid(_) => 10,
            PublishError::NoPath(_) => 11,
            PublishError::Empty => 12,
            PublishError::NotWhole(_) => 13,
            PublishError::Record { .. } => 14,
            PublishError::Registration { .. } => 15,
            PublishError::NoImage(_) => 16,
            PublishError::NoRoom { .. } => 17,
            PublishError::NoTool(..) => 18,
            PublishError::Tool { .. } => 19,
            PublishError::NoGeneration(_) => 20,
            PublishError::Current(_) => 21,
        }
    }

    #[test]
    fn every_error_has_a_remedy() {
        let errors = of_each_kind();
        let kinds: std::collections::BTreeSet<usize> = errors.iter().map(kind).collect();
        assert_eq!(
            kinds.into_iter().collect::<Vec<_>>(),
            (0..22).collect::<Vec<_>>()
        );
        for error in errors {
            assert!(!error.remedy().is_empty(), "{error}");
        }
    }
}
