//! The application of a shard and its streams: what each step of a turn is for them.

use super::message::ShardMessage;
use super::streams::Arrival;
use crate::application::{Addresses, Application};
use crate::driver::{Chunk, Driver, ListenerId, Output, SocketId};
use crate::limits::TURN_TIME_MAX;
use crate::local::Local;
use crate::metrics::ShardMetrics;
use crate::stream::Streams;
use crate::time::{Duration, Instant};
use std::io;

/// See the module page.
#[derive(Debug)]
pub(super) struct Hosted {
    application: Box<dyn Application>,
    streams: Streams,
    /// Where streams arrive, and whether that port is this shard's own.
    listeners: Vec<(ListenerId, bool)>,
    /// When streams that still have answers to come are ended nevertheless.
    drains_until: Option<Instant>,
}

impl Hosted {
    pub(super) fn new(
        application: Box<dyn Application>,
        memory_max: usize,
        output_bytes_max: usize,
    ) -> Self {
        Hosted {
            application,
            streams: Streams::new(memory_max, output_bytes_max),
            listeners: Vec::new(),
            drains_until: None,
        }
    }

    pub(super) fn add_listener(&mut self, listener: ListenerId, is_own_port: bool) {
        self.listeners.push((listener, is_own_port));
    }

    pub(super) fn started(&mut self, addresses: Addresses) {
        self.application.started(addresses);
    }

    pub(super) fn begin_turn(&mut self) {
        self.streams.begin_turn();
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn has_work(&self) -> bool {
        self.streams.has_work()
    }

    #[inline]
    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.streams.has(socket)
    }

    /// True if `listener` is one of streams, and the stream is taken.
    pub(super) fn accept<D: Driver>(
        &mut self,
        driver: &D,
        listener: ListenerId,
        socket: SocketId,
        is_surplus: bool,
    ) -> bool {
        let found = self.listeners.iter().find(|(known, _)| *known == listener);
        let Some((_, is_own_port)) = found.copied() else { return false };
        let arrival = Arrival { socket, is_own_port, is_surplus };
        self.streams.accept(driver, arrival, &mut *self.application);
        true
    }

    #[inline]
    pub(super) fn receive<D: Driver>(&mut self, driver: &mut D, socket: SocketId, chunk: Chunk) {
        self.streams.receive(driver, socket, chunk, &mut *self.application);
    }

    pub(super) fn receive_ended(&mut self, socket: SocketId, result: &io::Result<()>) {
        self.streams.receive_ended(socket, result);
    }

    pub(super) fn sent(&mut self, socket: SocketId, output: Output, result: &io::Result<()>) {
        self.streams.sent(socket, output, result);
    }

    pub(super) fn timeout(&mut self, socket: SocketId) {
        self.streams.timeout(socket);
    }

    /// Gives the streams that are behind their parts, for so long and no longer.
    pub(super) fn read_those_behind<D: Driver>(&mut self, driver: &mut D) {
        let count = self.streams.behind();
        if count == 0 {
            return;
        }
        let began_at = driver.now();
        for _ in 0..count {
            self.streams.read_one_behind(driver, &mut *self.application);
            if driver.now().since(began_at) > TURN_TIME_MAX {
                return;
            }
        }
    }

    /// A message of another shard, or this one; anything else is not for an application.
    pub(super) fn message(&mut self, message: ShardMessage) {
        if let ShardMessage::Application { from, message } = message {
            self.application.message(from, message, &mut self.streams);
        }
    }

    pub(super) fn end_turn(&mut self) {
        self.application.turn_ended(&mut self.streams);
    }

    pub(super) fn flush<D: Driver>(
        &mut self,
        driver: &mut D,
        metrics: &ShardMetrics,
        local: &Local,
    ) {
        self.streams.flush(driver, &mut *self.application, metrics, local);
    }

    pub(super) fn drain<D: Driver>(&mut self, driver: &mut D, timeout: Duration, now: Instant) {
        // Who had been accepted by then is still one of these.
        for (listener, _) in &self.listeners {
            driver.stop_listening(*listener);
        }
        self.drains_until = Some(now + timeout);
        self.streams.drain();
    }

    /// True when no stream is left; ends them all when the time of a drain is over.
    pub(super) fn has_ended_streams(&mut self, now: Instant) -> bool {
        if self.drains_until.is_some_and(|until| until <= now) {
            self.drains_until = None;
            self.streams.end_all();
        }
        self.streams.is_empty()
    }

    /// When it has to be looked at even if nothing happens.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.drains_until
    }

    pub(super) fn is_finished(&mut self) -> bool {
        self.application.is_finished()
    }
}
