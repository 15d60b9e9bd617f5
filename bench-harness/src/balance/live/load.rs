//! The clients' side: calls at the instants that the schedule says, whatever becomes of those before; and
//! a closed loop, to find out how many the servers can answer at most.

use super::Stop;
use super::log::{Attributed, SharedLog};
use crate::balance::contender::Contender;
use crate::balance::scenario::{Arrival, Scenario};
use crate::host::{self, Spent};
use crate::method::WORK;
use catena_balancer::client::{Balanced, BalancedConfig};
use catena_balancer::discovery::{Endpoints, Resolved};
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::health::Standing;
use catena_balancer::policy::least_loaded::LeastLoaded;
use catena_balancer::policy::{COMPARE_ALL_MAX, Sample};
use catena_engine::rng::Rng;
use catena_engine::time::{Duration, Instant};
use catena_engine::{Local, MethodId};
use std::cell::Cell;
use std::future::IntoFuture;
use std::rc::Rc;

/// A call that its caller waits for, where the scenario says nothing: as long as a client's own default.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Calls that may be under way at a time; each is a future of some KiB. More are not made, and the run is
/// not valid.
const UNDER_WAY_MAX: u64 = 65_536;
/// Calls that the log has room for from the start: 32 s at 8,000 a second, 26 MiB.
const CALLS_RESERVED: usize = 1 << 18;
/// How much longer than its timeout a call is waited for, once no more come.
const LAST_CALLS_PATIENCE: Duration = Duration::from_secs(2);
/// How long calls under way are waited for when somebody wants the run to end.
const STOP_PATIENCE: Duration = Duration::from_millis(300);
/// How often somebody looks whether the run is to end, or who is ejected.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// An open loop to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the servers are, in their order.
    pub endpoints: Vec<Resolved>,
    /// What is called when, and for how long.
    pub scenario: Scenario,
    /// The policy.
    pub contender: Contender,
    /// Of the schedule.
    pub seed: u64,
    /// Calls may be made twice.
    pub is_idempotent: bool,
    /// The first calls come after this, on the machine's clock.
    pub began: Instant,
    /// Ends it before its time.
    pub stop: Stop,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Driven {
    /// Calls and attempts.
    pub log: SharedLog,
    /// Calls that were not made, because too many were under way.
    pub shed: u64,
    /// What the clients' thread has spent.
    pub spent: Spent,
    /// In that time.
    pub elapsed: Duration,
    /// Set if it ended before its time: for how long calls came.
    pub stopped_after: Option<Duration>,
}

/// Makes the calls of a scenario, on the shard of `local`.
pub async fn open_loop(local: Local, job: Job) -> Driven {
    host::wake_on_time();
    let (began_at, spent_before) = (host::now(), Spent::of_this_thread());
    let mut rng = Rng::from_seed(job.seed);
    let (mut schedule_rng, mut client_rng) = (rng.fork(), rng.fork());
    let run = Run::new(&local, &job);
    let watch = local.spawn(run.clone().watch_standings(local.clone()));

    let (rates, arrival) = (job.scenario.rates(), job.scenario.arrival);
    let duration = job.scenario.duration.0;
    let clients = run.clients.len() as u64;
    let (mut at, mut count, mut shed) = (0.0, 0u64, 0);
    let stopped_after = loop {
        at = rates.next(at, arrival, &mut schedule_rng);
        let since_start = Duration::from_secs_f64(at.min(duration.as_secs_f64()));
        if since_start >= duration {
            break None;
        }
        let intended = job.began + since_start;
        while local.now() < intended && !job.stop.is_set() {
            local.sleep_until(intended.min(local.now() + LOOK_INTERVAL)).await;
        }
        if job.stop.is_set() {
            break Some(host::now().since(job.began));
        }
        if run.under_way.get() >= UNDER_WAY_MAX {
            shed += 1;
            continue;
        }
        let client = match arrival {
            Arrival::Poisson => client_rng.below(clients),
            Arrival::Const => count % clients,
        };
        count += 1;
        run.under_way.set(run.under_way.get() + 1);
        local.spawn(run.clone().call(client as usize, intended)).detach();
    };
    let patience = match stopped_after {
        None => run.timeout + LAST_CALLS_PATIENCE,
        Some(_) => STOP_PATIENCE,
    };
    run.wait_for_last(&local, patience, &job.stop).await;
    drop(watch);
    let spent = Spent::of_this_thread().since(spent_before);
    let elapsed = host::now().since(began_at);
    Driven { log: run.log.clone(), shed, spent, elapsed, stopped_after }
}

/// What all calls of a run share.
struct Run {
    clients: Vec<Balanced>,
    log: SharedLog,
    under_way: Cell<u64>,
    timeout: Duration,
    is_idempotent: bool,
}

