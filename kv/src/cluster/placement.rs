//! Which nodes the first chains are made of.

use crate::chain::{Chain, Life};
use crate::slot::Partitions;

/// A chain for each partition, of so many of these nodes, or of all if there are fewer.
///
/// The heads go round among the nodes, so that each orders as many writes as any other; and behind them the
/// others go round as well, so that the chains of a node that fails are headed by all others alike then, and
/// its reads are spread over them.
///
/// # Panics
/// If there are no nodes.
pub fn first_chains(partitions: Partitions, members: usize, nodes: &[Life]) -> Vec<Chain> {
    assert!(!nodes.is_empty(), "somebody has to serve");
    let count = nodes.len();
    let chain = |partition: u16| {
        let (head, round) = (usize::from(partition) % count, usize::from(partition) / count);
        let others = count - 1;
        let behind = (0..others).map(|place| 1 + (place + round) % others);
        let places = std::iter::once(0).chain(behind).take(members.max(1));
        let lives = places.map(|place| nodes[(head + place) % count]);
        Chain::first(1, lives).expect("each node has one place, and there are few members")
    };
    partitions.iter().map(|partition| chain(partition.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Incarnation, NodeId};
    use std::collections::BTreeMap;

    fn nodes(count: u16) -> Vec<Life> {
        let life = |node| Life { node: NodeId(node), incarnation: Incarnation(1) };
        (1..=count).map(life).collect()
    }

    #[test]
    fn work_is_spread_also_when_one_has_gone() {
        let partitions = Partitions::new(256).expect("a power of two");
        for count in [3, 4, 5] {
            let nodes = nodes(count);
            let chains = first_chains(partitions, 3, &nodes);
            let mut heads: BTreeMap<Life, usize> = BTreeMap::new();
            let mut members: BTreeMap<Life, usize> = BTreeMap::new();
            let mut heirs: BTreeMap<(Life, Life), usize> = BTreeMap::new();
            for chain in &chains {
                assert_eq!(chain.members().len(), 3);
                let lives: Vec<Life> = chain.serving().collect();
                *heads.entry(lives[0]).or_default() += 1;
                *heirs.entry((lives[0], lives[1])).or_default() += 1;
                lives.iter().for_each(|life| *members.entry(*life).or_default() += 1);
            }
            let spread = |counts: Vec<usize>| {
                counts.iter().max().expect("some") - counts.iter().min().expect("some")
            };
            assert!(spread(heads.into_values().collect()) <= 1, "{count} nodes");
            assert!(spread(members.into_values().collect()) <= 4, "{count} nodes");
            assert_eq!(heirs.len(), usize::from(count) * (usize::from(count) - 1));
            assert!(spread(heirs.into_values().collect()) <= 2, "{count} nodes");
        }
    }

    #[test]
    fn fewer_nodes_make_shorter_chains() {
        let partitions = Partitions::new(4).expect("a power of two");
        let alone = first_chains(partitions, 3, &nodes(1));
        assert!(alone.iter().all(|chain| chain.members().len() == 1));
        let two = first_chains(partitions, 3, &nodes(2));
        assert!(two.iter().all(|chain| chain.members().len() == 2));
    }
}
