use std::thread;
use std::time::Duration;

use super::daemon::DaemonSource;
use super::sqlite::SqliteSource;
use super::{LowerError, OverlaySource, Source, StoreDirectory};
use crate::config::MetadataSource;

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
pub fn open(
    source: &MetadataSource,
    store: &StoreDirectory,
) -> Result<Box<dyn Source>, LowerError> {
    Ok(match source {
        MetadataSource::Database { state, .. } => Box::new(SqliteSource::open(
            &state.join("db/db.sqlite"),
            store.clone(),
        )?),
        MetadataSource::Daemon { socket } => Box::new(DaemonSource::open(socket, store.clone())?),
        MetadataSource::Overlay { state, lower, .. } => Box::new(OverlaySource::new(
            SqliteSource::open(&state.join("db/db.sqlite"), store.clone())?,
            open(&lower.source, store)?,
        )),
        MetadataSource::Ssh { authority } => {
            return Err(LowerError::Ssh {
                authority: authority.clone(),
            });
        }
    })
}

/// Opens a source with `open`, reads it with `read`, and proves that all that was read belongs to
/// one state of it. When others changed it meanwhile, does so again, a few times: `read` has to
/// begin anew each time, and nothing that it read may be used before this returns.
///
/// # Errors
/// What `open` and `read` say, and [`SnapshotError::Changed`](super::sqlite::SnapshotError) when
/// every try was disturbed.
pub fn read<S: Source + ?Sized, T, E: From<LowerError>>(
    mut open: impl FnMut() -> Result<Box<S>, LowerError>,
    mut read: impl FnMut(&mut S) -> Result<T, E>,
) -> Result<T, E> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match open() {
            Ok(mut source) => {
                let result = read(&mut source);
                match source.confirm() {
                    Ok(()) => return result,
                    // Whatever went wrong in `read` may come from the change.
                    Err(error) if error.is_transient() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
        thread::sleep(pause);
        pause *= 2;
    }
    let mut source = open()?;
    let result = read(&mut source);
    source.confirm()?;
    result
}
