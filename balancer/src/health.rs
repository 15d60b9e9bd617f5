//! Which endpoints calls may go to: ejection, the way back, and what is done when most look ill.
//!
//! ```text
//!            5 failures in a row, too many failures, far slower than its peers, silent
//!   Live ───────────────────────────────────────────────────────────────────────────► Ejected
//!    ▲                                                                               │  back-off, doubling
//!    │ enough answers                        a trial failed ┌───────────────────────┐│  with each time
//!    │                                                      ▼                       │▼
//!   Returning ◄──────────────── answered, as fast as others ──────────────────────── Trial: one call
//! ```
//!
//! - An endpoint is ejected **by latency** when several calls in a row were far beyond the p99 of its
//!   peers, or its median is far beyond theirs. Its peers' numbers are medians over the peers, not those
//!   of a merged histogram: that would hold the slow one's own calls, and half of nothing is a peer's.
//! - At most a share of all is ejected. When more than half are out, or would be if they could, the
//!   reason is doubted: in this **panic** calls may go to all.
//! - Whether an endpoint is **connected** is no judgement, and is not doubted: calls go to endpoints that
//!   are as long as there are any, and shares are shares of those.
//! - Where heartbeats are sent, an endpoint that is out is tried by a call only after it has given a sign
//!   of life: a call that nobody answers would cost its caller all its patience, a heartbeat costs nobody
//!   anything.
//! - Pure: time and randomness are arguments.

mod phi;
mod review;

pub use phi::PhiAccrual;

use crate::config::believe;
use crate::endpoint::Slot;
use catena_engine::client::Reach;
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};

/// When endpoints are ejected, and how they come back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HealthConfig {
    /// False: nobody is ever ejected, whatever the rest says. Default true.
    pub ejects: bool,
    /// Failures in a row that eject. Default 5, as Finagle's and Envoy's.
    pub failures_in_row: u32,
    /// Ejects when the share of failures is by so much above the median of the peers' shares … Default
    /// 0.2.
    pub failure_share_above_peers: f64,
    /// … among at least so many calls since the last look. Default 50.
    pub failure_share_calls_min: u32,
    /// How often shares of failures are looked at. Default 1 s.
    pub review_interval: Duration,
    /// Calls in a row, of which each began after the one before had ended, each slower than
    /// [`HealthConfig::slow_factor`] × the peers' p99, or given up (a hedge was faster) later than the
    /// peers' p95, that eject. Default 5. With healthy peers one call in 100 is slower than even 1 × p99.
    pub slow_in_row: u32,
    /// How much slower than its peers is too slow: against their p99 for single calls, against their
    /// median for the median. Default 3: a server of half the speed is given less, not ejected.
    pub slow_factor: f64,
    /// Calls in a window from which on its digest is believed. Default 30.
    pub evidence_min: u64,
    /// The most that are ejected at a time, as a share of all; one of two or more always may be. Default
    /// 0.5.
    pub ejected_share_max: f64,
    /// The first pause before a trial; doubles with each time. Default 1 s.
    pub pause_min: Duration,
    /// The longest pause. Default 30 s.
    pub pause_max: Duration,
    /// Answers after which a newcomer or returner counts in full. Default 100.
    pub slow_start_answers: u32,
    /// The share of its part that a newcomer gets at once. Default 0.1.
    pub slow_start_share_min: f64,
    /// Silence that ejects, see [`PhiAccrual::phi`]. Default 8.
    pub phi_max: f64,
    /// How often an endpoint is expected to give a sign of life, an answer or a heartbeat's; one that
    /// gives none for three times as long is out. `None`: silence means nothing. Default `None`: whoever
    /// sends heartbeats says how often, see [`Balancer::wanted_heartbeats`].
    ///
    /// [`Balancer::wanted_heartbeats`]: crate::balancer::Balancer::wanted_heartbeats
    pub heartbeat_interval: Option<Duration>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {
            ejects: true,
            failures_in_row: 5,
            failure_share_above_peers: 0.2,
            failure_share_calls_min: 50,
            review_interval: Duration::from_secs(1),
            slow_in_row: 5,
            slow_factor: 3.0,
            evidence_min: 30,
            ejected_share_max: 0.5,
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(30),
            slow_start_answers: 100,
            slow_start_share_min: 0.1,
            phi_max: 8.0,
            heartbeat_interval: None,
        }
    }
}

/// A trial that nobody has made for so long is made by any call.
const TRIAL_OVERDUE: Duration = Duration::from_secs(1);

