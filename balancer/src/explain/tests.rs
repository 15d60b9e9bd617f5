use super::*;
use crate::balancer::{Balancer, BalancerConfig, Member, Ticket};
use crate::endpoint::{Outcome, ServerLoad};
use crate::evidence::SharedEvidence;
use crate::policy::by_name;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

struct Bed {
    balancer: Balancer,
    rng: Rng,
    now: Instant,
}

impl Bed {
    fn new(policy: &str, members: &[(&str, u32)]) -> Self {
        let now = Instant::from_nanos(1 << 40);
        let policy = by_name(policy).expect("there is such a policy");
        let config = BalancerConfig { explain: true, ..BalancerConfig::default() };
        let balancer = Balancer::new(config, policy, SharedEvidence::new(1), 0, now);
        let mut bed = Bed { balancer, rng: Rng::from_seed(1), now };
        bed.set_members(members);
        bed
    }

    fn set_members(&mut self, members: &[(&str, u32)]) {
        let member = |&(name, weight): &(&str, u32)| Member { name: name.into(), weight };
        let members: Vec<Member> = members.iter().map(member).collect();
        self.balancer.set_members(&members, self.now);
    }

    fn start(&mut self) -> Ticket {
        self.balancer.start(&[], self.now, &mut self.rng).expect("there is an endpoint")
    }

    /// A call that takes as long as calls to its endpoint do.
    fn call(&mut self, latencies: &[u64]) {
        let ticket = self.start();
        let latency = Duration::from_micros(latencies[ticket.slot() as usize]);
        self.now += Duration::from_millis(1);
        let Bed { balancer, rng, now } = self;
        balancer.end(
            ticket,
            &Outcome::Answered(None),
            *now - Duration::from_millis(1) + latency,
            rng,
        );
    }

    fn tick(&mut self) {
        let Bed { balancer, rng, now } = self;
        balancer.tick(*now, rng);
    }

    fn rows(&self) -> &[PickRow] {
        self.balancer.picks().expect("it counts them").rows()
    }
}

/// Two servers of which enough is known, and neither so slow that it is ejected.
fn known(latencies: [u64; 2], weights: [u32; 2]) -> Bed {
    let members = [("a:7000", weights[0]), ("b:7000", weights[1])];
    let mut bed = Bed::new("hist", &members);
    for step in 0..400 {
        bed.call(&latencies);
        // Everybody is tried: the other one is avoided.
        let avoid = [(step % 2) as Slot];
        let Bed { balancer, rng, now } = &mut bed;
        let ticket = balancer.start(&avoid, *now, rng).expect("there is another");
        let latency = Duration::from_micros(latencies[ticket.slot() as usize]);
        balancer.end(ticket, &Outcome::Answered(None), *now + latency, rng);
        bed.tick();
    }
    bed
}

#[test]
fn a_sentence_tells_the_arithmetic_of_a_choice() {
    let mut bed = known([600, 250], [1, 1]);
    let first = bed.start();
    let second = bed.start();
    let said = bed.balancer.explain(&second).to_string();
    let sentence =
        "chosen b:7000: 0.25 ms × (1+1) = 0.50 ms against a:7000 0.60 ms × (0+1) = 0.60 ms";
    assert_eq!(said, sentence);
    let explained = bed.balancer.explain(&second);
    assert_eq!((&*explained.chosen, explained.verdict), ("b:7000", Verdict::Cheapest));
    assert_eq!(explained.candidates.len(), 2);
    let chosen = explained.candidates.iter().find(|it| *it.name == *"b:7000").expect("it is there");
    assert_eq!(chosen.calls_before, Some(1.0));
    assert_eq!([first.slot(), second.slot()], [1, 1]);
}

#[test]
fn weights_are_told_where_they_count() {
    let mut bed = known([600, 250], [1, 3]);
    let ticket = bed.start();
    let said = bed.balancer.explain(&ticket).to_string();
    assert!(
        said.starts_with("chosen b:7000: 0.25 ms × (0+1) / 3 = 0.08 ms against a:7000"),
        "{said}"
    );
}

#[test]
fn other_policies_have_sentences_of_their_own() {
    let mut bed = Bed::new("ll:2", &[("a:1", 1), ("b:1", 1)]);
    let first = bed.start();
    let ticket = bed.start();
    let (chosen, other) = if first.slot() == 0 { ("b:1", "a:1") } else { ("a:1", "b:1") };
    let said = bed.balancer.explain(&ticket).to_string();
    assert_eq!(
        said,
        format!("chosen {chosen}: the fewest calls for its weight, 0 against {other} 1")
    );
    let mut bed = Bed::new("rr", &[("a:1", 1)]);
    let ticket = bed.start();
    assert_eq!(bed.balancer.explain(&ticket).to_string(), "chosen a:1: its turn");
}

