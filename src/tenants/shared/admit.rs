//! Admission where limits are kept for all replicas together: asked there, counted here as well, and by this process's share alone
//! while nobody answers.

use std::sync::Arc;
use std::time::Duration;

use super::loan::Against;
use tokio::time::{Instant, timeout_at};

use super::wire::{Borrow, Lent, MeterLeft, MeterTerms, Short, WalletTerms};
use super::{Away, Loan, Shared, micros};
use crate::store::StoreError;
use crate::store::ledger::spent_by_node;
use crate::tenants::bound::Bound;
use crate::tenants::budget::Period;
use crate::tenants::meter::{Gauge, Meter};
use crate::tenants::purse::{CapReached, Promise, Purse};
use crate::tenants::ticket::{Account, Ask, Now, Rate, Refusal, Ticket, subjects};
use crate::tenants::wallet::{Spent, Wallet};
use crate::tenants::{Measure, Subject, Tenants, clock};

/// Longest wait of a request for the database, where Redis knows nothing of a budget's past.
const SEEDING: Duration = Duration::from_secs(1);

/// Whose money it is.
enum Whose {
    /// A caller's.
    Subject(Subject),
    /// Ours, for other servers.
    Purse(Arc<Purse>),
}

/// What a request is measured by.
struct Terms {
    meters: Vec<MeterTerms>,
    /// What has hard budgets.
    wallets: Vec<(Whose, Arc<Wallet>, WalletTerms)>,
}

impl Terms {
    fn new(account: &Account, ask: Ask<'_>, now: Now) -> Self {
        let most = account.most(ask, now);
        let wallets = subjects(&ask.caller.tenant, &ask.caller.key_id).zip(account.wallets());
        let wallets = wallets.filter_map(|(subject, wallet)| {
            let budgets = wallet.hard();
            let terms = WalletTerms { name: name(&subject), most, own: wallet.sums(now.unix()), budgets, seeds: None };
            (!terms.budgets.is_empty()).then(|| (Whose::Subject(subject), Arc::clone(wallet), terms))
        });
        Self { meters: account.meters().iter().map(|meter| meter.terms()).collect(), wallets: wallets.collect() }
    }

    fn of_purse(purse: &Arc<Purse>, most: i64, now: Now) -> Self {
        let wallet = purse.wallet();
        let terms = WalletTerms {
            name: purse.shared_name().to_owned(),
            most,
            own: wallet.sums(now.unix()),
            budgets: wallet.hard(),
            seeds: None,
        };
        Self { meters: Vec::new(), wallets: vec![(Whose::Purse(Arc::clone(purse)), Arc::clone(wallet), terms)] }
    }

    fn against(&self, now: Now) -> Against {
        Against {
            meters: self.meters.iter().map(|terms| Arc::clone(&terms.name)).collect(),
            wallets: self.wallets.iter().map(|(_, wallet, terms)| (terms.name.clone(), Arc::clone(wallet))).collect(),
            at: now.unix(),
        }
    }
}

/// A subject's name in Redis.
pub(in crate::tenants) fn name(subject: &Subject) -> String {
    match subject {
        Subject::Organization => "w:o".to_owned(),
        Subject::Project(id) => format!("w:p:{id}"),
        Subject::Key(id) => format!("w:k:{id}"),
    }
}

