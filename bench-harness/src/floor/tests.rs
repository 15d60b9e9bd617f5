use super::rounds::{ShapeRounds, medians};
use super::*;
use crate::cli::{Cli, Verb};
use catena_engine::time::Duration;
use clap::Parser;
use std::collections::BTreeMap;

fn cell(rps: f64, cpu: f64) -> Cell {
    Cell {
        rps,
        p50_us: 10.0 * cpu,
        p99_us: 20.0 * cpu,
        server_cpu_us_per_request: cpu,
        client_busy_share: 0.5,
        waited_share: 0.0,
        errors: 0,
    }
}

/// Two rounds; in the second one the machine is half as fast.
fn rounds() -> Rounds {
    let slow = |rps: f64, cpu: f64| vec![cell(rps, cpu), cell(rps / 2.0, cpu * 2.0)];
    let cells = [
        (Contender::EngineUring, slow(90.0, 3.3)),
        (Contender::EngineEpoll, slow(80.0, 3.96)),
        (Contender::BareUring, slow(100.0, 3.0)),
        (Contender::BareEpoll, slow(95.0, 3.2)),
    ];
    let shape_rounds = ShapeRounds(cells.into_iter().collect());
    Rounds([(SHAPES[1], shape_rounds)].into_iter().collect())
}

#[test]
fn ratios_are_taken_within_rounds_against_the_better_echo() {
    let rounds = rounds();
    let is = |ratio: Option<f64>, wanted: f64| (ratio.expect("measured") - wanted).abs() < 1e-9;
    let of = rounds.of(SHAPES[1]);
    assert!(is(of.ratio_to_bare(cpu, Best::Lowest), 1.1));
    assert!(is(of.ratio_to_bare(rate, Best::Highest), 0.9));
    assert!(is(of.ratio_epoll_uring(cpu), 1.2));
    assert!(rounds.of(SHAPES[0]).ratio_to_bare(cpu, Best::Lowest).is_none(), "not measured");
    let by_shape = rounds.by_shape(|rounds| rounds.ratio_epoll_uring(cpu));
    assert_eq!(by_shape.into_keys().collect::<Vec<_>>(), ["32x1"]);
}

/// A bare echo that could have been asked for more says only what the ratio is at most.
#[test]
fn a_ratio_to_a_generator_that_was_spent_is_marked() {
    let mut rounds = rounds();
    assert!(!rounds.of(SHAPES[1]).rate_is_upper_bound());
    assert!(!report(&rounds).text().contains("at most"));
    let spend = |rounds: &mut Rounds, contender| {
        let of = &mut rounds.0.get_mut(&SHAPES[1]).expect("it was measured").0;
        let cells = of.get_mut(&contender).expect("it was measured");
        cells.iter_mut().for_each(|cell| cell.client_busy_share = 0.97);
    };
    spend(&mut rounds, Contender::BareEpoll);
    let marked = report(&rounds);
    assert!(marked.text().contains("at most 0.90"), "{}", marked.text());
    let json = serde_json::to_value(&marked).expect("it has string keys only");
    assert_eq!(json["ratio_rps_at_most"][0], "32x1");
    assert!(json["ratio_rps"]["32x1"].is_f64(), "the figure stays where it was");
    spend(&mut rounds, Contender::EngineUring);
    assert!(!rounds.of(SHAPES[1]).rate_is_upper_bound(), "both could be asked for more");
}

#[test]
fn the_json_has_what_is_promised() {
    let rounds = rounds();
    let report = report(&rounds);
    let json = serde_json::to_value(&report).expect("it has string keys only");
    let row = &json["rows"][0];
    assert_eq!(
        (&row["server"], &row["conns"], &row["depth"]),
        (&"engine-uring".into(), &32.into(), &1.into())
    );
    for figure in ["rps", "p50_us", "p99_us", "server_cpu_us_per_request"] {
        assert!(row[figure].is_f64(), "{figure}");
    }
    assert!(json["ratio_cpu"]["32x1"].is_f64() && json["ratio_rps"]["32x1"].is_f64());
    let text = report.text();
    assert!(text.contains("engine-uring") && text.contains("1.10"), "{text}");
}

fn report(rounds: &Rounds) -> FloorReport {
    FloorReport {
        manifest: Manifest::gather(),
        server_core: 0,
        load_core: 1,
        rounds: 2,
        secs: 1.0,
        frame_bytes: 64,
        rows: rounds.rows(),
        spin_rows: Vec::new(),
        ratio_cpu: rounds.by_shape(|rounds| rounds.ratio_to_bare(cpu, Best::Lowest)),
        ratio_rps: rounds.by_shape(|rounds| rounds.ratio_to_bare(rate, Best::Highest)),
        ratio_rps_at_most: rounds.shapes(ShapeRounds::rate_is_upper_bound),
        ratio_cpu_epoll_uring: BTreeMap::new(),
        ratio_p50_spin: None,
        is_interrupted: false,
        idle: None,
        notes: Vec::new(),
    }
}

#[test]
fn medians_are_in_the_middle() {
    assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
    assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    let cells = [cell(1.0, 5.0), cell(9.0, 1.0), cell(2.0, 2.0)];
    assert_eq!((medians(&cells).rps, medians(&cells).server_cpu_us_per_request), (2.0, 2.0));
}

#[test]
fn the_default_floor_takes_less_than_three_minutes() {
    let cli = Cli::parse_from(["catena-bench", "floor"]);
    let Verb::Floor(args) = cli.verb else { panic!("it is floor") };
    let rows = (SHAPES.len() * Contender::ALL.len() + Contender::ALL.len()) as u32;
    let cells = rows * args.rounds + 2 * args.rounds;
    // A server's start and end take some 50 ms.
    let cell = args.secs + args.warmup + Duration::from_millis(50);
    assert!(cell * cells < Duration::from_secs(175), "{:?}", cell * cells);
}
