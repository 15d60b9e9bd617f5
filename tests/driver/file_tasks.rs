//! Names, room and locks: what a driver does with files besides reading, writing and syncing them.

use crate::files::outcome;
use crate::harness::{Harness, Pair, Seen, Server, pattern};
use catena_engine::driver::{
    DirectoryEntry, Driver, EntryKind, FileBuffer, FileId, FileLock, FileOpId, FileTask,
    FileTaskDone, OpenFile,
};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

const OP: FileOpId = FileOpId(u64::MAX);

/// Waits for one task and returns its outcome.
fn answer<H: Harness>(pair: &mut Pair<H>, op: FileOpId) -> io::Result<FileTaskDone> {
    let mut answer = None;
    pair.until("the task ends", |pair| {
        let seen = &mut pair.seen[Server as usize];
        if let Some(index) =
            seen.iter().position(|s| matches!(s, Seen::FileTask(id, _) if *id == op))
            && let Seen::FileTask(_, result) = seen.remove(index)
        {
            answer = Some(result);
        }
        answer.is_some()
    });
    answer.expect("the wait is over")
}

fn task<H: Harness>(pair: &mut Pair<H>, task: FileTask) -> io::Result<FileTaskDone> {
    pair.driver(Server).file_task(task, OP);
    answer(pair, OP)
}

/// A task that has nothing to say but that it is done.
fn done<H: Harness>(pair: &mut Pair<H>, wanted: FileTask) -> io::Result<()> {
    task(pair, wanted).map(|done| assert!(matches!(done, FileTaskDone::Done), "{done:?}"))
}

/// Opens a file on the server's side.
pub fn open<H: Harness>(pair: &mut Pair<H>, path: &Path, options: OpenFile) -> io::Result<FileId> {
    let opened = task(pair, FileTask::Open { path: path.to_owned(), options })?;
    let FileTaskDone::Opened(file) = opened else { panic!("it was to be opened: {opened:?}") };
    Ok(file)
}

/// A file with so many bytes of a pattern.
fn file_of<H: Harness>(pair: &mut Pair<H>, path: &Path, bytes: usize, salt: u64) -> FileId {
    let options = OpenFile { create: true, direct: false };
    let file = open(pair, path, options).expect("the directory is writable");
    let buffer = FileBuffer::copy_of(&pattern(bytes, salt));
    pair.driver(Server).write(file, 0, buffer, FileOpId(1));
    outcome(pair, FileOpId(1)).1.expect("the disk takes it");
    file
}

fn read<H: Harness>(pair: &mut Pair<H>, file: FileId) -> Vec<u8> {
    pair.driver(Server).read(file, 0, FileBuffer::zeroed(1 << 20), FileOpId(2));
    let (buffer, result) = outcome(pair, FileOpId(2));
    buffer.bytes()[..result.expect("it can be read")].to_vec()
}

fn read_path<H: Harness>(pair: &mut Pair<H>, path: &Path) -> io::Result<Vec<u8>> {
    let file = open(pair, path, OpenFile::default())?;
    let bytes = read(pair, file);
    pair.driver(Server).close_file(file);
    Ok(bytes)
}

fn list<H: Harness>(pair: &mut Pair<H>, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
    match task(pair, FileTask::ListDirectory { path: path.to_owned() })? {
        FileTaskDone::Entries(entries) => Ok(entries),
        other => panic!("entries were asked for, and not {other:?}"),
    }
}

fn length<H: Harness>(pair: &mut Pair<H>, path: &Path) -> io::Result<u64> {
    match task(pair, FileTask::FileLength { path: path.to_owned() })? {
        FileTaskDone::Length(length) => Ok(length),
        other => panic!("a length was asked for, and not {other:?}"),
    }
}

fn lock<H: Harness>(pair: &mut Pair<H>, path: &Path) -> io::Result<FileLock> {
    match task(pair, FileTask::Lock { path: path.to_owned() })? {
        FileTaskDone::Locked(lock) => Ok(lock),
        other => panic!("a lock was asked for, and not {other:?}"),
    }
}

