//! The simulator against what is known: closed forms, published figures, and itself.

use super::report::{PolicyReport, SimReport};
use super::scenario::{BUILT_IN, Scenario};
use super::{Contender, svg};
use crate::interrupt::Interrupt;
use catena_engine::time::Duration;

fn contenders(list: &str) -> Vec<Contender> {
    list.split(',').map(|name| name.parse().expect(name)).collect()
}

fn simulate(name: &str, scenario: &Scenario, policies: &[Contender], seed: u64) -> SimReport {
    super::simulate(name, scenario, policies, seed, &Interrupt::default())
}

fn run(name: &str, list: &str, seed: u64) -> SimReport {
    let scenario = Scenario::load(name).expect("it is built in");
    simulate(name, &scenario, &contenders(list), seed)
}

fn policy<'a>(report: &'a SimReport, name: &str) -> &'a PolicyReport {
    report.policies.iter().find(|policy| policy.policy == name).expect("it was simulated")
}

/// The mean time in a supermarket model of infinitely many servers, in service times: the sum of
/// load^((d^i − d) / (d − 1)).
fn supermarket_mean(choices: u32, load: f64) -> f64 {
    let exponent = |i: u32| match choices {
        1 => f64::from(i - 1),
        d => (f64::from(d).powi(i as i32) - f64::from(d)) / f64::from(d - 1),
    };
    (1..10_000).map(|i| load.powf(exponent(i))).take_while(|term| *term > 1e-12).sum()
}

/// How far so many servers are from that, after so many service times of warm-up.
fn supermarket_error(servers: u32, case: (u32, f64, u32, u32)) -> f64 {
    let (choices, load, warmup, measured) = case;
    let text = format!(
        "about = ''\nduration = '{}ms'\nwarmup = '{warmup}ms'\nrate = {}\n\
         [[servers]]\ncount = {servers}\nmodel = 'queue'\ntime = 'exp:1ms'",
        warmup + measured,
        load * f64::from(servers) * 1e3,
    );
    let scenario = Scenario::parse(&text).expect("it is well-formed");
    let report = simulate("supermarket", &scenario, &contenders(&format!("ll:{choices}")), 1);
    let mean = report.policies[0].total.latency.mean / 1e3;
    let expected = supermarket_mean(choices, load);
    println!("d = {choices}, load {load}: {mean:.4}, closed form {expected:.4}");
    mean / expected - 1.0
}

/// Of choices, load, and milliseconds (service times) of warm-up and of measurement.
fn assert_supermarket(servers: u32, cases: &[(u32, f64, u32, u32)]) {
    for &case in cases {
        let error = supermarket_error(servers, case);
        assert!(error.abs() < 0.03, "{case:?}: off by {:.2} %", error * 100.0);
    }
}

#[test]
fn the_closed_form_is_the_published_one() {
    for (choices, load, mean) in
        [(1, 0.9, 10.0), (2, 0.5, 1.2657), (2, 0.95, 3.3830), (3, 0.9, 2.0279), (3, 0.99, 3.8578)]
    {
        assert!((supermarket_mean(choices, load) - mean).abs() < 1e-3, "{choices} {load}");
    }
}

#[test]
fn one_choice_is_as_the_closed_form_says() {
    assert_supermarket(1_000, &[(1, 0.5, 50, 400), (1, 0.7, 100, 800), (1, 0.8, 300, 1_000)]);
    assert_supermarket(1_000, &[(1, 0.9, 1_000, 2_000)]);
}

#[test]
fn two_choices_are_as_the_closed_form_says() {
    assert_supermarket(1_000, &[(2, 0.5, 20, 200), (2, 0.7, 30, 200), (2, 0.8, 50, 250)]);
    assert_supermarket(1_000, &[(2, 0.9, 100, 300), (2, 0.95, 250, 500)]);
}

#[test]
fn three_choices_are_as_the_closed_form_says() {
    assert_supermarket(1_000, &[(3, 0.5, 20, 200), (3, 0.7, 30, 200), (3, 0.8, 50, 250)]);
    assert_supermarket(1_000, &[(3, 0.9, 100, 300), (3, 0.95, 250, 500)]);
}

