//! Peers that are silent, slow or gone: each limit of time, on a connection of its own.

use crate::lab::Lab;
use crate::peer::{Next, Peer, control_frame, hello_of_client, hello_of_server, request};
use crate::service::{self, Came, ECHO, HOLD, Probe, call};
use catena_engine::config::ConnectionConfig;
use catena_engine::wire::frame::GoAwayReason;
use catena_engine::wire::header::Kind;
use catena_engine::{CallError, Client, ClientConfig};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(60);

fn client_config(change: impl FnOnce(&mut ConnectionConfig)) -> ClientConfig {
    let mut connection = ConnectionConfig::default();
    change(&mut connection);
    ClientConfig { connection: Arc::new(connection), ..ClientConfig::default() }
}

/// A server that still answers others is what every peer below must leave behind.
fn assert_serves<L: Lab>(lab: &mut L, address: std::net::SocketAddr) {
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        call(client.call(ECHO, b"on")).await
    });
    assert_eq!(came, Came::Ok(b"on".to_vec()));
}

pub fn an_idle_connection_is_left<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.idle_timeout = Some(SHORT));
    let server = lab.start(spec);
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    let (reason, text) = {
        peer.send(lab, &request(0, ECHO, LONG, b""));
        peer.response(lab);
        let Next::Frame(frame) = peer.next(lab) else { panic!("it says so first") };
        assert_eq!(frame.header.kind, Kind::GoAway);
        (GoAwayReason(frame.header.code), String::from_utf8(frame.payload).expect("text"))
    };
    assert_eq!(reason, GoAwayReason::IDLE, "{text}");
    drop(peer);
    assert_serves(lab, address);
}

pub fn a_client_that_was_left_idle_connects_again<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.idle_timeout = Some(SHORT));
    let server = lab.start(spec);
    let address = lab.address(server);
    let came = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let before = call(client.call(ECHO, b"before")).await;
        local.sleep(SHORT * 5).await;
        [before, call(client.call(ECHO, b"after").timeout(LONG)).await]
    });
    assert_eq!(came, [Came::Ok(b"before".to_vec()), Came::Ok(b"after".to_vec())]);
}

/// Work in progress is not idleness, however long it takes.
pub fn a_connection_at_work_is_not_idle<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let spec = service::spec(&probe).connection(|config| config.idle_timeout = Some(SHORT));
    let server = lab.start(spec);
    let address = lab.address(server);
    let held = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        call(client.call(HOLD, b"held")).await
    });
    lab.wait_until("it runs", |_| probe.running() == 1);
    lab.pause(SHORT * 6);
    probe.release();
    assert_eq!(lab.join(held), Came::Ok(b"held".to_vec()));
}

pub fn a_silent_peer_is_asked_and_then_left<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.keepalive_interval = SHORT;
        config.keepalive_timeout = SHORT;
    }));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    peer.send(lab, &request(0, HOLD, Duration::ZERO, b""));
    let Next::Frame(ping) = peer.next(lab) else { panic!("it asks first") };
    assert_eq!(ping.header.kind, Kind::Ping);
    assert_eq!(peer.go_away(lab).0, GoAwayReason::TOO_SLOW);
    lab.wait_until("its work is gone", |_| probe.running() == 0);
    assert_serves(lab, address);
}

pub fn who_answers_pings_is_kept<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(|config| {
        config.keepalive_interval = Duration::from_millis(20);
        config.keepalive_timeout = LONG;
    }));
    let address = lab.address(server);
    let mut peer = Peer::greet(lab, address);
    for _ in 0..5 {
        let Next::Frame(ping) = peer.next(lab) else { panic!("it goes on asking") };
        assert_eq!(ping.header.kind, Kind::Ping);
        peer.send(lab, &control_frame(Kind::Pong, ping.header.call));
    }
    peer.send(lab, &request(0, ECHO, LONG, b"on"));
    assert_eq!(peer.response(lab).1, b"on");
}

