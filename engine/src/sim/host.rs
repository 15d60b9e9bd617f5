//! A host: one machine with its clock and one process of several shards; and what each shard has
//! been told but has not yet asked for.

use crate::driver::{FileBuffer, FileOpId, FileTaskDone, ListenerId, Output, Parker, SocketId};
use crate::time::{Duration, Instant};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine of the world, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u32);

impl HostId {
    /// Its address in the virtual network: 10.0.0.1 for the first, and so on.
    pub fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + self.0))
    }

    /// The host that has an address.
    pub(super) fn of_ip(ip: IpAddr) -> Option<HostId> {
        let IpAddr::V4(ip) = ip else { return None };
        u32::from(ip).checked_sub(u32::from(Ipv4Addr::new(10, 0, 0, 1))).map(HostId)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

/// One shard of one host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardAt {
    /// The host.
    pub host: HostId,
    /// Counted from 0 on each host.
    pub shard: u32,
}

impl fmt::Display for ShardAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.host, self.shard))
    }
}

/// What a shard will be told at its next poll. Receiving and accepting are told as a readiness, as
/// with a kernel: the bytes stay in the socket until the shard asks, so that a shard which is slow
/// or paused closes the peer's window.
#[derive(Debug)]
pub(super) enum Notice {
    Acceptable { listener: ListenerId },
    Connected { socket: SocketId, result: Result<(), Errno> },
    Readable { socket: SocketId, until: u64 },
    Sent { socket: SocketId, output: Output, result: Result<(), Errno> },
    Closed { socket: SocketId },
    File { op: FileOpId, buffer: FileBuffer, result: Result<usize, Errno> },
    FileTask { op: FileOpId, result: io::Result<FileTaskDone> },
}

/// A readable notice up to the end of the stream, whatever is there by then.
pub(super) const TO_THE_END: u64 = u64::MAX;

/// A clock that starts anywhere and runs a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock {
    /// The world's time when the rate was last changed, and what this clock showed then.
    world: Instant,
    shown: Instant,
    drift_ppm: i32,
}

const MILLION: u128 = 1_000_000;

impl HostClock {
    pub fn new(world: Instant, origin: Duration, drift_ppm: i32) -> Self {
        HostClock { world, shown: Instant::ZERO + origin, drift_ppm }
    }

    /// What it shows at the world's time `world`.
    pub fn shown_at(&self, world: Instant) -> Instant {
        let elapsed = world.since(self.world).as_nanos() * self.rate() / MILLION;
        self.shown + Duration::from_nanos(elapsed as u64)
    }

    /// The first moment of the world's time at which it shows `shown`. `None`: never.
    pub fn when_shown(&self, shown: Instant) -> Option<Instant> {
        let nanos = (shown.since(self.shown).as_nanos() * MILLION).div_ceil(self.rate());
        let world = self.world + Duration::from_nanos(u64::try_from(nanos).ok()?);
        (world < Instant::FAR_FUTURE && shown < Instant::FAR_FUTURE).then_some(world)
    }

    /// Changes the rate from `world` on; what it shows stays continuous.
    pub fn set_drift(&mut self, world: Instant, drift_ppm: i32) {
        *self = HostClock { world, shown: self.shown_at(world), drift_ppm };
    }

    fn rate(&self) -> u128 {
        let rate = MILLION as i64 + i64::from(self.drift_ppm);
        u128::try_from(rate).expect("a clock's drift is checked to be above -100 %")
    }
}

/// One machine.
#[derive(Debug)]
pub(super) struct Host {
    pub clock: HostClock,
    /// The drift that a skewed clock is healed to.
    pub drift_ppm: i32,
    /// The machine runs: its kernel answers. Without a process it refuses.
    pub powered: bool,
    /// Counts the processes, so that what was meant for a dead one is told apart.
    pub incarnation: u32,
    /// A process runs.
    pub running: bool,
    /// Its drivers are called from outside; the world gives it no turns.
    pub bare: bool,
    pub paused_until: Instant,
    pub shards: Vec<Shard>,
}

