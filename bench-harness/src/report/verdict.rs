//! What the figures of a run are worth, in words.

use crate::load::{Measured, Pace, Plan};
use crate::recording::{LATE, Recording};
use crate::table::{count, plural};
use catena_engine::time::Instant;
use std::collections::BTreeMap;

/// A worker that is busy for a larger share of its time is the bottleneck.
const SATURATED: f64 = 0.95;
/// A larger share of requests that the generator itself sent late spoils the schedule.
const LATE_SHARE_MAX: f64 = 0.01;
/// A generator that waits for its CPU for a larger share of the time measures its neighbours too.
const WAITED_SHARE_MAX: f64 = 0.05;
/// A smaller share of the offered rate that was achieved is worth a word.
const ACHIEVED_MIN: f64 = 0.99;

/// What the figures are worth.
pub struct Verdict {
    /// False: they are not those of the server under the load that was asked for.
    pub is_valid: bool,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

impl Verdict {
    /// On one run. `errors`: by name, as they are reported.
    pub fn on(plan: &Plan, measured: &Measured, errors: &BTreeMap<String, u64>) -> Verdict {
        let Measured { recording, peer, .. } = measured;
        let mut verdict = Verdict { is_valid: true, notes: Vec::new() };
        if let Some(length) = measured.interrupted_after {
            let (length, duration) = (length.as_secs_f64(), plan.duration.as_secs_f64());
            verdict.invalid(format!("interrupted after {length:.1} s of {duration:.1} s"));
        }
        if let Some(why) = absence(plan, measured) {
            verdict.invalid(why);
        }
        if peer.window < plan.depth {
            let (asked, window) = (count(plan.depth.into()), count(peer.window.into()));
            verdict.notes.push(format!(
                "{asked} requests in flight on each connection were asked for; the server's window is \
                 {window}, so depth is {window}."
            ));
        }
        let is_saturated = verdict.judge_generator(measured);
        // While there was no server, it is not the server's speed that fell short.
        if let Pace::Open { rate, .. } = plan.pace
            && peer.outage.is_none()
        {
            let places = f64::from(plan.connections) * f64::from(plan.depth_within(peer.window));
            let note = shortfall(rate, places, recording, is_saturated);
            verdict.notes.extend(note.or_else(|| places_taken(places, recording)));
        }
        if let Some(first) = &peer.first_loss {
            let losses = plural(peer.losses, "connection");
            let were = if peer.losses == 1 { "was" } else { "were" };
            let reason = &first.reason;
            verdict.notes.push(format!("{losses} {were} lost; the first: {reason}"));
        }
        if errors.contains_key("unknown method") {
            let hint = "the server does not know this method; see --method";
            verdict.notes.push(hint.to_owned());
        }
        if plan.pace == Pace::Closed && verdict.is_valid {
            verdict.notes.push(
                "Closed loop: while the server stalls, nothing is asked of it, so a stall counts \
                 once and not for everybody who would have come. For latency as users see it, set \
                 a rate (-R)."
                    .to_owned(),
            );
        }
        verdict
    }

    /// What this side had to do with the figures. True: it was as busy as it can be.
    fn judge_generator(&mut self, measured: &Measured) -> bool {
        let Measured { recording, workers, .. } = measured;
        let busiest = workers.iter().map(|worker| worker.busy_share).fold(0.0, f64::max);
        let is_saturated = busiest >= SATURATED;
        if is_saturated {
            self.invalid(format!(
                "this generator was saturated: a thread was busy for {:.0} % of the time, so the \
                 server could do more than was asked of it. Give it more threads (-t) on cores of \
                 their own",
                busiest * 100.0
            ));
        }
        let waited = workers.iter().map(|worker| worker.waited_share).fold(0.0, f64::max);
        if waited > WAITED_SHARE_MAX {
            self.invalid(format!(
                "other processes had this generator's core for {:.0} % of the time while it wanted \
                 to run. Give it a core of its own (--cores)",
                waited * 100.0
            ));
        }
        let intended = recording.intended().max(1) as f64;
        let late_share = recording.late_by_generator as f64 / intended;
        if late_share > LATE_SHARE_MAX {
            self.invalid(format!(
                "this generator was late: {:.1} % of the requests were sent more than {} us after \
                 their instant though a connection was free. The response times count that; use \
                 --poll always, a core of its own, or more threads",
                late_share * 100.0,
                LATE.as_micros()
            ));
        }
        if recording.shed > 0 {
            self.invalid(format!(
                "{} requests were never sent, because a million waited already; they are in no \
                 latency, so the response times are better than what users would see",
                recording.shed
            ));
        }
        is_saturated
    }

    fn invalid(&mut self, why: String) {
        self.is_valid = false;
        self.notes.push(format!("WARNING: {why}."));
    }
}

/// When connections were missing, if they were.
fn absence(plan: &Plan, measured: &Measured) -> Option<String> {
    let Measured { recording, peer, .. } = measured;
    let window = recording.window();
    let of = count(plan.connections.into());
    let gone = match peer.gone {
        0 => "all came back".to_owned(),
        gone => format!("{} of {of} never came back", count(gone.into())),
    };
    let Some(outage) = peer.outage else {
        let is_complete = peer.gone == 0;
        return (!is_complete).then(|| format!("of the connections that were lost, {gone}"));
    };
    let secs = |at: Instant| format!("{:.1} s", at.since(window.from).as_secs_f64());
    let from = if outage.from == window.from { "the start".to_owned() } else { secs(outage.from) };
    let until =
        if outage.until == window.until { "the end".to_owned() } else { secs(outage.until) };
    let figures = match plan.pace {
        Pace::Closed => "latencies are those of the rest",
        Pace::Open { .. } => "response time counts how long requests waited for its end",
    };
    Some(format!(
        "no connection from {from} to {until}; {gone}. The rate is a mean over that time too; {figures}"
    ))
}

/// What it means that requests waited though the rate was kept.
fn places_taken(places: f64, recording: &Recording) -> Option<String> {
    let waited = recording.late_sends - recording.late_by_generator + recording.unsent;
    (waited > 0).then(|| {
        let waited = plural(waited, "request");
        let taken = match places {
            1.0 => "the one place in flight was taken".to_owned(),
            places => format!("all {} places in flight were taken", count(places)),
        };
        format!(
            "{waited} waited because {taken} (late sends, unsent); response time counts that wait, \
             service time does not."
        )
    })
}

/// Why the offered rate was not achieved, if it was not.
fn shortfall(rate: f64, places: f64, recording: &Recording, is_saturated: bool) -> Option<String> {
    // What the schedule really held: a Poisson schedule of n requests is off by some √n.
    let intended = recording.intended() as f64;
    let in_time = recording.answered_in_window as f64;
    let achieved = in_time / intended.max(1.0);
    // Those in flight at the end are no shortfall.
    if achieved >= ACHIEVED_MIN || intended - in_time <= places.min(intended / 2.0) {
        return None;
    }
    let who = if is_saturated { "server and generator together" } else { "the server" };
    let wait_ms = recording.response().max().saturating_sub(recording.service().max()) as f64 / 1e6;
    let errors = match recording.error_count() {
        0 => String::new(),
        count => format!(", {count} ended with an error"),
    };
    Some(format!(
        "Of {} requests/s offered, {who} kept up with {:.0} %{errors}. The rest waited for one of \
         the {} places in flight, at worst for some {wait_ms:.0} ms; response time counts that \
         wait, service time does not.",
        count(rate),
        achieved * 100.0,
        count(places),
    ))
}
