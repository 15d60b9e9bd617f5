//! Answers that wait for a commit, by partition: each goes out when its entry, or the one that it has seen,
//! is safe.

use crate::store::gate::{Gate, GateState};
use bytes::Bytes;
use catena_engine::handler::Responder;
use catena_engine::wire::framer::Payload;
use catena_engine::{Answered, Reply, Status};
use std::collections::VecDeque;

/// See the module page.
#[derive(Debug, Default)]
pub struct Waiting {
    /// By the place of a partition, each by index: what is ordered later waits for no earlier entry, but for
    /// those few that repeat a request in flight.
    queues: Vec<VecDeque<Answer>>,
    /// The places whose queue is not empty.
    active: Vec<usize>,
}

/// What is said of those whose entries may commit elsewhere.
const LOST: &[u8] =
    b"this node has left the chain of these keys, and does not know whether it was carried out";

#[derive(Debug)]
struct Answer {
    gate: Gate,
    status: Status,
    payload: Bytes,
    responder: Responder,
}

impl Waiting {
    /// Answers when a gate has opened.
    pub fn put_off(
        &mut self,
        gate: Gate,
        reply: Reply<'_>,
        status: Status,
        payload: Bytes,
    ) -> Answered {
        let (answered, responder) = reply.later();
        let place = gate.place();
        if self.queues.len() <= place {
            self.queues.resize_with(place + 1, VecDeque::new);
        }
        let queue = &mut self.queues[place];
        if queue.is_empty() {
            self.active.push(place);
        }
        // Reads and repetitions may wait for less than the last one.
        let at = queue.partition_point(|answer| answer.gate.index() <= gate.index());
        queue.insert(at, Answer { gate, status, payload, responder });
        answered
    }

    /// Gives the answers that are due, and says of those that will never be that they are lost.
    pub fn release(&mut self, state: impl Fn(&Gate) -> GateState) {
        let queues = &mut self.queues;
        self.active.retain(|place| {
            let queue = &mut queues[*place];
            let mut at = 0;
            while let Some(answer) = queue.get(at) {
                let state = state(&answer.gate);
                if state == GateState::Shut && answer.gate.is_read() {
                    // It may lack a lease, which those behind do not need.
                    at += 1;
                    continue;
                }
                if state == GateState::Shut {
                    break;
                }
                let Some(Answer { status, payload, responder, .. }) = queue.remove(at) else {
                    break;
                };
                match state {
                    GateState::Lost => responder.answer(Status::UPSTREAM_LOST, LOST.into()),
                    _ => responder.answer(status, Payload::Shared(payload)),
                }
            }
            !queue.is_empty()
        });
    }
}
