//! The log: an entry of a 16-byte key and a 32-byte value on its way into a batch, and back out of a
//! segment; and how much of either is the checksum.

use catena_kv::effect::EffectRef;
use catena_kv::log::batch::{Action, LogWriter, WriterConfig};
use catena_kv::log::scan::{Scan, ScanConfig, Step};
use catena_kv::log::segment::Segment;
use catena_kv::log::{DirectoryId, LogIdentity, LogStart};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const LOG: LogIdentity = LogIdentity { directory: DirectoryId([1; 16]), incarnation: 1, shard: 0 };
const CONFIG: WriterConfig =
    WriterConfig { segment_bytes: 64 << 20, batch_bytes_max: 1 << 20, partitions: 256 };
/// Writes that one sync serves.
const BATCH: u64 = 64;

fn entry() -> Vec<u8> {
    let mut payload = Vec::new();
    EffectRef::Put { key: &[b'k'; 16], value: &[b'v'; 32], expires_at: None }.encode(&mut payload);
    payload
}

/// Does what the writer asks for, at once; what it wrote is appended to `image` if there is one.
fn drive(writer: &mut LogWriter, mut image: Option<&mut Vec<u8>>) {
    while let Some(action) = writer.poll() {
        match action {
            Action::Prepare { number, bytes } => {
                writer.prepared(Segment { log: LOG, number, bytes, seed: 7 });
            }
            Action::Write { buffer, .. } => {
                let bytes = buffer.bytes().len();
                if let Some(image) = &mut image {
                    image.extend_from_slice(buffer.bytes());
                }
                writer.written(buffer, Ok(bytes));
            }
            Action::Sync { .. } => {
                writer.synced(Ok(()));
            }
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/append");
    let payload = entry();
    group.throughput(Throughput::Elements(1));
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    let mut index = 0;
    group.bench_function("entry", |bencher| {
        bencher.iter(|| {
            index += 1;
            writer
                .append((index % 256) as u16, 1, index, black_box(&payload))
                .expect("there is room");
            if index % BATCH == 0 {
                drive(&mut writer, None);
            }
        });
    });
    group.bench_function("checksum_alone", |bencher| {
        let record = [7u8; 88];
        bencher.iter(|| crc32c::crc32c_append(7, black_box(&record[4..])));
    });
    group.finish();
}

fn scan(criterion: &mut Criterion) {
    const ENTRIES: u64 = 100_000;
    let mut group = criterion.benchmark_group("log/scan");
    let payload = entry();
    for batch in [BATCH, 1_000] {
        let mut image = vec![0; 8_192];
        Segment { log: LOG, number: 1, bytes: CONFIG.segment_bytes, seed: 7 }.encode(&mut image);
        let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
        for index in 1..=ENTRIES {
            writer.append(0, 1, index, &payload).expect("there is room");
            if index % batch == 0 || index == ENTRIES {
                drive(&mut writer, Some(&mut image));
            }
        }
        image.resize(CONFIG.segment_bytes as usize, 0);
        group.throughput(Throughput::Elements(ENTRIES));
        group.bench_function(format!("entries_in_batches_of_{batch}"), |bencher| {
            bencher.iter(|| {
                let mut scan = Scan::new(config());
                let mut entries = 0;
                // Until the last entry: what follows is the search of the rest, once a log.
                while entries < ENTRIES {
                    match scan.next().expect("the log is good") {
                        Step::Read(request) => {
                            let bytes = &image[request.offset as usize..][..request.bytes];
                            scan.supply(bytes).expect("all is there");
                        }
                        Step::Entry(entry) => {
                            black_box(entry);
                            entries += 1;
                        }
                        Step::End(_) => unreachable!("there are more entries"),
                    }
                }
            });
        });
    }
    group.finish();
}

fn config() -> ScanConfig {
    ScanConfig { log: LOG, start: LogStart::NEW, last_segment: 1, end: None, read_bytes: 256 << 10 }
}

criterion_group!(benches, append, scan);
criterion_main!(benches);
