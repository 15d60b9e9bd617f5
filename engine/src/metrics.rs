//! What each shard counts, merged only when somebody reads it.
//!
//! ```text
//! shard 0 ── writes ──► ShardMetrics ─┐
//! shard 1 ── writes ──► ShardMetrics ─┼─ reads ─► MetricsSnapshot ─► quantiles, Prometheus text
//! shard 2 ── writes ──► ShardMetrics ─┘           (any thread, any time)
//! ```
//!
//! A shard alone writes its counters, so that adding is a load, an addition and a store, without a
//! locked instruction and on cache lines that no other shard touches. Counting costs 1 ns, recording
//! into a histogram 1.5 ns, all that is counted of one request together 4 ns (one core of an AMD EPYC).
//!
//! A snapshot is taken while the shards go on: each figure in it was right at some moment, and never
//! goes back from one snapshot to the next, but two of them may be one request apart.

mod histogram;

pub use histogram::{Histogram, HistogramSnapshot};

use crate::driver::DriverCounters;
use crate::rpc::admission::ShedReason;
use crate::wire::status::StatusClass;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows. Its one shard writes it, anybody reads it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    const TYPE: &'static str = "counter";

    /// Counts one more. For the owning shard alone: of two writers, one is not counted.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts so many more. For the owning shard alone.
    #[inline]
    pub fn add(&self, count: u64) {
        self.set(self.value() + count);
    }

    /// The count so far.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }
}

/// A figure that goes up and down. Its one shard writes it, anybody reads it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    const TYPE: &'static str = "gauge";

    /// Says what it is now. For the owning shard alone.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it was when last set.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The table of all figures: type, exported name and meaning of each family, then the field of each
/// of its members with its labels.
macro_rules! figures {
    ($($type:ident $family:literal $help:literal { $($field:ident $labels:literal)+ })*) => {
        /// What one shard counts. Made with the shard, written by it alone, read by anybody.
        ///
        /// 128-byte alignment keeps the neighbours of a shard's figures out of its cache lines.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $($(
                #[doc = concat!("`", $family, $labels, "`: ", $help)]
                pub $field: $type,
            )+)*
            /// `catena_queue_delay_seconds`: from the arrival of a request to the start of its handler.
            pub queue_delay_us: Histogram,
            /// `catena_service_time_seconds`: from the start of a handler to its answer.
            pub service_time_us: Histogram,
            /// `catena_turn_seconds`: one turn of the shard, from its stamp to its last send.
            pub turn_us: Histogram,
        }

        /// What all shards counted, at one time or nearly so.
        #[derive(Clone, Debug, Default)]
        pub struct MetricsSnapshot {
            $($(
                #[doc = concat!("`", $family, $labels, "`: ", $help)]
                pub $field: u64,
            )+)*
            /// Microseconds from the arrival of a request to the start of its handler.
            pub queue_delay_us: HistogramSnapshot,
            /// Microseconds from the start of a handler to its answer.
            pub service_time_us: HistogramSnapshot,
            /// Microseconds of one turn of a shard, from its stamp to its last send.
            pub turn_us: HistogramSnapshot,
        }

        impl MetricsSnapshot {
            fn add_figures(&mut self, shard: &ShardMetrics) {
                $($( self.$field += shard.$field.value(); )+)*
            }

            fn write_figures(&self, out: &mut impl fmt::Write) -> fmt::Result {
                $(
                    writeln!(out, "# HELP {} {}", $family, $help)?;
                    writeln!(out, "# TYPE {} {}", $family, $type::TYPE)?;
                    $( writeln!(out, "{}{} {}", $family, $labels, self.$field)?; )+
                )*
                Ok(())
            }
        }
    };
}

