//! What may be spent on a server that bills us: a cap for a period, counted here and read from the ledger at the start. The most that
//! a request can cost is promised before, and settled to what it did cost.

use std::sync::Arc;

use super::TenantError;
use super::bound::Bound;
use super::budget::{Budget, Enforcement, Period};
use super::clock;
use super::live::Tenants;
use super::policy::Subject;
use super::price::{Price, Tokens};
use super::wallet::{Spent, Wallet};
use crate::store::ledger::used_of;

/// The most that is spent in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// How long it lasts.
    pub period: Period,
    /// Nano-dollars.
    pub nanos: i64,
}

/// What is paid out of a purse.
#[derive(Debug, Clone, Copy)]
pub struct Bill<'a> {
    /// What answers, as the ledger calls it.
    pub version: &'a str,
    /// Only under this name.
    pub model: Option<&'a str>,
    /// What its tokens cost.
    pub price: &'a Price,
}

/// The cap would be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its spending cap for the {} is reached", period.name())]
pub struct CapReached {
    /// The period that is spent.
    pub period: Period,
}

/// Money for one server, or for several.
pub struct Purse {
    wallet: Wallet,
    period: Period,
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purse").field("spent", &self.spent()).finish()
    }
}

impl Purse {
    /// With what all processes have used of these in the cap's period, each at its price.
    pub async fn open(tenants: &Tenants, name: &str, cap: Cap, bills: &[Bill<'_>]) -> Result<Self, TenantError> {
        let now = clock::unix();
        let since = cap.period.first_hour(now).saturating_mul(3_600_000_000);
        let count = |tokens: i64| u64::try_from(tokens).unwrap_or(0);
        let mut spent = 0i64;
        for Bill { version, model, price } in bills {
            let used = used_of(tenants.database(), version, *model, since).await?;
            let tokens =
                Tokens { input: count(used.input), cached: count(used.cached), output: count(used.output), ..Tokens::default() };
            spent = spent.saturating_add(price.cost(&tokens));
        }
        Ok(Self::new(name, cap, spent, now))
    }

    fn new(version: &str, cap: Cap, spent: i64, now: i64) -> Self {
        let of = |period| if period == cap.period { spent } else { 0 };
        let spent = Spent { total: of(Period::Total), month: of(Period::Month), day: of(Period::Day) };
        let wallet = Wallet::new(spent, now);
        let budget = Budget {
            id: version.to_owned(),
            subject: Subject::Organization,
            period: cap.period,
            limit: cap.nanos,
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
            notification: None,
        };
        wallet.set_budgets(0, vec![budget]);
        Self { wallet, period: cap.period }
    }

    /// What was spent of it in the running period, nano-dollars.
    pub fn spent(&self) -> i64 {
        self.wallet.spent(clock::unix()).of(self.period)
    }

    /// Takes the most that a request can cost, nano-dollars.
    pub fn promise(self: &Arc<Self>, most: i64) -> Result<Promise, CapReached> {
        let now = clock::unix();
        self.wallet.promise(now, most, Bound::Whole).map_err(|over| CapReached { period: over.period })?;
        Ok(Promise { purse: Arc::clone(self), at: now, most: Some(most) })
    }
}

/// Money that a request may cost. Dropped without [`Promise::settle`] nothing was spent.
#[derive(Debug)]
#[must_use = "what it holds is given back when it is dropped"]
pub struct Promise {
    purse: Arc<Purse>,
    at: i64,
    most: Option<i64>,
}

impl Promise {
    /// So much was spent, nano-dollars.
    pub fn settle(mut self, cost: i64) {
        if let Some(most) = self.most.take() {
            let _ = self.purse.wallet.settle(self.at, clock::unix(), most, cost);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(most) = self.most.take() {
            self.purse.wallet.release(most);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_promised_counts_until_it_is_settled() {
        let cap = Cap { period: Period::Day, nanos: 100 };
        let purse = Arc::new(Purse::new("upstream/big", cap, 30, clock::unix()));
        let first = purse.promise(60).unwrap();
        assert_eq!(purse.promise(11).unwrap_err().period, Period::Day);
        drop(purse.promise(10).unwrap());
        first.settle(20);
        purse.promise(50).unwrap().settle(50);
        assert!(purse.promise(0).is_err(), "a cap that is reached lets nothing through");
    }
}
