//! The rules of the simulated disk for names, room and locks: what a crash leaves of them, and what
//! goes wrong.

use crate::disk::{HOST, crash, create, host, open, sync, sync_directory, task, write};
use catena_engine::driver::{Completion, Driver, FileOpId, FileTask, FileTaskDone, OpenFile};
use catena_engine::sim::{Crash, DiskOp, EventKind, Fault, SimDriver, World, WorldConfig};
use catena_engine::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

fn rename(from: &str, to: &str) -> FileTask {
    FileTask::Rename { from: from.into(), to: to.into() }
}

fn done(driver: &mut SimDriver, wanted: FileTask) {
    task(driver, wanted).expect("the disk works");
}

fn make_directory(driver: &mut SimDriver, path: &str) {
    done(driver, FileTask::CreateDirectory { path: path.into() });
    sync_directory(driver, "/");
}

/// A file of some bytes, which are durable, under a name that is not.
fn unnamed(driver: &mut SimDriver, path: &str, bytes: &[u8]) {
    let file = create(driver, path);
    write(driver, file, bytes);
    sync(driver, file);
    driver.close_file(file);
}

/// What the first bytes of the files at `paths` are after a power failure, over many seeds: how often
/// each came up.
fn left_by_power_loss<const N: usize>(
    paths: [&str; N],
    mut act: impl FnMut(&mut World, &mut SimDriver),
) -> BTreeMap<[Option<u8>; N], u32> {
    let mut left = BTreeMap::new();
    for seed in 0..80 {
        let (mut world, mut driver) = host(seed);
        act(&mut world, &mut driver);
        crash(&mut world, Crash::PowerLoss);
        let found = paths.map(|path| world.file(HOST, path).map(|bytes| bytes[0]));
        assert_eq!(found, paths.map(|path| world.durable_file(HOST, path).map(|bytes| bytes[0])));
        *left.entry(found).or_default() += 1;
    }
    assert!(left.values().all(|count| *count > 5), "some hardly ever come up: {left:?}");
    left
}

fn keys<const N: usize>(left: BTreeMap<[Option<u8>; N], u32>) -> Vec<[Option<u8>; N]> {
    left.into_keys().collect()
}

#[test]
fn the_sync_of_a_file_is_not_that_of_its_name() {
    let left = left_by_power_loss(["/a"], |world, driver| {
        unnamed(driver, "/a", &[1]);
        assert!(world.file(HOST, "/a").is_some() && world.durable_file(HOST, "/a").is_none());
    });
    assert_eq!(keys(left), [[None], [Some(1)]]);
    let left = left_by_power_loss(["/a"], |_, driver| {
        unnamed(driver, "/a", &[1]);
        sync_directory(driver, "/");
    });
    assert_eq!(keys(left), [[Some(1)]]);
}

#[test]
fn each_name_is_kept_or_lost_on_its_own() {
    let left = left_by_power_loss(["/a", "/b"], |_, driver| {
        unnamed(driver, "/a", &[1]);
        unnamed(driver, "/b", &[2]);
    });
    assert_eq!(left.len(), 4, "the later one may survive the earlier: {left:?}");
}

#[test]
fn the_sync_of_a_directory_is_not_that_of_others() {
    let left = left_by_power_loss(["/d/a", "/b"], |_, driver| {
        make_directory(driver, "/d");
        unnamed(driver, "/d/a", &[1]);
        unnamed(driver, "/b", &[2]);
        sync_directory(driver, "/");
    });
    assert_eq!(keys(left), [[None, Some(2)], [Some(1), Some(2)]]);
    // And one that loses its own name takes along what is in it.
    let left = left_by_power_loss(["/d/a"], |_, driver| {
        done(driver, FileTask::CreateDirectory { path: "/d".into() });
        unnamed(driver, "/d/a", &[1]);
        sync_directory(driver, "/d");
    });
    assert_eq!(keys(left), [[None], [Some(1)]]);
}

