//! What there is above and below: every row of the upper database, every object of the upper layer.
//!
//! Both databases are read at once, in their order, and what they say of each path is compared in
//! summaries; the lower store is asked only about the rows that differ there. One that cannot be read
//! so is asked about each, with as many questions open as it takes: a daemon, and a database that is
//! far larger than the upper one. A row takes some 60 bytes meanwhile, and what it refers to 4; a row
//! below 16.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::thread;

use super::ReconcileError;
use super::plan::{Above, Below, Facts, NewReferences, Row};
use crate::collect::{Edges, Keep, Nodes, Roots, UpperRows};
use crate::compare::{Comparer, Held, HeldKind, LowerObjects, Missing, Objects, Several, held};
use crate::config::Store;
use crate::escape::show_path;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::summaries::{Key, Summary};
use crate::lower::{self, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// A lower database is read as a whole where it has at most so many rows for each of the upper one.
const MOST_BELOW: u64 = 4;

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
    /// Rows whose objects are in neither layer, by nodes.
    absent: Vec<u32>,
}

impl Survey {
    /// The rows and their objects, as an observation has them; what is hidden, and what refers to what,
    /// aside.
    pub(super) fn objects(&self) -> Result<Objects, ReconcileError> {
        let rows = &self.facts.rows;
        let mut missing = Several::default();
        for &node in &self.absent {
            // Of those after the first hundred only the number counts.
            missing.push(Missing {
                path: self.rows.row(node)?.path,
                referrers: Vec::new(),
                odd: None,
            });
        }
        Ok(Objects {
            rows: rows.len() as u64,
            above: rows.iter().filter(|row| row.above != Above::Row).count() as u64,
            missing,
            ..Objects::default()
        })
    }
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
        || lower::open_whole(&store.lower.source, &directory),
        |source| {
            let held = held(&layers.upper).map_err(ReconcileError::read(&store.upper_layer))?;
            let (above, same) = read(store, &directory, source)?;
            let Database {
                rows,
                names,
                references,
                ..
            } = above;
            let mut reading = Reading {
                store,
                names: &names,
                source: &mut *source,
                below: LowerObjects::new(layers.lower.as_fd()),
                held,
                open: VecDeque::new(),
                facts: Facts {
                    rows: vec![UNKNOWN; rows.count()],
                    references,
                    ..Facts::default()
                },
                both: Vec::new(),
                differing: BTreeMap::new(),
                others: Vec::new(),
                absent: Vec::new(),
            };
            reading.objects_above();
            reading.rows(&rows, &same)?;
            reading.new_references()?;
            reading.copies(&layers)?;
            let (whiteouts, without_rows) = reading.without_rows(&layers)?;
            let Reading {
                mut facts,
                differing,
                absent,
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
                absent,
            })
        },
    )
}

struct Layers {
    upper: OwnedFd,
    lower: OwnedFd,
}

/// A row of which nothing is known yet.
const UNKNOWN: Row = Row {
    above: Above::Row,
    below: Below::Gone,
};

/// The upper database.
struct Database {
    rows: UpperRows,
    names: Names,
    references: Edges,
    /// What each row says, by node.
    summaries: Vec<Summary>,
}

impl Database {
    fn read(mut rows: UpperRows, key: Key) -> Result<Self, ReconcileError> {
        let (mut summaries, mut prefixes) = (Vec::new(), Vec::new());
        rows.read_summaries(&key, |path, summary| {
            summaries.push(summary);
            prefixes.push(path.hash_prefix());
            Ok::<_, ReconcileError>(())
        })?;
        let graph = rows.graph(Keep {
            derivations: false,
            outputs: false,
            realisations: false,
        })?;
        let mut places: Vec<_> = summaries.iter().map(|it| it.name).zip(0..).collect();
        places.sort_unstable();
        for (place, node) in (0..summaries.len()).zip(0..) {
            for &reference in graph.references.of(node) {
                let name = summaries[reference as usize].name;
                summaries[place].refers_to(name);
            }
        }
        Ok(Self {
            rows,
            names: Names {
                key,
                places,
                prefixes,
            },
            references: graph.references,
            summaries,
        })
    }
}

/// Reads the upper database, and at the same time the lower one as far as it can be read at once: the
/// rows in which both agree.
fn read(
    store: &Store,
    directory: &StoreDirectory,
    source: &mut dyn Source,
) -> Result<(Database, Nodes), ReconcileError> {
    let key = Key::default();
    let rows = UpperRows::open(&store.database(), directory.clone())?;
    let most = rows.about()?.saturating_mul(MOST_BELOW);
    let (above, below) = thread::scope(|scope| {
        let ours = key.clone();
        let above = thread::Builder::new()
            .spawn_scoped(scope, move || Database::read(rows, ours))
            .map_err(ReconcileError::Thread)?;
        let below = source.summaries(&key, most);
        let ended = || ReconcileError::Thread(io::Error::other("it ended early"));
        let above = above.join().unwrap_or_else(|_| Err(ended()))?;
        Ok::<_, ReconcileError>((above, below?))
    })?;
    let mut same = Nodes::none(above.rows.count());
    let below = below.unwrap_or_default();
    for (node, summary) in (0..).zip(&above.summaries) {
        if below.binary_search(summary).is_ok() {
            same.insert(node);
        }
    }
    Ok((above, same))
}

