//! What commands about the server know of it: how it was started, and what its shards publish.
//!
//! ```text
//! shard 0 ── its turn ends ──► ShardFigures ─┐
//! shard 1 ── its turn ends ──► ShardFigures ─┼─ reads ─► Totals ─► INFO, on whichever shard is asked
//! ```
//!
//! So nobody waits for another shard's turn to say how the server is. The slow log is one for all shards,
//! behind a lock: what is entered there has taken so long that a lock is nothing beside it.

use super::here::slowlog::SlowLog;
use crate::evict::Eviction;
use crate::store::Durability;
use catena_engine::metrics::Gauge;
use catena_engine::shard_index::ShardIndex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The version of Redis whose commands and words these are.
pub const REDIS_VERSION: &str = "7.0.15";

/// How a server is started, as far as its clients may ask.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What clients have to know before they may do anything; `None`: nothing.
    pub password: Option<String>,
    /// 40 hexadecimal digits, by which a cluster's nodes know each other.
    pub node_id: String,
    /// The host that clients are told to connect to; `None`: the address that is listened on.
    pub announce: Option<String>,
    /// Memory of all shards in bytes above which writes are refused, or keys given up; 0: any.
    pub memory_bytes_max: u64,
    /// Which of both.
    pub eviction: Eviction,
    /// The longest value in bytes.
    pub value_bytes_max: u64,
    /// Connections of all shards, at most.
    pub clients_max: u64,
    /// When writes are on stable storage; `None`: never.
    pub durability: Option<Durability>,
    /// What the system says of this process, for whoever asks; it may cost some system calls.
    pub process: fn() -> ProcessFacts,
}

/// One server process, as all of its shards see it.
#[derive(Debug, Default)]
pub struct Server {
    /// How it was started.
    pub config: ServerConfig,
    /// What took long.
    pub slow_log: SlowLog,
    complaints: Complaints,
    running: OnceLock<Running>,
}

/// What the system says of a process.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ProcessFacts {
    /// Seconds of processor time in the kernel.
    pub cpu_system_s: f64,
    /// Seconds of processor time out of the kernel.
    pub cpu_user_s: f64,
    /// Memory in bytes that is there and not just reserved.
    pub resident_bytes: u64,
    /// Memory of the host in bytes.
    pub host_bytes: u64,
}

/// What is known once the shards run.
#[derive(Debug)]
struct Running {
    began_ms: u64,
    shards: Box<[ShardFigures]>,
    /// What the totals were when `CONFIG RESETSTAT` was asked last.
    forgotten: Mutex<Totals>,
}

impl Default for ServerConfig {
    /// Nobody needs a password, nothing is limited, nothing is kept.
    fn default() -> Self {
        ServerConfig {
            password: None,
            node_id: "0".repeat(NODE_ID_DIGITS),
            announce: None,
            memory_bytes_max: 0,
            eviction: Eviction::None,
            value_bytes_max: 512 << 20,
            clients_max: u64::from(u16::MAX),
            durability: None,
            process: ProcessFacts::default,
        }
    }
}

/// Digits of a node's id. Source: Redis Cluster's specification.
pub const NODE_ID_DIGITS: usize = 40;

impl ServerConfig {
    /// What happens to writes when memory is used up, in Redis' words.
    pub fn eviction_name(&self) -> &'static str {
        match self.eviction {
            Eviction::None => "noeviction",
            Eviction::Lru => "allkeys-lru",
        }
    }

    /// True if what is written outlives the process.
    pub fn is_durable(&self) -> bool {
        matches!(self.durability, Some(Durability::Sync | Durability::Batch))
    }
}

impl Server {
    /// One that is about to start.
    pub fn new(config: ServerConfig) -> Self {
        Server {
            config,
            slow_log: SlowLog::default(),
            complaints: Complaints::default(),
            running: OnceLock::new(),
        }
    }

