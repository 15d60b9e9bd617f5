//! What is to be run, and whether it can be: a scenario over processes of this machine.

use super::wrong_usage;
use crate::Failure;
use crate::balance;
use crate::balance::contender::Contender;
use crate::balance::scenario::{Effect, Group, Model, Scenario};
use crate::cli::{BalanceArgs, SLOTS_MAX};
use crate::host;
use catena_balancer::discovery::Resolved;
use catena_engine::time::Duration;
use std::net::SocketAddr;

/// Most servers: each is a process with an engine of its own. 64 of them are as many as one machine's
/// cores run without being each other's load.
const SERVERS_MAX: u32 = 64;
/// Load before what the servers can do is measured, …
pub const CALIBRATION_WARMUP: Duration = Duration::from_millis(300);
/// … for so long.
pub const CALIBRATION: Duration = Duration::from_millis(1_200);
/// Calls at a time for each slot meanwhile: enough that no slot ever waits for one.
const CALLERS_PER_SLOT: u32 = 3;
/// Most of them, for servers that work on any number at a time.
const CALLERS_MAX: u32 = 512;

/// See the module page.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name or file of the scenario.
    pub name: String,
    /// Once the rate is known, it is in there.
    pub scenario: Scenario,
    /// To compare.
    pub policies: Vec<Contender>,
    /// How often each of them runs.
    pub rounds: u32,
    /// Of the first round; each further one has the next.
    pub seed: u64,
    /// Calls may be made twice.
    pub is_idempotent: bool,
    /// Which cores.
    pub seats: Seats,
    /// Calls a second that the servers answer at most, once that was measured.
    pub saturation: Option<f64>,
    /// What is not as the scenario says.
    pub notes: Vec<String>,
}

/// The cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seats {
    /// Of the clients.
    pub clients: usize,
    /// Of the servers, who take turns.
    pub servers: Vec<usize>,
}

impl Plan {
    /// What the command line says. Ends the process if it says what makes no sense.
    ///
    /// # Errors
    /// If the scenario cannot be read, or cannot be had live.
    pub fn new(args: &BalanceArgs) -> Result<Plan, Failure> {
        let scenario = balance::scenario(args)?;
        if let Some(hedging) = args.policy.iter().find(|contender| contender.hedge)
            && !args.idempotent
        {
            let why = "a second copy is sent only of calls that may be made twice";
            wrong_usage("balance", &format!("{hedging}: {why}; say --idempotent if they may"));
        }
        let notes = check(&scenario)
            .map_err(|error| format!("scenario {} cannot be had live: {error}", args.scenario))?;
        Ok(Plan {
            name: args.scenario.clone(),
            scenario,
            policies: args.policy.clone(),
            rounds: args.runs,
            seed: args.seed,
            is_idempotent: args.idempotent,
            seats: Seats::choose(&host::available_cores()),
            saturation: None,
            notes,
        })
    }

    /// The arguments of `serve`, by server, without the port.
    pub fn command_lines(&self, round: u32) -> Vec<Vec<String>> {
        let cores = self.seats.servers.iter().cycle();
        let groups = self.groups().zip(cores).enumerate();
        let of = |(index, (group, core)): (usize, (&Group, &usize))| {
            let seed = (self.seed + u64::from(round)) * u64::from(SERVERS_MAX) + index as u64;
            let line = format!(
                "--cores {core} --poll never --until-stdin-ends --faults --seed {seed} --slots {} \
                 --service {}",
                slots(group),
                group.time
            );
            line.split(' ').map(str::to_owned).collect()
        };
        groups.map(of).collect()
    }

    /// The servers at these addresses, with their weights.
    pub fn endpoints(&self, addresses: &[SocketAddr]) -> Vec<Resolved> {
        let weights = self.groups().map(|group| group.weight);
        let of = |(&address, weight)| Resolved { address, weight };
        addresses.iter().zip(weights).map(of).collect()
    }

    /// Calls at a time that keep all servers busy.
    pub fn calibration_callers(&self) -> u32 {
        let slots = self.groups().map(slots).fold(0, u32::saturating_add);
        slots.saturating_mul(CALLERS_PER_SLOT).min(CALLERS_MAX)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        let groups = self.scenario.servers.iter();
        groups.flat_map(|group| std::iter::repeat_n(group, group.count as usize))
    }
}

impl Seats {
    /// The clients have the last core for themselves, if there is more than one.
    fn choose(available: &[usize]) -> Seats {
        match available {
            [] => Seats { clients: 0, servers: vec![0] },
            [only] => Seats { clients: *only, servers: vec![*only] },
            [servers @ .., clients] => Seats { clients: *clients, servers: servers.to_vec() },
        }
    }
}

fn slots(group: &Group) -> u32 {
    match group.model {
        Model::Latency | Model::Sharing => SLOTS_MAX,
        Model::Queue => group.workers.unwrap_or(1),
    }
}

/// Finds what processes cannot do, by field; and what they do in another way.
fn check(scenario: &Scenario) -> Result<Vec<String>, String> {
    let count = scenario.server_count();
    if count > SERVERS_MAX {
        return Err(format!(
            "servers: {count} are more than the {SERVERS_MAX} processes that are started at most; \
             say --servers N if N show the same"
        ));
    }
    if scenario.replicas.is_some() {
        return Err("replicas: every client calls all servers".to_owned());
    }
    for (index, group) in scenario.servers.iter().enumerate() {
        if group.model == Model::Sharing {
            let others = "say queue or latency";
            return Err(format!("servers[{index}].model: sharing needs cores to share; {others}"));
        }
        if group.workers.is_some_and(|workers| workers > SLOTS_MAX) {
            return Err(format!("servers[{index}].workers: {SLOTS_MAX} at most"));
        }
    }
    for (index, fault) in scenario.faults.iter().enumerate() {
        let field = match fault.effect()? {
            Effect::Cold(_) => "cold",
            Effect::Capacity(..) => "capacity",
            _ => continue,
        };
        return Err(format!("faults[{index}].{field}: servers cannot be told to do this"));
    }
    let network = scenario.network.0;
    let notes = (!network.is_zero()).then(|| {
        format!(
            "The scenario's network of {} us is not added: loopback is as fast as it is.",
            network.as_micros()
        )
    });
    Ok(notes.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::scenario::BUILT_IN;

    #[test]
    fn what_cannot_be_had_live_is_named() {
        let error = |name: &str| check(&Scenario::load(name).expect(name)).expect_err(name);
        for (name, field) in [
            ("supermarket", "servers: 1000"),
            ("load-ramp", "servers: 100"),
            ("rate-flips", "replicas"),
            ("cold-start", "faults[1].cold"),
        ] {
            assert!(error(name).starts_with(field), "{name}: {}", error(name));
        }
        let names = BUILT_IN.map(|(name, _)| name);
        let live = names
            .into_iter()
            .filter(|name| check(&Scenario::load(name).expect("it is built in")).is_ok());
        let live: Vec<&str> = live.collect();
        for name in ["slow-replicas", "fast-failing", "pause-one", "kill-one", "rolling-restart"] {
            assert!(live.contains(&name), "{name} among {live:?}");
        }
    }

    #[test]
    fn clients_have_a_core_of_their_own_if_there_is_one() {
        let seats = |cores: &[usize]| {
            let Seats { clients, servers } = Seats::choose(cores);
            (clients, servers)
        };
        assert_eq!(seats(&[3]), (3, vec![3]));
        assert_eq!(seats(&[0, 1]), (1, vec![0]));
        assert_eq!(seats(&[0, 2, 5]), (5, vec![0, 2]));
    }
}
