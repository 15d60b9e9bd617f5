//! Turns take time, pauses delay them, clocks differ.

use catena_engine::driver::{Completion, Driver, ListenerId, Output, SocketId};
use catena_engine::sim::{
    CpuConfig, EventKind, Fault, HostId, Next, SimDriver, Span, World, WorldConfig,
};
use catena_engine::time::{Duration, Instant};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

const MILLI: Duration = Duration::from_millis(1);

/// A process that wants a turn every ten milliseconds and writes down when it had them, by its own
/// clock and by the world's.
fn ticking(world: &mut World) -> (HostId, Rc<RefCell<Turns>>) {
    let turns = Rc::new(RefCell::new(Vec::new()));
    let (its, hook) = (turns.clone(), world.hook());
    let host = world.start_process(move |_| {
        let (its, hook) = (its.clone(), hook.clone());
        let mut next: Option<Instant> = None;
        move |driver: &mut SimDriver| {
            let now = driver.now();
            if next.is_none_or(|next| now >= next) {
                its.borrow_mut().push((now, hook.now()));
                next = Some(now + 10 * MILLI);
            }
            Next { until: next, ..Next::default() }
        }
    });
    (host, turns)
}

/// By the host's clock, and by the world's.
type Turns = Vec<(Instant, Instant)>;

fn longest_gap(turns: &Turns) -> Duration {
    turns.windows(2).map(|two| two[1].1.since(two[0].1)).max().unwrap_or_default()
}

#[test]
fn a_timer_fires_when_it_is_due() {
    let mut world = World::new(1, WorldConfig::default());
    let (_, turns) = ticking(&mut world);
    world.run_for(Duration::from_secs(1));
    let turns = turns.borrow();
    assert!((95..=100).contains(&turns.len()), "{}", turns.len());
    assert!(longest_gap(&turns) < 11 * MILLI);
    assert!(turns[0].0.as_nanos() >= 1_000_000_000, "a host's clock is not the world's");
}

#[test]
fn a_pause_delays_turns_and_not_the_clock() {
    let mut world = World::new(2, WorldConfig::default());
    let (host, turns) = ticking(&mut world);
    world.run_for(100 * MILLI);
    let (before, shown) = (turns.borrow().len(), turns.borrow()[0]);
    world.inject(Fault::Pause { host, lasts: 500 * MILLI });
    world.run_for(400 * MILLI);
    assert_eq!(turns.borrow().len(), before, "it stands still");
    world.run_for(400 * MILLI);
    let turns = turns.borrow();
    assert!(turns.len() > before);
    assert!((490 * MILLI..515 * MILLI).contains(&longest_gap(&turns)));
    let last = turns[turns.len() - 1];
    let (by_host, by_world) = (last.0.since(shown.0), last.1.since(shown.1));
    assert!(by_host.abs_diff(by_world) < MILLI, "its clock went on");
}

#[test]
fn a_skewed_clock_drifts_and_its_timers_with_it() {
    let mut world = World::new(3, WorldConfig::default());
    let (host, turns) = ticking(&mut world);
    world.run_for(100 * MILLI);
    world.inject(Fault::SkewClock { host, drift_ppm: 500_000 });
    turns.borrow_mut().clear();
    world.run_for(Duration::from_secs(1));
    let count = turns.borrow().len();
    assert!((145..=151).contains(&count), "half as many again: {count}");
    let (first, last) = (turns.borrow()[0], turns.borrow()[count - 1]);
    let ratio = last.0.since(first.0).as_secs_f64() / last.1.since(first.1).as_secs_f64();
    assert!((1.49..1.51).contains(&ratio), "{ratio}");
}

#[test]
fn clocks_of_hosts_have_nothing_in_common() {
    let mut world = World::new(4, WorldConfig::default());
    let [first, second] = [(); 2].map(|()| world.bare_host(1).remove(0));
    let before = (first.now(), second.now());
    assert!(before.0.since(before.1).max(before.1.since(before.0)) > 100 * MILLI);
    world.run_for(Duration::from_secs(1_000));
    let after = (first.now().since(before.0), second.now().since(before.1));
    let drift = after.0.abs_diff(after.1);
    assert!(!drift.is_zero() && drift <= 100 * MILLI, "at most 50 ppm each: {drift:?}");
}

