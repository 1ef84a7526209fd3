//! The scripts on a real server, against the rules of one process: what it would lend is lent, to the token and the nano-dollar.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::aio::MultiplexedConnection;
use serde::Serialize;

use super::upkeep::Waiting;
use super::wire::{Borrow, Lent, MeterLeft, MeterTerms, Renewal, Settlement, Short, Spending, Sums, WalletTerms};
use super::{RedisUrl, Settings, Share, Shared};
use crate::tenants::budget::Period;
use crate::tenants::window::{self, Window};

#[path = "../../../tests/store/redis.rs"]
mod server;

/// 2026-11-21 23:58:00 UTC: some cases pass midnight.
const START: i64 = 1_795_305_480_000_000;
const LEASE: i64 = 15_000_000;
const NODES: [&str; 2] = ["n_a", "n_b"];
const WALLET: &str = "w:p:acme";

/// Places, tokens, microseconds between requests, microseconds of slack; -1 is no limit.
type Terms = (i64, i64, i64, i64);

#[derive(Debug, Clone)]
enum Step {
    Borrow { node: usize, tokens: u64, most: i64, meters: u8 },
    End { which: usize, percent: u64, twice: Repeat },
    Wait { micros: i64 },
    Renew { which: usize },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Repeat {
    Once,
    Twice,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let repeat = prop_oneof![3 => Just(Repeat::Once), 1 => Just(Repeat::Twice)];
    let step = prop_oneof![
        6 => (0usize..2, 0u64..60, 0i64..60, 1u8..8)
            .prop_map(|(node, tokens, most, meters)| Step::Borrow { node, tokens, most, meters }),
        4 => (0usize..64, 0u64..=100, repeat).prop_map(|(which, percent, twice)| Step::End { which, percent, twice }),
        3 => (0i64..9_000_000).prop_map(|micros| Step::Wait { micros }),
        1 => (0i64..90_000_000).prop_map(|micros| Step::Wait { micros }),
        1 => (0usize..64).prop_map(|which| Step::Renew { which }),
    ];
    prop::collection::vec(step, 1..60)
}

fn terms() -> impl Strategy<Value = Terms> {
    let places = prop_oneof![Just(-1), 0i64..4];
    let tokens = prop_oneof![Just(-1), 1i64..150];
    let rate = prop_oneof![3 => Just((-1, 0)), 1 => Just((0, 0)), 6 => (1i64..8_000_000, 0i64..4)];
    (places, tokens, rate).prop_map(|(places, tokens, (every, burst))| (places, tokens, every, every.max(0) * burst))
}

/// A loan as one process would keep it.
struct Held {
    node: usize,
    meters: Vec<(usize, u64)>,
    tokens: u64,
    most: i64,
    at: i64,
    ends: i64,
    gone: bool,
}

#[derive(Default)]
struct Metered {
    window: Window,
    running: i64,
    tat: i64,
}

/// The rules of one process, without a lock as there is one thread.
struct Model {
    now: i64,
    terms: Vec<Terms>,
    meters: Vec<Metered>,
    budgets: Vec<(Period, i64)>,
    /// Node, hour of admission, nano-dollars.
    spent: Vec<(usize, i64, i64)>,
    loans: BTreeMap<String, Held>,
}

fn hour(micros: i64) -> i64 {
    micros.div_euclid(3_600_000_000)
}

fn since(micros: i64) -> Duration {
    Duration::from_micros(micros.try_into().unwrap())
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap()
}

impl Model {
    fn sum(&self, node: Option<usize>, first: i64) -> i64 {
        let of = |(by, at, _): &&(usize, i64, i64)| node.is_none_or(|node| node == *by) && *at >= first;
        self.spent.iter().filter(of).map(|(_, _, cost)| cost).sum()
    }

    fn own(&self, node: usize) -> Sums {
        let [day, month] = [Period::Day, Period::Month].map(|period| period.first_hour(self.now / 1_000_000));
        [self.sum(Some(node), i64::MIN), month, self.sum(Some(node), month), day, self.sum(Some(node), day)]
    }

    fn promised(&self) -> i64 {
        self.loans.values().filter(|held| !held.gone).map(|held| held.most).sum()
    }

