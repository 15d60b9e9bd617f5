//! Writes that are cut off, and disks that change what they hold.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_read(batches in batches(), old: bool) {
        let written = write(&batches, LOG, if old { &old_segments } else { &zeros });
        let (entries, result) = read(&written.disk, None);
        let (end, torn) = result.unwrap();
        prop_assert_eq!(&entries, &written.entries(written.batches.len()));
        prop_assert!(!torn);
        let again = read(&written.disk, Some(end));
        prop_assert_eq!(again, (entries, Ok((end, false))));
    }

    /// Any sectors of the last batch may be missing; what was there before shows through.
    #[test]
    fn a_torn_batch_is_cut_and_nothing_before_it_is_lost(
        batches in batches(),
        old: bool,
        kept in prop::collection::vec(any::<bool>(), 1..200),
    ) {
        let recycled: &dyn Fn(u64, u64) -> Vec<u8> = if old { &old_segments } else { &zeros };
        let written = write(&batches, LOG, recycled);
        let last = written.batches.last().unwrap().clone();
        let mut disk = written.disk.clone();
        tear(&mut disk, &last, recycled, |sector| kept[sector % kept.len()]);
        let (entries, result) = read(&disk, None);
        let (end, _) = result.expect("a torn write is no damage");
        let count = written.batches.len();
        let (least, most) = (written.entries(count - 1), written.entries(count));
        prop_assert!(entries.len() >= least.len(), "an acknowledged entry is lost");
        prop_assert_eq!(&entries[..], &most[..entries.len()]);
        // The manifest of the next start has the end: the same is read for ever, whatever stands behind.
        let file = disk.files.get_mut(&end.segment).unwrap();
        file[(end.offset as usize).next_multiple_of(SECTOR_BYTES)..].fill(0x5A);
        let again = read(&disk, Some(end));
        prop_assert_eq!(again.0, entries);
        prop_assert_eq!(again.1.map(|(again, _)| again), Ok(end));
    }

    /// Refused, or harmless because it hit bytes that mean nothing, or in the last batch, where it cannot
    /// be told from a torn write.
    #[test]
    fn a_flipped_bit_is_refused_unless_it_hits_the_last_batch(
        batches in batches(),
        old: bool,
        batch: prop::sample::Index,
        bit: prop::sample::Index,
    ) {
        let written = write(&batches, LOG, if old { &old_segments } else { &zeros });
        let count = written.batches.len();
        let hit = batch.index(count);
        let mut disk = written.disk.clone();
        flip(&mut disk, &written.batches[hit], bit);
        let (entries, result) = read(&disk, None);
        prop_assert_eq!(&entries[..], &written.entries(count)[..entries.len()]);
        let least = if hit == count - 1 { count - 1 } else { count };
        prop_assert!(result.is_err() || entries.len() >= written.entries(least).len());
        if hit == count - 1 {
            prop_assert!(result.is_ok(), "behind the last batch nothing proves it");
        }
    }

    #[test]
    fn before_a_stated_end_a_flipped_bit_is_refused_in_the_last_batch_too(
        batches in batches(),
        batch: prop::sample::Index,
        bit: prop::sample::Index,
    ) {
        let written = write(&batches, LOG, &zeros);
        let (all, result) = read(&written.disk, None);
        let (end, _) = result.unwrap();
        let mut disk = written.disk.clone();
        flip(&mut disk, &written.batches[batch.index(written.batches.len())], bit);
        let (entries, result) = read(&disk, Some(end));
        prop_assert_eq!(&entries[..], &all[..entries.len()]);
        prop_assert!(result.is_err() || entries.len() == all.len());
    }

    #[test]
    fn garbage_is_scanned_without_a_panic(
        batches in batches(),
        places in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()),
            1..40,
        ),
    ) {
        let mut disk = write(&batches, LOG, &old_segments).disk;
        for (number, place, byte) in places {
            let numbers: Vec<u64> = disk.files.keys().copied().collect();
            let file = disk.files.get_mut(number.get(&numbers)).unwrap();
            let place = place.index(file.len());
            file[place] = byte;
        }
        let _ = read(&disk, None);
    }
}

/// Takes back the sectors of a batch that are not kept.
fn tear(
    disk: &mut Disk,
    batch: &Batch,
    recycled: &dyn Fn(u64, u64) -> Vec<u8>,
    kept: impl Fn(usize) -> bool,
) {
    let file = disk.files.get_mut(&batch.segment).unwrap();
    let mut before = recycled(batch.segment, file.len() as u64);
    before.resize(file.len(), 0);
    for sector in (0..batch.bytes / SECTOR_BYTES).filter(|sector| !kept(*sector)) {
        let place = batch.offset as usize + sector * SECTOR_BYTES;
        file[place..][..SECTOR_BYTES].copy_from_slice(&before[place..][..SECTOR_BYTES]);
    }
}

fn flip(disk: &mut Disk, batch: &Batch, bit: prop::sample::Index) {
    let bit = bit.index(batch.bytes * 8);
    let file = disk.files.get_mut(&batch.segment).unwrap();
    file[batch.offset as usize + bit / 8] ^= 1 << (bit % 8);
}

/// Three batches of a block, the last of which settles the second.
fn settled() -> Written {
    write(&[vec![40, 50], vec![60], vec![]], LOG, &zeros)
}

