//! The writer by itself: what it asks for, and when it stops.

use super::*;

fn prepare(writer: &mut LogWriter) {
    let Some(Action::Prepare { number, bytes }) = writer.poll() else {
        panic!("a segment is asked for");
    };
    writer.prepared(Segment { log: LOG, number, bytes, seed: number as u32 });
}

fn take_write(writer: &mut LogWriter) -> (u64, u64, FileBuffer) {
    match writer.poll() {
        Some(Action::Write { segment, offset, buffer }) => (segment, offset, buffer),
        other => panic!("a write, not {other:?}"),
    }
}

/// One entry in flight, written.
fn with_one_written() -> LogWriter {
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    writer.append(3, 1, 10, b"first").unwrap();
    prepare(&mut writer);
    let (segment, offset, buffer) = take_write(&mut writer);
    assert_eq!((segment, offset, buffer.bytes().len()), (1, BATCHES_OFFSET, BLOCK_BYTES));
    prepare(&mut writer);
    assert!(writer.poll().is_none(), "one batch is in flight at a time");
    writer.written(buffer, Ok(BLOCK_BYTES));
    writer
}

#[test]
fn nothing_is_durable_before_the_sync_and_all_of_the_batch_is_after_it() {
    let mut writer = with_one_written();
    writer.append(5, 1, 1, b"next").unwrap();
    writer.append(3, 1, 11, b"next").unwrap();
    writer.append(3, 1, 12, b"next").unwrap();
    assert!(matches!(writer.poll(), Some(Action::Sync { segment: 1 })));
    assert!(writer.poll().is_none(), "the next batch gathers");
    assert_eq!(writer.durable_entries(), 0);
    assert_eq!(writer.synced(Ok(())), [(3, 10)]);
    assert_eq!(writer.durable_entries(), 1);
    let (_, offset, buffer) = take_write(&mut writer);
    assert_eq!(offset, BATCHES_OFFSET + BLOCK_BYTES as u64);
    writer.written(buffer, Ok(BLOCK_BYTES));
    assert!(matches!(writer.poll(), Some(Action::Sync { segment: 1 })));
    assert_eq!(writer.synced(Ok(())), [(5, 1), (3, 12)]);
    assert!(writer.is_idle());
}

#[test]
fn a_failed_write_stops_the_log_for_good() {
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    writer.append(3, 1, 10, b"first").unwrap();
    prepare(&mut writer);
    let (_, _, buffer) = take_write(&mut writer);
    writer.append(3, 1, 11, b"gathers").unwrap();
    writer.written(buffer, Err(io::Error::other("no space")));
    assert!(writer.poll().is_none());
    assert_eq!(writer.append(3, 1, 12, b"late"), Err(AppendError::Stopped));
    let said = writer.stopped().unwrap().to_string();
    assert!(said.starts_with("the write of log-1 failed: no space."), "{said}");
}

#[test]
fn a_short_write_stops_the_log() {
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    writer.append(3, 1, 10, b"first").unwrap();
    prepare(&mut writer);
    let (_, _, buffer) = take_write(&mut writer);
    writer.written(buffer, Ok(512));
    let said = writer.stopped().unwrap().to_string();
    assert!(said.contains("512 of 4096 bytes were written"), "{said}");
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let mut writer = with_one_written();
    assert!(matches!(writer.poll(), Some(Action::Sync { segment: 1 })));
    assert_eq!(writer.synced(Err(io::Error::other("broken"))), []);
    assert_eq!((writer.durable_entries(), writer.is_idle()), (0, false));
    assert!(writer.poll().is_none(), "nothing is tried again");
    assert_eq!(writer.append(3, 1, 12, b"late"), Err(AppendError::Stopped));
}

#[test]
fn a_full_batch_takes_no_more_and_a_huge_entry_gets_a_segment_of_its_size() {
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    let huge = vec![7; 10 * BLOCK_BYTES];
    writer.append(0, 1, 1, &huge).unwrap();
    assert_eq!(writer.append(0, 1, 2, b"more"), Err(AppendError::Full));
    prepare(&mut writer);
    let bytes = BATCHES_OFFSET + 11 * BLOCK_BYTES as u64;
    match writer.poll() {
        Some(Action::Prepare { number: 1, bytes: asked }) => assert_eq!(asked, bytes),
        other => panic!("a larger one, not {other:?}"),
    }
    writer.prepared(Segment { log: LOG, number: 1, bytes, seed: 1 });
    let (_, _, buffer) = take_write(&mut writer);
    assert_eq!(buffer.bytes().len(), 11 * BLOCK_BYTES);
}

