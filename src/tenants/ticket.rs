//! Admission: what a request may need at most is borrowed from every limit and budget that it counts against, all or nothing, and
//! settled to the truth exactly once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::Principal;
use super::bound::Bound;
use super::meter::{Gauge, Held, Meter, OverLimit};
use super::policy::{Policy, Subject};
use super::price::{self, Price, Tokens};
use super::shared::Loan;
use super::wallet::{BudgetReached, OverBudget, Spent, Wallet};

/// Combinations of key and model whose limits are kept at hand.
const ACCOUNTS: u64 = 100_000;

/// The time, twice: one that never goes back, one that dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the process's start.
    pub elapsed: Duration,
    /// Microseconds since 1970.
    pub unix_micros: i64,
}

impl Now {
    /// Seconds since 1970.
    pub const fn unix(&self) -> i64 {
        self.unix_micros.div_euclid(1_000_000)
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who.
    pub caller: &'a Principal,
    /// The model, without a version.
    pub model: &'a str,
    /// Tokens of all prompts.
    pub input: u64,
    /// Most tokens of all answers together.
    pub most_output: u64,
    /// Prices of what may answer, where it has one of its own; a row of the price book for the model's name goes before.
    pub prices: &'a [Price],
}

/// Why a request is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A limit.
    Limit(OverLimit),
    /// A budget.
    Budget(OverBudget),
}

/// What is left of the tightest limits, for the response's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Of requests per minute.
    pub requests: Option<Gauge>,
    /// Of tokens per minute.
    pub tokens: Option<Gauge>,
}

/// Everything that one key's requests for one model count against.
pub(super) struct Account {
    revision: i64,
    meters: Vec<Arc<Meter>>,
    wallets: Vec<Arc<Wallet>>,
    prices: Vec<Price>,
    /// Second (since 1970) from which on the price book names the model.
    named_from: Option<i64>,
}

impl Account {
    /// Limits.
    pub(super) fn meters(&self) -> &[Arc<Meter>] {
        &self.meters
    }

    /// Money, in the order of [`subjects`].
    pub(super) fn wallets(&self) -> &[Arc<Wallet>] {
        &self.wallets
    }

    /// The most that the request can cost, nano-dollars.
    pub(super) fn most(&self, ask: Ask<'_>, now: Now) -> i64 {
        let prices = price::at(&self.prices, now.unix()).into_iter().chain(self.others(ask, now));
        prices.map(|price| price.most(ask.input, ask.most_output)).max().unwrap_or(0)
    }

    /// Prices of its own that what answers may have.
    fn others<'a>(&self, ask: Ask<'a>, now: Now) -> &'a [Price] {
        if self.named_from.is_some_and(|from| from <= now.unix()) { &[] } else { ask.prices }
    }
}

type AccountKey = (Arc<str>, Arc<str>, String);

/// All meters and wallets.
pub(super) struct Books {
    accounts: Cache<AccountKey, Arc<Account>>,
    meters: Mutex<HashMap<(Subject, String), Arc<Meter>>>,
    wallets: Mutex<HashMap<Subject, Arc<Wallet>>>,
}

impl Books {
    /// With what was spent before, as of `now` (seconds since 1970).
    pub(super) fn new(spent: impl IntoIterator<Item = (Subject, Spent)>, now: i64) -> Self {
        let wallets = spent.into_iter().map(|(subject, spent)| (subject, Arc::new(Wallet::new(spent, now)))).collect();
        Self { accounts: Cache::new(ACCOUNTS), meters: Mutex::default(), wallets: Mutex::new(wallets) }
    }

    /// Borrows what the request may need at most, of as much as holds here.
    pub(super) fn admit(&self, policy: &Policy, ask: Ask<'_>, now: Now, bound: Bound) -> Result<Ticket, Refusal> {
        let account = self.account(policy, ask, now);
        let price = price::at(&account.prices, now.unix()).cloned();
        let open = !account.others(ask, now).is_empty();
        let most = account.most(ask, now);
        let tokens = ask.input.saturating_add(ask.most_output);
        // From here on the ticket's drop gives back what it holds.
        let mut ticket = Ticket {
            held: Vec::with_capacity(account.meters.len()),
            paid: 0,
            account,
            price,
            most,
            now,
            rate: Rate::default(),
            open,
            beyond: false,
            own: None,
            loan: None,
        };
        for wallet in &ticket.account.wallets {
            wallet.promise(now.unix(), most, bound).map_err(Refusal::Budget)?;
            ticket.paid += 1;
        }
        for meter in &ticket.account.meters {
            let held = meter.hold(now.elapsed, tokens, bound).map_err(Refusal::Limit)?;
            ticket.held.push(held);
        }
        // Last, as a request that was counted stays counted.
        let mut rate = Rate::default();
        for meter in &ticket.account.meters {
            rate.requests = Gauge::tighter(rate.requests, meter.count(now.elapsed, bound).map_err(Refusal::Limit)?);
            rate.tokens = Gauge::tighter(rate.tokens, meter.tokens(now.elapsed, bound));
        }
        ticket.rate = rate;
        Ok(ticket)
    }

