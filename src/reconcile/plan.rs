//! What is to become of each row and each object, now that the lower store is another one: a table.
//! Pure: rows are numbers, as in [`crate::collect::Graph`].

use std::collections::BTreeMap;

use crate::collect::{Edges, Nodes};

/// What the upper layer has of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    /// The row alone.
    Row,
    /// Its object, too.
    Object,
    /// Its object, and the lower store has an equal one, byte by byte.
    EqualObject,
}

/// What the lower store has of a row's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// It is not valid there.
    Gone,
    /// It is valid, with the same metadata.
    Same,
    /// It is valid with the same hash, size and references; what else is said of it differs.
    Described,
    /// It is valid with another hash, size or other references.
    Other,
    /// It is valid with another hash, although the path is computed from the contents.
    Impossible,
    /// It is valid, and there is no object.
    NoObject,
    /// It is valid, and what is in the object's place is no store object: a pipe, a socket or a device.
    NoStoreObject,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// What the upper layer has.
    pub above: Above,
    /// What the lower store has.
    pub below: Below,
}

/// What a row refers to where the lower store has another one of the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewReferences {
    /// Those that have a row above.
    pub nodes: Vec<u32>,
    /// Whether one of them is valid in neither store.
    pub incomplete: bool,
}

/// All that a plan depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The rows, by their nodes.
    pub rows: Vec<Row>,
    /// What each refers to.
    pub references: Edges,
    /// What those refer to afterwards whose row below is another one ([`Below::Other`]).
    pub new_references: BTreeMap<u32, NewReferences>,
    /// What roots keep.
    pub roots: Vec<u32>,
}

/// Where an object is to be had that is needed and that neither layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Available {
    /// In the old store.
    Old,
    /// Nowhere.
    Nowhere,
}

/// What may be given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GiveUp {
    /// What is nowhere to be had, with all that depends on it.
    pub missing: bool,
    /// Objects of the upper layer where the lower store has others.
    pub upper: bool,
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Refused {
    /// The lower store has no object of a path that is valid there.
    #[error("the lower store says that it is valid, and does not have it")]
    NoObject,
    /// The lower store has something else in the place of an object that is valid there.
    #[error(
        "the lower store says that it is valid, and has a pipe, a socket or a device in its place"
    )]
    NoStoreObject,
    /// The lower store has another hash of a content-addressed path.
    #[error(
        "the lower store has another hash of it, although the path is computed from the contents"
    )]
    Impossible,
}

/// What becomes of a row and its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Keep,
    /// Signatures, deriver and times are taken from below.
    Describe,
    /// The row is taken from below.
    TakeRow,
    /// The object is copied from the old store.
    Carry,
    /// The object is needed and nowhere to be had. The row stays.
    Missing,
    /// The row goes: nothing needs it.
    Drop,
    /// The row goes, since it or what it refers to is given up.
    GiveUp,
    /// The upper copy goes: the lower one is equal.
    RemoveCopy,
    /// The upper object stays, and hides the lower one.
    Hide,
    /// The lower object takes the place of the upper one, with its row.
    TakeLower,
    /// Nothing can be done: see [`Refused`].
    Refuse(Refused),
}

/// What becomes of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// By node.
    pub actions: Vec<Action>,
    /// What depends on something that is missing: it stays, and does not work.
    pub depending: Vec<u32>,
}

impl Facts {
    fn row(&self, node: u32) -> Row {
        let none = Row {
            above: Above::Row,
            below: Below::Gone,
        };
        self.rows.get(node as usize).copied().unwrap_or(none)
    }

