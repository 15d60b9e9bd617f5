//! A peer that takes its answers slowly, or not at all, before a real shard in a simulated world.

use crate::reference::{FRAME_BYTES_MAX, hello_with, request};
use catena_engine::dispatch::Router;
use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::mailbox::mesh;
use catena_engine::shard::{Shard, ShardConfig};
use catena_engine::sim::{self, NetworkConfig, SimDriver, World, WorldConfig};
use catena_engine::time::Duration;
use catena_engine::wire::deframer::{Deframer, Input};
use catena_engine::wire::frame::{GoAwayReason, MethodId};
use catena_engine::wire::header::Kind;
use std::net::SocketAddr;
use std::sync::Arc;

const SECOND: Duration = Duration::from_secs(1);

/// A server whose every answer is long, and a client that a test plays byte by byte.
struct Scene {
    world: World,
    client: SimDriver,
    socket: SocketId,
    received: Vec<u8>,
    has_ended: bool,
}

impl Scene {
    fn new(answer_bytes: usize) -> Scene {
        let network = NetworkConfig {
            send_buffer_bytes: (64 << 10, 64 << 10),
            receive_buffer_bytes: (64 << 10, 64 << 10),
            fragmented_chance: 0.0,
            ..NetworkConfig::default()
        };
        let mut world = World::new(1, WorldConfig { network, ..WorldConfig::default() });
        let server = world.start_process(move |boot: sim::Boot<'_>| {
            let driver = &mut boot.drivers[0];
            let config = ShardConfig::default();
            let mailboxes = mesh(1, 64).pop().expect("one shard");
            let long = |_: &_| {
                Router::new().method("long", move |_, reply| reply.ok(vec![7; answer_bytes]))
            };
            let mut shard = Shard::new(config, driver, mailboxes, Arc::default(), long);
            let address = SocketAddr::new(boot.host.ip(), 7_000);
            shard.listen(driver, address).expect("nobody else has the port");
            move |driver: &mut SimDriver| {
                let next = shard.turn(driver);
                sim::Next { until: next.until, busy: next.busy, stopped: next.stopped }
            }
        });
        let mut client = world.bare_host(1).remove(0);
        let address = SocketAddr::new(server.ip(), 7_000);
        let socket = client.connect(address).expect("there is room for a socket");
        let mut scene = Scene { world, client, socket, received: Vec::new(), has_ended: false };
        scene.run_for(SECOND);
        scene.send(&hello_with(&[(FRAME_BYTES_MAX, 1 << 24)]));
        scene.run_for(SECOND);
        scene
    }

    /// Asks for more than anybody holds in buffers, and then does not read.
    fn ask_and_look_away(&mut self, calls: u32) {
        self.client.pause_receive(self.socket);
        let method = MethodId::of("long").0;
        let requests: Vec<u8> =
            (0..calls).flat_map(|slot| request(slot, method, b"").encode()).collect();
        self.send(&requests);
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut output = Output::default();
        output.copied_mut().extend_from_slice(bytes);
        if let SendState::InFlight = self.client.send(self.socket, output) {
            self.run_for(SECOND);
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.world.run_for(time);
        while self.client.poll().expect("memory does not fail") {
            while let Some(completion) = self.client.next_completion() {
                match completion {
                    Completion::Received { chunk, .. } => {
                        self.received.extend_from_slice(self.client.bytes(&chunk));
                        self.client.give_back(chunk);
                    }
                    Completion::ReceiveEnded { .. } => self.has_ended = true,
                    _ => {}
                }
            }
        }
    }

    /// Reads about so many times 64 KiB.
    fn read(&mut self, times: u32) {
        self.client.resume_receive(self.socket);
        (0..times).for_each(|_| self.run_for(Duration::from_millis(1)));
        self.client.pause_receive(self.socket);
    }

    /// Whole answers that arrived, and the reason of a go-away.
    fn heard(&self) -> (u32, Option<GoAwayReason>) {
        let (mut answers, mut reason) = (0, None);
        let mut deframer = Deframer::new(1 << 24);
        let mut input = Input::new(&self.received);
        while let Some(frame) = deframer.next(&mut input).expect("a server sends frames") {
            match frame.header.kind {
                Kind::Response => answers += 1,
                Kind::GoAway => reason = Some(GoAwayReason(frame.header.code)),
                _ => {}
            }
        }
        (answers, reason)
    }
}

#[test]
fn a_reader_that_is_slow_gets_all_its_answers() {
    for (answer_bytes, calls) in [(64 << 10, 200), (12 << 20, 1)] {
        let mut scene = Scene::new(answer_bytes);
        scene.ask_and_look_away(calls);
        // Much faster than the slowest that is borne, but in all far longer than any silence is.
        for _ in 0..6 {
            scene.run_for(8 * SECOND);
            assert!(!scene.has_ended, "it reads");
            scene.read(24);
        }
        let (some, reason) = scene.heard();
        assert!(some < calls && reason.is_none(), "{some} answers so far");
        scene.read(500);
        assert_eq!(scene.heard(), (calls, None));
        assert!(!scene.has_ended);
    }
}

#[test]
fn a_reader_that_never_reads_is_given_up_for_that() {
    for (answer_bytes, calls) in [(64 << 10, 200), (12 << 20, 1)] {
        let mut scene = Scene::new(answer_bytes);
        scene.ask_and_look_away(calls);
        scene.run_for(200 * SECOND);
        scene.read(500);
        let (answers, _) = scene.heard();
        assert!(scene.has_ended && answers < calls, "{answers} answers");
    }
}
