//! What commands about the server know of it: how it was started, and what its shards publish.
//!
//! ```text
//! shard 0 ── its turn ends ──► ShardFigures ─┐
//! shard 1 ── its turn ends ──► ShardFigures ─┼─ reads ─► Totals ─► INFO, on whichever shard is asked
//! ```
//!
//! So nobody waits for another shard's turn to say how the server is. The slow log is one for all shards,
//! behind a lock: what is entered there has taken so long that a lock is nothing beside it.

use super::debts::Debts;
use super::here::slowlog::SlowLog;
use crate::cluster::view::View;
use crate::evict::Eviction;
use crate::limits::VALUE_BYTES_DEFAULT;
use crate::store::Durability;
use crate::store::figures::LogFigures;
use catena_engine::metrics::Gauge;
use catena_engine::shard_index::ShardIndex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
    /// Bytes of other shards' answers that may wait for the clients of one shard.
    pub client_bytes_max: usize,
    /// When writes are on stable storage; `None`: never.
    pub durability: Option<Durability>,
    /// What the system says of this process, for whoever asks; it may cost some system calls.
    pub process: fn() -> ProcessFacts,
    /// Asks this process to end in order.
    pub end: fn(),
}

/// One server process, as all of its shards see it.
#[derive(Debug, Default)]
pub struct Server {
    /// How it was started.
    pub config: ServerConfig,
    /// What took long.
    pub slow_log: SlowLog,
    wrong_passwords: Complaints,
    http: Complaints,
    running: OnceLock<Running>,
    is_ending: AtomicBool,
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
    pace: Mutex<Pace>,
    /// The cluster, if it is one of one.
    view: Mutex<Option<Arc<View>>>,
    /// Why logs have no next segment, by their shards.
    hindrances: Mutex<BTreeMap<ShardIndex, String>>,
    debts: Arc<Debts>,
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
            value_bytes_max: VALUE_BYTES_DEFAULT.into(),
            clients_max: u64::from(u16::MAX),
            client_bytes_max: usize::MAX,
            durability: None,
            process: ProcessFacts::default,
            end: || {},
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
            wrong_passwords: Complaints::default(),
            http: Complaints::default(),
            running: OnceLock::new(),
            is_ending: AtomicBool::new(false),
        }
    }

    /// A shard runs, of so many; it is so late in Unix milliseconds. The first one's word counts.
    pub fn begin(&self, shards: u16, now_ms: u64) {
        self.running.get_or_init(|| Running {
            began_ms: now_ms,
            shards: (0..shards).map(|_| ShardFigures::default()).collect(),
            forgotten: Mutex::default(),
            view: Mutex::default(),
            pace: Mutex::new(Pace { at_ms: now_ms, ..Pace::default() }),
            hindrances: Mutex::default(),
            debts: Arc::new(Debts::new(shards)),
        });
    }

    /// What shards owe each other.
    pub fn debts(&self) -> &Arc<Debts> {
        &self.running().debts
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

    /// What the keys of all shards take, in bytes.
    pub fn bytes_used(&self) -> u64 {
        self.running().shards.iter().map(|figures| figures.bytes_used.value()).sum()
    }

    /// Whether some log waits for room on its disk.
    pub fn is_some_log_hindered(&self) -> bool {
        self.running().shards.iter().any(|figures| figures.logs_hindered.value() > 0)
    }

    /// Whether who writes should wait for some shard.
    pub fn is_some_shard_behind(&self) -> bool {
        self.running().shards.iter().any(|figures| figures.shards_behind.value() > 0)
    }

    /// Since when it runs, in Unix milliseconds.
    pub fn began_ms(&self) -> u64 {
        self.running().began_ms
    }

    /// The cluster looks like this by now.
    pub fn set_view(&self, view: Arc<View>) {
        *self.running().view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    /// How the cluster looks, if there is one.
    pub fn view(&self) -> Option<Arc<View>> {
        self.running().view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commands a second, since this was asked a second ago at least, or since the start. `commands`: all so
    /// far.
    pub fn commands_per_second(&self, now_ms: u64, commands: u64) -> u64 {
        let mut pace = self.running().pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.look(now_ms, commands)
    }

    /// Since when there is a checkpoint of every shard, in Unix milliseconds; before the first one, and where
    /// nothing is kept, since when it runs. As in Redis.
    pub fn last_save_ms(&self) -> u64 {
        match self.totals().checkpoint {
            0 => self.began_ms(),
            at_ms => at_ms,
        }
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

    /// Writes how the server is in the Prometheus text format. Its counters are since the start, whatever was
    /// forgotten.
    ///
    /// # Errors
    /// As writing to `out` does.
    pub fn write_prometheus(&self, out: &mut impl fmt::Write, now_ms: u64) -> fmt::Result {
        Totals::of(&self.running().shards).write_prometheus(out, now_ms)?;
        let resident = (self.config.process)().resident_bytes;
        for (field, meaning, value) in [
            (
                "bytes_max",
                "Memory in bytes that bytes_used may come to.",
                self.config.memory_bytes_max,
            ),
            ("bytes_resident", "Memory in bytes of the whole process.", resident),
        ] {
            write_figure(out, (field, meaning, Kind::State), (value, now_ms))?;
        }
        Ok(())
    }

    /// How the server is that serves, in a line for people: `serving`, and what is wrong.
    pub fn health(&self) -> String {
        let running = self.running();
        let hindrances = running.hindrances.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refusing = |shard: &ShardIndex| self.figures(*shard).logs_refusing.value() > 0;
        let refusing = hindrances.iter().find(|(shard, _)| is_refusing(shard));
        match refusing.or(hindrances.iter().next()) {
            None => "serving".to_owned(),
            Some((shard, why)) => {
                let are = if refusing.is_some() { "are refused" } else { "will be refused soon" };
                format!("serving, writes {are}: shard {}: {why}", shard.0)
            }
        }
    }

    /// Why a shard's log has no next segment, if it has none.
    pub fn set_hindrance(&self, shard: ShardIndex, why: Option<&str>) {
        let hindrances = &self.running().hindrances;
        let mut hindrances = hindrances.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => hindrances.insert(shard, why.to_owned()),
            None => hindrances.remove(&shard),
        };
    }

    /// Asks for the end, in order. Once: who asks again does not ask for more haste.
    pub fn end(&self) {
        if !self.is_ending.swap(true, Ordering::Relaxed) {
            (self.config.end)();
        }
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
        self.wrong_passwords.add(now_ms)
    }

    /// Counts a client that speaks HTTP, in the same way.
    pub fn http(&self, now_ms: u64) -> Option<u64> {
        self.http.add(now_ms)
    }

    fn running(&self) -> &Running {
        self.running.get().expect("each shard says at its start that it runs")
    }
}

/// Milliseconds from one line about strangers to the next: who guesses passwords may not fill a disk.
pub const COMPLAINT_EVERY_MS: u64 = 1_000;

/// How fast commands come.
#[derive(Debug, Default)]
struct Pace {
    at_ms: u64,
    commands: u64,
    per_second: u64,
}

impl Pace {
    fn look(&mut self, now_ms: u64, commands: u64) -> u64 {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        if passed_ms >= 1_000 {
            // Fewer than before: the counts were set back.
            let more = commands.saturating_sub(self.commands);
            let per_second = more.saturating_mul(1_000) / passed_ms;
            *self = Pace { at_ms: now_ms, commands, per_second };
        }
        self.per_second
    }
}

/// What strangers do, as far as the log is concerned.
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

/// What a figure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It goes up and down.
    State,
    /// It grows; `CONFIG RESETSTAT` begins anew.
    Count,
    /// The same, in nanoseconds.
    Time,
    /// When something happened last, in Unix milliseconds; of all shards, the one that is behind the others.
    /// 0: never.
    When,
}

impl Kind {
    fn add(self, sum: u64, value: u64) -> u64 {
        match self {
            Kind::When if sum == 0 || value == 0 => sum.max(value),
            Kind::When => sum.min(value),
            _ => sum + value,
        }
    }

    /// A figure that one shard has published since, and another has not, may be behind.
    fn since(self, now: u64, earlier: u64) -> u64 {
        match self {
            Kind::Count | Kind::Time => now.saturating_sub(earlier),
            Kind::State | Kind::When => now,
        }
    }
}

/// The table of all figures: its kind, its field, its meaning.
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
                    $( sums.$field = Kind::$kind.add(sums.$field, shard.$field.value()); )*
                }
                sums
            }

            /// Writes them in the Prometheus text format.
            fn write_prometheus(&self, out: &mut impl fmt::Write, now_ms: u64) -> fmt::Result {
                $( write_figure(
                    out,
                    (stringify!($field), $meaning, Kind::$kind),
                    (self.$field, now_ms),
                )?; )*
                Ok(())
            }

            fn since(self, earlier: &Totals) -> Self {
                Totals { $( $field: Kind::$kind.since(self.$field, earlier.$field), )* }
            }
        }
    };
}