/// Why an endpoint is out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// So many calls in a row failed.
    FailuresInRow,
    /// It fails more often than its peers.
    FailureShare,
    /// It is far slower than its peers.
    Slow,
    /// It gives no sign of life.
    Silent,
    /// The trial call failed, or was as slow as before.
    TrialFailed,
}

/// Where an endpoint stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Standing {
    /// In full use.
    Live,
    /// New, or back: it gets less than its part until so many answers have come.
    Returning {
        /// Answers so far.
        answers: u32,
    },
    /// Not called until then.
    Ejected {
        /// When it may be tried.
        until: Instant,
        /// Why it is out.
        cause: Cause,
    },
    /// One call is under way to see how it is.
    Trial,
    /// There is no connection to it, as far as anybody told.
    Unconnected,
}

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is called no more.
    Ejected(Slot, Cause),
    /// The trial went well.
    Returned(Slot),
}

impl Change {
    /// Whose health it is.
    pub fn slot(&self) -> Slot {
        match *self {
            Change::Ejected(slot, _) | Change::Returned(slot) => slot,
        }
    }
}

/// How a call went, as far as health is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// It failed, or took longer than its caller's patience.
    pub failed: bool,
    /// How long it took, or has taken so far when its caller lost interest.
    pub latency: Duration,
    /// Nothing is known but that it took at least that long.
    pub abandoned: bool,
    /// It was the trial.
    pub trial: bool,
}

/// The health of all endpoints of one balancer.
#[derive(Debug)]
pub struct Health {
    config: HealthConfig,
    members: Vec<Option<Member>>,
    /// Slots that calls may go to, ascending.
    eligible: Vec<Slot>,
    is_stale: bool,
    is_panicking: bool,
    /// The earliest end of a pause; `None`: nobody is out.
    trial_at: Option<Instant>,
    peers: Peers,
    reviewed_at: Instant,
    scratch: review::Scratch,
}

/// What the end of a call touches comes first, in one cache line: up to where the heartbeats note that one
/// was heard.
#[derive(Debug)]
#[repr(C, align(64))]
struct Member {
    standing: Standing,
    failures_in_row: u16,
    slow_in_row: u16,
    /// Since the last review.
    calls: u32,
    failures: u32,
    /// It would be out if not too many were; until it does well again.
    is_suspect: bool,
    /// While it is out: nothing speaks against a trial. Where heartbeats are sent, one must have been
    /// answered.
    shows_life: bool,
    /// A fact where all else here is judgement: `Connected` where nobody tells.
    reach: Reach,
    /// When the last one of [`Member::slow_in_row`] had ended.
    slow_at: Instant,
    heartbeats: Option<PhiAccrual>,
    returned_at: Instant,
    /// Times it was ejected without a good while in between.
    times: u32,
}

/// What is usual among the endpoints of which enough is known.
#[derive(Clone, Copy, Debug, Default)]
struct Peers {
    p50: Duration,
    p95: Duration,
    p99: Duration,
    /// A call that takes longer is slow: their p99 × [`HealthConfig::slow_factor`].
    slow: Duration,
    /// How many these are; 0: nothing is known.
    count: usize,
}

/// Memory of one endpoint here: its record, its places among those that calls may go to and in a review.
#[cfg(test)]
pub(crate) const MEMBER_BYTES: usize =
    size_of::<Option<Member>>() + size_of::<Slot>() + review::SCRATCH_BYTES;

