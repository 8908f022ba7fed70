//! What an upper store took from below, against another generation of the lower store.
//!
//! Rows whose object is not in the upper layer are of what is below. A generation that does not have
//! such a path, or has it with other contents, would leave a valid row without its object.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{OptionalExtension, Row};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::layers::{AcrossError, MOST_REFERRERS, Several};
use crate::config::Store;
use crate::escape::show_path;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::database::Database;
use crate::lower::{self, LowerError};
use crate::nix::hash::parse_sha256;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_object;
use crate::nix::store_path::StorePath;
use crate::sqlite::held::HeldConnection;
use crate::sqlite::open;

/// How long somebody who writes may keep us waiting.
const BUSY: Duration = Duration::from_secs(60);

/// How many of the newest paths of a generation are told.
const NEWEST: u32 = 100;

/// Which rows are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Among<'a> {
    /// All of them.
    All,
    /// These, and those that came after the row of this id, wherever they are from.
    These {
        /// The paths.
        paths: &'a BTreeSet<StorePath>,
        /// The id.
        after: i64,
    },
}

/// What a generation lacks, and what is in it.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// What the upper store took from below, and this generation does not have as it was.
    pub lacking: Several<Lacking>,
    /// Rows that were looked at.
    pub asked: u64,
    /// The highest id in the upper database.
    pub highest: i64,
    /// The newest paths of the generation.
    pub newest: Vec<StorePath>,
}

/// A path that the upper store needs, and a generation lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lacking {
    /// Which.
    pub path: StorePath,
    /// Whether it is there with other contents.
    pub other: bool,
    /// Paths of the upper store that refer to it: the first few.
    pub referrers: Vec<StorePath>,
}

/// Compares the upper store with the generation whose state directory this is.
///
/// # Errors
/// When a database or the upper layer cannot be read.
pub(crate) fn needs(
    store: &Store,
    generation: &Path,
    among: Among<'_>,
) -> Result<Needs, AcrossError> {
    let path = layout::database(generation);
    let upper = Upper::open(store)?;
    lower::retry(
        || Ok(Box::new(Database::open(&path)?)),
        |lower| {
            // Where an earlier try ended before it was let go.
            let _ = upper.connection.execute("detach lower", []);
            lower.attach(&upper.connection, "lower")?;
            let needs = Comparing {
                upper: &upper,
                lower,
            }
            .run(among);
            let detached = upper.connection.execute("detach lower", []);
            let needs = needs?;
            detached.map_err(|error| lower.error(error))?;
            lower.confirm()?;
            Ok(needs)
        },
    )
}

/// The upper store: its database, read as Nix reads it, and its layer.
struct Upper {
    connection: HeldConnection,
    database: PathBuf,
    layer: OwnedFd,
    shown: String,
    directory: StoreDirectory,
}

impl Upper {
    fn open(store: &Store) -> Result<Self, AcrossError> {
        let failed = |path: &Path| {
            let path = show_path(path).into_owned();
            move |source| AcrossError::Layer { path, source }
        };
        let above = store.state.join(layout::DATABASE_DIRECTORY);
        let held = safe_path::open_directory(&above, Symlinks::Refuse).map_err(failed(&above))?;
        let database = store.database();
        let connection =
            open::to_read_in_use(&held, layout::DATABASE_FILE, store.use_sqlite_wal, BUSY)
                .map_err(|error| failed(&database)(std::io::Error::other(error.to_string())))?;
        let layer = safe_path::open_directory(&store.upper_layer, Symlinks::Refuse)
            .map_err(failed(&store.upper_layer))?;
        Ok(Self {
            connection,
            database,
            layer,
            shown: show_path(&store.upper_layer).into_owned(),
            directory: StoreDirectory::new(store.store.as_os_str().as_bytes()),
        })
    }