    /// What the request counts against.
    pub(super) fn account(&self, policy: &Policy, ask: Ask<'_>, now: Now) -> Arc<Account> {
        let key = (Arc::clone(&ask.caller.tenant), Arc::clone(&ask.caller.key_id), ask.model.to_owned());
        if let Some(account) = self.accounts.get(&key)
            && account.revision == policy.revision
        {
            return account;
        }
        let account = Arc::new(self.make_account(policy, ask, now));
        self.accounts.insert(key, Arc::clone(&account));
        account
    }

    fn make_account(&self, policy: &Policy, ask: Ask<'_>, now: Now) -> Account {
        let (tenant, key) = (&*ask.caller.tenant, &*ask.caller.key_id);
        let meters = policy
            .limits_of(tenant, key, ask.model)
            .into_iter()
            .map(|(subject, model, limit)| {
                let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
                let new = || Arc::new(Meter::new(subject.clone(), model.clone(), limit));
                let meter = Arc::clone(meters.entry((subject.clone(), model.clone())).or_insert_with(new));
                meter.set(limit, policy.revision, now.elapsed);
                meter
            })
            .collect();
        let wallets = subjects(tenant, key).map(|subject| self.wallet(policy, subject, now)).collect();
        let (prices, named_from) = (policy.prices.of(tenant, ask.model), policy.prices.names_from(tenant, ask.model));
        Account { revision: policy.revision, meters, wallets, prices, named_from }
    }

    fn wallet(&self, policy: &Policy, subject: Subject, now: Now) -> Arc<Wallet> {
        let mut wallets = self.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Wallet::new(Spent::default(), now.unix()));
        let wallet = Arc::clone(wallets.entry(subject.clone()).or_insert_with(new));
        wallet.set_budgets(policy.revision, policy.budgets.iter().filter(|budget| budget.subject == subject).cloned().collect());
        wallet
    }

    /// What the subject has spent.
    pub(super) fn spent(&self, subject: &Subject, now: i64) -> Spent {
        let wallets = self.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        wallets.get(subject).map(|wallet| wallet.spent(now)).unwrap_or_default()
    }

    /// Takes over what other processes have spent.
    pub(super) fn set_others(&self, spent: impl IntoIterator<Item = (Subject, Spent)>, now: i64) {
        for (subject, spent) in spent {
            let mut wallets = self.wallets.lock().unwrap_or_else(PoisonError::into_inner);
            wallets.entry(subject).or_insert_with(|| Arc::new(Wallet::new(Spent::default(), now))).set_others(spent, now);
        }
    }
}

/// Whose budgets a request counts against. Subjects of tokens of other issuers are anybody's choice: they have no budget of a key.
pub(super) fn subjects(tenant: &str, key: &str) -> impl Iterator<Item = Subject> {
    let key = (!key.starts_with("jwt:")).then(|| Subject::Key(key.to_owned()));
    [Subject::Organization, Subject::Project(tenant.to_owned())].into_iter().chain(key)
}

/// What a request has borrowed. Dropped without [`Ticket::settle`] it gives everything back: nothing was used.
#[must_use = "what it holds is given back when it is dropped"]
pub struct Ticket {
    account: Arc<Account>,
    held: Vec<Held>,
    /// Wallets that hold a promise: the first so many.
    paid: usize,
    price: Option<Price>,
    most: i64,
    now: Now,
    rate: Rate,
    /// What answers may have a price of its own.
    open: bool,
    /// It has.
    own: Option<Price>,
    /// It may come to more than was borrowed.
    beyond: bool,
    /// Where limits are shared: what was borrowed there.
    loan: Option<Loan>,
}

impl Ticket {
    /// It is borrowed from all replicas together, too.
    pub(super) fn lend(&mut self, loan: Loan, rate: Option<Rate>) {
        self.loan = Some(loan);
        self.rate = rate.unwrap_or(self.rate);
    }

    /// Redis hears of its end.
    pub(super) const fn is_lent(&self) -> bool {
        self.loan.is_some()
    }