impl Run {
    fn new(local: &Local, job: &Job) -> Rc<Run> {
        let scenario = &job.scenario;
        let log = SharedLog::new(job.endpoints.len(), CALLS_RESERVED);
        let endpoints =
            Endpoints::fixed(job.endpoints.iter().cloned()).expect("a scenario has servers");
        let client = |nth: u32| {
            let policy = log.watch(job.contender.policy(scenario));
            let config = config(&job.contender);
            // Each knows nothing of the others, as if they were in processes of their own.
            let evidence = SharedEvidence::new(usize::from(local.shard_count()));
            let client =
                Balanced::new(local, config, Box::new(policy), endpoints.clone(), evidence);
            let servers = servers_by_slot(&client, &job.endpoints);
            log.lock().set_slots(nth as usize, servers);
            client
        };
        Rc::new(Run {
            clients: (0..scenario.clients).map(client).collect(),
            log: log.clone(),
            under_way: Cell::new(0),
            timeout: scenario.timeout.map_or(TIMEOUT_DEFAULT, |timeout| timeout.0),
            is_idempotent: job.is_idempotent,
        })
    }

    async fn call(self: Rc<Self>, client: usize, intended: Instant) {
        let number = self.log.lock().begin(intended, host::now());
        let mut call = self.clients[client].call(MethodId::of(WORK), &b""[..]);
        call = call.deadline(intended + self.timeout);
        if self.is_idempotent {
            call = call.idempotent();
        }
        let result = Attributed::new(number, self.log.clone(), call.into_future()).await;
        self.log.lock().end(number, host::now(), result.as_ref().map(drop));
        self.under_way.set(self.under_way.get() - 1);
    }

    async fn wait_for_last(&self, local: &Local, patience: Duration, stop: &Stop) {
        let mut give_up = local.now() + patience;
        while self.under_way.get() > 0 && local.now() < give_up {
            if stop.is_set() {
                give_up = give_up.min(local.now() + STOP_PATIENCE);
            }
            local.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Counts ejections, by looking so often that none is missed: they last for a second and more.
    async fn watch_standings(self: Rc<Self>, local: Local) {
        let servers = self.log.lock().ejections.len();
        let mut was_out = vec![vec![false; servers]; self.clients.len()];
        loop {
            for (nth, (client, was_out)) in self.clients.iter().zip(&mut was_out).enumerate() {
                let balancer = client.balancer();
                for (slot, was_out) in (0..).zip(was_out) {
                    let standing = balancer.standing(slot);
                    let is_out =
                        matches!(standing, Some(Standing::Ejected { .. } | Standing::Unconnected));
                    if is_out && !*was_out {
                        self.log.lock().ejected(nth, slot);
                    }
                    *was_out = is_out;
                }
            }
            local.sleep(LOOK_INTERVAL).await;
        }
    }
}

/// The contender's name means what it means in the simulation: what it does not say is left out.
fn config(contender: &Contender) -> BalancedConfig {
    let mut config = BalancedConfig { balancer: contender.config(), ..BalancedConfig::default() };
    if !contender.retry {
        config.attempts_max = 1;
    }
    if !contender.hedge {
        config.balancer.budget.hedge_share = 0.0;
    }
    config
}

fn servers_by_slot(client: &Balanced, endpoints: &[Resolved]) -> Vec<u32> {
    let name = |endpoint: &Resolved| endpoint.address.to_string();
    let names: Vec<String> = endpoints.iter().map(name).collect();
    let server = |name: &str| names.iter().position(|known| known == name).expect("it was given");
    let balancer = client.balancer();
    let mut servers = vec![0; endpoints.len()];
    for (slot, endpoint) in balancer.endpoints() {
        servers[slot as usize] = server(&endpoint.name) as u32;
    }
    servers
}

/// Calls `callers` at a time over the fewest in flight; gives answers a second within `length`, after
/// `warmup`. 0 if it was told to stop.
pub async fn closed_loop(
    local: Local,
    endpoints: Vec<Resolved>,
    callers: u32,
    (warmup, length): (Duration, Duration),
    stop: Stop,
) -> f64 {
    host::wake_on_time();
    let contender: Contender = "ll:8".parse().expect("it is a policy");
    let policy = Box::new(LeastLoaded::new(Sample::of(COMPARE_ALL_MAX)));
    let evidence = SharedEvidence::new(usize::from(local.shard_count()));
    let endpoints = Endpoints::fixed(endpoints).expect("a scenario has servers");
    let client = Balanced::new(&local, config(&contender), policy, endpoints, evidence);
    let from = local.now() + warmup;
    let until = from + length;
    let answered = Rc::new(Cell::new(0u64));
    let caller = || {
        let (client, local, answered, stop) =
            (client.clone(), local.clone(), answered.clone(), stop.clone());
        async move {
            while local.now() < until && !stop.is_set() {
                let is_answered = client.call(MethodId::of(WORK), &b""[..]).await.is_ok();
                let counts = is_answered && (from..until).contains(&local.now());
                answered.set(answered.get() + u64::from(counts));
                if !is_answered {
                    local.sleep(LOOK_INTERVAL).await;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..callers).map(|_| local.spawn(caller())).collect();
    for task in tasks {
        task.await;
    }
    if stop.is_set() { 0.0 } else { answered.get() as f64 / length.as_secs_f64() }
}