/// Near saturation queues take long to settle, a single choice takes millions of calls to average out,
/// and 1,000 servers are too few to be as good as infinitely many (they are 5 % off at a load of 0.99):
/// for optimised builds alone.
#[cfg(not(debug_assertions))]
#[test]
fn near_saturation_it_holds_too() {
    assert_supermarket(1_000, &[(1, 0.95, 5_000, 13_000)]);
    assert_supermarket(10_000, &[(2, 0.99, 300, 500), (3, 0.99, 300, 500)]);
}

#[test]
fn beyond_round_robin_is_reproduced() {
    let report = run("beyond-round-robin", "rr,ll,ewma", 1);
    for (name, published) in [("rr", 0.95455), ("ll", 0.9949), ("ewma", 0.9992)] {
        let success = policy(&report, name).total.success;
        assert!((success - published).abs() < 3e-4, "{name}: {success}");
    }
}

/// The first so many milliseconds of a scenario.
fn run_for(name: &str, list: &str, seed: u64, millis: u64) -> SimReport {
    let mut scenario = Scenario::load(name).expect("it is built in");
    scenario.set_duration(Duration::from_millis(millis)).expect("it is long enough");
    simulate(name, &scenario, &contenders(list), seed)
}

#[test]
fn ours_is_beyond_round_robin() {
    let report = run("beyond-round-robin", "hist,hist+hedge", 1);
    for (name, asked) in [("hist", 0.9995), ("hist+hedge", 0.9999)] {
        let total = policy(&report, name).total;
        assert!(total.success >= asked, "{name}: {}", total.success);
    }
}

#[test]
fn two_slow_replicas_of_four_are_no_harm_to_who_compares_all() {
    let report = run("slow-replicas", "hist,ll:2", 1);
    let mut healthy = Scenario::load("slow-replicas").expect("it is built in");
    healthy.faults.clear();
    let healthy = simulate("healthy", &healthy, &contenders("hist"), 1);
    let bound = healthy.policies[0].total.latency.p99 * 1.3;
    let p99 = |name: &str| policy(&report, name).total.latency.p99;
    assert!(p99("hist") <= bound, "{} above {bound}", p99("hist"));
    assert!(p99("ll:2") > bound, "two drawn ones are both slow in one of six cases");
}

#[test]
fn when_rates_flip_ours_is_about_as_good_as_those_that_know_more() {
    for seed in [1, 2] {
        let report = run_for("rate-flips", "hist,c3,prequal,ll:8,ewma:8", seed, 2_000);
        let p99 = |name: &str| policy(&report, name).total.latency.p99;
        // C3 is told how many clients there are, and Prequal sends three probes a call.
        for (rival, bound) in [("c3", 1.1), ("prequal", 1.1), ("ll:8", 0.9), ("ewma:8", 0.9)] {
            let bound = p99(rival) * bound;
            assert!(p99("hist") <= bound, "{rival}: {} above {bound}", p99("hist"));
        }
    }
}

/// The load ramp with a third of the servers, a third of the clients, and steps of 5 s.
#[test]
fn up_the_load_ramp_ours_misses_no_deadline_and_has_the_better_tail() {
    let capacity = 33.0 * 4.0 / 0.0502;
    let steps: Vec<String> = (0..3)
        .zip([0.75, 1.27, 1.74])
        .map(|(n, load)| format!("[[load]]\nat = '{}s'\nrate = {}\n", n * 5, load * capacity))
        .collect();
    let text = format!(
        "about = ''\nduration = '15s'\nclients = 33\nnetwork = '100us'\ntimeout = '5s'\n{}\
         [[servers]]\ncount = 33\nmodel = 'sharing'\ncapacity = 4\ntime = 'normal:39ms,39ms'\n\
         [[faults]]\nservers = 'all'\ncapacity = [0.8, 3.4]\nevery = '10s'\n",
        steps.concat()
    );
    let scenario = Scenario::parse(&text).expect("it is well-formed");
    for seed in [1, 2] {
        let report = simulate("ramp", &scenario, &contenders("hist,prequal"), seed);
        let [ours, prequal] = [0, 1].map(|n: usize| &report.policies[n]);
        assert_eq!((ours.total.timed_out, ours.probes), (0, 0));
        for (ours, prequal) in ours.steps.iter().zip(&prequal.steps) {
            let (ours, prequal) = (ours.total.latency, prequal.total.latency);
            assert!(ours.p99 <= prequal.p99 && ours.p999 <= prequal.p999, "{ours:?} {prequal:?}");
        }
    }
}