    /// A shard runs, of so many; it is so late in Unix milliseconds. The first one's word counts.
    pub fn begin(&self, shards: u16, now_ms: u64) {
        self.running.get_or_init(|| Running {
            began_ms: now_ms,
            shards: (0..shards).map(|_| ShardFigures::default()).collect(),
            forgotten: Mutex::default(),
        });
    }

    /// Where a shard publishes.
    ///
    /// # Panics
    /// If there is no such shard, or none runs.
    #[inline]
    pub fn figures(&self, shard: ShardIndex) -> &ShardFigures {
        &self.running().shards[shard.index()]
    }

    /// Bytes that the keys of all shards but one take, as far as these have published it.
    pub fn bytes_elsewhere(&self, shard: ShardIndex) -> u64 {
        let shards = self.running().shards.iter().enumerate();
        let others = shards.filter(|(index, _)| *index != shard.index());
        others.map(|(_, figures)| figures.bytes_used.value()).sum()
    }

    /// Whether more gathers for the log of some shard than one write should be long.
    pub fn is_some_log_behind(&self) -> bool {
        self.running().shards.iter().any(|figures| figures.logs_behind.value() > 0)
    }

    /// Since when it runs, in Unix milliseconds.
    pub fn began_ms(&self) -> u64 {
        self.running().began_ms
    }

    /// The sums over all shards, since the start or the last [`Server::forget_stats`].
    pub fn totals(&self) -> Totals {
        let forgotten = *self.running().forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        Totals::of(&self.running().shards).since(&forgotten)
    }

    /// From now on what was counted so far is counted no more.
    pub fn forget_stats(&self) {
        let running = self.running();
        let totals = Totals::of(&running.shards);
        *running.forgotten.lock().unwrap_or_else(PoisonError::into_inner) = totals;
    }

    /// The id of the node that a shard is.
    pub fn node_id_of(&self, shard: ShardIndex) -> String {
        let id = &self.config.node_id;
        let server = &id[..id.len().min(NODE_ID_DIGITS - 4)];
        format!("{server}{:04x}", shard.0)
    }

    /// Counts a wrong password. `Some(count)` if that is worth a line in the log: so many since the last
    /// line, which is [`COMPLAINT_EVERY_MS`] ago at least.
    pub fn wrong_password(&self, now_ms: u64) -> Option<u64> {
        self.complaints.add(now_ms)
    }

    fn running(&self) -> &Running {
        self.running.get().expect("each shard says at its start that it runs")
    }
}

/// Milliseconds from one line about wrong passwords to the next: who guesses may not fill a disk.
pub const COMPLAINT_EVERY_MS: u64 = 1_000;

/// Wrong passwords, as far as the log is concerned.
#[derive(Debug, Default)]
struct Complaints {
    told_ms: AtomicU64,
    count: AtomicU64,
}

