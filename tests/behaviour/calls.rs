//! Calls: many at a time, answered in any order, small and large, typed and plain.

use crate::lab::Lab;
use crate::service::{self, ECHO, Probe, REPEAT, SLEEP, SOURCE, call, micros_of, pattern};
use crate::service::{Came, NOTHING_TO_REPEAT};
use bytes::Bytes;
use catena_engine::service::TypedCallError;
use catena_engine::{CallError, Client, ClientConfig, MethodId, Status};
use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::future::IntoFuture;
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
