//! What keeps an object alive.
//!
//! From the object up to what refers to it, row by row: the cost is that of its referrers, whatever
//! else is in the upper database. Where these are a good part of all rows, all are read at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;

use super::CollectError;
use super::database::{Keep, UpperRows};
use super::graph::Edges;
use super::layers::{Kind, Layers};
use super::root::{Root, RootKind, Roots};
use crate::config::Store;
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
    rows: &mut UpperRows,
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
    if layers.lower.has(path.as_str())? && !is_above(path)? {
        return Ok(Why::Below);
    }
    rows.keep_pages(PAGES)?;
    let mut kept = Vec::new();
    let mut keepers = Keepers::new(rows, keep)?;
    // Each object seen, and what of those before it is kept by it.
    let mut seen: HashSet<i64> = HashSet::from([start]);
    let mut found: Vec<(StorePath, Option<usize>)> = Vec::new();
    let mut open = VecDeque::from([(start, None)]);
    while let Some((id, keeps)) = open.pop_front() {
        let path = keepers.rows.path_of_id(id)?;
        let here = found.len();
        found.push((path.clone(), keeps));
        for root in roots.get(&path).into_iter().flatten() {
            kept.push(Kept {
                root: (*root).clone(),
                way: way(&found, here),
            });
        }
        if layers.lower.has(path.as_str())? && is_above(&path)? {
            kept.push(Kept {
                root: Root {
                    path: path.clone(),
                    kind: RootKind::BothLayers,
                },
                way: way(&found, here),
            });
        }
        for keeper in keepers.of(id, &path, seen.len())? {
            if seen.insert(keeper) {
                open.push_back((keeper, Some(here)));
            }
        }
    }
    Ok(Why::Kept(kept))
}

/// The way from one of the objects found to the first of them.
fn way(found: &[(StorePath, Option<usize>)], from: usize) -> Vec<StorePath> {
    let mut way = Vec::new();
    let mut at = Some(from);
    while let Some((path, next)) = at.and_then(|at| found.get(at)) {
        way.push(path.clone());
        at = *next;
    }
    way
}

/// What keeps each object, looked up one by one, or read at once.
struct Keepers<'r> {
    rows: &'r mut UpperRows,
    keep: Keep,
    /// So many are looked up one by one.
    few: u64,
    all: Option<Edges>,
}

impl<'r> Keepers<'r> {
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
    fn of(&mut self, id: i64, path: &StorePath, known: usize) -> Result<Vec<i64>, CollectError> {
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