#[test]
fn ours_is_never_the_worst() {
    let rivals = ["rr", "ll", "ewma", "c3", "prequal"];
    for (name, secs) in [
        ("fast-failing", 14),
        ("flapping", 12),
        ("cold-start", 14),
        ("slow-core", 14),
        ("gc-pauses", 11),
        ("global-slowdown", 20),
    ] {
        let report = run_for(name, &format!("hist,{}", rivals.join(",")), 1, secs * 1_000);
        let of = |name: &str| policy(&report, name).total;
        let worst_p99 = rivals.map(|rival| of(rival).latency.p99).into_iter().fold(0.0, f64::max);
        let worst_success = rivals.map(|rival| of(rival).success).into_iter().fold(1.0, f64::min);
        let ours = of("hist");
        assert!(ours.latency.p99 < worst_p99, "{name}: {} of {worst_p99}", ours.latency.p99);
        assert!(ours.success >= worst_success, "{name}: {} of {worst_success}", ours.success);
    }
}

#[test]
fn a_seed_is_a_run() {
    let json = |seed| {
        let mut scenario = Scenario::load("flapping").expect("it is built in");
        scenario.set_duration(Duration::from_secs(9)).expect("it is long enough");
        let report =
            simulate("flapping", &scenario, &contenders("hist+hedge+retry,prequal,c3"), seed);
        (serde_json::to_string(&report).expect("it can be told"), svg::draw(&report))
    };
    assert_eq!(json(7), json(7));
    assert_ne!(json(7), json(8));
}

#[test]
fn policies_meet_the_same_calls_and_faults() {
    let report = run("slow-core", "rr,hist+retry", 3);
    let calls = |policy: &PolicyReport| -> Vec<u64> {
        policy.over_time.iter().map(|interval| interval.total.calls).collect()
    };
    assert_eq!(calls(&report.policies[0]), calls(&report.policies[1]));
}

#[test]
fn hedges_stay_within_their_budget_when_all_are_slow() {
    let report = run("global-slowdown", "ll+hedge,hist+hedge", 1);
    for policy in &report.policies {
        let share = policy.hedges as f64 / policy.total.calls as f64;
        assert!(policy.hedges > 0 && share <= 0.05, "{}: {share}", policy.policy);
    }
}

#[test]
fn retries_go_elsewhere_and_succeed() {
    // So few calls that the budget's reserve is enough for all of them.
    let text = "about = ''\nduration = '100s'\nrate = 5\n\
                [[servers]]\ncount = 2\nmodel = 'queue'\ntime = 'const:1ms'\n\
                [[faults]]\nservers = [0]\ndown = true";
    let scenario = Scenario::parse(text).expect("it is well-formed");
    let report = simulate("half", &scenario, &contenders("random,random+retry"), 1);
    let [without, with] = [0, 1].map(|n: usize| &report.policies[n]);
    assert!((0.4..0.6).contains(&without.total.success), "{}", without.total.success);
    assert_eq!((with.total.success, with.total.failed), (1.0, 0), "nobody fails twice");
    assert_eq!(with.retries, with.servers[0].failed);
}

#[test]
fn what_is_told_adds_up() {
    let report = run("fast-failing", "hist+hedge+retry,ll", 1);
    for policy in &report.policies {
        let calls = policy.total.calls;
        assert_eq!(policy.steps.iter().map(|step| step.total.calls).sum::<u64>(), calls);
        assert_eq!(policy.over_time.iter().map(|part| part.total.calls).sum::<u64>(), calls);
        let attempts: u64 = policy.servers.iter().map(|server| server.attempts).sum();
        // Attempts of calls from just before the warm-up's end may begin after it.
        assert!(attempts.abs_diff(calls + policy.retries + policy.hedges) <= 5, "{attempts}");
        let share: f64 = policy.servers.iter().map(|server| server.share).sum();
        assert!((share - 1.0).abs() < 1e-9);
    }
}

#[test]
fn the_drawing_has_a_curve_for_each_line_and_no_stray_marks() {
    let report = run("slow-replicas", "rr,hist", 1);
    let drawing = svg::draw(&report);
    assert_eq!(drawing.matches("<path").count(), report.lines.len() * report.policies.len() * 2);
    assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "coordinates are numbers");
    assert!(report.text(true).contains("hist over time"));
}

