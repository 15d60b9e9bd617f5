//! The timer table under the load of a shard: timeouts that are nearly all cancelled, sleeps that are
//! not, and the timers of many connections standing by.

use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use catena_engine::timers::{TimerId, Timers};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

const TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST: Duration = Duration::from_micros(1);
/// Requests that a turn handles.
const TURN: u64 = 32;

/// A table with so many connection timers, 30 to 60 s away.
fn with_connections(count: u64) -> (Timers<u64>, Vec<TimerId>, Instant) {
    let mut timers = Timers::default();
    let mut rng = Rng::from_seed(1);
    let now = Instant::ZERO + Duration::from_secs(1_000);
    assert_eq!(timers.pop_due(now), None);
    let far = || now + rng.between(Duration::from_secs(30), Duration::from_secs(60));
    let instants: Vec<Instant> = std::iter::repeat_with(far).take(count as usize).collect();
    let ids = instants.into_iter().map(|at| timers.insert(at, 0)).collect();
    (timers, ids, now)
}

/// What a turn does with the table besides handling requests.
fn turn(timers: &mut Timers<u64>, now: Instant) {
    while let Some(key) = timers.pop_due(now) {
        black_box(key);
    }
    black_box(timers.next());
}

fn set_and_cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers/set_and_cancel_timeout");
    for connections in [0, 100_000] {
        for in_flight in [1, 64, 4_096] {
            let id = BenchmarkId::new(format!("{connections}_connections"), in_flight);
            group.bench_function(id, |bencher| {
                let (mut timers, _, mut now) = with_connections(connections);
                let mut timeouts: Vec<TimerId> =
                    (0..in_flight).map(|_| timers.insert(now + TIMEOUT, 1)).collect();
                let (mut oldest, mut requests) = (0, 0);
                bencher.iter(|| {
                    timers.cancel(timeouts[oldest]);
                    timeouts[oldest] = timers.insert(now + TIMEOUT, 1);
                    oldest = if oldest + 1 == in_flight { 0 } else { oldest + 1 };
                    now += REQUEST;
                    requests += 1;
                    if requests % TURN == 0 {
                        turn(&mut timers, now);
                    }
                });
            });
        }
    }
    group.finish();
}

fn move_connection(criterion: &mut Criterion) {
    criterion.bench_function("timers/move_one_of_100000", |bencher| {
        let (mut timers, ids, mut now) = with_connections(100_000);
        let mut rng = Rng::from_seed(2);
        bencher.iter(|| {
            let id = ids[rng.below(ids.len() as u64) as usize];
            timers.reschedule(id, now + Duration::from_secs(60));
            now += REQUEST;
        });
    });
}

fn sleep(criterion: &mut Criterion) {
    criterion.bench_function("timers/pop_and_set_sleeps_to_2ms", |bencher| {
        let (mut timers, _, mut now) = with_connections(0);
        let mut rng = Rng::from_seed(3);
        let mut next = |now| now + rng.between(Duration::ZERO, Duration::from_millis(2));
        for _ in 0..1_000 {
            timers.insert(next(now), 0);
        }
        bencher.iter(|| {
            let key = loop {
                match timers.pop_due(now) {
                    Some(key) => break key,
                    None => now = timers.next().expect("a thousand sleep").max(now),
                }
            };
            timers.insert(next(now), key)
        });
    });
}

criterion_group!(benches, set_and_cancel, move_connection, sleep);
criterion_main!(benches);
