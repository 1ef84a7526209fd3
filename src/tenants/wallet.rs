//! What a subject has spent and has promised, against its budgets. The time is an argument.
//!
//! Sums of the running day, month and of everything are kept as they grow, so that a budget that is made in the middle of a month
//! knows what was spent before. What other processes have spent is told from outside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bound::Bound;
use super::budget::{Budget, Enforcement, Period};
use super::policy::Subject;
use super::shared::admit::number;
use super::shared::wire::Sums;

/// Nobody comes with a time that is older than this, seconds, for having waited.
const LATE: i64 = 60;

/// A budget is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    /// Which one.
    pub budget_id: String,
    /// Whose.
    pub subject: Subject,
    /// How long it lasts.
    pub period: Period,
    /// Nano-dollars.
    pub limit: i64,
    /// Nano-dollars spent and promised.
    pub used: i64,
    /// Nano-dollars that the request could cost at most.
    pub asked: i64,
}

/// A budget has reached a share of its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetReached {
    /// Which one.
    pub budget: Budget,
    /// First hour (since 1970) of the period.
    pub period_start: i64,
    /// Per cent.
    pub threshold: u32,
    /// Nano-dollars spent in the period.
    pub spent: i64,
}

/// Sums as they were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Nano-dollars since the beginning.
    pub total: i64,
    /// Of the running month.
    pub month: i64,
    /// Of the running day.
    pub day: i64,
}

impl Spent {
    pub(super) const fn of(&self, period: Period) -> i64 {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
            Period::Total => self.total,
        }
    }
}

struct Kept {
    budget: Budget,
    /// The period and the highest threshold that was reported for it.
    reported: (i64, u32),
}

struct State {
    spent: Spent,
    /// First hours of the running day and month.
    day: i64,
    month: i64,
    /// The latest time that was heard of, seconds since 1970.
    latest: i64,
    others: Spent,
    /// Nano-dollars that running requests may still cost.
    promised: i64,
    budgets: Vec<Kept>,
    revision: i64,
}

/// One subject's money.
pub(super) struct Wallet {
    state: Mutex<State>,
    seeding: tokio::sync::Mutex<()>,
}

impl Wallet {
    /// `spent` is what this process's earlier lives have spent, as of `now` (seconds since 1970).
    pub(super) fn new(spent: Spent, now: i64) -> Self {
        let (day, month) = (Period::Day.first_hour(now), Period::Month.first_hour(now));
        Self {
            state: Mutex::new(State {
                spent,
                day,
                month,
                latest: now,
                others: Spent::default(),
                promised: 0,
                budgets: Vec::new(),
                revision: i64::MIN,
            }),
            seeding: tokio::sync::Mutex::default(),
        }
    }

