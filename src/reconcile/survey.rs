//! What there is above and below: every row of the upper database, every object of the upper layer.
//!
//! The rows are read once, in their order, and the lower store is asked about each, with as many
//! questions open as it takes. A row takes some 40 bytes meanwhile, and what it refers to 4.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::ReconcileError;
use super::plan::{Above, Below, Facts, NewReferences, Row};
use crate::collect::{Keep, Roots, UpperRows};
use crate::compare::{Comparer, Held, LowerObjects, held};
use crate::config::Store;
use crate::escape::show_path;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::{self, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// What there is.
#[derive(Debug)]
pub(super) struct Survey {
    /// The rows, to be asked for paths by nodes.
    pub rows: UpperRows,
    /// What a plan depends on.
    pub facts: Facts,
    /// In what objects differ that are in both layers, by nodes.
    pub differing: BTreeMap<u32, String>,
    /// Whiteouts over what is valid below.
    pub whiteouts: Vec<StorePath>,
    /// Objects of the upper layer without a row.
    pub without_rows: Vec<Unknown>,
}

/// An object without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Its path.
    pub path: StorePath,
    /// Whether the lower store has an object of that path, which is valid.
    pub below: bool,
    /// Whether that one is equal, byte by byte.
    pub equal: bool,
}

/// Looks at a store. Nothing is written and nothing locked.
///
/// # Errors
/// When a layer, a database or a daemon cannot be read.
pub(super) fn survey(store: &Store, roots: &Roots) -> Result<Survey, ReconcileError> {
    let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
    let layers = Layers {
        upper: safe_path::open_directory(&store.upper_layer, Symlinks::Refuse)
            .map_err(ReconcileError::read(&store.upper_layer))?,
        lower: safe_path::open_directory(&store.lower.real, Symlinks::Follow)
            .map_err(ReconcileError::read(&store.lower.real))?,
    };
    lower::retry(
        || lower::open(&store.lower.source, &directory),
        |source| {
            let held = held(&layers.upper).map_err(ReconcileError::read(&store.upper_layer))?;
            let mut rows = UpperRows::open(&store.database(), directory.clone())?;
            rows.read_nodes()?;
            let graph = rows.graph(Keep {
                derivations: false,
                outputs: false,
                realisations: false,
            })?;
            let names = Names::of(&rows)?;
            let mut reading = Reading {
                store,
                names: &names,
                source: &mut *source,
                below: LowerObjects::new(layers.lower.as_fd()),
                held,
                open: VecDeque::new(),
                facts: Facts {
                    references: graph.references,
                    ..Facts::default()
                },
                both: Vec::new(),
                differing: BTreeMap::new(),
                others: Vec::new(),
            };
            reading.rows(&rows)?;
            reading.new_references()?;
            reading.copies(&layers)?;
            let (whiteouts, without_rows) = reading.without_rows(&layers)?;
            let Reading {
                mut facts,
                differing,
                ..
            } = reading;
            for root in &roots.roots {
                facts.roots.extend(rows.node(&root.path)?);
            }
            rows.confirm()?;
            source.confirm()?;
            Ok(Survey {
                rows,
                facts,
                differing,
                whiteouts,
                without_rows,
            })
        },
    )
}

struct Layers {
    upper: OwnedFd,
    lower: OwnedFd,
}

/// From names to nodes, in 16 bytes each. The hashes are of this run: nobody makes two names that
/// agree in one.
struct Names {
    state: RandomState,
    places: Vec<(u64, u32)>,
}

impl Names {
    fn of(rows: &UpperRows) -> Result<Self, ReconcileError> {
        let state = RandomState::new();
        let mut places = Vec::with_capacity(rows.count());
        rows.each_path(|node, path| {
            places.push((state.hash_one(path.as_str()), node));
            Ok::<_, ReconcileError>(())
        })?;
        places.sort_unstable();
        Ok(Self { state, places })
    }

    fn node(&self, path: &StorePath) -> Option<u32> {
        let hash = self.state.hash_one(path.as_str());
        let place = self.places.binary_search_by_key(&hash, |(hash, _)| *hash);
        place.ok().map(|place| self.places[place].1)
    }
}

/// A row that the lower store was asked about.
struct Asked {
    node: u32,
    path: StorePath,
    info: PathInfo,
}

/// What a row refers to in the lower store, where that is another one.
struct Other {
    node: u32,
    above: Vec<u32>,
    /// Those without a row above.
    new: Vec<StorePath>,
}

struct Reading<'a> {
    store: &'a Store,
    names: &'a Names,
    source: &'a mut dyn Source,
    below: LowerObjects<'a>,
    /// What the upper layer has; of the objects, those without a row at the end.
    held: Held,
    open: VecDeque<Asked>,
    facts: Facts,
    /// Objects in both layers of which both databases say the same.
    both: Vec<(u32, StorePath)>,
    differing: BTreeMap<u32, String>,
    others: Vec<Other>,
}