    /// Whether an object is in the upper layer.
    fn has(&self, path: &StorePath) -> Result<bool, AcrossError> {
        match statat(&self.layer, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(store_object::can_be(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(AcrossError::Layer {
                path: self.shown.clone(),
                source: errno.into(),
            }),
        }
    }

    fn error(&self, source: rusqlite::Error) -> AcrossError {
        LowerError::Sqlite {
            path: self.database.clone(),
            source,
        }
        .into()
    }
}

/// What tells an object of a path from others of it.
#[derive(PartialEq, Eq)]
struct Content {
    hash: Vec<u8>,
    address: Vec<u8>,
}

impl Content {
    /// From two columns, the first of which is `first`.
    fn of(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let column = |column| -> rusqlite::Result<Vec<u8>> {
            let text = row.get_ref(column)?.as_bytes_or_null()?;
            Ok(text.unwrap_or_default().to_owned())
        };
        let hash = column(first)?;
        Ok(Self {
            // However it is written.
            hash: parse_sha256(&hash).map_or(hash, |hash| hash.to_vec()),
            address: column(first + 1)?,
        })
    }
}

struct Comparing<'a> {
    upper: &'a Upper,
    lower: &'a Database,
}

impl Comparing<'_> {
    fn run(&self, among: Among<'_>) -> Result<Needs, AcrossError> {
        let Upper { connection, .. } = self.upper;
        let upper = |error| self.upper.error(error);
        // Both tables of the upper database in one state of it.
        let transaction = connection.unchecked_transaction().map_err(upper)?;
        let highest = transaction
            .query_row(
                "select coalesce(max(id), 0) from main.ValidPaths",
                [],
                |row| row.get(0),
            )
            .map_err(upper)?;
        let mut needs = Needs {
            highest,
            newest: self.newest()?,
            ..Needs::default()
        };
        match among {
            Among::All => self.after(i64::MIN, &mut needs)?,
            Among::These { paths, after } => {
                for path in paths {
                    let whole = self.upper.directory.print(path);
                    let row = transaction
                        .prepare_cached(
                            "select hash, ca from main.ValidPaths \
                             indexed by sqlite_autoindex_ValidPaths_1 where path = ?1 and id <= ?2",
                        )
                        .and_then(|mut statement| {
                            let parameters = (String::from_utf8_lossy(&whole), after);
                            let found = statement.query_row(parameters, |row| Content::of(row, 0));
                            found.optional()
                        })
                        .map_err(upper)?;
                    if let Some(content) = row {
                        self.look(path, &content, &mut needs)?;
                    }
                }
                self.after(after, &mut needs)?;
            }
        }
        Ok(needs)
    }

    /// Looks at the rows that came after one.
    fn after(&self, after: i64, needs: &mut Needs) -> Result<(), AcrossError> {
        let upper = |error| self.upper.error(error);
        let mut statement = self
            .upper
            .connection
            .prepare("select path, hash, ca from main.ValidPaths where id > ? order by id")
            .map_err(upper)?;
        let mut rows = statement.query([after]).map_err(upper)?;
        while let Some(row) = rows.next().map_err(upper)? {
            let path = row.get_ref(0).map_err(upper)?.as_bytes().map_err(|error| {
                upper(rusqlite::Error::FromSqlConversionFailure(
                    0,
                    rusqlite::types::Type::Text,
                    error.into(),
                ))
            })?;
            // A row of another store is a finding of its own.
            let Ok(path) = self.upper.directory.parse(path) else {
                continue;
            };
            let content = Content::of(row, 1).map_err(upper)?;
            self.look(&path, &content, needs)?;
        }
        Ok(())
    }

    /// Looks for a path of the upper store in the generation.
    fn look(
        &self,
        path: &StorePath,
        content: &Content,
        needs: &mut Needs,
    ) -> Result<(), AcrossError> {
        needs.asked += 1;
        if self.upper.has(path)? {
            return Ok(());
        }
        let whole = self.upper.directory.print(path);
        let below = self
            .upper
            .connection
            .prepare_cached(
                "select hash, ca from lower.ValidPaths \
                 indexed by sqlite_autoindex_ValidPaths_1 where path = ?",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([String::from_utf8_lossy(&whole)], |row| Content::of(row, 0))
                    .optional()
            })
            .map_err(|error| self.lower.error(error))?;
        if below.as_ref() != Some(content) {
            let referrers = match needs.lacking.is_full() {
                false => self.referrers(&whole)?,
                true => Vec::new(),
            };
            needs.lacking.push(Lacking {
                path: path.clone(),
                other: below.is_some(),
                referrers,
            });
        }
        Ok(())
    }

    /// Paths of the upper store that refer to one, itself aside.
    fn referrers(&self, path: &[u8]) -> Result<Vec<StorePath>, AcrossError> {
        let upper = |error| self.upper.error(error);
        let mut statement = self
            .upper
            .connection
            .prepare_cached(
                "select r.path from main.ValidPaths p indexed by sqlite_autoindex_ValidPaths_1 \
                 cross join main.Refs on reference = p.id cross join main.ValidPaths r \
                 on r.id = referrer where p.path = ?1 and referrer != p.id limit ?2",
            )
            .map_err(upper)?;
        let most = i64::try_from(MOST_REFERRERS).unwrap_or(i64::MAX);
        let found = statement
            .query_map((String::from_utf8_lossy(path), most), |row| row.get(0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
            .map_err(upper)?;
        let paths = found
            .iter()
            .map(|path| self.upper.directory.parse(path.as_bytes()));
        let mut paths: Vec<StorePath> = paths.flatten().collect();
        paths.sort();
        Ok(paths)
    }

    /// The newest paths of the generation.
    fn newest(&self) -> Result<Vec<StorePath>, AcrossError> {
        let lower = |error| self.lower.error(error);
        let mut statement = self
            .upper
            .connection
            .prepare("select path from lower.ValidPaths order by id desc limit ?")
            .map_err(lower)?;
        let mut rows = statement.query([NEWEST]).map_err(lower)?;
        let mut newest = Vec::new();
        while let Some(row) = rows.next().map_err(lower)? {
            let path =
                lower::sqlite::text(row, 0).and_then(|path| self.upper.directory.parse(path));
            newest.push(path.map_err(|what| self.lower.damaged(what))?);
        }
        Ok(newest)
    }
}
