//! What may be spent on a server that bills us: a cap for a period, counted here and read from the ledger at the start. The most that
//! a request can cost is promised before, and settled to what it did cost. Replicas keep it together where they keep budgets so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::TenantError;
use super::bound::Bound;
use super::budget::{Budget, Enforcement, Period};
use super::clock;
use super::live::Tenants;
use super::policy::Subject;
use super::price::{Price, Tokens};
use super::shared::Loan;
use super::wallet::{Spent, Wallet};
use crate::store::ledger::used_by_node;
use crate::store::{Database, StoreError};

/// The most that is spent in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// How long it lasts.
    pub period: Period,
    /// Nano-dollars.
    pub nanos: i64,
}

/// What is paid out of a purse.
#[derive(Debug, Clone)]
pub struct Bill {
    /// What answers, as the ledger calls it.
    pub version: String,
    /// Only under this name.
    pub model: Option<String>,
    /// What its tokens cost.
    pub price: Price,
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
    name: String,
    /// The same in all processes that are configured alike.
    shared_name: String,
    wallet: Arc<Wallet>,
    period: Period,
    bills: Vec<Bill>,
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purse").field("name", &self.name).field("spent", &self.spent()).finish_non_exhaustive()
    }
}

impl Purse {
    /// With what all processes have used of these in the cap's period, each at its price.
    pub async fn open(tenants: &Tenants, name: &str, cap: Cap, bills: Vec<Bill>) -> Result<Arc<Self>, TenantError> {
        let now = clock::unix();
        let by_node = spent_by_node(tenants.database(), &bills, cap.period, now).await?;
        let own = by_node.iter().find(|(node, _)| node == tenants.node()).map_or(0, |(_, spent)| *spent);
        let purse = Self::new(name, cap, bills, (own, now));
        purse.set_others(tenants.node(), &by_node, now);
        let purse = Arc::new(purse);
        tenants.keep(&purse);
        Ok(purse)
    }

    fn new(name: &str, cap: Cap, bills: Vec<Bill>, (own, now): (i64, i64)) -> Self {
        let wallet = Wallet::new(in_period(cap.period, own), now);
        let budget = Budget {
            id: name.to_owned(),
            subject: Subject::Organization,
            period: cap.period,
            limit: cap.nanos,
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
            notification: None,
        };
        wallet.set_budgets(0, vec![budget]);
        let terms = bills.iter().map(|Bill { version, model, price }| {
            let Price { input, cached_input, output, .. } = price;
            format!("{version} {model:?} {input} {cached_input} {output}\n")
        });
        let terms = super::sha256_hex(terms.collect::<String>().as_bytes());
        let shared_name = format!("w:u:{name}:{}:{}", cap.period.name(), terms.get(..16).unwrap_or(&terms));
        Self { name: name.to_owned(), shared_name, wallet: Arc::new(wallet), period: cap.period, bills }
    }

    /// What was spent of it in the running period, nano-dollars.
    pub fn spent(&self) -> i64 {
        self.wallet.spent(clock::unix()).of(self.period)
    }

    pub(super) const fn wallet(&self) -> &Arc<Wallet> {
        &self.wallet
    }

    /// Its name where replicas keep it together. One with another period or other prices is another one there: sums of the one say
    /// nothing of the other, which is told by the ledger.
    pub(super) fn shared_name(&self) -> &str {
        &self.shared_name
    }

    /// What each node has spent of it in the period that runs at `now` (seconds since 1970), as the ledger says.
    pub(super) async fn by_node(&self, database: &Database, now: i64) -> Result<Vec<(String, Spent)>, StoreError> {
        let by_node = spent_by_node(database, &self.bills, self.period, now).await?;
        Ok(by_node.into_iter().map(|(node, spent)| (node, in_period(self.period, spent))).collect())
    }

    /// Takes over what other processes than `node` have spent.
    pub(super) async fn ask_others(&self, database: &Database, node: &str) -> Result<(), StoreError> {
        let now = clock::unix();
        self.set_others(node, &spent_by_node(database, &self.bills, self.period, now).await?, now);
        Ok(())
    }

