//! A pair under random histories, watched by an oracle.
//!
//! Whatever happens: every started call ends exactly once; no request is handed out twice; a status
//! that says *not executed* is never told of a request that was handed out; what is deferred is
//! answered or dropped exactly once; time that is handled moves on (the harness checks that at
//! every step).

use super::pair::{ECHO, LATER, Pair, Seen};
use crate::config::ConnectionConfig;
use crate::rpc::connection::{CallFailure, CallRequest, Role};
use crate::time::Duration;
use crate::wire::frame::CallId;
use crate::wire::status::Status;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Start { later: bool, timeout_ms: Option<u16> },
    Cancel(prop::sample::Index),
    Answer(prop::sample::Index),
    Deliver { to_server: bool, bytes: u16 },
    Advance { ms: u16 },
    Drain { client: bool },
    Pause { server: bool, on: bool },
    Send { server: bool, started: bool },
    Break,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<bool>(), prop::option::weighted(0.3, 1u16..200))
            .prop_map(|(later, timeout_ms)| Op::Start { later, timeout_ms }),
        2 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        4 => any::<prop::sample::Index>().prop_map(Op::Answer),
        8 => (any::<bool>(), prop_oneof![0u16..100, 0u16..2_000])
            .prop_map(|(to_server, bytes)| Op::Deliver { to_server, bytes }),
        3 => (0u16..60).prop_map(|ms| Op::Advance { ms }),
        1 => (0u16..40_000).prop_map(|ms| Op::Advance { ms }),
        1 => any::<bool>().prop_map(|client| Op::Drain { client }),
        1 => any::<(bool, bool)>().prop_map(|(server, on)| Op::Pause { server, on }),
        1 => any::<(bool, bool)>().prop_map(|(server, started)| Op::Send { server, started }),
    ]
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Answered(Status),
    Failed(CallFailure),
    Cancelled,
}

/// What the two sides have been seen to do.
#[derive(Default)]
struct Oracle {
    /// Calls started, by token.
    started: BTreeMap<u64, CallId>,
    ended: BTreeMap<u64, End>,
    /// Tokens whose request was handed out.
    handed_out: BTreeSet<u64>,
    client_seen: usize,
    server_seen: usize,
}

impl Oracle {
    fn end(&mut self, token: u64, end: End) {
        assert!(self.started.contains_key(&token), "{token} was never started");
        let before = self.ended.insert(token, end);
        assert_eq!(before, None, "call {token} ended twice");
    }

    fn watch(&mut self, pair: &Pair) {
        for seen in &pair.server.seen[self.server_seen..] {
            if let Seen::Request { payload, .. } = seen {
                let token = u64::from_le_bytes(payload[..].try_into().expect("a token"));
                assert!(self.started.contains_key(&token));
                assert!(self.handed_out.insert(token), "request {token} was handed out twice");
            }
        }
        for seen in &pair.client.seen[self.client_seen..] {
            match seen {
                Seen::Response { token, head, payload } => {
                    assert_eq!(self.started[token], head.call);
                    let was_handed_out = self.handed_out.contains(token);
                    assert_eq!(head.status.is_not_executed(), !was_handed_out, "{head:?}");
                    if head.status.is_ok() {
                        assert_eq!(*payload, token.to_le_bytes());
                    }
                    self.end(*token, End::Answered(head.status));
                }
                Seen::CallFailed { token, failure } => self.end(*token, End::Failed(*failure)),
                _ => {}
            }
        }
        self.server_seen = pair.server.seen.len();
        self.client_seen = pair.client.seen.len();
    }

    fn in_flight(&self) -> Vec<u64> {
        self.started.keys().copied().filter(|token| !self.ended.contains_key(token)).collect()
    }
}

