//! How much of a limit holds in this process: all of it, where limits are its own; nothing, where they are kept for all replicas
//! together and what is taken here is only counted; a share, while nobody can be asked. Pure.

use super::policy::Limit;

/// Parts of one in which a share is counted.
const PARTS: u64 = 1_000_000;

/// A part of every limit, above nothing and at most all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// `0.34` is 34 per cent; `None` where it is no part of one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1")]
    pub fn new(part: f64) -> Option<Self> {
        let parts = (part * PARTS as f64).round();
        (part.is_finite() && parts >= 1.0 && part <= 1.0).then_some(Self(parts as u64))
    }

    /// The part as a number.
    pub fn part(self) -> f64 {
        self.0 as f64 / PARTS as f64
    }

    fn of(self, whole: u64) -> u64 {
        u64::try_from(u128::from(whole) * u128::from(self.0) / u128::from(PARTS)).unwrap_or(u64::MAX)
    }

    /// What may be counted one by one: where one is allowed, one is.
    fn count(self, whole: u32) -> u32 {
        if whole == 0 { 0 } else { u32::try_from(self.of(whole.into())).unwrap_or(u32::MAX).max(1) }
    }

    /// The share of money that is left.
    pub(super) fn money(self, left: i64) -> i64 {
        i64::try_from(self.of(u64::try_from(left).unwrap_or(0))).unwrap_or(i64::MAX)
    }
}

/// What holds here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Everything.
    Whole,
    /// A share of it.
    Share(Share),
    /// Nothing: it was asked elsewhere. Counted against the share that holds while nobody can be asked.
    Elsewhere(Share),
}

impl Bound {
    /// The limit that holds.
    pub(super) fn of(self, limit: Limit) -> Limit {
        match self {
            Self::Whole => limit,
            Self::Elsewhere(_) => Limit::default(),
            Self::Share(share) => Limit {
                requests_per_minute: limit.requests_per_minute.map(|whole| share.count(whole)),
                burst: limit.burst.map(|whole| share.count(whole)),
                tokens_per_minute: limit.tokens_per_minute.map(|whole| share.of(whole)),
                concurrent_requests: limit.concurrent_requests.map(|whole| share.count(whole)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_share_is_rounded_down_and_leaves_one_where_there_is_one() {
        let share = Share::new(0.34).unwrap();
        let limit = Limit {
            requests_per_minute: Some(100),
            burst: Some(1),
            tokens_per_minute: Some(1_001),
            concurrent_requests: Some(0),
        };
        let third = Bound::Share(share).of(limit);
        assert_eq!(third.requests_per_minute, Some(34));
        assert_eq!((third.burst, third.tokens_per_minute, third.concurrent_requests), (Some(1), Some(340), Some(0)));
        assert_eq!((share.money(-5), share.money(100)), (0, 34));
        assert_eq!(Bound::Elsewhere(share).of(limit), Limit::default());
        assert_eq!(Bound::Whole.of(limit), limit);
        assert_eq!(share.of(u64::MAX), 6271892985061247549);
    }

    #[test]
    fn a_share_is_a_part_of_one() {
        assert!([0.0, -0.5, 1.01, f64::NAN, f64::INFINITY, 1e-9].into_iter().all(|part| Share::new(part).is_none()));
        assert_eq!(Share::new(1.0).unwrap().of(7), 7);
    }
}