pub fn directories_are_made_listed_and_removed<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let base = pair.harness.directory();
    let low = base.join("top/middle/low");
    let create = |path: &Path| FileTask::CreateDirectory { path: path.to_owned() };
    let remove = |path: &Path| FileTask::RemoveDirectory { path: path.to_owned() };
    done(&mut pair, create(&low)).expect("the directory is writable");
    done(&mut pair, create(&low)).expect("it is there already, which is what was wanted");
    let file = file_of(&mut pair, &base.join("top/file"), 777, 1);
    pair.driver(Server).close_file(file);
    let entry = |name: &str, kind, length| DirectoryEntry { name: name.into(), kind, length };
    let entries = list(&mut pair, &base.join("top")).expect("it exists");
    let expected = [entry("file", EntryKind::File, 777), entry("middle", EntryKind::Directory, 0)];
    assert_eq!(entries, expected);
    assert_eq!(list(&mut pair, &low).expect("it exists"), []);

    let kind = |result: io::Result<()>| result.expect_err("it cannot be done").kind();
    let missing = list(&mut pair, &base.join("missing")).map(drop);
    assert_eq!(kind(missing), ErrorKind::NotFound);
    let of_file = list(&mut pair, &base.join("top/file")).map(drop);
    assert_eq!(kind(of_file), ErrorKind::NotADirectory);
    let under_file = done(&mut pair, create(&base.join("top/file/below")));
    assert_eq!(kind(under_file), ErrorKind::NotADirectory);
    let in_missing =
        open(&mut pair, &base.join("missing/file"), OpenFile { create: true, direct: false });
    assert_eq!(kind(in_missing.map(drop)), ErrorKind::NotFound);
    let full = done(&mut pair, remove(&base.join("top")));
    assert_eq!(kind(full), ErrorKind::DirectoryNotEmpty);
    let as_file = done(&mut pair, FileTask::RemoveFile { path: low.clone() });
    assert_eq!(kind(as_file), ErrorKind::IsADirectory);

    done(&mut pair, remove(&low)).expect("it is empty");
    let gone = done(&mut pair, remove(&low));
    assert_eq!(kind(gone), ErrorKind::NotFound);
    assert_eq!(list(&mut pair, &base.join("top/middle")).expect("it exists"), []);
}

pub fn a_rename_replaces_what_was_there<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let base = pair.harness.directory();
    let (old, new) = (base.join("old"), base.join("new"));
    let replaced = file_of(&mut pair, &new, 100, 1);
    let moved = file_of(&mut pair, &old, 200, 2);
    let rename = FileTask::Rename { from: old.clone(), to: new.clone() };
    done(&mut pair, rename.clone()).expect("both are there");
    assert_eq!(read_path(&mut pair, &new).expect("it has a new name"), pattern(200, 2));
    assert_eq!(read_path(&mut pair, &old).expect_err("it had").kind(), ErrorKind::NotFound);
    // Who had them open still has.
    assert_eq!(read(&mut pair, replaced), pattern(100, 1));
    assert_eq!(read(&mut pair, moved), pattern(200, 2));
    let error = done(&mut pair, rename).expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    let names = format!("cannot rename {} to {}: ", old.display(), new.display());
    assert!(text.starts_with(&names), "{text}");
    // Into another directory, and a directory.
    let (from, to) = (base.join("from"), base.join("to"));
    done(&mut pair, FileTask::CreateDirectory { path: from.clone() }).expect("it is writable");
    let inside = FileTask::Rename { from: new.clone(), to: from.join("inside") };
    done(&mut pair, inside).expect("both are there");
    done(&mut pair, FileTask::Rename { from, to: to.clone() }).expect("there is no such thing yet");
    assert_eq!(read_path(&mut pair, &to.join("inside")).expect("it moved twice"), pattern(200, 2));
}

pub fn a_removed_file_is_there_for_who_has_it_open<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("file");
    let file = file_of(&mut pair, &path, 5_000, 3);
    done(&mut pair, FileTask::RemoveFile { path: path.clone() }).expect("it is there");
    assert_eq!(read_path(&mut pair, &path).expect_err("it was").kind(), ErrorKind::NotFound);
    let again = done(&mut pair, FileTask::RemoveFile { path: path.clone() });
    assert_eq!(again.expect_err("it was").kind(), ErrorKind::NotFound);
    assert_eq!(read(&mut pair, file), pattern(5_000, 3));
    let other = file_of(&mut pair, &path, 10, 4);
    assert_eq!(read(&mut pair, file), pattern(5_000, 3), "a new file of that name is another");
    assert_eq!(read(&mut pair, other), pattern(10, 4));
}

pub fn a_directory_is_synced_and_nothing_else<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory();
    let file = path.join("file");
    file_of(&mut pair, &file, 10, 1);
    let missing = path.join("missing");
    done(&mut pair, FileTask::SyncDirectory { path }).expect("it is there");
    let missing = done(&mut pair, FileTask::SyncDirectory { path: missing });
    assert_eq!(missing.expect_err("nobody made it").kind(), ErrorKind::NotFound);
    let not_one = done(&mut pair, FileTask::SyncDirectory { path: file });
    assert_eq!(not_one.expect_err("it is a file").kind(), ErrorKind::NotADirectory);
}