impl Tenants {
    /// [`Tenants::admit`] where limits are shared.
    pub(in crate::tenants) async fn admit_together(&self, shared: &Shared, ask: Ask<'_>, now: Now) -> Result<Ticket, Refusal> {
        let policy = self.policy();
        let account = self.books().account(&policy, ask, now);
        let terms = Terms::new(&account, ask, now);
        if terms.meters.is_empty() && terms.wallets.is_empty() {
            // Nothing to be asked for.
            return self.books().admit(&policy, ask, now, Bound::Whole);
        }
        let mut loan = Loan::new(shared.clone(), terms.against(now));
        match self.ask(shared, &mut loan, &terms, tokens(ask)).await {
            Ok(Lent::Yes { epoch, left }) => {
                loan.lent(epoch);
                let mut ticket = self.books().admit(&policy, ask, now, Bound::Elsewhere(shared.0.settings.share))?;
                ticket.lend(loan, Some(rate(&terms.meters, &left)));
                Ok(ticket)
            }
            Ok(Lent::No { short, meter, used, wait }) => {
                loan.refused();
                Err(over(&account, ask, (short, meter, used, wait)))
            }
            Ok(Lent::Spent { wallet, budget, used }) => {
                loan.refused();
                let wallet = terms.wallets.get(wallet).and_then(|(_, wallet, terms)| wallet.over(budget, used, terms.most));
                // A budget that was taken away this moment refuses nothing.
                wallet.map_or_else(|| self.books().admit(&policy, ask, now, Bound::Whole), |over| Err(Refusal::Budget(over)))
            }
            Ok(Lent::Seed(_)) | Err(Away) => {
                // In case that it was heard and only the answer was not: that loan is ended.
                drop(loan);
                shared.0.alone.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut ticket = self.books().admit(&policy, ask, now, Bound::Share(shared.0.settings.share))?;
                ticket.lend(Loan::new(shared.clone(), terms.against(now)), None);
                Ok(ticket)
            }
        }
    }

    /// Takes the most that a request can cost, nano-dollars, out of a purse that all replicas share.
    pub async fn promise(&self, purse: &Arc<Purse>, most: i64) -> Result<Promise, CapReached> {
        let now = clock::now();
        let Some(shared) = self.shared() else { return purse.promise(now.unix(), most, Bound::Whole) };
        let terms = Terms::of_purse(purse, most, now);
        let mut loan = Loan::new(shared.clone(), terms.against(now));
        match self.ask(shared, &mut loan, &terms, 0).await {
            Ok(Lent::Yes { epoch, .. }) => {
                loan.lent(epoch);
                let mut promise = purse.promise(now.unix(), most, Bound::Elsewhere(shared.0.settings.share))?;
                promise.lend(loan);
                Ok(promise)
            }
            Ok(Lent::No { .. } | Lent::Spent { .. }) => {
                loan.refused();
                Err(purse.reached())
            }
            Ok(Lent::Seed(_)) | Err(Away) => {
                // As in an admission.
                drop(loan);
                shared.0.alone.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut promise = purse.promise(now.unix(), most, Bound::Share(shared.0.settings.share))?;
                promise.lend(Loan::new(shared.clone(), terms.against(now)));
                Ok(promise)
            }
        }
    }

    /// Has a loan lent, of so many tokens.
    async fn ask(&self, shared: &Shared, loan: &mut Loan, terms: &Terms, tokens: u64) -> Result<Lent, Away> {
        let id = loan.id().to_owned();
        let mut borrow = Borrow {
            now: 0,
            loan: &id,
            epoch: &id,
            lease: micros(shared.0.settings.lease),
            node: &shared.0.node,
            tokens,
            meters: terms.meters.clone(),
            wallets: terms.wallets.iter().map(|(_, _, terms)| terms.clone()).collect(),
        };
        loan.ask();
        let until = Instant::now() + SEEDING;
        let mut turn = None;
        // Each wallet may have to be told of its past: by one request, while others wait and then ask again.
        for _ in 0..=2 * terms.wallets.len() {
            let lent = shared.borrow(&borrow).await?;
            let Lent::Seed(index) = lent else { return Ok(lent) };
            let ((whose, kept, _), wallet) = terms.wallets.get(index).zip(borrow.wallets.get_mut(index)).ok_or(Away)?;
            if turn.as_ref().is_none_or(|(of, _)| *of != index) {
                drop(turn.take());
                if let Ok(first) = kept.seeding().try_lock() {
                    turn = Some((index, first));
                } else {
                    turn = Some((index, timeout_at(until, kept.seeding().lock()).await.map_err(|_| Away)?));
                    continue;
                }
            }
            let [_, month, _, day, _] = wallet.own;
            let spent = timeout_at(until, self.spent_by_node(whose, (day, month))).await.map_err(|_| {
                tracing::warn!(seconds = SEEDING.as_secs(), "the database does not say in time what replicas have spent");
                Away
            })?;
            let spent = spent.map_err(|error| {
                tracing::warn!(%error, "what replicas have spent is not known");
                Away
            })?;
            let sums = spent
                .into_iter()
                .map(|(node, Spent { total, month: in_month, day: in_day })| (node, [total, month, in_month, day, in_day]));
            wallet.seeds = Some(sums.collect());
        }
        Err(Away)
    }