impl Reading<'_> {
    /// Goes through the rows, and asks the lower store about each.
    fn rows(&mut self, rows: &UpperRows) -> Result<(), ReconcileError> {
        let window = self.source.window();
        rows.each(|node, path, info| {
            self.source.ask(&path)?;
            self.open.push_back(Asked { node, path, info });
            while self.open.len() >= window {
                self.answer()?;
            }
            Ok::<_, ReconcileError>(())
        })?;
        while !self.open.is_empty() {
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), ReconcileError> {
        let Some(asked) = self.open.pop_front() else {
            return Ok(());
        };
        let below = self.source.answer()?;
        let is_above = self.held.objects.remove(&asked.path);
        let below = match below {
            Some(info) => self.compare(&asked, &info)?,
            None => Below::Gone,
        };
        let above = match is_above {
            true => Above::Object,
            false => Above::Row,
        };
        if is_above {
            match below {
                Below::Same | Below::Described => self.both.push((asked.node, asked.path)),
                Below::Other | Below::Impossible => {
                    let why = "the lower store says something else of it".to_owned();
                    self.differing.insert(asked.node, why);
                }
                Below::Gone | Below::NoObject => {}
            }
        }
        // They come in their order.
        self.facts.rows.push(Row { above, below });
        Ok(())
    }

    fn compare(&mut self, asked: &Asked, below: &PathInfo) -> Result<Below, ReconcileError> {
        let Asked { node, path, info } = asked;
        let has = self.below.has(path);
        if !has.map_err(ReconcileError::read(&self.store.lower.real))? {
            return Ok(Below::NoObject);
        }
        let mut nodes: Vec<u32> = Vec::with_capacity(below.references.len());
        let mut new = Vec::new();
        for reference in &below.references {
            match self.names.node(reference) {
                Some(node) => nodes.push(node),
                None => new.push(reference.clone()),
            }
        }
        nodes.sort_unstable();
        let mut ours = self.facts.references.of(*node).to_vec();
        ours.sort_unstable();
        let sizes_agree = info.nar_size == below.nar_size || 0 == info.nar_size.min(below.nar_size);
        let same_hash = info.nar_hash == below.nar_hash;
        if same_hash && sizes_agree && new.is_empty() && nodes == ours {
            let is_described = info.signatures == below.signatures
                && info.deriver == below.deriver
                && info.registration_time == below.registration_time
                && info.ultimate == below.ultimate
                && info.nar_size == below.nar_size
                && info.content_address == below.content_address;
            return Ok(match is_described {
                true => Below::Same,
                false => Below::Described,
            });
        }
        let is_addressed = info.content_address.is_some() || below.content_address.is_some();
        if is_addressed && !same_hash {
            return Ok(Below::Impossible);
        }
        let (node, above) = (*node, nodes);
        self.others.push(Other { node, above, new });
        Ok(Below::Other)
    }

    /// Finds out whether what the other rows refer to is there.
    fn new_references(&mut self) -> Result<(), ReconcileError> {
        for Other { node, above, new } in std::mem::take(&mut self.others) {
            let is_nowhere = |node: &u32| {
                let row = self.facts.rows[*node as usize];
                row.above == Above::Row && matches!(row.below, Below::Gone | Below::NoObject)
            };
            let mut incomplete = above.iter().any(is_nowhere);
            for (path, info) in new.iter().zip(lower::answers(self.source, &new)?) {
                let has = self.below.has(path);
                let has = has.map_err(ReconcileError::read(&self.store.lower.real))?;
                incomplete |= info.is_none() || !has;
            }
            let new = NewReferences {
                nodes: above,
                incomplete,
            };
            self.facts.new_references.insert(node, new);
        }
        Ok(())
    }

    /// Compares what is in both layers, byte by byte.
    fn copies(&mut self, layers: &Layers) -> Result<(), ReconcileError> {
        let mut comparer = Comparer::new();
        for (node, path) in std::mem::take(&mut self.both) {
            match difference(&mut comparer, layers, &path) {
                None => self.facts.rows[node as usize].above = Above::EqualObject,
                Some(why) => drop(self.differing.insert(node, why)),
            }
        }
        Ok(())
    }

    /// Whiteouts over what is valid below, and objects without a row.
    fn without_rows(
        &mut self,
        layers: &Layers,
    ) -> Result<(Vec<StorePath>, Vec<Unknown>), ReconcileError> {
        let Held { objects, whiteouts } = std::mem::take(&mut self.held);
        let mut hidden: Vec<_> = whiteouts.into_iter().collect();
        hidden.sort();
        let are_below = self.are_below(&hidden)?;
        let mut are_below = are_below.into_iter();
        hidden.retain(|_| are_below.next() == Some(true));
        let mut unknown: Vec<_> = objects.into_iter().collect();
        unknown.sort();
        let are_below = self.are_below(&unknown)?;
        let mut comparer = Comparer::new();
        let unknown = unknown.into_iter().zip(are_below);
        let unknown = unknown.map(|(path, below)| Unknown {
            equal: below && difference(&mut comparer, layers, &path).is_none(),
            below,
            path,
        });
        Ok((hidden, unknown.collect()))
    }

    /// Whether the lower store has these.
    fn are_below(&mut self, paths: &[StorePath]) -> Result<Vec<bool>, ReconcileError> {
        let infos = lower::answers(self.source, paths)?;
        let mut are_below = Vec::with_capacity(paths.len());
        for (path, info) in paths.iter().zip(infos) {
            let has = self.below.has(path);
            let has = has.map_err(ReconcileError::read(&self.store.lower.real))?;
            are_below.push(info.is_some() && has);
        }
        Ok(are_below)
    }
}

/// In what the two copies of an object differ, in words.
fn difference(comparer: &mut Comparer, layers: &Layers, path: &StorePath) -> Option<String> {
    let directories = [layers.upper.as_fd(), layers.lower.as_fd()];
    match comparer.difference(directories, path.as_str()) {
        Ok(None) => None,
        Ok(Some(place)) if place.as_os_str().is_empty() => Some("the copies differ".to_owned()),
        Ok(Some(place)) => Some(format!("the copies differ in {}", show_path(&place))),
        Err(error) => Some(format!("the copies cannot be compared: {error}")),
    }
}
