//! What is said to the scripts and what they answer. Pure: no connection, no clock.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

/// Nano-dollars that a node has spent: all in all, the first hour of its month (since 1970), in that month, the same of its day.
pub(in crate::tenants) type Sums = [i64; 5];

/// What a request may need at most.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct Borrow<'a> {
    /// Microseconds since 1970; 0 is Redis's own time.
    pub now: i64,
    /// Names the loan.
    pub loan: &'a str,
    /// Names the state, where there is none yet.
    pub epoch: &'a str,
    /// Microseconds after which it ends if nobody renews it.
    pub lease: u64,
    /// This replica in the ledger.
    pub node: &'a str,
    /// Prompts and answers.
    pub tokens: u64,
    /// Limits.
    pub meters: Vec<MeterTerms>,
    /// Money.
    pub wallets: Vec<WalletTerms>,
}

/// One subject's limits on one model. -1 is no limit.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct MeterTerms {
    /// Its name.
    pub name: Arc<str>,
    /// Requests at a time.
    pub places: i64,
    /// Tokens in any 60 seconds.
    pub tokens: i64,
    /// Microseconds from one request to the next; 0 lets nothing through.
    pub every: i64,
    /// Microseconds that requests may come early: a burst.
    pub slack: i64,
    /// Requests per minute, for what callers are told.
    #[serde(skip)]
    pub requests: u64,
}

/// One subject's hard budgets.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct WalletTerms {
    /// Its name.
    pub name: String,
    /// The most that the request can cost, nano-dollars.
    pub most: i64,
    /// What this replica has spent.
    pub own: Sums,
    /// Period (1 day, 2 month, 3 for good) and limit.
    pub budgets: Vec<(u8, i64)>,
    /// What each replica has spent, where the state knew nothing of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<HashMap<String, Sums>>,
}

/// The end of a loan.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct Settlement {
    /// As in [`Borrow`].
    pub now: i64,
    /// Which one.
    pub loan: Arc<str>,
    /// The state that lent it; empty: this replica itself.
    pub epoch: Arc<str>,
    /// As in [`Borrow`].
    pub node: Arc<str>,
    /// Tokens that were used.
    pub used: u64,
    /// Second (since 1970) that they count in where another state lent them.
    pub at: i64,
    /// Limits that they count against.
    pub meters: Vec<Arc<str>>,
    /// What was spent until now.
    pub wallets: Vec<Spending>,
}

/// A wallet's sums.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct Spending {
    /// Its name.
    pub name: String,
    /// What this replica has spent.
    pub own: Sums,
}

/// Loans that go on.
#[derive(Debug, Clone, Serialize)]
pub(in crate::tenants) struct Renewal<'a> {
    /// As in [`Borrow`].
    pub now: i64,
    /// As in [`Borrow`].
    pub lease: u64,
    /// Which ones.
    pub loans: &'a [Arc<str>],
}

/// What is left of a meter, microseconds for times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tenants) struct MeterLeft {
    /// Tokens that are taken.
    pub taken: u64,
    /// Until none is.
    pub until_none: u64,
    /// Requests that may follow at once; `None` without a limit of them.
    pub requests: Option<u64>,
    /// Until all may.
    pub until_all: u64,
}

/// Which limit said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tenants) enum Short {
    /// Requests at a time.
    Places,
    /// Tokens.
    Tokens,
    /// Requests per minute.
    Requests,
}

/// The script's answer to [`Borrow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenants) enum Lent {
    /// It is lent.
    Yes {
        /// By which state.
        epoch: Arc<str>,
        /// What is left, meter by meter.
        left: Vec<MeterLeft>,
    },
    /// A limit refuses.
    No {
        /// Which one.
        short: Short,
        /// Of the meters.
        meter: usize,
        /// What is taken.
        used: u64,
        /// Microseconds until it fits; `None`: never.
        wait: Option<u64>,
    },
    /// A budget refuses.
    Spent {
        /// Of the wallets.
        wallet: usize,
        /// Of its hard budgets.
        budget: usize,
        /// Nano-dollars spent and promised.
        used: i64,
    },
    /// The state knows nothing of this wallet's past.
    Seed(usize),
}

impl Lent {
    /// Reads the answer; `None` where it is none of these.
    pub(in crate::tenants) fn read(answer: &[String]) -> Option<Self> {
        let (kind, rest) = answer.split_first()?;
        if kind == "ok" {
            let (epoch, numbers) = rest.split_first()?;
            let left = numbers.chunks(4).map(|four| {
                let [taken, until_none, requests, until_all] = four else { return None };
                let requests: i64 = requests.parse().ok()?;
                Some(MeterLeft {
                    taken: taken.parse().ok()?,
                    until_none: until_none.parse().ok()?,
                    requests: u64::try_from(requests).ok(),
                    until_all: until_all.parse().ok()?,
                })
            });
            return Some(Self::Yes { epoch: epoch.as_str().into(), left: left.collect::<Option<_>>()? });
        }
        let numbers: Vec<i64> = rest.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        let index = |number: i64| usize::try_from(number).ok();
        let short = match (kind.as_str(), numbers.as_slice()) {
            ("seed", [wallet]) => return Some(Self::Seed(index(*wallet)?)),
            ("budget", [wallet, budget, used]) => {
                return Some(Self::Spent { wallet: index(*wallet)?, budget: index(*budget)?, used: *used });
            }
            ("places", _) => Short::Places,
            ("tokens", _) => Short::Tokens,
            ("requests", _) => Short::Requests,
            _ => return None,
        };
        let [meter, used, wait] = numbers[..] else { return None };
        Some(Self::No { short, meter: index(meter)?, used: u64::try_from(used).ok()?, wait: u64::try_from(wait).ok() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn read(words: &[&str]) -> Option<Lent> {
        Lent::read(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let left = MeterLeft { taken: 5, until_none: 61, requests: None, until_all: 0 };
        assert_eq!(read(&["ok", "e1", "5", "61", "-1", "0"]), Some(Lent::Yes { epoch: "e1".into(), left: vec![left] }));
        assert_eq!(read(&["tokens", "1", "7", "-1"]), Some(Lent::No { short: Short::Tokens, meter: 1, used: 7, wait: None }));
        assert_eq!(read(&["budget", "0", "2", "9"]), Some(Lent::Spent { wallet: 0, budget: 2, used: 9 }));
        assert_eq!(read(&["seed", "0"]), Some(Lent::Seed(0)));
        for nonsense in
            [&["ok"][..], &["ok", "e", "1"], &["tokens", "1"], &["budget", "x", "1", "2"], &["maybe", "1", "2", "3"], &[]]
        {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }
}