    /// What each node has spent, as the ledger says; the running day and month begin at these hours (since 1970).
    async fn spent_by_node(&self, whose: &Whose, (day, month): (i64, i64)) -> Result<Vec<(String, Spent)>, StoreError> {
        let (project, key) = match whose {
            Whose::Subject(Subject::Organization) => (None, None),
            Whose::Subject(Subject::Project(project)) => (Some(project.as_str()), None),
            Whose::Subject(Subject::Key(key)) => (None, Some(key.as_str())),
            Whose::Purse(purse) => return purse.by_node(self.database(), day.saturating_mul(3_600)).await,
        };
        let spent = spent_by_node(self.database(), project, key, (day, month)).await?;
        Ok(spent.into_iter().map(|(node, [total, month, day])| (node, Spent { total, month, day })).collect())
    }
}

/// What a request may take of limits of tokens.
const fn tokens(ask: Ask<'_>) -> u64 {
    ask.input.saturating_add(ask.most_output)
}

fn over(account: &Account, ask: Ask<'_>, (short, meter, used, wait): (Short, usize, u64, Option<u64>)) -> Refusal {
    let (measure, asked) = match short {
        Short::Places => (Measure::Concurrency, 1),
        Short::Tokens => (Measure::Tokens, tokens(ask)),
        Short::Requests => (Measure::Requests, 1),
    };
    // The script's answer was checked against what it was asked.
    let index = meter.min(account.meters().len().saturating_sub(1));
    Refusal::Limit(Meter::refuse(&account.meters()[index], measure, used, asked, wait.map(Duration::from_micros)))
}

fn rate(terms: &[MeterTerms], left: &[MeterLeft]) -> Rate {
    let mut rate = Rate::default();
    for (terms, left) in terms.iter().zip(left) {
        let tokens = u64::try_from(terms.tokens).ok().map(|limit| Gauge {
            limit,
            remaining: limit.saturating_sub(left.taken),
            reset: Duration::from_micros(left.until_none),
        });
        let requests = left.requests.map(|remaining| Gauge {
            limit: terms.requests,
            remaining,
            reset: Duration::from_micros(left.until_all),
        });
        rate.tokens = Gauge::tighter(rate.tokens, tokens);
        rate.requests = Gauge::tighter(rate.requests, requests);
    }
    rate
}

