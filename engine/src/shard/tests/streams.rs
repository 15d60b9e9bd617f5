//! Streams: an application that reads lines, and what the shard does around it.

use super::*;
use crate::application::{Application, Message};
use crate::limits::{
    BACKLOG_READ_MAX, LINGER, STREAM_STALL, STREAM_STALLED_READ_BYTES, STREAM_TURN_COMMANDS_MAX,
};
use crate::shard_index::ShardIndex;
use crate::stream::{Stream, StreamId, Streams};

/// Answers each line with itself. Some lines are special:
/// `later X` is answered at the end of a turn once [`Notes::is_due`] says so, and holds the stream until
/// then; `send X` is answered by a message to this shard, which ends the stream at once if X is `abort`;
/// `flood N` is answered with N bytes; `bye` ends the stream.
struct Lines {
    local: Local,
    notes: Rc<RefCell<Notes>>,
    owed: Vec<(StreamId, Vec<u8>)>,
}

#[derive(Default)]
struct Notes {
    is_due: bool,
    is_finished: bool,
    /// The application has this one read on in every turn.
    reads_on: Option<StreamId>,
    lines: usize,
    closed: Vec<StreamId>,
}

impl Application for Lines {
    fn accepted(&mut self, stream: &mut Stream<'_>) {
        if stream.is_surplus() {
            stream.output().extend_from_slice(b"too many\n");
        }
    }

    fn received(&mut self, bytes: &[u8], stream: &mut Stream<'_>) -> usize {
        let mut read = 0;
        while let Some(length) = bytes[read..].iter().position(|byte| *byte == b'\n') {
            if !stream.may_go_on() {
                break;
            }
            let line = &bytes[read..read + length];
            read += length + 1;
            self.notes.borrow_mut().lines += 1;
            if let Some(text) = line.strip_prefix(b"later ") {
                self.owed.push((stream.id(), text.to_vec()));
                stream.hold();
            } else if let Some(text) = line.strip_prefix(b"send ") {
                let message: Message = Box::new((stream.id(), text.to_vec()));
                self.local.send(ShardIndex(0), message);
            } else if let Some(count) = line.strip_prefix(b"flood ") {
                let count: usize = std::str::from_utf8(count).unwrap().parse().unwrap();
                stream.output().resize(count, b'x');
            } else if line == b"bye" {
                stream.output().extend_from_slice(b"bye\n");
                stream.close();
            } else {
                stream.output().extend_from_slice(&bytes[read - length - 1..read]);
            }
        }
        read
    }

    fn closed(&mut self, stream: StreamId) {
        self.notes.borrow_mut().closed.push(stream);
        self.owed.retain(|(owed, _)| *owed != stream);
    }

    fn owes(&self, stream: StreamId) -> bool {
        self.owed.iter().any(|(owed, _)| *owed == stream)
    }

    fn message(&mut self, from: ShardIndex, message: Message, streams: &mut Streams) {
        assert_eq!(from, ShardIndex(0));
        let message = message.downcast::<(StreamId, Vec<u8>)>().expect("it sends no other");
        let (stream, text) = *message;
        match streams.get(stream) {
            Some(mut stream) if text == b"abort" => stream.abort(),
            Some(mut stream) => stream.output().extend_from_slice(&text),
            None => {}
        }
    }

    fn turn_ended(&mut self, streams: &mut Streams) {
        if let Some(stream) = self.notes.borrow().reads_on {
            streams.read_on(stream);
        }
        if !self.notes.borrow().is_due {
            return;
        }
        for (stream, text) in self.owed.drain(..) {
            streams.read_on(stream);
            if let Some(mut stream) = streams.get(stream) {
                stream.output().extend_from_slice(&text);
            }
        }
    }

    fn is_finished(&mut self) -> bool {
        self.notes.borrow().is_finished
    }
}

/// A shard with an application, and where its streams arrive.
struct Scene {
    driver: ScriptDriver,
    shard: Shard,
    notes: Rc<RefCell<Notes>>,
}

const STREAMS: ListenerId = ListenerId(0);

impl Scene {
    fn new() -> Self {
        Self::with(ShardConfig::default())
    }

    fn with(config: ShardConfig) -> Self {
        let driver = ScriptDriver::new();
        let notes = Rc::<RefCell<Notes>>::default();
        let mailboxes = mesh(1, 64).pop().expect("one shard");
        let seen = notes.clone();
        let router = move |local: &Local| {
            Router::new().application(Lines { local: local.clone(), notes: seen, owed: Vec::new() })
        };
        let mut shard = Shard::new(config, &driver, mailboxes, Arc::default(), router);
        shard.add_stream_listener(STREAMS, false);
        shard.set_peers(ShardMap::default(), vec![driver.parker()]);
        Scene { driver, shard, notes }
    }

