//! What a client does when connections fail, end, or are about to.

use crate::peer::{Peer, listen};
use crate::{ECHO, FOREVER, LONG, Started, options, run, serve, wait_until};
use catena_engine::handle::CallOptions;
use catena_engine::time::Duration;
use catena_engine::tokio::TokioClient;
use catena_engine::wire::frame::GoAwayReason;
use catena_engine::wire::header::Kind;
use catena_engine::{CallError, ClientConfig};
use futures_util::FutureExt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Pauses of 25 to 50 ms, however many attempts have failed.
fn impatient() -> ClientConfig {
    let pause = Duration::from_millis(50);
    ClientConfig { backoff_min: pause, backoff_max: pause, ..ClientConfig::default() }
}

/// Pauses longer than any of these tests may take.
fn patient() -> ClientConfig {
    ClientConfig { backoff_min: LONG * 4, backoff_max: LONG * 4, ..ClientConfig::default() }
}

/// Connections that `impatient` may have made since `start`: one at once, then one a pause, and the
/// one of a pause that has just ended.
fn attempts_max(start: Instant) -> u128 {
    2 + start.elapsed().as_millis() / 25
}

fn nobody() -> SocketAddr {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    free.expect("it is bound")
}

async fn echo(client: TokioClient, payload: &'static str) -> Result<(), CallError> {
    let answer = client.call(ECHO, payload, options(LONG)).await?;
    assert_eq!(answer.payload, payload);
    Ok(())
}

/// Before the hello or after it: a connection on which nothing was answered has failed.
#[test]
fn a_server_that_hangs_up_is_no_better_than_none() {
    for is_greeted in [false, true] {
        run(async {
            let (listener, address) = listen().await;
            let accepted = Arc::new(AtomicU32::new(0));
            let count = accepted.clone();
            tokio::spawn(async move {
                loop {
                    // With room for no call, so that none is lost with the connection.
                    let peer = match is_greeted {
                        true => Peer::greet(&listener, 0).await,
                        false => Peer::accept(&listener).await,
                    };
                    drop(peer);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            let start = Instant::now();
            let client = TokioClient::new(address, impatient());
            let failed = client.call(ECHO, "", CallOptions::default()).await;
            assert!(matches!(failed, Err(CallError::Unreachable { .. })), "{failed:?}");
            let expired = client.call(ECHO, "", options(Duration::from_millis(300))).await;
            assert_eq!(expired.expect_err("it never answers"), CallError::ExpiredUnsent);
            let accepted = u128::from(accepted.load(Ordering::Relaxed));
            assert!(accepted <= attempts_max(start), "{accepted} in {:?}", start.elapsed());
        });
    }
}

async fn expires_unsent_at_its_deadline(client: &TokioClient) {
    let start = Instant::now();
    let timeout = Duration::from_millis(60);
    let expired = client.call(ECHO, "", options(timeout)).await;
    assert_eq!(expired.expect_err("nobody serves"), CallError::ExpiredUnsent);
    assert!(start.elapsed() >= timeout, "too early: {:?}", start.elapsed());
}

#[test]
fn a_call_ends_at_its_deadline_also_while_the_client_pauses() {
    run(async {
        let client = TokioClient::new(nobody(), patient());
        let refused = client.call(ECHO, "", CallOptions::default()).await;
        assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
        expires_unsent_at_its_deadline(&client).await;
    });
}

/// The first attempt fails while the call waits: that is no reason to end it early.
#[test]
fn a_call_that_cannot_outlast_the_pause_waits_for_its_deadline_all_the_same() {
    run(async {
        let client = TokioClient::new(nobody(), patient());
        expires_unsent_at_its_deadline(&client).await;
    });
}

#[test]
fn only_so_many_calls_wait_and_a_dropped_one_makes_room() {
    run(async {
        let config = ClientConfig { waiting_max: 2, ..patient() };
        let client = TokioClient::new(nobody(), config);
        let refused = client.call(ECHO, "", CallOptions::default()).await;
        assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
        let mut first = Box::pin(echo(client.clone(), "first"));
        assert_eq!(first.as_mut().now_or_never(), None, "nobody serves, and it waits");
        let mut second = pin!(echo(client.clone(), "second"));
        assert_eq!(second.as_mut().now_or_never(), None, "and so does this one");
        let third = echo(client.clone(), "third").now_or_never();
        assert_eq!(third, Some(Err(CallError::TooManyWaiting)));
        drop(first);
        let fourth = loop {
            match client.call(ECHO, "", options(Duration::from_millis(5))).await {
                // The client has not heard of it yet.
                Err(CallError::TooManyWaiting) => tokio::task::yield_now().await,
                other => break other,
            }
        };
        assert_eq!(fourth.map(drop), Err(CallError::ExpiredUnsent));
        assert_eq!(second.now_or_never(), None, "it waits as before");
    });
}

/// The runtime of the client's connection ends, while another one waits for the answer.
#[test]
fn a_call_whose_connection_ended_with_its_runtime_may_have_executed() {
    let started = Started::default();
    let server = serve("127.0.0.1:0", &started);
    let address = server.address().expect("it listens");
    let other = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    run(async {
        let client = {
            let _inside = other.enter();
            TokioClient::new(address, ClientConfig::default())
        };
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.call(FOREVER, "", CallOptions::default()).await }
        });
        wait_until(|| started.begun() == 1).await;
        other.shutdown_background();
        let lost = call.await.expect("no panic").expect_err("it sleeps for ever");
        assert_eq!(lost, CallError::ConnectionLost);
        assert!(!lost.is_not_executed());
        let unsent = client.call(ECHO, "", CallOptions::default()).await;
        let unsent = unsent.expect_err("nobody is there to send it");
        assert!(unsent.is_not_executed(), "{unsent}");
    });
    server.stop().expect("it ends in order");
}