#[test]
fn a_settled_batch_that_is_damaged_is_refused_with_file_offset_and_what_to_do() {
    let written = settled();
    let mut disk = written.disk.clone();
    disk.files.get_mut(&1).unwrap()[BATCHES_OFFSET as usize + BLOCK_BYTES + 70] ^= 1;
    let (entries, result) = read(&disk, None);
    assert_eq!(entries, written.entries(1));
    let error = result.unwrap_err();
    let ScanError::Damaged { segment: 1, offset: 12_320, fault, later: Some((1, 16_384)), .. } =
        error
    else {
        panic!("{error}");
    };
    assert!(matches!(fault, Fault::Checksum { .. }), "{fault}");
    let said = error.to_string();
    assert!(said.starts_with("gen-2/shard-0/log-1, offset 12320: the log is damaged"), "{said}");
    assert!(said.contains("restore a backup"), "{said}");
}

#[test]
fn a_lost_batch_is_refused_even_if_zeros_or_a_segments_end_hide_it() {
    let written = write(&vec![vec![100]; 6], LOG, &zeros);
    assert_eq!(written.batches[4].segment, 2, "four fill a segment");
    for lost in 0..5 {
        let mut disk = written.disk.clone();
        tear(&mut disk, &written.batches[lost], &zeros, |_| false);
        let (entries, result) = read(&disk, None);
        assert_eq!(entries, written.entries(lost));
        assert!(matches!(result, Err(ScanError::Damaged { .. })), "batch {lost}: {result:?}");
    }
}

/// Damage and a cut-off write at once: the last batch of a segment is gone, and the first one of the next
/// has lost its beginning or its end.
#[test]
fn a_lost_batch_before_a_torn_one_is_refused_if_the_torn_ones_beginning_stands() {
    let written =
        write(&[vec![100], vec![100], vec![100], vec![100], vec![100, 2_000]], LOG, &zeros);
    let mut disk = written.disk.clone();
    tear(&mut disk, &written.batches[3], &zeros, |_| false);
    tear(&mut disk, &written.batches[4], &zeros, |sector| sector == 0);
    let (_, result) = read(&disk, None);
    assert!(
        matches!(result, Err(ScanError::Damaged { later: Some((2, 8_192)), .. })),
        "{result:?}"
    );
}

#[test]
fn a_batch_that_stands_in_for_another_is_refused() {
    let written = write(&vec![vec![100]; 4], LOG, &zeros);
    let mut disk = written.disk.clone();
    let file = disk.files.get_mut(&1).unwrap();
    let (second, third) =
        (BATCHES_OFFSET as usize + BLOCK_BYTES, BATCHES_OFFSET as usize + 2 * BLOCK_BYTES);
    file.copy_within(third..third + BLOCK_BYTES, second);
    let (entries, result) = read(&disk, None);
    assert_eq!(entries, written.entries(1));
    assert!(
        matches!(result, Err(ScanError::Damaged { fault: Fault::Chain { .. }, .. })),
        "{result:?}"
    );
}

#[test]
fn what_a_recycled_segment_held_never_comes_back() {
    let old = write(&vec![vec![60]; 4], LogIdentity { incarnation: 1, ..LOG }, &zeros);
    let recycled = |_: u64, _: u64| old.disk.files[&1].clone();
    // Shorter than what was there: valid records of the former life stand right behind.
    let written = write(&[vec![60]], LOG, &recycled);
    let file = &written.disk.files[&1];
    let behind = BATCHES_OFFSET as usize + BLOCK_BYTES;
    assert_eq!(file[behind..], old.disk.files[&1][behind..], "the old records are there");
    let (entries, result) = read(&written.disk, None);
    assert_eq!((entries, result.is_ok()), (written.entries(1), true));
}

#[test]
fn a_missing_header_or_a_short_file_is_refused() {
    let written = settled();
    let mut disk = written.disk.clone();
    disk.files.get_mut(&1).unwrap()[..BATCHES_OFFSET as usize].fill(0);
    assert!(matches!(read(&disk, None).1, Err(ScanError::Segment { segment: 1, .. })));
    let mut disk = written.disk.clone();
    disk.files.get_mut(&1).unwrap().truncate(BATCHES_OFFSET as usize + 5_000);
    assert!(matches!(read(&disk, None).1, Err(ScanError::Shorter { segment: 1, .. })));
}

/// Who stores the log in itself shows it beginnings of batches, but never of later ones.
#[test]
fn a_value_that_holds_blocks_of_the_log_does_not_make_a_torn_batch_damage() {
    let mut written = Written::default();
    let mut writer = LogWriter::new(CONFIG, LogStart::NEW);
    writer.append(0, 1, 1, b"first").unwrap();
    run(&mut writer, &mut written, LOG, vec![(0, 1, b"first".to_vec())], &zeros);
    // Behind the batch's first record and the entry's header, so that the copy lies at a block.
    let mut value = vec![7; BLOCK_BYTES - 64];
    value.extend_from_slice(&written.disk.files[&1][BATCHES_OFFSET as usize..][..BLOCK_BYTES]);
    writer.append(0, 1, 2, &value).unwrap();
    run(&mut writer, &mut written, LOG, vec![(0, 2, value)], &zeros);
    let mut disk = written.disk.clone();
    tear(&mut disk, &written.batches[1], &zeros, |sector| sector != 3);
    let (entries, result) = read(&disk, None);
    assert_eq!(entries, written.entries(1));
    assert_eq!(result.map(|(_, torn)| torn), Ok(true));
}

#[test]
fn a_batch_with_another_number_is_refused() {
    let mut written = Written::default();
    let mut writer = LogWriter::new(CONFIG, LogStart { prev_batch: 5, ..LogStart::NEW });
    writer.append(0, 1, 1, b"first").unwrap();
    run(&mut writer, &mut written, LOG, vec![], &zeros);
    let (_, result) = read(&written.disk, None);
    let expected = Fault::Batch { stated: 6, expected: 1 };
    assert!(
        matches!(result, Err(ScanError::Damaged { fault, .. }) if fault == expected),
        "{result:?}"
    );
}