    fn turn(&mut self) -> Next {
        self.driver.wait(Duration::from_micros(1));
        self.shard.turn(&mut self.driver)
    }

    fn says(&mut self, stream: SocketId, text: &str) {
        self.driver.receives(stream, text.as_bytes().to_vec());
    }

    /// What was sent to a stream since this was asked last.
    fn heard(&mut self, stream: SocketId) -> String {
        let bytes = self.driver.sent.remove(&stream).unwrap_or_default();
        String::from_utf8(bytes).expect("lines are text")
    }

    fn lines(&self) -> usize {
        self.notes.borrow().lines
    }
}

#[test]
fn lines_arrive_in_pieces_and_are_answered_in_order() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    for piece in ["on", "e\ntwo\nth", "ree\n", ""] {
        if !piece.is_empty() {
            scene.says(stream, piece);
        }
        scene.turn();
    }
    assert_eq!(scene.heard(stream), "one\ntwo\nthree\n");
}

#[test]
fn a_stream_that_floods_has_its_part_and_no_more() {
    let mut scene = Scene::new();
    let (flooding, modest) = (scene.driver.accepts(), scene.driver.accepts());
    let count = 3 * STREAM_TURN_COMMANDS_MAX as usize;
    scene.says(flooding, &"x\n".repeat(count));
    scene.says(modest, "hello\n");
    assert!(scene.turn().busy, "there is more to read");
    assert_eq!(scene.heard(modest), "hello\n");
    assert!(scene.lines() <= 1 + STREAM_TURN_COMMANDS_MAX as usize, "{}", scene.lines());
    while scene.turn().busy {}
    assert_eq!(scene.heard(flooding).len(), 2 * count, "nothing is lost");
}

#[test]
fn what_was_owed_and_is_out_at_once_holds_nothing_up() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.says(stream, &format!("flood {}\nlast\n", 2 << 20));
    while scene.turn().busy {}
    assert_eq!(scene.lines(), 2);
}

/// It writes all it has to say before it reads, and could not go on for ever.
#[test]
fn who_takes_nothing_for_long_is_read_from_and_not_answered() {
    const LINES: usize = STREAM_STALLED_READ_BYTES / 1_024;
    let line = "x".repeat(1_023) + "\n";
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.driver.holds_sends = true;
    scene.says(stream, &format!("flood {}\n", 2 << 20));
    scene.turn();
    assert!(scene.driver.paused.contains(&stream));
    for _ in 0..3 {
        scene.driver.wait(STREAM_STALL * 2);
        scene.turn();
        assert!(!scene.driver.paused.contains(&stream), "it may be waiting to be read from");
        scene.says(stream, &line.repeat(LINES));
        scene.turn();
        assert!(scene.driver.paused.contains(&stream), "there are bounds");
        assert_eq!(scene.lines(), 1, "what it asks for waits");
    }
    scene.driver.holds_sends = false;
    scene.driver.send_held();
    while scene.turn().busy {}
    assert!(!scene.driver.paused.contains(&stream));
    assert_eq!(scene.lines(), 1 + 3 * LINES, "nothing is lost");
    assert!(scene.shard.connection_memory_bytes() < 1 << 20);
}

/// A long way to it, or a slow reader: as long as it takes something it is not read from.
#[test]
fn who_takes_what_it_is_owed_slowly_is_not_read_from() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.driver.holds_sends = true;
    scene.says(stream, &format!("flood {}\n", 2 << 20).repeat(4));
    scene.turn();
    for _ in 0..3 {
        scene.driver.wait(STREAM_STALL / 2);
        scene.driver.send_held();
        scene.turn();
        scene.driver.wait(STREAM_STALL / 2);
        while scene.turn().busy {}
        assert!(scene.driver.paused.contains(&stream), "after {} answers", scene.lines());
    }
    assert_eq!(scene.lines(), 4);
}

/// What has gone of a long answer is not known before all has.
#[test]
fn who_reads_a_long_answer_slowly_is_not_read_from() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.driver.holds_sends = true;
    scene.says(stream, &format!("flood {}\n", 8 << 20));
    scene.turn();
    scene.driver.wait(STREAM_STALL * 7);
    scene.turn();
    assert!(scene.driver.paused.contains(&stream));
    scene.driver.wait(STREAM_STALL);
    scene.turn();
    assert!(!scene.driver.paused.contains(&stream), "it has had a second for each MiB");
}

