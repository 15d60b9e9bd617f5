//! What a simulated world is made of: how long things take and how much fits.
//!
//! Nothing here goes wrong by itself. What goes wrong is in [`super::fault`].

use crate::rng::Rng;
use crate::time::Duration;

/// A duration that is drawn anew each time, uniformly from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub low: Duration,
    /// The longest.
    pub high: Duration,
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span::fixed(Duration::ZERO);

    /// Always `duration`.
    pub const fn fixed(duration: Duration) -> Span {
        Span { low: duration, high: duration }
    }

    /// From `low` to `high` nanoseconds.
    pub const fn nanos(low: u64, high: u64) -> Span {
        Span { low: Duration::from_nanos(low), high: Duration::from_nanos(high) }
    }

    /// From `low` to `high` microseconds.
    pub const fn micros(low: u64, high: u64) -> Span {
        Span { low: Duration::from_micros(low), high: Duration::from_micros(high) }
    }

    /// From `low` to `high` milliseconds.
    pub const fn millis(low: u64, high: u64) -> Span {
        Span { low: Duration::from_millis(low), high: Duration::from_millis(high) }
    }

    /// One of them.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        rng.between(self.low, self.high)
    }
}

/// How a simulated world behaves when nothing is broken. The default is a local network, an
/// ordinary solid-state disk, and cores that need a microsecond or two for a turn.
#[derive(Clone, Debug, Default)]
pub struct WorldConfig {
    /// Streams between hosts.
    pub network: NetworkConfig,
    /// Files.
    pub disk: DiskConfig,
    /// Cores and clocks.
    pub cpu: CpuConfig,
    /// How many records of the event log are kept to be shown. The hash covers all of them.
    pub log: LogConfig,
}

/// How streams behave.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// One way between two hosts, drawn for each segment; order within a stream is kept.
    pub latency: Span,
    /// One way within a host.
    pub loopback_latency: Span,
    /// Of one direction of one stream, in bytes a second.
    pub bandwidth: u64,
    /// The most that travels as one piece, in bytes.
    pub segment_bytes_max: usize,
    /// The chance that a connection's bytes travel in pieces of random size, from one byte up.
    /// Of the others they travel in pieces as large as fit.
    pub fragmented_chance: f64,
    /// The sender's kernel holds as much, unsent or unacknowledged; drawn for each end, in bytes.
    pub send_buffer_bytes: (usize, usize),
    /// The receiver's kernel holds as much unread; drawn for each end, in bytes.
    pub receive_buffer_bytes: (usize, usize),
    /// Connections that wait to be accepted, for each listener.
    pub backlog: usize,
    /// The chance that a send which could be done at once is reported later instead.
    pub send_later_chance: f64,
    /// From a close to its completion.
    pub close_latency: Span,
    /// A connection attempt that nobody answers is repeated after so long, then twice as long, …
    pub connect_retry: Duration,
    /// A connection attempt is given up after so long.
    pub connect_timeout: Duration,
    /// A path that works again is found out by a retransmission, at most so long afterwards.
    pub retransmit_max: Duration,
    /// Unacknowledged bytes break the connection after so long (`TCP_USER_TIMEOUT`).
    pub give_up: Duration,
    /// Sockets of one shard; the next `connect` fails, the next accept waits.
    pub sockets_max: u32,
    /// Receive buffers of one shard, lent ones included.
    pub receive_buffers: usize,
    /// Bytes in one receive buffer.
    pub chunk_bytes_max: usize,
    /// The chance that bytes to keep are copied though buffers are left.
    pub lend_copy_chance: f64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            latency: Span::micros(40, 200),
            loopback_latency: Span::micros(4, 15),
            bandwidth: 1_250_000_000,
            segment_bytes_max: 64 << 10,
            fragmented_chance: 0.5,
            send_buffer_bytes: (4 << 10, 256 << 10),
            receive_buffer_bytes: (4 << 10, 256 << 10),
            backlog: 128,
            send_later_chance: 0.5,
            close_latency: Span::micros(0, 50),
            connect_retry: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(8),
            retransmit_max: Duration::from_millis(800),
            give_up: Duration::from_secs(10),
            sockets_max: 4_096,
            receive_buffers: 64,
            chunk_bytes_max: 16 << 10,
            lend_copy_chance: 0.5,
        }
    }
}

/// How files behave.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Of a read.
    pub read_latency: Span,
    /// Of a write, into the page cache or past it.
    pub write_latency: Span,
    /// Of a sync.
    pub sync_latency: Span,
    /// Of a [`FileTask`](crate::driver::FileTask); filling a file takes one write more for each MiB.
    pub task_latency: Span,
    /// What fits on one host's disk, in bytes.
    pub capacity_bytes: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            read_latency: Span::micros(5, 150),
            write_latency: Span::micros(5, 100),
            sync_latency: Span::micros(50, 2_000),
            task_latency: Span::micros(5, 1_000),
            capacity_bytes: 1 << 30,
        }
    }
}

/// How cores and clocks behave.
#[derive(Clone, Debug)]
pub struct CpuConfig {
    /// CPU time of one turn, besides what it burns explicitly.
    pub turn_cost: Span,
    /// From the reason to wake until a sleeping shard runs.
    pub wake_latency: Span,
    /// From the start of a process until its shards run.
    pub boot_latency: Span,
    /// What the clock of a host shows when the host starts. Hosts differ, so that an instant which
    /// travels from one to another is found out.
    pub clock_origin: Span,
    /// Clocks run too fast or too slow by at most so many millionths; drawn for each host.
    pub clock_drift_ppm_max: i32,
    /// The most completions that one poll hands over. Now and then it is a handful.
    pub completions_per_poll_max: usize,
}

impl Default for CpuConfig {
    fn default() -> Self {
        CpuConfig {
            turn_cost: Span::nanos(300, 3_000),
            wake_latency: Span::nanos(0, 5_000),
            boot_latency: Span::micros(10, 5_000),
            clock_origin: Span::millis(1_000, 10_000_000),
            clock_drift_ppm_max: 50,
            completions_per_poll_max: 256,
        }
    }
}

/// What is kept of the event log.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// The last so many records; `usize::MAX` keeps all.
    pub records_kept: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { records_kept: 400 }
    }
}
