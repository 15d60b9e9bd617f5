//! What one turn does for whom, step by step, without a kernel and without a world.

mod script;
mod streams;

use super::*;
use crate::driver::SocketId;
use crate::limits::{BACKLOG_READ_MAX, COMPLAINTS_MAX, COMPLAINTS_WINDOW, PEER_TURN_FRAMES_MAX};
use crate::mailbox::mesh;
use crate::time::Duration;
use crate::wire::deframer::{Deframer, Input};
use crate::wire::frame::Priority;
use crate::wire::frame::{CallId, GoAwayReason, MethodId, RequestHead, ResponseHead, Route};
use crate::wire::framer::{Framer, Payload};
use crate::wire::header::{HEADER_BYTES, Kind};
use crate::wire::hello::{Hello, VERSION_MAX, VERSION_MIN};
use crate::wire::output::Output;
use crate::wire::status::Status;
use crate::{Client, ClientConfig};
use script::ScriptDriver;
use std::cell::{Cell, RefCell};
use std::future::IntoFuture;
use std::rc::Rc;

const PART: usize = PEER_TURN_FRAMES_MAX as usize;

/// A shard whose one method notes who has called it, and spends time.
struct Stage {
    driver: ScriptDriver,
    shard: Shard,
    /// The payloads in the order of their execution.
    executed: Rc<RefCell<Vec<u8>>>,
    /// How long a request takes.
    takes: Rc<Cell<Duration>>,
}

impl Stage {
    fn new(admission: AdmissionConfig) -> Self {
        let driver = ScriptDriver::new();
        let config = ShardConfig { admission, ..ShardConfig::default() };
        let mailboxes = mesh(1, 64).pop().expect("one shard");
        let executed = Rc::<RefCell<Vec<u8>>>::default();
        let takes = Rc::new(Cell::new(Duration::ZERO));
        let (seen, spends, clock) = (executed.clone(), takes.clone(), driver.clock.clone());
        let router = move |_: &Local| {
            Router::new().method("note", move |request, reply| {
                seen.borrow_mut().push(request.payload()[0]);
                clock.set(clock.get() + spends.get());
                reply.ok(b"")
            })
        };
        let shard = Shard::new(config, &driver, mailboxes, Arc::default(), router);
        Stage { driver, shard, executed, takes }
    }

    /// A peer that has said hello.
    fn peer(&mut self) -> SocketId {
        let socket = self.driver.accepts();
        self.driver.receives(socket, hello(0));
        self.turn();
        self.driver.sent.clear();
        socket
    }

    fn turn(&mut self) -> Next {
        self.driver.wait(Duration::from_micros(1));
        self.shard.turn(&mut self.driver)
    }

    /// How often `who` was executed.
    fn executed(&self, who: u8) -> usize {
        self.executed.borrow().iter().filter(|by| **by == who).count()
    }

    /// Headers of what was sent to a peer.
    fn sent(&self, to: SocketId) -> Vec<crate::wire::header::Header> {
        let bytes = self.driver.sent.get(&to).map_or(&[][..], Vec::as_slice);
        let (mut deframer, mut input) = (Deframer::new(1 << 24), Input::new(bytes));
        let mut headers = Vec::new();
        while let Some(frame) = deframer.next(&mut input).expect("our own frames") {
            headers.push(frame.header);
        }
        headers
    }
}

fn hello(in_flight_max: u32) -> Vec<u8> {
    let hello = Hello {
        version_max: VERSION_MAX,
        version_min: VERSION_MIN,
        frame_bytes_max: 1 << 24,
        in_flight_max,
        payload_crc: false,
        idle_timeout_ms: 0,
        shards: ShardMap::default(),
    };
    let mut output = Output::default();
    let body = hello.encode_body();
    Framer::default().push(&mut output, hello.header(), &[], Payload::Copied(&body));
    output.to_vec()
}

/// So many requests of `who`, each with so many bytes and so much time left (0: no end of it).
fn requests(who: u8, count: usize, bytes: usize, time_left_us: u32) -> Vec<u8> {
    let mut output = Output::default();
    for slot in 0..count {
        let head = RequestHead {
            call: CallId::new(slot as u32 % 1_000, 1),
            method: MethodId::of("note"),
            priority: Priority::NORMAL,
            time_left_us,
            route: Route::ANY,
            repeat: false,
            hops: 0,
        };
        Framer::default().push(&mut output, head.header(), &[], Payload::Copied(&vec![who; bytes]));
    }
    output.to_vec()
}

#[test]
fn a_peer_that_floods_gets_its_part_of_a_turn_and_the_others_theirs() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let (flood, calm) = (stage.peer(), stage.peer());
    stage.driver.receives(flood, requests(1, 3 * PART, 1, 0));
    stage.driver.receives(calm, requests(2, 1, 1, 0));
    let next = stage.turn();
    assert_eq!((stage.executed(1), stage.executed(2)), (PART, 1));
    assert!(next.busy, "there is more to read, and nobody else will tell");
    stage.driver.receives(calm, requests(2, 1, 1, 0));
    stage.turn();
    assert_eq!((stage.executed(1), stage.executed(2)), (2 * PART, 2));
    stage.turn();
    let next = stage.turn();
    assert_eq!(stage.executed(1), 3 * PART);
    assert!(!next.busy);
    let calls: Vec<u64> =
        stage.sent(flood).iter().map(|header| header.call & 0xffff_ffff).collect();
    let expected: Vec<u64> = (0..3 * PART as u64).map(|slot| slot % 1_000).collect();
    assert_eq!(calls, expected, "all are answered, in order");
}

