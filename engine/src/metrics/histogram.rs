//! Counts of times by their length, with a fixed relative error.
//!
//! Every octave (from one power of two to the next) is cut into 32 buckets of equal width, so that a
//! bucket is never wider than 1/32 of the values in it: two decimal digits, near enough. Up to 64 µs
//! each whole microsecond has a bucket of its own:
//!
//! ```text
//! values    0  1  2 … 63 │ 64–65  66–67 … 126–127 │ 128–131 … 252–255 │ …  to 2³² µs, 71 minutes
//! buckets   0  1  2 … 63 │ 64     65    … 95      │ 96      … 127     │ …  895
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of an octave, as a power of two.
const OCTAVE_BITS: u32 = 5;
const OCTAVE: u32 = 1 << OCTAVE_BITS;
/// The values below the first full octave have one octave's worth of buckets.
const BUCKETS: usize = ((u32::BITS - OCTAVE_BITS + 1) * OCTAVE) as usize;

/// A histogram of microseconds. Its one shard records, anybody reads.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts a time in whole microseconds. For the owning shard alone: of two writers, one is not
    /// counted.
    #[inline]
    pub fn record(&self, micros: u32) {
        add(&self.buckets[bucket_of(micros)], 1);
        add(&self.sum_us, u64::from(micros));
    }
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = [const { AtomicU64::new(0) }; BUCKETS];
        Histogram { buckets, sum_us: AtomicU64::new(0) }
    }
}

fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

fn bucket_of(micros: u32) -> usize {
    let shift = (micros | OCTAVE).ilog2() - OCTAVE_BITS;
    (shift * OCTAVE + (micros >> shift)) as usize
}

/// The least and the greatest value of a bucket.
fn bounds_of(bucket: usize) -> (u32, u32) {
    let bucket = bucket as u32;
    let shift = (bucket / OCTAVE).saturating_sub(1);
    let least = (bucket - shift * OCTAVE) << shift;
    (least, least + ((1 << shift) - 1))
}

/// What one or more histograms held when they were read.
#[derive(Clone, Debug)]
pub struct HistogramSnapshot {
    buckets: Vec<u64>,
    count: u64,
    sum_us: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        HistogramSnapshot { buckets: vec![0; BUCKETS], count: 0, sum_us: 0 }
    }
}

impl HistogramSnapshot {
    /// Adds what `histogram` holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            let count = bucket.load(Ordering::Relaxed);
            *sum += count;
            self.count += count;
        }
        self.sum_us += histogram.sum_us.load(Ordering::Relaxed);
    }

    /// How many times were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in microseconds, exact.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The time in microseconds that a share `p` (0 to 1) of all did not exceed: the greatest value of
    /// the bucket in question, so at most 1/32 above what a sorted list would say and never below.
    /// `None` if nothing was recorded.
    pub fn quantile(&self, p: f64) -> Option<u32> {
        let rank = (p * self.count as f64).ceil().clamp(1.0, self.count.max(1) as f64) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|&count| {
            seen += count;
            seen >= rank
        })?;
        Some(bounds_of(bucket).1)
    }

    /// Writes the series of one histogram, in seconds, with a bucket boundary at every quarter of an
    /// octave.
    ///
    /// Whole microseconds were recorded, so what is counted below a boundary was shorter than that;
    /// a time of exactly the boundary's length is counted above, where `le` would have it below.
    pub(super) fn write_prometheus(&self, name: &str, out: &mut impl fmt::Write) -> fmt::Result {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            let (least, _) = bounds_of(bucket);
            if is_quarter_of_octave(least) {
                writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", seconds(least.into()))?;
            }
            below += count;
        }
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum {}", seconds(self.sum_us))?;
        writeln!(out, "{name}_count {}", self.count)
    }
}

/// True for numbers with at most three significant bits: 1 to 8, 10, 12, 14, 16, 20, 24 …
fn is_quarter_of_octave(micros: u32) -> bool {
    micros != 0 && micros.ilog2() <= micros.trailing_zeros() + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_lie_side_by_side_and_end_with_the_last_value() {
        let mut next = 0u64;
        for bucket in 0..BUCKETS {
            let (least, greatest) = bounds_of(bucket);
            assert_eq!(u64::from(least), next, "bucket {bucket}");
            assert_eq!((bucket_of(least), bucket_of(greatest)), (bucket, bucket));
            assert!(greatest - least <= least / OCTAVE, "1/32 at most: {least} to {greatest}");
            next = u64::from(greatest) + 1;
        }
        assert_eq!(next, 1 << 32);
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(HistogramSnapshot::default().quantile(0.5), None);
    }

    #[test]
    fn prometheus_buckets_are_cumulative_and_four_an_octave() {
        let histogram = Histogram::default();
        for micros in [0, 1, 1, 1_000, u32::MAX] {
            histogram.record(micros);
        }
        let mut snapshot = HistogramSnapshot::default();
        snapshot.add(&histogram);
        let mut text = String::new();
        snapshot.write_prometheus("x", &mut text).expect("a string takes it all");
        let buckets: Vec<(&str, u64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("x_bucket{le=\"")?.split_once("\"} "))
            .map(|(le, count)| (le, count.parse().expect("a count")))
            .collect();
        assert_eq!(buckets.len(), 3 + 4 * 30 + 1);
        assert!(buckets.is_sorted_by_key(|bucket| bucket.1));
        assert_eq!(buckets[..3], [("0.000001", 1), ("0.000002", 3), ("0.000003", 3)]);
        assert!(buckets.contains(&("0.000896", 3)) && buckets.contains(&("0.001024", 4)));
        assert_eq!(buckets[buckets.len() - 1], ("+Inf", 5));
    }

    fn micros() -> impl Strategy<Value = u32> {
        prop_oneof![
            0u32..100,
            (0u32..=32, any::<u64>()).prop_map(|(bits, n)| { (n % (1u64 << bits)) as u32 })
        ]
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list_within_a_bucket(
            mut times in prop::collection::vec(micros(), 1..500),
            p in prop_oneof![Just(0.0), Just(0.5), Just(0.99), Just(1.0), 0.0..=1.0f64],
            shards in 1usize..4,
        ) {
            let histograms: Vec<Histogram> = (0..shards).map(|_| Histogram::default()).collect();
            for (n, &micros) in times.iter().enumerate() {
                histograms[n % shards].record(micros);
            }
            let mut snapshot = HistogramSnapshot::default();
            for histogram in &histograms {
                snapshot.add(histogram);
            }
            times.sort_unstable();
            // The least element that at least a share p of all do not exceed.
            let count = times.len() as f64;
            let within = |index: usize| (index + 1) as f64 >= p * count;
            let exact = times[(0..times.len()).find(|&index| within(index)).expect("p <= 1")];
            let told = snapshot.quantile(p).expect("something was recorded");
            prop_assert!(told >= exact && told - exact <= exact / OCTAVE, "{exact}, told {told}");
            prop_assert_eq!(snapshot.count(), times.len() as u64);
            prop_assert_eq!(snapshot.sum_us(), times.iter().map(|&n| u64::from(n)).sum::<u64>());
        }
    }
}