/// One figure in the Prometheus text format: counters end in `_total` there, times are in seconds, and of an
/// instant it is told how long ago that was.
fn write_figure(
    out: &mut impl fmt::Write,
    (field, meaning, kind): (&str, &str, Kind),
    (value, now_ms): (u64, u64),
) -> fmt::Result {
    let seconds_since = |at: u64| now_ms.saturating_sub(at) as f64 / 1e3;
    let (suffix, kind, value) = match kind {
        Kind::State => ("", "gauge", value.to_string()),
        Kind::Count => ("_total", "counter", value.to_string()),
        Kind::Time => ("_seconds_total", "counter", format!("{:.6}", value as f64 / 1e9)),
        Kind::When if value == 0 => return Ok(()),
        Kind::When => ("_age_seconds", "gauge", format!("{:.3}", seconds_since(value))),
    };
    let name = format!("catena_store_{field}{suffix}");
    writeln!(out, "# HELP {name} {meaning}\n# TYPE {name} {kind}\n{name} {value}")
}

figures! {
    State clients "Connections that are open."
    State keys "Keys there are, expired ones included that nobody has met."
    State expiring "Keys with an expiry."
    State bytes_used "Memory in bytes that entries and their index occupy."
    State bytes_held "Memory in bytes that is held for them."
    State shards_behind "Shards where who writes waits: for the disk, or until keys were given up for memory."
    State logs_hindered "Logs without a next segment: writes are refused when the last one is full."
    State logs_refusing "Of these, the ones that have refused writes: MISCONF."
    State checkpoints_running "Checkpoints that are being taken."
    State checkpoints_failing "Shards whose last checkpoint failed: their logs grow."
    When checkpoint "Time since the last checkpoint, of the shard where that is longest; or since the start."
    Time log_lag "Time in which logs were behind, summed."
    Time log_sync "Time in syncs of logs, summed."
    Count log_syncs "Syncs of logs."
    Count log_bytes "Bytes written to logs, whole blocks."
    Count checkpoints "Checkpoints taken."
    Count checkpoints_failed "Checkpoints that could not be taken."
    Count accepted "Connections taken."
    Count rejected "Connections refused because there were too many."
    Count commands "Commands carried out or refused."
    Count errors "Commands that were answered an error, and what was no command."
    Count errors_misconf "Of these, writes for which the log had no room: MISCONF."
    Count errors_oom "Of these, writes for which there was no memory: OOM."
    Count hits "Reads that found their key."
    Count misses "Reads that did not."
    Count expired "Keys that ended because their time had come."
    Count evicted "Keys that were given up for memory."
    Count bytes_in "Bytes of commands."
    Count bytes_out "Bytes of answers."
}

