//! Answers that wait for a commit, by partition: each goes out when its entry, or the one that it has seen,
//! is safe.

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

#[derive(Debug)]
struct Answer {
    index: u64,
    status: Status,
    payload: Bytes,
    responder: Responder,
}

impl Waiting {
    /// Answers when the entry `index` of a partition has committed.
    pub fn put_off(
        &mut self,
        (place, index): (usize, u64),
        reply: Reply<'_>,
        status: Status,
        payload: Bytes,
    ) -> Answered {
        let (answered, responder) = reply.later();
        if self.queues.len() <= place {
            self.queues.resize_with(place + 1, VecDeque::new);
        }
        let queue = &mut self.queues[place];
        if queue.is_empty() {
            self.active.push(place);
        }
        // Reads and repetitions may wait for less than the last one.
        let at = queue.partition_point(|answer| answer.index <= index);
        queue.insert(at, Answer { index, status, payload, responder });
        answered
    }

    /// Gives the answers that are due. `committed`: the last index of a partition that is.
    pub fn release(&mut self, committed: impl Fn(usize) -> u64) {
        let queues = &mut self.queues;
        self.active.retain(|place| {
            let (queue, committed) = (&mut queues[*place], committed(*place));
            while queue.front().is_some_and(|answer| answer.index <= committed)
                && let Some(Answer { status, payload, responder, .. }) = queue.pop_front()
            {
                responder.answer(status, Payload::Shared(payload));
            }
            !queue.is_empty()
        });
    }
}
