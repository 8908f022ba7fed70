//! What belongs together: the upper layer, the upper database, and what is remembered of them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::path::Visited;
use super::{DatabaseFacts, FileFacts, Found, Pairing, Rows};
use crate::compare::{Held, held, objects};
use crate::config::Store;
use crate::linux::safe_path::Reached;
use crate::nix::store_directory::StoreDirectory;
use crate::records::Memory;
use crate::records::layer_mark::{self, Mark};

/// Looks at it: at every row of the upper database, unless `rows` are known already, and at the names
/// in the upper layer.
pub(super) fn observe(
    store: &Store,
    upper: &Visited,
    lower: &Visited,
    database: &DatabaseFacts,
    known: Option<Rows>,
) -> Pairing {
    let memory = Memory::read_any(store);
    let remembered = memory.as_ref().and_then(|it| it.upper_layer.as_ref());
    let layer = upper.reached.as_ref().map(Reached::open);
    let mark = match &layer {
        Some(Ok(layer)) => layer_mark::read(layer),
        Some(Err(_)) => Mark::Impossible,
        None => Mark::None,
    };
    let held = match &layer {
        Some(Ok(layer)) => held(layer).map_err(|error| error.to_string()),
        Some(Err(error)) => Err(error.to_string()),
        None if matches!(upper.place.found, Found::Missing { .. }) => Ok(Held::default()),
        None => Err(String::new()),
    };
    let (objects, rows) = match held {
        Ok(held) => (
            held.objects.len() as u64,
            known
                .unwrap_or_else(|| rows(store, &held, layer.and_then(Result::ok), lower, database)),
        ),
        Err(why) => (0, Rows::Unknown(why)),
    };
    Pairing {
        mark,
        remembered: memory.is_some(),
        remembered_mark: remembered.and_then(|layer| layer.mark.clone()),
        remembered_rows: remembered.map_or(0, |layer| layer.rows),
        accepted_loss: remembered.is_some_and(|layer| layer.accepted_loss),
        objects,
        rows,
    }
}

fn rows(
    store: &Store,
    held: &Held,
    upper: Option<OwnedFd>,
    lower: &Visited,
    database: &DatabaseFacts,
) -> Rows {
    match database.file {
        FileFacts::Missing | FileFacts::File { size: 0, .. } => return Rows::NoDatabase,
        FileFacts::File { .. } => {}
        // Said where it is about the database.
        FileFacts::Other(_) | FileFacts::Unreachable(_) => {
            return Rows::Unknown(String::new());
        }
    }
    // That the lower store directory is not there is a finding of its own.
    let Some(Ok(lower)) = lower.reached.as_ref().map(Reached::open) else {
        return Rows::Unknown(String::new());
    };
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    match objects(
        &store.database(),
        &directory,
        held,
        upper.as_ref().map(OwnedFd::as_fd),
        lower,
    ) {
        Ok(objects) => Rows::Known(objects),
        Err(error) => Rows::Unknown(error.to_string()),
    }
}
