//! What the rows of a database say, in a few bytes each: enough to find, in one pass through each, the
//! rows in which two databases agree.
//!
//! A summary is a hash with a key of this run: nobody makes two rows that agree in one. It is of what
//! is written, so rows that say the same in other words can differ in theirs, and have to be read.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::LowerError;
use super::database::Database;
use super::places::Places;

/// What summaries are made with: only those of one key can be compared.
#[derive(Debug, Clone, Default)]
pub struct Key(RandomState);

impl Key {
    /// The hash of a store object's base name.
    pub(crate) fn name(&self, base_name: &[u8]) -> u64 {
        self.0.hash_one(base_name)
    }

    /// The hash of a path as it is written: in this store directory that of its base name.
    fn path(&self, path: &[u8], directory: &[u8]) -> u64 {
        let below = path
            .strip_prefix(directory)
            .and_then(|rest| rest.strip_prefix(b"/"));
        // What has a slash is no base name.
        self.name(below.unwrap_or(path))
    }
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Summary {
    /// The hash of its path.
    pub name: u64,
    /// What it says. References belong to it once they were [added](Summary::refers_to).
    pub says: u64,
}

impl Summary {
    /// Adds a reference to a path of this hash. Their order does not matter.
    pub(crate) fn refers_to(&mut self, name: u64) {
        // A sum of hashes that nobody can foretell.
        self.says = self.says.wrapping_add(name);
    }

    /// Has it agree with none.
    fn spoil(&mut self) {
        self.says = self
            .says
            .wrapping_add(RandomState::new().hash_one(self.name));
    }
}

/// Hands every row of the database that is attached as `name` to `each`, in the order of their ids: the
/// id, the path as it is written, and a summary without references.
///
/// # Errors
/// When the database cannot be read, or is damaged; and those of `each`.
pub(crate) fn each_row<E: From<LowerError>>(
    (database, connection, name): (&Database, &Connection, &str),
    directory: &[u8],
    key: &Key,
    mut each: impl FnMut(i64, &[u8], Summary) -> Result<(), E>,
) -> Result<(), E> {
    let sqlite = |error| database.error(error);
    let query = format!(
        "select id, path, hash, deriver, sigs, ca, registrationTime, narSize, ultimate \
         from {name}.ValidPaths order by id"
    );
    let mut statement = connection.prepare(&query).map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    let mut last = None;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let id = row.get(0).map_err(sqlite)?;
        database.in_order(&mut last, id, "ValidPaths")?;
        let path = match row.get_ref(1).map_err(sqlite)? {
            ValueRef::Text(path) => path,
            _ => b"",
        };
        let mut hasher = key.0.build_hasher();
        for column in 2..9 {
            write(
                &mut hasher,
                row.get_ref(column).map_err(sqlite)?,
                column > 5,
            );
        }
        let summary = Summary {
            name: key.path(path, directory),
            says: hasher.finish(),
        };
        each(id, path, summary)?;
    }
    Ok(())
}

/// Adds a value to a hash. That nothing is written reads as an empty text, or as 0.
fn write(hasher: &mut impl Hasher, value: ValueRef<'_>, is_number: bool) {
    match value {
        ValueRef::Null if is_number => (1_u8, 0_i64).hash(hasher),
        ValueRef::Null => (2_u8, [0_u8; 0].as_slice()).hash(hasher),
        ValueRef::Integer(number) => (1_u8, number).hash(hasher),
        ValueRef::Text(text) => (2_u8, text).hash(hasher),
        ValueRef::Blob(bytes) => (3_u8, bytes).hash(hasher),
        ValueRef::Real(number) => (4_u8, number.to_bits()).hash(hasher),
    }
}

/// The summaries of all rows, references and all, sorted by the hashes of their paths.
///
/// # Errors
/// When the database cannot be read, or is damaged.
pub(super) fn all(
    attached: (&Database, &Connection, &str),
    directory: &[u8],
    key: &Key,
) -> Result<Vec<Summary>, LowerError> {
    let (mut ids, mut summaries) = (Vec::new(), Vec::new());
    each_row(attached, directory, key, |id, _, summary| {
        ids.push(id);
        summaries.push(summary);
        Ok::<_, LowerError>(())
    })?;
    add_references(attached, &ids, &mut summaries)?;
    drop(ids);
    summaries.sort_unstable();
    Ok(summaries)
}

/// Adds the references to the summaries of the rows with these ids.
fn add_references(
    (database, connection, name): (&Database, &Connection, &str),
    ids: &[i64],
    summaries: &mut [Summary],
) -> Result<(), LowerError> {
    let sqlite = |error| database.error(error);
    let query = format!(
        "select referrer, reference from {name}.Refs \
         indexed by sqlite_autoindex_Refs_1 order by referrer, reference"
    );
    let mut statement = connection.prepare(&query).map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    let places = Places::new(ids);
    let mut last = None;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let (from, to): (i64, i64) = (row.get(0).map_err(sqlite)?, row.get(1).map_err(sqlite)?);
        if last.replace((from, to)) >= Some((from, to)) {
            let what = format!("the reference {from} is not in its place, to {to}");
            return Err(database.damaged(what));
        }
        let name = places.get(to).map(|place| summaries[place as usize].name);
        let referrer = places.get(from).map(|place| &mut summaries[place as usize]);
        match (referrer, name) {
            (Some(referrer), Some(name)) => referrer.refers_to(name),
            // It is to be read, and told.
            (Some(referrer), None) => referrer.spoil(),
            (None, _) => {}
        }
    }
    Ok(())
}