impl Totals {
    /// An answer is an error with this text, without its `-`.
    pub fn count_error(&mut self, text: &[u8]) {
        self.errors += 1;
        self.errors_misconf += u64::from(text.starts_with(b"MISCONF"));
        self.errors_oom += u64::from(text.starts_with(b"OOM"));
    }

    /// An answer is this. No answer but an error begins with a `-`.
    pub fn count_if_error(&mut self, answer: &[u8]) {
        if let Some(text) = answer.strip_prefix(b"-") {
            self.count_error(text);
        }
    }

    /// These, and how a shard's log is.
    #[must_use]
    pub fn with(self, log: &LogFigures) -> Self {
        let checkpoints = &log.checkpoints;
        Totals {
            logs_hindered: log.is_hindered.into(),
            logs_refusing: log.is_refusing.into(),
            log_sync: log.sync_ns,
            log_syncs: log.syncs,
            log_bytes: log.bytes,
            checkpoints_running: checkpoints.is_running.into(),
            checkpoints_failing: checkpoints.has_failed.into(),
            checkpoint: checkpoints.at_ms,
            checkpoints: checkpoints.taken,
            checkpoints_failed: checkpoints.failed,
            ..self
        }
    }
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
    fn of_instants_the_one_that_is_behind_counts() {
        let server = Server::new(ServerConfig::default());
        server.begin(3, 1_000);
        for (shard, checkpoint) in [(0, 7_000), (1, 0), (2, 5_000)] {
            let log_sync = 1_500_000_000;
            let totals = Totals { checkpoint, log_sync, ..Default::default() };
            server.figures(ShardIndex(shard)).publish(&totals);
        }
        assert_eq!(server.totals().checkpoint, 5_000, "one has none");
        let mut text = String::new();
        server.write_prometheus(&mut text, 6_250).expect("a string takes it all");
        assert!(text.contains("\ncatena_store_checkpoint_age_seconds 1.250\n"), "{text}");
        assert!(text.contains("\ncatena_store_log_sync_seconds_total 4.500000\n"), "{text}");
        assert!(text.contains("\ncatena_store_bytes_max 0\n"), "{text}");
        server.forget_stats();
        text.clear();
        server.write_prometheus(&mut text, 6_250).expect("a string takes it all");
        assert!(text.contains("\ncatena_store_log_sync_seconds_total 4.500000\n"), "{text}");
    }

