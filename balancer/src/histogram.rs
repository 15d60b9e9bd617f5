//! Counts of latencies by their length, over a sliding window, with two significant digits.
//!
//! The layout is that of an HDR histogram: every octave (from one power of two to the next) is cut
//! into 128 buckets of equal width, so a bucket is never wider than 1/128 of the values in it. The unit
//! is 256 ns: fine enough for calls of some 10 µs, and 60 s fit into 2,816 buckets of 4 bytes.
//!
//! ```text
//! units     0  1  2 … 255 │ 256–257 … 510–511 │ 512–515 … │ …  to 2²⁸ units, 68 s
//! buckets   0  1  2 … 255 │ 256     … 383     │ 384 …     │ …  2,815
//! ```
//!
//! A [`Recorder`] is written by one core and read by any: plain loads and stores of relaxed atomics,
//! which cost the writer nothing. It holds two halves of the window; [`Recorder::rotate`] forgets the
//! older one. Readers add recorders up into [`Counts`], off the path of a call.

use catena_engine::time::Duration;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Nanoseconds of a unit, as a power of two.
const UNIT_BITS: u32 = 8;
/// Buckets of an octave, as a power of two.
const OCTAVE_BITS: u32 = 7;
const OCTAVE: u32 = 1 << OCTAVE_BITS;
/// Bits of the largest value, in units.
const VALUE_BITS: u32 = 28;
const VALUE_MAX: u32 = (1 << VALUE_BITS) - 1;
/// Up to two octaves' worth of values have a bucket each.
const BUCKETS: usize = ((VALUE_BITS - OCTAVE_BITS + 1) * OCTAVE) as usize;

/// The longest latency that is told from longer ones: 68 s.
pub const LATENCY_MAX: Duration = Duration::from_nanos((VALUE_MAX as u64) << UNIT_BITS);

#[inline]
fn bucket_of(latency: Duration) -> usize {
    let seconds = latency.as_secs().saturating_mul(1_000_000_000);
    let nanos = seconds.saturating_add(u64::from(latency.subsec_nanos()));
    let units = (nanos >> UNIT_BITS).min(u64::from(VALUE_MAX)) as u32;
    let shift = (units | OCTAVE).ilog2() - OCTAVE_BITS;
    (shift * OCTAVE + (units >> shift)) as usize
}

/// The longest latency that falls into a bucket.
fn upper_bound_of(bucket: usize) -> Duration {
    let bucket = bucket as u32;
    let shift = (bucket / OCTAVE).saturating_sub(1);
    let next = u64::from(bucket - shift * OCTAVE + 1) << shift;
    Duration::from_nanos((next << UNIT_BITS) - 1)
}

/// One core's latencies of one endpoint, over a sliding window. 22 KiB; on cache lines of its own, for
/// each call writes to it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Recorder {
    spans: [Span; 2],
    /// The half that is written to.
    current: AtomicU8,
    /// In here, not behind a pointer: who knows the half need not read anything else to write.
    halves: [[AtomicU32; BUCKETS]; 2],
}

/// Where in a half of the window anything may be that is not zero. Latencies of one endpoint lie close
/// together: a merge reads some hundred buckets instead of thousands.
#[derive(Debug)]
struct Span {
    low: AtomicU32,
    /// Exclusive.
    high: AtomicU32,
}

impl Default for Span {
    fn default() -> Self {
        Span { low: AtomicU32::new(BUCKETS as u32), high: AtomicU32::new(0) }
    }
}

impl Span {
    #[inline]
    fn widen(&self, bucket: u32) {
        if bucket < self.low.load(Ordering::Relaxed) {
            self.low.store(bucket, Ordering::Relaxed);
        }
        if bucket >= self.high.load(Ordering::Relaxed) {
            self.high.store(bucket + 1, Ordering::Relaxed);
        }
    }

    /// A reader in the middle of a change may see too little of it.
    fn range(&self) -> Range<usize> {
        let low = self.low.load(Ordering::Relaxed) as usize;
        let high = self.high.load(Ordering::Relaxed) as usize;
        low.min(high)..high
    }

    fn clear(&self) {
        self.low.store(BUCKETS as u32, Ordering::Relaxed);
        self.high.store(0, Ordering::Relaxed);
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            spans: Default::default(),
            current: AtomicU8::new(0),
            halves: [const { [const { AtomicU32::new(0) }; BUCKETS] }; 2],
        }
    }
}

impl Recorder {
    /// Counts a latency. For the owning core alone: of two writers, one is not counted.
    #[inline]
    pub fn record(&self, latency: Duration) {
        let (half, bucket) = (self.half(), bucket_of(latency));
        self.count(half, bucket);
        self.spans[half].widen(bucket as u32);
    }