impl Health {
    /// The health of nobody yet.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: HealthConfig, now: Instant) -> Self {
        believe("a health record", config.validate());
        Health {
            config,
            members: Vec::new(),
            eligible: Vec::new(),
            is_stale: false,
            is_panicking: false,
            trial_at: None,
            peers: Peers::default(),
            reviewed_at: now,
            scratch: review::Scratch::default(),
        }
    }

    /// An endpoint has come. Those that are there from the start have nobody to come slowly after.
    pub fn joined(&mut self, slot: Slot, is_first: bool, now: Instant) {
        let index = slot as usize;
        if self.members.len() <= index {
            self.members.resize_with(index + 1, || None);
        }
        let standing = if is_first { Standing::Live } else { Standing::Returning { answers: 0 } };
        let heartbeats =
            self.config.heartbeat_interval.map(|interval| PhiAccrual::new(interval, now));
        self.members[index] = Some(Member {
            standing,
            is_suspect: false,
            times: 0,
            returned_at: now,
            failures_in_row: 0,
            slow_in_row: 0,
            slow_at: now,
            calls: 0,
            failures: 0,
            heartbeats,
            shows_life: true,
            reach: Reach::Connected,
        });
        self.is_stale = true;
    }

    /// An endpoint goes: it is not called any more.
    pub fn left(&mut self, slot: Slot) {
        let Some(_) = self.members[slot as usize].take() else { return };
        self.is_stale = true;
        self.note_pauses();
    }

    /// Where it stands; `None` if it has left.
    pub fn standing(&self, slot: Slot) -> Option<Standing> {
        let member = self.members.get(slot as usize)?.as_ref()?;
        Some(if member.is_connected() { member.standing } else { Standing::Unconnected })
    }

    /// True if it is among those that calls may go to some day, and connected as far as anybody told.
    pub fn is_connected(&self, slot: Slot) -> bool {
        self.members.get(slot as usize).and_then(Option::as_ref).is_some_and(Member::is_connected)
    }

    /// The peers' median and p99 of calls, as of the last review; `None`: too little is known.
    pub fn peers(&self) -> Option<(Duration, Duration)> {
        self.knows_peers().then_some((self.peers.p50, self.peers.p99))
    }

    /// True while calls go to all because most are out.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking
    }

    /// The slots that calls may go to, ascending; none only if there are no endpoints.
    #[inline]
    pub fn eligible(&mut self) -> &[Slot] {
        if self.is_stale {
            self.refresh();
        }
        &self.eligible
    }

    /// Adds those to `slots`, which are ascending then, that calls may go to when all that are eligible were
    /// tried in vain: whoever may yet be connected.
    pub fn second_best(&self, slots: &mut Vec<Slot>) {
        let may_be = |member: &Member| member.reach == Reach::NotYet && !member.is_out();
        let members = self.members.iter().enumerate();
        let found = members.filter(|(_, member)| member.as_ref().is_some_and(may_be));
        slots.extend(found.map(|(slot, _)| slot as Slot));
    }

    /// The share of its part that an endpoint gets, up to 1.
    #[inline]
    pub fn due_share(&self, slot: Slot) -> f64 {
        match self.members[slot as usize].as_ref().map(|member| member.standing) {
            Some(Standing::Returning { answers }) => {
                let share = f64::from(answers) / f64::from(self.config.slow_start_answers);
                share.clamp(self.config.slow_start_share_min, 1.0)
            }
            _ => 1.0,
        }
    }

    /// An ejected endpoint whose pause is over, for the one call that tries it, which is a first attempt.
    #[inline]
    pub fn begin_trial(&mut self, now: Instant) -> Option<Slot> {
        self.begin_trial_at(now, &[])
    }

    /// As [`Health::begin_trial`], for a call that has been somewhere and must not go to `avoid`. It has
    /// failed once, so first attempts are preferred: it tries only whom none has tried in a second.
    #[inline]
    pub fn begin_overdue_trial(&mut self, avoid: &[Slot], now: Instant) -> Option<Slot> {
        let overdue = now.as_nanos().saturating_sub(TRIAL_OVERDUE.as_nanos() as u64);
        self.begin_trial_at(Instant::from_nanos(overdue), avoid)
    }

    /// When the next trial of another than `avoid` is due; `None`: of nobody, as things stand.
    #[cfg(feature = "tower")]
    pub fn trial_at(&self, avoid: &[Slot]) -> Option<Instant> {
        self.pauses(avoid).map(|(ends, _)| ends).min()
    }

    /// How it stands with the connection to an endpoint; true if that is news. Whoever is not told of is
    /// taken to be connected. Calls go to connected endpoints as long as there are any, wherever they
    /// stand: silence and refusals may be doubted when they are many, a missing connection may not.
    pub fn reached(&mut self, slot: Slot, reach: Reach, now: Instant) -> bool {
        let Some(Some(member)) = self.members.get_mut(slot as usize) else { return false };
        let before = std::mem::replace(&mut member.reach, reach);
        if before == reach {
            return false;
        }
        if reach == Reach::Connected {
            // It could not speak before.
            if let Some(heartbeats) = &mut member.heartbeats {
                heartbeats.resume(now);
            }
            // It was gone, and comes back as a newcomer does.
            if before == Reach::Unreachable && member.standing == Standing::Live {
                member.standing = Standing::Returning { answers: 0 };
            }
        }
        self.is_stale = true;
        self.note_pauses();
        true
    }

    /// Nobody has listened until now: the silence before means nothing.
    pub fn listens_again(&mut self, now: Instant) {
        let heartbeats = self.members.iter_mut().flatten().filter_map(|it| it.heartbeats.as_mut());
        heartbeats.for_each(|heartbeats| heartbeats.resume(now));
    }

    /// An endpoint gave a sign of life.
    #[inline]
    pub fn heard(&mut self, slot: Slot, now: Instant) {
        let Some(Some(member)) = self.members.get_mut(slot as usize) else { return };
        let is_out = member.is_out();
        let Some(heartbeats) = &mut member.heartbeats else { return };
        if !is_out {
            heartbeats.heard(now);
        } else if !std::mem::replace(&mut member.shows_life, true) {
            self.note_pauses();
        }
    }

    /// How often an endpoint is to give a sign of life; `None`: nobody asks for any.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.config.heartbeat_interval
    }

    /// A call has ended.
    #[inline]
    pub fn ended(
        &mut self,
        slot: Slot,
        observed: &Observed,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Change> {
        let is_slow = self.is_slow(observed.latency);
        let needed = self.config.slow_start_answers;
        let member = self.members.get_mut(slot as usize)?.as_mut()?;
        if observed.trial {
            return self.end_trial(slot, observed, is_slow, now, rng);
        }
        // In a panic those that are out are called too; their way back is a trial all the same.
        if member.is_out() {
            return None;
        }
        if observed.abandoned && !is_slow {
            // Of a hedge that lost it is only known that it took as long as this. Later than most of the
            // peers' calls end, several times in a row and without any answer in between, is too slow.
            let is_late = self.peers.count >= 2 && observed.latency > self.peers.p95;
            if is_late {
                member.note_slow(observed, now);
            }
            let is_too_slow = u32::from(member.slow_in_row) >= self.config.slow_in_row;
            return is_too_slow.then(|| self.eject(slot, Cause::Slow, now, rng))?;
        }
        member.calls += 1;
        if observed.failed {
            member.failures += 1;
            member.failures_in_row = member.failures_in_row.saturating_add(1);
        } else {
            member.failures_in_row = 0;
        }
        match is_slow {
            true => member.note_slow(observed, now),
            false => member.slow_in_row = 0,
        }
        if let Standing::Returning { answers } = &mut member.standing
            && !observed.failed
            && !is_slow
        {
            *answers += 1;
            if *answers >= needed {
                member.standing = Standing::Live;
            }
        }
        if !observed.failed && !is_slow && std::mem::take(&mut member.is_suspect) {
            self.is_stale = true;
        }
        if u32::from(member.failures_in_row) >= self.config.failures_in_row {
            return self.eject(slot, Cause::FailuresInRow, now, rng);
        }
        if u32::from(member.slow_in_row) >= self.config.slow_in_row {
            return self.eject(slot, Cause::Slow, now, rng);
        }
        None
    }
}

