use super::*;
use crate::chain::Step;

fn config() -> ClusterConfig {
    ClusterConfig {
        id: DirectoryId([7; 16]),
        partitions: Partitions::new(4).expect("a power of two"),
        hash_seed: u64::MAX,
        members: 3,
        first_nodes: 3,
    }
}

fn node(name: &str) -> NodeRecord {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    NodeRecord {
        name: name.to_owned(),
        incarnation: Incarnation(0),
        peers: vec![address(1), address(2)],
        redis: vec![address(3), address(4)],
    }
}

fn three() -> View {
    let mut view = View::new(config());
    for name in ["one", "two", "three"] {
        assert_eq!(view.chains(), [], "they are waited for");
        view.apply(&Change::Register(node(name))).expect("a new one");
    }
    view
}

#[test]
fn the_first_chains_are_made_when_all_have_come() {
    let view = three();
    assert_eq!(view.chains().len(), 4);
    let texts: Vec<String> = view.chains().iter().map(Chain::to_string).collect();
    assert_eq!(texts, ["1: 1/1 2/1 3/1", "1: 2/1 3/1 1/1", "1: 3/1 1/1 2/1", "1: 1/1 3/1 2/1"]);
}

#[test]
fn who_is_started_again_is_another_one() {
    let mut view = three();
    let before = view.chains().to_vec();
    let life = |view: &View, name| view.life_of(name).map(|life| (life.node.0, life.incarnation.0));
    assert_eq!(life(&view, "two"), Some((2, 1)));
    view.apply(&Change::Register(node("two"))).expect("it is known");
    assert_eq!(life(&view, "two"), Some((2, 2)), "a blank disk gets the next one");
    let known = NodeRecord { incarnation: Incarnation(9), ..node("two") };
    view.apply(&Change::Register(known.clone())).expect("it is known");
    assert_eq!(life(&view, "two"), Some((2, 9)), "its own disk knows better");
    view.apply(&Change::Register(known)).expect("it is known");
    assert_eq!(life(&view, "two"), Some((2, 10)), "two never have the same");
    assert_eq!(view.chains(), before, "chains are for the chains' members to change");
    assert_eq!(life(&view, "four"), None);
}

#[test]
fn one_of_two_proposals_wins() {
    let mut view = three();
    let partition = Partition(1);
    let chain = view.chain(partition).expect("it has one").clone();
    let (head, tail) = (chain.head(), chain.tail());
    let [one, other] = [(head, tail), (tail, head)].map(|(by, gone)| {
        let after = chain.after(&Step::Drop(vec![gone]), by).expect("it serves");
        Change::Replace(partition, after)
    });
    view.apply(&one).expect("it is the first");
    let after = view.clone();
    assert_eq!(view.apply(&other), Err(Refused::Epoch(partition, Some(2))));
    assert_eq!(view.apply(&one), Err(Refused::Epoch(partition, Some(2))), "not twice");
    assert_eq!(view, after);
    let nowhere = Partition(4);
    let stray = Change::Replace(nowhere, chain);
    assert_eq!(view.apply(&stray), Err(Refused::Partition(nowhere)));
}

#[test]
fn nodes_that_are_none_are_refused() {
    let mut view = View::new(config());
    for name in ["", "a b", "a/b", "ü", &"a".repeat(256)] {
        let refused = view.apply(&Change::Register(node(name)));
        assert_eq!(refused, Err(Refused::Name(name.to_owned())));
    }
    let uneven = NodeRecord { redis: Vec::new(), ..node("one") };
    assert_eq!(view.apply(&Change::Register(uneven)), Err(Refused::Addresses));
    for number in 0..NODES_MAX {
        view.apply(&Change::Register(node(&format!("node-{number}")))).expect("there is room");
    }
    assert_eq!(view.apply(&Change::Register(node("more"))), Err(Refused::NodesFull));
}

#[test]
fn it_is_read_as_it_was_written_and_changes_of_it_are_seen() {
    for view in [View::new(config()), three()] {
        let text = view.encode();
        assert_eq!(View::decode(text.as_bytes()), Ok(view));
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(View::decode(&damaged).is_err(), "byte {at}");
        }
    }
}

/// Whoever writes it by hand has the checksum right, and something else wrong.
#[test]
fn a_field_that_is_wrong_is_named() {
    let text = three().encode();
    for (from, to, named) in [
        ("partitions = 4", "partitions = 3", "partitions"),
        ("partitions = 4", "partitions = 8", "chains"),
        ("members = 3", "members = 9", "members"),
        ("first_nodes = 3", "first_nodes = 0", "first_nodes"),
        ("ffffffffffffffff", "fffffffffffffffg", "hash_seed"),
        ("0707", "07", "cluster"),
        ("1: 1/1 2/1 3/1", "1: 1/1 2/1 1/2", "chains"),
        ("name = \"two\"", "name = \"one\"", "nodes.name"),
        ("id = 2", "id = 1", "nodes.id"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let body = &changed[..changed.rfind("# crc32c").expect("it ends so")];
        let sealed = format!("{body}# crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        match View::decode(sealed.as_bytes()) {
            Err(Problem::Field { field, .. }) => assert_eq!(field, named),
            other => panic!("{from}: {other:?}"),
        }
    }
}
