//! What happens on the way: segments arrive or stall, acknowledgements return, ends break.

use super::event_log::{EventKind, Place};
use super::host::{HostId, Notice, TO_THE_END};
use super::network::Network;
use super::stage::{Event, Stage};
use super::stream::{Broken, Connection, ConnectionId, Flying, Kernel, Segment, Side, Wire};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use rustix::io::Errno;

impl Network {
    /// Puts on the wire what may leave side `from`, and plans the next arrival.
    pub(super) fn transmit(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        self.put_on_wire(stage, id, from, None);
    }

    /// As [`Network::transmit`], `first` before everything else.
    pub(super) fn put_on_wire(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        from: Side,
        first: Option<Segment>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (now, [here, there]) = (stage.now(), connection.hosts(from));
        let (links, config) = (&self.links, &self.config);
        let latency = |rng: &mut Rng| links.latency(here, there, now, config, rng);
        let rules = Wire {
            bandwidth: config.bandwidth,
            segment_bytes_max: config.segment_bytes_max,
            fragmented: connection.fragmented,
        };
        let pipe = &mut connection.pipes[from.index()];
        if let Some(segment) = first {
            pipe.put_on_wire(segment, &rules, &mut self.rng, now, &latency);
        }
        pipe.transmit(&rules, &mut self.rng, now, &latency);
        plan_delivery(stage, connection, id, from);
    }

