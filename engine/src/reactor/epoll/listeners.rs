//! Listening sockets, and what to do while accepting fails.

use crate::driver::ListenerId;
use crate::reactor::accept_errors::{RETRY_AFTER, concerns_one_connection};
use crate::time::{Instant, earliest};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::os::fd::OwnedFd;

pub(super) struct Listener {
    fd: OwnedFd,
    /// Stands in the work queue.
    pub queued: bool,
    /// Accepting fails, and the caller knows: one report an episode.
    failing: bool,
    /// While accepting pauses.
    retry_at: Option<Instant>,
}

/// What an accept brought.
pub(super) enum Accepted {
    Connection(OwnedFd),
    /// This one was lost on its way; others may wait behind it.
    Lost,
    /// The backlog is empty.
    None,
    Failed(Errno),
}

impl Listener {
    pub fn accept(&mut self) -> Accepted {
        const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
        match rustix::net::accept_with(&self.fd, FLAGS) {
            Ok(fd) => Accepted::Connection(fd),
            Err(Errno::AGAIN) => Accepted::None,
            Err(error) if concerns_one_connection(error) => Accepted::Lost,
            Err(error) => Accepted::Failed(error),
        }
    }

    pub fn is_paused(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Pauses accepting. True when this begins an episode of which the caller does not know yet.
    pub fn pause(&mut self, now: Instant) -> bool {
        self.wait(now);
        !std::mem::replace(&mut self.failing, true)
    }

    /// Pauses accepting for want of nothing but a free slot.
    pub fn wait(&mut self, now: Instant) {
        self.retry_at = Some(now + RETRY_AFTER);
    }

    /// Ends the episode: the next failure is news again.
    pub fn recovered(&mut self) {
        self.failing = false;
    }
}

/// All listeners of a shard. Few: they are looked through one by one.
#[derive(Default)]
pub(super) struct Listeners {
    /// By id; `None` when stopped. Ids are not given again.
    all: Vec<Option<Listener>>,
}

impl Listeners {
    /// The id that [`Listeners::insert`] will give next.
    pub fn next_id(&self) -> ListenerId {
        ListenerId(self.all.len() as u32)
    }

    pub fn insert(&mut self, fd: OwnedFd) {
        self.all.push(Some(Listener { fd, queued: false, failing: false, retry_at: None }));
    }

    pub fn remove(&mut self, id: ListenerId) {
        if let Some(listener) = self.all.get_mut(id.0 as usize) {
            *listener = None;
        }
    }

    pub fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.all.get_mut(id.0 as usize)?.as_mut()
    }

    /// When the next paused listener tries again; `None` while none is paused.
    pub fn retry_at(&self) -> Option<Instant> {
        self.all.iter().flatten().fold(None, |soonest, one| earliest(soonest, one.retry_at))
    }

    /// Ends one pause that was to last no longer than `until`; `None` when there is none left.
    pub fn end_pause(&mut self, until: Instant) -> Option<ListenerId> {
        let is_due = |one: &Listener| one.retry_at.is_some_and(|retry_at| retry_at <= until);
        let index = self.all.iter().position(|one| one.as_ref().is_some_and(is_due))?;
        self.all[index].as_mut()?.retry_at = None;
        Some(ListenerId(index as u32))
    }
}
