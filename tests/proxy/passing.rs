//! What goes through as it came, and what does not.

use crate::scene::{client, each_world, told};
use catena_balancer::proxy::ProxyConfig;
use catena_engine::client::ClientConfig;
use catena_engine::config::ConnectionConfig;
use catena_engine::relay::RelayConfig;
use catena_engine::time::Duration;
use catena_engine::wire::frame::RequestHead;
use catena_engine::wire::metadata::{MetadataBuf, TOKEN, TRACE_CONTEXT};
use catena_engine::{Client, MethodId, Priority, Route, Router, Status};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const ECHO: MethodId = MethodId::of("echo");
const SIZES: [usize; 7] = [0, 1, 32, 1_000, 5_000, 70_000, 1 << 20];

fn echo() -> Router {
    Router::new().fallback(|request, reply| reply.ok(request.payload()))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

fn with_crc(payload_crc: bool) -> ConnectionConfig {
    ConnectionConfig { payload_crc, ..ConnectionConfig::default() }
}

/// Payloads of all sizes, copied and not, with checksums on either side, on both, on none.
#[test]
fn payloads_and_checksums_arrive() {
    for copy_bytes_max in [0, 1_024, 4_096] {
        for (caller_crc, server_crc) in [(false, false), (false, true), (true, false), (true, true)]
        {
            each_world(2, |scene| {
                let server = scene.server_with(with_crc(server_crc), |_| echo());
                let relay = RelayConfig { copy_bytes_max, ..RelayConfig::default() };
                let mut config = ProxyConfig { relay, ..ProxyConfig::default() };
                config.client.connection = Arc::new(with_crc(true));
                let proxy = scene.proxy_with(&[&server], with_crc(true), config);
                scene.world.run_for(Duration::from_millis(50));
                let address = proxy.address().expect("it listens");
                scene.run(move |local| async move {
                    let connection = Arc::new(with_crc(caller_crc));
                    let config = ClientConfig { connection, ..ClientConfig::default() };
                    let client = Client::new(&local, address, config);
                    for size in SIZES {
                        let answer = client.call(ECHO, bytes(size)).await.expect("echoed");
                        assert!(answer.payload == bytes(size), "{size} bytes");
                    }
                });
            });
        }
    }
}

#[derive(Default)]
struct Came {
    head: Option<RequestHead>,
    metadata: Option<MetadataBuf>,
    payload: Vec<u8>,
}

/// Method, priority, route and repeat, metadata: as they came. Time left: what is left.
#[test]
fn all_of_a_request_but_its_call_id_goes_through() {
    each_world(4, |scene| {
        let came = Rc::<RefCell<Came>>::default();
        let seen = came.clone();
        let server = scene.server(move |_| {
            let seen = seen.clone();
            Router::new().fallback(move |request, reply| {
                seen.replace(Came {
                    head: Some(*request.head()),
                    metadata: Some(MetadataBuf::copy_of(request.metadata())),
                    payload: request.payload().to_vec(),
                });
                reply.ok(b"")
            })
        });
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        let metadata = || {
            let mut metadata = MetadataBuf::default();
            metadata.push(TRACE_CONTEXT, &[7; 25]).expect("short");
            metadata.push(TOKEN, b"a token").expect("short");
            metadata
        };
        scene.run(move |local| async move {
            let call = client(&local, address)
                .call(MethodId(0xABCD_1234), &b"the payload"[..])
                .priority(Priority(0x1234))
                .route(Route(1))
                .metadata(metadata())
                .timeout(Duration::from_secs(10))
                .repeat();
            call.await.expect("answered");
        });
        let came = came.borrow();
        let head = came.head.expect("it came");
        assert_eq!((head.method, head.priority), (MethodId(0xABCD_1234), Priority(0x1234)));
        assert_eq!((head.route, head.repeat), (Route(1), true));
        let left = head.time_left().expect("a deadline");
        let whole = Duration::from_secs(10);
        assert!(left < whole && left > whole - Duration::from_millis(500), "{left:?} left");
        assert_eq!(
            came.metadata.as_ref().expect("it came").as_metadata().as_bytes(),
            metadata().as_metadata().as_bytes()
        );
        assert_eq!(came.payload, b"the payload");
    });
}

/// One figure for each endpoint: what a pong tells is not to be another one than what answers tell.
#[test]
fn a_proxy_tells_no_load_of_its_own() {
    each_world(4, |scene| {
        let server = scene.server(|_| echo());
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let addresses = [&server, &proxy].map(|engine| engine.address().expect("it listens"));
        scene.run(move |local| async move {
            let [of_server, of_proxy] = addresses.map(|address| client(&local, address));
            let patience = Duration::from_secs(10);
            assert!(of_server.probe(patience).await.expect("it lives").tells_load());
            assert!(!of_proxy.probe(patience).await.expect("it lives").tells_load());
            let answer = of_proxy.call(ECHO, &b"x"[..]).await.expect("echoed");
            assert_eq!(answer.head.in_flight, 1, "its server's");
        });
    });
}

/// A route is the servers' affair, also one that no shard of the proxy has.
#[test]
fn a_wrong_shard_is_told_by_the_server_that_knows() {
    each_world(4, |scene| {
        let server = scene.server(|_| echo());
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        let (right, wrong) = scene.run(move |local| async move {
            let client = client(&local, address);
            let right = told(client.call(ECHO, &b"x"[..]).route(Route(1)).await);
            (right, told(client.call(ECHO, &b"x"[..]).route(Route(9)).await))
        });
        assert_eq!(right.expect("answered").0, Status::OK);
        assert_eq!(wrong.expect("answered").0, Status::WRONG_SHARD);
    });
}

#[test]
fn statuses_and_their_payloads_go_through() {
    each_world(4, |scene| {
        let server = scene.server(|_| {
            Router::new().fallback(|request, reply| {
                let status = u16::from_le_bytes(request.payload().try_into().expect("two bytes"));
                reply.fail(Status(status), "as it was asked to")
            })
        });
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        for status in [Status::MALFORMED, Status::INTERNAL, Status::application(7), Status(150)] {
            let payload = status.0.to_le_bytes().to_vec();
            let answer = scene.run(move |local| async move {
                told(client(&local, address).call(ECHO, payload).await)
            });
            assert_eq!(answer.expect("answered"), (status, (&b"as it was asked to"[..]).into()));
        }
    });
}

#[test]
fn frames_that_are_too_long_for_one_side_are_refused_and_nothing_else_suffers() {
    each_world(4, |scene| {
        let small = ConnectionConfig { frame_bytes_max: 8_192, ..ConnectionConfig::default() };
        let server = scene.server_with(small.clone(), |_| {
            Router::new().fallback(|request, reply| match request.payload() {
                b"large" => reply.ok(bytes::Bytes::from(vec![1; 20_000])),
                payload => reply.ok(payload),
            })
        });
        let proxy = scene.proxy(&[&server], ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        let answers = scene.run(move |local| async move {
            let client = client(&local, address);
            let config = ClientConfig { connection: Arc::new(small), ..ClientConfig::default() };
            let narrow = Client::new(&local, address, config);
            [
                told(client.call(ECHO, vec![1; 10_000]).await),
                told(narrow.call(ECHO, &b"large"[..]).await),
                told(client.call(ECHO, &b"large"[..]).await),
                told(client.call(ECHO, &b"small"[..]).await),
            ]
        });
        let statuses = answers.map(|answer| answer.expect("answered").0);
        let expected =
            [Status::REQUEST_TOO_LARGE, Status::ANSWER_TOO_LARGE, Status::OK, Status::OK];
        assert_eq!(statuses, expected);
    });
}

/// Calls at the same time on several connections, of all sizes: each gets its own answer.
#[test]
fn answers_find_their_callers() {
    each_world(6, |scene| {
        let servers: Vec<_> = (0..3)
            .map(|_| {
                scene.server(|_| {
                    Router::new().method_async("echo", |request| async move {
                        let pause = Duration::from_micros(request.local.random() % 3_000);
                        request.local.sleep(pause).await;
                        Ok(request.payload)
                    })
                })
            })
            .collect();
        let proxy = scene.proxy(&servers.iter().collect::<Vec<_>>(), ProxyConfig::default());
        let address = proxy.address().expect("it listens");
        scene.run(move |local| async move {
            let callers = (0..12u64).map(|caller| {
                let client = client(&local, address);
                let local = local.clone();
                local.clone().spawn(async move {
                    for round in 0..60u64 {
                        let size = [16, 900, 3_000, 40_000][local.random() as usize % 4];
                        let mut payload = bytes(size);
                        payload[..8].copy_from_slice(&(caller << 32 | round).to_le_bytes());
                        let answer = client.call(ECHO, payload.clone()).await.expect("echoed");
                        assert!(answer.payload == payload, "another call's answer");
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await;
            }
        });
    });
}