    /// The first segment on the wire from side `from` arrives.
    pub fn on_deliver(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.pipes[from.index()].delivery_planned = false;
        let open = self.links_allow(stage, id, from);
        let connection = self.connection(id);
        let sender = connection.ends[from.index()].kernel;
        let pipe = &mut connection.pipes[from.index()];
        let due = pipe.flight.front().is_some_and(|flying| flying.arrives_at <= stage.now());
        if due && !open && sender == Kernel::Gone {
            // What is lost on its way stays lost: nobody is left to send it again.
            pipe.drop_flight();
        } else if due && !open && pipe.stalled_at.is_none() {
            pipe.stalled_at = Some(stage.now());
            self.stall(stage, id, from);
        } else if due && open {
            let Flying { segment, .. } = pipe.flight.pop_front().expect("one is due");
            match segment {
                Segment::Opened => self.on_opened(stage, id),
                Segment::Data(bytes) => self.on_data(stage, id, from, &bytes),
                Segment::End => self.on_end(stage, id, from),
            }
            self.forget_if_over(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            plan_delivery(stage, connection, id, from);
        }
    }

    fn on_data(&mut self, stage: &mut Stage, id: ConnectionId, from: Side, bytes: &[u8]) {
        let connection = self.connection(id);
        let end = &mut connection.ends[from.other().index()];
        let facts = [("connection", id.0), ("bytes", bytes.len() as u64)];
        match end.kernel {
            Kernel::Open => {
                let pipe = &mut connection.pipes[from.index()];
                pipe.arrive(bytes);
                let until = pipe.arrived_bytes();
                let (owner, paused, host) = (end.owner, end.paused, end.host);
                stage.record(Place::Host(host), EventKind::Segment, &facts);
                if let Some((at, socket)) = owner.filter(|_| !paused) {
                    stage.notify(at, Notice::Readable { socket, until });
                }
                self.acknowledge(stage, id, from);
            }
            // Nobody is there to read it: what came after the close ends the connection for both.
            Kernel::Orphaned | Kernel::Opening | Kernel::Gone => {
                connection.forget(from.other());
                self.send_reset(stage, id, from.other());
            }
        }
    }

    fn on_end(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        let connection = self.connection(id);
        // An end that has said all it had to say, and was heard, is forgotten by its kernel, once its
        // process has let go of it.
        if connection.ends[from.index()].kernel == Kernel::Orphaned {
            connection.ends[from.index()].kernel = Kernel::Gone;
        }
        connection.pipes[from.index()].end_arrived = true;
        let end = &connection.ends[from.other().index()];
        let (owner, paused, host) = (end.owner, end.paused, end.host);
        let facts = [("connection", id.0)];
        stage.record(Place::Host(host), EventKind::EndOfStream, &facts);
        if let Some((at, socket)) = owner.filter(|_| !paused) {
            stage.notify(at, Notice::Readable { socket, until: TO_THE_END });
        }
    }

    /// Lets the sender `from` know what arrived and how much room there is.
    pub(super) fn acknowledge(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let [sender, receiver] = connection.hosts(from);
        let pipe = &mut connection.pipes[from.index()];
        if pipe.acknowledgement.is_some() {
            return;
        }
        pipe.acknowledgement = Some(pipe.to_acknowledge());
        let latency =
            self.links.latency(receiver, sender, stage.now(), &self.config, &mut self.rng);
        stage.after(latency, Event::Ack(id, from));
    }

    /// An acknowledgement comes back to the sender `from`.
    pub fn on_ack(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        if !self.connections.contains_key(&id) {
            return;
        }
        let open = self.links_allow(stage, id, from.other());
        let connection = self.connection(id);
        let pipe = &mut connection.pipes[from.index()];
        if !open {
            if pipe.acknowledgement_stalled_at.is_none() {
                pipe.acknowledgement_stalled_at = Some(stage.now());
                self.stall(stage, id, from);
            }
            return;
        }
        let Some(news) = pipe.acknowledgement.take() else { return };
        pipe.acknowledge(news);
        let more = pipe.to_acknowledge() != news;
        let end = &mut connection.ends[from.index()];
        let all_taken = end.sending.as_mut().is_some_and(|sending| pipe.fill(sending));
        if all_taken && let Some(sending) = end.sending.take() {
            let (at, socket) = end.owner.expect("a send in flight belongs to a socket");
            stage.notify(at, Notice::Sent { socket, output: sending.output, result: Ok(()) });
        }
        self.transmit(stage, id, from);
        if more {
            self.acknowledge(stage, id, from);
        }
    }

    /// What side `from` sent, or the answer to it, does not get through: it waits, for so long.
    fn stall(&mut self, stage: &mut Stage, id: ConnectionId, from: Side) {
        let place = Place::Host(self.connection(id).ends[from.index()].host);
        stage.record(place, EventKind::PathStalled, &[("connection", id.0)]);
        stage.after(self.config.give_up, Event::GiveUp(id, from, stage.now()));
    }

    /// Side `from` has waited since an instant. If it still does, its kernel breaks the connection.
    pub fn on_give_up(&mut self, stage: &mut Stage, id: ConnectionId, from: Side, since: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let pipe = &connection.pipes[from.index()];
        let waits = [pipe.stalled_at, pipe.acknowledgement_stalled_at].contains(&Some(since));
        if waits && connection.ends[from.index()].kernel != Kernel::Gone {
            self.break_end(stage, id, from, Errno::TIMEDOUT);
        }
    }

    /// Paths may have changed: what waited on one that works again is sent once more, after the
    /// while that a sender needs to find out.
    pub fn resume_paths(&mut self, stage: &mut Stage) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for (id, from) in ids.into_iter().flat_map(|id| Side::BOTH.map(|side| (id, side))) {
            let there = self.links_allow(stage, id, from);
            let back = self.links_allow(stage, id, from.other());
            let now = stage.now();
            let (rng, retransmit_max) = (&mut self.rng, self.config.retransmit_max);
            // A sender tries again at growing intervals: the longer it waited, the later it tries.
            let mut retry =
                |since| rng.between(Duration::ZERO, retransmit_max.min(now.since(since)));
            let connection = self.connections.get_mut(&id).expect("its id was listed just now");
            let place = Place::Host(connection.ends[from.index()].host);
            let pipe = &mut connection.pipes[from.index()];
            if there && let Some(since) = pipe.stalled_at.take() {
                pipe.delay_flight(now + retry(since));
                stage.record(place, EventKind::PathResumed, &[("connection", id.0)]);
            }
            if back && let Some(since) = pipe.acknowledgement_stalled_at.take() {
                stage.after(retry(since), Event::Ack(id, from));
            }
            plan_delivery(stage, connection, id, from);
        }
    }

    /// Side `by` answers the other with a reset.
    pub(super) fn send_reset(&mut self, stage: &mut Stage, id: ConnectionId, by: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let [here, there] = connection.hosts(by);
        stage.record(Place::Host(here), EventKind::ResetSent, &[("connection", id.0)]);
        let latency = self.links.latency(here, there, stage.now(), &self.config, &mut self.rng);
        stage.after(latency, Event::Reset(id, by.other()));
    }

    /// A reset reaches a side, unless the path loses it: nobody sends it again.
    pub fn on_reset(&mut self, stage: &mut Stage, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get(&id) else { return };
        let end = &connection.ends[side.index()];
        let (host, kernel) = (end.host, end.kernel);
        if !self.links_allow(stage, id, side.other()) {
            stage.record(Place::Host(host), EventKind::ResetLost, &[("connection", id.0)]);
            if kernel == Kernel::Opening {
                self.retry_connect(stage, id);
            }
            return;
        }
        let refused = kernel == Kernel::Opening;
        let errno = if refused { Errno::CONNREFUSED } else { Errno::CONNRESET };
        self.break_end(stage, id, side, errno);
    }