impl Complaints {
    fn add(&self, now_ms: u64) -> Option<u64> {
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        if told_ms != 0 && now_ms < told_ms.saturating_add(COMPLAINT_EVERY_MS) {
            return None;
        }
        // Of several shards at a time one tells.
        let told =
            self.told_ms.compare_exchange(told_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        told.is_ok().then(|| self.count.swap(0, Ordering::Relaxed))
    }
}

/// The table of all figures: is it reset by `CONFIG RESETSTAT`, its field, its meaning.
macro_rules! figures {
    ($($kind:ident $field:ident $meaning:literal)*) => {
        /// What one shard publishes at the end of its turns, for anybody to read.
        ///
        /// 128-byte alignment keeps the neighbours of a shard's figures out of its cache lines.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardFigures {
            $( #[doc = $meaning] pub $field: Gauge, )*
        }

        /// What one shard counts by itself, and what all shards have published, summed.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Totals {
            $( #[doc = $meaning] pub $field: u64, )*
        }

        impl ShardFigures {
            /// For the owning shard alone.
            #[inline]
            pub fn publish(&self, totals: &Totals) {
                $( self.$field.set(totals.$field); )*
            }
        }

        impl Totals {
            fn of(shards: &[ShardFigures]) -> Self {
                let mut sums = Totals::default();
                for shard in shards {
                    $( sums.$field += shard.$field.value(); )*
                }
                sums
            }

            /// Writes them in the Prometheus text format.
            ///
            /// # Errors
            /// As writing to `out` does.
            pub fn write_prometheus(&self, out: &mut impl fmt::Write) -> fmt::Result {
                $( write_figure(out, stringify!($field), $meaning, figures!(#$kind), self.$field)?; )*
                Ok(())
            }

            fn since(self, earlier: &Totals) -> Self {
                Totals { $( $field: figures!(@$kind self.$field, earlier.$field), )* }
            }
        }
    };
    // A figure that one shard has published since, and another has not, may be behind.
    (@count $now:expr, $earlier:expr) => { $now.saturating_sub($earlier) };
    (@state $now:expr, $earlier:expr) => { $now };
    (#count) => { "counter" };
    (#state) => { "gauge" };
}

/// One figure in the Prometheus text format; counters end in `_total` there.
fn write_figure(
    out: &mut impl fmt::Write,
    field: &str,
    meaning: &str,
    kind: &str,
    value: u64,
) -> fmt::Result {
    let suffix = if kind == "counter" { "_total" } else { "" };
    let name = format!("catena_store_{field}{suffix}");
    writeln!(out, "# HELP {name} {meaning}\n# TYPE {name} {kind}\n{name} {value}")
}

figures! {
    state clients "Connections that are open."
    state keys "Keys there are, expired ones included that nobody has met."
    state expiring "Keys with an expiry."
    state bytes_used "Memory in bytes that entries and their index occupy."
    state bytes_held "Memory in bytes that is held for them."
    state logs_behind "Logs for which more gathers than one write should be long: who writes waits."
    count accepted "Connections taken."
    count rejected "Connections refused because there were too many."
    count commands "Commands carried out or refused."
    count errors "Of these, refused."
    count hits "Reads that found their key."
    count misses "Reads that did not."
    count expired "Keys that ended because their time had come."
    count evicted "Keys that were given up for memory."
    count bytes_in "Bytes of commands."
    count bytes_out "Bytes of answers."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_publish_is_summed_and_counts_are_forgotten() {
        let server = Server::new(ServerConfig::default());
        server.begin(2, 1_000);
        server.begin(7, 2_000);
        assert_eq!(server.began_ms(), 1_000, "the first one's word counts");
        for (shard, keys) in [(0, 3), (1, 4)] {
            let totals = Totals { keys, commands: 10 * keys, ..Default::default() };
            server.figures(ShardIndex(shard)).publish(&totals);
        }
        let totals = server.totals();
        assert_eq!((totals.keys, totals.commands), (7, 70));
        server.forget_stats();
        let later = Totals { keys: 5, commands: 42, ..Default::default() };
        server.figures(ShardIndex(1)).publish(&later);
        let totals = server.totals();
        assert_eq!((totals.keys, totals.commands), (8, 2));
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<ShardFigures>() % 128, 0);
    }

    #[test]
    fn each_shard_is_a_node_of_its_own() {
        let config = ServerConfig { node_id: "0123456789".repeat(4), ..Default::default() };
        let server = Server::new(config);
        let ids: Vec<String> = (0..3).map(|shard| server.node_id_of(ShardIndex(shard))).collect();
        assert_eq!(ids[2], "0123456789012345678901234567890123450002");
        assert!(ids.iter().all(|id| id.len() == NODE_ID_DIGITS));
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn wrong_passwords_are_told_once_in_a_while() {
        let server = Server::new(ServerConfig::default());
        let told: Vec<Option<u64>> =
            [5_000, 5_001, 5_999, 6_000, 6_001].map(|ms| server.wrong_password(ms)).to_vec();
        assert_eq!(told, [Some(1), None, None, Some(3), None]);
    }
}