pub fn a_file_is_as_long_as_was_written_or_reserved<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let base = pair.harness.directory();
    let path = base.join("file");
    let file = file_of(&mut pair, &path, 10_001, 5);
    assert_eq!(length(&mut pair, &path).expect("it exists"), 10_001);
    let reserve = |length| FileTask::Preallocate { path: path.clone(), length };
    for (reserved, expected) in [(0, 10_001), (5_000, 10_001), (100_000, 100_000), (1, 100_000)] {
        done(&mut pair, reserve(reserved)).expect("there is room");
        assert_eq!(length(&mut pair, &path).expect("it exists"), expected);
    }
    let bytes = read(&mut pair, file);
    assert!(bytes[..10_001] == pattern(10_001, 5), "what was there is there");
    assert!(bytes.len() == 100_000 && bytes[10_001..].iter().all(|byte| *byte == 0));
    let kind = |result: io::Result<u64>| result.expect_err("it has none").kind();
    assert_eq!(kind(length(&mut pair, &base.join("missing"))), ErrorKind::NotFound);
    assert_eq!(kind(length(&mut pair, &base)), ErrorKind::IsADirectory);
    let missing = FileTask::Preallocate { path: base.join("missing"), length: 1 };
    assert_eq!(done(&mut pair, missing).expect_err("nobody made it").kind(), ErrorKind::NotFound);
}

pub fn a_file_of_zeros_is_new_and_of_zeros<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("segment");
    let create = FileTask::CreateZeroed { path: path.clone(), length: 300_001 };
    done(&mut pair, create.clone()).expect("there is room");
    assert_eq!(length(&mut pair, &path).expect("it exists"), 300_001);
    let bytes = read_path(&mut pair, &path).expect("it exists");
    assert!(bytes.len() == 300_001 && bytes.iter().all(|byte| *byte == 0));
    let file = file_of(&mut pair, &path, 1_000, 6);
    let error = done(&mut pair, create).expect_err("there is one");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let bytes = read(&mut pair, file);
    assert!(bytes.len() == 300_001 && bytes[..1_000] == pattern(1_000, 6), "it is not touched");
    let nothing = pair.harness.directory().join("nothing");
    done(&mut pair, FileTask::CreateZeroed { path: nothing.clone(), length: 0 }).expect("no room");
    assert_eq!(length(&mut pair, &nothing).expect("it exists"), 0);
}

pub fn the_room_on_a_file_system_is_told<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory();
    let missing = FileTask::FreeSpace { path: path.join("missing") };
    let FileTaskDone::Space(space) = task(&mut pair, FileTask::FreeSpace { path }).expect("it is")
    else {
        panic!("the room was asked for");
    };
    assert!(0 < space.available_bytes && space.available_bytes <= space.total_bytes, "{space:?}");
    let missing = task(&mut pair, missing).expect_err("nobody made it");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

pub fn a_lock_is_one_holders_until_it_is_dropped<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let path = pair.harness.directory().join("LOCK");
    let held = lock(&mut pair, &path).expect("nobody else has it");
    let also_held = held.clone();
    for held in [held, also_held] {
        let refused = lock(&mut pair, &path).expect_err("somebody has it");
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        let text = refused.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("locked"), "{text}");
        // To open the file and to close it again does not lose the lock.
        read_path(&mut pair, &path).expect("a lock keeps only lockers away");
        drop(held);
    }
    let again = lock(&mut pair, &path).expect("nobody has it any more");
    let other = path.with_file_name("OTHER");
    lock(&mut pair, &other).expect("it is another file");
    drop(again);
}

pub fn every_task_is_answered_under_its_own_id<H: Harness>() {
    let mut pair = Pair::<H>::new();
    let base = pair.harness.directory();
    let options = OpenFile { create: true, direct: false };
    let path = |number: u64| base.join(number.to_string());
    for number in 0..50 {
        let open = FileTask::Open { path: path(number), options };
        pair.driver(Server).file_task(open, FileOpId(number));
        let gone = FileTask::RemoveFile { path: base.join("missing") };
        pair.driver(Server).file_task(gone, FileOpId(1_000 + number));
    }
    let mut files = BTreeSet::new();
    for number in 0..50 {
        match answer(&mut pair, FileOpId(number)).expect("the directory is writable") {
            FileTaskDone::Opened(file) => assert!(files.insert(file), "{file:?} was given twice"),
            other => panic!("it was to be opened: {other:?}"),
        }
        answer(&mut pair, FileOpId(1_000 + number)).expect_err("it is missing");
    }
    assert_eq!(list(&mut pair, &base).expect("it exists").len(), 50);
}