#[test]
fn the_sync_of_a_directory_covers_what_had_completed_and_nothing_else() {
    let left = left_by_power_loss(["/a", "/b"], |world, driver| {
        unnamed(driver, "/a", &[1]);
        unnamed(driver, "/old", &[2]);
        sync_directory(driver, "/");
        // In flight when the sync is issued; it may end before the sync does.
        driver.file_task(rename("/old", "/b"), FileOpId(1));
        driver.file_task(FileTask::SyncDirectory { path: "/".into() }, FileOpId(2));
        let mut ended = 0;
        while ended < 2 {
            driver.park(None).expect("tasks are in flight");
            while let Some(completion) = driver.next_completion() {
                assert!(matches!(completion, Completion::FileTask { result: Ok(_), .. }));
                ended += 1;
            }
        }
        assert!(world.file(HOST, "/b").is_some() && world.durable_file(HOST, "/b").is_none());
    });
    assert_eq!(keys(left), [[Some(1), None], [Some(1), Some(2)]]);
}

#[test]
fn a_rename_leaves_the_old_or_the_new() {
    let left = left_by_power_loss(["/new", "/here"], |_, driver| {
        unnamed(driver, "/here", &[1]);
        unnamed(driver, "/new", &[2]);
        sync_directory(driver, "/");
        done(driver, rename("/new", "/here"));
    });
    assert_eq!(keys(left), [[None, Some(2)], [Some(2), Some(1)]]);
    // As a manifest is replaced, with a new file that no sync of the directory knows of.
    let left = left_by_power_loss(["/here"], |_, driver| {
        unnamed(driver, "/here", &[1]);
        sync_directory(driver, "/");
        unnamed(driver, "/new", &[2]);
        done(driver, rename("/new", "/here"));
    });
    assert_eq!(keys(left), [[Some(1)], [Some(2)]], "never nothing");
}

#[test]
fn a_rename_between_directories_awaits_both_syncs() {
    let moved = |syncs: &'static [&'static str]| {
        left_by_power_loss(["/from/file", "/to/file"], move |_, driver| {
            make_directory(driver, "/from");
            make_directory(driver, "/to");
            unnamed(driver, "/from/file", &[1]);
            sync_directory(driver, "/from");
            done(driver, rename("/from/file", "/to/file"));
            syncs.iter().for_each(|directory| sync_directory(driver, directory));
        })
    };
    let either = [[None, Some(1)], [Some(1), None]];
    assert_eq!(keys(moved(&[])), either);
    assert_eq!(keys(moved(&["/to"])), either);
    assert_eq!(keys(moved(&["/from"])), either);
    assert_eq!(keys(moved(&["/from", "/to"])), [[None, Some(1)]]);
    // A name that is used again and synced does not let the rename that freed it be undone.
    let left = left_by_power_loss(["/from/file", "/to/file"], |_, driver| {
        make_directory(driver, "/from");
        make_directory(driver, "/to");
        unnamed(driver, "/from/file", &[1]);
        sync_directory(driver, "/from");
        done(driver, rename("/from/file", "/to/file"));
        unnamed(driver, "/from/file", &[2]);
        sync_directory(driver, "/from");
    });
    assert_eq!(keys(left), [[Some(2), Some(1)]]);
}

#[test]
fn a_removal_is_undone_until_it_was_synced() {
    let removed = |is_synced: bool| {
        left_by_power_loss(["/a"], move |_, driver| {
            unnamed(driver, "/a", &[1]);
            sync_directory(driver, "/");
            done(driver, FileTask::RemoveFile { path: "/a".into() });
            if is_synced {
                sync_directory(driver, "/");
            }
        })
    };
    assert_eq!(keys(removed(false)), [[None], [Some(1)]]);
    assert_eq!(keys(removed(true)), [[None]]);
}

