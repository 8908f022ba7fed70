//! What keeps an object alive.
//!
//! From the object up to what refers to it, row by row: the cost is that of its referrers, whatever
//! else is in the upper database. Where these are a good part of all rows, all are read at once.

use std::collections::{HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::CollectError;
use super::database::{Keep, UpperRows};
use super::graph::Edges;
use super::layers::{Kind, Layers};
use super::root::{Root, RootKind, Roots};
use crate::config::Store;
use crate::linux::processors;
use crate::linux::root::System;
use crate::lower;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// So many objects are looked up one by one, or this part of all rows.
const FEW: u64 = 1_000;
const SMALL_PART: u64 = 32;
/// Memory for pages of the upper database, in KiB: all of one with 50,000 rows.
const PAGES: u32 = 32 << 10;

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
    Kept {
        /// The roots.
        by: Vec<Kept>,
        /// Directories of roots that this user may not look into.
        unseen: Vec<PathBuf>,
    },
}

/// Finds all that keeps an object, and changes nothing. Roots are read while the database is.
///
/// # Errors
/// When the roots, the upper database or a layer cannot be read.
pub(crate) fn why(
    store: &Store,
    system: &System,
    keep: Keep,
    path: &StorePath,
) -> Result<Why, CollectError> {
    let layers = Layers::open(store)?;
    let (roots, keepers) = processors::both(
        || Roots::read_seen(store, system),
        || keepers(store, &layers, keep, path),
    );
    let keepers = match keepers? {
        Keepers::Found(found) => found,
        Keepers::Unknown => return Ok(Why::Unknown),
        Keepers::Below => return Ok(Why::Below),
    };
    let roots = roots?;
    let in_both = in_both(&layers, &keepers)?;
    let mut kept = Vec::new();
    for (here, (keeper, _)) in keepers.iter().enumerate() {
        let mut add = |root: Root| {
            let way = way(&keepers, here);
            kept.push(Kept { root, way });
        };
        for root in roots.of(keeper) {
            add(root.clone());
        }
        if in_both.contains(&here) {
            add(Root {
                path: keeper.clone(),
                kind: RootKind::BothLayers,
            });
        }
    }
    Ok(Why::Kept {
        by: kept,
        unseen: roots.unseen_directories,
    })
}

/// What an object is kept by, if a root keeps it.
enum Keepers {
    Unknown,
    Below,
    /// It and all that keeps it, each with the place of the one that it keeps: the nearest first.
    Found(Vec<Keeper>),
}

type Keeper = (StorePath, Option<usize>);

fn keepers(
    store: &Store,
    layers: &Layers,
    keep: Keep,
    path: &StorePath,
) -> Result<Keepers, CollectError> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let database = store.database();
    lower::retry(
        || Ok(Box::new(UpperRows::open(&database, directory.clone())?)),
        |rows| {
            let found = search(rows, layers, keep, path)?;
            rows.confirm()?;
            Ok(found)
        },
    )
}

fn search(
    rows: &mut UpperRows,
    layers: &Layers,
    keep: Keep,
    path: &StorePath,
) -> Result<Keepers, CollectError> {
    let Some(start) = rows.id(path)? else {
        return Ok(match layers.lower.has(path.as_str())? {
            true => Keepers::Below,
            false => Keepers::Unknown,
        });
    };
    if layers.lower.has(path.as_str())? && !is_above(layers, path)? {
        return Ok(Keepers::Below);
    }
    rows.keep_pages(PAGES)?;
    let mut search = Search::new(rows, keep)?;
    let mut seen: HashSet<i64> = HashSet::from([start]);
    let mut found = Vec::new();
    let mut open = VecDeque::from([(start, None)]);
    while let Some((id, keeps)) = open.pop_front() {
        let path = search.rows.path_of_id(id)?;
        let here = found.len();
        for keeper in search.keepers_of(id, &path, seen.len())? {
            if seen.insert(keeper) {
                open.push_back((keeper, Some(here)));
            }
        }
        found.push((path, keeps));
    }
    Ok(Keepers::Found(found))
}

fn is_above(layers: &Layers, path: &StorePath) -> Result<bool, CollectError> {
    let found = layers.upper.look(path.as_str())?;
    Ok(matches!(found, Some((Kind::Object, _))))
}

/// The places of those that are in both layers, where a collection leaves them.
fn in_both(layers: &Layers, keepers: &[Keeper]) -> Result<HashSet<usize>, CollectError> {
    let found = Mutex::new(Ok(HashSet::new()));
    processors::work_on(
        keepers.len(),
        || (),
        |(), place| {
            let (path, _) = &keepers[place];
            let is_in_both = layers
                .lower
                .has(path.as_str())
                .and_then(|is_below| Ok(is_below && is_above(layers, path)?));
            if let Ok(false) = is_in_both {
                return true;
            }
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (is_in_both, &mut *found) {
                (Ok(_), Ok(places)) => {
                    places.insert(place);
                    true
                }
                (Err(error), _) => {
                    *found = Err(error);
                    false
                }
                (Ok(_), Err(_)) => false,
            }
        },
    );
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The way from one of the objects found to the first of them.
fn way(found: &[Keeper], from: usize) -> Vec<StorePath> {
    let mut way = Vec::new();
    let mut at = Some(from);
    while let Some((path, next)) = at.and_then(|at| found.get(at)) {
        way.push(path.clone());
        at = *next;
    }
    way
}

/// What keeps each object, looked up one by one, or read at once.
struct Search<'r> {
    rows: &'r mut UpperRows,
    keep: Keep,
    /// So many are looked up one by one.
    few: u64,
    all: Option<Edges>,
}

impl<'r> Search<'r> {
    fn new(rows: &'r mut UpperRows, keep: Keep) -> Result<Self, CollectError> {
        let few = match rows.reads_realisations(keep) {
            true => 0,
            false => FEW.max(rows.about()? / SMALL_PART),
        };
        Ok(Self {
            rows,
            keep,
            few,
            all: None,
        })
    }

    /// The rows of all that keeps an object, where so many objects are known already.
    fn keepers_of(
        &mut self,
        id: i64,
        path: &StorePath,
        known: usize,
    ) -> Result<Vec<i64>, CollectError> {
        if self.all.is_none() && known as u64 > self.few {
            self.rows.read_nodes()?;
            self.all = Some(self.rows.graph(self.keep)?.kept_by());
        }
        let (Some(all), Some(node)) = (&self.all, self.rows.node_of_id(id)) else {
            return Ok(self.rows.kept_by(id, path, self.keep)?);
        };
        let keepers = all.of(node).iter();
        Ok(keepers
            .filter_map(|&node| self.rows.id_of_node(node))
            .collect())
    }
}