figures! {
    Counter "catena_requests_total" "Requests that arrived whole, refused ones included. \
        Each is counted as a response in the end, unless it was cancelled or dropped with its \
        connection." { requests "" }
    Counter "catena_responses_total" "Responses sent, by the class of their status." {
        responses_ok r#"{class="ok"}"#
        responses_not_executed r#"{class="not_executed"}"#
        responses_may_have_executed r#"{class="may_have_executed"}"#
        responses_application r#"{class="application"}"#
    }
    Counter "catena_sheds_total" "Requests refused before they began, by the limit they met." {
        sheds_in_flight r#"{reason="in_flight"}"#
        sheds_bytes r#"{reason="bytes"}"#
        sheds_queue_delay r#"{reason="queue_delay"}"#
    }
    Counter "catena_expired_in_queue_total" "Requests whose deadline passed before they began." {
        expired_in_queue ""
    }
    Counter "catena_deadline_passed_total" "Requests whose deadline passed while they ran." {
        deadline_passed ""
    }
    Counter "catena_cancelled_total" "Requests that their callers cancelled." { cancelled "" }
    Counter "catena_handed_over_total" "Requests handed over to the shard that they are for." {
        handed_over ""
    }
    Counter "catena_relayed_total" "Requests passed on to other servers." { relayed "" }
    Counter "catena_relay_copies_total" "Copies made of bodies that were passed on, either way." {
        relay_copies ""
    }
    Counter "catena_relay_copied_bytes_total" "Bytes of these." { relay_copied_bytes "" }
    Counter "catena_relay_collected_total" "Bodies passed on that came in several receives." {
        relay_collected ""
    }
    Gauge "catena_in_flight" "Requests accepted and not answered." { in_flight "" }
    Counter "catena_connections_accepted_total" "Connections accepted." { accepted "" }
    Counter "catena_connections_closed_total" "Accepted connections that have ended." { closed "" }
    Gauge "catena_connections" "Connections open, accepted and made." { connections "" }
    Counter "catena_protocol_errors_total" "Connections ended because their peer broke the protocol." {
        protocol_errors ""
    }
    Counter "catena_in_bytes_total" "Bytes of frames that arrived." { bytes_in "" }
    Counter "catena_out_bytes_total" "Bytes of frames handed to the driver to be sent." { bytes_out "" }
    Counter "catena_turns_total" "Turns of the shard." { turns "" }
    Counter "catena_driver_enters_total" "System calls that submit, wait or poll." { driver_enters "" }
    Counter "catena_driver_completions_total" "Completions reaped." { driver_completions "" }
    Counter "catena_driver_parks_total" "Sleeps in the kernel." { driver_parks "" }
    Counter "catena_driver_receives_total" "Receives that brought bytes." { driver_receives "" }
    Counter "catena_driver_received_bytes_total" "Bytes received." { driver_received_bytes "" }
    Counter "catena_driver_sends_total" "Sends handed to the kernel, short ones counted again." {
        driver_sends ""
    }
    Counter "catena_driver_sent_bytes_total" "Bytes sent." { driver_sent_bytes "" }
    Counter "catena_driver_buffer_waits_total" "Receives that had to wait for a buffer." {
        driver_buffer_waits ""
    }
    Counter "catena_driver_lend_copies_total" "Payloads copied because few buffers were left." {
        driver_lend_copies ""
    }
}

impl ShardMetrics {
    /// All zero, to be shared between the shard and whoever reads.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Counts a response of this class.
    #[inline]
    pub fn count_response(&self, class: StatusClass) {
        match class {
            StatusClass::Ok => &self.responses_ok,
            StatusClass::NotExecuted => &self.responses_not_executed,
            StatusClass::MayHaveExecuted => &self.responses_may_have_executed,
            StatusClass::Application => &self.responses_application,
        }
        .increment();
    }

    /// Counts a request that the shard's admission refused.
    #[inline]
    pub fn count_shed(&self, reason: ShedReason) {
        match reason {
            ShedReason::InFlight => &self.sheds_in_flight,
            ShedReason::Bytes => &self.sheds_bytes,
            ShedReason::QueueDelay => &self.sheds_queue_delay,
        }
        .increment();
    }

    /// Takes over what the driver counted since start. Once in a while is enough.
    pub fn publish_driver(&self, counters: DriverCounters) {
        // Named one by one, so that none is forgotten when the driver counts something new.
        let DriverCounters {
            enters,
            completions,
            parks,
            receives,
            received_bytes,
            sends,
            sent_bytes,
            buffer_waits,
            lend_copies,
        } = counters;
        self.driver_enters.set(enters);
        self.driver_completions.set(completions);
        self.driver_parks.set(parks);
        self.driver_receives.set(receives);
        self.driver_received_bytes.set(received_bytes);
        self.driver_sends.set(sends);
        self.driver_sent_bytes.set(sent_bytes);
        self.driver_buffer_waits.set(buffer_waits);
        self.driver_lend_copies.set(lend_copies);
    }
}

impl MetricsSnapshot {
    /// The sums over all of `shards` now. Takes some 4 µs a shard, of the reader's time.
    pub fn of(shards: &[Arc<ShardMetrics>]) -> Self {
        let mut sums = MetricsSnapshot::default();
        for shard in shards {
            sums.add_figures(shard);
            sums.queue_delay_us.add(&shard.queue_delay_us);
            sums.service_time_us.add(&shard.service_time_us);
            sums.turn_us.add(&shard.turn_us);
        }
        sums
    }