#[test]
fn who_burns_time_keeps_the_shard_and_spares_the_others() {
    // Two shards of a host echo a byte; each request on shard 0 burns 20 ms.
    let cpu = CpuConfig { turn_cost: Span::micros(1, 1), ..CpuConfig::default() };
    let mut world = World::new(5, WorldConfig { cpu, ..WorldConfig::default() });
    let hook = world.hook();
    let server = world.start_host(2, move |boot| {
        let processes = boot.drivers.iter_mut().enumerate().map(|(shard, driver)| {
            let address = SocketAddr::new(boot.host.ip(), 7_000 + shard as u16);
            driver.listen(address).expect("the port is free");
            let hook = hook.clone();
            let process = move |driver: &mut SimDriver| {
                while let Some(completion) = driver.next_completion() {
                    if let Completion::Received { socket, chunk } = completion {
                        driver.give_back(chunk);
                        if shard == 0 {
                            hook.burn(20 * MILLI);
                        }
                        let mut output = Output::default();
                        output.copied_mut().push(1);
                        driver.send(socket, output);
                    }
                }
                Next::default()
            };
            Box::new(process) as Box<dyn catena_engine::sim::Process>
        });
        processes.collect()
    });
    let mut ask = |shard: u16| -> Duration {
        let mut client = world.bare_host(1).remove(0);
        let address = SocketAddr::new(server.ip(), 7_000 + shard);
        let sockets = [(); 3].map(|()| client.connect(address).expect("there is room"));
        let (mut asked_at, mut answers) = (Instant::ZERO, 0);
        while answers < sockets.len() {
            client.park(None).expect("something happens");
            while let Some(completion) = client.next_completion() {
                match completion {
                    Completion::Connected { socket, .. } => {
                        let mut output = Output::default();
                        output.copied_mut().push(1);
                        client.send(socket, output);
                        asked_at = client.now();
                    }
                    Completion::Received { chunk, .. } => {
                        client.give_back(chunk);
                        answers += 1;
                    }
                    _ => {}
                }
            }
        }
        client.now().since(asked_at)
    };
    assert!(ask(1) < 5 * MILLI, "the other shard is idle");
    let slow = ask(0);
    assert!((58 * MILLI..70 * MILLI).contains(&slow), "three after each other: {slow:?}");
    assert_eq!(world.count(EventKind::CpuBurned), 3);
}

#[test]
fn an_unpark_wakes_a_shard_and_a_stopped_process_exits() {
    // Shard 1 sleeps until shard 0 leaves it something; both stop after that.
    let mut world = World::new(6, WorldConfig::default());
    let mail = Rc::new(Cell::new(0));
    let its = mail.clone();
    let host = world.start_host(2, move |boot| {
        let (to, from) = (its.clone(), its.clone());
        let sleeper = boot.drivers[1].parker();
        let start = boot.drivers[0].now();
        let waker = move |driver: &mut SimDriver| {
            let due = start + 50 * MILLI;
            if driver.now() < due {
                return Next { until: Some(due), ..Next::default() };
            }
            to.set(1);
            driver.unpark(&sleeper);
            Next { stopped: true, ..Next::default() }
        };
        let sleeper = move |_: &mut SimDriver| {
            if from.get() == 1 {
                from.set(2);
            }
            Next { stopped: from.get() == 2, ..Next::default() }
        };
        vec![Box::new(waker), Box::new(sleeper)]
    });
    world.run_for(40 * MILLI);
    assert!(world.is_running(host) && mail.get() == 0);
    assert!(!world.run_until(MILLI, |_| mail.get() == 2));
    assert!(world.run_until(20 * MILLI, |world| !world.is_running(host)));
    assert_eq!((mail.get(), world.count(EventKind::HostExited)), (2, 1));
    // It starts again when somebody starts it.
    world.inject(Fault::Restart { host });
    assert!(world.is_running(host));
}

#[test]
fn a_world_in_which_nothing_can_happen_says_so() {
    let mut world = World::new(7, WorldConfig::default());
    let mut driver = world.bare_host(1).remove(0);
    let _: (ListenerId, SocketAddr) =
        driver.listen(([0, 0, 0, 0], 0).into()).expect("a port is free");
    driver.park(None).expect_err("nobody will ever connect");
    let _: SocketId = driver.connect(([10, 0, 0, 9], 1).into()).expect("there is room");
    driver.park(None).expect("there is an outcome");
    assert!(matches!(driver.next_completion(), Some(Completion::Connected { .. })));
}
