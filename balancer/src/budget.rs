//! How many extra calls there may be: retries and hedges, out of one budget.
//!
//! Every first call pays in a share of a call; every extra call takes a whole one out. So retries
//! never multiply an outage, and hedges stop when everything is slow. A small reserve accrues with
//! time, so that a client with few calls may retry at all (Finagle's rule: 20 % and 10 a second, with a
//! memory of 10 s). Hedges are bound by a share of their own besides, which has no reserve.

use crate::config::believe;
use catena_engine::time::{Duration, Instant};

/// How many extra calls there may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BudgetConfig {
    /// Extra calls for each first one. Default 0.2.
    pub share: f64,
    /// Extra calls a second that need no first ones. Default 10.
    pub reserve_per_second: f64,
    /// Hedges for each first call, out of the above. Default 0.05.
    pub hedge_share: f64,
    /// What is not used is kept for so long. Default 10 s.
    pub memory: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        BudgetConfig {
            share: 0.2,
            reserve_per_second: 10.0,
            hedge_share: 0.05,
            memory: Duration::from_secs(10),
        }
    }
}

/// The extra calls that one balancer may make.
#[derive(Debug)]
pub struct Budget {
    config: BudgetConfig,
    /// Extra calls saved up, out of the share of first ones, decaying with [`BudgetConfig::memory`].
    saved: f64,
    /// Extra calls saved up out of the reserve; at most what accrues in a second.
    reserve: f64,
    /// Hedges saved up, decaying as well.
    hedges: f64,
    at: Instant,
}

impl Budget {
    /// A budget in which nothing but one second's reserve is saved up.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which `validate` tells beforehand.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        believe("a budget", config.validate());
        Budget { saved: 0.0, reserve: config.reserve_per_second, hedges: 0.0, at: now, config }
    }

    /// A first call begins.
    #[inline]
    pub fn first_call(&mut self) {
        self.saved += self.config.share;
        self.hedges += self.config.hedge_share;
    }

    /// Takes one retry out; false: there is none left.
    pub fn take_retry(&mut self, now: Instant) -> bool {
        self.advance(now);
        self.take()
    }

    /// Takes one hedge out; false: there is none left.
    pub fn take_hedge(&mut self, now: Instant) -> bool {
        self.advance(now);
        if self.hedges < 1.0 || !self.take() {
            return false;
        }
        self.hedges -= 1.0;
        true
    }

    fn take(&mut self) -> bool {
        let from = if self.saved >= 1.0 { &mut self.saved } else { &mut self.reserve };
        if *from < 1.0 {
            return false;
        }
        *from -= 1.0;
        true
    }

    /// Forgets what is old and adds what the reserve gains. What a second brings to a steady client is
    /// kept for [`BudgetConfig::memory`] on average, which is what an exponential decay does. To be called
    /// now and then while calls begin, too: what they pay in is taken to be as old as the last time.
    pub fn advance(&mut self, now: Instant) {
        let passed = now.since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let kept = (-passed / self.config.memory.as_secs_f64()).exp();
        self.saved *= kept;
        self.hedges *= kept;
        let rate = self.config.reserve_per_second;
        self.reserve = (self.reserve + rate * passed).min(rate.max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Balancer, BalancerConfig};
    use crate::evidence::SharedEvidence;
    use crate::policy::random::Random;
    use catena_engine::rng::Rng;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Call,
        Retry,
        Hedge,
        Wait(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => Just(Step::Call),
            4 => Just(Step::Retry),
            4 => Just(Step::Hedge),
            1 => (0u32..3_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_is_never_exceeded(steps in prop::collection::vec(step(), 1..2_000)) {
            let config = BudgetConfig::default();
            let mut now = Instant::ZERO;
            let mut budget = Budget::new(config, now);
            let (mut calls, mut extra, mut hedges) = (0.0, 0.0, 0.0);
            for step in steps {
                match step {
                    Step::Call => {
                        budget.first_call();
                        calls += 1.0;
                    }
                    Step::Retry => extra += f64::from(u8::from(budget.take_retry(now))),
                    Step::Hedge => {
                        let taken = f64::from(u8::from(budget.take_hedge(now)));
                        extra += taken;
                        hedges += taken;
                    }
                    Step::Wait(millis) => now += Duration::from_millis(u64::from(millis)),
                }
                let seconds = now.since(Instant::ZERO).as_secs_f64();
                let reserve = config.reserve_per_second * (seconds + 1.0);
                prop_assert!(extra <= calls * config.share + reserve + 1e-6);
                prop_assert!(hedges <= calls * config.hedge_share + 1e-6);
            }
        }
    }

    #[test]
    fn a_client_that_failed_every_call_retries_a_fifth() {
        let mut now = Instant::ZERO;
        let config = BudgetConfig { reserve_per_second: 0.0, ..BudgetConfig::default() };
        let mut budget = Budget::new(config, now);
        let mut retries = 0;
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            budget.first_call();
            retries += u32::from(budget.take_retry(now));
        }
        assert!((1_990..=2_000).contains(&retries), "{retries}");
    }

    #[test]
    fn a_client_that_was_well_for_long_may_retry_what_ten_seconds_brought() {
        let mut rng = Rng::from_seed(1);
        let budget = BudgetConfig { reserve_per_second: 0.0, ..BudgetConfig::default() };
        let config = BalancerConfig { budget, ..BalancerConfig::default() };
        let (mut now, evidence) = (Instant::ZERO, SharedEvidence::new(1));
        let mut balancer = Balancer::new(config, Box::new(Random), evidence, 0, now);
        for millis in 0..60_000 {
            balancer.count_first_call();
            now += Duration::from_millis(1);
            if millis % 20 == 0 {
                balancer.tick(now, &mut rng);
            }
        }
        let retries = (0..10_000).filter(|_| balancer.take_retry(now)).count();
        assert!((1_950..2_000).contains(&retries), "a fifth of 10,000: {retries}");
    }

    #[test]
    fn what_was_not_used_is_forgotten() {
        let config = BudgetConfig { reserve_per_second: 0.0, ..BudgetConfig::default() };
        let mut budget = Budget::new(config, Instant::ZERO);
        (0..1_000).for_each(|_| budget.first_call());
        let later = Instant::ZERO + Duration::from_secs(100);
        assert!(!budget.take_retry(later) && !budget.take_hedge(later));
    }
}