#[test]
fn a_server_that_leaves_answers_what_it_has_while_another_connection_takes_over() {
    run(async {
        let (listener, address) = listen().await;
        let client = TokioClient::new(address, patient());
        let first = tokio::spawn(echo(client.clone(), "first"));
        let mut old = Peer::greet(&listener, 8).await;
        let request = old.hear(Kind::Request).await;
        old.answer(&request).await;
        first.await.expect("no panic").expect("it was answered");

        let kept = tokio::spawn(echo(client.clone(), "kept"));
        let request = old.hear(Kind::Request).await;
        let dropped = tokio::spawn(echo(client.clone(), "dropped"));
        let forgotten = old.hear(Kind::Request).await;
        old.go_away(GoAwayReason::DRAINING).await;
        old.ping().await;
        let next = tokio::spawn(echo(client.clone(), "next"));
        let mut new = tokio::select! {
            new = Peer::greet(&listener, 8) => new,
            late = old.next() => panic!("sent on a connection that ends: {late:?}"),
        };
        let on_new = new.hear(Kind::Request).await;
        new.answer(&on_new).await;
        next.await.expect("no panic").expect("it was answered");

        dropped.abort();
        let cancel = old.hear(Kind::Cancel).await;
        assert_eq!(cancel.header.call, forgotten.header.call);
        old.answer(&request).await;
        kept.await.expect("no panic").expect("it was answered");
        assert!(old.next().await.is_none(), "with the last call the connection ends");
    });
}

/// To wait does not help against a server that speaks another version: calls are told at once, and
/// the server is left alone.
#[test]
fn a_server_of_another_version_is_told_of_and_not_stormed() {
    run(async {
        let (listener, address) = listen().await;
        let accepted = Arc::new(AtomicU32::new(0));
        let count = accepted.clone();
        tokio::spawn(async move {
            loop {
                let mut peer = Peer::accept(&listener).await;
                count.fetch_add(1, Ordering::Relaxed);
                peer.hear(Kind::Hello).await;
                peer.go_away(GoAwayReason::VERSION_MISMATCH).await;
            }
        });
        let start = Instant::now();
        let client = TokioClient::new(address, impatient());
        for _ in 0..6 {
            let refused = client.call(ECHO, "", options(LONG)).await;
            let kind = ErrorKind::InvalidData;
            assert_eq!(refused.map(drop), Err(CallError::Unreachable { address, kind }));
        }
        let accepted = u128::from(accepted.load(Ordering::Relaxed));
        assert!(accepted <= attempts_max(start), "{accepted} in {:?}", start.elapsed());
    });
}

/// It has answered before, and is left alone for a while all the same.
#[test]
fn a_server_that_has_too_much_to_do_is_given_a_pause() {
    run(async {
        let (listener, address) = listen().await;
        let pause_min = impatient().backoff_min / 2;
        for reason in [GoAwayReason::OVERLOADED, GoAwayReason::PROTOCOL_ERROR] {
            let client = TokioClient::new(address, impatient());
            let answered = tokio::spawn(echo(client.clone(), "answered"));
            let mut peer = Peer::greet(&listener, 1).await;
            let request = peer.hear(Kind::Request).await;
            peer.answer(&request).await;
            answered.await.expect("no panic").expect("it was answered");
            let told = Instant::now();
            peer.go_away(reason).await;
            assert!(peer.next().await.is_none(), "nothing was in flight");
            let waits = tokio::spawn(echo(client.clone(), "it waits"));
            let mut peer = Peer::greet(&listener, 1).await;
            assert!(told.elapsed() >= pause_min, "after {:?}", told.elapsed());
            let request = peer.hear(Kind::Request).await;
            peer.answer(&request).await;
            waits.await.expect("no panic").expect("it was answered");
        }
    });
}

#[test]
fn the_last_client_says_good_bye() {
    run(async {
        let (listener, address) = listen().await;
        let client = TokioClient::new(address, patient());
        let answered = tokio::spawn(echo(client, "answered"));
        let mut peer = Peer::greet(&listener, 1).await;
        let request = peer.hear(Kind::Request).await;
        peer.answer(&request).await;
        answered.await.expect("no panic").expect("it was answered");
        let go_away = peer.hear(Kind::GoAway).await;
        assert_eq!(GoAwayReason(go_away.header.code), GoAwayReason::DRAINING);
        assert!(peer.next().await.is_none());
    });
}
