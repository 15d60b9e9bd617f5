use super::*;
use crate::interrupt::Interrupt;
use crate::lanes::Peer;
use crate::protocol::catena::Request;
use crate::recording::{Flight, Window};
use crate::schedule::Arrival;
use bytes::Bytes;
use catena_engine::reactor::turn::PollMode;
use catena_engine::server::DriverChoice;
use catena_engine::time::{Duration, Instant};
use catena_engine::{MethodId, Status};
use serde_json::Value;
use std::sync::Arc;

fn plan(pace: Pace) -> Plan {
    Plan {
        address: "127.0.0.1:7400".parse().expect("an address"),
        target: Target::Catena(Arc::new(Request {
            method: MethodId::of("echo"),
            payload: Bytes::from_static(&[0; 32]),
            timeout: Duration::from_secs(1),
            connection: Arc::default(),
        })),
        connections: 2,
        depth: 4,
        pace,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        seed: 7,
        driver: DriverChoice::Auto,
        poll: PollMode::Adaptive,
        cores: vec![Some(1)],
        server_pid: None,
        interrupt: Interrupt::default(),
    }
}

/// `ok` requests of 100 µs that were sent `late` after their instant, in a window of a second.
fn measured(ok: u64, late: Duration) -> Measured {
    let from = Instant::from_nanos(5_000_000_000);
    let until = from + Duration::from_secs(1);
    let mut recording = Recording::new(Window { from, until });
    for _ in 0..ok {
        let flight = Flight { intended: from, sent: from + late };
        recording.sent(flight, true);
        recording.ended(flight, Outcome::Ok, flight.sent + Duration::from_micros(100));
    }
    let worker = WorkerReport {
        core: Some(1),
        driver: "io_uring",
        cpu_share: 0.5,
        busy_share: 0.4,
        waited_share: 0.0,
    };
    Measured {
        recording,
        workers: vec![worker],
        server: None,
        peer: Peer::default(),
        interrupted_after: None,
    }
}

fn report(plan: &Plan, measured: &Measured) -> RunReport {
    let told = Told { target: "catena://x".to_owned(), method: "echo".to_owned(), idle: 0 };
    RunReport::new(Manifest::gather(), told, plan, measured)
}

const OPEN: Pace = Pace::Open { rate: 1_000.0, arrival: Arrival::Poisson };

#[test]
fn the_json_has_what_is_promised() {
    let mut measured = measured(990, Duration::from_millis(2));
    let at = measured.recording.window().from;
    let flight = Flight { intended: at, sent: at };
    let shed = Outcome::NotExecuted(Status::SHED.0);
    for outcome in [shed, shed, Outcome::TimedOut, Outcome::ConnectionLost] {
        measured.recording.ended(flight, outcome, at + Duration::from_millis(1));
    }
    let report = report(&plan(OPEN), &measured);
    let json = serde_json::to_value(&report).expect("it has string keys only");
    assert_eq!(json["requests"], 994);
    assert_eq!(json["ok"], 990);
    assert_eq!(json["errors"]["shed"], 2);
    assert_eq!(json["errors"]["timed out"], 1);
    assert_eq!(json["error_classes"]["not_executed"], 2);
    assert_eq!(json["error_classes"]["may_have_executed"], 1);
    assert_eq!(json["error_classes"]["transport"], 1);
    assert_eq!(json["rps"], 990.0);
    assert_eq!(json["late_sends"], 990);
    assert_eq!(json["client_cpu_share"], 0.5);
    assert_eq!(json["offered_rps"], 1_000.0);
    assert_eq!(json["loop"], "open");
    assert_eq!(json["seed"], 7);
    assert!(json["manifest"]["host"]["kernel"].is_string());
    for time in ["response", "service"] {
        for quantile in ["p50", "p90", "p99", "p999", "max"] {
            assert!(json["latency_us"][time][quantile].is_f64(), "{time} {quantile}");
        }
    }
    let p50 = |time: &str| json["latency_us"][time]["p50"].as_f64().expect("a number");
    assert!((2_090.0..2_110.0).contains(&p50("response")), "{}", p50("response"));
    assert!((99.0..101.0).contains(&p50("service")), "{}", p50("service"));
    let [Value::String(note)] = &json["notes"].as_array().expect("notes")[..] else {
        panic!("all is well but for one thing: {}", json["notes"]);
    };
    assert!(note.starts_with("990 requests waited because all 8 places"), "{note}");
}

