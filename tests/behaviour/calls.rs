//! Calls: many at a time, answered in any order, small and large, typed and plain.

use crate::lab::Lab;
use crate::peer::{self, Next, Peer, request};
use crate::service::{
    self, COUNT, Came, ECHO, HEAD, NOTHING_TO_REPEAT, Probe, REPEAT, SLEEP, SOURCE,
};
use crate::service::{call, micros_of, pattern};
use bytes::Bytes;
use catena_engine::config::ConnectionConfig;
use catena_engine::service::TypedCallError;
use catena_engine::wire::frame::{CallId, GoAwayReason, RequestHead};
use catena_engine::wire::framer::{Framer, Payload};
use catena_engine::wire::header::{Flags, HEADER_BYTES, Kind};
use catena_engine::wire::hello::Hello;
use catena_engine::wire::metadata::{MetadataBuf, TOKEN, TRACE_CONTEXT};
use catena_engine::wire::output::Output;
use catena_engine::{CallError, Client, ClientConfig, MethodId, Priority, Route, Status};
use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::time::Duration;

pub fn every_call_gets_its_own_answer<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let answers = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let calls = (0..500u32).map(|n| call(client.call(ECHO, n.to_le_bytes().to_vec())));
        join_all(calls).await
    });
    for (n, answer) in (0..500u32).zip(answers) {
        assert_eq!(answer, Came::Ok(n.to_le_bytes().to_vec()));
    }
}

pub fn answers_come_as_they_are_ready<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let order = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let mut calls: FuturesUnordered<_> = [300u64, 5, 150]
            .map(|millis| {
                let call = client.call(SLEEP, micros_of(Duration::from_millis(millis)));
                async move { call.await.map(|_| millis) }
            })
            .into_iter()
            .collect();
        let mut order = Vec::new();
        while let Some(answered) = calls.next().await {
            order.push(answered.expect("the server is there"));
        }
        order
    });
    assert_eq!(order, [5, 150, 300], "the first asked is the last answered");
}

pub fn an_answer_tells_how_long_it_took<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let head = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let answer = client.call(SLEEP, micros_of(Duration::from_millis(20))).await;
        answer.expect("the server is there").head
    });
    assert!(head.service_us >= 20_000, "{head:?}");
    assert_eq!(head.in_flight, 1, "alone on its shard");
}

pub fn typed_methods_speak_in_values<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let (twice, never) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let twice = REPEAT.call(&client, &(2, "so".to_owned()), |call| call).await;
        let never = REPEAT.call(&client, &(0, "so".to_owned()), |call| call).await;
        (twice, never)
    });
    assert_eq!(twice, Ok(vec!["so".to_owned(); 2]));
    let Err(TypedCallError::Call(CallError::Status { status, payload })) = never else {
        panic!("an application's own status is an error: {never:?}");
    };
    assert_eq!((status, &payload[..]), (NOTHING_TO_REPEAT, &b"nothing to repeat"[..]));
}

pub fn a_payload_that_is_no_value_is_malformed<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let bad = call(client.call(MethodId::of("repeat"), b"\xFF\xFF\xFF\xFF")).await;
        [bad, call(client.call(ECHO, b"still here")).await]
    });
    assert_eq!(came[0], Came::Status(Status::MALFORMED));
    assert_eq!(came[1], Came::Ok(b"still here".to_vec()));
}

pub fn an_unknown_method_says_so<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let unknown = call(client.call(MethodId::of("no such method"), b"")).await;
        [unknown, call(client.call(ECHO, b"still here")).await]
    });
    assert_eq!(came[0], Came::Status(Status::UNKNOWN_METHOD));
    assert_eq!(came[1], Came::Ok(b"still here".to_vec()));
}

const LARGE: usize = 16 << 20;

pub fn bodies_of_16_mib_go_both_ways<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let (up_and_down, down) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let up_and_down = call(client.call(ECHO, pattern(LARGE))).await;
        let down = call(client.call(SOURCE, (LARGE as u32).to_le_bytes().to_vec())).await;
        (up_and_down, down)
    });
    let expected = Came::Ok(pattern(LARGE));
    assert!(up_and_down == expected && down == expected, "every byte is in its place");
}

/// More at a time than both sides buffer, on one connection. Were a client to stop reading while it
/// has something to send, both would wait for the other for ever.
pub fn large_bodies_and_small_calls_share_a_connection<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new());
    let server = lab.start(spec.connection(|config| config.output_bytes_max = 64 << 10));
    let address = lab.address(server);
    let (large, small) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let body = Bytes::from(pattern(L::socket_bytes_max() / 4));
        let large = (0..4).map(async |task| {
            let mut right = 0;
            for round in 0..5 {
                // Three requests go out in one piece, while the answers to others come in.
                let three = (0..3).map(|_| client.call(ECHO, body.clone()).into_future());
                let answers = join_all(three).await.into_iter();
                right += answers
                    .filter(|answer| answer.as_ref().is_ok_and(|a| a.payload == body))
                    .count();
                local.sleep(Duration::from_micros(task * 700 + round * 100)).await;
            }
            right
        });
        let small = (0..100u32).map(async |n| {
            local.sleep(Duration::from_micros(500) * n).await;
            call(client.call(ECHO, n.to_le_bytes().to_vec())).await
        });
        join(join_all(large), join_all(small)).await
    });
    assert_eq!(large, [15; 4]);
    for (n, answer) in (0..100u32).zip(small) {
        assert_eq!(answer, Came::Ok(n.to_le_bytes().to_vec()));
    }
}