#[test]
fn a_kill_loses_no_name() {
    for seed in 0..30 {
        let (mut world, mut driver) = host(seed);
        unnamed(&mut driver, "/here", &[1]);
        unnamed(&mut driver, "/new", &[2]);
        unnamed(&mut driver, "/gone", &[3]);
        done(&mut driver, rename("/new", "/here"));
        done(&mut driver, FileTask::RemoveFile { path: "/gone".into() });
        crash(&mut world, Crash::Kill);
        assert_eq!(world.file(HOST, "/here"), Some(vec![2]));
        assert_eq!((world.file(HOST, "/new"), world.file(HOST, "/gone")), (None, None));
        // Nor does it make them durable; the next process's sync does.
        assert_eq!(world.durable_file(HOST, "/here"), None);
        let mut driver = world.restart_bare_host(HOST).remove(0);
        sync_directory(&mut driver, "/");
        assert_eq!(world.durable_file(HOST, "/here"), Some(vec![2]));
    }
}

#[test]
fn a_task_in_flight_at_a_crash_is_done_or_not() {
    let mut moved = [0; 2];
    for seed in 0..60 {
        let (mut world, mut driver) = host(seed);
        unnamed(&mut driver, "/old", &[1]);
        driver.file_task(rename("/old", "/new"), FileOpId(1));
        crash(&mut world, Crash::Kill);
        let [old, new] = ["/old", "/new"].map(|path| world.file(HOST, path).is_some());
        assert_ne!(old, new, "one of the two");
        moved[usize::from(new)] += 1;
    }
    assert!(moved.iter().all(|count| *count > 10), "{moved:?}");
}

#[test]
fn a_failed_sync_of_a_directory_is_not_made_good_by_the_next() {
    let left = left_by_power_loss(["/a"], |world, driver| {
        unnamed(driver, "/a", &[1]);
        world.inject(Fault::FailDisk { host: HOST, op: DiskOp::SyncDirectory, times: 1 });
        let failed = task(driver, FileTask::SyncDirectory { path: "/".into() });
        failed.expect_err("it was to fail");
        sync_directory(driver, "/");
        assert!(world.file(HOST, "/a").is_some(), "programs go on seeing it");
    });
    assert_eq!(keys(left), [[None], [Some(1)]]);
}

#[test]
fn reserved_room_is_durable_with_the_file() {
    let reserve = |driver: &mut SimDriver, is_synced: bool| {
        let file = create(driver, "/a");
        write(driver, file, &[1; 10]);
        sync(driver, file);
        sync_directory(driver, "/");
        done(driver, FileTask::Preallocate { path: "/a".into(), length: 5_000 });
        if is_synced {
            sync(driver, file);
        }
    };
    let mut lengths = BTreeMap::new();
    for seed in 0..60 {
        let is_synced = seed % 2 == 0;
        let (mut world, mut driver) = host(seed);
        reserve(&mut driver, is_synced);
        crash(&mut world, Crash::PowerLoss);
        let file = world.file(HOST, "/a").expect("its name is durable");
        assert!(file[..10] == [1; 10] && file[10..].iter().all(|byte| *byte == 0));
        *lengths.entry((is_synced, file.len())).or_insert(0) += 1;
    }
    assert_eq!(lengths.keys().collect::<Vec<_>>(), [&(false, 10), &(false, 5_000), &(true, 5_000)]);
}

#[test]
fn zeros_are_durable_when_they_are_there_and_their_name_is_not() {
    let create = FileTask::CreateZeroed { path: "/a".into(), length: 100_000 };
    let made = create.clone();
    let left = left_by_power_loss(["/a"], move |_, driver| done(driver, made.clone()));
    assert_eq!(keys(left), [[None], [Some(0)]]);
    let (mut cut, mut missing) = (0, 0);
    for seed in 0..60 {
        let (mut world, mut driver) = host(seed);
        let is_whole = seed % 2 == 0;
        if is_whole {
            done(&mut driver, create.clone());
            sync_directory(&mut driver, "/");
        } else {
            driver.file_task(create.clone(), FileOpId(1));
        }
        crash(&mut world, if seed % 4 < 2 { Crash::PowerLoss } else { Crash::Kill });
        match world.file(HOST, "/a") {
            Some(file) if is_whole => assert!(file == [0; 100_000]),
            Some(file) => cut += usize::from(file.len() < 100_000),
            None => missing += usize::from(!is_whole),
        }
    }
    assert!(cut > 5 && missing > 5, "{cut} cut short, {missing} missing");
}

