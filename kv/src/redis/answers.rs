//! The answers of one connection, in the order of its commands, while some of them wait.
//!
//! An answer waits for a commit that it depends on, or for another shard that carries its command out.
//! Those behind it wait with it, for a client of this protocol takes answers by their order alone.
//!
//! ```text
//! commands   SET a   GET b    GET a    DBSIZE     GET b
//! answers    gate    ready    gate     ticket     ready      ─► the first that is not due holds the rest
//! ```

use super::debts::{Gathered, Share};
use crate::store::gate::{Gate, GateState};
use std::collections::VecDeque;

/// Nobody will know what became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost;

/// Names an answer that another shard gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(pub u32);

/// Answers of one connection that may wait before nothing more is read from it: a pipeline of a few
/// thousand commands is never held up.
const WAITING_MAX: usize = 16 * 1_024;

/// Their bytes, at most, before nothing more is read: as much as may wait to be sent. Those that other shards
/// will give are taken for as long as the longest that came.
const BYTES_MAX: usize = 1 << 20;

/// Answers of other shards that are awaited at a time, at most: what hides the way there and back, and no
/// more, for nobody knows how long they will be.
const EXPECTED_MAX: usize = 256;

/// The same before the first of them has come.
const EXPECTED_AT_FIRST: usize = 16;

/// Memory that is kept while nothing waits.
const KEPT_BYTES: usize = 64 * 1_024;

/// See the module page.
#[derive(Debug, Default)]
pub struct Answers {
    waiting: VecDeque<Answer>,
    /// The text of those that are known, in order, from `told` on.
    text: Vec<u8>,
    told: usize,
    tickets: u32,
    /// How many are awaited from other shards.
    expected: usize,
    /// Bytes of those that have come from there, and of the longest of them lately.
    come_bytes: usize,
    come_bytes_max: usize,
}

#[derive(Debug)]
struct Answer {
    waits: Waits,
    /// How much of the text is its own.
    bytes: usize,
    /// That counts, if it is much.
    _share: Option<Share>,
}

#[derive(Debug)]
enum Waits {
    /// For nothing but those before it.
    Turn,
    Commit(Gate),
    Shard(Ticket),
    /// It has come, and waits for its turn.
    Come {
        text: Vec<u8>,
        _share: Option<Share>,
    },
}