/// One shard, as far as the world schedules it.
#[derive(Debug)]
pub(super) struct Shard {
    pub inbox: VecDeque<Notice>,
    /// Its core is at work until then.
    pub busy_until: Instant,
    /// The turn that is on the agenda. Any other on the agenda is outdated.
    pub turn_at: Option<Instant>,
    pub unparked: bool,
    pub parker: Arc<Parker>,
    pub pool: Arc<BufferPool>,
    /// Sockets whose bytes found no buffer.
    pub starved: Vec<SocketId>,
}

impl Shard {
    pub fn new(at: ShardAt, incarnation: u32, buffers: usize, wakes: &WakeList) -> Self {
        let wakes = wakes.clone();
        let wake = Box::new(move || wakes.push(Wake { at, incarnation }));
        Shard {
            inbox: VecDeque::new(),
            busy_until: Instant::ZERO,
            turn_at: None,
            unparked: false,
            parker: Arc::new(Parker::new(None, wake)),
            pool: Arc::new(BufferPool::new(buffers)),
            starved: Vec::new(),
        }
    }
}

/// How many receive buffers a shard has left. A buffer that was lent comes home when its last
/// `Bytes` is dropped, wherever that is.
#[derive(Debug)]
pub(super) struct BufferPool {
    free: AtomicUsize,
    total: usize,
}

impl BufferPool {
    fn new(total: usize) -> Self {
        BufferPool { free: AtomicUsize::new(total), total }
    }

    pub fn has_free(&self) -> bool {
        self.free.load(Ordering::Relaxed) > 0
    }

    /// Below this mark bytes to keep are copied, so that a slow holder cannot drain the pool.
    pub fn is_low(&self) -> bool {
        self.free.load(Ordering::Relaxed) * 4 < self.total
    }

    pub fn in_use(&self) -> usize {
        self.total - self.free.load(Ordering::Relaxed)
    }

    pub fn take(&self) {
        let before = self.free.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a buffer is taken only where has_free said so");
    }

    pub fn give_back(&self) {
        self.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// A wake on its way to a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake {
    pub at: ShardAt,
    pub incarnation: u32,
}

/// The wakes that the world has not yet seen. All is one thread; the lock is there because a
/// [`Parker`] may be called from any, and is never contended.
#[derive(Clone, Debug, Default)]
pub(super) struct WakeList(Arc<Mutex<Vec<Wake>>>);

impl WakeList {
    pub fn push(&self, wake: Wake) {
        self.lock().push(wake);
    }

    pub fn take(&self) -> Vec<Wake> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wake>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_are_one_to_one() {
        for host in [HostId(0), HostId(1), HostId(300)] {
            assert_eq!(HostId::of_ip(host.ip()), Some(host));
        }
        assert_eq!(HostId(0).to_string(), "10.0.0.1");
        assert_eq!(HostId::of_ip("9.0.0.1".parse().expect("an address")), None);
    }

    #[test]
    fn a_clock_shows_no_less_than_was_waited_for() {
        for drift_ppm in [-900_000, -50, 0, 49, 3_000_000] {
            let mut clock =
                HostClock::new(Instant::from_nanos(77), Duration::from_secs(9), drift_ppm);
            clock.set_drift(Instant::from_nanos(12_345), drift_ppm / 2);
            for nanos in [0, 1, 999, 1_000_003, 86_400_000_000_007] {
                let wanted = clock.shown + Duration::from_nanos(nanos);
                let world = clock.when_shown(wanted).expect("within the life of the world");
                assert!(clock.shown_at(world) >= wanted, "{drift_ppm} ppm, {nanos} ns");
                let before = world - Duration::from_nanos(1);
                assert!(nanos == 0 || clock.shown_at(before) < wanted, "not a moment too late");
            }
        }
        let clock = HostClock::new(Instant::ZERO, Duration::ZERO, 0);
        assert_eq!(clock.when_shown(Instant::FAR_FUTURE), None);
    }
}
