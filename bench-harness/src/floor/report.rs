//! The report of a floor, for people and for machines.

use super::SHAPES;
use crate::cell::{Cell, Shape};
use crate::report::Manifest;
use crate::table::{count, micros, table, wrapped};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A row: the medians of its rounds.
#[derive(Clone, Serialize, Debug)]
pub struct Row {
    /// Which server.
    pub server: String,
    /// Connections.
    pub conns: u32,
    /// Requests in flight on each.
    pub depth: u32,
    /// Medians.
    #[serde(flatten)]
    pub median: Cell,
    /// The rounds themselves.
    pub rounds: Vec<Cell>,
}

/// What idle connections cost.
#[derive(Clone, Serialize, Debug)]
pub struct IdleRow {
    /// Which server.
    pub server: String,
    /// Idle connections.
    pub connections: u32,
    /// Memory of the server's process for each of them, in bytes.
    pub memory_bytes_per_connection: f64,
    /// Answers a second to 32 busy connections alone.
    pub rps_alone: f64,
    /// The same with the idle ones beside.
    pub rps_beside_idle: f64,
    /// The second over the first, within each round.
    pub ratio_rps: f64,
}

/// The whole report.
#[derive(Clone, Serialize, Debug)]
pub struct FloorReport {
    /// Where it comes from.
    pub manifest: Manifest,
    /// Core of the servers.
    pub server_core: usize,
    /// Core of the load generator.
    pub load_core: usize,
    /// How often each row was measured.
    pub rounds: u32,
    /// How long each time.
    pub secs: f64,
    /// Bytes of a request on the wire, of the engine's and of a bare echo's.
    pub frame_bytes: u32,
    /// Servers that sleep when there is nothing to do.
    pub rows: Vec<Row>,
    /// Both sides spin.
    pub spin_rows: Vec<Row>,
    /// Server CPU a request, engine over the best bare echo, by load.
    pub ratio_cpu: BTreeMap<String, f64>,
    /// Rate, engine over the best bare echo, by load.
    pub ratio_rps: BTreeMap<String, f64>,
    /// The loads at which the generator could not ask the best bare echo for more: their ratio of
    /// rates is an upper bound.
    pub ratio_rps_at_most: Vec<String>,
    /// Server CPU a request, engine on epoll over engine on io_uring, by load.
    pub ratio_cpu_epoll_uring: BTreeMap<String, f64>,
    /// Half the round trips, engine over the best bare echo, both sides spinning, 1x1.
    pub ratio_p50_spin: Option<f64>,
    /// Idle connections.
    pub idle: Option<IdleRow>,
    /// Ended before its time: rows and rounds are missing.
    pub is_interrupted: bool,
    /// What a reader should know.
    pub notes: Vec<String>,
}

impl Row {
    /// Its load.
    pub fn shape(&self) -> Shape {
        Shape { conns: self.conns, depth: self.depth }
    }
}

impl FloorReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = self.manifest.host.lines().join("\n");
        let FloorReport { rounds, secs, frame_bytes, server_core, load_core, .. } = self;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\nserver on core {server_core}, load on core {load_core}, loopback, {frame_bytes}-byte \
             frames, medians of {rounds} rounds of {secs} s\n"
        );
        let common = ["load", "rate, /s", "p50, us", "p99, us", "load busy, %"];
        let mut headers = vec!["server sleeps when idle"];
        headers.extend(common);
        headers.extend(["server busy, %", "server CPU, us/request"]);
        text.push_str(&table(&headers, &cells(&self.rows)));
        if !self.spin_rows.is_empty() {
            // What a server spends that is never idle says nothing.
            let mut headers = vec!["both sides spin"];
            headers.extend(common);
            let mut rows = cells(&self.spin_rows);
            rows.iter_mut().for_each(|row| row.truncate(headers.len()));
            text.push('\n');
            text.push_str(&table(&headers, &rows));
        }
        text.push('\n');
        text.push_str(&self.ratios_text());
        if let Some(idle) = &self.idle {
            let _ = writeln!(
                text,
                "\n{} idle connections: {} bytes of the server's memory each; 32 busy ones beside \
                 them are answered at {:.2} of the rate alone ({} of {} /s)",
                count(idle.connections.into()),
                count(idle.memory_bytes_per_connection.round()),
                idle.ratio_rps,
                count(idle.rps_beside_idle.round()),
                count(idle.rps_alone.round()),
            );
        }
        for note in &self.notes {
            let _ = write!(text, "\n{}", wrapped(note));
        }
        text
    }

    fn ratios_text(&self) -> String {
        let mut rows = Vec::new();
        for (name, ratios) in [
            ("server CPU per request, engine / best bare echo", &self.ratio_cpu),
            ("rate, engine / best bare echo", &self.ratio_rps),
            ("server CPU per request, engine on epoll / on io_uring", &self.ratio_cpu_epoll_uring),
        ] {
            let mut row = vec![name.to_owned()];
            let is_rate = std::ptr::eq(ratios, &self.ratio_rps);
            row.extend(SHAPES.iter().map(|shape| {
                let shape = shape.to_string();
                match ratios.get(&shape) {
                    Some(ratio) if is_rate && self.ratio_rps_at_most.contains(&shape) => {
                        format!("at most {ratio:.2}")
                    }
                    Some(ratio) => format!("{ratio:.2}"),
                    None => "-".to_owned(),
                }
            }));
            rows.push(row);
        }
        if let Some(ratio) = self.ratio_p50_spin {
            let name = "p50, both sides spinning, engine / best bare echo";
            let blank = || "-".to_owned();
            rows.push(vec![name.to_owned(), format!("{ratio:.2}"), blank(), blank()]);
        }
        let shapes = SHAPES.map(|shape| shape.to_string());
        let headers = ["median of the rounds' ratios", &shapes[0], &shapes[1], &shapes[2]];
        table(&headers, &rows)
    }
}

fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let row = |row: &Row| {
        let Cell { rps, p50_us, p99_us, server_cpu_us_per_request, client_busy_share, .. } =
            row.median;
        vec![
            row.server.clone(),
            row.shape().to_string(),
            count(rps.round()),
            micros(p50_us),
            micros(p99_us),
            format!("{:.0}", client_busy_share * 100.0),
            format!("{:.0}", rps * server_cpu_us_per_request / 1e4),
            format!("{server_cpu_us_per_request:.3}"),
        ]
    };
    rows.iter().map(row).collect()
}
