//! Which of the garbage goes: what came before some time, or the oldest until enough is free.
//!
//! Only what nothing that stays refers to can go. So an object's time here is that of the latest
//! object in the closure of its referrers.

use super::graph::{Graph, Nodes};

/// Garbage that may go, each piece after all that refers to it, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The node.
    pub node: u32,
    /// When the latest of it and all that keeps it came, in seconds since 1970.
    pub time: i64,
    /// The same for nodes that keep each other, in a circle: all of them go, or none.
    pub group: u32,
}

/// Orders garbage so that any first part of whole groups can go alone: the oldest first, and nothing
/// before what refers to it. `times` says of each node of the graph when it came.
pub(crate) fn by_age(graph: &Graph, dead: &[u32], times: &[i64]) -> Vec<Candidate> {
    let mut times = times.to_vec();
    let mut is_dead = Nodes::none(graph.count);
    for &node in dead {
        is_dead.insert(node);
    }
    // Passed on to what is kept, until none changes.
    let mut open = dead.to_vec();
    while let Some(node) = open.pop() {
        let from = times[node as usize];
        for next in graph.keeps(node) {
            let time = &mut times[next as usize];
            if is_dead.contains(next) && *time < from {
                *time = from;
                open.push(next);
            }
        }
    }
    let groups = groups(graph, dead, &is_dead);
    let mut order: Vec<Candidate> = dead
        .iter()
        .map(|&node| Candidate {
            node,
            time: times[node as usize],
            group: groups[node as usize],
        })
        .collect();
    order.sort_by_key(|candidate| (candidate.time, candidate.group, candidate.node));
    order
}

/// For each node the number of its group, in an order in which nothing comes before what keeps it;
/// nodes that keep each other have the same. (Tarjan's algorithm, without recursion: it finds the
/// last groups first.) References have no circles; with `keep-outputs` and `keep-derivations` both in
/// force there are some.
fn groups(graph: &Graph, dead: &[u32], is_dead: &Nodes) -> Vec<u32> {
    const UNSEEN: u32 = u32::MAX;
    let (mut number, mut low) = (vec![UNSEEN; graph.count], vec![0_u32; graph.count]);
    let mut group = vec![UNSEEN; graph.count];
    let (mut next_number, mut found) = (0_u32, 0_u32);
    let mut members: Vec<u32> = Vec::new();
    for &start in dead {
        if number[start as usize] != UNSEEN {
            continue;
        }
        let mut open = vec![(start, 0_usize)];
        while let Some((node, place)) = open.last_mut() {
            let node = *node;
            let at = node as usize;
            if number[at] == UNSEEN {
                number[at] = next_number;
                low[at] = next_number;
                next_number += 1;
                members.push(node);
            }
            if let Some(next) = graph.keeps_at(node, *place) {
                *place += 1;
                let target = next as usize;
                if !is_dead.contains(next) {
                    continue;
                }
                if number[target] == UNSEEN {
                    open.push((next, 0));
                } else if group[target] == UNSEEN {
                    low[at] = low[at].min(number[target]);
                }
                continue;
            }
            open.pop();
            if let Some(&(parent, _)) = open.last() {
                let parent = parent as usize;
                low[parent] = low[parent].min(low[at]);
            }
            if low[at] == number[at] {
                while let Some(member) = members.pop() {
                    group[member as usize] = found;
                    if member == node {
                        break;
                    }
                }
                found += 1;
            }
        }
    }
    for group in &mut group {
        *group = found.saturating_sub(*group);
    }
    group
}

/// What a limit leaves: `dead` without what is younger than `before`, or kept by such.
pub(crate) fn older_than(graph: &Graph, dead: &[u32], times: &[i64], before: i64) -> Vec<u32> {
    let young = |node: &u32| times[*node as usize] >= before;
    let mut stays = Nodes::none(graph.count);
    graph.mark(dead.iter().copied().filter(young), &mut stays);
    dead.iter()
        .copied()
        .filter(|&node| !stays.contains(node))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::graph::Edges;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_goes_before_what_refers_to_it(
            count in 1_u32..60,
            references in prop::collection::vec((any::<u32>(), any::<u32>()), 0..150),
            kept in prop::collection::vec((any::<u32>(), any::<u32>()), 0..20),
            times in prop::collection::vec(0_i64..10, 60),
            alive in prop::collection::vec(any::<bool>(), 60),
        ) {
            // References lead to lower numbers: they have no circles.
            let references = references.iter().map(|(a, b)| (a % count, b % count));
            let references: Vec<_> = references.map(|(a, b)| (a.max(b), a.min(b))).collect();
            let kept: Vec<_> = kept.iter().map(|(a, b)| (a % count, b % count)).collect();
            let graph = Graph {
                count: count as usize,
                references: Edges::from_pairs(references),
                kept: Edges::from_pairs(kept),
            };
            let mut marks = Nodes::none(graph.count);
            graph.mark((0..count).filter(|&node| alive[node as usize]), &mut marks);
            let dead: Vec<u32> = graph.dead(&marks).collect();
            let time = |node: u32| times[node as usize];
            let order = by_age(&graph, &dead, &times);
            prop_assert_eq!(order.len(), dead.len());
            prop_assert!(order.is_sorted_by_key(|candidate| candidate.time));
            let place = |node: u32| order.iter().position(|candidate| candidate.node == node);
            for &node in &dead {
                for next in graph.keeps(node).filter(|next| dead.contains(next)) {
                    let (Some(here), Some(there)) = (place(node), place(next)) else {
                        prop_assert!(false, "{} keeps {}, which is no garbage", node, next);
                        continue;
                    };
                    // In a circle both come at the same time and in either order.
                    let mut reach = Nodes::none(graph.count);
                    graph.mark([next], &mut reach);
                    prop_assert!(here <= there || reach.contains(node));
                    prop_assert!(order[there].time >= time(node));
                }
            }
            for before in 0..11 {
                let old = older_than(&graph, &dead, &times, before);
                let by_order: Vec<_> = order.iter().filter(|c| c.time < before).collect();
                prop_assert_eq!(old.len(), by_order.len());
                prop_assert!(old.iter().all(|&node| time(node) < before));
            }
        }
    }
}