/// A period's number in the scripts.
pub(in crate::tenants) const fn number(period: Period) -> u8 {
    match period {
        Period::Day => 1,
        Period::Month => 2,
        Period::Total => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use tokio::time::timeout;

    use super::*;
    use crate::store::{Database, Location};
    use crate::tenants::Sync;
    use crate::tenants::budget::{Budget, Enforcement};
    use crate::tenants::price::Tokens;
    use crate::tenants::shared::tests::Real;
    use crate::tenants::{
        CacheConsent, CacheUse, Done, ModelAccess, Office, Opening, Outcome, Principal, Priority, Reach, Requested,
    };

    /// For what would otherwise wait for ever, or as long as a setting says; nothing is measured.
    const GUARD: Duration = Duration::from_secs(20);

    fn caller() -> Principal {
        Principal {
            key_id: "key_1".into(),
            tenant: "acme".into(),
            reach: Reach::Tenant,
            scopes: [crate::tenants::Scope::Inference].into_iter().collect(),
            models: ModelAccess::All,
            end_user: None,
            priority: Priority::Standard,
            cached: CacheConsent::PerRequest,
        }
    }

    async fn tenants(dir: &std::path::Path, real: &Real) -> Tenants {
        let database = Database::open(&Location::File(dir.join("switchyard.db"))).await.unwrap();
        let office = Office::open(database, dir, None).await.unwrap();
        let shared = Some(real.settings());
        Tenants::open(Opening { office, data_dir: dir, sync: Sync::Never, shared }).await.unwrap().0
    }

    fn settle(tenants: &Tenants, ticket: Ticket, caller: &Principal) -> crate::tenants::Settled {
        let requested = Requested {
            caller,
            request_id: "req_1",
            end_user: None,
            endpoint: "chat.completions",
            model: "base",
            version: "base",
            arm: None,
        };
        let done = Done {
            tokens: Tokens::default(),
            outcome: Outcome::Stop,
            cache: CacheUse::Bypass,
            queued: Duration::ZERO,
            first_token: None,
            computed: Duration::ZERO,
            block_micros: 0,
        };
        tenants.settle(ticket, &requested, &done).unwrap()
    }

    #[tokio::test]
    async fn who_has_borrowed_nothing_does_not_wait_for_redis() {
        let Some(real) = Real::start().await else { return };
        let dir = tempfile::tempdir().unwrap();
        let (tenants, caller) = (tenants(dir.path(), &real).await, caller());
        let shared = tenants.shared().unwrap();
        let ask = Ask { caller: &caller, model: "base", input: 1, most_output: 1, prices: &[] };
        // Nobody sends ends here: this one never arrives.
        let mut limited = tenants.books().admit(&tenants.policy(), ask, clock::now(), Bound::Whole).unwrap();
        limited.lend(Loan::new(shared.clone(), Against { meters: Vec::new(), wallets: Vec::new(), at: 0 }), None);
        let limited = settle(&tenants, limited, &caller);
        let free = tenants.admit(ask).await.unwrap();
        let free = settle(&tenants, free, &caller);
        assert_eq!(tenants.sharing().unwrap().unsettled, 1);
        timeout(GUARD, tenants.synced(&free)).await.expect("it had no loan");
        assert!(timeout(Duration::from_millis(1), tenants.synced(&limited)).await.is_err(), "this one had");
    }

    #[tokio::test]
    async fn one_request_tells_a_wallet_of_its_past_and_the_others_wait_a_moment_only() {
        let Some(real) = Real::start().await else { return };
        let dir = tempfile::tempdir().unwrap();
        let tenants = tenants(dir.path(), &real).await;
        let shared = tenants.shared().unwrap();
        let wallet = Arc::new(Wallet::new(Spent::default(), clock::unix()));
        let budget = Budget {
            id: "budget_1".into(),
            subject: Subject::Organization,
            period: Period::Total,
            limit: 100,
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
            notification: None,
        };
        wallet.set_budgets(1, vec![budget]);
        let own = wallet.sums(clock::unix());
        let told = WalletTerms { name: "w:o".to_owned(), most: 10, own, budgets: wallet.hard(), seeds: None };
        let terms =
            Terms { meters: Vec::new(), wallets: vec![(Whose::Subject(Subject::Organization), Arc::clone(&wallet), told)] };
        // Somebody is at it, and the database does not answer.
        let turn = wallet.seeding().lock().await;
        let mut loan = Loan::new(shared.clone(), terms.against(clock::now()));
        let asked = timeout(GUARD, tenants.ask(shared, &mut loan, &terms, 2)).await;
        assert_eq!(asked.expect("it waits a moment"), Err(Away));
        drop(turn);
        assert!(shared.connection().is_some(), "Redis is not the one that is away");
        // Now it does: two at the same time.
        let (mut first, mut second) = (Loan::new(shared.clone(), terms.against(clock::now())), loan);
        let both = async {
            let asking = tenants.ask(shared, &mut first, &terms, 2);
            tokio::join!(asking, tenants.ask(shared, &mut second, &terms, 2))
        };
        let (first, second) = timeout(GUARD, both).await.unwrap();
        assert!(matches!((&first, &second), (Ok(Lent::Yes { .. }), Ok(Lent::Yes { .. }))), "{first:?} {second:?}");
        assert!(wallet.seeding().try_lock().is_ok());
    }
}