    #[inline]
    fn count(&self, half: usize, bucket: usize) {
        let count = &self.halves[half][bucket];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The half that is written to.
    fn half(&self) -> usize {
        usize::from(self.current.load(Ordering::Relaxed) & 1)
    }

    /// Forgets the older half of the window; what is recorded from now on is the newer one. For the
    /// owning core alone. A reader at the same time may miss a part of the older half.
    pub fn rotate(&self) {
        let next = 1 - self.half();
        let (span, buckets) = (&self.spans[next], &self.halves[next]);
        for bucket in &buckets[span.range()] {
            bucket.store(0, Ordering::Relaxed);
        }
        span.clear();
        self.current.store(next as u8, Ordering::Relaxed);
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Recorder>()
    }
}

/// The owning core's end of a [`Recorder`]. It knows by heart where to write, so a latency touches one cache
/// line of the recorder, that of its bucket.
///
/// An endpoint that drains may come back meanwhile and then has two of these on one core. The elder is
/// [retired](Writer::retire): it rotates no more, and takes nothing for granted that the younger may change.
#[derive(Debug)]
pub(crate) struct Writer {
    recorder: Arc<Recorder>,
    /// The span of the newer half, as far as it is known here.
    low: u16,
    high: u16,
    half: u8,
    has_news: bool,
    is_retired: bool,
}

const _: () = assert!(BUCKETS <= u16::MAX as usize, "a span is two short numbers");

impl Writer {
    pub(crate) fn new(recorder: Arc<Recorder>) -> Self {
        let half = recorder.half() as u8;
        Writer { recorder, low: 0, high: 0, half, has_news: false, is_retired: false }
    }

    #[inline]
    pub(crate) fn record(&mut self, latency: Duration) {
        let bucket = bucket_of(latency);
        if !(self.low..self.high).contains(&(bucket as u16)) {
            self.widen(bucket);
        }
        self.recorder.count(usize::from(self.half & 1), bucket);
        self.has_news = true;
    }

    #[cold]
    fn widen(&mut self, bucket: usize) {
        let half = self.recorder.half();
        let span = &self.recorder.spans[half];
        span.widen(bucket as u32);
        self.half = half as u8;
        if !self.is_retired {
            let range = span.range();
            (self.low, self.high) = (range.start as u16, range.end as u16);
        }
    }

    /// Slides the window by a half, unless that is another one's to do.
    pub(crate) fn rotate(&mut self) {
        if !self.is_retired {
            self.recorder.rotate();
            self.half = self.recorder.half() as u8;
            (self.low, self.high, self.has_news) = (0, 0, true);
        }
    }

    /// From now on another one may rotate the recorder: where to write is looked up each time.
    pub(crate) fn retire(&mut self) {
        (self.low, self.high, self.is_retired) = (0, 0, true);
    }

    #[inline]
    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// True if something was recorded, or forgotten, since this core merged last.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news
    }

    /// What was new is merged.
    pub(crate) fn clear_news(&mut self) {
        self.has_news = false;
    }
}

/// What one or more recorders held when they were read.
#[derive(Clone, Debug)]
pub struct Counts {
    buckets: Box<[u64]>,
    /// All that is not zero lies in here.
    span: Range<usize>,
    count: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { buckets: vec![0; BUCKETS].into(), span: 0..0, count: 0 }
    }
}