    fn reap(&mut self) {
        for held in self.loans.values_mut().filter(|held| !held.gone && held.ends <= self.now) {
            held.gone = true;
            held.meters.iter().for_each(|(index, _)| self.meters[*index].running -= 1);
        }
    }

    fn borrow(&mut self, name: &str, node: usize, tokens: u64, most: i64, meters: &[usize]) -> Lent {
        self.reap();
        let promised = self.promised();
        for (index, (period, limit)) in self.budgets.iter().enumerate() {
            let used = self.sum(None, period.first_hour(self.now / 1_000_000)) + promised;
            if used >= *limit || used + most > *limit {
                return Lent::Spent { wallet: 0, budget: index, used };
            }
        }
        let no = |short, meter, used, wait| Lent::No { short, meter, used, wait };
        for (position, index) in meters.iter().enumerate() {
            let ((places, limit, ..), metered) = (self.terms[*index], &mut self.meters[*index]);
            if places >= 0 && metered.running >= places {
                return no(Short::Places, position, metered.running.try_into().unwrap(), Some(1_000_000));
            }
            if limit >= 0 {
                let mut tried = metered.window.clone();
                let taken = tried.taken(since(self.now));
                match tried.take(since(self.now), tokens, limit.try_into().unwrap()) {
                    Ok(_) => {}
                    Err(window::Short::Forever) => return no(Short::Tokens, position, taken, None),
                    Err(window::Short::For(wait)) => return no(Short::Tokens, position, taken, Some(micros(wait))),
                }
            }
        }
        for (position, index) in meters.iter().enumerate() {
            let (_, _, every, slack) = self.terms[*index];
            let earliest = self.meters[*index].tat - slack;
            if every == 0 {
                return no(Short::Requests, position, 0, None);
            }
            if every > 0 && self.now < earliest {
                return no(Short::Requests, position, 0, Some((earliest - self.now).try_into().unwrap()));
            }
        }
        let mut held = Held { node, meters: Vec::new(), tokens, most, at: self.now, ends: self.now + LEASE, gone: false };
        let mut left = Vec::new();
        for index in meters {
            let ((_, _, every, slack), metered) = (self.terms[*index], &mut self.meters[*index]);
            let (mut requests, mut until_all) = (None, 0);
            if every > 0 {
                metered.tat = metered.tat.max(self.now) + every;
                requests = Some(((self.now + every + slack - metered.tat) / every).try_into().unwrap());
                until_all = (metered.tat - self.now).try_into().unwrap();
            }
            let second = metered.window.take(since(self.now), tokens, u64::MAX).unwrap();
            held.meters.push((*index, second));
            metered.running += 1;
            let taken = metered.window.taken(since(self.now));
            left.push(MeterLeft { taken, until_none: micros(metered.window.until(since(self.now), 0)), requests, until_all });
        }
        self.loans.insert(name.to_owned(), held);
        Lent::Yes { epoch: "e1".into(), left }
    }

    fn end(&mut self, name: &str, used: u64, cost: i64) {
        let held = self.loans.remove(name).unwrap();
        for (index, second) in held.meters {
            self.meters[index].window.give_back(second, held.tokens - used);
            self.meters[index].running -= i64::from(!held.gone);
        }
        self.spent.push((held.node, hour(held.at), cost));
    }
}

pub(super) struct Real {
    shared: Shared,
    connection: MultiplexedConnection,
    _server: server::Redis,
}

impl Real {
    pub(super) async fn start() -> Option<Self> {
        let server = server::Redis::start()?;
        let (timeout, lease) = (Duration::from_secs(60), Duration::from_secs(15));
        let settings = Settings { url: RedisUrl::new(&server.url()).unwrap(), timeout, lease, share: Share::new(0.5).unwrap() };
        let shared = Shared::open(settings, &"ab".repeat(32), NODES[0]).await.unwrap();
        let connection = shared.connect().await.unwrap();
        Some(Self { shared, connection, _server: server })
    }

    pub(super) fn settings(&self) -> Settings {
        self.shared.0.settings.clone()
    }

    async fn configure(&mut self, name: &str, value: &str) {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query_async::<()>(&mut self.connection).await.unwrap();
    }

    async fn empty(&mut self) {
        redis::cmd("FLUSHALL").query_async::<()>(&mut self.connection).await.unwrap();
    }

