//! What happens in the world of the tests.

use super::log::Entry;
use crate::chain::{Chain, Life};
use crate::replica::message::Envelope;

pub enum Event {
    Tick(usize),
    Message { connection: u64, envelope: Envelope, beside: Beside },
    Piece { from: Life, link: u64, pieces: Vec<(u64, u64)> },
    Durable { node: usize, generation: u64, index: u64 },
    Learnt { node: usize, generation: u64 },
    Restart(usize),
    Proposed { node: usize, chain: Chain },
    Tell { node: usize, chain: Chain },
    Look(usize),
    Client,
    Fault,
    Heal(usize, usize),
    Reset(usize, usize),
}

/// What comes beside a message.
#[derive(Clone, Default)]
pub struct Beside {
    pub entries: Vec<Entry>,
    pub pieces: Vec<(u64, u64)>,
}
