//! Files: written, made durable, read back.

use crate::file_tasks::open;
use crate::harness::{Harness, Pair, Seen, Server, pattern};
use catena_engine::driver::{Driver, FileBuffer, FileOpId, OpenFile};
use catena_engine::limits::DIRECT_IO_ALIGN_BYTES;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Waits for one operation and returns its outcome.
pub fn outcome<H: Harness>(pair: &mut Pair<H>, op: FileOpId) -> (FileBuffer, io::Result<usize>) {
    let mut outcome = None;
    pair.until("the operation ends", |pair| {
        let seen = &mut pair.seen[Server as usize];
        if let Some(index) = seen.iter().position(|s| matches!(s, Seen::File(id, ..) if *id == op))
            && let Seen::File(_, buffer, result) = seen.remove(index)
        {
            outcome = Some((buffer, result));
        }
        outcome.is_some()
    });
    outcome.expect("the wait is over")
}

pub fn what_was_written_is_read_back<H: Harness>() {
    for direct in [false, true] {
        let mut pair = Pair::<H>::new();
        let path = pair.harness.directory().join("log");
        let file = open(&mut pair, &path, OpenFile { create: true, direct });
        let file = file.expect("the directory is writable");
        // Five blocks of different lengths, handed over together, in no order.
        let block = DIRECT_IO_ALIGN_BYTES;
        let all = pattern(15 * block, 3);
        let mut start = 0;
        for blocks in [5, 1, 4, 2, 3] {
            let part = FileBuffer::copy_of(&all[start..start + blocks * block]);
            pair.driver(Server).write(file, start as u64, part, FileOpId(blocks as u64));
            start += blocks * block;
        }
        for blocks in 1..=5usize {
            let (buffer, result) = outcome(&mut pair, FileOpId(blocks as u64));
            assert_eq!(result.expect("the disk takes it"), blocks * block);
            assert_eq!(buffer.bytes().len(), blocks * block, "the memory comes back");
        }
        pair.driver(Server).sync(file, FileOpId(77));
        let (buffer, result) = outcome(&mut pair, FileOpId(77));
        result.expect("the disk keeps it");
        assert!(buffer.bytes().is_empty());
        pair.driver(Server).read(file, 0, FileBuffer::zeroed(all.len()), FileOpId(78));
        let (buffer, result) = outcome(&mut pair, FileOpId(78));
        assert_eq!(result.expect("it is there"), all.len());
        assert!(buffer.bytes() == all, "direct: {direct}");
        // Opened once more, and read from the middle.
        pair.driver(Server).close_file(file);
        let file = open(&mut pair, &path, OpenFile { create: false, direct });
        let file = file.expect("it exists");
        let middle = FileBuffer::zeroed(2 * block);
        pair.driver(Server).read(file, 7 * block as u64, middle, FileOpId(79));
        let (buffer, result) = outcome(&mut pair, FileOpId(79));
        assert_eq!(result.expect("it is there"), 2 * block);
        assert!(buffer.bytes() == &all[7 * block..9 * block]);
    }
}

pub fn a_read_past_the_end_is_short<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("short");
    let options = OpenFile { create: true, direct: false };
    let file = open(&mut pair, &path, options).expect("the directory is writable");
    pair.driver(Server).write(file, 0, FileBuffer::copy_of(&pattern(10_001, 4)), FileOpId(1));
    outcome(&mut pair, FileOpId(1)).1.expect("the disk takes it");
    for (op, offset, expected) in [(2, 0, 10_001), (3, 10_000, 1), (4, 10_001, 0), (5, 99_999, 0)] {
        pair.driver(Server).read(file, offset, FileBuffer::zeroed(20_000), FileOpId(op));
        let (buffer, result) = outcome(&mut pair, FileOpId(op));
        assert_eq!(result.expect("the end of a file is no error"), expected, "from {offset}");
        let from = (offset as usize).min(10_001);
        assert_eq!(buffer.bytes()[..expected], pattern(10_001, 4)[from..]);
    }
    // Through the page cache or not, the end of a file cuts a read at the byte.
    pair.driver(Server).close_file(file);
    let options = OpenFile { create: false, direct: true };
    let file = open(&mut pair, &path, options).expect("it exists");
    let room = FileBuffer::zeroed(5 * DIRECT_IO_ALIGN_BYTES);
    pair.driver(Server).read(file, 0, room, FileOpId(6));
    let (buffer, result) = outcome(&mut pair, FileOpId(6));
    assert_eq!(result.expect("the end of a file is no error"), 10_001);
    assert_eq!(buffer.bytes()[..10_001], pattern(10_001, 4));
}

pub fn a_closed_file_finishes_what_is_in_flight<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("left");
    let options = OpenFile { create: true, direct: false };
    let file = open(&mut pair, &path, options).expect("the directory is writable");
    for op in 0..8 {
        let part = FileBuffer::copy_of(&pattern(4_096, op));
        pair.driver(Server).write(file, op * 4_096, part, FileOpId(op));
    }
    pair.driver(Server).close_file(file);
    for op in 0..8 {
        let (_, result) = outcome(&mut pair, FileOpId(op));
        assert_eq!(result.expect("the file is open until its operations have ended"), 4_096);
    }
}

/// An id that was kept for too long is noticed, and never means the file that was opened next.
pub fn a_closed_file_is_void<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let directory = pair.harness.directory();
    let options = OpenFile { create: true, direct: false };
    let open_new = |pair: &mut Pair<H>, name| {
        open(pair, &directory.join(name), options).expect("it is writable")
    };
    let first = open_new(&mut pair, "first");
    let kept = open_new(&mut pair, "kept");
    pair.driver(Server).close_file(first);
    let second = open_new(&mut pair, "second");
    assert!(first != second && first != kept && second != kept, "{first:?} {kept:?} {second:?}");
    let noticed = |pair: &mut Pair<H>, use_it: &dyn Fn(&mut H::D)| {
        catch_unwind(AssertUnwindSafe(|| use_it(pair.driver(Server)))).is_err()
    };
    assert!(noticed(&mut pair, &|driver| {
        driver.write(first, 0, FileBuffer::copy_of(b"astray"), FileOpId(1));
    }));
    assert!(noticed(&mut pair, &|driver| driver.sync(first, FileOpId(2))));
    assert!(noticed(&mut pair, &|driver| driver.close_file(first)));
    pair.driver(Server).read(second, 0, FileBuffer::zeroed(10), FileOpId(3));
    assert_eq!(outcome(&mut pair, FileOpId(3)).1.expect("it is open"), 0, "nothing went astray");
    pair.driver(Server).write(second, 0, FileBuffer::copy_of(b"at home"), FileOpId(4));
    assert_eq!(outcome(&mut pair, FileOpId(4)).1.expect("it is open"), 7);
}

pub fn opening_a_missing_file_says_so<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("missing");
    let missing = open(&mut pair, &path, OpenFile::default());
    assert_eq!(missing.expect_err("nobody made it").kind(), io::ErrorKind::NotFound);
}
