//! Budgets: periods and sums. Pure functions of (state, now); nothing here knows requests.

use time::OffsetDateTime;

use super::TenantError;
use super::policy::{Subject, odd};
use crate::store::policy::BudgetRow;

/// How long money lasts, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of the month.
    Month,
    /// For good.
    Total,
}

impl Period {
    /// The name in the database and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The period with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Day, Self::Month, Self::Total].into_iter().find(|period| period.name() == name)
    }

    /// The first hour (hours since 1970) of the period that `now` (seconds since 1970) is in.
    pub fn first_hour(self, now: i64) -> i64 {
        match self {
            Self::Day => now.div_euclid(86_400) * 24,
            Self::Month => {
                let date = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
                let first = date.replace_day(1).unwrap_or(date);
                first.midnight().assume_utc().unix_timestamp().div_euclid(3_600)
            }
            Self::Total => i64::MIN,
        }
    }
}

/// What happens at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// Requests that might pass it are refused.
    Hard,
    /// Webhooks are called.
    Soft,
}

impl Enforcement {
    /// The name in the database and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Hard, Self::Soft].into_iter().find(|enforcement| enforcement.name() == name)
    }
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Id of its row.
    pub id: String,
    /// Whose it is.
    pub subject: Subject,
    /// How long it lasts.
    pub period: Period,
    /// Nano-dollars.
    pub limit: i64,
    /// What happens at its end.
    pub enforcement: Enforcement,
    /// Per cent at which webhooks are called, ascending.
    pub thresholds: Vec<u32>,
    /// JSON that is sent along.
    pub notification: Option<String>,
}

impl Budget {
    pub(super) fn new(row: BudgetRow) -> Result<Self, TenantError> {
        let subject = match row.scope.as_str() {
            "organization" => Subject::Organization,
            "project" => Subject::Project(row.subject),
            "key" => Subject::Key(row.subject),
            _ => return Err(odd("budgets", row.scope, "organization, project or key")),
        };
        let enforcement = Enforcement::named(&row.enforcement).ok_or_else(|| odd("budgets", row.enforcement, "hard or soft"))?;
        let thresholds = row.thresholds.split(',').filter(|part| !part.is_empty()).map(|part| part.trim().parse());
        let mut thresholds: Vec<u32> =
            thresholds.collect::<Result<_, _>>().map_err(|_| odd("budgets", row.thresholds, "per cent between commas"))?;
        thresholds.sort_unstable();
        Ok(Self {
            id: row.id,
            subject,
            period: Period::named(&row.period).ok_or_else(|| odd("budgets", row.period, "day, month or total"))?,
            limit: row.limit_nanos,
            enforcement,
            thresholds,
            notification: row.notification,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_midnight_and_on_the_first() {
        // 2026-11-21 11:32:55 UTC
        let now = 1_795_260_775;
        assert_eq!(Period::Day.first_hour(now) * 3_600, 1_795_219_200);
        assert_eq!(Period::Month.first_hour(now) * 3_600, 1_793_491_200);
        assert!(Period::Total.first_hour(now) < 0);
        assert_eq!(Period::Day.first_hour(1_795_219_199) + 24, Period::Day.first_hour(1_795_219_200));
    }
}