pub fn what_is_too_large_is_refused_on_either_side<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.frame_bytes_max = 8_192);
    let server = lab.start(spec);
    let address = lab.address(server);
    let (request, answer, after) = lab.run(move |local| async move {
        let mut config = ClientConfig::default();
        let mut connection = (*config.connection).clone();
        connection.frame_bytes_max = 4_096;
        config.connection = connection.into();
        let client = Client::new(&local, address, config);
        let request = call(client.call(ECHO, vec![1; 8_192])).await;
        let answer = call(client.call(ECHO, vec![1; 4_096])).await;
        (request, answer, call(client.call(ECHO, b"still here")).await)
    });
    let too_large = CallError::TooLarge { frame_bytes: 8_192 + 32, max: 8_192 };
    assert_eq!(request, Came::Failed(too_large), "it never left");
    assert_eq!(answer, Came::Status(Status::ANSWER_TOO_LARGE));
    assert_eq!(after, Came::Ok(b"still here".to_vec()));
}

/// At home and handed over to another shard.
pub fn what_comes_with_a_call_arrives<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).shards(2));
    let address = lab.shard_address(server, 0);
    let mut metadata = MetadataBuf::default();
    metadata.push(TRACE_CONTEXT, &[9; 25]).expect("it is short");
    metadata.push(TOKEN, b"secret").expect("it is short");
    let mut expected = Priority::CRITICAL.0.to_le_bytes().to_vec();
    expected.push(1);
    expected.extend_from_slice(metadata.as_metadata().as_bytes());
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let calls = [Route::ANY, Route(2)].map(|route| {
            let with = client.call(HEAD, b"").priority(Priority::CRITICAL).repeat().route(route);
            call(with.metadata(metadata.clone()))
        });
        let without = [Route::ANY, Route(2)].map(|route| call(client.call(HEAD, b"").route(route)));
        (join_all(calls).await, join_all(without).await)
    });
    assert_eq!(came.0, vec![Came::Ok(expected); 2]);
    let plain = [Priority::NORMAL.0.to_le_bytes().to_vec(), vec![0]].concat();
    assert_eq!(came.1, vec![Came::Ok(plain); 2]);
}

pub fn checksums_are_used_where_both_ask<L: Lab>(lab: &mut L) {
    for (server_asks, client_asks) in [(true, true), (true, false), (false, true)] {
        let spec = service::spec(&Probe::new()).shards(2);
        let server = lab.start(spec.connection(|config| config.payload_crc = server_asks));
        let address = lab.shard_address(server, 0);
        let came = lab.run(move |local| async move {
            let connection = ConnectionConfig { payload_crc: client_asks, ..Default::default() };
            let config = ClientConfig { connection: connection.into(), ..ClientConfig::default() };
            let client = Client::new(&local, address, config);
            let sizes = [0, 1, 100, 5_000, 300_000];
            let routes = [Route::ANY, Route(2)];
            let calls = sizes.into_iter().flat_map(|size| routes.map(|route| (size, route)));
            let calls = calls.map(|(size, route)| {
                let call = call(client.call(ECHO, pattern(size)).route(route));
                async move { call.await == Came::Ok(pattern(size)) }
            });
            join_all(calls).await
        });
        assert_eq!(came, [true; 10]);
        let mut peer = greet_about_checksums(lab, address, client_asks);
        peer.send(lab, &request(0, ECHO, Duration::ZERO, b"bare"));
        let Next::Frame(answer) = peer.next(lab) else { panic!("an answer was to come") };
        assert_eq!(answer.payload, b"bare");
        assert_eq!(answer.header.flags.has(Flags::PAYLOAD_CRC), server_asks && client_asks);
    }
}

/// A client that asks for checksums or does not, with the hellos exchanged.
fn greet_about_checksums<L: Lab>(lab: &mut L, address: SocketAddr, asks: bool) -> Peer<L> {
    let mut peer = Peer::new(lab.connect(address));
    peer.send(lab, &peer::hello_bytes(&Hello { payload_crc: asks, ..peer::hello(0) }));
    assert!(matches!(peer.next(lab), Next::Frame(hello) if hello.header.kind == Kind::Hello));
    peer
}

/// Where both ask for checksums, a body that was damaged on the way is not taken for a request.
pub fn a_damaged_body_is_noticed<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| config.payload_crc = true));
    let address = lab.address(server);
    let mut peer = greet_about_checksums(lab, address, true);
    let head = RequestHead {
        call: CallId::new(0, 1),
        method: COUNT,
        priority: Priority::NORMAL,
        time_left_us: 0,
        route: Route::ANY,
        repeat: false,
        hops: 0,
    };
    let mut output = Output::default();
    Framer::new(true).push(&mut output, head.header(), &[], Payload::Copied(b"intact"));
    let mut request = output.to_vec();
    peer.send(lab, &request);
    assert_eq!(peer.response(lab).1, b"intact");
    request[HEADER_BYTES + 2] ^= 1;
    peer.send(lab, &request);
    assert_eq!(peer.go_away(lab).0, GoAwayReason::PROTOCOL_ERROR);
    assert_eq!(probe.executed(), 1);
}