    /// What is left of the limits.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// When the request was admitted.
    pub const fn admitted(&self) -> Now {
        self.now
    }

    /// Id of the price that holds.
    pub fn price_id(&self) -> Option<&str> {
        self.price().map(|price| &*price.id)
    }

    /// What answers counts itself, maybe more than was borrowed, and has this price (`None`: that of the book); one that the book
    /// has for the model by its name stays.
    pub fn charge(&mut self, price: Option<&Price>) {
        self.beyond = true;
        self.own = price.filter(|_| self.open).cloned();
    }

    fn price(&self) -> Option<&Price> {
        self.own.as_ref().or(self.price.as_ref())
    }

    /// What the tokens cost at the price that held at admission, nano-dollars; what is counted here never more than was borrowed.
    pub fn cost(&self, tokens: &Tokens) -> i64 {
        let most = if self.beyond { i64::MAX } else { self.most };
        self.price().map_or(0, |price| price.cost(tokens).min(most))
    }

    /// Keeps what was used and gives the rest back, at this second. Says which budgets have reached a threshold.
    pub fn settle(mut self, now: i64, used_tokens: u64, cost: i64) -> Vec<BudgetReached> {
        let at = self.now.unix();
        let mut reached = Vec::new();
        for wallet in self.account.wallets.iter().take(std::mem::take(&mut self.paid)) {
            reached.extend(wallet.settle(at, now, self.most, cost));
        }
        self.release(used_tokens);
        if let Some(loan) = self.loan.take() {
            loan.end(used_tokens, now);
        }
        reached
    }