/// From names to nodes, in 16 bytes each. The hashes are of this run: nobody makes two names that
/// agree in one.
struct Names {
    key: Key,
    places: Vec<(u64, u32)>,
    /// The beginnings of their hash parts, by node.
    prefixes: Vec<u64>,
}

impl Names {
    fn node(&self, path: &StorePath) -> Option<u32> {
        let hash = self.key.name(path.as_str().as_bytes());
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
    absent: Vec<u32>,
}

impl Reading<'_> {
    /// Notes which rows have their objects above: of what is held, those without a row are left.
    fn objects_above(&mut self) {
        let (names, rows) = (self.names, &mut self.facts.rows);
        // What is no store object is the user's as well: only the lower store is judged here.
        let others = std::mem::take(&mut self.held.others);
        self.held.objects.extend(others);
        self.held.objects.retain(|path| match names.node(path) {
            Some(node) => {
                rows[node as usize].above = Above::Object;
                false
            }
            None => true,
        });
    }

    /// Goes through the rows, and asks the lower store about each that is not known to be the `same`
    /// there.
    fn rows(&mut self, rows: &UpperRows, same: &Nodes) -> Result<(), ReconcileError> {
        let (window, names) = (self.source.window(), self.names);
        for (node, &prefix) in (0..).zip(&names.prefixes) {
            if same.contains(node) {
                let path = || Ok::<_, ReconcileError>(rows.row(node)?.path);
                let kind = match self.below.looks_up() {
                    true => self.below.look(&path()?),
                    false => self.below.look_for_prefix(prefix),
                };
                let kind = kind.map_err(ReconcileError::read(&self.store.lower.real))?;
                let below = without_object(kind).unwrap_or(Below::Same);
                self.found(node, below, path)?;
                continue;
            }
            let (path, info) = rows.whole(node)?;
            self.source.ask(&path)?;
            self.open.push_back(Asked { node, path, info });
            while self.open.len() >= window {
                self.answer()?;
            }
        }
        while !self.open.is_empty() {
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), ReconcileError> {
        let Some(asked) = self.open.pop_front() else {
            return Ok(());
        };
        let below = match self.source.answer()? {
            Some(info) => self.compare(&asked, &info)?,
            None => Below::Gone,
        };
        self.found(asked.node, below, || Ok(asked.path))
    }

    /// Notes what the lower store has of a row.
    fn found(
        &mut self,
        node: u32,
        below: Below,
        path: impl FnOnce() -> Result<StorePath, ReconcileError>,
    ) -> Result<(), ReconcileError> {
        let row = &mut self.facts.rows[node as usize];
        row.below = below;
        if row.above == Above::Row {
            // One that is not valid below can have its object there all the same.
            let is_there = match below {
                Below::Gone => {
                    let has = self.below.has(&path()?);
                    has.map_err(ReconcileError::read(&self.store.lower.real))?
                }
                below => !matches!(below, Below::NoObject | Below::NoStoreObject),
            };
            if !is_there {
                self.absent.push(node);
            }
            return Ok(());
        }
        match below {
            Below::Same | Below::Described => self.both.push((node, path()?)),
            Below::Other | Below::Impossible => {
                let why = "the lower store says something else of it".to_owned();
                self.differing.insert(node, why);
            }
            Below::NoStoreObject => {
                let why = "the lower store has a pipe, a socket or a device there".to_owned();
                self.differing.insert(node, why);
            }
            Below::Gone | Below::NoObject => {}
        }
        Ok(())
    }

    fn compare(&mut self, asked: &Asked, below: &PathInfo) -> Result<Below, ReconcileError> {
        let Asked { node, path, info } = asked;
        let kind = self.below.look(path);
        let kind = kind.map_err(ReconcileError::read(&self.store.lower.real))?;
        if let Some(without) = without_object(kind) {
            return Ok(without);
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
                row.above == Above::Row
                    && matches!(
                        row.below,
                        Below::Gone | Below::NoObject | Below::NoStoreObject
                    )
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
        let Held {
            objects, whiteouts, ..
        } = std::mem::take(&mut self.held);
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

/// What the lower store has of a path that is valid there, where that is no object.
fn without_object(kind: Option<HeldKind>) -> Option<Below> {
    match kind {
        Some(HeldKind::Object) => None,
        Some(HeldKind::Other) => Some(Below::NoStoreObject),
        Some(HeldKind::Whiteout) | None => Some(Below::NoObject),
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