    #[test]
    fn what_hinders_a_log_is_told_until_it_does_no_more() {
        let server = Server::new(ServerConfig::default());
        server.begin(2, 1_000);
        assert_eq!(server.health(), "serving");
        server.set_hindrance(ShardIndex(1), Some("no room"));
        assert_eq!(server.health(), "serving, writes will be refused soon: shard 1: no room");
        let totals = Totals { logs_refusing: 1, ..Default::default() };
        server.figures(ShardIndex(1)).publish(&totals);
        assert_eq!(server.health(), "serving, writes are refused: shard 1: no room");
        server.set_hindrance(ShardIndex(0), Some("none either"));
        assert_eq!(server.health(), "serving, writes are refused: shard 1: no room");
        server.set_hindrance(ShardIndex(1), None);
        server.set_hindrance(ShardIndex(0), None);
        assert_eq!(server.health(), "serving");
    }

    #[test]
    fn errors_are_counted_by_what_an_operator_has_to_do() {
        let mut totals = Totals::default();
        for answer in ["-MISCONF no room", "-OOM no memory", "-ERR no", "$4\r\n-ERR\r\n", "+OK"] {
            totals.count_if_error(answer.as_bytes());
        }
        assert_eq!((totals.errors, totals.errors_misconf, totals.errors_oom), (3, 1, 1));
    }

    /// A second signal would end the process at once.
    #[test]
    fn the_end_is_asked_for_once() {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        fn end() {
            ASKED.fetch_add(1, Ordering::Relaxed);
        }
        let server = Server::new(ServerConfig { end, ..ServerConfig::default() });
        server.end();
        server.end();
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
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
    fn the_pace_is_that_of_the_last_second_or_more() {
        let mut pace = Pace { at_ms: 1_000, ..Pace::default() };
        let looks = [(1_500, 100), (3_000, 400), (3_500, 900), (4_000, 900), (5_000, 10)];
        let seen = looks.map(|(now_ms, commands)| pace.look(now_ms, commands));
        assert_eq!(seen, [0, 200, 200, 500, 0]);
    }

    #[test]
    fn strangers_are_told_once_in_a_while() {
        let server = Server::new(ServerConfig::default());
        let told: Vec<Option<u64>> =
            [5_000, 5_001, 5_999, 6_000, 6_001].map(|ms| server.wrong_password(ms)).to_vec();
        assert_eq!(told, [Some(1), None, None, Some(3), None]);
        assert_eq!([6_001, 6_002].map(|ms| server.http(ms)), [Some(1), None]);
    }
}
