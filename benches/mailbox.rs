//! Messages between shards: in one thread, where only instructions count, and across two, where the
//! cache lines that travel between the cores do.

use catena_engine::driver::Parker;
use catena_engine::mailbox::{Mailboxes, mesh};
use catena_engine::shard_index::ShardIndex;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};

/// As large as a request handed over: a few words.
type Message = [u64; 8];

const CAPACITY: usize = 1_024;
const PEER: ShardIndex = ShardIndex(1);

/// The mailboxes of shards 0 and 1 of so many.
fn pair(shards: u16) -> (Mailboxes<Message>, Mailboxes<Message>) {
    let mut all = mesh(shards, CAPACITY).into_iter();
    let sender = all.next().expect("shard 0");
    (sender, all.next().expect("shard 1"))
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox/send_and_poll");
    for batch in [1, 32] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new("messages", batch), |bencher| {
            let (mut sender, mut receiver) = pair(2);
            bencher.iter(|| {
                for n in 0..batch {
                    sender.send(PEER, [n; 8]).expect("there is room");
                }
                for peer in sender.peers_to_wake() {
                    black_box(peer);
                }
                while let Some(message) = receiver.poll() {
                    black_box(message);
                }
            });
        });
    }
    group.finish();
}

fn nothing_there(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox/poll_nothing");
    for shards in [2, 16, 64] {
        group.bench_function(BenchmarkId::new("shards", shards), |bencher| {
            let (_, mut receiver) = pair(shards);
            bencher.iter(|| black_box(receiver.poll()));
        });
    }
    group.finish();
}

fn wake_awake(criterion: &mut Criterion) {
    criterion.bench_function("mailbox/unpark_a_peer_that_is_awake", |bencher| {
        let parker = Parker::new(None, Box::new(|| unreachable!("it is awake")));
        bencher.iter(|| black_box(&parker).unpark());
    });
}

/// Spins, and lets others run now and then, lest a machine with one core stand still.
fn spin_until<R>(mut try_it: impl FnMut() -> Option<R>) -> R {
    loop {
        for _ in 0..1_000 {
            if let Some(result) = try_it() {
                return result;
            }
            spin_loop();
        }
        std::thread::yield_now();
    }
}

/// One core sends so many messages, another receives them.
fn stream(messages: u64) -> Duration {
    let (mut sender, mut receiver) = pair(2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..messages {
                spin_until(|| sender.send(PEER, [n; 8]).ok());
            }
        });
        let began_at = Instant::now();
        for n in 0..messages {
            assert_eq!(spin_until(|| receiver.poll())[7], n);
        }
        began_at.elapsed()
    })
}

/// One message to and fro so many times.
fn there_and_back(times: u64) -> Duration {
    let (mut here, mut there) = pair(2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..times {
                let message = spin_until(|| there.poll());
                there.send(ShardIndex(0), message).expect("one message is on its way");
            }
        });
        let began_at = Instant::now();
        for n in 0..times {
            here.send(PEER, [n; 8]).expect("one message is on its way");
            assert_eq!(spin_until(|| here.poll())[7], n);
        }
        began_at.elapsed()
    })
}

fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox/two_threads");
    group.bench_function("stream", |bencher| bencher.iter_custom(stream));
    group.bench_function("there_and_back", |bencher| bencher.iter_custom(there_and_back));
    group.finish();
}

criterion_group!(benches, one_thread, nothing_there, wake_awake, two_threads);
criterion_main!(benches);
