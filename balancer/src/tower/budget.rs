//! Our budget of extra calls, for tower's `retry` layer.

use super::now;
use crate::budget::{Budget, BudgetConfig};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many retries there may be: see [`crate::budget`]. Deposit for every first call, successful or not;
/// withdraw for every retry.
#[derive(Debug)]
pub struct RetryBudget(Mutex<Budget>);

impl RetryBudget {
    /// A budget in which nothing but one second's reserve is saved up.
    ///
    /// # Panics
    /// If a value of `config` is out of bounds, which [`BudgetConfig::validate`] tells beforehand.
    pub fn new(config: BudgetConfig) -> Self {
        RetryBudget(Mutex::new(Budget::new(config, now())))
    }

    /// Takes one hedge out; false: there is none left. tower's `hedge` layer has no budget, so it is for
    /// its policy to ask.
    pub fn withdraw_hedge(&self) -> bool {
        self.lock().take_hedge(now())
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ::tower::retry::budget::Budget for RetryBudget {
    fn deposit(&self) {
        let mut budget = self.lock();
        budget.advance(now());
        budget.first_call();
    }

    fn withdraw(&self) -> bool {
        self.lock().take_retry(now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tower::retry::budget::Budget as _;

    #[test]
    fn a_fifth_may_be_retried_and_no_more() {
        let config = BudgetConfig { reserve_per_second: 0.0, ..BudgetConfig::default() };
        let budget = RetryBudget::new(config);
        let mut retries = 0;
        for _ in 0..100 {
            budget.deposit();
            retries += u32::from(budget.withdraw());
        }
        assert!((15..=20).contains(&retries), "{retries}");
        (0..30).for_each(|_| budget.deposit());
        assert!(budget.withdraw_hedge());
    }
}
