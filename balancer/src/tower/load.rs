//! A load for tower's own balancer: the cost of ours.

use super::tracked::{Core, Shared, Tracked};
use super::{BalanceConfig, Classify, now};
use crate::balancer::{Balancer, Member};
use crate::config::believe;
use crate::endpoint::Slot;
use crate::evidence::SharedEvidence;
use crate::policy::hist::{Hist, HistConfig};
use crate::policy::random::Random;
use ::tower::Service;
use ::tower::discover::{Change, Discover};
use ::tower::load::Load;
use futures_util::Stream;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A service that records how long its calls take, and tells as its load how long a new one should: the
/// median of its window, or what is recent or under way if that is far slower, times the calls in flight.
///
/// A service of which nothing is known (a new one, or one that nobody has called for ten seconds) gets one
/// call, and no second one before the answer.
#[derive(Debug)]
pub struct HistogramLoad<S, C> {
    service: S,
    /// A balancer over this one: for its record.
    shared: Arc<Shared>,
    policy: Hist,
    config: BalanceConfig,
    classify: C,
}

/// Nanoseconds that a new call should take; less is better.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Cost(f32);

/// The slot of the only endpoint.
const ONLY: Slot = 0;

impl<S, C> HistogramLoad<S, C> {
    /// Records the calls of `service`, whose ends count as `classify` says.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`BalanceConfig::validate`] tells beforehand.
    pub fn new(service: S, config: BalanceConfig, classify: C) -> Self {
        believe("a load", config.validate());
        let now = now();
        let evidence = SharedEvidence::new(1);
        let mut balancer = Balancer::new(config.balancer, Box::new(Random), evidence, 0, now);
        balancer.set_members(&[Member { name: "the service".into(), weight: 1 }], now);
        let policy = Hist::new(HistConfig::default());
        HistogramLoad { service, shared: Shared::new(balancer), policy, config, classify }
    }
}

impl<S, C> Load for HistogramLoad<S, C> {
    type Metric = Cost;

    fn load(&self) -> Cost {
        let now = now();
        let mut core = self.shared.lock();
        core.tick_if_due(now);
        let signal = core.balancer.signal(ONLY);
        let is_known = signal.p50 > 0.0 || signal.recent(now).is_some();
        match (is_known, signal.in_flight) {
            (true, _) => Cost(self.policy.cost(signal, now)),
            (false, 0) => Cost(0.0),
            (false, _) => Cost(f32::INFINITY),
        }
    }
}

impl<S, C, Request> Service<Request> for HistogramLoad<S, C>
where
    S: Service<Request>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Tracked<S::Future, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut core = self.shared.lock();
        let Core { balancer, rng, .. } = &mut *core;
        let ticket = balancer.start(&[], now(), rng).expect("there is the one endpoint");
        drop(core);
        let (shared, classify) = (self.shared.clone(), self.classify.clone());
        Tracked::new(self.service.call(request), shared, ticket, classify, self.config.timeout)
    }
}

pin_project! {
    /// Services that are discovered, each with its [`HistogramLoad`].
    #[derive(Debug)]
    pub struct HistogramDiscover<D, C> {
        #[pin]
        discover: D,
        config: BalanceConfig,
        classify: C,
    }
}

impl<D, C> HistogramDiscover<D, C> {
    /// Those that `discover` finds.
    ///
    /// # Panics
    /// As [`HistogramLoad::new`].
    pub fn new(discover: D, config: BalanceConfig, classify: C) -> Self {
        believe("a load", config.validate());
        HistogramDiscover { discover, config, classify }
    }
}

impl<D: Discover, C: Clone> Stream for HistogramDiscover<D, C> {
    type Item = Result<Change<D::Key, HistogramLoad<D::Service, C>>, D::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let Some(change) = ready!(this.discover.poll_discover(context)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(change.map(|change| match change {
            Change::Remove(key) => Change::Remove(key),
            Change::Insert(key, service) => {
                let load = HistogramLoad::new(service, *this.config, this.classify.clone());
                Change::Insert(key, load)
            }
        })))
    }
}