    /// Held by whoever tells those elsewhere of its past.
    pub(super) const fn seeding(&self) -> &tokio::sync::Mutex<()> {
        &self.seeding
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the budgets to those of a revision of the policy, unless a later one is in force; what was spent stays spent.
    pub(super) fn set_budgets(&self, revision: i64, budgets: Vec<Budget>) {
        let mut state = self.state();
        if revision < state.revision {
            return;
        }
        state.revision = revision;
        let mut old = std::mem::take(&mut state.budgets);
        state.budgets = budgets
            .into_iter()
            .map(|budget| {
                let same = |kept: &Kept| kept.budget.id == budget.id && kept.budget.limit == budget.limit;
                let reported = old.iter().position(same).map_or((i64::MIN, 0), |index| old.swap_remove(index).reported);
                Kept { budget, reported }
            })
            .collect();
    }

    /// What other processes have spent, as was `asked` at a time (seconds since 1970).
    pub(super) fn set_others(&self, others: Spent, asked: i64) {
        let mut state = self.state();
        // What was asked yesterday says nothing of today.
        if Period::Day.first_hour(asked) >= state.day {
            state.roll(asked);
            state.others = others;
        }
    }

    /// What was spent by this process and the others.
    pub(super) fn spent(&self, now: i64) -> Spent {
        let mut state = self.state();
        state.roll(now);
        Spent {
            total: state.spent.total.saturating_add(state.others.total),
            month: state.spent.month.saturating_add(state.others.month),
            day: state.spent.day.saturating_add(state.others.day),
        }
    }

    /// Promises the most that a request can cost, unless a hard budget could be passed by it.
    pub(super) fn promise(&self, now: i64, most: i64, bound: Bound) -> Result<(), OverBudget> {
        let mut state = self.state();
        state.roll(now);
        for budget in state.hard() {
            let spent = state.used(budget.period);
            let used = spent.saturating_add(state.promised);
            let refused = match bound {
                Bound::Elsewhere(_) => false,
                // A spent budget lets nothing through, not even what is free.
                Bound::Whole => used >= budget.limit || used.saturating_add(most) > budget.limit,
                Bound::Share(share) => {
                    let left = share.money(budget.limit.saturating_sub(spent));
                    left == 0 || state.promised.saturating_add(most) > left
                }
            };
            if refused {
                return Err(over(budget, used, most));
            }
        }
        state.promised = state.promised.saturating_add(most);
        Ok(())
    }

    /// Hard budgets as they are asked for elsewhere: period and limit.
    pub(super) fn hard(&self) -> Vec<(u8, i64)> {
        self.state().hard().map(|budget| (number(budget.period), budget.limit)).collect()
    }

    /// What this process has spent, for those elsewhere.
    pub(super) fn sums(&self, now: i64) -> Sums {
        let mut state = self.state();
        state.roll(now);
        let Spent { total, month, day } = state.spent;
        [total, state.month, month, state.day, day]
    }

    /// A refusal that was decided elsewhere, by the hard budget with this index.
    pub(super) fn over(&self, index: usize, used: i64, most: i64) -> Option<OverBudget> {
        self.state().hard().nth(index).map(|budget| over(budget, used, most))
    }

    /// Ends a promise of which nothing was spent.
    pub(super) fn release(&self, most: i64) {
        let mut state = self.state();
        state.promised = state.promised.saturating_sub(most);
    }

    /// Ends a promise at `now`: `cost` was spent at the time `at` (seconds since 1970) when it was made. Says which budgets have
    /// reached a threshold by it.
    pub(super) fn settle(&self, at: i64, now: i64, most: i64, cost: i64) -> Vec<BudgetReached> {
        let mut state = self.state();
        state.promised = state.promised.saturating_sub(most);
        state.roll(now);
        let hour = at.div_euclid(3_600);
        state.spent.total = state.spent.total.saturating_add(cost);
        if hour >= state.month {
            state.spent.month = state.spent.month.saturating_add(cost);
        }
        if hour >= state.day {
            state.spent.day = state.spent.day.saturating_add(cost);
        }
        state.reached()
    }
}

fn over(budget: &Budget, used: i64, asked: i64) -> OverBudget {
    OverBudget {
        budget_id: budget.id.clone(),
        subject: budget.subject.clone(),
        period: budget.period,
        limit: budget.limit,
        used,
        asked,
    }
}

impl State {
    fn hard(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.iter().map(|kept| &kept.budget).filter(|budget| budget.enforcement == Enforcement::Hard)
    }

    /// A new day or month begins with nothing spent. Where the clock was put back, the earlier one goes on with all that was
    /// counted since: too much rather than nothing.
    fn roll(&mut self, now: i64) {
        if now < self.latest && self.latest - now <= LATE {
            // The time of somebody who has waited, not a clock that was put back.
            return;
        }
        self.latest = now;
        let (day, month) = (Period::Day.first_hour(now), Period::Month.first_hour(now));
        if day > self.day {
            self.spent.day = 0;
            self.others.day = 0;
        }
        if month > self.month {
            self.spent.month = 0;
            self.others.month = 0;
        }
        (self.day, self.month) = (day, month);
    }

    const fn used(&self, period: Period) -> i64 {
        self.spent.of(period).saturating_add(self.others.of(period))
    }

