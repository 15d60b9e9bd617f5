//! Memory that the keys have left and the allocator keeps.
//!
//! Large values are blocks of the C library's heaps. Where they grow and go they leave holes that nothing
//! fits into for a while. Their pages go back to the system when they have become many, by a thread that
//! looks each second. A shard that allocates meanwhile waits, for a tenth of a millisecond a megabyte: so it
//! is done while hardly anything is asked, or when so much is resident that memory may run out. (To have each
//! large block mapped by itself, so that it goes at once, costs three times the CPU time of values of 100 to
//! 300 KB.)

use crate::facts::process_facts;
use catena_kv::redis::server::Server;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that a process has beside its keys: buffers, tables, code.
const BESIDE_BYTES: u64 = 64 << 20;

/// Less than this was not worth the while.
const GAIN_BYTES: u64 = 16 << 20;

/// Commands between two looks above which a pause would be noticed.
const QUIET_COMMANDS: u64 = 100;

/// The most looks that are left out after there was little to be had.
const LEFT_OUT_MAX: u32 = 60;

/// When to give memory back.
#[derive(Debug, Default)]
struct Holes {
    /// So many looks are left out after one that gained little: twice as many each time, as holes that are
    /// smaller than a page stay, and the rest may come free later.
    pause: u32,
    /// Of these, those to come.
    left_out: u32,
    /// After the last time: what keys took, and what was resident.
    left: (u64, u64),
}

impl Holes {
    /// True if it is time to give memory back: `used` bytes of keys, of `resident` ones.
    fn are_due(&mut self, used: u64, resident: u64) -> bool {
        let (used_then, resident_then) = self.left;
        let is_news = used + GAIN_BYTES < used_then || resident > resident_then + GAIN_BYTES;
        if self.left_out > 0 && !is_news {
            self.left_out -= 1;
            return false;
        }
        resident > used + used / 8 + BESIDE_BYTES
    }

    /// So many resident bytes have become so many, with `used` ones of keys.
    fn were_filled(&mut self, used: u64, before: u64, after: u64) {
        let is_little = before.saturating_sub(after) < GAIN_BYTES;
        self.pause = if is_little { (self.pause * 2).clamp(1, LEFT_OUT_MAX) } else { 0 };
        self.left_out = self.pause;
        self.left = (used, after);
    }
}

/// Looks from now on.
///
/// # Errors
/// If there is no thread for that.
pub fn begin(server: &Arc<Server>) -> io::Result<()> {
    let server = Arc::downgrade(server);
    let look = move || {
        let (mut holes, mut commands_before) = (Holes::default(), 0);
        while let Some(server) = server.upgrade() {
            let (used, resident) = (server.bytes_used(), process_facts().resident_bytes);
            let commands = server.totals().commands;
            let is_quiet = commands.wrapping_sub(commands_before) < QUIET_COMMANDS;
            commands_before = commands;
            let memory_max = server.config.memory_bytes_max;
            let may_run_out = memory_max > 0 && resident > memory_max + memory_max / 4;
            if (is_quiet || may_run_out) && holes.are_due(used, resident) {
                catena_engine::give_free_memory_back();
                holes.were_filled(used, resident, process_facts().resident_bytes);
            }
            drop(server);
            thread::sleep(LOOK_INTERVAL);
        }
    };
    thread::Builder::new().name("memory".to_owned()).spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_and_ever_less_often_while_little_is_gained() {
        const MB: u64 = 1 << 20;
        let mut holes = Holes::default();
        assert!(!holes.are_due(0, 60 * MB), "that is the process itself");
        assert!(!holes.are_due(1_000 * MB, 1_180 * MB));
        let looks_until_due = |holes: &mut Holes| {
            (0..1_000).find(|_| holes.are_due(1_000 * MB, 1_300 * MB)).expect("it is tried again")
        };
        for left_out in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(looks_until_due(&mut holes), left_out);
            holes.were_filled(1_000 * MB, 1_300 * MB, 1_295 * MB);
        }
        assert!(holes.are_due(900 * MB, 1_300 * MB), "keys have gone");
        assert!(holes.are_due(1_000 * MB, 1_312 * MB), "there is more to be had");
        assert_eq!(looks_until_due(&mut holes), 60);
        holes.were_filled(1_000 * MB, 1_300 * MB, 1_284 * MB);
        assert_eq!(looks_until_due(&mut holes), 0, "there was much to be had");
    }
}