impl Answers {
    /// True if no answer waits: the next one may go straight out.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True if nothing more should be read before some of them are out.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() >= WAITING_MAX || self.bytes() >= BYTES_MAX || self.expected >= self.window()
    }

    /// True if so many are out that more may be read.
    pub fn has_room(&self) -> bool {
        self.len() < WAITING_MAX / 2
            && self.bytes() < BYTES_MAX / 2
            && self.expected <= self.window() / 2
    }

    fn window(&self) -> usize {
        if self.come_bytes_max == 0 { EXPECTED_AT_FIRST } else { EXPECTED_MAX }
    }

    fn bytes(&self) -> usize {
        let to_come = self.expected.saturating_mul(self.come_bytes_max);
        (self.text.len() - self.told + self.come_bytes).saturating_add(to_come)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of those that are known.
    pub fn known_bytes(&self) -> usize {
        self.come_bytes + self.text.len() - self.told
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.come_bytes + self.waiting.capacity() * size_of::<Answer>()
    }

    /// Adds an answer that is known, and waits for a commit or just for those before it. It counts among
    /// `gathered`, if it is much.
    pub fn push(&mut self, text: &[u8], gate: Option<Gate>, gathered: &Gathered) {
        self.text.extend_from_slice(text);
        let share = gathered.share(text.len());
        let last = self.waiting.back_mut();
        // It goes out with the one before it, whatever that waits for.
        if let Some(Answer { waits: Waits::Turn | Waits::Commit(_), bytes, .. }) = last
            && gate.is_none()
            && share.is_none()
        {
            *bytes += text.len();
            return;
        }
        let waits = gate.map_or(Waits::Turn, Waits::Commit);
        self.waiting.push_back(Answer { waits, bytes: text.len(), _share: share });
    }

    /// Adds an answer that another shard gives; see [`Answers::come`].
    pub fn expect(&mut self) -> Ticket {
        self.tickets = self.tickets.wrapping_add(1);
        let ticket = Ticket(self.tickets);
        self.waiting.push_back(Answer { waits: Waits::Shard(ticket), bytes: 0, _share: None });
        self.expected += 1;
        ticket
    }

    /// An answer has come from another shard; an empty one says that it is lost. False: nobody waits for it.
    pub fn come(&mut self, ticket: Ticket, text: Vec<u8>, share: Option<Share>) -> bool {
        let is_it = |answer: &&mut Answer| matches!(answer.waits, Waits::Shard(it) if it == ticket);
        let Some(answer) = self.waiting.iter_mut().find(is_it) else { return false };
        self.expected -= 1;
        self.come_bytes += text.len();
        self.come_bytes_max = self.come_bytes_max.max(text.len());
        answer.waits = Waits::Come { text, _share: share };
        true
    }

    /// Moves the answers that are due to `output`.
    ///
    /// # Errors
    /// If one will never be: the connection is to be ended, for that is how this protocol tells so.
    pub fn release(
        &mut self,
        output: &mut Vec<u8>,
        state: impl Fn(&Gate) -> GateState,
    ) -> Result<(), Lost> {
        while let Some(answer) = self.waiting.front() {
            match &answer.waits {
                Waits::Turn => {}
                Waits::Commit(gate) => match state(gate) {
                    GateState::Open => {}
                    GateState::Shut => break,
                    GateState::Lost => return Err(Lost),
                },
                Waits::Come { text, .. } if text.is_empty() => return Err(Lost),
                Waits::Come { text, .. } => {
                    self.come_bytes -= text.len();
                    output.extend_from_slice(text);
                }
                Waits::Shard(_) => break,
            }
            let end = self.told + answer.bytes;
            output.extend_from_slice(&self.text[self.told..end]);
            self.told = end;
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            self.text.clear();
            self.text.shrink_to(KEPT_BYTES);
            self.told = 0;
            // The next ones will be alike; the longest is forgotten bit by bit.
            self.come_bytes_max -= self.come_bytes_max / 4;
        } else if self.told > self.text.len() / 2 {
            self.text.drain(..self.told);
            self.told = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::debts::COUNTED_BYTES_MIN;

    fn up_to(committed: u64) -> impl Fn(&Gate) -> GateState {
        move |gate| if gate.index() <= committed { GateState::Open } else { GateState::Shut }
    }

    fn released(answers: &mut Answers, committed: u64) -> String {
        let mut output = Vec::new();
        answers.release(&mut output, up_to(committed)).expect("nothing is lost");
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn answers_keep_the_order_of_their_commands() {
        let mut answers = Answers::default();
        answers.push(b"a", Some(Gate::plain(0, 5)), &Gathered::default());
        answers.push(b"b", None, &Gathered::default());
        let ticket = answers.expect();
        answers.push(b"d", None, &Gathered::default());
        answers.push(b"e", Some(Gate::plain(0, 6)), &Gathered::default());
        answers.push(b"f", None, &Gathered::default());
        assert_eq!(released(&mut answers, 4), "");
        assert_eq!(released(&mut answers, 6), "ab");
        assert!(answers.come(ticket, b"c".to_vec(), None));
        assert!(!answers.come(ticket, b"c".to_vec(), None), "it has come");
        assert_eq!(released(&mut answers, 5), "cd");
        assert_eq!(released(&mut answers, 6), "ef");
        assert!(answers.is_empty() && answers.text.is_empty());
    }

    #[test]
    fn what_is_lost_ends_what_is_told() {
        let lost_from = |index| {
            move |gate: &Gate| if gate.index() < index { GateState::Open } else { GateState::Lost }
        };
        let (mut answers, mut output) = (Answers::default(), Vec::new());
        answers.push(b"a", Some(Gate::plain(0, 5)), &Gathered::default());
        answers.push(b"b", Some(Gate::plain(0, 6)), &Gathered::default());
        assert_eq!(answers.release(&mut output, lost_from(6)), Err(Lost));
        assert_eq!(output, b"a", "what was known before is told");
        let (mut answers, mut output) = (Answers::default(), Vec::new());
        let ticket = answers.expect();
        assert!(answers.come(ticket, Vec::new(), None));
        assert_eq!(answers.release(&mut output, lost_from(9)), Err(Lost), "by another shard");
    }

    #[test]
    fn what_is_long_counts_while_it_waits() {
        let (gathered, long) = (Gathered::default(), vec![b'x'; COUNTED_BYTES_MIN]);
        let mut answers = Answers::default();
        answers.push(b"short", Some(Gate::plain(0, 5)), &gathered);
        assert_eq!(gathered.bytes(), 0);
        answers.push(&long, Some(Gate::plain(0, 6)), &gathered);
        answers.push(&long, None, &gathered);
        answers.push(b"short", None, &gathered);
        assert_eq!(gathered.bytes(), 2 * long.len());
        assert_eq!(answers.known_bytes(), 2 * long.len() + 10);
        assert_eq!(released(&mut answers, 5), "short");
        assert_eq!(gathered.bytes(), 2 * long.len());
        assert_eq!(released(&mut answers, 6).len(), 2 * long.len() + 5);
        assert_eq!((gathered.bytes(), answers.known_bytes()), (0, 0));
        answers.push(&long, Some(Gate::plain(0, 7)), &gathered);
        drop(answers);
        assert_eq!(gathered.bytes(), 0, "its client has gone");
    }

    #[test]
    fn bytes_that_wait_are_bounded_whoever_they_wait_for() {
        let value = vec![7; 100_000];
        let gate = Gate::plain(0, 5);
        let mut answers = Answers::default();
        answers.push(b"+OK", Some(gate), &Gathered::default());
        // What waits just for its turn counts as well.
        let mut taken = 0;
        while !answers.is_full() {
            answers.push(&value, None, &Gathered::default());
            taken += 1;
        }
        assert_eq!(taken, BYTES_MAX / value.len() + 1);
        assert!(!answers.has_room());
        answers.release(&mut Vec::new(), up_to(5)).expect("nothing is lost");
        assert!(answers.has_room() && answers.memory_bytes() < 2 * KEPT_BYTES);

        let tickets: Vec<Ticket> = (0..100).map(|_| answers.expect()).collect();
        assert!(answers.is_full(), "nobody knows how long they will be");
        assert!(answers.come(tickets[0], value.clone(), None));
        assert!(answers.is_full(), "the others may be as long");
        tickets[1..].iter().for_each(|ticket| assert!(answers.come(*ticket, value.clone(), None)));
        let mut output = Vec::new();
        answers.release(&mut output, up_to(5)).expect("nothing is lost");
        assert!(answers.is_empty() && answers.has_room() && output.len() == 100 * value.len());
        (0..6).for_each(|_| _ = answers.expect());
        assert!(!answers.is_full());
        (0..9).for_each(|_| _ = answers.expect());
        assert!(answers.is_full(), "they will be as long as those before");
        answers = Answers { expected: 0, ..Answers::default() };
        assert_eq!((answers.expected, answers.come_bytes), (0, 0));
    }
}
