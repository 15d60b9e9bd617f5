//! Why calls went where they went: one pick in a sentence, all of them in a table.
//!
//! A sentence is made of the last pick's [`Why`] when somebody asks for it, as the client
//! does at trace level. The table counts picks as they are made, if
//! [`BalancerConfig::explain`](crate::balancer::BalancerConfig::explain) says so; it belongs to one core, and
//! those of several are merged by name.

use crate::endpoint::Slot;
use crate::policy::{Verdict, Why};
use std::fmt;
use std::sync::Arc;

/// How often each endpoint was chosen for which reason, and passed over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PickTable {
    /// By slot of the balancer that counted; in order of name after a merge.
    rows: Vec<PickRow>,
}

/// What is counted of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PickRow {
    /// Its name.
    pub name: Arc<str>,
    /// How often it was chosen, for each verdict that it was ever chosen for.
    pub picked: Vec<(Verdict, u64)>,
    /// How often it was compared, and another was chosen; where a pick compares more than
    /// [`COMPARE_ALL_MAX`](crate::policy::COMPARE_ALL_MAX), one less than that of them are counted.
    pub passed_over: u64,
    /// How often it would have been chosen, and was not yet due its full part.
    pub held_back: u64,
}

impl PickRow {
    fn new(name: Arc<str>) -> Self {
        PickRow { name, picked: Vec::new(), passed_over: 0, held_back: 0 }
    }

    /// How often it was chosen for this reason: `Verdict::Explore` is exploring, `Verdict::Trial` a trial.
    pub fn picked_for(&self, verdict: Verdict) -> u64 {
        self.picked.iter().find(|(known, _)| *known == verdict).map_or(0, |(_, count)| *count)
    }

    /// How often it was chosen.
    pub fn picks(&self) -> u64 {
        self.picked.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, verdict: Verdict, count: u64) {
        match self.picked.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, sum)) => *sum += count,
            None => self.picked.push((verdict, count)),
        }
    }
}

impl PickTable {
    /// What is counted of each endpoint.
    pub fn rows(&self) -> &[PickRow] {
        &self.rows
    }

    /// What is counted of the endpoint of that name.
    pub fn row(&self, name: &str) -> Option<&PickRow> {
        self.rows.iter().find(|row| &*row.name == name)
    }

    /// Adds what another core counted.
    pub fn merge(&mut self, other: &PickTable) {
        for row in &other.rows {
            let index = self.rows.iter().position(|known| known.name == row.name);
            let index = index.unwrap_or_else(|| {
                self.rows.push(PickRow::new(row.name.clone()));
                self.rows.len() - 1
            });
            let sum = &mut self.rows[index];
            row.picked.iter().for_each(|(verdict, count)| sum.add(*verdict, *count));
            sum.passed_over += row.passed_over;
            sum.held_back += row.held_back;
        }
        self.rows.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// `slot` stands for this endpoint from now on. What was counted of another that had it is forgotten,
    /// so that the table is no longer than there are endpoints.
    pub(crate) fn joined(&mut self, slot: Slot, name: &Arc<str>) {
        let (index, new) = (slot as usize, PickRow::new(name.clone()));
        match self.rows.get_mut(index) {
            None => self.rows.push(new),
            Some(row) if row.name != *name => *row = new,
            Some(_) => {}
        }
    }

    /// Counts a pick. `held_back` would have been chosen, and was not yet due.
    #[cold]
    pub(crate) fn count(&mut self, chosen: Slot, why: &Why, held_back: Option<Slot>) {
        self.rows[chosen as usize].add(why.verdict, 1);
        for &(slot, _) in why.compared().filter(|(slot, _)| *slot != chosen) {
            self.rows[slot as usize].passed_over += 1;
        }
        if let Some(slot) = held_back {
            self.rows[slot as usize].held_back += 1;
        }
    }
}

/// One line an endpoint, one column a verdict that there was.
impl fmt::Display for PickTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums = PickRow::new("all".into());
        for row in &self.rows {
            row.picked.iter().for_each(|(verdict, count)| sums.add(*verdict, *count));
            sums.passed_over += row.passed_over;
            sums.held_back += row.held_back;
        }
        let verdicts: Vec<Verdict> = sums.picked.iter().map(|(verdict, _)| *verdict).collect();
        let names = self.rows.iter().map(|row| row.name.chars().count());
        let width = names.max().unwrap_or(0).max("endpoint".len());
        write!(f, "{:<width$} {:>10}", "endpoint", "picked")?;
        for verdict in &verdicts {
            write!(f, " {:>12}", label_of(*verdict))?;
        }
        writeln!(f, " {:>12} {:>10}", "passed over", "held back")?;
        for row in self.rows.iter().chain([&sums]) {
            write!(f, "{:<width$} {:>10}", row.name, row.picks())?;
            for verdict in &verdicts {
                write!(f, " {:>12}", row.picked_for(*verdict))?;
            }
            writeln!(f, " {:>12} {:>10}", row.passed_over, row.held_back)?;
        }
        Ok(())
    }
}

