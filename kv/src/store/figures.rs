//! How a shard's log and its checkpoints are, for whoever looks after the store.

use super::Store;
use super::log::Log;
use catena_engine::time::Duration;

/// Figures of one shard's log; all zero where nothing is kept on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogFigures {
    /// More gathers than one write should be long: who writes waits.
    pub is_behind: bool,
    /// There is no next segment for now, and what remains of the last one is all the room there is.
    pub is_hindered: bool,
    /// Since then a write was refused.
    pub is_refusing: bool,
    /// Bytes written, in whole blocks.
    pub bytes: u64,
    /// Syncs that have ended, and the nanoseconds that they took.
    pub syncs: u64,
    /// See `syncs`.
    pub sync_ns: u64,
    /// What became of checkpoints.
    pub checkpoints: CheckpointFigures,
}

/// Figures of one shard's checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckpointFigures {
    /// How many were taken.
    pub taken: u64,
    /// How many could not be taken.
    pub failed: u64,
    /// One is being taken.
    pub is_running: bool,
    /// The last one that was tried could not be taken.
    pub has_failed: bool,
    /// When the last one was complete, or else when the log began, in Unix milliseconds.
    pub at_ms: u64,
}

/// What happens to a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointEvent {
    /// None yet, and the log begins, at this instant in Unix milliseconds.
    LogBegins(u64),
    /// It is being taken from now on.
    Begins,
    /// It is complete, at this instant.
    Taken(u64),
    /// It could not be taken.
    Failed,
}

impl Store {
    /// How the log is.
    pub fn log_figures(&self) -> LogFigures {
        let Some(log) = &self.common.log else { return LogFigures::default() };
        LogFigures {
            is_behind: log.is_behind(),
            is_hindered: log.hindrance.is_some(),
            bytes: log.writer.written_bytes(),
            ..log.figures
        }
    }

    /// Why the log has no next segment, if it has none.
    pub fn log_hindrance(&self) -> Option<&str> {
        self.common.log.as_ref()?.hindrance.as_deref()
    }

    /// A sync has taken so long.
    pub fn note_sync(&mut self, took: Duration) {
        self.note(|log| {
            log.figures.syncs += 1;
            log.figures.sync_ns += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        });
    }

    /// Something has happened to a checkpoint.
    pub fn note_checkpoint(&mut self, event: CheckpointEvent) {
        self.note(|log| log.figures.checkpoints.note(event));
    }

    fn note(&mut self, note: impl FnOnce(&mut Log)) {
        if let Some(log) = &mut self.common.log {
            note(log);
        }
    }
}

impl CheckpointFigures {
    fn note(&mut self, event: CheckpointEvent) {
        self.is_running = event == CheckpointEvent::Begins;
        match event {
            CheckpointEvent::Begins => {}
            CheckpointEvent::LogBegins(now_ms) => self.at_ms = now_ms,
            CheckpointEvent::Taken(now_ms) => {
                self.taken += 1;
                self.has_failed = false;
                self.at_ms = now_ms;
            }
            CheckpointEvent::Failed => {
                self.failed += 1;
                self.has_failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_failed_is_forgotten_with_the_next_that_was_taken() {
        let mut figures = CheckpointFigures::default();
        let mut after = |event| {
            figures.note(event);
            (figures.is_running, figures.has_failed, figures.at_ms)
        };
        assert_eq!(after(CheckpointEvent::LogBegins(5)), (false, false, 5));
        assert_eq!(after(CheckpointEvent::Begins), (true, false, 5));
        assert_eq!(after(CheckpointEvent::Failed), (false, true, 5));
        assert_eq!(after(CheckpointEvent::Begins), (true, true, 5));
        assert_eq!(after(CheckpointEvent::Taken(9)), (false, false, 9));
        assert_eq!((figures.taken, figures.failed), (1, 1));
    }
}