    fn release(&mut self, used_tokens: u64) {
        for (meter, held) in self.account.meters.iter().zip(self.held.drain(..)) {
            meter.release(held, used_tokens);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // After `settle` nothing is held any more.
        for wallet in self.account.wallets.iter().take(std::mem::take(&mut self.paid)) {
            wallet.release(self.most);
        }
        self.release(0);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("most", &self.most).field("now", &self.now).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::store::policy::{BudgetRow, LimitRow, PolicyRows, PriceRow};
    use crate::tenants::{CacheConsent, ModelAccess, Priority, Scope};

    fn principal(tenant: &str, key: &str) -> Principal {
        Principal {
            key_id: key.into(),
            tenant: tenant.into(),
            reach: crate::tenants::Reach::Tenant,
            scopes: [Scope::Inference].into_iter().collect(),
            models: ModelAccess::All,
            end_user: None,
            priority: Priority::Standard,
            cached: CacheConsent::PerRequest,
        }
    }

    fn limit(scope: &str, subject: &str, model: &str, tokens: i64) -> LimitRow {
        LimitRow {
            scope: scope.into(),
            subject: subject.into(),
            model: model.into(),
            requests_per_minute: None,
            burst: None,
            tokens_per_minute: Some(tokens),
            concurrent_requests: None,
            version: 1,
        }
    }

    fn rows(revision: i64) -> PolicyRows {
        PolicyRows {
            revision,
            active: vec!["acme".into()],
            limits: vec![limit("project", "acme", "*", 100), limit("key", "key_1", "convert", 30), limit("default", "*", "*", 7)],
            prices: vec![PriceRow {
                id: "price_1".into(),
                project_id: "*".into(),
                model: "*".into(),
                valid_from: 0,
                input_nanos: 1_000_000,
                cached_input_nanos: 100_000,
                output_nanos: 2_000_000,
                training_nanos: 0,
                created_at: 0,
            }],
            ..PolicyRows::default()
        }
    }

    fn at(seconds: u64) -> Now {
        Now { elapsed: Duration::from_secs(seconds), unix_micros: 1_795_260_775_000_000 + seconds as i64 * 1_000_000 }
    }

    #[test]
    fn a_request_counts_against_its_key_its_tenant_and_its_model() {
        let (books, policy) = (Books::new([], 0), Policy::new(rows(1)).unwrap());
        let caller = principal("acme", "key_1");
        let ask = |model, input, most_output| Ask { caller: &caller, model, input, most_output, prices: &[] };
        let first = books.admit(&policy, ask("convert", 10, 20), at(1), Bound::Whole).unwrap();
        assert_eq!(first.rate().tokens.unwrap().remaining, 0, "the key's limit is the tighter one");
        assert!(
            matches!(books.admit(&policy, ask("convert", 1, 0), at(1), Bound::Whole), Err(Refusal::Limit(over)) if over.model == "convert")
        );
        let second = books.admit(&policy, ask("base", 60, 10), at(1), Bound::Whole).unwrap();
        assert!(
            matches!(books.admit(&policy, ask("base", 1, 0), at(1), Bound::Whole), Err(Refusal::Limit(over)) if over.limit == 100)
        );
        // A refused request holds nothing of the limits that it fitted.
        drop(second);
        let cost = first.cost(&Tokens { input: 10, cached: 4, output: 5, reasoning: 0 });
        assert_eq!(cost, 17, "6 + 0.4 + 10, rounded up");
        first.settle(at(1).unix(), 15, cost);
        let third = books.admit(&policy, ask("convert", 15, 0), at(2), Bound::Whole).unwrap();
        assert_eq!(books.spent(&Subject::Key("key_1".into()), at(2).unix()).total, 17);
        assert_eq!(books.spent(&Subject::Organization, at(2).unix()).total, 17);
        drop(third);
        let stranger = principal("other", "key_9");
        let ask = Ask { caller: &stranger, model: "base", input: 8, most_output: 0, prices: &[] };
        assert!(
            matches!(books.admit(&policy, ask, at(2), Bound::Whole), Err(Refusal::Limit(over)) if over.retry_after.is_none()),
            "the default"
        );
    }

    #[test]
    fn a_new_policy_holds_for_the_next_request() {
        let (books, policy) = (Books::new([], 0), Policy::new(rows(1)).unwrap());
        let caller = principal("acme", "key_2");
        let ask = Ask { caller: &caller, model: "base", input: 100, most_output: 0, prices: &[] };
        books.admit(&policy, ask, at(1), Bound::Whole).unwrap().settle(at(1).unix(), 100, 100);
        assert!(books.admit(&policy, ask, at(2), Bound::Whole).is_err());
        let budget = BudgetRow {
            id: "budget_1".into(),
            scope: "project".into(),
            subject: "acme".into(),
            period: "day".into(),
            limit_nanos: 250,
            enforcement: "hard".into(),
            thresholds: "50".into(),
            notification: None,
            created_at: 0,
            version: 1,
        };
        let changed = PolicyRows { limits: vec![limit("project", "acme", "*", 1_000)], budgets: vec![budget], ..rows(2) };
        let policy = Policy::new(changed).unwrap();
        let reached = books.admit(&policy, ask, at(3), Bound::Whole).unwrap().settle(at(3).unix(), 100, 100);
        assert_eq!(reached.iter().map(|event| event.threshold).collect::<Vec<_>>(), [50], "what was spent before counts");
        let refused = books.admit(&policy, ask, at(3), Bound::Whole).unwrap_err();
        assert!(matches!(refused, Refusal::Budget(over) if (over.used, over.asked, over.limit) == (200, 100, 250)));
        books.set_others([(Subject::Project("acme".into()), Spent { total: 50, month: 50, day: 50 })], at(3).unix());
        let tiny = Ask { input: 1, ..ask };
        assert!(books.admit(&policy, tiny, at(3), Bound::Whole).is_err(), "another process has spent the rest");
    }

    /// 5 and 50 at a time against 100 tokens a minute, as threads: what was used in any minute stays within the limit.
    #[test]
    fn concurrent_requests_never_pass_a_limit_by_one_token() {
        for threads in [5u64, 50] {
            let books = Arc::new(Books::new([], 0));
            let policy = Arc::new(Policy::new(rows(1)).unwrap());
            let handles: Vec<_> = (0..threads)
                .map(|thread| {
                    let (books, policy) = (Arc::clone(&books), Arc::clone(&policy));
                    std::thread::spawn(move || {
                        let caller = principal("acme", &format!("key_{}", 10 + thread));
                        let mut used = 0;
                        for turn in 0..40 {
                            let ask = Ask { caller: &caller, model: "base", input: 3 + thread % 5, most_output: 9, prices: &[] };
                            let Ok(ticket) = books.admit(&policy, ask, at(1), Bound::Whole) else { continue };
                            if turn % 3 == 0 {
                                drop(ticket);
                            } else {
                                used += ask.input + turn % 9;
                                ticket.settle(at(1).unix(), ask.input + turn % 9, 0);
                            }
                        }
                        used
                    })
                })
                .collect();
            let used: u64 = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
            assert!(used <= 100 && used > 80, "{used}");
            let caller = principal("acme", "key_9");
            let rest = Ask { caller: &caller, model: "base", input: 100 - used, most_output: 0, prices: &[] };
            assert!(books.admit(&policy, rest, at(1), Bound::Whole).is_ok(), "what was not used is there at once");
            assert!(books.admit(&policy, Ask { input: 101 - used, ..rest }, at(1), Bound::Whole).is_err());
        }
    }
}