/// As the head of a column: `AllHot` is `all hot`.
fn label_of(verdict: Verdict) -> String {
    let mut label = String::new();
    for character in format!("{verdict:?}").chars() {
        if character.is_uppercase() && !label.is_empty() {
            label.push(' ');
        }
        label.extend(character.to_lowercase());
    }
    label
}

/// Why one call went where it went. `Display` says it in a sentence:
///
/// ```text
/// chosen b:7000: 0.21 ms × (2+1) = 0.63 ms against a:7000 0.80 ms × (1+1) = 1.60 ms
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// The endpoint that was chosen.
    pub chosen: Arc<str>,
    /// What decided.
    pub verdict: Verdict,
    /// Who was compared, each once, the chosen one among them; none if nobody was.
    pub candidates: Vec<Candidate>,
}

/// One that was compared.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: Arc<str>,
    /// What a call would have cost, in the policy's own measure: less is better.
    pub cost: f32,
    /// If that is nanoseconds of latency × calls: the calls that a new one was expected to find.
    pub calls_before: Option<f32>,
    /// Its weight, by which the cost was divided.
    pub weight: f32,
    /// The p99 of its window, in nanoseconds; 0: unknown.
    pub p99: f32,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chosen {}: ", self.chosen)?;
        f.write_str(match self.verdict {
            Verdict::Chance => "by chance",
            Verdict::Turn => "its turn",
            Verdict::LeastLoaded => "the fewest calls for its weight, ",
            Verdict::Cold => "the fastest that is not hot, ",
            Verdict::AllHot => "all are hot, and it has the fewest calls, ",
            Verdict::Tail => "costs are close, and its p99 is the best, ",
            Verdict::Explore => "to explore, for it has been silent for longest",
            Verdict::Trial => "to try whether it has recovered",
            Verdict::SlowStart => "a newcomer is not yet due its full part, ",
            _ => "",
        })?;
        let is_chosen = |candidate: &&Candidate| candidate.name == self.chosen;
        let Some(chosen) = self.candidates.iter().find(is_chosen) else { return Ok(()) };
        chosen.write_cost(f, self.verdict)?;
        let others = self.candidates.iter().filter(|other| other.name != self.chosen);
        for (index, other) in others.enumerate() {
            write!(f, "{} {} ", if index == 0 { " against" } else { "," }, other.name)?;
            other.write_cost(f, self.verdict)?;
        }
        Ok(())
    }
}

impl Candidate {
    fn write_cost(&self, f: &mut fmt::Formatter<'_>, verdict: Verdict) -> fmt::Result {
        let millis = |nanos: f32| f64::from(nanos) / 1e6;
        match self.calls_before {
            Some(calls) => {
                let latency = millis(self.cost * self.weight / (calls + 1.0));
                let calls = (calls * 10.0).round() / 10.0;
                write!(f, "{latency:.2} ms × ({calls}+1)")?;
                if self.weight != 1.0 {
                    write!(f, " / {}", self.weight)?;
                }
                write!(f, " = {:.2} ms", millis(self.cost))?;
            }
            None => write!(f, "{}", self.cost)?,
        }
        match verdict {
            Verdict::Tail => write!(f, " with p99 {:.2} ms", millis(self.p99)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