    fn reached(&mut self) -> Vec<BudgetReached> {
        let mut reached = Vec::new();
        let used = [Period::Day, Period::Month, Period::Total].map(|period| (period, self.used(period)));
        for kept in &mut self.budgets {
            let period = kept.budget.period;
            let start = match period {
                Period::Day => self.day,
                Period::Month => self.month,
                Period::Total => 0,
            };
            if kept.reported.0 != start {
                kept.reported = (start, 0);
            }
            let spent = used.iter().find(|(of, _)| *of == period).map_or(0, |(_, spent)| *spent);
            let passed = |threshold: u32| i128::from(spent) * 100 >= i128::from(kept.budget.limit) * i128::from(threshold);
            let new: Vec<u32> = kept
                .budget
                .thresholds
                .iter()
                .copied()
                .filter(|&threshold| threshold > kept.reported.1 && passed(threshold))
                .collect();
            for threshold in new {
                kept.reported.1 = threshold;
                reached.push(BudgetReached { budget: kept.budget.clone(), period_start: start, threshold, spent });
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// 2026-11-21 11:32:55 UTC
    const NOW: i64 = 1_795_260_775;
    const DAY: i64 = 86_400;

    fn budget(period: Period, limit: i64, enforcement: Enforcement) -> Budget {
        let id = format!("budget_{}", period.name());
        Budget {
            id,
            subject: Subject::Organization,
            period,
            limit,
            enforcement,
            thresholds: vec![50, 80, 100],
            notification: None,
        }
    }

    #[test]
    fn a_hard_budget_counts_what_is_promised() {
        let wallet = Wallet::new(Spent { total: 900, month: 40, day: 0 }, NOW);
        wallet.set_budgets(1, vec![budget(Period::Month, 100, Enforcement::Hard)]);
        wallet.promise(NOW, 60, Bound::Whole).unwrap();
        let over = wallet.promise(NOW, 1, Bound::Whole).unwrap_err();
        assert_eq!((over.used, over.asked, over.limit), (100, 1, 100));
        assert!(wallet.promise(NOW, 0, Bound::Whole).is_err(), "a spent budget lets nothing through");
        wallet.settle(NOW, NOW, 60, 10);
        wallet.promise(NOW, 50, Bound::Whole).unwrap();
        wallet.set_others(Spent { total: 1, month: 1, day: 1 }, NOW);
        wallet.settle(NOW, NOW, 50, 0);
        assert!(wallet.promise(NOW, 50, Bound::Whole).is_err(), "another process has spent one");
        assert!(wallet.promise(NOW, 49, Bound::Whole).is_ok());
        // December.
        assert!(wallet.promise(NOW + 11 * DAY, 40, Bound::Whole).is_ok());
    }

    #[test]
    fn a_day_ends_at_midnight_and_late_answers_belong_to_the_day_they_began_in() {
        let wallet = Wallet::new(Spent::default(), NOW);
        wallet.set_budgets(1, vec![budget(Period::Day, 100, Enforcement::Hard)]);
        wallet.promise(NOW, 90, Bound::Whole).unwrap();
        wallet.promise(NOW + DAY, 10, Bound::Whole).unwrap();
        wallet.settle(NOW, NOW + DAY, 90, 90);
        assert_eq!(wallet.spent(NOW + DAY), Spent { total: 90, month: 90, day: 0 });
        wallet.settle(NOW + DAY, NOW + DAY, 10, 10);
        assert_eq!(wallet.spent(NOW + DAY), Spent { total: 100, month: 100, day: 10 });
    }

    #[test]
    fn what_others_have_spent_is_of_the_day_in_which_it_was_asked() {
        let wallet = Wallet::new(Spent::default(), NOW);
        let others = |day| Spent { total: 100, month: 100, day };
        // Nobody has asked here since midnight.
        wallet.set_others(others(7), NOW + DAY);
        assert_eq!(wallet.spent(NOW + DAY).day, 7);
        // An answer from before midnight comes after it.
        wallet.set_others(others(93), NOW);
        assert_eq!(wallet.spent(NOW + DAY).day, 7);
    }

    #[test]
    fn who_has_waited_over_midnight_does_not_bring_yesterday_back() {
        let midnight = (NOW / DAY + 1) * DAY;
        let wallet = Wallet::new(Spent::default(), NOW);
        wallet.promise(midnight + 1, 10, Bound::Whole).unwrap();
        wallet.settle(midnight + 1, midnight + 1, 10, 10);
        wallet.promise(midnight - 1, 10, Bound::Whole).unwrap();
        wallet.settle(midnight - 1, midnight + 2, 10, 5);
        assert_eq!(wallet.spent(midnight + 2), Spent { total: 15, month: 15, day: 10 });
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_stop_the_counting() {
        let wallet = Wallet::new(Spent::default(), NOW + 40 * DAY);
        wallet.set_budgets(1, vec![budget(Period::Day, 100, Enforcement::Hard), budget(Period::Month, 150, Enforcement::Hard)]);
        wallet.promise(NOW, 60, Bound::Whole).unwrap();
        wallet.settle(NOW, NOW, 60, 60);
        assert_eq!(wallet.spent(NOW), Spent { total: 60, month: 60, day: 60 });
        assert!(wallet.promise(NOW, 60, Bound::Whole).is_err());
    }

    #[test]
    fn budgets_of_an_older_policy_do_not_come_back() {
        let wallet = Wallet::new(Spent::default(), NOW);
        wallet.set_budgets(2, vec![budget(Period::Day, 10, Enforcement::Hard)]);
        wallet.set_budgets(1, Vec::new());
        assert!(wallet.promise(NOW, 11, Bound::Whole).is_err());
    }

    #[test]
    fn thresholds_are_reported_once_in_each_period() {
        let wallet = Wallet::new(Spent::default(), NOW);
        wallet.set_budgets(1, vec![budget(Period::Day, 100, Enforcement::Soft)]);
        let reached = |at, cost| wallet.settle(at, at, 0, cost).iter().map(|event| event.threshold).collect::<Vec<u32>>();
        assert_eq!(reached(NOW, 49), [0u32; 0]);
        assert_eq!(reached(NOW, 31), [50, 80]);
        wallet.set_budgets(1, vec![budget(Period::Day, 100, Enforcement::Soft)]);
        assert_eq!(reached(NOW, 5), [0u32; 0]);
        assert!(wallet.promise(NOW, 1 << 40, Bound::Whole).is_ok(), "a soft budget refuses nothing");
        assert_eq!(reached(NOW, 500), [100]);
        assert_eq!(reached(NOW + DAY, 60), [50]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin { most: i64 },
        End { which: usize, percent: i64 },
        Wait { seconds: i64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0i64..400).prop_map(|most| Step::Begin { most }),
            4 => (0usize..64, 0i64..=100).prop_map(|(which, percent)| Step::End { which, percent }),
            1 => (0i64..40_000).prop_map(|seconds| Step::Wait { seconds }),
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        /// Against a plain list of what was spent when: no period ever holds more than its budget, and nothing is lost.
        #[test]
        fn no_hard_budget_is_passed_by_a_nano_dollar(limits in prop::array::uniform3(1i64..3_000), steps in steps()) {
            let periods = [Period::Day, Period::Month, Period::Total];
            let wallet = Wallet::new(Spent::default(), NOW);
            wallet.set_budgets(1, (0..3).map(|index| budget(periods[index], limits[index], Enforcement::Hard)).collect());
            let mut now = NOW;
            let mut running: Vec<(i64, i64)> = Vec::new();
            let mut spent: Vec<(i64, i64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin { most } => if wallet.promise(now, most, Bound::Whole).is_ok() { running.push((now, most)) },
                    Step::End { which, percent } => if !running.is_empty() {
                        let (at, most) = running.swap_remove(which % running.len());
                        let cost = most * percent / 100;
                        wallet.settle(at, now, most, cost);
                        spent.push((at, cost));
                    },
                    Step::Wait { seconds } => now += seconds,
                }
                for (period, limit) in periods.iter().zip(limits) {
                    let first = period.first_hour(now);
                    let sum: i64 = spent.iter().filter(|(at, _)| at.div_euclid(3_600) >= first).map(|(_, cost)| cost).sum();
                    prop_assert!(sum <= limit);
                    prop_assert_eq!(wallet.spent(now).of(*period), sum);
                }
            }
        }
    }

    #[test]
    fn ten_thousand_concurrent_requests_never_pass_a_budget() {
        let wallet = Arc::new(Wallet::new(Spent::default(), NOW));
        let limit = 1_000_003;
        wallet.set_budgets(1, vec![budget(Period::Month, limit, Enforcement::Hard)]);
        let threads: Vec<_> = (0..8u64)
            .map(|thread| {
                let wallet = Arc::clone(&wallet);
                std::thread::spawn(move || {
                    use rand::{Rng, SeedableRng};
                    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(thread);
                    let mut mine = 0;
                    for _ in 0..1_250 {
                        let most = rng.random_range(0..2_000);
                        if wallet.promise(NOW, most, Bound::Whole).is_ok() {
                            let cost = rng.random_range(0..=most);
                            wallet.settle(NOW, NOW, most, cost);
                            mine += cost;
                            assert!(wallet.spent(NOW).month <= limit);
                        }
                    }
                    mine
                })
            })
            .collect();
        let sum: i64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(wallet.spent(NOW).total, sum);
        assert!(sum <= limit && sum > limit - 4_000, "{sum} of {limit}");
    }
}