impl Health {
    fn member(&mut self, slot: Slot) -> &mut Member {
        self.members[slot as usize].as_mut().expect("a slot of a member")
    }

    /// Where it stands by what was judged of it, connected or not.
    fn judged(&self, slot: Slot) -> Option<Standing> {
        Some(self.members.get(slot as usize)?.as_ref()?.standing)
    }

    #[inline]
    fn begin_trial_at(&mut self, now: Instant, avoid: &[Slot]) -> Option<Slot> {
        if self.trial_at.is_none_or(|at| now < at) {
            return None;
        }
        let (_, slot) = self.pauses(avoid).filter(|(ends, _)| *ends <= now).min()?;
        self.member(slot).standing = Standing::Trial;
        self.note_pauses();
        Some(slot)
    }

    /// When the pauses end of those that may then be tried, other than `avoid`.
    fn pauses(&self, avoid: &[Slot]) -> impl Iterator<Item = (Instant, Slot)> {
        let slots = self.members.iter().enumerate();
        let ends = slots.filter_map(|(slot, member)| Some((member.as_ref()?.trial_at()?, slot)));
        ends.map(|(ends, slot)| (ends, slot as Slot)).filter(|(_, slot)| !avoid.contains(slot))
    }

    fn is_in_use(&self, slot: Slot) -> bool {
        matches!(self.judged(slot), Some(Standing::Live | Standing::Returning { .. }))
    }

    fn knows_peers(&self) -> bool {
        self.peers.count >= 2
    }

    #[inline]
    fn is_slow(&self, latency: Duration) -> bool {
        self.knows_peers() && latency > self.peers.slow
    }

