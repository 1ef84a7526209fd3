//! Tokens in any 60 seconds: a sliding window of one-second slots. Pure: the time is an argument.
//!
//! A slot counts until everything in it is older than 60 seconds, so that no 60 seconds ever hold more than the limit; in exchange
//! a token comes back up to one second late.

use std::time::Duration;

/// Length of the window, seconds.
const SECONDS: u64 = 60;
/// Slots that count at a time: the current one and the 60 before it.
const SLOTS: usize = SECONDS as usize + 1;

/// What was taken in the last 60 seconds.
#[derive(Debug, Clone)]
pub struct Window {
    slots: [u64; SLOTS],
    /// The second that the newest slot stands for, counted from the process's start.
    newest: u64,
    sum: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { slots: [0; SLOTS], newest: 0, sum: 0 }
    }
}

/// There is not enough left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// There will be, after this long, if nobody else takes it.
    For(Duration),
    /// There never will be: it is more than the limit.
    Forever,
}

impl Window {
    /// Takes `amount`, at `now` since the process's start, unless that would make more than `limit` in any 60 seconds. Returns
    /// the second that it counts in, for [`Window::give_back`].
    pub fn take(&mut self, now: Duration, amount: u64, limit: u64) -> Result<u64, Short> {
        if amount > limit {
            return Err(Short::Forever);
        }
        self.advance(now.as_secs());
        if self.sum + amount > limit {
            return Err(Short::For(self.until(now, limit - amount)));
        }
        self.slots[slot(self.newest)] += amount;
        self.sum += amount;
        Ok(self.newest)
    }

    /// Gives back what was taken in `second` and not used.
    pub fn give_back(&mut self, second: u64, amount: u64) {
        // What is older has come back already.
        if second + (SLOTS as u64) > self.newest {
            let taken = &mut self.slots[slot(second)];
            let back = amount.min(*taken);
            *taken -= back;
            self.sum -= back;
        }
    }

    /// Taken in the last 60 seconds.
    pub fn taken(&mut self, now: Duration) -> u64 {
        self.advance(now.as_secs());
        self.sum
    }

    /// How long until no more than `most` is taken.
    pub fn until(&self, now: Duration, most: u64) -> Duration {
        let mut left = self.sum;
        let oldest = (self.newest + 1).saturating_sub(SLOTS as u64);
        for second in oldest..=self.newest {
            if left <= most {
                break;
            }
            left -= self.slots[slot(second)];
            if left <= most {
                return Duration::from_secs(second + SLOTS as u64).saturating_sub(now);
            }
        }
        Duration::ZERO
    }

    /// Time that seems to go back stands still.
    fn advance(&mut self, second: u64) {
        if second <= self.newest {
            return;
        }
        for passed in self.newest + 1..=second.min(self.newest + SLOTS as u64) {
            self.sum -= std::mem::take(&mut self.slots[slot(passed)]);
        }
        self.newest = second;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 61")]
const fn slot(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_taken_comes_back_after_a_minute() {
        let mut window = Window::default();
        assert_eq!(window.take(ms(10_500), 60, 100), Ok(10));
        assert_eq!(window.take(ms(20_000), 40, 100), Ok(20));
        assert_eq!(window.take(ms(20_000), 1, 100), Err(Short::For(ms(51_000))), "the first 60 end at 71");
        assert_eq!(window.take(ms(20_000), 61, 100), Err(Short::For(ms(61_000))), "all must have come back");
        assert_eq!(window.take(ms(20_000), 101, 100), Err(Short::Forever));
        assert_eq!(window.take(ms(70_999), 1, 100), Err(Short::For(ms(1))));
        assert_eq!(window.take(ms(71_000), 60, 100), Ok(71));
        assert_eq!(window.taken(ms(200_000)), 0);
    }

    #[test]
    fn what_is_given_back_can_be_taken_at_once_and_only_once() {
        let mut window = Window::default();
        let second = window.take(ms(5_000), 100, 100).unwrap();
        window.give_back(second, 70);
        assert_eq!(window.taken(ms(5_000)), 30);
        window.give_back(second, 1_000);
        assert_eq!(window.taken(ms(5_000)), 0, "no more than was taken");
        let second = window.take(ms(6_000), 100, 100).unwrap();
        assert_eq!(window.take(ms(90_000), 100, 100), Ok(90));
        window.give_back(second, 100);
        assert_eq!(window.taken(ms(90_000)), 100, "what is old has come back by itself");
    }

    proptest! {
        /// Against a list of everything that was taken: no 60 seconds hold more than the limit, and what is refused would have.
        #[test]
        fn no_minute_holds_more_than_the_limit(
            limit in 1u64..200,
            steps in prop::collection::vec((0u64..9_000, 0u64..80, 0u64..100), 1..200),
        ) {
            let mut window = Window::default();
            let mut now = 0;
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (wait, amount, percent_used) in steps {
                now += wait;
                let within = |at: u64, now: u64| at + 60_000 > now;
                let held: u64 = taken.iter().filter(|(at, _)| within(*at, now)).map(|(_, amount)| amount).sum();
                match window.take(ms(now), amount, limit) {
                    Ok(second) => {
                        let used = amount * percent_used / 100;
                        window.give_back(second, amount - used);
                        prop_assert!(held + amount <= limit);
                        taken.push((now, used));
                    }
                    Err(Short::Forever) => prop_assert!(amount > limit),
                    Err(Short::For(wait)) => {
                        // At most a second too careful.
                        let held: u64 = taken.iter().filter(|(at, _)| at + 61_000 > now).map(|(_, amount)| amount).sum();
                        prop_assert!(held + amount > limit);
                        let mut later = window.clone();
                        prop_assert!(later.take(ms(now) + wait, amount, limit).is_ok(), "the promise holds");
                    }
                }
            }
        }
    }
}