#[test]
fn a_generator_at_its_end_makes_the_run_invalid() {
    let mut measured = measured(1_000, Duration::ZERO);
    assert!(report(&plan(OPEN), &measured).is_valid);
    measured.workers[0].busy_share = 0.97;
    let saturated = report(&plan(OPEN), &measured);
    assert!(!saturated.is_valid && saturated.text().contains("saturated"), "{}", saturated.text());
    measured.workers[0].busy_share = 0.5;
    measured.workers[0].waited_share = 0.3;
    assert!(report(&plan(OPEN), &measured).text().contains("other processes"));
    measured.workers[0].waited_share = 0.0;
    (measured.recording.late_sends, measured.recording.late_by_generator) = (11, 11);
    assert!(report(&plan(OPEN), &measured).text().contains("was late: 1.1 %"));
}

#[test]
fn a_shortfall_is_explained_in_words() {
    let mut measured = measured(600, Duration::ZERO);
    let until = measured.recording.window().until;
    for back_ms in 1..=400 {
        let intended = until - Duration::from_millis(back_ms);
        measured.recording.unsent(intended, until);
    }
    let report = report(&plan(OPEN), &measured);
    let text = report.text();
    assert!(report.is_valid, "the server was too slow; that is what one wants to know");
    let words = "Of 1,000 requests/s offered, the server kept up with 60 %.";
    assert!(text.contains(words), "{text}");
    assert!(text.replace('\n', " ").contains("at worst for some 400 ms"), "{text}");
    assert!(text.contains("unsent      400"), "{text}");
}

#[test]
fn the_depth_is_the_one_that_was_possible() {
    let mut measured = measured(1_000, Duration::ZERO);
    measured.peer.window = 3;
    let report = report(&plan(Pace::Closed), &measured);
    assert_eq!((report.depth, report.depth_asked), (3, 4));
    let text = report.text();
    assert!(text.contains("2 connections x 3 in flight"), "{text}");
    assert!(text.contains("the server's window is 3, so depth is 3."), "{text}");
}

#[test]
fn a_server_that_was_gone_makes_the_run_invalid_and_is_not_called_slow() {
    let mut measured = measured(400, Duration::ZERO);
    let Window { from, until } = measured.recording.window();
    (measured.peer.losses, measured.peer.gone) = (2, 2);
    measured.peer.outage = Some(Window { from: from + Duration::from_millis(400), until });
    let report = report(&plan(OPEN), &measured);
    assert!(!report.is_valid && report.is_server_lost());
    let text = report.text().replace('\n', " ");
    assert!(text.contains("no connection from 0.4 s to the end; 2 of 2 never came back"), "{text}");
    assert!(!text.contains("kept up"), "{text}");
    let json = serde_json::to_value(&report).expect("it has string keys only");
    assert_eq!(json["no_connection_secs"], serde_json::json!([0.4, 1.0]));
    assert_eq!(json["connections_gone"], 2);
}

#[test]
fn what_was_not_measured_is_not_told_as_zero() {
    let mut measured = measured(0, Duration::ZERO);
    let from = measured.recording.window().from;
    measured.recording.cut(from);
    measured.interrupted_after = Some(Duration::ZERO);
    let report = report(&plan(OPEN), &measured);
    let text = report.text();
    assert!(!report.is_valid && text.contains("interrupted after 0.0 s of 1.0 s"), "{text}");
    assert!(text.contains("rate        - answers/s") && !text.contains("0.00"), "{text}");
    let json = serde_json::to_value(&report).expect("it has string keys only");
    assert!(json["rps"].is_null() && json["latency_us"]["service"]["p99"].is_null());
    assert_eq!(json["interrupted_after_secs"], 0.0);
}

#[test]
fn what_the_server_said_is_shown_beside_its_status() {
    let mut measured = measured(1_000, Duration::ZERO);
    let at = measured.recording.window().from;
    let flight = Flight { intended: at, sent: at };
    for status in [Status::MALFORMED, Status::application(7)] {
        let outcome = Outcome::MayHaveExecuted(status.0);
        measured.recording.ended(flight, outcome, at + Duration::from_millis(1));
    }
    measured.peer.texts.insert(Status::MALFORMED.0, "16 MiB at most".to_owned());
    let report = report(&plan(OPEN), &measured);
    let text = report.text();
    assert!(text.contains("malformed: 1 (\"16 MiB at most\")"), "{text}");
    assert!(text.contains("application status 7 (1007 on the wire): 1"), "{text}");
    assert_eq!(report.error_texts["malformed"], "16 MiB at most");
}

#[test]
fn who_waited_for_a_place_is_told_of() {
    let mut measured = measured(1_000, Duration::ZERO);
    measured.recording.late_sends = 5;
    let text = report(&plan(OPEN), &measured).text().replace('\n', " ");
    assert!(text.contains("5 requests waited because all 8 places in flight were taken"), "{text}");
}
