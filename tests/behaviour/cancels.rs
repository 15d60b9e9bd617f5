//! Cancelling: a call that nobody waits for ends everywhere.

use crate::lab::{Lab, Spec};
use crate::peer::{Next, Peer, control_frame, request};
use crate::service::{self, COUNT, Came, ECHO, HOLD, KEEP, NEST, Probe, RELEASE, call};
use catena_engine::wire::header::Kind;
use catena_engine::{Client, ClientConfig, Local, MethodId, Responder, Router, Status};
use futures_util::future::{Either, select};
use std::cell::RefCell;
use std::future::IntoFuture;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

/// Waits on a shard until a test's server has come so far.
async fn until(local: &Local, mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        local.sleep(Duration::from_millis(1)).await;
    }
}

async fn until_running(local: &Local, probe: &Arc<Probe>, count: u64) {
    until(local, || probe.running() == count).await;
}

pub fn a_dropped_call_drops_its_handler<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let (address, watched) = (lab.address(server), probe.clone());
    let after = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = client.call(HOLD, b"").into_future();
        let other = client.call(HOLD, b"other").into_future();
        until_running(&local, &watched, 2).await;
        drop(held);
        until_running(&local, &watched, 1).await;
        watched.release();
        (other.await.map(|answer| answer.payload), call(client.call(ECHO, b"on")).await)
    });
    assert_eq!(after, (Ok("other".into()), Came::Ok(b"on".to_vec())));
}

pub fn a_cancel_goes_from_server_to_server<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let last = lab.start(service::spec(&probe));
    let middle = lab.start(service::spec_before(&probe, Some(lab.address(last))));
    let (address, watched) = (lab.address(middle), probe.clone());
    lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let nested = client.call(NEST, b"").into_future();
        until_running(&local, &watched, 2).await;
        drop(nested);
        until_running(&local, &watched, 0).await;
    });
    assert_eq!(probe.executed(), 2, "one at each server");
}

pub fn a_lost_client_takes_its_work_along<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let last = lab.start(service::spec(&probe));
    let middle = lab.start(service::spec_before(&probe, Some(lab.address(last))));
    let address = lab.address(middle);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(0, NEST, LONG, b""));
    peer.send(lab, &request(1, HOLD, LONG, b""));
    lab.wait_until("three handlers run", |_| probe.running() == 3);
    drop(peer);
    lab.wait_until("none runs any more", |_| probe.running() == 0);
}

/// The window is one call wide: the second is in it as soon as the first has been given up.
pub fn a_dropped_call_makes_room_in_the_window<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| config.in_flight_max = 1));
    let (address, watched) = (lab.address(server), probe.clone());
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = client.call(HOLD, b"").into_future();
        until_running(&local, &watched, 1).await;
        let waiting = client.call(ECHO, b"its turn").into_future();
        local.sleep(Duration::from_millis(5)).await;
        drop(held);
        service::came(waiting.await)
    });
    assert_eq!(came, Came::Ok(b"its turn".to_vec()));
}

pub fn a_call_dropped_before_it_was_sent_is_never_executed<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| config.in_flight_max = 1));
    let (address, watched) = (lab.address(server), probe.clone());
    let held = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = client.call(HOLD, b"").into_future();
        until_running(&local, &watched, 1).await;
        let waiting = client.call(COUNT, b"").into_future();
        local.sleep(Duration::from_millis(5)).await;
        drop(waiting);
        watched.release();
        [service::came(held.await), call(client.call(ECHO, b"")).await]
    });
    assert_eq!(held, [Came::Ok(vec![]), Came::Ok(vec![])]);
    assert_eq!(probe.executed(), 1, "the one that was held");
}

pub fn an_answer_to_nobody_does_no_harm<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let dropped = client.call(KEEP, b"").into_future();
        let kept = client.call(KEEP, b"").into_future();
        assert_eq!(call(client.call(ECHO, b"")).await, Came::Ok(vec![]), "both are there by now");
        drop(dropped);
        let released = call(client.call(RELEASE, b"late")).await;
        [released, service::came(kept.await), call(client.call(ECHO, b"on")).await]
    });
    let ok = |payload: &[u8]| Came::Ok(payload.to_vec());
    assert_eq!(came, [ok(&2u32.to_le_bytes()), ok(b"late"), ok(b"on")]);
}

pub fn a_cancel_of_an_unknown_call_is_passed_over<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    for call in [0, 7, u64::MAX] {
        peer.send(lab, &control_frame(Kind::Cancel, call));
    }
    peer.send(lab, &request(0, ECHO, LONG, b"on"));
    assert_eq!(peer.response(lab).1, b"on");
}

/// The answer and the cancel may cross; either way there is one answer at most, and the slot is free.
pub fn a_cancelled_call_is_not_answered<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(3, HOLD, LONG, b""));
    lab.wait_until("it runs", |_| probe.running() == 1);
    peer.send(lab, &control_frame(Kind::Cancel, 1 << 32 | 3));
    lab.wait_until("it is gone", |_| probe.running() == 0);
    peer.send(lab, &request(3, ECHO, LONG, b"again"));
    let Next::Frame(next) = peer.next(lab) else { panic!("the connection lives on") };
    assert_eq!((next.header.kind, next.header.code), (Kind::Response, Status::OK.0));
    assert_eq!(next.payload, b"again");
}

/// A handler that works step by step can ask between them.
pub fn a_duty_knows_when_nobody_waits<L: Lab>(lab: &mut L) {
    const TAKE: MethodId = MethodId::of("take");
    const ASK: MethodId = MethodId::of("ask");
    let server = lab.start(Spec::new(|_, _| {
        let taken: Rc<RefCell<Option<Responder>>> = Rc::default();
        let asked = taken.clone();
        Router::new()
            .method("take", move |_, reply| {
                let (answered, responder) = reply.later();
                *taken.borrow_mut() = Some(responder);
                answered
            })
            .method("ask", move |_, reply| {
                let is_dropped = asked.borrow().as_ref().map(Responder::is_dropped);
                reply.ok(&[u8::from(is_dropped.expect("it was taken before"))][..])
            })
    }));
    let address = lab.address(server);
    let (before, after) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = Box::pin(client.call(TAKE, b"").into_future());
        let asked = pin!(call(client.call(ASK, b"")));
        let Either::Right((before, held)) = select(held, asked).await else {
            panic!("nobody answers it")
        };
        drop(held);
        (before, call(client.call(ASK, b"")).await)
    });
    assert_eq!(before, Came::Ok(vec![0]), "somebody waits");
    assert_eq!(after, Came::Ok(vec![1]), "nobody does");
}