    /// The kernel of a side gives the connection up, and says so to the socket.
    pub(super) fn break_end(
        &mut self,
        stage: &mut Stage,
        id: ConnectionId,
        side: Side,
        errno: Errno,
    ) {
        let connection = self.connection(id);
        let before = connection.forget(side);
        if before == Kernel::Gone {
            return;
        }
        connection.pipes[side.index()].drop_flight();
        let end = &connection.ends[side.index()];
        let facts = [("connection", id.0), ("errno", errno.raw_os_error() as u64)];
        stage.record(Place::Host(end.host), EventKind::ConnectionBroken, &facts);
        let owner = end.owner;
        match before {
            Kernel::Opening => {
                if let Some((at, socket)) = owner {
                    stage.notify(at, Notice::Connected { socket, result: Err(errno) });
                }
            }
            Kernel::Open => {
                // What arrived before may still be read, or not: systems differ.
                let (forget_unread, heard_while_paused) =
                    (self.rng.chance(0.5), self.rng.chance(0.5));
                let connection = self.connection(id);
                let end = &mut connection.ends[side.index()];
                end.broken = Some(Broken { errno, heard_while_paused });
                if forget_unread {
                    connection.pipes[side.other().index()].arrived.clear();
                }
                let sending = end.sending.take();
                if let Some((at, socket)) = owner {
                    if let Some(sending) = sending {
                        let output = sending.output;
                        stage.notify(at, Notice::Sent { socket, output, result: Err(errno) });
                    }
                    stage.notify(at, Notice::Readable { socket, until: TO_THE_END });
                }
            }
            Kernel::Orphaned | Kernel::Gone => {}
        }
        self.forget_if_over(id);
    }

    /// The process behind an end lets go of it; its kernel ends the connection in order, or with a
    /// reset where something was left unread or `reset` says so.
    pub(super) fn abandon(&mut self, stage: &mut Stage, id: ConnectionId, side: Side, reset: bool) {
        let connection = self.connection(id);
        let unread = !connection.pipes[side.other().index()].arrived.is_empty();
        let end = &mut connection.ends[side.index()];
        match end.kernel {
            Kernel::Opening => drop(connection.forget(side)),
            Kernel::Open if reset || unread => {
                connection.forget(side);
                connection.pipes[side.index()].drop_flight();
                self.send_reset(stage, id, side);
            }
            // It has ended its sends before, and was heard.
            Kernel::Open if connection.pipes[side.index()].end_arrived => {
                connection.forget(side);
            }
            Kernel::Open => {
                end.kernel = Kernel::Orphaned;
                connection.pipes[side.index()].end_stream();
                self.transmit(stage, id, side);
            }
            Kernel::Orphaned | Kernel::Gone => {}
        }
        self.forget_if_over(id);
    }

    /// Drops a connection that neither kernel nor process knows any more.
    pub(super) fn forget_if_over(&mut self, id: ConnectionId) {
        let over = self.connections.get(&id).is_some_and(|connection| {
            connection.ends.iter().all(|end| end.kernel == Kernel::Gone && end.owner.is_none())
        });
        if over && !self.waits_for_accept(id) {
            self.connections.remove(&id);
        }
    }

    /// True if what side `from` sends now gets through to the other's kernel.
    pub(super) fn links_allow(&self, stage: &Stage, id: ConnectionId, from: Side) -> bool {
        let connection = &self.connections[&id];
        let [here, there] = connection.hosts(from);
        let cut = self.links.is_cut(here, there, stage.now());
        !cut && !connection.silenced && stage.hosts[there.index()].powered
    }
}

impl Connection {
    /// The kernel of a side knows nothing of the connection any more. Says what it knew before.
    pub(super) fn forget(&mut self, side: Side) -> Kernel {
        let before = std::mem::replace(&mut self.ends[side.index()].kernel, Kernel::Gone);
        self.pipes[side.index()].stop_sending();
        if before == Kernel::Opening && side == Side::Client {
            // An attempt that the client has given up leaves nothing behind at the server.
            self.ends[Side::Server.index()].kernel = Kernel::Gone;
        }
        before
    }

    /// The hosts of a side and of its peer.
    pub(super) fn hosts(&self, side: Side) -> [HostId; 2] {
        [self.ends[side.index()].host, self.ends[side.other().index()].host]
    }
}

/// Puts the arrival of the first segment on the agenda, unless it is there or the path stalls.
fn plan_delivery(stage: &mut Stage, connection: &mut Connection, id: ConnectionId, from: Side) {
    let pipe = &mut connection.pipes[from.index()];
    if pipe.delivery_planned || pipe.stalled_at.is_some() {
        return;
    }
    if let Some(first) = pipe.flight.front() {
        pipe.delivery_planned = true;
        stage.at(first.arrives_at, Event::Deliver(id, from));
    }
}
