//! What a running request has borrowed from all replicas together; ended exactly once, whatever ends the request.

use std::sync::{Arc, PoisonError};

use super::wire::{Settlement, Spending};
use super::{Shared, Wallet};

/// A loan. Dropped without [`Loan::end`] it ends with nothing used.
pub(in crate::tenants) struct Loan {
    shared: Shared,
    id: Arc<str>,
    /// The state that lent it; empty: nobody has answered, or this process itself.
    epoch: Arc<str>,
    /// Redis may know of it.
    asked: bool,
    /// Second (since 1970) in which it was lent.
    at: i64,
    meters: Vec<Arc<str>>,
    /// Wallets with hard budgets, by name.
    wallets: Vec<(String, Arc<Wallet>)>,
    ended: bool,
}

/// What a loan counts against.
pub(super) struct Against {
    pub(super) meters: Vec<Arc<str>>,
    pub(super) wallets: Vec<(String, Arc<Wallet>)>,
    pub(super) at: i64,
}

impl Loan {
    /// A loan that nobody was asked for yet.
    pub(super) fn new(shared: Shared, against: Against) -> Self {
        let number = shared.0.loans.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("{}-{number:x}", shared.0.boot).into();
        let Against { meters, wallets, at } = against;
        Self { shared, id, epoch: "".into(), asked: false, at, meters, wallets, ended: false }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// From now on Redis may know of it.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// It is lent.
    pub(super) fn lent(&mut self, epoch: Arc<str>) {
        self.epoch = epoch;
        self.shared.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&self.id));
    }

    /// It is not; nothing has to be given back.
    pub(super) fn refused(mut self) {
        self.ended = true;
    }

    /// Ends it: so many tokens were used, and the wallets hold (`now`, seconds since 1970) what it cost.
    pub(in crate::tenants) fn end(mut self, used: u64, now: i64) {
        let spent = |(name, wallet): (String, Arc<Wallet>)| Spending { name, own: wallet.sums(now) };
        let wallets = std::mem::take(&mut self.wallets).into_iter().map(spent).collect();
        self.send(used, wallets);
    }

    fn send(&mut self, used: u64, wallets: Vec<Spending>) {
        self.ended = true;
        self.shared.end(Settlement {
            now: 0,
            loan: Arc::clone(&self.id),
            epoch: Arc::clone(&self.epoch),
            node: Arc::clone(&self.shared.0.node),
            used,
            at: self.at,
            meters: std::mem::take(&mut self.meters),
            wallets,
        });
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !self.ended && self.asked {
            self.send(0, Vec::new());
        }
    }
}