/// It has sent all it has to say, and ended its side.
#[test]
fn who_has_ended_its_side_is_answered_whatever_it_is_owed() {
    for holds_sends in [false, true] {
        let mut scene = Scene::new();
        let stream = scene.driver.accepts();
        scene.turn();
        scene.driver.holds_sends = holds_sends;
        scene.says(stream, &(format!("flood {}\n", 2 << 20).repeat(3) + "last\n"));
        scene.driver.ends(stream);
        for _ in 0..8 {
            while scene.turn().busy {}
            scene.driver.send_held();
        }
        let heard = scene.heard(stream);
        assert_eq!(heard.len(), 3 * (2 << 20) + "last\n".len(), "{holds_sends}");
    }
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.driver.holds_sends = true;
    let flood = 2 << 20;
    scene.says(stream, &format!("flood {flood}\nlast\n"));
    scene.turn();
    assert!(scene.driver.paused.contains(&stream), "two MiB wait for it");
    assert_eq!(scene.lines(), 1);
    scene.turn();
    assert_eq!(scene.lines(), 1, "and it is not read on");
    scene.driver.holds_sends = false;
    scene.driver.send_held();
    while scene.turn().busy {}
    assert!(!scene.driver.paused.contains(&stream));
    let heard = scene.heard(stream);
    assert_eq!(heard.len(), flood + "last\n".len());
    assert!(heard.ends_with("last\n"));
}

#[test]
fn a_stream_that_is_held_is_read_on_when_its_answer_is_out() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "later one,\ntwo\n");
    scene.turn();
    scene.says(stream, "three\n");
    let turns = (0..10).take_while(|_| scene.turn().busy).count();
    assert!(turns < 3, "nothing is to be done until then");
    assert_eq!((scene.lines(), scene.heard(stream)), (1, String::new()));
    scene.notes.borrow_mut().is_due = true;
    while scene.turn().busy {}
    assert_eq!(scene.heard(stream), "one,two\nthree\n");
}

/// What was read on although it was not held was taken for one that has more than its part to read.
#[test]
fn a_long_line_is_read_to_its_end_whatever_is_read_on() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.turn();
    scene.notes.borrow_mut().reads_on = Some(StreamId(stream));
    let half = "x".repeat(2 * BACKLOG_READ_MAX);
    scene.says(stream, &half);
    (0..3).for_each(|_| _ = scene.turn());
    assert!(!scene.driver.paused.contains(&stream), "the rest of the line is waited for");
    assert!(!scene.turn().busy);
    scene.says(stream, "\n");
    scene.turn();
    assert_eq!(scene.lines(), 1);
}

#[test]
fn who_has_ended_its_side_hears_what_it_is_owed() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "now\nlater then\n");
    scene.driver.ends(stream);
    scene.turn();
    assert_eq!(scene.heard(stream), "now\n");
    assert!(!scene.driver.closed.contains(&stream), "an answer is owed");
    scene.notes.borrow_mut().is_due = true;
    while scene.turn().busy {}
    assert_eq!(scene.heard(stream), "then");
    assert!(scene.driver.closed.contains(&stream));
    assert_eq!(scene.notes.borrow().closed, [StreamId(stream)]);
}

#[test]
fn who_has_ended_its_side_while_it_was_held_is_read_to_the_end() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "later one,\ntwo\n");
    scene.driver.ends(stream);
    scene.turn();
    assert_eq!(scene.lines(), 1);
    scene.notes.borrow_mut().is_due = true;
    while scene.turn().busy {}
    assert_eq!(scene.heard(stream), "one,two\n");
    assert!(scene.driver.closed.contains(&stream));
}

#[test]
fn a_stream_that_is_ended_may_read_its_last_word() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "bye\nignored\n");
    scene.turn();
    assert_eq!((scene.lines(), scene.heard(stream)), (1, "bye\n".to_owned()));
    assert!(scene.driver.is_shut_down(stream) && !scene.driver.closed.contains(&stream));
    scene.says(stream, "ignored as well\n");
    scene.turn();
    scene.driver.wait(LINGER);
    scene.turn();
    assert!(scene.driver.closed.contains(&stream), "it has had its time");
    assert_eq!(scene.lines(), 1);
}