#[test]
fn a_part_is_bounded_by_time_where_requests_take_long() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let (slow, calm) = (stage.peer(), stage.peer());
    stage.takes.set(Duration::from_micros(60));
    stage.driver.receives(slow, requests(1, 10, 1, 0));
    stage.driver.receives(calm, requests(2, 1, 1, 0));
    stage.turn();
    assert_eq!((stage.executed(1), stage.executed(2)), (2, 1), "of 100 us");
}

#[test]
fn deadlines_count_from_the_arrival_of_what_was_put_aside() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let flood = stage.peer();
    stage.driver.receives(flood, requests(1, PART + 10, 1, 1_000));
    stage.turn();
    stage.driver.wait(Duration::from_millis(2));
    stage.turn();
    assert_eq!(stage.executed(1), PART, "the rest has expired in the queue");
    let expired =
        stage.sent(flood).iter().filter(|header| header.code == Status::EXPIRED_IN_QUEUE.0).count();
    assert_eq!(expired, 10);
}

#[test]
fn what_waits_its_turn_counts_as_queue_delay() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let flood = stage.peer();
    stage.driver.receives(flood, requests(1, PART + 1, 1, 0));
    stage.turn();
    stage.driver.wait(Duration::from_millis(3));
    stage.turn();
    let sent = stage.sent(flood);
    let last = ResponseHead::from_header(sent.last().expect("it is answered"));
    assert!(last.queue_delay_us >= 3_000, "{last:?}");
}

#[test]
fn a_peer_is_not_read_from_while_much_of_it_waits() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let flood = stage.peer();
    stage.driver.receives(flood, requests(1, PART, 1, 0));
    let large = BACKLOG_READ_MAX / 100 + 1;
    stage.driver.receives(flood, requests(1, 100, large, 0));
    stage.turn();
    assert!(stage.driver.paused.contains(&flood));
    stage.turn();
    assert!(!stage.driver.paused.contains(&flood), "it was read up to here");
    assert_eq!(stage.executed(1), PART + 100);
}

#[test]
fn above_the_limit_on_memory_the_connection_that_holds_most_is_ended() {
    let admission = AdmissionConfig { connection_bytes_max: 1 << 20, ..AdmissionConfig::default() };
    let mut stage = Stage::new(admission);
    let (large, small, third) = (stage.peer(), stage.peer(), stage.peer());
    let begins = |who, bytes: usize| {
        let mut whole = requests(who, 1, 8 << 20, 0);
        whole.truncate(HEADER_BYTES + bytes);
        whole
    };
    stage.driver.receives(large, begins(1, 500_000));
    stage.driver.receives(small, begins(2, 100_000));
    stage.turn();
    assert!(stage.sent(large).is_empty() && stage.sent(small).is_empty());
    stage.driver.receives(third, begins(3, 400_000));
    stage.turn();
    stage.turn();
    let last_words: Vec<_> = [large, small, third].map(|peer| stage.sent(peer)).into();
    let overloaded = |headers: &Vec<crate::wire::header::Header>| {
        headers
            .iter()
            .any(|header| header.kind == Kind::GoAway && header.code == GoAwayReason::OVERLOADED.0)
    };
    assert_eq!(last_words.iter().map(overloaded).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn of_many_peers_at_fault_a_few_have_a_log_line_and_the_sum_is_told_in_time() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let began = stage.driver.now();
    for _ in 0..3 * COMPLAINTS_MAX {
        let socket = stage.driver.accepts();
        stage.driver.receives(socket, b"GET / HTTP/1.1\r\nHost: somewhere else\r\n\r\n".to_vec());
        stage.turn();
        stage.driver.ends(socket);
        stage.turn();
    }
    assert_eq!(stage.shard.serving.metrics.protocol_errors.value(), 30);
    let until = stage.turn().until.expect("the sum is still to be told");
    assert!(until.since(began) <= COMPLAINTS_WINDOW + Duration::from_micros(10), "{until:?}");
    stage.driver.wait(COMPLAINTS_WINDOW);
    assert_eq!(stage.turn().until, None, "nothing is left to be told");
    assert!(stage.shard.serving.may_complain());
}

#[test]
fn answers_that_came_before_the_end_are_answers() {
    let mut stage = Stage::new(AdmissionConfig::default());
    let calls = 2 * PART;
    let client = Client::new(stage.shard.local(), address(), ClientConfig::default());
    let answered = Rc::new(Cell::new(0));
    for _ in 0..calls {
        let (call, answered) =
            (client.call(MethodId::of("x"), b"").into_future(), answered.clone());
        let count = async move {
            let is_ok = call.await.is_ok();
            answered.set(answered.get() + usize::from(is_ok));
        };
        stage.shard.local().spawn(count).detach();
    }
    stage.turn();
    stage.turn();
    let server = SocketId { slot: 0, generation: 1 };
    stage.driver.connects(server);
    stage.driver.receives(server, hello(1_000));
    for _ in 0..3 {
        stage.turn();
    }
    let sent = stage.sent(server);
    let requested = sent.iter().filter(|header| header.kind == Kind::Request).count();
    assert_eq!(requested, calls, "all are sent");
    let mut output = Output::default();
    for request in sent.iter().filter(|header| header.kind == Kind::Request) {
        let head = ResponseHead {
            call: CallId(request.call),
            status: Status::OK,
            queue_delay_us: 0,
            service_us: 0,
            in_flight: 1,
        };
        Framer::default().push(&mut output, head.header(), &[], Payload::Copied(b""));
    }
    stage.driver.receives(server, output.to_vec());
    stage.driver.ends(server);
    for _ in 0..4 {
        stage.turn();
    }
    assert_eq!(answered.get(), calls);
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}