fn apply(pair: &mut Pair, oracle: &mut Oracle, op: &Op) {
    match op {
        Op::Start { later, timeout_ms } => {
            let token = pair.upcoming_token();
            let payload = token.to_le_bytes();
            let deadline = timeout_ms.map(|ms| pair.now + Duration::from_millis(ms.into()));
            let method = if *later { LATER } else { ECHO };
            let request = CallRequest { deadline, ..CallRequest::new(method, &payload) };
            if let Ok((started, call)) = pair.start(request) {
                assert_eq!(started, token);
                assert!(!oracle.started.values().any(|id| *id == call), "{call:?} was used before");
                oracle.started.insert(token, call);
            }
        }
        Op::Cancel(nth) => {
            let in_flight = oracle.in_flight();
            if !in_flight.is_empty() {
                let token = in_flight[nth.index(in_flight.len())];
                assert!(pair.cancel(oracle.started[&token]), "what is in flight can be cancelled");
                oracle.end(token, End::Cancelled);
            }
        }
        Op::Answer(nth) => {
            let deferred: Vec<u64> = pair.deferred.keys().copied().collect();
            if !deferred.is_empty() {
                let token = deferred[nth.index(deferred.len())];
                assert!(pair.answer_with_its_payload(token), "not dropped, so somebody waits");
            }
        }
        Op::Deliver { to_server, bytes } => {
            let role = if *to_server { Role::Server } else { Role::Client };
            pair.flush();
            pair.deliver(role, (*bytes).into());
        }
        Op::Advance { ms } => {
            pair.now += Duration::from_millis((*ms).into());
            pair.handle_timeouts();
        }
        Op::Drain { client } => pair.drain(if *client { Role::Client } else { Role::Server }),
        Op::Pause { server, on } => {
            let now = pair.now;
            let role = if *server { Role::Server } else { Role::Client };
            let connection = &mut pair.side(role).connection;
            match on {
                true => connection.handle_receive_paused(),
                false => connection.handle_receive_resumed(now),
            }
        }
        Op::Send { server, started } => {
            let now = pair.now;
            let role = if *server { Role::Server } else { Role::Client };
            let connection = &mut pair.side(role).connection;
            match started {
                true => connection.handle_send_started(1 << 20, now),
                false => connection.handle_send_ended(now),
            }
        }
        Op::Break => pair.break_wire(),
    }
    pair.flush();
    oracle.watch(pair);
}

fn run(window: u32, payload_crc: bool, seed: u64, ops: &[Op]) -> (Pair, Oracle) {
    let client = ConnectionConfig { payload_crc, ..Default::default() };
    let server = ConnectionConfig {
        in_flight_max: window,
        idle_timeout: Some(Duration::from_secs(20)),
        ..client.clone()
    };
    let mut pair = Pair::open_with(&client, &server);
    pair.cut(seed);
    let mut oracle = Oracle::default();
    for op in ops {
        apply(&mut pair, &mut oracle, op);
    }
    (pair, oracle)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_call_ends_exactly_once(
        window in 1u32..20,
        payload_crc: bool,
        seed: u64,
        ops in prop::collection::vec(op(), 0..150),
        is_broken: bool,
    ) {
        let (mut pair, mut oracle) = run(window, payload_crc, seed, &ops);
        if is_broken {
            apply(&mut pair, &mut oracle, &Op::Break);
        } else {
            finish(&mut pair, &mut oracle);
        }
        prop_assert_eq!(oracle.in_flight(), Vec::<u64>::new());
        prop_assert!(pair.deferred.is_empty());
        prop_assert!(pair.client.close_reason().is_some());
        prop_assert!(pair.server.close_reason().is_some());
    }

    #[test]
    fn a_drain_loses_nothing(
        seed: u64,
        before in prop::collection::vec(calm_op(), 0..60),
        server_drains: bool,
        after in prop::collection::vec(calm_op(), 0..60),
    ) {
        let (mut pair, mut oracle) = run(16, false, seed, &before);
        apply(&mut pair, &mut oracle, &Op::Drain { client: !server_drains });
        for op in &after {
            apply(&mut pair, &mut oracle, op);
        }
        finish(&mut pair, &mut oracle);
        for (token, end) in &oracle.ended {
            let is_told = matches!(end, End::Answered(Status::OK | Status::DRAINING));
            prop_assert!(is_told || *end == End::Cancelled, "call {}: {:?}", token, end);
        }
        prop_assert_eq!(oracle.in_flight(), Vec::<u64>::new());
        prop_assert!(pair.client.close_reason().is_some());
        prop_assert!(pair.server.close_reason().is_some());
    }
}

/// Neither time enough for a timeout nor damage.
fn calm_op() -> impl Strategy<Value = Op> {
    op().prop_filter("calm", |op| match op {
        Op::Start { timeout_ms, .. } => timeout_ms.is_none(),
        Op::Advance { ms } => *ms < 60,
        Op::Break | Op::Drain { .. } => false,
        _ => true,
    })
}

/// Answers everything, lets everything arrive, and ends it in order.
fn finish(pair: &mut Pair, oracle: &mut Oracle) {
    let now = pair.now;
    for role in [Role::Client, Role::Server] {
        pair.side(role).connection.handle_receive_resumed(now);
        pair.side(role).connection.handle_send_ended(now);
    }
    pair.settle();
    while let Some(token) = pair.deferred.keys().next().copied() {
        assert!(pair.answer_with_its_payload(token));
        pair.settle();
    }
    pair.drain(Role::Server);
    pair.settle();
    oracle.watch(pair);
}