    fn set_others(&self, own: &str, by_node: &[(String, i64)], asked: i64) {
        let others = by_node.iter().filter(|(node, _)| node != own).fold(0i64, |sum, (_, spent)| sum.saturating_add(*spent));
        self.wallet.set_others(in_period(self.period, others), asked);
    }

    /// Takes the most that a request can cost, nano-dollars, at a time (seconds since 1970).
    pub(super) fn promise(self: &Arc<Self>, at: i64, most: i64, bound: Bound) -> Result<Promise, CapReached> {
        self.wallet.promise(at, most, bound).map_err(|_| self.reached())?;
        Ok(Promise { purse: Arc::clone(self), at, most: Some(most), loan: None })
    }

    /// The refusal.
    pub(super) const fn reached(&self) -> CapReached {
        CapReached { period: self.period }
    }
}

/// A purse has one period; of the others nothing is known and nothing asked.
const fn in_period(period: Period, spent: i64) -> Spent {
    match period {
        Period::Total => Spent { total: spent, month: 0, day: 0 },
        Period::Month => Spent { total: 0, month: spent, day: 0 },
        Period::Day => Spent { total: 0, month: 0, day: spent },
    }
}

async fn spent_by_node(database: &Database, bills: &[Bill], period: Period, now: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let since = period.first_hour(now);
    let count = |tokens: i64| u64::try_from(tokens).unwrap_or(0);
    let mut spent: BTreeMap<String, i64> = BTreeMap::new();
    for Bill { version, model, price } in bills {
        for (node, used) in used_by_node(database, version, model.as_deref(), since).await? {
            let tokens =
                Tokens { input: count(used.input), cached: count(used.cached), output: count(used.output), ..Tokens::default() };
            let sum = spent.entry(node).or_default();
            *sum = sum.saturating_add(price.cost(&tokens));
        }
    }
    Ok(spent.into_iter().collect())
}

/// Money that a request may cost. Dropped without [`Promise::settle`] nothing was spent.
#[must_use = "what it holds is given back when it is dropped"]
pub struct Promise {
    purse: Arc<Purse>,
    at: i64,
    most: Option<i64>,
    /// What is lent by all replicas together; ends when this is dropped, too.
    loan: Option<Loan>,
}

impl std::fmt::Debug for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Promise").field("purse", &self.purse).field("most", &self.most).finish_non_exhaustive()
    }
}

impl Promise {
    pub(super) fn lend(&mut self, loan: Loan) {
        self.loan = Some(loan);
    }

    /// So much was spent, nano-dollars.
    pub fn settle(mut self, cost: i64) {
        if let Some(most) = self.most.take() {
            let now = clock::unix();
            let _ = self.purse.wallet.settle(self.at, now, most, cost);
            if let Some(loan) = self.loan.take() {
                loan.end(0, now);
            }
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
        let now = clock::unix();
        let purse = Arc::new(Purse::new("upstream/big", cap, Vec::new(), (10, now)));
        purse.set_others("n1", &[("n1".to_owned(), 10), ("n2".to_owned(), 15), ("n3".to_owned(), 5)], now);
        let promise = |most| purse.promise(now, most, Bound::Whole);
        let first = promise(60).unwrap();
        assert_eq!(promise(11).unwrap_err().period, Period::Day);
        drop(promise(10).unwrap());
        first.settle(20);
        promise(50).unwrap().settle(50);
        assert!(promise(0).is_err(), "a cap that is reached lets nothing through");
        assert_eq!(purse.spent(), 100);
    }

    #[test]
    fn another_period_or_another_price_is_another_purse_where_replicas_keep_it() {
        let name = |period, output| {
            let price = Price { id: "p".into(), valid_from: 0, input: 1, cached_input: 1, output, training: 0 };
            let bill = Bill { version: "upstream/big".to_owned(), model: None, price };
            Purse::new("upstream/big", Cap { period, nanos: 100 }, vec![bill], (0, clock::unix())).shared_name().to_owned()
        };
        assert_eq!(name(Period::Day, 5), name(Period::Day, 5));
        assert_ne!(name(Period::Day, 5), name(Period::Total, 5));
        assert_ne!(name(Period::Day, 5), name(Period::Day, 4));
    }
}
