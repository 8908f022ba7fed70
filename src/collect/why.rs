//! What keeps an object alive.
//!
//! From the object up to what refers to it, row by row: the cost is that of its referrers, whatever
//! else is in the upper database.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;

use super::CollectError;
use super::database::{Keep, UpperRows};
use super::layers::{Kind, Layers};
use super::root::{Root, RootKind, Roots};
use crate::config::Store;
use crate::lower;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// A root that keeps an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The root.
    pub root: Root,
    /// A shortest way from what it names to the object, both included.
    pub way: Vec<StorePath>,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The upper database does not know it.
    Unknown,
    /// It is in the lower store only: a collection does not touch it.
    Below,
    /// What keeps it; nothing when it is garbage.
    Kept(Vec<Kept>),
}

/// Finds all that keeps an object, and changes nothing.
///
/// # Errors
/// When the upper database or a layer cannot be read.
pub(crate) fn why(
    store: &Store,
    keep: Keep,
    roots: &Roots,
    path: &StorePath,
) -> Result<Why, CollectError> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let database = store.database();
    let layers = Layers::open(store)?;
    let mut by_path: HashMap<&StorePath, Vec<&Root>> = HashMap::new();
    for root in &roots.roots {
        by_path.entry(&root.path).or_default().push(root);
    }
    lower::retry(
        || Ok(Box::new(UpperRows::open(&database, directory.clone())?)),
        |rows| {
            let found = search(rows, &layers, keep, &by_path, path)?;
            rows.confirm()?;
            Ok(found)
        },
    )
}

fn search(
    rows: &UpperRows,
    layers: &Layers,
    keep: Keep,
    roots: &HashMap<&StorePath, Vec<&Root>>,
    path: &StorePath,
) -> Result<Why, CollectError> {
    let Some(start) = rows.id(path)? else {
        return Ok(match layers.lower.has(path.as_str())? {
            true => Why::Below,
            false => Why::Unknown,
        });
    };
    let is_above = |path: &StorePath| {
        let found = layers.upper.look(path.as_str())?;
        Ok::<_, CollectError>(matches!(found, Some((Kind::Object, _))))
    };
    if !is_above(path)? && layers.lower.has(path.as_str())? {
        return Ok(Why::Below);
    }
    let mut kept = Vec::new();
    // Each object seen, and what of those before it is kept by it.
    let mut seen: HashSet<i64> = HashSet::from([start]);
    let mut found: Vec<(StorePath, Option<usize>)> = Vec::new();
    let mut open = VecDeque::from([(start, None)]);
    while let Some((id, keeps)) = open.pop_front() {
        let path = rows.row_of_id(id)?.path;
        let here = found.len();
        found.push((path.clone(), keeps));
        let way = || {
            let mut way = Vec::new();
            let mut at = Some(here);
            while let Some((path, next)) = at.and_then(|at| found.get(at)) {
                way.push(path.clone());
                at = *next;
            }
            way
        };
        for root in roots.get(&path).into_iter().flatten() {
            kept.push(Kept {
                root: (*root).clone(),
                way: way(),
            });
        }
        if is_above(&path)? && layers.lower.has(path.as_str())? {
            kept.push(Kept {
                root: Root {
                    path: path.clone(),
                    kind: RootKind::BothLayers,
                },
                way: way(),
            });
        }
        for referrer in rows.kept_by(id, &path, keep)? {
            if seen.insert(referrer) {
                open.push_back((referrer, Some(here)));
            }
        }
    }
    Ok(Why::Kept(kept))
}
