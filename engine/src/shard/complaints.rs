//! How many log lines there are about peers that misbehave: as many as help, however many such peers
//! there are. One client that connects, errs and connects again would fill a disk otherwise.

use crate::limits::{COMPLAINTS_MAX, COMPLAINTS_WINDOW};
use crate::time::Instant;

/// What a shard has said of peers at fault lately, and what it has not.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// When the window begins in which lines are counted; `None`: there was no line yet.
    window_at: Option<Instant>,
    /// Lines in that window.
    told: u32,
    /// What was not told since the last sum of it.
    left_out: u64,
}

/// What becomes of one complaint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Complaint {
    /// It is worth a line.
    Tell,
    /// It is left out, as the first of some: their sum is to be told at that instant.
    LeaveOutUntil(Instant),
    /// It is left out.
    LeaveOut,
}

impl Complaints {
    /// There is one more.
    pub(super) fn add(&mut self, now: Instant) -> Complaint {
        let window_at = match self.window_at {
            Some(at) if now.since(at) < COMPLAINTS_WINDOW => at,
            _ => {
                self.window_at = Some(now);
                self.told = 0;
                now
            }
        };
        if self.told < COMPLAINTS_MAX {
            self.told += 1;
            return Complaint::Tell;
        }
        self.left_out += 1;
        match self.left_out {
            1 => Complaint::LeaveOutUntil(window_at + COMPLAINTS_WINDOW),
            _ => Complaint::LeaveOut,
        }
    }

    /// How many were left out since this was last asked.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn of_many_complaints_the_first_are_told_and_the_others_counted() {
        let mut complaints = Complaints::default();
        let window_ms = COMPLAINTS_WINDOW.as_millis() as u64;
        let (mut told, mut sums) = (0, Vec::new());
        // 7,534 of them in 53 s, as one clumsy client made them.
        let mut sum_at = None;
        for ms in (0..52_738).step_by(7) {
            if sum_at.is_some_and(|sum_at| sum_at <= at(ms)) {
                sums.push(complaints.take_left_out());
                sum_at = None;
            }
            match complaints.add(at(ms)) {
                Complaint::Tell => told += 1,
                Complaint::LeaveOutUntil(until) => {
                    assert!(until > at(ms) && until.since(at(ms)) <= COMPLAINTS_WINDOW);
                    assert_eq!(sum_at.replace(until), None, "one sum at a time");
                }
                Complaint::LeaveOut => assert!(sum_at.is_some(), "its sum will be told"),
            }
        }
        sums.push(complaints.take_left_out());
        assert_eq!(told + sums.iter().sum::<u64>(), 7_534, "none is forgotten");
        assert_eq!(told, u64::from(COMPLAINTS_MAX) * 52_738_u64.div_ceil(window_ms));
        assert_eq!(sums.len(), 6);
    }

    #[test]
    fn few_complaints_are_all_told() {
        let mut complaints = Complaints::default();
        let pause = COMPLAINTS_WINDOW / COMPLAINTS_MAX + Duration::from_millis(1);
        let mut now = at(3);
        for _ in 0..100 {
            assert_eq!(complaints.add(now), Complaint::Tell);
            now += pause;
        }
        assert_eq!(complaints.take_left_out(), 0);
    }
}
