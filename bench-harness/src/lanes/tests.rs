//! The whole path of a request on a clock of ours, against a server that stalls when it is told to.

use super::*;
use crate::protocol::echo::{Echo, Request};
use crate::recording::Window;
use crate::schedule::{Arrival, Schedule, Share};
use catena_engine::rng::Rng;
use catena_engine::time::Duration;
use hdrhistogram::Histogram;

/// One tick of the clock, and what the server takes for a request.
const TICK: Duration = Duration::from_micros(100);

/// Lanes and a server that echoes whatever it got a tick ago, unless it stalls.
struct World {
    lanes: Lanes<Echo>,
    now: Instant,
    /// What each lane's server has not answered.
    pending: Vec<Vec<u8>>,
    stall: std::ops::Range<Duration>,
}

impl World {
    fn new(connections: u32, depth: u32, stall_ms: std::ops::Range<u64>) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let nothing = Recording::new(Window { from: now, until: now });
        let request = Arc::new(Request::with_payload(32));
        let mut lanes = Lanes::new(connections, depth, request, nothing);
        for index in 0..connections {
            lanes.connected(index, now);
        }
        let stall = Duration::from_millis(stall_ms.start)..Duration::from_millis(stall_ms.end);
        World { lanes, now, pending: vec![Vec::new(); connections as usize], stall }
    }

    fn window(&self) -> Window {
        Window { from: self.now, until: self.now + Duration::from_secs(1) }
    }

    fn metronome(&self, rate: f64) -> Demand {
        self.metronome_with_room_for(rate, 10_000)
    }

    fn metronome_with_room_for(&self, rate: f64, waiting_max: usize) -> Demand {
        let Window { from, until } = self.window();
        let share = Share { rate, worker: 0, workers: 1 };
        let schedule = Schedule::new(Arrival::Const, share, Rng::from_seed(1), from, until);
        Demand::Open(Pacer::new(schedule, waiting_max))
    }

    /// A second of load, and then a second without. What the worker does, on a clock of ours.
    fn run(&mut self, demand: Demand) -> Recording {
        let window = self.window();
        self.lanes.begin(demand, Recording::new(window), self.now);
        let is_stalled = |world: &World| world.stall.contains(&world.now.since(window.from));
        while self.now < window.until + Duration::from_secs(1) {
            self.lanes.put_off_due(self.now);
            if !is_stalled(self) {
                for index in 0..self.lanes.count() {
                    let answers = std::mem::take(&mut self.pending[index as usize]);
                    self.lanes.received(index, &answers, self.now);
                }
            }
            self.lanes.start_due(self.now);
            while let Some(index) = self.lanes.next_dirty() {
                if let Some(output) = self.lanes.poll_transmit(index) {
                    self.pending[index as usize].extend(output.to_vec());
                    self.lanes.keep(output);
                }
            }
            self.now += TICK;
            if self.now >= window.until {
                self.lanes.stop(self.now);
            }
        }
        self.lanes.give_up(self.now)
    }
}

fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

#[test]
fn a_stall_shows_in_response_time_and_not_in_service_time() {
    let mut world = World::new(1, 1, 300..500);
    let recording = world.run(world.metronome(1_000.0));
    assert_eq!((recording.ok, recording.intended()), (1_000, 1_000));
    // One request was in flight during the stall; the others waited to be sent.
    assert!(ms(recording.service(), 0.99) < 0.2, "{}", ms(recording.service(), 0.99));
    assert!((199.0..202.0).contains(&ms(recording.service(), 1.0)));
    // 200 of 1,000 came during the stall, evenly: the slowest tenth waited more than half of it.
    assert!((90.0..130.0).contains(&ms(recording.response(), 0.9)));
    assert!((195.0..202.0).contains(&ms(recording.response(), 1.0)));
    assert!(ms(recording.response(), 0.5) < 0.2, "most came when all was well");
    assert!((195..260).contains(&recording.late_sends), "{}", recording.late_sends);
    assert_eq!(recording.late_by_generator, 0, "there was no room");
}

#[test]
fn a_closed_loop_hides_the_same_stall() {
    let mut world = World::new(1, 1, 300..500);
    let recording = world.run(Demand::Closed);
    assert_eq!(recording.late_sends, 0);
    assert!(ms(recording.response(), 0.999) < 0.2, "one of thousands met the stall");
    assert!((199.0..202.0).contains(&ms(recording.response(), 1.0)));
}

