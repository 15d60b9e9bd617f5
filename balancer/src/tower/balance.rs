//! A balancing service over the services that a `Discover` finds.

use super::tracked::{Core, Shared, Tracked};
use super::{Classify, now};
use crate::balancer::{Balancer, BalancerConfig, Event, Member};
use crate::config::{ConfigError, believe, between};
use crate::endpoint::Slot;
use crate::evidence::SharedEvidence;
use crate::explain::PickTable;
use crate::metrics::MetricsSnapshot;
use crate::policy::Policy;
use crate::tending::log_change;
use ::tower::discover::{Change, Discover};
use ::tower::{BoxError, Service};
use catena_engine::time::Duration;
use futures_util::TryFutureExt;
use futures_util::future::ErrInto;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Sleep;

/// How a balancing service behaves.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BalanceConfig {
    /// Ejection, slow start, trials. Its budget and hedges are not used here.
    pub balancer: BalancerConfig,
    /// What a caller would wait at most: a failure costs an endpoint no less. Default 5 s.
    pub timeout: Duration,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        BalanceConfig { balancer: BalancerConfig::default(), timeout: Duration::from_secs(5) }
    }
}

impl BalanceConfig {
    /// Checks every value against its bounds, those of the parts included.
    ///
    /// # Errors
    /// The first value that is out of bounds, with the bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let BalanceConfig { balancer, timeout } = self;
        balancer.validate().map_err(|error| error.within("balancer"))?;
        let (low, high) = (Duration::from_millis(1), Duration::from_secs(24 * 60 * 60));
        between("timeout", *timeout, low, high)
    }
}

/// Sends each request to the service of the policy's choice.
///
/// - Ready when a service is that calls may go to. A service that is ready and ejected does not count
///   before it is due to be tried again; how long to wait for that or for the others is for a timeout or
///   load-shed layer around this one to say.
/// - It wakes whoever waits when a trial is due, by tokio's timer, which the runtime must have enabled
///   (`enable_time`). Where there is no tokio, it is for the caller to ask again.
/// - A service whose `poll_ready` fails is dropped, as tower's rules have it, until it is discovered
///   again. One that fails its calls stays, and is ejected and tried again.
/// - An endpoint that is discovered again under its key keeps its record and gets the new service. One
///   that is removed gets no new calls; those under way end in their own time.
/// - To be shared, wrap it in `tower::buffer::Buffer`.
pub struct Balance<D: Discover, C> {
    discover: D,
    has_all: bool,
    members: Vec<Member>,
    slots: HashMap<Arc<str>, Slot>,
    /// By slot.
    services: Vec<Option<D::Service>>,
    /// Slots of services that have not said that they are ready.
    unready: Vec<Slot>,
    shared: Arc<Shared>,
    evidence: Arc<SharedEvidence>,
    classify: C,
    timeout: Duration,
    /// For the next trial, while there is nobody else to call.
    wake_up: Option<Pin<Box<Sleep>>>,
}

impl<D: Discover, C> Balance<D, C> {
    /// Balances over what `discover` finds; the ends of calls count as `classify` says.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`BalanceConfig::validate`] tells beforehand.
    pub fn new(discover: D, policy: Box<dyn Policy>, config: BalanceConfig, classify: C) -> Self {
        believe("a balancing service", config.validate());
        let evidence = SharedEvidence::new(1);
        let balancer = Balancer::new(config.balancer, policy, evidence.clone(), 0, now());
        Balance {
            discover,
            has_all: false,
            members: Vec::new(),
            slots: HashMap::new(),
            services: Vec::new(),
            unready: Vec::new(),
            shared: Shared::new(balancer),
            evidence,
            classify,
            timeout: config.timeout,
            wake_up: None,
        }
    }

    /// For looking at it from outside, also when it is inside of other layers.
    pub fn view(&self) -> View {
        View { shared: self.shared.clone(), evidence: self.evidence.clone() }
    }
}

impl<D: Discover, C> fmt::Debug for Balance<D, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.name)).finish()
    }
}

/// What a balancing service knows.
#[derive(Clone, Debug)]
pub struct View {
    shared: Arc<Shared>,
    evidence: Arc<SharedEvidence>,
}

impl View {
    /// What was counted of each endpoint so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.lock().tick(now());
        MetricsSnapshot::of(&self.evidence)
    }

    /// Why calls went where they went; `None` unless [`BalancerConfig::explain`] says so.
    pub fn picks(&self) -> Option<PickTable> {
        self.shared.lock().balancer.picks().cloned()
    }
}

/// There is no endpoint to call, and there will be none: discovery has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoEndpoint;

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no endpoint to call, and no more will be discovered")
    }
}

impl std::error::Error for NoEndpoint {}