#[test]
fn all_that_is_built_in_is_well_formed() {
    for (name, text) in BUILT_IN {
        Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_scenario_that_is_wrong_says_where() {
    let text = |replaced: &str, by: &str| {
        let good = "about = 'a'\nduration = '10s'\nrate = 100\n[[servers]]\ncount = 3\n\
                    model = 'queue'\ntime = 'exp:1ms'\n[[faults]]\nservers = [2]\nslow = 10\n";
        assert!(Scenario::parse(good).is_ok() && good.contains(replaced));
        good.replace(replaced, by)
    };
    for (replaced, by, named) in [
        ("duration = '10s'\n", "", "duration"),
        ("duration = '10s'", "duration = 'long'", "duration"),
        ("duration = '10s'", "duration = '10s'\nwarmup = '10s'", "warmup"),
        ("duration = '10s'", "duration = '10s'\ninterval = '1ms'", "interval"),
        ("rate = 100", "rate = 0", "rate"),
        ("rate = 100", "rate = 100\nof_saturation = 0.5", "of_saturation"),
        ("rate = 100", "of_saturation = 1.5", "of_saturation"),
        ("slow = 10", "drain = false", "faults[0].drain"),
        ("rate = 100\n", "", "rate"),
        ("rate = 100", "rate = 100\nload = [{ at = '0s', rate = 1 }]", "rate"),
        ("rate = 100", "load = [{ at = '1s', rate = 1 }]", "load[0].at"),
        ("rate = 100", "load = [{ at = '0s', rate = 1 }, { at = '0s', rate = 2 }]", "load[1].at"),
        ("rate = 100", "rate = 100\nspeed = 1", "speed"),
        ("rate = 100", "rate = 100\nclients = 0", "clients"),
        ("rate = 100", "rate = 100\nreplicas = 4", "replicas"),
        ("rate = 100", "rate = 100\narrival = 'sometimes'", "arrival"),
        ("count = 3", "count = 0", "servers[0].count"),
        ("count = 3", "count = 20000", "servers"),
        ("'queue'", "'stack'", "model"),
        ("'queue'", "'queue'\nworkers = 0", "servers[0].workers"),
        ("'queue'", "'latency'\nworkers = 2", "servers[0].workers"),
        ("'queue'", "'sharing'", "servers[0].capacity"),
        ("'exp:1ms'", "'zipf:1ms'", "time"),
        ("servers = [2]", "servers = [3]", "faults[0].servers"),
        ("servers = [2]", "servers = []", "faults[0].servers"),
        ("servers = [2]", "servers = 'some'", "servers"),
        ("slow = 10", "", "faults[0].servers"),
        ("slow = 10", "slow = 10\nadd = '1ms'", "faults[0].servers"),
        ("slow = 10", "slow = 0", "faults[0].slow"),
        ("slow = 10", "slow = 10\nfrom = '5s'\nuntil = '5s'", "faults[0].until"),
        ("slow = 10", "slow = 10\nevery = '1s'", "faults[0].lasts"),
        ("slow = 10", "slow = 10\nevery = '1s'\nlasts = '2s'", "faults[0].lasts"),
        ("slow = 10", "speeds = [1, 2]", "faults[0].every"),
        ("slow = 10", "pause = false", "faults[0].pause"),
    ] {
        let error = Scenario::parse(&text(replaced, by)).expect_err(by);
        assert!(error.contains(named), "{by:?} should name {named}: {error}");
    }
    let error = Scenario::load("supermarkt").expect_err("a slip").to_string();
    assert!(error.contains("supermarkt") && error.contains("beyond-round-robin"), "{error}");
}

#[test]
fn what_was_not_simulated_to_the_end_is_named_and_nothing_is_told_of_it() {
    let scenario = Scenario::load("slow-core").expect("it is built in");
    let interrupt = Interrupt::default();
    interrupt.set();
    let report =
        super::simulate("slow-core", &scenario, &contenders("rr,hist+retry"), 1, &interrupt);
    assert!(report.policies.is_empty());
    assert_eq!(report.not_simulated, ["rr", "hist+retry"]);
    assert!(report.text(true).contains("Interrupted: nothing is told of rr, hist+retry."));
    let whole = simulate("slow-core", &scenario, &contenders("rr"), 1);
    let json = serde_json::to_string(&whole).expect("it is plain data");
    assert!(!json.contains("not_simulated") && !whole.text(true).contains("Interrupted"));
}
