//! What it costs a shard to count, and a reader to read.

use catena_engine::metrics::{MetricsSnapshot, ShardMetrics};
use catena_engine::rng::Rng;
use catena_engine::wire::status::StatusClass;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// Microseconds as a shard sees them: mostly short, now and then long. A power of two of them.
fn times() -> Vec<u32> {
    let mut rng = Rng::from_seed(1);
    (0..4_096).map(|_| (rng.next_u64() as u32) >> (12 + rng.below(20))).collect()
}

fn count(criterion: &mut Criterion) {
    let metrics = ShardMetrics::new();
    criterion.bench_function("metrics/count", |bencher| {
        bencher.iter(|| black_box(&metrics).requests.increment());
    });
}

fn record(criterion: &mut Criterion) {
    let (metrics, times) = (ShardMetrics::new(), times());
    let mut n = 0;
    criterion.bench_function("metrics/record", |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(&metrics).service_time_us.record(times[n % times.len()]);
        });
    });
}

fn request(criterion: &mut Criterion) {
    let (metrics, times) = (ShardMetrics::new(), times());
    let mut n = 0;
    criterion.bench_function("metrics/all_of_one_request", |bencher| {
        bencher.iter(|| {
            n += 1;
            let metrics = black_box(&metrics);
            metrics.requests.increment();
            metrics.bytes_in.add(64);
            metrics.queue_delay_us.record(times[n % times.len()]);
            metrics.service_time_us.record(times[(n + 1) % times.len()]);
            metrics.count_response(StatusClass::Ok);
            metrics.bytes_out.add(64);
        });
    });
}

fn read(criterion: &mut Criterion) {
    let shards = [ShardMetrics::new(), ShardMetrics::new()];
    for shard in &shards {
        times().into_iter().for_each(|micros| shard.queue_delay_us.record(micros));
    }
    criterion.bench_function("metrics/snapshot_of_two_shards", |bencher| {
        bencher.iter(|| MetricsSnapshot::of(black_box(&shards)));
    });
    let snapshot = MetricsSnapshot::of(&shards);
    criterion.bench_function("metrics/quantile", |bencher| {
        bencher.iter(|| black_box(&snapshot).queue_delay_us.quantile(black_box(0.999)));
    });
    let mut text = String::new();
    criterion.bench_function("metrics/prometheus_text", |bencher| {
        bencher.iter(|| {
            text.clear();
            snapshot.write_prometheus(&mut text).expect("a string takes it all");
        });
    });
}

criterion_group!(benches, count, record, request, read);
criterion_main!(benches);
