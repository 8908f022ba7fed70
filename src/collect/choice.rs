//! What is garbage in the upper layer, and what Nix has to be given so that it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use super::CollectError;
use super::database::{Keep, UpperRows};
use super::graph::{Graph, Nodes};
use super::layers::{Kind, Layers};
use super::limits;
use super::root::Roots;
use crate::config::Store;
use crate::lower::{self, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// What limits a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Only what came before this time, in seconds since 1970.
    pub before: Option<i64>,
    /// Rows of lower objects that nothing above needs go too.
    pub metadata: bool,
    /// No row of a lower object goes, and nothing that Nix would not delete without it. With its cache
    /// of path infos on, as a daemon has it, Nix takes such a row for valid after it has deleted it.
    pub only_above: bool,
}

/// An object that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Garbage {
    /// Its path.
    pub path: StorePath,
    /// When the latest of it and what refers to it came, in seconds since 1970.
    pub time: i64,
    /// What goes with it: objects of the same group go together or not at all.
    pub group: u32,
}

/// A choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Objects of the upper layer that go, in an order in which every first part of whole groups can
    /// go alone.
    pub objects: Vec<Garbage>,
    /// Rows of objects that are only below, which go because Nix would visit them.
    pub visited: Vec<StorePath>,
    /// Rows of objects that are only below, which go because nothing needs them.
    pub metadata: Vec<StorePath>,
    /// Garbage that is in both layers, and is left.
    pub both: Vec<StorePath>,
    /// Rows of objects that are in neither layer, among those that go.
    pub lost: u64,
    /// Garbage that a limit leaves.
    pub young: u64,
    /// Objects that are in the upper layer or were copied, and are alive.
    pub alive: u64,
}

/// What is chosen from.
#[derive(Debug)]
pub(crate) struct Chooser<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its layers.
    pub layers: &'a Layers,
    /// How Nix's settings stand.
    pub keep: Keep,
    /// Paths whose rows stay although nothing above needs them.
    pub warmed: &'a PathSet,
    /// The limits.
    pub limits: Limits,
}

impl Chooser<'_> {
    /// Makes a choice: everything in the upper database that no root leads to. `stays` are further
    /// paths that are taken for roots.
    ///
    /// # Errors
    /// When a database, a daemon below or a layer cannot be read.
    pub(crate) fn choose(
        &self,
        roots: &Roots,
        stays: &[StorePath],
    ) -> Result<Choice, CollectError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.database();
        lower::retry(
            || Ok(Box::new(UpperRows::open(&database, directory.clone())?)),
            |rows| {
                rows.read_nodes()?;
                let graph = rows.graph(self.keep)?;
                let count = graph.count;
                let mut work = Work {
                    chooser: self,
                    rows,
                    graph,
                    below: Below::new(self.store, &directory),
                    alive: Nodes::none(count),
                    places: vec![Place::Unknown; count],
                    times: vec![i64::MIN; count],
                    alive_below: BTreeSet::new(),
                    visited_below: BTreeMap::new(),
                    realised: None,
                };
                let paths = roots.roots.iter().map(|root| &root.path).chain(stays);
                work.roots(paths)?;
                let choice = work.choose()?;
                rows.confirm()?;
                Ok(choice)
            },
        )
    }
}

/// The lower store, asked path by path, opened when it is first needed.
struct Below<'a> {
    store: &'a Store,
    directory: &'a StoreDirectory,
    source: Option<Box<dyn Source>>,
}

impl<'a> Below<'a> {
    fn new(store: &'a Store, directory: &'a StoreDirectory) -> Self {
        Self {
            store,
            directory,
            source: None,
        }
    }

    /// The metadata of these paths, in their order.
    fn info(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, CollectError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        Ok(lower::answers(&mut **self.source()?, paths)?)
    }

    /// The outputs that it has of these derivations, as far as its realisations say so, each behind its
    /// derivation.
    fn realised(
        &mut self,
        derivers: &BTreeSet<StorePath>,
    ) -> Result<Vec<(StorePath, StorePath)>, CollectError> {
        if derivers.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.source()?.realised(derivers)?)
    }

    fn source(&mut self) -> Result<&mut Box<dyn Source>, CollectError> {
        Ok(match &mut self.source {
            Some(source) => source,
            none => none.insert(lower::open(&self.store.lower.source, self.directory)?),
        })
    }
}

struct Work<'a> {
    chooser: &'a Chooser<'a>,
    rows: &'a UpperRows,
    graph: Graph,
    below: Below<'a>,
    alive: Nodes,
    /// Where the objects are that may be garbage, by their nodes.
    places: Vec<Place>,
    /// When they came.
    times: Vec<i64>,
    /// Objects of the lower store without a row above that roots lead to.
    alive_below: BTreeSet<StorePath>,
    /// Objects of the lower store without a row above that Nix visits when it deletes one of these
    /// nodes, and that are not alive.
    visited_below: BTreeMap<StorePath, BTreeSet<u32>>,
    /// Garbage derivations whose outputs only realisations tell, with those of the lower store that have
    /// no row above, once these are looked for.
    realised: Option<Vec<(u32, StorePath, StorePath)>>,
}