    /// Writes everything in the Prometheus text format, version 0.0.4: times in seconds, as is the
    /// custom there, in buckets of which four make a factor of two.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl fmt::Write) -> fmt::Result {
        self.write_figures(out)?;
        let histograms = [
            (
                "catena_queue_delay_seconds",
                "From the arrival of a request to the start of its handler.",
                &self.queue_delay_us,
            ),
            (
                "catena_service_time_seconds",
                "From the start of a handler to its answer.",
                &self.service_time_us,
            ),
            (
                "catena_turn_seconds",
                "One turn of a shard, from its stamp to its last send.",
                &self.turn_us,
            ),
        ];
        for (name, help, histogram) in histograms {
            writeln!(out, "# HELP {name} {help}")?;
            writeln!(out, "# TYPE {name} histogram")?;
            histogram.write_prometheus(name, out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn shards_are_summed() {
        let shards = [ShardMetrics::new(), ShardMetrics::new()];
        for (shard, count) in shards.iter().zip([3, 4]) {
            shard.requests.add(count);
            shard.in_flight.set(10 * count);
            shard.in_flight.set(count);
            shard.queue_delay_us.record(100 * count as u32);
        }
        shards[0].count_response(StatusClass::NotExecuted);
        shards[1].count_shed(ShedReason::Bytes);
        shards[0].publish_driver(DriverCounters { enters: 9, ..Default::default() });
        shards[0].publish_driver(DriverCounters { enters: 10, ..Default::default() });
        let sums = MetricsSnapshot::of(&shards);
        assert_eq!((sums.requests, sums.in_flight, sums.driver_enters), (7, 7, 10));
        assert_eq!((sums.responses_not_executed, sums.sheds_bytes), (1, 1));
        assert_eq!((sums.responses_ok, sums.sheds_in_flight), (0, 0));
        assert_eq!((sums.queue_delay_us.count(), sums.queue_delay_us.sum_us()), (2, 700));
        assert_eq!(sums.service_time_us.count(), 0);
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<ShardMetrics>() % 128, 0);
        assert_eq!(size_of::<ShardMetrics>() % 128, 0);
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let shard = ShardMetrics::new();
        shard.requests.add(12);
        shard.count_response(StatusClass::Ok);
        shard.turn_us.record(7);
        let mut text = String::new();
        MetricsSnapshot::of(&[shard]).write_prometheus(&mut text).expect("a string takes it all");
        for line in [
            "# TYPE catena_requests_total counter",
            "# HELP catena_requests_total Requests that arrived whole, refused ones included. Each is \
             counted as a response in the end, unless it was cancelled or dropped with its connection.",
            "catena_requests_total 12",
            r#"catena_responses_total{class="ok"} 1"#,
            r#"catena_responses_total{class="application"} 0"#,
            "# TYPE catena_in_flight gauge",
            "# TYPE catena_turn_seconds histogram",
            r#"catena_turn_seconds_bucket{le="0.000007"} 0"#,
            r#"catena_turn_seconds_bucket{le="0.000008"} 1"#,
            r#"catena_turn_seconds_bucket{le="+Inf"} 1"#,
            "catena_turn_seconds_sum 0.000007",
            "catena_turn_seconds_count 1",
        ] {
            assert!(text.lines().any(|written| written == line), "missing: {line}\n{text}");
        }
        // Each series once; each family with its help, its type, and its members together.
        let series: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').expect("a name and a value").0)
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
        let families = text.lines().filter(|line| line.starts_with("# HELP")).count();
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        let names: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!((families, types), (names.len(), names.len()));
    }

    #[test]
    fn a_reader_never_sees_a_count_go_back() {
        const COUNT: u64 = 300_000;
        let shards = [ShardMetrics::new()];
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..COUNT {
                    shards[0].requests.increment();
                    shards[0].bytes_in.add(n % 7);
                    shards[0].service_time_us.record((n % 1_000) as u32);
                }
                is_done.store(true, Ordering::Release);
            });
            let mut last = MetricsSnapshot::default();
            loop {
                let was_done = is_done.load(Ordering::Acquire);
                let sums = MetricsSnapshot::of(&shards);
                assert!(sums.requests >= last.requests && sums.bytes_in >= last.bytes_in);
                assert!(sums.service_time_us.count() >= last.service_time_us.count());
                assert!(sums.service_time_us.sum_us() >= last.service_time_us.sum_us());
                last = sums;
                if was_done {
                    break;
                }
            }
            assert_eq!((last.requests, last.service_time_us.count()), (COUNT, COUNT));
        });
    }
}
