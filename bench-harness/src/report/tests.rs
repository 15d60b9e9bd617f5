use super::*;
use crate::lanes::Losses;
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
    Measured { recording, workers: vec![worker], server: None, losses: Losses::default() }
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
    assert_eq!(json["notes"], Value::Array(Vec::new()), "all is well");
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
    measured.recording.late_by_generator = 11;
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