    async fn ask(&mut self, ask: &Borrow<'_>) -> Lent {
        let inner = &self.shared.0;
        let answer: Vec<String> =
            self.shared.run(&mut self.connection, &inner.borrow, inner.settings.timeout, ask).await.unwrap();
        Lent::read(&answer).unwrap_or_else(|| panic!("{answer:?}"))
    }

    async fn tell(&mut self, script: &redis::Script, what: &impl Serialize) {
        let patience = self.shared.0.settings.timeout;
        self.shared.run::<String>(&mut self.connection, script, patience, what).await.unwrap();
    }
}

fn meter(index: usize, (places, tokens, every, slack): Terms) -> MeterTerms {
    MeterTerms { name: format!("m:k:key\u{1f}{index}").into(), places, tokens, every, slack, requests: 0 }
}

fn ask<'a>(loan: &'a str, node: &'a str, now: i64, tokens: u64) -> Borrow<'a> {
    let lease = LEASE.try_into().unwrap();
    Borrow { now, loan, epoch: "e1", lease, node, tokens, meters: Vec::new(), wallets: Vec::new() }
}

fn end(loan: &str, epoch: &str, now: i64, used: u64) -> Settlement {
    let meters = vec![meter(0, (-1, -1, -1, 0)).name];
    let (loan, epoch, node) = (loan.into(), epoch.into(), NODES[0].into());
    Settlement { now, loan, epoch, node, used, at: now / 1_000_000, meters, wallets: Vec::new() }
}

async fn agree(real: &mut Real, terms: Vec<Terms>, limits: [i64; 2], steps: Vec<Step>) -> Result<(), TestCaseError> {
    real.empty().await;
    let budgets = vec![(Period::Day, limits[0]), (Period::Total, limits[1])];
    let meters = terms.iter().map(|_| Metered::default()).collect();
    let mut model = Model { now: START, terms, meters, budgets, spent: Vec::new(), loans: BTreeMap::new() };
    let scripts = Arc::clone(&real.shared.0);
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Wait { micros } => model.now += micros,
            Step::Renew { which } => {
                let names: Vec<Arc<str>> = model.loans.keys().map(|name| name.as_str().into()).collect();
                let Some(name) = names.get(which % names.len().max(1)) else { continue };
                let lease = LEASE.try_into().unwrap();
                real.tell(&scripts.renew, &Renewal { now: model.now, lease, loans: std::slice::from_ref(name) }).await;
                let held = model.loans.get_mut(&**name).unwrap();
                if std::mem::take(&mut held.gone) {
                    held.meters.iter().for_each(|(index, _)| model.meters[*index].running += 1);
                }
                held.ends = model.now + LEASE;
            }
            Step::Borrow { node, tokens, most, meters } => {
                let chosen: Vec<usize> = (0..model.terms.len()).filter(|index| meters >> index & 1 == 1).collect();
                let name = format!("loan-{number}");
                let own = model.own(node);
                let budgets = vec![(1, limits[0]), (3, limits[1])];
                let seeds = (number == 0 || model.spent.is_empty()).then(HashMap::new);
                let wallet = WalletTerms { name: WALLET.to_owned(), most, own, budgets, seeds };
                let mut asked = ask(&name, NODES[node], model.now, tokens);
                asked.meters = chosen.iter().map(|index| meter(*index, model.terms[*index])).collect();
                asked.wallets = vec![wallet];
                let real = real.ask(&asked).await;
                prop_assert_eq!(real, model.borrow(&name, node, tokens, most, &chosen), "step {}", number);
            }
            Step::End { which, percent, twice } => {
                let names: Vec<String> = model.loans.keys().cloned().collect();
                let Some(name) = names.get(which % names.len().max(1)) else { continue };
                model.reap();
                let held = &model.loans[name];
                let (node, used) = (held.node, held.tokens * percent / 100);
                let cost = held.most * i64::try_from(percent).unwrap() / 100;
                model.end(name, used, cost);
                let wallets = vec![Spending { name: WALLET.to_owned(), own: model.own(node) }];
                let done = Settlement { node: NODES[node].into(), wallets, ..end(name, "e1", model.now, used) };
                let list = if twice == Repeat::Twice { vec![done.clone(), done] } else { vec![done] };
                real.tell(&scripts.settle, &list).await;
            }
        }
    }
    Ok(())
}

