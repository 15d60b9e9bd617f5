//! Scenario files that are wrong, one field at a time: the error names the field, and nothing panics.

use super::scenario::Scenario;
use std::path::PathBuf;

/// A scenario with every field of the top and of a group of servers.
const FULL: &str = "about = 'a'
duration = '10s'
warmup = '1s'
interval = '1s'
clients = 2
arrival = 'poisson'
rate = 100
network = '50us'
timeout = '1s'
cancel_expired = true
success_within = '500ms'
replicas = 2

[[servers]]
count = 3
model = 'queue'
time = 'exp:1ms'
workers = 2
weight = 1
";

/// One line of a fault for each thing that can go wrong.
const FAULTS: [&str; 9] = [
    "latency = '2s'",
    "slow = 10",
    "add = '1ms'",
    "pause = true",
    "fail = '1ms'",
    "down = true",
    "cold = { factor = 10, over = '2s' }",
    "speeds = [1, 3]\nevery = '100ms'",
    "capacity = [0.5, 1.5]\nevery = '100ms'",
];

/// What no field takes, and what only some do.
const VALUES: [&str; 16] = [
    "''",
    "'x'",
    "-1",
    "'-1s'",
    "0",
    "'0s'",
    "nan",
    "inf",
    "1e300",
    "[]",
    "[nan]",
    "{}",
    "true",
    "4294967296",
    "'1e30s'",
    "'exp:0'",
];

fn fault(what: &str) -> String {
    format!("{FULL}\n[[faults]]\nservers = [2]\nfrom = '1s'\nuntil = '5s'\n{what}\n")
}

/// The text with the value of one line replaced; `None` if the line assigns nothing.
fn replaced(text: &str, line: usize, value: &str) -> Option<(String, String)> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (field, _) = lines[line].split_once(" = ")?;
    let field = field.to_owned();
    lines[line] = format!("{field} = {value}");
    Some((field, lines.join("\n")))
}

/// What a value of one field may collide with: the error is of either.
fn relatives(field: &str) -> &[&str] {
    match field {
        "duration" => &["warmup", "interval"],
        "servers" | "count" => &["servers", "replicas", "clients", "count"],
        "model" => &["workers"],
        "from" | "until" => &["from", "until"],
        "slow" | "cold" | "latency" | "add" | "fail" | "pause" | "down" => &["servers", "factor"],
        _ => &[],
    }
}

#[test]
fn whatever_a_field_is_the_error_names_it() {
    let (mut refused, mut accepted) = (0, 0);
    let texts = FAULTS.map(fault);
    for text in [FULL.to_owned()].iter().chain(&texts) {
        Scenario::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for line in 0..text.lines().count() {
            for value in VALUES {
                let Some((field, wrong)) = replaced(text, line, value) else { continue };
                let Err(error) = Scenario::parse(&wrong) else {
                    accepted += 1;
                    continue;
                };
                refused += 1;
                let names = |name: &&str| error.contains(*name);
                let is_named = names(&&*field) || relatives(&field).iter().any(names);
                assert!(is_named, "{field} = {value} should be named: {error}");
            }
        }
    }
    // Texts are free, truths are true, and some numbers fit.
    assert!(refused > 5 * accepted, "{refused} refused, {accepted} accepted");
}

#[test]
fn what_makes_no_sense_is_named() {
    for (right, wrong, named) in [
        ("time = 'exp:1ms'", "time = 'exp:0ms'", "servers[0].time: exp:0us is no work"),
        ("time = 'exp:1ms'", "time = 'normal:0,0'", "servers[0].time"),
        ("time = 'exp:1ms'", "time = 'lognormal:10ms,1e9'", "sigma is at most 5"),
        ("time = 'exp:1ms'", "time = 'lognormal:24h,50'", "sigma is at most 5"),
        ("time = 'exp:1ms'", "time = 'lognormal:24h,2'", "its mean is longer than 24h"),
        ("servers = [2]", "servers = [0, 0]", "server 0 is named twice"),
        ("servers = [2]", "servers = '0-2,1'", "server 1 is named twice"),
    ] {
        let text = fault("slow = 10").replace(right, wrong);
        let error = Scenario::parse(&text).expect_err(wrong);
        assert!(error.contains(named), "{wrong}: {error}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    for line in ["about", "duration", "rate", "count", "model", "time"] {
        let without: Vec<&str> =
            FULL.lines().filter(|text| !text.starts_with(&format!("{line} ="))).collect();
        let error = Scenario::parse(&without.join("\n")).expect_err(line);
        assert!(error.contains(line), "{line} is missing: {error}");
    }
    for (after, slip) in [("rate = 100", "timout = '1s'"), ("weight = 1", "wieght = 2")] {
        let text = FULL.replace(after, &format!("{after}\n{slip}"));
        let error = Scenario::parse(&text).expect_err(slip);
        assert!(error.contains(slip.split(' ').next().expect("a name")), "{error}");
    }
    let error = Scenario::parse("about = 'a").expect_err("no end").to_string();
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let folder = std::env::temp_dir().join(format!("catena-scenarios-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of its own");
    let path = |name: &str| -> PathBuf { folder.join(name) };
    std::fs::write(path("binary"), b"\xff\xfe\x00").expect("a temporary file");
    std::fs::write(path("empty"), "").expect("a temporary file");
    std::fs::write(path("wrong"), fault("slow = 0")).expect("a temporary file");
    for (name, what) in [
        ("absent", "cannot be read"),
        (".", "cannot be read"),
        ("binary", "cannot be read"),
        ("empty", "about"),
        ("wrong", "faults[0].slow"),
    ] {
        let path = path(name);
        let path = path.to_str().expect("a name");
        let error = Scenario::load(path).expect_err(name).to_string();
        assert!(error.contains(path) && error.contains(what), "{name}: {error}");
    }
    let long = format!("{FULL}{}", "# more\n".repeat(200_000));
    std::fs::write(path("long"), long).expect("a temporary file");
    for endless in ["/dev/zero", path("long").to_str().expect("a name")] {
        let error = Scenario::load(endless).expect_err("it is too long").to_string();
        assert!(error.contains(endless) && error.contains("longer than 1 MiB"), "{error}");
    }
    std::fs::write(path("right"), FULL).expect("a temporary file");
    assert!(Scenario::load(path("right").to_str().expect("a name")).is_ok());
    std::fs::remove_dir_all(folder).expect("it is there");
}
