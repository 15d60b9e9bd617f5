//! What is counted: each request once and each answer once, as its caller got it.

use crate::kernel::{self, Kernel};
use crate::lab::{Lab, ServerId};
use crate::peer::Peer;
use crate::service::{self, COUNT, Came, ECHO, HOLD, Probe, SOURCE, call};
use catena_engine::config::ConnectionConfig;
use catena_engine::metrics::MetricsSnapshot;
use catena_engine::{Client, ClientConfig, DriverChoice, Route, Status};
use futures_util::future::join_all;
use std::time::Duration;

const DRIVERS: [DriverChoice; 2] = [DriverChoice::Epoll, DriverChoice::Uring];

fn answers(counted: &MetricsSnapshot) -> u64 {
    counted.responses_ok
        + counted.responses_not_executed
        + counted.responses_may_have_executed
        + counted.responses_application
}

fn wait_for(
    lab: &mut Kernel,
    server: ServerId,
    what: &str,
    is_so: impl Fn(&MetricsSnapshot) -> bool,
) -> MetricsSnapshot {
    lab.wait_until(what, |lab| is_so(&lab.metrics(server)));
    lab.metrics(server)
}

/// The status is swapped after the handler has answered "ok": at home, written in place, later, and
/// on the way back from another shard.
#[test]
fn an_answer_that_is_too_large_is_none() {
    for driver in DRIVERS {
        kernel::on(driver, |lab| {
            let server = lab.start(service::spec(&Probe::new()).shards(2));
            let address = lab.shard_address(server, 0);
            let came = lab.run(move |local| async move {
                let connection = ConnectionConfig { frame_bytes_max: 4_096, ..Default::default() };
                let config = ClientConfig { connection: connection.into(), ..Default::default() };
                let client = Client::new(&local, address, config);
                let size = 8_192u32.to_le_bytes();
                let large = vec![1; 8_192];
                vec![
                    call(client.call(ECHO, large.clone())).await,
                    call(client.call(SOURCE, size.to_vec())).await,
                    call(client.call(service::SLEEP, vec![0; 8_192])).await,
                    call(client.call(ECHO, large).route(Route(2))).await,
                    call(client.call(SOURCE, size.to_vec()).route(Route(2))).await,
                ]
            });
            assert_eq!(came, vec![Came::Status(Status::ANSWER_TOO_LARGE); 5]);
            let counted = wait_for(lab, server, "all are counted", |counted| answers(counted) == 5);
            assert_eq!((counted.requests, counted.responses_ok), (5, 0), "{counted:?}");
        });
    }
}

/// By its connection, which tells the caller; here and on the shard that it was handed over to.
#[test]
fn a_deadline_that_passes_is_an_answer() {
    for driver in DRIVERS {
        kernel::on(driver, |lab| {
            let server = lab.start(service::spec(&Probe::new()).shards(2));
            let address = lab.shard_address(server, 0);
            lab.run(move |local| async move {
                let client = Client::new(&local, address, ClientConfig::default());
                let soon = local.now() + Duration::from_millis(20);
                let calls = [Route::ANY, Route(2)]
                    .map(|route| call(client.call(HOLD, b"").route(route).deadline(soon)));
                join_all(calls).await
            });
            let is_over = |counted: &MetricsSnapshot| {
                counted.deadline_passed + counted.cancelled == 2 && counted.in_flight == 0
            };
            let counted = wait_for(lab, server, "both have ended", is_over);
            assert_eq!(counted.requests, 2, "{counted:?}");
            // The caller may have given up first, which is a cancel and needs no answer.
            assert_eq!(counted.responses_may_have_executed, counted.deadline_passed, "{counted:?}");
            assert_eq!(answers(&counted), counted.deadline_passed, "{counted:?}");
        });
    }
}

#[test]
fn a_request_for_no_shard_is_a_request() {
    for driver in DRIVERS {
        kernel::on(driver, |lab| {
            let server = lab.start(service::spec(&Probe::new()).shards(2));
            let address = lab.shard_address(server, 0);
            let came = lab.run(move |local| async move {
                let client = Client::new(&local, address, ClientConfig::default());
                let nowhere = call(client.call(COUNT, b"").route(Route(9))).await;
                (nowhere, call(client.call(COUNT, b"").route(Route(2))).await)
            });
            assert_eq!(came, (Came::Status(Status::WRONG_SHARD), Came::Ok(Vec::new())));
            let counted =
                wait_for(lab, server, "both are counted", |counted| answers(counted) == 2);
            assert_eq!((counted.requests, counted.handed_over), (2, 1), "{counted:?}");
            assert_eq!((counted.responses_not_executed, counted.responses_ok), (1, 1));
        });
    }
}

/// However few turns there were since.
#[test]
fn an_idle_shard_says_how_it_is() {
    for driver in DRIVERS {
        kernel::on(driver, |lab| {
            let server = lab.start(service::spec(&Probe::new()));
            let address = lab.address(server);
            for _ in 0..3 {
                let peer = Peer::greet(lab, address);
                wait_for(lab, server, "it is there", |counted| counted.connections == 1);
                drop(peer);
                wait_for(lab, server, "it is gone", |counted| counted.connections == 0);
            }
            let counted = lab.metrics(server);
            assert_eq!((counted.accepted, counted.closed), (3, 3), "{counted:?}");
        });
    }
}

/// A connection that this side makes, or fails to make, was not accepted and is not counted so.
#[test]
fn what_was_not_accepted_is_not_closed() {
    for driver in DRIVERS {
        kernel::on(driver, |lab| {
            let server = lab.start(service::spec(&Probe::new()));
            let (address, nobody) = (lab.address(server), lab.nobody());
            lab.run(move |local| async move {
                for address in [address, nobody] {
                    let client = Client::new(&local, address, ClientConfig::default());
                    drop(call(client.call(ECHO, b"")).await);
                }
            });
            lab.wait_until("its connections are gone", |lab| {
                lab.metrics_of_client().connections == 0
            });
            let counted = lab.metrics_of_client();
            assert_eq!((counted.accepted, counted.closed), (0, 0), "{counted:?}");
        });
    }
}