pub fn two_engines_keep_a_quiet_connection_alive<L: Lab>(lab: &mut L) {
    let quick = |config: &mut ConnectionConfig| {
        config.keepalive_interval = Duration::from_millis(20);
        config.keepalive_timeout = LONG;
    };
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).connection(quick));
    let address = lab.address(server);
    let held = lab.spawn(move |local| async move {
        let client = Client::new(&local, address, client_config(quick));
        call(client.call(HOLD, b"held")).await
    });
    lab.wait_until("it runs", |_| probe.running() == 1);
    lab.pause(Duration::from_millis(300));
    probe.release();
    assert_eq!(lab.join(held), Came::Ok(b"held".to_vec()));
}

pub fn a_client_gives_up_a_silent_server<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let config = client_config(|config| {
            config.keepalive_interval = SHORT;
            config.keepalive_timeout = SHORT;
        });
        call(Client::new(&local, address, config).call(ECHO, b"")).await
    });
    let mut silent = Peer::<L>::new(lab.accept(&mut listener));
    silent.send(lab, &hello_of_server(10));
    assert_eq!(lab.join(calls), Came::Failed(CallError::ConnectionLost));
}

pub fn a_peer_without_a_hello_is_left<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.hello_timeout = SHORT);
    let server = lab.start(spec);
    let address = lab.address(server);
    let mut peer = Peer::new(lab.connect(address));
    let (reason, text) = peer.go_away(lab);
    assert_eq!(reason, GoAwayReason::TOO_SLOW, "{text}");
    assert!(text.contains("hello"), "{text}");
    assert_serves(lab, address);
}

pub fn a_client_does_not_wait_for_a_hello_for_ever<L: Lab>(lab: &mut L) {
    let (mut listener, address) = lab.listen();
    let calls = lab.spawn(move |local| async move {
        let config = client_config(|config| config.hello_timeout = SHORT);
        call(Client::new(&local, address, config).call(ECHO, b"")).await
    });
    let silent = lab.accept(&mut listener);
    let kind = ErrorKind::TimedOut;
    assert_eq!(lab.join(calls), Came::Failed(CallError::Unreachable { address, kind }));
    drop(silent);
}

pub fn half_a_frame_for_ever_is_left<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.frame_timeout = SHORT);
    let server = lab.start(spec);
    let address = lab.address(server);
    let whole = request(0, ECHO, LONG, b"never to be heard in whole");
    for cut in [1, 31, whole.len() - 1] {
        let mut peer = Peer::greet(lab, address);
        peer.send(lab, &whole[..cut]);
        let (reason, text) = peer.go_away(lab);
        assert_eq!(reason, GoAwayReason::TOO_SLOW, "{text}");
        assert_serves(lab, address);
    }
}

pub fn half_a_hello_for_ever_is_left<L: Lab>(lab: &mut L) {
    let spec = service::spec(&Probe::new()).connection(|config| config.hello_timeout = SHORT);
    let server = lab.start(spec);
    let address = lab.address(server);
    let mut peer = Peer::new(lab.connect(address));
    peer.send(lab, &hello_of_client()[..33]);
    assert_eq!(peer.go_away(lab).0, GoAwayReason::TOO_SLOW);
    assert_serves(lab, address);
}

/// Byte by byte is slow and allowed.
pub fn a_dribble_is_understood<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let mut peer = Peer::new(lab.connect(address));
    for byte in hello_of_client() {
        peer.send(lab, &[byte]);
        lab.pause(Duration::from_micros(100));
    }
    assert!(matches!(peer.next(lab), Next::Frame(hello) if hello.header.kind == Kind::Hello));
    for _ in 0..3 {
        for byte in request(0, ECHO, LONG, b"drop by drop") {
            peer.send(lab, &[byte]);
            lab.pause(Duration::from_micros(100));
        }
        assert_eq!(peer.response(lab).1, b"drop by drop");
    }
}