    fn end_trial(
        &mut self,
        slot: Slot,
        observed: &Observed,
        is_slow: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Change> {
        if self.judged(slot) != Some(Standing::Trial) {
            return None;
        }
        if observed.abandoned && observed.latency <= self.peers.p95 {
            // Given up before it could show anything: another one soon, and no longer pause for this.
            let until = now + rng.between(self.config.pause_min / 2, self.config.pause_min);
            self.member(slot).standing = Standing::Ejected { until, cause: Cause::TrialFailed };
            self.note_pauses();
            return None;
        }
        if observed.failed || observed.abandoned || is_slow {
            return self.eject(slot, Cause::TrialFailed, now, rng);
        }
        let interval = self.config.heartbeat_interval;
        let member = self.member(slot);
        member.standing = Standing::Returning { answers: 1 };
        member.returned_at = now;
        // The silence before says nothing of its rhythm.
        member.heartbeats = interval.map(|interval| PhiAccrual::new(interval, now));
        (member.failures_in_row, member.slow_in_row) = (0, 0);
        (member.calls, member.failures) = (0, 0);
        self.is_stale = true;
        Some(Change::Returned(slot))
    }

    /// Ejects, if not too many are out already.
    fn eject(&mut self, slot: Slot, cause: Cause, now: Instant, rng: &mut Rng) -> Option<Change> {
        let config = self.config;
        if !config.ejects {
            return None;
        }
        let connected = self.members.iter().flatten().filter(|member| member.is_connected());
        let count = connected.clone().count();
        let out = connected.filter(|member| member.is_out()).count();
        let room = ((count as f64 * config.ejected_share_max) as usize).max(1);
        let is_trial = self.judged(slot) == Some(Standing::Trial);
        let is_full = !is_trial && (out >= room || count < 2);
        let member = self.member(slot);
        (member.failures_in_row, member.slow_in_row) = (0, 0);
        member.is_suspect = is_full;
        if is_full {
            self.is_stale = true;
            return None;
        }
        let member = self.member(slot);
        // Well for longer than the longest pause: what was is forgotten.
        if !is_trial && now.since(member.returned_at) > config.pause_max {
            member.times = 0;
        }
        let doubled = config.pause_min * 2u32.saturating_pow(member.times.min(16));
        let pause = doubled.min(config.pause_max);
        let until = now + rng.between(pause / 2, pause);
        member.times += 1;
        member.standing = Standing::Ejected { until, cause };
        member.shows_life = member.heartbeats.is_none();
        self.is_stale = true;
        self.note_pauses();
        Some(Change::Ejected(slot, cause))
    }

    fn note_pauses(&mut self) {
        self.trial_at = self.members.iter().flatten().filter_map(Member::trial_at).min();
    }

    fn refresh(&mut self) {
        self.is_stale = false;
        // Who is not connected is no candidate while somebody is, and says nothing of the others.
        let best = self.members.iter().flatten().map(|member| rank(member.reach)).max();
        let is_there = |member: &&Member| Some(rank(member.reach)) == best;
        let there = self.members.iter().flatten().filter(is_there);
        let count = there.clone().count();
        let ill = there.filter(|member| member.is_out() || member.is_suspect).count();
        // More than half look ill: then it is rather we who are, or all of them.
        self.is_panicking = ill * 2 > count;
        let panics = self.is_panicking;
        let eligible = |member: &Member| is_there(&member) && (panics || !member.is_out());
        let members = self.members.iter().enumerate();
        let slots = members.filter(|(_, member)| member.as_ref().is_some_and(eligible));
        self.eligible.clear();
        self.eligible.extend(slots.map(|(slot, _)| slot as Slot));
    }
}

/// More is better.
fn rank(reach: Reach) -> u8 {
    match reach {
        Reach::Unreachable => 0,
        Reach::NotYet => 1,
        Reach::Connected => 2,
    }
}

impl Member {
    /// Calls that were under way together are slow together, by one pause: they count as one.
    fn note_slow(&mut self, observed: &Observed, now: Instant) {
        if now.since(self.slow_at) >= observed.latency {
            self.slow_in_row = self.slow_in_row.saturating_add(1);
            self.slow_at = now;
        }
    }

    fn is_connected(&self) -> bool {
        self.reach == Reach::Connected
    }

    fn is_out(&self) -> bool {
        matches!(self.standing, Standing::Ejected { .. } | Standing::Trial)
    }

    /// When a call may try it.
    fn trial_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Ejected { until, .. } if self.shows_life && self.is_connected() => {
                Some(until)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