#[test]
fn a_stream_that_is_aborted_ends_whatever_it_is_owed() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.driver.holds_sends = true;
    scene.says(stream, "send abort\nlater something\n");
    scene.turn();
    scene.says(stream, "ignored\n");
    while scene.turn().busy {}
    assert!(scene.driver.closed.contains(&stream), "its peer reads nothing");
    assert_eq!(scene.notes.borrow().closed, [StreamId(stream)]);
    assert!(scene.lines() <= 2);
}

#[test]
fn one_too_many_is_told_so() {
    let mut scene = Scene::with(ShardConfig { connections_max: 2, ..ShardConfig::default() });
    let streams = [(); 3].map(|()| scene.driver.accepts());
    for stream in streams {
        scene.says(stream, "hello\n");
    }
    scene.turn();
    let heard = streams.map(|stream| scene.heard(stream));
    assert_eq!(heard, ["hello\n", "hello\n", "too many\n"]);
    assert!(scene.driver.is_shut_down(streams[2]));
}

#[test]
fn messages_reach_the_application() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "send one\nsend two\n");
    while scene.turn().busy {}
    assert_eq!(scene.heard(stream), "onetwo");
}

#[test]
fn all_together_hold_no_more_memory_than_they_may() {
    let admission = AdmissionConfig { connection_bytes_max: 1 << 20, ..AdmissionConfig::default() };
    let mut scene = Scene::with(ShardConfig { admission, ..ShardConfig::default() });
    let streams = [(); 3].map(|()| scene.driver.accepts());
    for (stream, bytes) in streams.into_iter().zip([100, 500, 600]) {
        scene.says(stream, &"x".repeat(bytes << 10));
        scene.turn();
    }
    while scene.turn().busy {}
    let closed = streams.map(|stream| scene.driver.closed.contains(&stream));
    assert_eq!(closed, [false, false, true], "the largest goes");
    assert!(scene.shard.connection_memory_bytes() < 1 << 20);
}

/// They ask for it in one turn: whoever comes after the bound was passed is read when some of it has gone.
#[test]
fn what_is_asked_for_in_one_turn_is_not_answered_beyond_the_bound() {
    const BOUND: usize = 1 << 20;
    const FLOOD: usize = 700 << 10;
    let admission = AdmissionConfig { connection_bytes_max: BOUND, ..AdmissionConfig::default() };
    let mut scene = Scene::with(ShardConfig { admission, ..ShardConfig::default() });
    scene.driver.holds_sends = true;
    let streams = [(); 20].map(|()| scene.driver.accepts());
    scene.turn();
    for stream in streams {
        scene.says(stream, &format!("flood {FLOOD}\n"));
    }
    scene.turn();
    assert_eq!(scene.lines(), 2, "with the second one they hold too much");
    let mut most = 0;
    while scene.turn().busy {
        most = most.max(scene.shard.connection_memory_bytes());
    }
    assert!(most < BOUND + FLOOD + (64 << 10), "{most}");
    assert_eq!(scene.lines(), streams.len(), "everybody has a turn");
    assert_eq!(scene.driver.closed.len(), streams.len() - 1, "one does not hold too much");
}

#[test]
fn a_drain_answers_what_is_owed_and_waits_for_the_application() {
    let mut scene = Scene::new();
    let (idle, owed) = (scene.driver.accepts(), scene.driver.accepts());
    scene.says(owed, "later then\n");
    scene.turn();
    scene.shard.drain(&mut scene.driver);
    scene.turn();
    assert!(scene.driver.is_shut_down(idle) && !scene.driver.is_shut_down(owed));
    scene.notes.borrow_mut().is_due = true;
    scene.turn();
    assert_eq!(scene.heard(owed), "then");
    scene.driver.wait(LINGER);
    assert!(!scene.turn().stopped && !scene.turn().stopped, "the application has not finished");
    scene.notes.borrow_mut().is_finished = true;
    assert!(scene.turn().stopped);
}

#[test]
fn a_drain_has_an_end() {
    let mut scene = Scene::new();
    let stream = scene.driver.accepts();
    scene.says(stream, "later never\n");
    scene.notes.borrow_mut().is_finished = true;
    scene.turn();
    scene.shard.drain(&mut scene.driver);
    let next = scene.turn();
    assert!(!next.stopped);
    let until = next.until.expect("a drain has an end");
    scene.driver.wait(until.since(scene.driver.now()));
    scene.turn();
    assert!(scene.turn().stopped);
    assert!(scene.driver.closed.contains(&stream));
}
