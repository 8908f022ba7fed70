//! The upper database as a graph, and what is alive in it.
//!
//! An object is alive when a root leads to it: by references, and by what `keep-derivations` and
//! `keep-outputs` add (Nix's `collectGarbage` looks from the other end, from an object to all that
//! refers to it, and comes to the same). Everything here is pure: nodes are numbers.

/// A set of nodes, in one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nodes {
    words: Vec<u64>,
}

impl Nodes {
    /// None of `count` nodes.
    pub(crate) fn none(count: usize) -> Self {
        Self {
            words: vec![0; count.div_ceil(64)],
        }
    }

    /// Whether a node is in it.
    pub(crate) fn contains(&self, node: u32) -> bool {
        self.words
            .get(node as usize / 64)
            .is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// Adds a node: whether it was new.
    pub(crate) fn insert(&mut self, node: u32) -> bool {
        match self.words.get_mut(node as usize / 64) {
            Some(word) => {
                let bit = 1 << (node % 64);
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }
}

/// Edges between nodes, by the node that they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Where the targets of each node begin; one more than there are nodes.
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Edges {
    /// No edge between no nodes; [`push`](Self::push) adds both.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an edge. Those of one node come together, and nodes in their order; `false` (and nothing
    /// is added) where they do not, or where there are more than four thousand million.
    pub(crate) fn push(&mut self, from: u32, to: u32) -> bool {
        let Ok(end) = u32::try_from(self.targets.len()) else {
            return false;
        };
        if (from as usize) + 1 < self.starts.len() {
            return false;
        }
        self.starts.resize(from as usize + 1, end);
        self.targets.push(to);
        true
    }

    /// From edges in any order.
    pub(crate) fn from_pairs(mut pairs: Vec<(u32, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut edges = Self::new();
        for (from, to) in pairs {
            edges.push(from, to);
        }
        edges
    }

    /// Where the edges of a node lead.
    pub(crate) fn of(&self, node: u32) -> &[u32] {
        let node = node as usize;
        let Some(&start) = self.starts.get(node) else {
            return &[];
        };
        let end = self
            .starts
            .get(node + 1)
            .map_or(self.targets.len(), |&end| end as usize);
        self.targets.get(start as usize..end).unwrap_or(&[])
    }
}

/// The graph: nodes from 0 to `count`, what each refers to, and what else it keeps alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    /// How many nodes there are.
    pub count: usize,
    /// From each object to what it refers to, perhaps itself.
    pub references: Edges,
    /// From an output to its deriver (`keep-derivations`), and from a derivation to its outputs
    /// (`keep-outputs`), as far as these are in force.
    pub kept: Edges,
}

impl Graph {
    /// All that a node keeps alive directly.
    pub(crate) fn keeps(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let both = [self.references.of(node), self.kept.of(node)];
        both.into_iter().flatten().copied()
    }

    /// Adds what else nodes keep alive.
    pub(crate) fn keep_also(&mut self, mut pairs: Vec<(u32, u32)>) {
        if pairs.is_empty() {
            return;
        }
        for node in 0..u32::try_from(self.count).unwrap_or(u32::MAX) {
            pairs.extend(self.kept.of(node).iter().map(|&kept| (node, kept)));
        }
        self.kept = Edges::from_pairs(pairs);
    }

    /// The one of them at a place in that order.
    pub(crate) fn keeps_at(&self, node: u32, place: usize) -> Option<u32> {
        let references = self.references.of(node);
        let kept = || self.kept.of(node).get(place - references.len());
        references.get(place).or_else(kept).copied()
    }

    /// From each node to those that keep it alive directly.
    pub(crate) fn kept_by(&self) -> Edges {
        let nodes = || 0..u32::try_from(self.count).unwrap_or(u32::MAX);
        // How many keep each node, then where the next one of them has its place.
        let mut places = vec![0_u32; self.count];
        let place = |places: &mut Vec<u32>, node: u32| {
            let place = places.get_mut(node as usize);
            place.map(|place| std::mem::replace(place, *place + 1))
        };
        for kept in nodes().flat_map(|node| self.keeps(node)) {
            place(&mut places, kept);
        }
        let mut end = 0;
        for place in &mut places {
            end += std::mem::replace(place, end);
        }
        let starts = places.clone();
        let mut targets = vec![0; end as usize];
        for node in nodes() {
            for kept in self.keeps(node) {
                let place = place(&mut places, kept).unwrap_or(u32::MAX);
                if let Some(target) = targets.get_mut(place as usize) {
                    *target = node;
                }
            }
        }
        Edges { starts, targets }
    }

    /// Adds to `alive` all that these roots lead to.
    pub(crate) fn mark(&self, roots: impl IntoIterator<Item = u32>, alive: &mut Nodes) {
        let mut open: Vec<u32> = Vec::new();
        for root in roots {
            if (root as usize) < self.count && alive.insert(root) {
                open.push(root);
            }
            while let Some(node) = open.pop() {
                for next in self.keeps(node) {
                    if alive.insert(next) {
                        open.push(next);
                    }
                }
            }
        }
    }

    /// All nodes that are not in `alive`, in their order.
    pub(crate) fn dead<'a>(&self, alive: &'a Nodes) -> impl Iterator<Item = u32> + 'a {
        let nodes = 0..u32::try_from(self.count).unwrap_or(u32::MAX);
        nodes.filter(|&node| !alive.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    #[test]
    fn edges_are_found_by_their_node() {
        let edges = Edges::from_pairs(vec![(3, 1), (0, 2), (3, 3), (0, 1)]);
        let of = |node| edges.of(node).to_vec();
        assert_eq!([of(0), of(1), of(2), of(3), of(4)].concat(), [1, 2, 1, 3]);
        assert_eq!(edges.of(3), [1, 3]);
        let mut edges = Edges::new();
        assert!(edges.push(2, 0) && !edges.push(1, 0));
    }

    #[test]
    fn what_else_is_kept_comes_to_what_was() {
        let mut graph = Graph {
            count: 4,
            kept: Edges::from_pairs(vec![(0, 1), (2, 3)]),
            ..Graph::default()
        };
        graph.keep_also(vec![(2, 3), (0, 2), (3, 0)]);
        let kept = [0, 1, 2, 3].map(|node| graph.kept.of(node).to_vec());
        assert_eq!(kept, [vec![1, 2], vec![], vec![3], vec![0]]);
    }

    /// As Nix does it (`deleteReferrersClosure`): an object is garbage when nothing in the closure of
    /// its referrers is a root.
    fn dead_as_nix_finds_it(
        count: u32,
        references: &[(u32, u32)],
        kept: &[(u32, u32)],
        roots: &BTreeSet<u32>,
    ) -> Vec<u32> {
        let mut referrers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &(from, to) in references.iter().chain(kept) {
            referrers.entry(to).or_default().push(from);
        }
        let is_dead = |start: &u32| {
            let (mut seen, mut open) = (BTreeSet::new(), VecDeque::from([*start]));
            while let Some(node) = open.pop_front() {
                if roots.contains(&node) {
                    return false;
                }
                if seen.insert(node) {
                    open.extend(referrers.get(&node).into_iter().flatten());
                }
            }
            true
        };
        (0..count).filter(is_dead).collect()
    }

    proptest! {
        #[test]
        fn the_choice_is_nix_s(
            count in 1_u32..150,
            references in prop::collection::vec((any::<u32>(), any::<u32>()), 0..400),
            kept in prop::collection::vec((any::<u32>(), any::<u32>()), 0..40),
            roots in prop::collection::btree_set(any::<u32>(), 0..12),
        ) {
            let within = |pairs: &[(u32, u32)]| -> Vec<_> {
                pairs.iter().map(|(from, to)| (from % count, to % count)).collect()
            };
            let (references, kept) = (within(&references), within(&kept));
            let roots: BTreeSet<u32> = roots.iter().map(|root| root % count).collect();
            let graph = Graph {
                count: count as usize,
                references: Edges::from_pairs(references.clone()),
                kept: Edges::from_pairs(kept.clone()),
            };
            let mut alive = Nodes::none(graph.count);
            graph.mark(roots.iter().copied(), &mut alive);
            let kept_by = graph.kept_by();
            for node in 0..count {
                for other in 0..count {
                    prop_assert_eq!(
                        kept_by.of(node).iter().filter(|&&keeper| keeper == other).count(),
                        graph.keeps(other).filter(|&kept| kept == node).count()
                    );
                }
            }
            let dead: Vec<u32> = graph.dead(&alive).collect();
            prop_assert_eq!(dead, dead_as_nix_finds_it(count, &references, &kept, &roots));
        }
    }
}