#[test]
fn a_full_disk_takes_no_new_names_and_lets_go_of_old_ones() {
    let (mut world, mut driver) = host(1);
    unnamed(&mut driver, "/a", &[1]);
    let lasts = Duration::from_secs(1);
    world.inject(Fault::FillDisk { host: HOST, lasts });
    let kind =
        |driver: &mut SimDriver, wanted| task(driver, wanted).expect_err("it is full").kind();
    let options = OpenFile { create: true, direct: false };
    for wanted in [
        FileTask::Open { path: "/b".into(), options },
        FileTask::CreateDirectory { path: "/d".into() },
        FileTask::CreateZeroed { path: "/b".into(), length: 1 },
        FileTask::Preallocate { path: "/a".into(), length: 10_000 },
        FileTask::Lock { path: "/LOCK".into() },
    ] {
        assert_eq!(kind(&mut driver, wanted.clone()), ErrorKind::StorageFull, "{wanted:?}");
    }
    assert_eq!(available(&mut driver), 0);
    let file = open(&mut driver, "/a", OpenFile::default());
    write(&mut driver, file, &[2]);
    driver.close_file(file);
    done(&mut driver, rename("/a", "/b"));
    done(&mut driver, FileTask::RemoveFile { path: "/b".into() });
    assert!(world.count(EventKind::DiskWasFull) >= 5);
    world.run_for(lasts);
    unnamed(&mut driver, "/b", &[2]);
}

fn available(driver: &mut SimDriver) -> u64 {
    match task(driver, FileTask::FreeSpace { path: "/".into() }) {
        Ok(FileTaskDone::Space(space)) => space.available_bytes,
        other => panic!("the room was asked for, and not {other:?}"),
    }
}

#[test]
fn room_is_taken_and_given_back() {
    let mut config = WorldConfig::default();
    config.disk.capacity_bytes = 40_960;
    let mut world = World::new(1, config);
    let mut driver = world.bare_host(1).remove(0);
    assert_eq!(available(&mut driver), 40_960);
    let zeroed = |length| FileTask::CreateZeroed { path: "/a".into(), length };
    let full = task(&mut driver, zeroed(40_961)).expect_err("there is less");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(world.file(HOST, "/a"), None, "nothing is left of it");
    done(&mut driver, zeroed(40_000));
    assert_eq!(available(&mut driver), 0);
    let file = open(&mut driver, "/a", OpenFile::default());
    write(&mut driver, file, &[1; 40_000]);
    done(&mut driver, FileTask::RemoveFile { path: "/a".into() });
    assert_eq!(available(&mut driver), 0, "it is open");
    driver.close_file(file);
    assert_eq!(available(&mut driver), 40_960);
}

#[test]
fn a_task_that_fails_does_nothing() {
    let (mut world, mut driver) = host(1);
    unnamed(&mut driver, "/a", &[1]);
    world.inject(Fault::FailDisk { host: HOST, op: DiskOp::Task, times: 2 });
    let error = task(&mut driver, rename("/a", "/b")).expect_err("it was to fail");
    assert!(error.to_string().contains("rename /a to /b"), "{error}");
    sync_directory(&mut driver, "/");
    task(&mut driver, FileTask::RemoveFile { path: "/a".into() }).expect_err("so was this");
    assert_eq!(world.file(HOST, "/a"), Some(vec![1]));
    done(&mut driver, rename("/a", "/b"));
}

#[test]
fn a_slow_disk_is_slow_at_tasks() {
    let (mut world, mut driver) = host(2);
    let time_of = |world: &World, driver: &mut SimDriver| {
        let began_at = world.now();
        sync_directory(driver, "/");
        world.now().since(began_at)
    };
    let ordinary = Duration::from_millis(2);
    assert!(time_of(&world, &mut driver) < ordinary);
    world.inject(Fault::SlowDisk { host: HOST, factor: 1_000, lasts: Duration::from_millis(1) });
    assert!(time_of(&world, &mut driver) >= Duration::from_millis(5));
}