#[test]
fn the_scripts_lend_what_one_process_would() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(mut real) = runtime.block_on(Real::start()) else { return };
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let cases = (prop::collection::vec(terms(), 3), prop::array::uniform2(1i64..400), steps());
    let real = std::cell::RefCell::new(&mut real);
    runner
        .run(&cases, |(terms, limits, steps)| runtime.block_on(agree(&mut real.borrow_mut(), terms, limits, steps)))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_wallet_is_told_of_its_past_once() {
    let Some(mut real) = Real::start().await else { return };
    let day = Period::Day.first_hour(START / 1_000_000);
    let month = Period::Month.first_hour(START / 1_000_000);
    let sums = |amount| [amount, month, amount, day, amount];
    let wallet = WalletTerms { name: WALLET.to_owned(), most: 10, own: sums(30), budgets: vec![(3, 100)], seeds: None };
    let mut asked = ask("one", NODES[0], START, 0);
    asked.wallets = vec![wallet];
    assert_eq!(real.ask(&asked).await, Lent::Seed(0));
    // What is known of this node is older than what it says itself.
    asked.wallets[0].seeds = Some([(NODES[0].to_owned(), sums(20)), ("n_gone".to_owned(), sums(55))].into());
    assert!(matches!(real.ask(&asked).await, Lent::Yes { .. }));
    asked.wallets[0].seeds = None;
    asked.loan = "two";
    assert_eq!(real.ask(&asked).await, Lent::Spent { wallet: 0, budget: 0, used: 95 });
    // Sums only grow: a late message takes nothing back.
    let spending = Spending { name: WALLET.to_owned(), own: sums(5) };
    let scripts = Arc::clone(&real.shared.0);
    real.tell(&scripts.settle, &[Settlement { wallets: vec![spending], ..end("none", "e1", START, 0) }]).await;
    assert_eq!(real.ask(&asked).await, Lent::Spent { wallet: 0, budget: 0, used: 95 });
    asked.wallets[0].most = 5;
    assert!(matches!(real.ask(&asked).await, Lent::Yes { .. }), "to the last nano-dollar");
}

#[tokio::test]
async fn what_was_lent_elsewhere_is_charged_once_and_what_was_lost_is_not_given_back() {
    let Some(mut real) = Real::start().await else { return };
    let scripts = Arc::clone(&real.shared.0);
    let limit = || vec![meter(0, (-1, 100, -1, 0))];
    let mut asked = ask("one", NODES[0], START, 40);
    asked.meters = limit();
    assert!(matches!(real.ask(&asked).await, Lent::Yes { .. }));
    // The replica itself lent 25 while nobody answered, and says so twice.
    let alone = end("alone", "", START, 25);
    real.tell(&scripts.settle, &[alone.clone(), alone]).await;
    let mut second = ask("two", NODES[1], START, 36);
    second.meters = limit();
    assert!(matches!(real.ask(&second).await, Lent::No { used: 65, .. }));
    // All data is lost; then the first answer ends.
    real.empty().await;
    second.epoch = "e2";
    assert!(matches!(real.ask(&second).await, Lent::Yes { .. }));
    real.tell(&scripts.settle, &[end("one", "e1", START, 30), end("one", "e1", START, 30)]).await;
    second.loan = "three";
    assert_eq!(
        real.ask(&second).await,
        Lent::No { short: Short::Tokens, meter: 0, used: 66, wait: Some(61_000_000) },
        "36 are lent and 30 were used"
    );
    // Another replica never heard of a loan that it ends unused.
    real.tell(&scripts.settle, &[end("unheard", "e2", START, 0), end("unheard", "", START, 0)]).await;
    second.tokens = 34;
    assert!(matches!(real.ask(&second).await, Lent::Yes { .. }));
}

/// As an end that has just arrived.
fn waiting(ends: impl IntoIterator<Item = Settlement>) -> Waiting {
    let now = tokio::time::Instant::now();
    let mut waiting = Waiting::default();
    waiting.ends.extend(ends.into_iter().map(|end| (now, end)));
    waiting
}