    fn nodes(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Whether the row below can take the place of the one above.
    fn is_complete(&self, node: u32) -> bool {
        let new = self.new_references.get(&node);
        new.is_none_or(|new| !new.incomplete)
    }

    /// Whether neither layer will have the object of this row, unless it is got from elsewhere.
    fn lacks_object(&self, node: u32) -> bool {
        match self.row(node) {
            Row {
                above: Above::Row,
                below: Below::Gone,
            } => true,
            Row {
                above: Above::Row,
                below: Below::Other,
            } => !self.is_complete(node),
            _ => false,
        }
    }

    /// Whether the row below takes the place of the one above.
    fn takes_row(&self, node: u32, give_up: GiveUp) -> bool {
        let row = self.row(node);
        row.below == Below::Other
            && self.is_complete(node)
            && (row.above == Above::Row || give_up.upper)
    }

    /// What a row refers to afterwards, as far as that has a row above.
    fn references_afterwards(&self, node: u32, give_up: GiveUp) -> &[u32] {
        match self.new_references.get(&node) {
            Some(new) if self.takes_row(node, give_up) => &new.nodes,
            _ => self.references.of(node),
        }
    }

    /// What is needed: by a root, by an object of the upper layer, or by what the lower store has.
    /// Nothing of the user's is worth less because no root leads to it: that is for a collection.
    fn needed(&self, give_up: GiveUp) -> Nodes {
        let mut needed = Nodes::none(self.rows.len());
        let stays = self.nodes().filter(|&node| !self.lacks_object(node));
        let mut open = Vec::new();
        for start in self.roots.iter().copied().chain(stays) {
            if (start as usize) < self.rows.len() && needed.insert(start) {
                open.push(start);
            }
            while let Some(node) = open.pop() {
                for &next in self.references_afterwards(node, give_up) {
                    if needed.insert(next) {
                        open.push(next);
                    }
                }
            }
        }
        needed
    }

    /// What is needed and has to be got from elsewhere.
    pub(crate) fn wanting(&self, give_up: GiveUp) -> Vec<u32> {
        let needed = self.needed(give_up);
        self.nodes()
            .filter(|&node| needed.contains(node) && self.lacks_object(node))
            .collect()
    }

    /// What becomes of everything. `available` tells where the [`wanting`](Self::wanting) are.
    pub(crate) fn plan(&self, give_up: GiveUp, available: &dyn Fn(u32) -> Available) -> Plan {
        let needed = self.needed(give_up);
        let mut plan = Plan::default();
        let mut missing = Vec::new();
        for node in self.nodes() {
            let action = match self.lacks_object(node) {
                true if !needed.contains(node) => Action::Drop,
                true => match available(node) {
                    Available::Old => Action::Carry,
                    Available::Nowhere => {
                        missing.push(node);
                        Action::Missing
                    }
                },
                false => self.action(node, give_up),
            };
            plan.actions.push(action);
        }
        let depending = self.depending_on(&missing, give_up);
        match give_up.missing {
            true => {
                for node in missing.into_iter().chain(depending) {
                    let action = &mut plan.actions[node as usize];
                    if !matches!(action, Action::Drop | Action::Refuse(_)) {
                        *action = Action::GiveUp;
                    }
                }
            }
            false => {
                let stays = |node: &u32| plan.actions[*node as usize] != Action::Drop;
                plan.depending = depending.into_iter().filter(stays).collect();
            }
        }
        plan
    }

    /// What becomes of a row that has its object somewhere.
    fn action(&self, node: u32, give_up: GiveUp) -> Action {
        match self.row(node) {
            Row {
                above: Above::Row,
                below,
            } => match below {
                Below::Gone | Below::Same => Action::Keep,
                Below::Described => Action::Describe,
                Below::Other => Action::TakeRow,
                Below::Impossible => Action::Refuse(Refused::Impossible),
                Below::NoObject => Action::Refuse(Refused::NoObject),
                Below::NoStoreObject => Action::Refuse(Refused::NoStoreObject),
            },
            Row {
                above: Above::EqualObject,
                below: Below::Same | Below::Described,
            } => Action::RemoveCopy,
            Row { below, .. } => match below {
                Below::Gone | Below::NoObject => Action::Keep,
                Below::Other if self.takes_row(node, give_up) => Action::TakeLower,
                Below::Same | Below::Described if give_up.upper => Action::TakeLower,
                Below::Same
                | Below::Described
                | Below::Other
                | Below::Impossible
                | Below::NoStoreObject => Action::Hide,
            },
        }
    }

    /// What refers to each of these, itself aside: the first `most`.
    pub(crate) fn referrers(&self, these: &[u32], most: usize) -> Vec<Vec<u32>> {
        let mut referrers = vec![Vec::new(); these.len()];
        if these.is_empty() {
            return referrers;
        }
        for node in self.nodes() {
            for reference in self.references.of(node) {
                if let Ok(place) = these.binary_search(reference)
                    && node != *reference
                    && referrers[place].len() < most
                {
                    referrers[place].push(node);
                }
            }
        }
        referrers
    }

    /// All that leads to these, themselves aside.
    fn depending_on(&self, these: &[u32], give_up: GiveUp) -> Vec<u32> {
        if these.is_empty() {
            return Vec::new();
        }
        let mut pairs = Vec::new();
        for node in self.nodes() {
            let references = self.references_afterwards(node, give_up).iter();
            pairs.extend(references.map(|&reference| (reference, node)));
        }
        let referrers = Edges::from_pairs(pairs);
        let mut found = Nodes::none(self.rows.len());
        let mut open: Vec<u32> = these.to_vec();
        for &node in these {
            found.insert(node);
        }
        let mut depending = Vec::new();
        while let Some(node) = open.pop() {
            for &referrer in referrers.of(node) {
                if found.insert(referrer) {
                    depending.push(referrer);
                    open.push(referrer);
                }
            }
        }
        depending.sort_unstable();
        depending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIVE_UP_ALL: GiveUp = GiveUp {
        missing: true,
        upper: true,
    };

    fn row(above: Above, below: Below) -> Row {
        Row { above, below }
    }

    fn facts(rows: &[Row], references: &[(u32, u32)], roots: &[u32]) -> Facts {
        Facts {
            rows: rows.to_vec(),
            references: Edges::from_pairs(references.to_vec()),
            new_references: BTreeMap::new(),
            roots: roots.to_vec(),
        }
    }

    fn actions(facts: &Facts, give_up: GiveUp, available: Available) -> Vec<Action> {
        facts.plan(give_up, &|_| available).actions
    }

    /// One row by itself, needed by a root.
    fn alone(above: Above, below: Below, give_up: GiveUp) -> Action {
        let facts = facts(&[row(above, below)], &[], &[0]);
        actions(&facts, give_up, Available::Nowhere)[0]
    }

    #[test]
    fn each_line_of_the_table() {
        let none = GiveUp::default();
        let refuse = Action::Refuse;
        for (below, expected) in [
            (Below::Same, Action::Keep),
            (Below::Described, Action::Describe),
            (Below::Other, Action::TakeRow),
            (Below::Impossible, refuse(Refused::Impossible)),
            (Below::NoObject, refuse(Refused::NoObject)),
            (Below::NoStoreObject, refuse(Refused::NoStoreObject)),
            (Below::Gone, Action::Missing),
        ] {
            assert_eq!(alone(Above::Row, below, none), expected, "{below:?}");
        }
        assert_eq!(alone(Above::Row, Below::Gone, GIVE_UP_ALL), Action::GiveUp);
        for (below, equal, other, preferred) in [
            (
                Below::Same,
                Action::RemoveCopy,
                Action::Hide,
                Action::TakeLower,
            ),
            (
                Below::Described,
                Action::RemoveCopy,
                Action::Hide,
                Action::TakeLower,
            ),
            (Below::Other, Action::Hide, Action::Hide, Action::TakeLower),
            (Below::Impossible, Action::Hide, Action::Hide, Action::Hide),
            (Below::NoObject, Action::Keep, Action::Keep, Action::Keep),
            (
                Below::NoStoreObject,
                Action::Hide,
                Action::Hide,
                Action::Hide,
            ),
            (Below::Gone, Action::Keep, Action::Keep, Action::Keep),
        ] {
            assert_eq!(alone(Above::EqualObject, below, none), equal, "{below:?}");
            assert_eq!(alone(Above::Object, below, none), other, "{below:?}");
            let with_flag = alone(Above::Object, below, GIVE_UP_ALL);
            assert_eq!(with_flag, preferred, "{below:?}");
        }
    }

    #[test]
    fn what_is_gone_is_got_where_something_needs_it_and_dropped_where_nothing_does() {
        let (gone, own) = (
            row(Above::Row, Below::Gone),
            row(Above::Object, Below::Gone),
        );
        // 0 is an object above, 1 and 2 are what it needs; 3 is kept by a root, 4 needed by nothing
        // but 5, which nothing needs.
        let facts = facts(
            &[own, gone, gone, gone, gone, gone],
            &[(0, 1), (1, 2), (5, 4), (5, 2)],
            &[3],
        );
        assert_eq!(facts.wanting(GiveUp::default()), [1, 2, 3]);
        let expected = |got| [Action::Keep, got, got, got, Action::Drop, Action::Drop];
        for (available, got) in [
            (Available::Old, Action::Carry),
            (Available::Nowhere, Action::Missing),
        ] {
            let found = actions(&facts, GiveUp::default(), available);
            assert_eq!(found, expected(got));
        }
    }

    #[test]
    fn what_depends_on_something_missing_is_told_and_goes_only_with_the_flag() {
        let (gone, own) = (
            row(Above::Row, Below::Gone),
            row(Above::Object, Below::Gone),
        );
        let facts = facts(&[own, own, gone, gone], &[(0, 1), (1, 2), (0, 3)], &[]);
        let available = |node| match node {
            3 => Available::Old,
            _ => Available::Nowhere,
        };
        let plan = facts.plan(GiveUp::default(), &available);
        assert_eq!(
            plan.actions,
            [Action::Keep, Action::Keep, Action::Missing, Action::Carry]
        );
        assert_eq!(plan.depending, [0, 1]);
        let plan = facts.plan(GIVE_UP_ALL, &available);
        assert_eq!(
            plan.actions,
            [
                Action::GiveUp,
                Action::GiveUp,
                Action::GiveUp,
                Action::Carry
            ]
        );
        assert_eq!(plan.depending, [0; 0]);
    }

    #[test]
    fn a_row_that_is_taken_no_longer_needs_what_it_needed() {
        let other = row(Above::Row, Below::Other);
        let gone = row(Above::Row, Below::Gone);
        let mut facts = facts(&[other, gone, gone], &[(0, 1)], &[0]);
        let new = |nodes: &[u32], incomplete| NewReferences {
            nodes: nodes.to_vec(),
            incomplete,
        };
        facts.new_references.insert(0, new(&[], false));
        let found = actions(&facts, GiveUp::default(), Available::Old);
        assert_eq!(found, [Action::TakeRow, Action::Drop, Action::Drop]);
        // It needs what it refers to then.
        facts.new_references.insert(0, new(&[2], false));
        let found = actions(&facts, GiveUp::default(), Available::Old);
        assert_eq!(found, [Action::TakeRow, Action::Drop, Action::Carry]);
        // Where the lower store lacks some of that, the object is carried as it was.
        facts.new_references.insert(0, new(&[2], true));
        let found = actions(&facts, GiveUp::default(), Available::Old);
        assert_eq!(found, [Action::Carry, Action::Carry, Action::Drop]);
        // Or dropped, like one that is gone.
        facts.roots.clear();
        let found = actions(&facts, GiveUp::default(), Available::Old);
        assert_eq!(found, [Action::Drop; 3]);
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let above = prop_oneof![
            Just(Above::Row),
            Just(Above::Object),
            Just(Above::EqualObject)
        ];
        let below = prop_oneof![
            Just(Below::Gone),
            Just(Below::Same),
            Just(Below::Described),
            Just(Below::Other),
            Just(Below::Impossible),
            Just(Below::NoObject),
            Just(Below::NoStoreObject)
        ];
        (above, below).prop_map(|(above, below)| Row { above, below })
    }

    proptest! {
        /// Whatever the mixture: no row goes that one that stays refers to, nothing of the user's goes
        /// without a flag, and what is carried is needed.
        #[test]
        fn mixtures(
            rows in prop::collection::vec(any_row(), 1..60),
            pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 0..150),
            new in prop::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..20),
            roots in prop::collection::vec(any::<u32>(), 0..5),
            old in any::<u64>(),
            (missing, upper) in any::<(bool, bool)>(),
        ) {
            let count = u32::try_from(rows.len()).unwrap();
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a % count, b % count)).collect();
            let roots: Vec<u32> = roots.iter().map(|root| root % count).collect();
            let mut facts = facts(&rows, &pairs, &roots);
            for (node, reference, incomplete) in new {
                let new = NewReferences { nodes: vec![reference % count], incomplete };
                facts.new_references.insert(node % count, new);
            }
            let give_up = GiveUp { missing, upper };
            let available = |node: u32| match old >> (node % 64) & 3 {
                0 => Available::Nowhere,
                _ => Available::Old,
            };
            let plan = facts.plan(give_up, &available);
            let goes = |node: u32| {
                matches!(plan.actions[node as usize], Action::Drop | Action::GiveUp)
            };
            for node in 0..count {
                let action = plan.actions[node as usize];
                let row = facts.row(node);
                if !goes(node) && !matches!(action, Action::Refuse(_)) {
                    for &reference in facts.references_afterwards(node, give_up) {
                        prop_assert!(!goes(reference), "{node} refers to {reference}");
                    }
                }
                match action {
                    Action::GiveUp => prop_assert!(missing),
                    Action::TakeLower => prop_assert!(upper && row.above == Above::Object || row.below == Below::Other),
                    Action::Drop => {
                        prop_assert!(row.above == Above::Row && !roots.contains(&node));
                    }
                    Action::RemoveCopy => prop_assert_eq!(row.above, Above::EqualObject),
                    Action::Carry | Action::Missing => {
                        prop_assert!(facts.wanting(give_up).contains(&node));
                    }
                    _ => {}
                }
            }
        }
    }
}