impl Counts {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets[std::mem::take(&mut self.span)].fill(0);
        self.count = 0;
    }

    /// Adds what `recorder` holds now.
    pub fn add(&mut self, recorder: &Recorder) {
        for (half, span) in recorder.halves.iter().zip(&recorder.spans) {
            let span = span.range();
            self.widen(&span);
            for (sum, bucket) in self.buckets[span.clone()].iter_mut().zip(&half[span]) {
                let count = u64::from(bucket.load(Ordering::Relaxed));
                *sum += count;
                self.count += count;
            }
        }
    }

    /// Adds what other counts hold: exact, as an average of averages never is.
    pub fn merge(&mut self, other: &Counts) {
        self.widen(&other.span);
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
        self.count += other.count;
    }

    fn widen(&mut self, span: &Range<usize>) {
        if self.span.is_empty() {
            self.span = span.clone();
        } else if !span.is_empty() {
            self.span = self.span.start.min(span.start)..self.span.end.max(span.end);
        }
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latencies that the shares `shares` of all did not exceed, in one pass; `shares` ascend. Each
    /// is the longest of its bucket: at most 1/128 above what a sorted list would say, never below. All
    /// zero if nothing was counted.
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [Duration; N] {
        debug_assert!(shares.is_sorted(), "one pass finds them in this order only");
        let mut found = [Duration::ZERO; N];
        if self.count == 0 {
            return found;
        }
        let ranks =
            shares.map(|share| ((share * self.count as f64).ceil() as u64).clamp(1, self.count));
        let mut bucket = self.span.start;
        let mut seen = self.buckets[bucket];
        for (found, rank) in found.iter_mut().zip(ranks) {
            while seen < rank {
                bucket += 1;
                seen += self.buckets[bucket];
            }
            *found = upper_bound_of(bucket);
        }
        found
    }

    /// The share of all latencies that are longer than `latency`, at most; 0 if nothing was counted.
    pub fn share_above(&self, latency: Duration) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let above: u64 = self.buckets[bucket_of(latency) + 1..].iter().sum();
        above as f64 / self.count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_lie_side_by_side_and_end_with_the_last_value() {
        let mut next = Duration::ZERO;
        for bucket in 0..BUCKETS {
            let last = upper_bound_of(bucket);
            assert_eq!((bucket_of(next), bucket_of(last)), (bucket, bucket));
            let width = last - next + Duration::from_nanos(1);
            assert!(width <= (next / OCTAVE).max(Duration::from_nanos(256)), "bucket {bucket}");
            next = last + Duration::from_nanos(1);
        }
        assert_eq!(bucket_of(LATENCY_MAX), BUCKETS - 1);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1, "what is too long counts as the longest");
    }

    #[test]
    fn the_window_slides_by_halves() {
        let recorder = Recorder::default();
        let count = |recorder: &Recorder| {
            let mut counts = Counts::default();
            counts.add(recorder);
            counts.count()
        };
        recorder.record(Duration::from_micros(10));
        recorder.rotate();
        recorder.record(Duration::from_micros(20));
        recorder.record(Duration::from_micros(20));
        assert_eq!(count(&recorder), 3);
        recorder.rotate();
        assert_eq!(count(&recorder), 2);
        recorder.rotate();
        assert_eq!(count(&recorder), 0);
    }

    #[test]
    fn what_a_retired_writer_adds_slides_with_the_window() {
        let recorder = Arc::new(Recorder::default());
        let (mut elder, long) = (Writer::new(recorder.clone()), Duration::from_millis(10));
        elder.record(long);
        elder.retire();
        let mut younger = Writer::new(recorder.clone());
        let count = || {
            let mut counts = Counts::default();
            counts.add(&recorder);
            counts.count()
        };
        elder.record(long);
        elder.record(long);
        younger.record(Duration::from_millis(1));
        assert_eq!(count(), 4);
        younger.rotate();
        elder.rotate();
        assert_eq!(count(), 4);
        younger.rotate();
        assert_eq!(count(), 0);
        elder.record(long);
        younger.record(long);
        younger.rotate();
        elder.record(long);
        assert_eq!(count(), 3);
        younger.rotate();
        assert_eq!(count(), 1, "of the newer half");
        younger.rotate();
        assert_eq!(count(), 0);
    }

    #[test]
    fn memory_stays_within_what_an_endpoint_may_cost() {
        assert!(Recorder::default().memory_bytes() <= 23 * 1_024);
    }

    fn latency() -> impl Strategy<Value = Duration> {
        (0u32..=36, any::<u64>()).prop_map(|(bits, n)| Duration::from_nanos(n % (1u64 << bits)))
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_an_hdr_histogram(
            latencies in prop::collection::vec(latency(), 1..500),
            share in prop_oneof![Just(0.0), Just(0.5), Just(0.99), Just(1.0), 0.0..=1.0f64],
            cores in 1usize..4,
        ) {
            let recorders: Vec<Recorder> = (0..cores).map(|_| Recorder::default()).collect();
            let mut oracle = hdrhistogram::Histogram::<u64>::new(4).expect("four digits");
            for (n, &latency) in latencies.iter().enumerate() {
                recorders[n % cores].record(latency);
                oracle.record(latency.as_nanos() as u64).expect("it grows");
            }
            let (mut together, mut apart) = (Counts::default(), Counts::default());
            for recorder in &recorders {
                together.add(recorder);
                let mut one = Counts::default();
                one.add(recorder);
                apart.merge(&one);
            }
            let told = together.quantiles([share])[0].as_nanos() as f64;
            let exact = oracle.value_at_quantile(share) as f64;
            prop_assert!(told >= exact * 0.999 - 256.0, "{told} below {exact}");
            prop_assert!(told <= exact * (1.0 + 1.0 / 128.0) * 1.001 + 256.0, "{told} above {exact}");
            prop_assert_eq!(together.quantiles([share]), apart.quantiles([share]));
            prop_assert_eq!(together.count(), latencies.len() as u64);
            let above = together.share_above(together.quantiles([share])[0]);
            prop_assert!(above <= 1.0 - share + 1e-9, "{above} above the quantile of {share}");
        }
    }
}
