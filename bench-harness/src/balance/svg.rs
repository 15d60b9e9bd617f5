//! Share and p99 over time, drawn: a row for each policy, a line for each server.
//!
//! Plain SVG, without scripts or fonts of its own: it can be put into a page, a mail or an issue.

use super::report::{IntervalReport, LineInterval, PolicyReport, SimReport};
use std::fmt::Write as _;

const WIDTH: f64 = 1_080.0;
const ROW_HEIGHT: f64 = 210.0;
const LEGEND_LINE: f64 = 18.0;
const MARGIN: f64 = 56.0;
/// Easy to tell apart on white, by those as well who see fewer colours (Okabe and Ito's, and three more).
const COLORS: [&str; 10] = [
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#6a3d9a",
    "#555555", "#aaaaaa",
];

/// A place to draw values over time in.
struct Panel {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    /// The values at the bottom and at the top.
    low: f64,
    high: f64,
    is_log: bool,
    seconds: f64,
}

impl Panel {
    fn x(&self, at: f64) -> f64 {
        self.left + at / self.seconds * self.width
    }

    fn y(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.is_log { value.max(1e-9).ln() } else { value };
        let (low, high) = (scaled(self.low), scaled(self.high));
        let part = ((scaled(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.top + self.height * (1.0 - part)
    }

    fn marks(&self) -> Vec<f64> {
        if !self.is_log {
            return (0..=4)
                .map(|n| self.low + (self.high - self.low) * f64::from(n) / 4.0)
                .collect();
        }
        let first = self.low.log10().ceil() as i32;
        let last = self.high.log10().floor() as i32;
        (first..=last).map(|power| 10f64.powi(power)).collect()
    }

    fn frame(&self, svg: &mut String, title: &str) {
        let Panel { left, top, width, height, .. } = *self;
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"none\" stroke=\"#999\"/>"
        );
        text(svg, left, top - 6.0, "start", title);
        for mark in self.marks() {
            let y = self.y(mark);
            let right = left + width;
            let _ = writeln!(
                svg,
                r##"<line x1="{left:.1}" x2="{right:.1}" y1="{y:.1}" y2="{y:.1}" stroke="#e4e4e4"/>"##
            );
            text(svg, left - 5.0, y + 4.0, "end", &short(mark));
        }
        for part in 0..=4 {
            let at = self.seconds * f64::from(part) / 4.0;
            text(svg, self.x(at), top + height + 14.0, "middle", &format!("{} s", short(at)));
        }
    }

    /// A line through the values; where there is none, a gap.
    fn curve(&self, svg: &mut String, color: &str, values: &[(f64, Option<f64>)]) {
        let mut path = String::new();
        let mut pen = 'M';
        for &(at, value) in values {
            let Some(value) = value else {
                pen = 'M';
                continue;
            };
            let _ = write!(path, "{pen}{:.1} {:.1}", self.x(at), self.y(value));
            pen = 'L';
        }
        let _ = writeln!(
            svg,
            r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linecap="round"/>"#
        );
    }
}

/// The drawing.
pub fn draw(report: &SimReport) -> String {
    let legend_height = LEGEND_LINE * report.lines.len().div_ceil(3) as f64;
    let top = 44.0 + legend_height;
    let height = top + ROW_HEIGHT * report.policies.len() as f64 + 10.0;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
    );
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#);
    let title =
        format!("{}, seed {}: share of attempts and p99 by server", report.scenario, report.seed);
    text(&mut svg, MARGIN, 20.0, "start", &title);
    for (index, line) in report.lines.iter().enumerate() {
        let x = MARGIN + (index % 3) as f64 * (WIDTH - 2.0 * MARGIN) / 3.0;
        let y = 40.0 + (index / 3) as f64 * LEGEND_LINE;
        let color = color(index);
        let _ = writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="14" height="4" fill="{color}"/>"#,
            y - 6.0
        );
        text(&mut svg, x + 20.0, y, "start", &line.name);
    }
    let (low, high) = tail_bounds(report);
    let share_max = share_max(report);
    for (row, policy) in report.policies.iter().enumerate() {
        let panel = |column: u32, low: f64, high: f64, is_log: bool| Panel {
            left: MARGIN + f64::from(column) * WIDTH / 2.0,
            top: top + row as f64 * ROW_HEIGHT + 22.0,
            width: WIDTH / 2.0 - MARGIN - 24.0,
            height: ROW_HEIGHT - 62.0,
            low,
            high,
            is_log,
            seconds: report.duration_secs,
        };
        let shares = panel(0, 0.0, share_max * 100.0, false);
        shares.frame(&mut svg, &format!("{}: share, %", policy.policy));
        let tails = panel(1, low, high, true);
        tails.frame(&mut svg, &format!("{}: p99, ms", policy.policy));
        for index in 0..report.lines.len() {
            let middle = report.interval_secs / 2.0;
            let values = |value: &dyn Fn(&LineInterval) -> Option<f64>| -> Vec<(f64, Option<f64>)> {
                let of = |interval: &IntervalReport| {
                    let at = (interval.at_secs + middle).min(report.duration_secs);
                    let is_empty = interval.total.calls == 0;
                    (at, if is_empty { None } else { value(&interval.lines[index]) })
                };
                policy.over_time.iter().map(of).collect()
            };
            let color = color(index);
            shares.curve(&mut svg, color, &values(&|line| Some(line.share * 100.0)));
            let tail = |line: &LineInterval| (line.p99 > 0.0).then_some(line.p99 / 1e3);
            tails.curve(&mut svg, color, &values(&tail));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn color(index: usize) -> &'static str {
    COLORS[index % COLORS.len()]
}

fn all_lines(report: &SimReport) -> impl Iterator<Item = &LineInterval> {
    let intervals = report.policies.iter().flat_map(|policy: &PolicyReport| &policy.over_time);
    intervals.flat_map(|interval| &interval.lines)
}

/// The same for all policies, so that they can be compared by eye: whole decades, in milliseconds.
fn tail_bounds(report: &SimReport) -> (f64, f64) {
    let tails = || all_lines(report).map(|line| line.p99 / 1e3).filter(|tail| *tail > 0.0);
    let low = tails().fold(f64::INFINITY, f64::min);
    let high = tails().fold(0.0, f64::max);
    if high == 0.0 {
        return (1.0, 10.0);
    }
    let low = 10f64.powf(low.log10().floor());
    (low, 10f64.powf(high.log10().ceil()).max(low * 10.0))
}

fn share_max(report: &SimReport) -> f64 {
    let max = all_lines(report).map(|line| line.share).fold(0.0, f64::max);
    ((max * 20.0).ceil() / 20.0).clamp(0.05, 1.0)
}

fn short(number: f64) -> String {
    match number {
        number if number >= 10.0 || number.fract() == 0.0 => format!("{number:.0}"),
        number => format!("{}", (number * 1_000.0).round() / 1_000.0),
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}
