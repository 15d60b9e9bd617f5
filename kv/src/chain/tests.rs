use super::*;
use proptest::prelude::*;

fn life(node: u16, incarnation: u64) -> Life {
    Life { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn chain(epoch: u32, serving: &[u16], syncing: Option<u16>) -> Chain {
    let mut chain = Chain::first(epoch, serving.iter().map(|node| life(*node, 1))).expect("good");
    if let Some(node) = syncing {
        chain.members.push(Member { life: life(node, 1), role: Role::Syncing });
    }
    chain
}

#[test]
fn members_have_their_places() {
    let it = chain(7, &[1, 2], Some(3));
    assert_eq!((it.head(), it.tail(), it.syncing()), (life(1, 1), life(2, 1), Some(life(3, 1))));
    assert_eq!(it.successor(life(2, 1)), Some(life(3, 1)));
    assert_eq!(it.predecessor(life(2, 1)), Some(life(1, 1)));
    assert_eq!((it.predecessor(life(1, 1)), it.successor(life(3, 1))), (None, None));
    assert_eq!((it.role(life(1, 2)), it.life_of(NodeId(1))), (None, Some(life(1, 1))));
    assert_eq!(it.others(life(2, 1)).collect::<Vec<_>>(), [life(1, 1), life(3, 1)]);
    assert_eq!(it.to_string(), "7: 1/1 2/1 (3/1)");
}

#[test]
fn what_is_no_chain_is_refused() {
    let syncing = |node| Member { life: life(node, 1), role: Role::Syncing };
    let serving = |node| Member { life: life(node, 1), role: Role::Serving };
    for (members, refused) in [
        (vec![], Malformed::NobodyServes),
        (vec![syncing(1)], Malformed::NobodyServes),
        (vec![serving(1), serving(1)], Malformed::Twice(NodeId(1))),
        (vec![serving(1), syncing(2), serving(3)], Malformed::SyncingBeforeEnd(NodeId(2))),
        (vec![serving(1), syncing(2), syncing(3)], Malformed::SyncingBeforeEnd(NodeId(2))),
        ((0..9).map(serving).collect(), Malformed::TooMany(9)),
    ] {
        assert_eq!(Chain::new(1, members), Err(refused));
    }
}

#[test]
fn only_those_who_serve_drop() {
    let it = chain(7, &[1, 2], Some(3));
    let drop = |nodes: &[u16]| Step::Drop(nodes.iter().map(|node| life(*node, 1)).collect());
    for (step, by, after) in [
        (drop(&[1]), life(2, 1), chain(8, &[2], Some(3))),
        (drop(&[2]), life(1, 1), chain(8, &[1], Some(3))),
        (drop(&[3]), life(1, 1), chain(8, &[1, 2], None)),
        (drop(&[2, 3]), life(1, 1), chain(8, &[1], None)),
        (drop(&[1]), life(1, 1), chain(8, &[2], Some(3))),
    ] {
        assert_eq!(it.after(&step, by), Ok(after), "{step:?}");
    }
    for (step, by, refused) in [
        (drop(&[1]), life(3, 1), Illegal::NotServing(life(3, 1))),
        (drop(&[1]), life(2, 2), Illegal::NotServing(life(2, 2))),
        (drop(&[1]), life(4, 1), Illegal::NotServing(life(4, 1))),
        (drop(&[]), life(1, 1), Illegal::DropsNobody),
        (drop(&[4]), life(1, 1), Illegal::NoMember(life(4, 1))),
        (drop(&[1, 2]), life(1, 1), Illegal::DropsLast),
        (drop(&[1, 2, 3]), life(1, 1), Illegal::DropsLast),
    ] {
        assert_eq!(it.after(&step, by), Err(refused), "{step:?}");
    }
}

#[test]
fn only_the_tail_appends_and_promotes() {
    let two = chain(7, &[1, 2], None);
    let three = chain(8, &[1, 2], Some(3));
    let (append, promote) = (Step::Append(life(3, 1)), Step::Promote(life(3, 1)));
    assert_eq!(two.after(&append, life(2, 1)), Ok(three.clone()));
    assert_eq!(three.after(&promote, life(2, 1)), Ok(chain(9, &[1, 2, 3], None)));
    for (it, step, by, refused) in [
        (&two, &append, life(1, 1), Illegal::NotTail(life(1, 1))),
        (&two, &Step::Append(life(1, 2)), life(2, 1), Illegal::IsMember(NodeId(1))),
        (&three, &Step::Append(life(4, 1)), life(2, 1), Illegal::Syncs(life(3, 1))),
        (&three, &promote, life(1, 1), Illegal::NotTail(life(1, 1))),
        (&three, &promote, life(3, 1), Illegal::NotTail(life(3, 1))),
        (&three, &Step::Promote(life(3, 2)), life(2, 1), Illegal::NotSyncing(life(3, 2))),
        (&two, &promote, life(2, 1), Illegal::NotSyncing(life(3, 1))),
    ] {
        assert_eq!(it.after(step, by), Err(refused), "{step:?}");
    }
    let full = chain(7, &[1, 2, 3, 4, 5, 6, 7, 8], None);
    assert_eq!(full.after(&Step::Append(life(9, 1)), life(8, 1)), Err(Illegal::Full));
}

#[test]
fn who_has_served_takes_over_in_a_later_start() {
    let it = chain(7, &[1, 2], Some(3));
    let over = |life| (Step::TakeOver(life), life);
    let (step, by) = over(life(2, 5));
    let alone = Chain::first(8, [life(2, 5)]).expect("it serves");
    assert_eq!(it.after(&step, by), Ok(alone));
    for wrong in [life(2, 1), life(3, 2), life(4, 2)] {
        let (step, by) = over(wrong);
        assert_eq!(it.after(&step, by), Err(Illegal::NeverServed(wrong)));
    }
    assert!(it.after(&step, life(1, 1)).is_err(), "nobody does it for another one");
    let last = Chain { epoch: u32::MAX, ..it };
    assert_eq!(last.after(&step, by), Err(Illegal::NoEpochLeft));
}

fn any_step() -> impl Strategy<Value = (Step, Life)> {
    let any_life = || (0..6u16, 1..3u64).prop_map(|(node, incarnation)| life(node, incarnation));
    let step = prop_oneof![
        prop::collection::vec(any_life(), 0..3).prop_map(Step::Drop),
        any_life().prop_map(Step::Append),
        any_life().prop_map(Step::Promote),
        Just(Step::Touch),
        any_life().prop_map(Step::TakeOver),
    ];
    (step, any_life())
}

proptest! {
    /// Whatever is asked for: what comes out is a chain, of the next epoch, in which nobody has changed
    /// places, and nobody serves who did not before, but for who was promoted or took over.
    #[test]
    fn every_step_leads_to_a_chain(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut it = chain(1, &[0, 1], None);
        for (step, by) in steps {
            let Ok(next) = it.after(&step, by) else { continue };
            prop_assert_eq!(Chain::new(next.epoch, next.members.clone()), Ok(next.clone()));
            prop_assert_eq!(next.epoch, it.epoch + 1);
            if !matches!(step, Step::TakeOver(_)) {
                let stayed = |one: &Chain, other: &Chain| -> Vec<Life> {
                    let lives = one.members.iter().map(|member| member.life);
                    lives.filter(|life| other.role(*life).is_some()).collect()
                };
                prop_assert_eq!(stayed(&it, &next), stayed(&next, &it));
                let new: Vec<Life> = next
                    .serving()
                    .filter(|life| it.role(*life) != Some(Role::Serving))
                    .collect();
                let promoted = match step { Step::Promote(life) => vec![life], _ => vec![] };
                prop_assert_eq!(new, promoted);
            }
            it = next;
        }
    }
}

#[test]
fn a_chain_is_read_as_it_is_displayed() {
    for text in ["1: 1/1", "7: 1/4 2/9 (3/2)", "4294967295: 65535/18446744073709551615 2/1"] {
        let chain: Chain = text.parse().expect(text);
        assert_eq!(chain.to_string(), text);
    }
    for text in ["", "1", "x: 1/1", "1: 1", "1: 1/x", "1: (1/1", "1: 1/1)", "-1: 1/1"] {
        assert_eq!(text.parse::<Chain>(), Err(Malformed::Text), "{text:?}");
    }
    assert_eq!("1: (1/1)".parse::<Chain>(), Err(Malformed::NobodyServes));
    assert_eq!("1: 1/1 1/2".parse::<Chain>(), Err(Malformed::Twice(NodeId(1))));
}
