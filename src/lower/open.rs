use std::thread;
use std::time::Duration;

use super::daemon::DaemonSource;
use super::sqlite::SqliteSource;
use super::{LowerError, OverlaySource, Source};
use crate::config::MetadataSource;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;

/// How often a source is read again after it changed meanwhile.
const TRIES: u32 = 5;
/// The pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens a lower metadata source in its present state. `store` is the store directory that both
/// stores have.
///
/// # Errors
/// When the source cannot be reached or read. [`LowerError::is_transient`] tells whether another
/// try can help.
pub(crate) fn open(
    source: &MetadataSource,
    store: &StoreDirectory,
) -> Result<Box<dyn Source>, LowerError> {
    open_each(source, store, &|database| database)
}

/// The same, for what rows are made from: a database has to have the rows that one it is asked for
/// refers to. Otherwise it passes over such a reference, as Nix does.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_whole(
    source: &MetadataSource,
    store: &StoreDirectory,
) -> Result<Box<dyn Source>, LowerError> {
    open_each(source, store, &SqliteSource::whole)
}

fn open_each(
    source: &MetadataSource,
    store: &StoreDirectory,
    prepare: &dyn Fn(SqliteSource) -> SqliteSource,
) -> Result<Box<dyn Source>, LowerError> {
    let database = |state| {
        let database = SqliteSource::open(&layout::database(state), store.clone())?;
        Ok::<_, LowerError>(prepare(database))
    };
    Ok(match source {
        MetadataSource::Database { state, .. } => Box::new(database(state)?),
        MetadataSource::Daemon { socket } => Box::new(DaemonSource::open(socket, store.clone())?),
        MetadataSource::Overlay { state, lower, .. } => Box::new(OverlaySource::new(
            database(state)?,
            open_each(&lower.source, store, prepare)?,
        )),
        MetadataSource::Ssh { authority } => {
            return Err(LowerError::Ssh {
                authority: authority.clone(),
            });
        }
    })
}

/// Opens a source with `open` and reads it with `read`, which has to confirm what it read. When
/// others changed it meanwhile, does so again, a few times: `read` begins anew each time, and has to
/// undo what it did before.
///
/// # Errors
/// What `open` and `read` say; [`SnapshotError::Changed`](crate::sqlite::snapshot::SnapshotError) when
/// every try was disturbed.
pub(crate) fn retry<S: ?Sized, T, E: From<LowerError> + Transient>(
    mut open: impl FnMut() -> Result<Box<S>, LowerError>,
    mut read: impl FnMut(&mut S) -> Result<T, E>,
) -> Result<T, E> {
    let mut pause = PAUSE;
    let mut once = || read(&mut *open()?);
    for _ in 1..TRIES {
        match once() {
            Err(error) if error.is_transient() => {}
            result => return result,
        }
        thread::sleep(pause);
        pause *= 2;
    }
    once()
}

/// Errors that another try may not meet again.
pub(crate) trait Transient {
    /// Whether this is one.
    fn is_transient(&self) -> bool;
}