#[test]
fn picks_are_counted_by_verdict_and_endpoint() {
    let mut bed = known([600, 250], [1, 1]);
    let rows = bed.rows();
    let picks: u64 = rows.iter().map(PickRow::picks).sum();
    assert_eq!(picks, 800);
    assert!(rows[1].picked_for(Verdict::Cheapest) > 500, "{rows:?}");
    // Where both were compared, one was passed over; where one was to be avoided, nobody was.
    assert!(rows[0].passed_over > 300 && rows[0].passed_over <= 400, "{rows:?}");
    let table = bed.balancer.picks().expect("it counts them").to_string();
    assert!(table.starts_with("endpoint     picked"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
    let last = table.lines().last().expect("four lines");
    assert!(last.starts_with("all") && last.contains(" 800 "), "{table}");
    let mut sums = bed.balancer.picks().expect("it counts them").clone();
    sums.merge(&sums.clone());
    let row = |table: &PickTable| table.row("b:7000").map(PickRow::picks);
    assert_eq!(row(&sums), row(bed.balancer.picks().expect("it counts them")).map(|it| it * 2));
    // Another endpoint in the place of one that left begins anew.
    bed.set_members(&[("b:7000", 1), ("c:7000", 1)]);
    assert_eq!((&*bed.rows()[0].name, bed.rows()[0].picks()), ("c:7000", 0));
}

/// More are compared than a sentence has room for.
#[test]
fn the_chosen_one_is_among_those_that_are_told() {
    const NAMES: [&str; 20] = [
        "a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1", "i:1", "j:1", "k:1", "l:1", "m:1",
        "n:1", "o:1", "p:1", "q:1", "r:1", "s:1", "t:1",
    ];
    // Ours looks at no more than it draws and those that answered last.
    for (policy, told_max) in [("c3", 8), ("prequal", 8), ("hist", 6)] {
        let mut bed = Bed::new(policy, &NAMES.map(|name| (name, 1)));
        let (mut compared, mut passed_over) = (0, 0);
        for _ in 0..500 {
            let Bed { balancer, rng, now } = &mut bed;
            *now += Duration::from_millis(1);
            // As many as Prequal's pool holds; of the others it knows nothing.
            for slot in (0..16).filter(|_| policy == "prequal") {
                let latency = Duration::from_micros(200 + rng.below(200));
                let load =
                    ServerLoad { in_flight: 1, queue_delay: Duration::ZERO, service_time: latency };
                balancer.probed(slot, &load, *now, rng);
            }
            let ticket = balancer.start(&[], *now, rng).expect("there are many");
            let explained = balancer.explain(&ticket);
            let told = &explained.candidates;
            if explained.verdict != Verdict::Explore {
                let of_chosen = told.iter().filter(|it| it.name == explained.chosen).count();
                assert_eq!(of_chosen, 1, "{policy}: {explained}");
            }
            let mut names: Vec<_> = told.iter().map(|candidate| &candidate.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), told.len(), "{policy}, somebody is told twice: {explained}");
            compared = compared.max(told.len());
            passed_over += told.len().saturating_sub(1) as u64;
            let latency = Duration::from_micros(200 + rng.below(200));
            balancer.end(ticket, &Outcome::Answered(None), *now + latency, rng);
        }
        assert_eq!(compared, told_max, "{policy}: otherwise nothing was seen");
        let counted: u64 = bed.rows().iter().map(|row| row.passed_over).sum();
        assert_eq!(counted, passed_over, "{policy}");
    }
}

#[test]
fn nothing_is_counted_unless_it_is_asked_for() {
    let now = Instant::from_nanos(1 << 40);
    let policy = by_name("hist").expect("there is such a policy");
    let balancer = Balancer::new(BalancerConfig::default(), policy, SharedEvidence::new(1), 0, now);
    assert!(balancer.picks().is_none());
}

#[test]
fn a_newcomer_is_held_back_and_the_other_one_gets_the_call() {
    for policy in ["hist", "ewma", "ll", "c3", "rr"] {
        let mut bed = Bed::new(policy, &[("a:1", 1), ("b:1", 1)]);
        for _ in 0..200 {
            bed.call(&[800, 800, 10]);
            bed.tick();
        }
        bed.set_members(&[("a:1", 1), ("b:1", 1), ("c:1", 1)]);
        let tickets: Vec<Ticket> = (0..100).map(|_| bed.start()).collect();
        let of_newcomer = tickets.iter().filter(|ticket| ticket.slot() == 2).count() as u64;
        let row = &bed.rows()[2];
        assert!(row.held_back > 0, "{policy}: {row:?}");
        assert_eq!(row.picks(), of_newcomer, "{policy}: held back is not sent");
        // It is due a tenth of what it would get, and nothing of it has been answered.
        let due = (row.held_back + row.picks()) / 10;
        assert!(row.picks() <= due * 3 + 5, "{policy}: {row:?}");
        let others: u64 =
            bed.rows()[..2].iter().map(|row| row.picked_for(Verdict::SlowStart)).sum();
        assert_eq!(others, row.held_back, "{policy}");
    }
}