#[test]
fn a_batch_that_grows_while_a_larger_segment_is_made_ready_fits_into_that() {
    let config = WriterConfig { batch_bytes_max: 8 * BLOCK_BYTES, ..CONFIG };
    let mut writer = LogWriter::new(config, LogStart::NEW);
    let mut index = 0;
    let mut grow = |writer: &mut LogWriter, blocks: usize| {
        for _ in 0..blocks {
            index += 1;
            writer.append(0, 1, index, &[7; BLOCK_BYTES - 100]).unwrap();
        }
    };
    grow(&mut writer, 5);
    prepare(&mut writer);
    let Some(Action::Prepare { number, bytes }) = writer.poll() else { panic!("a larger one") };
    grow(&mut writer, 2);
    writer.prepared(Segment { log: LOG, number, bytes, seed: 1 });
    take_write(&mut writer);
}

#[test]
fn a_log_goes_on_where_a_segment_begins_after_those_before_are_removed() {
    let mut written = Written::default();
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    for index in 1..=10 {
        let entry = (0, index, vec![1; 20]);
        writer.append(0, 1, index, &entry.2).unwrap();
        run(&mut writer, &mut written, LOG, vec![entry], &zeros);
    }
    writer.forget_before(2);
    let starts: Vec<_> = writer.starts().collect();
    assert_eq!(starts.iter().map(|start| start.segment).collect::<Vec<_>>(), [2, 3]);
    let config =
        ScanConfig { log: LOG, start: starts[0], last_segment: 4, end: None, read_bytes: 4_096 };
    let (entries, result) = read_as(&written.disk, config);
    assert_eq!((entries, result.is_ok()), (written.entries(10)[4..].to_vec(), true));
}

#[test]
fn a_confined_log_takes_what_fits_and_nothing_that_would_wait() {
    // The second segment was made ready ahead; a third cannot be had.
    let mut writer = with_one_written();
    writer.confine(true);
    writer.poll();
    writer.synced(Ok(()));
    let mut index = 10;
    let mut refused = None;
    while refused.is_none() {
        index += 1;
        refused = writer.append(3, 1, index, &[7; 1_000]).err();
        if let Some(Action::Write { buffer, .. }) = writer.poll() {
            let bytes = buffer.bytes().len();
            writer.written(buffer, Ok(bytes));
            let mut action = writer.poll();
            if matches!(action, Some(Action::Prepare { number: 3, .. })) {
                action = writer.poll();
            }
            assert!(matches!(action, Some(Action::Sync { .. })));
            writer.synced(Ok(()));
        }
    }
    assert_eq!(refused, Some(AppendError::NoSegment));
    assert_eq!(writer.starts().len(), 2, "both segments are used up");
    assert_eq!(writer.gathered_bytes(), 0, "nothing waits");
    assert_eq!(writer.durable_entries(), index - 10, "all that was taken is durable");
    writer.confine(false);
    writer.append(3, 1, index, &[7; 1_000]).unwrap();
}

#[test]
fn the_next_segment_is_asked_for_before_anything_has_to_wait_for_it() {
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    let (mut index, mut prepared, mut written) = (0, 0, 0);
    let mut append = |writer: &mut LogWriter| {
        index += 1;
        writer.append(3, 1, index, b"x").expect("the log goes on");
    };
    append(&mut writer);
    while written < 20 {
        // Something gathers at every moment, as under load.
        match writer.poll().expect("there is always something to do") {
            Action::Prepare { number, bytes } => {
                prepared += 1;
                writer.prepared(Segment { log: LOG, number, bytes, seed: 1 });
            }
            Action::Write { segment, offset, buffer } => {
                let is_first = offset == BATCHES_OFFSET;
                assert!(is_first || prepared > segment, "nothing is there behind {segment}");
                written += 1;
                append(&mut writer);
                let bytes = buffer.bytes().len();
                writer.written(buffer, Ok(bytes));
            }
            Action::Sync { .. } => _ = writer.synced(Ok(())),
        }
    }
    assert!(prepared > 4, "segments are as short as that");
}
