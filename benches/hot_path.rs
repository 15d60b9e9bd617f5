//! Time of the hot paths, one by one: `cargo bench --bench hot_path`.

mod paths;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn hot_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hot_path");
    for mut path in paths::all() {
        group.throughput(Throughput::Elements(path.operations));
        group.bench_function(path.name, |bencher| bencher.iter(&mut path.run));
    }
    group.finish();
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