#[tokio::test]
async fn what_was_spent_alone_is_told_even_when_its_ends_are_forgotten() {
    let Some(mut real) = Real::start().await else { return };
    let day = Period::Day.first_hour(START / 1_000_000);
    let month = Period::Month.first_hour(START / 1_000_000);
    let sums = |amount| [amount, month, amount, day, amount];
    let spent = |name: &str, amount| Settlement {
        wallets: vec![Spending { name: name.to_owned(), own: sums(amount) }],
        ..end("alone", "", START, 5)
    };
    // Ends of one moment may come in any order.
    let mut waiting = waiting([spent(WALLET, 60), spent("w:o", 7), spent(WALLET, 90), spent(WALLET, 80)]);
    assert_eq!(waiting.forget(tokio::time::Instant::now()), 0);
    assert_eq!(waiting.forget(tokio::time::Instant::now() + Duration::from_secs(121)), 4);
    assert!(waiting.ends.is_empty(), "memory is bounded while Redis is away");
    let mut connection = real.connection.clone();
    real.shared.send(&mut connection, &mut waiting).await.unwrap();
    // Another replica, which knows only what the ledger said long ago.
    for (name, left) in [(WALLET, 10), ("w:o", 93)] {
        let seeds = Some(HashMap::from([(NODES[0].to_owned(), sums(0))]));
        let wallet = WalletTerms { name: name.to_owned(), most: left + 1, own: sums(0), budgets: vec![(3, 100)], seeds };
        let mut asked = ask("one", NODES[1], START, 0);
        asked.wallets = vec![wallet];
        assert_eq!(real.ask(&asked).await, Lent::Spent { wallet: 0, budget: 0, used: 100 - left });
        asked.wallets[0].most = left;
        assert!(matches!(real.ask(&asked).await, Lent::Yes { .. }));
    }
}

#[tokio::test]
async fn an_end_that_is_refused_does_not_keep_the_others_waiting() {
    let Some(mut real) = Real::start().await else { return };
    let mut connection = real.connection.clone();
    // More than Redis can count.
    let ends = [end("first", "", START, 25), end("odd", "", START, u64::MAX), end("last", "", START, 15)];
    let mut waiting = waiting(ends);
    real.shared.send(&mut connection, &mut waiting).await.unwrap();
    assert!(waiting.ends.is_empty());
    let mut asked = ask("one", NODES[1], START, 61);
    asked.meters = vec![meter(0, (-1, 100, -1, 0))];
    assert!(matches!(real.ask(&asked).await, Lent::No { used: 40, .. }));
}

#[tokio::test]
async fn a_redis_that_takes_nothing_is_away_and_nothing_is_lost() {
    let Some(mut real) = Real::start().await else { return };
    real.configure("maxmemory", "1").await;
    redis::cmd("PING").query_async::<String>(&mut real.connection).await.unwrap();
    assert!(real.shared.connect().await.is_err());
    let mut connection = real.connection.clone();
    let mut waiting = waiting([end("first", "", START, 25), end("last", "", START, 15)]);
    assert!(real.shared.send(&mut connection, &mut waiting).await.is_err());
    assert_eq!(waiting.ends.len(), 2);
    real.configure("maxmemory", "0").await;
    assert!(real.shared.connect().await.is_ok());
    real.shared.send(&mut connection, &mut waiting).await.unwrap();
    let mut asked = ask("one", NODES[1], START, 61);
    asked.meters = vec![meter(0, (-1, 100, -1, 0))];
    assert!(matches!(real.ask(&asked).await, Lent::No { used: 40, .. }));
}

#[tokio::test]
async fn the_wait_for_redis_is_as_long_as_the_setting_says() {
    let Some(mut real) = Real::start().await else { return };
    // Longer than the client's own half second.
    redis::cmd("CLIENT").arg("PAUSE").arg(900).query_async::<()>(&mut real.connection).await.unwrap();
    assert!(matches!(real.ask(&ask("one", NODES[0], START, 1)).await, Lent::Yes { .. }));
}

#[test]
fn addresses_of_redis_are_known_and_not_printed() {
    for good in ["redis://localhost", "redis://:secret@host:6380/3", "rediss://user:secret@host/0", "unix:///run/redis.sock"] {
        let url = RedisUrl::new(good).unwrap_or_else(|| panic!("{good}"));
        assert_eq!(format!("{url:?}"), "RedisUrl(..)");
    }
    for bad in ["", "localhost:6379", "http://host", "redis://", "redis://host/three"] {
        assert!(RedisUrl::new(bad).is_none(), "{bad}");
    }
}