#[test]
fn room_on_other_connections_is_used() {
    let mut world = World::new(4, 100, 300..500);
    let recording = world.run(world.metronome(1_000.0));
    // Everything could be sent at once: now the service time shows the stall as well.
    assert_eq!((recording.ok, recording.late_sends), (1_000, 0));
    assert!((90.0..130.0).contains(&ms(recording.service(), 0.9)));
}

#[test]
fn what_never_ends_is_unfinished_and_what_never_starts_is_unsent() {
    let mut world = World::new(2, 3, 500..10_000);
    let recording = world.run(world.metronome(1_000.0));
    assert_eq!((recording.unfinished, recording.unsent), (6, 494));
    assert_eq!((recording.ok, recording.intended()), (500, 1_000));
    assert_eq!(recording.response().len(), 1_000, "none is left out of the response times");
    assert!(ms(recording.response(), 0.75) >= 200.0, "those unsent waited up to half a second");
    assert!(ms(recording.response(), 1.0) >= 1_400.0, "those in flight for longer");
}

#[test]
fn what_finds_no_place_to_wait_is_counted() {
    let mut world = World::new(1, 1, 500..10_000);
    let demand = world.metronome_with_room_for(1_000.0, 100);
    let recording = world.run(demand);
    assert_eq!((recording.unfinished, recording.unsent, recording.shed), (1, 100, 399));
    assert_eq!(recording.intended(), 1_000);
}

#[test]
fn a_lost_connection_loses_what_was_in_flight_and_may_come_back() {
    let mut world = World::new(2, 2, 0..10_000);
    let window = world.window();
    world.lanes.begin(Demand::Closed, Recording::new(window), world.now);
    assert_eq!((world.lanes.in_flight(), world.lanes.open()), (4, 2));
    world.lanes.ended(0, Err(io::ErrorKind::ConnectionReset.into()), world.now);
    assert_eq!((world.lanes.in_flight(), world.lanes.open()), (2, 1));
    assert!(world.lanes.is_over(0) && !world.lanes.is_over(1));
    assert_eq!(
        world.lanes.peer().first_loss.clone().map(|ending| ending.reason).as_deref(),
        Some("connection lost: connection reset")
    );
    world.lanes.connected(0, world.now);
    assert_eq!((world.lanes.in_flight(), world.lanes.open()), (4, 2), "a closed loop fills up");
    let recording = world.lanes.give_up(window.until);
    assert_eq!(recording.errors, [(Outcome::ConnectionLost, 2)]);
    assert_eq!(recording.unfinished, 4);
}

#[test]
fn requests_take_turns_on_the_connections() {
    let mut world = World::new(3, 2, 0..10_000);
    let window = world.window();
    world.lanes.begin(world.metronome(1_000.0), Recording::new(window), world.now);
    for (due_ms, in_flight) in [(0, [1, 0, 0]), (1, [1, 1, 0]), (2, [1, 1, 1]), (4, [2, 2, 1])] {
        world.lanes.start_due(window.from + Duration::from_millis(due_ms));
        let on = |lane: &Lane<Echo>| lane.flights.iter().flatten().count();
        assert_eq!(world.lanes.lanes.iter().map(on).collect::<Vec<_>>(), in_flight);
    }
    world.lanes.start_due(window.until);
    assert!(!world.lanes.has_room() && world.lanes.in_flight() == 6);
    assert_eq!(world.lanes.next_due(), None, "nothing to wake up for without room");
}

#[test]
fn a_time_without_any_connection_is_found_and_who_is_gone() {
    let mut world = World::new(2, 1, 0..0);
    let window = world.window();
    let at = |ms| window.from + Duration::from_millis(ms);
    let gone = || Err(io::ErrorKind::ConnectionReset.into());
    world.lanes.begin(Demand::Closed, Recording::new(window), window.from);
    world.lanes.ended(0, gone(), at(100));
    world.lanes.ended(1, gone(), at(200));
    world.lanes.connected(1, at(300));
    assert_eq!(world.lanes.peer().outage, Some(Window { from: at(200), until: at(300) }));
    world.lanes.ended(1, gone(), at(800));
    world.lanes.stop(at(1_000));
    let mut peer = world.lanes.peer().clone();
    assert_eq!(peer.outage, Some(Window { from: at(800), until: at(1_000) }), "the longest");
    assert_eq!((peer.losses, peer.gone), (3, 2));

    // There was no server only while no worker had one.
    let outage = Some(Window { from: at(900), until: at(1_000) });
    peer.add(Peer { outage, ..Peer::default() });
    assert_eq!(peer.outage, outage);
    peer.add(Peer::default());
    assert_eq!(peer.outage, None);
}