impl Work<'_> {
    /// Marks what roots lead to. Those without a row above lead there through the lower store.
    fn roots<'p>(
        &mut self,
        roots: impl Iterator<Item = &'p StorePath>,
    ) -> Result<(), CollectError> {
        let mut open: BTreeSet<StorePath> = BTreeSet::new();
        let mut last = None;
        for path in roots {
            if last.replace(path) == Some(path) {
                continue;
            }
            match self.rows.node(path)? {
                Some(node) => self.graph.mark([node], &mut self.alive),
                None => {
                    open.insert(path.clone());
                }
            }
        }
        while !open.is_empty() {
            let paths: Vec<_> = std::mem::take(&mut open).into_iter().collect();
            let infos = self.below.info(&paths)?;
            for (path, info) in paths.into_iter().zip(infos) {
                let Some(info) = info else {
                    continue;
                };
                if !self.alive_below.insert(path.clone()) {
                    continue;
                }
                if self.chooser.keep.derivations
                    && let Some(deriver) = &info.deriver
                    && let Some(node) = self.rows.node(deriver)?
                {
                    let outputs = self.rows.outputs(node)?;
                    // Where its outputs are not known from itself, the lower store's realisations say
                    // which it has.
                    let is_realised = self.chooser.keep.realisations && outputs.is_empty();
                    if is_realised || outputs.contains(&path) {
                        self.graph.mark([node], &mut self.alive);
                    }
                }
                for reference in info.references {
                    match self.rows.node(&reference)? {
                        Some(node) => self.graph.mark([node], &mut self.alive),
                        None if self.alive_below.contains(&reference) => {}
                        None => {
                            open.insert(reference);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn choose(mut self) -> Result<Choice, CollectError> {
        let mut choice = Choice::default();
        loop {
            let dead: Vec<u32> = self.graph.dead(&self.alive).collect();
            let mut stays = Vec::new();
            for &node in &dead {
                if self.places[node as usize] == Place::Unknown {
                    self.look(node)?;
                    if self.places[node as usize] == Place::Lower && self.chooser.limits.only_above
                    {
                        stays.push(node);
                    }
                    if self.places[node as usize] == Place::Both {
                        // What it refers to stays with it.
                        stays.push(node);
                        choice.both.push(self.rows.row(node)?.path);
                    }
                }
            }
            if stays.is_empty() && self.realised.is_none() {
                stays = self.realised_below(&dead)?;
            }
            if stays.is_empty() {
                stays = self.kept_from_below(&dead)?;
            }
            if stays.is_empty() {
                break;
            }
            self.graph.mark(stays, &mut self.alive);
        }
        let mut dead: Vec<u32> = self.graph.dead(&self.alive).collect();
        choice.alive = (self.graph.count - dead.len()) as u64;
        let is_object = |node: &u32| self.places[*node as usize] != Place::Lower;
        if let Some(before) = self.chooser.limits.before {
            let all = dead.iter().filter(|node| is_object(node)).count();
            dead = limits::older_than(&self.graph, &dead, &self.times, before);
            choice.young = (all - dead.iter().filter(|node| is_object(node)).count()) as u64;
        }
        let given = self.given(&dead);
        let candidates = limits::by_age(&self.graph, &dead, &self.times);
        self.graph = Graph::default();
        for candidate in candidates {
            let node = candidate.node;
            let place = self.places[node as usize];
            if place != Place::Lower {
                choice.lost += u64::from(place == Place::Nowhere);
                choice.objects.push(Garbage {
                    path: self.rows.row(node)?.path,
                    time: candidate.time,
                    group: candidate.group,
                });
            } else if given.contains(node) {
                choice.visited.push(self.rows.row(node)?.path);
            } else if self.chooser.limits.metadata {
                let path = self.rows.row(node)?.path;
                if !self.chooser.warmed.contains(path.hash_prefix()) {
                    choice.metadata.push(path);
                }
            }
        }
        for (path, nodes) in std::mem::take(&mut self.visited_below) {
            if nodes.iter().any(|&node| given.contains(node)) {
                choice.visited.push(path);
            }
        }
        Ok(choice)
    }

    /// Finds out where an object is and when it came.
    fn look(&mut self, node: u32) -> Result<(), CollectError> {
        let row = self.rows.row(node)?;
        let layers = self.chooser.layers;
        let (place, time) = match layers.upper.look(row.path.as_str())? {
            Some((Kind::Object, changed)) => {
                // Whatever it is that is below: it would show once Nix had deleted this one.
                let place = match layers.lower.has(row.path.as_str())? {
                    true => Place::Both,
                    false => Place::Upper,
                };
                (place, changed.max(row.registration_time))
            }
            // Metadata has no age of its own.
            None if layers.lower.has_object(row.path.as_str())? => (Place::Lower, i64::MIN),
            Some((Kind::Whiteout, _)) | None => (Place::Nowhere, row.registration_time),
        };
        self.places[node as usize] = place;
        self.times[node as usize] = time;
        Ok(())
    }

    /// Learns from the lower store which outputs it has of garbage derivations that do not know their own:
    /// content-addressed ones. With `keep-derivations` these keep them alive, or Nix visits them. Gives
    /// what is alive for that. There is only less garbage later.
    fn realised_below(&mut self, dead: &[u32]) -> Result<Vec<u32>, CollectError> {
        let mut derivations = BTreeMap::new();
        let keep = self.chooser.keep;
        for &node in dead {
            if !(keep.derivations && keep.realisations)
                || self.places[node as usize] == Place::Lower
            {
                continue;
            }
            let path = self.rows.row(node)?.path;
            if path.is_derivation() && self.rows.outputs(node)?.is_empty() {
                derivations.insert(path, node);
            }
        }
        let (mut without_row, mut pairs, mut stays) = (Vec::new(), Vec::new(), Vec::new());
        let realised = self
            .below
            .realised(&derivations.keys().cloned().collect())?;
        for (deriver, output) in realised {
            let Some(&node) = derivations.get(&deriver) else {
                continue;
            };
            match self.rows.node(&output)? {
                Some(output) => {
                    if self.alive.contains(output) {
                        stays.push(node);
                    }
                    pairs.push((output, node));
                }
                None => without_row.push((node, output, deriver)),
            }
        }
        self.graph.keep_also(pairs);
        self.realised = Some(without_row);
        Ok(stays)
    }

    /// What of the garbage lower objects without a row above keep alive: a derivation's outputs, with
    /// `keep-derivations`, and an output's deriver, with `keep-outputs`. Where they are not alive
    /// themselves, Nix visits them, and has to be given them.
    fn kept_from_below(&mut self, dead: &[u32]) -> Result<Vec<u32>, CollectError> {
        let keep = self.chooser.keep;
        let mut ask: Vec<(u32, StorePath, Option<StorePath>)> = Vec::new();
        for &node in dead {
            if self.places[node as usize] == Place::Lower || !(keep.derivations || keep.outputs) {
                continue;
            }
            let row = self.rows.row(node)?;
            if keep.derivations && row.path.is_derivation() {
                for output in self.rows.outputs(node)? {
                    if self.rows.node(&output)?.is_none() {
                        ask.push((node, output, Some(row.path.clone())));
                    }
                }
            }
            if keep.outputs
                && let Some(deriver) = row.deriver
                && self.rows.node(&deriver)?.is_none()
            {
                ask.push((node, deriver, None));
            }
        }
        for (node, output, deriver) in self.realised.iter().flatten() {
            if !self.alive.contains(*node) {
                ask.push((*node, output.clone(), Some(deriver.clone())));
            }
        }
        let paths: Vec<StorePath> = ask.iter().map(|(_, path, _)| path.clone()).collect();
        let infos = self.below.info(&paths)?;
        let mut stays = Vec::new();
        for ((node, path, expected_deriver), info) in ask.into_iter().zip(infos) {
            let Some(info) = info else {
                continue;
            };
            if expected_deriver.is_some() && info.deriver != expected_deriver {
                continue;
            }
            if self.chooser.limits.only_above || self.alive_below.contains(&path) {
                stays.push(node);
            } else {
                self.visited_below.entry(path).or_default().insert(node);
            }
        }
        Ok(stays)
    }

    /// The dead nodes that Nix has to be given, so that it can delete those of the upper layer.
    fn given(&self, dead: &[u32]) -> Nodes {
        let mut given = Nodes::none(self.graph.count);
        for &node in dead {
            if self.places[node as usize] != Place::Lower {
                given.insert(node);
            }
        }
        // What refers to something that goes: seldom is there anything, since what is only below
        // refers to nothing above.
        loop {
            let mut changed = false;
            for &node in dead {
                if !given.contains(node) && self.graph.keeps(node).any(|next| given.contains(next))
                {
                    changed |= given.insert(node);
                }
            }
            if !changed {
                return given;
            }
        }
    }
}

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not looked at.
    Unknown,
    /// In the upper layer only.
    Upper,
    /// In the lower store directory only.
    Lower,
    /// In both.
    Both,
    /// In neither.
    Nowhere,
}
