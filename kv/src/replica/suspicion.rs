//! Who of the other members does not answer, and what the others say of that (CHAIN §3, who accuses).

use super::ReplicaConfig;
use crate::chain::{Chain, Life, Role};
use catena_engine::time::{Duration, Instant};

/// Heartbeats without a grant in answer before who was asked is accused.
const UNANSWERED: u32 = 3;

/// So many lengths of a grant have to pass before a third one joins in an accusation between two that it
/// hears itself.
const JOINS_AFTER: u32 = 2;

/// See the module page.
#[derive(Debug, Default)]
pub struct Suspicion {
    watched: Vec<Watched>,
    accusations: Vec<Accusation>,
    ticked_at: Option<Instant>,
}

/// Another member.
#[derive(Clone, Copy, Debug)]
struct Watched {
    life: Life,
    /// Heartbeats since it has granted last.
    unanswered: u32,
    /// How long that is, in running time: what passes while this process stands still is not its fault.
    silent: Duration,
    /// It does not answer.
    is_accused: bool,
    /// It does not answer somebody else, who is heard here as well.
    is_joined: bool,
    /// It has been heard in this epoch.
    is_heard: bool,
    /// A newer incarnation of it has been heard.
    is_dead: bool,
}

/// What another member says.
#[derive(Clone, Copy, Debug)]
struct Accusation {
    by: Life,
    of: Life,
    since: Instant,
    until: Instant,
}

impl Suspicion {
    /// Watches the other members of a newer chain.
    pub fn adopt(&mut self, own: Life, chain: &Chain) {
        let before = std::mem::take(&mut self.watched);
        self.watched = chain
            .others(own)
            .map(|life| {
                let known = before.iter().find(|it| it.life == life).copied();
                let known = known.map(|it| Watched { is_joined: false, is_heard: false, ..it });
                known.unwrap_or_else(|| Watched::new(life))
            })
            .collect();
        // CHAIN §3: accusations name the epoch.
        self.accusations.clear();
    }

    /// Another heartbeat is sent.
    pub fn tick(&mut self, now: Instant, config: &ReplicaConfig) {
        let since = self.ticked_at.replace(now).map_or(Duration::ZERO, |last| now.since(last));
        let ran = since.min(config.heartbeat * 2);
        for it in &mut self.watched {
            it.silent += ran;
            let is_silent = it.unanswered >= UNANSWERED && it.silent >= config.lease.length;
            it.is_accused = is_silent || it.is_dead;
            it.unanswered += 1;
        }
        self.accusations.retain(|it| now < it.until);
    }

    /// A member has granted.
    pub fn granted(&mut self, life: Life) {
        if let Some(it) = self.watched.iter_mut().find(|it| it.life == life) {
            *it = Watched { is_joined: it.is_joined, is_heard: it.is_heard, ..Watched::new(life) };
        }
    }

    /// A member has said something in this epoch.
    pub fn heard(&mut self, life: Life) {
        if let Some(it) = self.watched.iter_mut().find(|it| it.life == life) {
            it.is_heard = true;
        }
    }

    /// True if this member has been heard in this epoch.
    pub fn has_heard(&self, life: Life) -> bool {
        self.watched.iter().any(|it| it.life == life && it.is_heard)
    }

    /// A member says whom it accuses: that counts for the length of a grant.
    pub fn accused_by(&mut self, now: Instant, by: Life, of: Vec<Life>, config: &ReplicaConfig) {
        let until = now + config.lease.length;
        self.accusations.retain(|it| it.by != by || of.contains(&it.of));
        for of in of {
            match self.accusations.iter_mut().find(|it| (it.by, it.of) == (by, of)) {
                Some(it) => it.until = until,
                None => self.accusations.push(Accusation { by, of, since: now, until }),
            }
        }
    }

    /// Joins in accusations between two that are heard here.
    pub fn join(&mut self, now: Instant, chain: &Chain, config: &ReplicaConfig) {
        let wait = config.lease.length * JOINS_AFTER;
        let mut joined: Vec<Life> = Vec::new();
        for Accusation { by, of, since, .. } in &self.accusations {
            let both_serve = [*by, *of].iter().all(|it| chain.role(*it) == Some(Role::Serving));
            let hears_both = !self.accuses(*by) && !self.accuses(*of);
            if both_serve && hears_both && now.since(*since) >= wait {
                let nearer_tail = chain.serving().rfind(|it| it == by || it == of);
                joined.extend(nearer_tail);
            }
        }
        for it in &mut self.watched {
            it.is_joined = joined.contains(&it.life);
        }
    }

    /// True if it does not answer here.
    fn accuses(&self, life: Life) -> bool {
        self.watched.iter().any(|it| it.life == life && it.is_accused)
    }

    /// Whom this one accuses, by itself or with others.
    pub fn accused(&self) -> impl Iterator<Item = Life> + '_ {
        self.watched.iter().filter(|it| it.is_accused || it.is_joined).map(|it| it.life)
    }

    /// A newer incarnation of it has been heard.
    pub fn is_dead(&mut self, life: Life) {
        if let Some(it) = self.watched.iter_mut().find(|it| it.life == life) {
            (it.is_dead, it.is_accused) = (true, true);
        }
    }

    /// True if it is known that it will never answer.
    pub fn knows_dead(&self, life: Life) -> bool {
        self.watched.iter().any(|it| it.life == life && it.is_dead)
    }

    /// True if another member accuses it, too.
    pub fn has_another_accuser(&self, life: Life) -> bool {
        self.accusations.iter().any(|it| it.of == life)
    }
}

impl Watched {
    fn new(life: Life) -> Self {
        let silent = Duration::ZERO;
        let (is_accused, is_joined, is_heard, is_dead) = (false, false, false, false);
        Watched { life, unanswered: 0, silent, is_accused, is_joined, is_heard, is_dead }
    }
}