impl<D, C, Request> Service<Request> for Balance<D, C>
where
    D: Discover + Unpin,
    D::Key: fmt::Display,
    D::Error: Into<BoxError>,
    D::Service: Service<Request>,
    <D::Service as Service<Request>>::Error: Into<BoxError>,
    C: Classify<
            <D::Service as Service<Request>>::Response,
            <D::Service as Service<Request>>::Error,
        > + Clone,
{
    type Response = <D::Service as Service<Request>>::Response;
    type Error = BoxError;
    type Future = ErrInto<Tracked<<D::Service as Service<Request>>::Future, C>, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.discover(context)?;
        self.poll_services(context);
        if self.members.is_empty() && self.has_all {
            return Poll::Ready(Err(NoEndpoint.into()));
        }
        let mut core = self.shared.lock();
        let now = now();
        core.tick_if_due(now);
        log(&mut core.balancer);
        if core.balancer.can_start(&self.unready) {
            self.wake_up = None;
            return Poll::Ready(Ok(()));
        }
        let trial_at = core.balancer.trial_at(&self.unready);
        if trial_at.is_some_and(|at| at <= now) {
            self.wake_up = None;
            return Poll::Ready(Ok(()));
        }
        // Whoever is not ready has been given the waker, and so has discovery. Those that are ready are
        // ejected, or tried by a call that is under way.
        core.waiting = Some(context.waker().clone());
        drop(core);
        self.wake_up = trial_at.and_then(|at| wake_after(at.since(now), context));
        Poll::Pending
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = now();
        let mut core = self.shared.lock();
        let Core { balancer, rng, .. } = &mut *core;
        let ticket = balancer
            .start_trial(&self.unready, now, rng)
            .or_else(|| balancer.start(&self.unready, now, rng))
            // Since this was ready, another call's end has ejected all that are: one of them all the same.
            .or_else(|| balancer.start_anywhere(&self.unready, now))
            .expect("poll_ready said that a service is ready");
        let slot = ticket.slot();
        tracing::trace!(why = %balancer.explain(&ticket), "picked");
        drop(core);
        let service = self.services[slot as usize].as_mut().expect("an endpoint has a service");
        let call = service.call(request);
        self.unready.push(slot);
        let (shared, classify) = (self.shared.clone(), self.classify.clone());
        Tracked::new(call, shared, ticket, classify, self.timeout).err_into()
    }
}

impl<D, C> Balance<D, C>
where
    D: Discover + Unpin,
    D::Key: fmt::Display,
    D::Error: Into<BoxError>,
{
    /// Takes over all changes that are known.
    fn discover(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let mut arrived: HashMap<Arc<str>, D::Service> = HashMap::new();
        let mut has_changed = false;
        while !self.has_all {
            match Pin::new(&mut self.discover).poll_discover(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.has_all = true,
                Poll::Ready(Some(change)) => {
                    has_changed = true;
                    match change.map_err(Into::into)? {
                        Change::Insert(key, service) => {
                            arrived.insert(key.to_string().into(), service);
                        }
                        Change::Remove(key) => {
                            let name = key.to_string();
                            arrived.remove(&*name);
                            self.members.retain(|member| *member.name != *name);
                        }
                    }
                }
            }
        }
        if has_changed {
            self.take_over(arrived);
        }
        Ok(())
    }
}

impl<D: Discover, C> Balance<D, C> {
    /// Those that are no members any more go, those that arrived come.
    fn take_over(&mut self, mut arrived: HashMap<Arc<str>, D::Service>) {
        let known: Vec<&Arc<str>> = self.members.iter().map(|member| &member.name).collect();
        let mut new: Vec<Arc<str>> =
            arrived.keys().filter(|name| !known.contains(name)).cloned().collect();
        // A map has no order, and slots should have one.
        new.sort_unstable();
        self.members.extend(new.into_iter().map(|name| Member { name, weight: 1 }));
        let gone = |name: &Arc<str>| !self.members.iter().any(|member| member.name == *name);
        let gone: Vec<Arc<str>> = self.slots.keys().filter(|name| gone(name)).cloned().collect();
        for name in gone {
            let slot = self.slots.remove(&name).expect("it was just found there");
            self.services[slot as usize] = None;
            self.unready.retain(|unready| *unready != slot);
        }
        let mut core = self.shared.lock();
        core.balancer.set_members(&self.members, now());
        for event in core.balancer.take_events() {
            match event {
                Event::Joined(slot, name) => {
                    self.services.resize_with(self.services.len().max(slot as usize + 1), || None);
                    self.slots.insert(name, slot);
                }
                Event::Health(change, name) => log_change(change, &name, &core.balancer),
                // Of connections nothing is told here.
                Event::Draining(..) | Event::Left(_) | Event::Gone(_) | Event::Back(_) => {}
            }
        }
        drop(core);
        for (name, slot) in &self.slots {
            if let Some(service) = arrived.remove(name) {
                self.services[*slot as usize] = Some(service);
                self.unready.retain(|unready| unready != slot);
                self.unready.push(*slot);
            }
        }
    }

    /// Asks all who have not said that they are ready. Whoever fails at that is dropped.
    fn poll_services<Request>(&mut self, context: &mut Context<'_>)
    where
        D::Service: Service<Request>,
        <D::Service as Service<Request>>::Error: Into<BoxError>,
    {
        let mut has_lost = false;
        let (services, slots, members) = (&mut self.services, &self.slots, &mut self.members);
        self.unready.retain(|&slot| {
            let service = services[slot as usize].as_mut().expect("an endpoint has a service");
            match service.poll_ready(context) {
                Poll::Pending => true,
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(error)) => {
                    let error: BoxError = error.into();
                    let name = slots.iter().find(|(_, held)| **held == slot).map(|(name, _)| name);
                    let name = name.expect("a slot in use has a name");
                    tracing::warn!(endpoint = &**name, %error, "endpoint is dropped: never ready");
                    members.retain(|member| member.name != *name);
                    has_lost = true;
                    true
                }
            }
        });
        if has_lost {
            self.take_over(HashMap::new());
        }
    }
}

/// A timer that wakes whoever waits; `None` where no tokio turns it.
fn wake_after(delay: Duration, context: &mut Context<'_>) -> Option<Pin<Box<Sleep>>> {
    tokio::runtime::Handle::try_current().ok()?;
    let mut sleep = Box::pin(tokio::time::sleep(delay));
    // A timer that is due at once is not polled again.
    if sleep.as_mut().poll(context).is_ready() {
        context.waker().wake_by_ref();
    }
    Some(sleep)
}

fn log(balancer: &mut Balancer) {
    for event in balancer.take_events() {
        if let Event::Health(change, name) = event {
            log_change(change, &name, balancer);
        }
    }
}