#[test]
fn a_bit_flips_in_what_is_durable() {
    let mut offsets = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (mut world, mut driver) = host(seed);
        for path in ["/a", "/b"] {
            unnamed(&mut driver, path, &[0; 1_000]);
        }
        sync_directory(&mut driver, "/");
        let mix = catena_engine::sim::FaultMix {
            weights: catena_engine::sim::FaultWeights {
                flip_bit: 1,
                ..catena_engine::sim::FaultWeights::NONE
            },
            ..Default::default()
        };
        let plan = world.draw_plan(Duration::from_secs(1), &mix);
        world.inject(plan.first().expect("a second is long enough").1);
        let seen = ["/a", "/b"].map(|path| world.file(HOST, path));
        let durable = ["/a", "/b"].map(|path| world.durable_file(HOST, path));
        for both in [seen, durable] {
            let both = both.map(|file| file.expect("it is there"));
            let flipped: Vec<usize> = (0..2_000).filter(|i| both.concat()[*i] != 0).collect();
            let &[offset] = &flipped[..] else { panic!("one byte differs, not {flipped:?}") };
            assert_eq!(both.concat()[offset].count_ones(), 1);
            offsets.insert(offset);
        }
        assert_eq!(world.count(EventKind::BitFlipped), 1);
    }
    assert!(offsets.len() > 30, "anywhere: {offsets:?}");
    assert!(offsets.iter().any(|o| *o < 1_000) && offsets.iter().any(|o| *o >= 1_000));
}

#[test]
fn a_flipped_bit_lies_under_what_was_not_synced() {
    let (mut world, mut driver) = host(1);
    unnamed(&mut driver, "/a", &[1; 100]);
    sync_directory(&mut driver, "/");
    let file = create(&mut driver, "/a");
    write(&mut driver, file, &[2; 50]);
    world.flip_bit(HOST, "/a", 8 * 10 + 7);
    world.flip_bit(HOST, "/a", 8 * 60);
    let seen = world.file(HOST, "/a").expect("it is there");
    assert_eq!(
        (seen[10], seen[60]),
        (2, 0),
        "the cache is newer at one place, and the same at the other"
    );
    let durable = world.durable_file(HOST, "/a").expect("its name is durable");
    assert_eq!((durable[10], durable[60]), (0x81, 0));
    sync(&mut driver, file);
    let durable = world.durable_file(HOST, "/a").expect("its name is durable");
    assert_eq!((durable[10], durable[60]), (2, 0), "written over, and not");
}

#[test]
fn a_lock_is_one_shards_until_its_process_ends() {
    for how in [Crash::Kill, Crash::PowerLoss] {
        let mut world = World::new(1, WorldConfig::default());
        let mut shards = world.bare_host(2);
        let lock = |driver: &mut SimDriver| -> io::Result<FileTaskDone> {
            task(driver, FileTask::Lock { path: "/LOCK".into() })
        };
        let held = lock(&mut shards[0]).expect("nobody else has it");
        let refused = lock(&mut shards[1]).expect_err("somebody has it");
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        crash(&mut world, how);
        let mut shards = world.restart_bare_host(HOST);
        let again = lock(&mut shards[1]).expect("its holder is gone");
        drop(held);
        lock(&mut shards[0]).expect_err("what a dead process drops is not the lock of the living");
        drop(again);
        lock(&mut shards[0]).expect("it was dropped");
    }
}

#[test]
fn tasks_overtake_each_other_and_wait_for_nothing() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (_world, mut driver) = host(seed);
        let file = create(&mut driver, "/a");
        driver.file_task(FileTask::FreeSpace { path: "/".into() }, FileOpId(0));
        driver.file_task(FileTask::FreeSpace { path: "/".into() }, FileOpId(1));
        driver.sync(file, FileOpId(2));
        let mut order = Vec::new();
        while order.len() < 3 {
            driver.park(None).expect("operations are in flight");
            while let Some(completion) = driver.next_completion() {
                order.push(match completion {
                    Completion::FileTask { op, .. } | Completion::File { op, .. } => op.0,
                    other => panic!("nobody asked for {other:?}"),
                });
            }
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6, "all orders of three come up");
}
