//! When a server that fails is left alone, and when it is tried again. Pure: the time (since any fixed moment) is an argument.
//!
//! Closed: everybody may ask. After so many failures in a row it opens: nobody may, for a while. Then it is half open: one may ask,
//! and what comes of that decides for all.

use std::time::Duration;

/// When a server is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// Failures in a row after which it is left alone; at least 1.
    pub failures: u32,
    /// How long it is left alone.
    pub pause: Duration,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(15) }
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has begun to answer: it is there.
    Began,
    /// It has answered to the end.
    Answered,
    /// It failed.
    Failed,
    /// Nobody waited for what would come of it.
    Left,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Everybody may ask.
    Closed,
    /// One has been let through to look.
    HalfOpen,
    /// Nobody may ask.
    Open,
}

/// A permission to ask. It counts for the state that gave it: what is told later about an older one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    HalfOpen,
}

/// Decides whether a server may be asked.
#[derive(Debug, Clone)]
pub struct Breaker {
    tolerance: Tolerance,
    state: State,
    /// Changes of state so far.
    epoch: u64,
}

impl Breaker {
    /// Closed.
    pub const fn new(tolerance: Tolerance) -> Self {
        Self { tolerance, state: State::Closed { failures: 0 }, epoch: 0 }
    }

    /// Whether the server may be asked now; else how long to wait before asking here again.
    pub fn ask(&mut self, now: Duration) -> Result<Leave, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } if now < until => return Err(until - now),
            State::Open { .. } => self.enter(State::HalfOpen),
            // Nobody knows how long the one who looks will take.
            State::HalfOpen => return Err(self.tolerance.pause.min(Duration::from_secs(1))),
        }
        Ok(Leave(self.epoch))
    }

    /// Takes note of what came of asking.
    pub fn tell(&mut self, leave: Leave, seen: Seen, now: Duration) {
        if leave.0 != self.epoch {
            return;
        }
        match (self.state, seen) {
            (State::HalfOpen, Seen::Began | Seen::Answered) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen, Seen::Failed) => self.enter(State::Open { until: now + self.tolerance.pause }),
            // The next one may look at once.
            (State::HalfOpen, Seen::Left) => self.enter(State::Open { until: now }),
            (State::Closed { .. }, Seen::Answered) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Seen::Failed) if failures + 1 >= self.tolerance.failures => {
                self.enter(State::Open { until: now + self.tolerance.pause });
            }
            (State::Closed { failures }, Seen::Failed) => self.state = State::Closed { failures: failures + 1 },
            (State::Closed { .. }, Seen::Began | Seen::Left) | (State::Open { .. }, _) => {}
        }
    }

    /// How it is.
    pub const fn mood(&self) -> Mood {
        match self.state {
            State::Closed { .. } => Mood::Closed,
            State::Open { .. } => Mood::Open,
            State::HalfOpen => Mood::HalfOpen,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(Tolerance { failures, pause: PAUSE })
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_when_one_look_succeeds() {
        let mut breaker = breaker(2);
        let fail = |breaker: &mut Breaker, now| breaker.ask(now).map(|leave| breaker.tell(leave, Seen::Failed, now));
        fail(&mut breaker, at(0)).unwrap();
        let leave = breaker.ask(at(0)).unwrap();
        breaker.tell(leave, Seen::Answered, at(0));
        fail(&mut breaker, at(1)).unwrap();
        assert_eq!(breaker.mood(), Mood::Closed, "not two in a row");
        fail(&mut breaker, at(2)).unwrap();
        assert_eq!((breaker.mood(), breaker.ask(at(5))), (Mood::Open, Err(at(7))));
        let look = breaker.ask(at(12)).unwrap();
        assert_eq!(breaker.ask(at(12)), Err(at(1)), "one looks for all");
        breaker.tell(look, Seen::Failed, at(13));
        assert_eq!(breaker.ask(at(14)), Err(at(9)));
        let look = breaker.ask(at(23)).unwrap();
        breaker.tell(look, Seen::Began, at(24));
        assert_eq!(breaker.mood(), Mood::Closed);
    }

    #[test]
    fn whoever_leaves_while_looking_lets_the_next_one_look_at_once() {
        let mut breaker = breaker(1);
        let leave = breaker.ask(at(0)).unwrap();
        breaker.tell(leave, Seen::Failed, at(0));
        let look = breaker.ask(at(10)).unwrap();
        breaker.tell(look, Seen::Left, at(11));
        assert!(breaker.ask(at(11)).is_ok());
        breaker.tell(look, Seen::Failed, at(11));
        assert_eq!(breaker.mood(), Mood::HalfOpen, "what an earlier look says does not count");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Tell { which: usize, seen: Seen },
        Wait { seconds: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let seen = prop_oneof![
            2 => Just(Seen::Began), 3 => Just(Seen::Answered), 6 => Just(Seen::Failed), 1 => Just(Seen::Left)
        ];
        let step = prop_oneof![
            6 => Just(Step::Ask),
            6 => (0usize..32, seen).prop_map(|(which, seen)| Step::Tell { which, seen }),
            1 => (0u64..15).prop_map(|seconds| Step::Wait { seconds }),
        ];
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        /// Whatever happens: it opens only with enough failures since the last success, nobody asks while it is open, one at a time
        /// looks, and after a pause somebody may.
        #[test]
        fn it_protects_and_always_comes_back(failures in 1u32..6, steps in steps()) {
            let mut breaker = breaker(failures);
            let (mut now, mut out) = (Duration::ZERO, Vec::new());
            let (mut failed, mut opened) = (0u32, Duration::ZERO);
            for step in steps {
                let before = breaker.mood();
                match step {
                    Step::Ask => match breaker.ask(now) {
                        Ok(leave) => {
                            prop_assert_ne!(before, Mood::HalfOpen, "two look at a time");
                            prop_assert!(before == Mood::Closed || now >= opened);
                            out.push(leave);
                        }
                        Err(wait) => {
                            prop_assert_ne!(before, Mood::Closed);
                            prop_assert!(wait > Duration::ZERO && wait <= PAUSE);
                        }
                    },
                    Step::Tell { which, seen } => if !out.is_empty() {
                        let leave = out.swap_remove(which % out.len());
                        let current = leave.0 == breaker.epoch;
                        breaker.tell(leave, seen, now);
                        if current && before == Mood::Closed {
                            failed = match seen { Seen::Failed => failed + 1, Seen::Answered => 0, _ => failed };
                        }
                        if breaker.mood() == Mood::Open && before != Mood::Open {
                            prop_assert!(before == Mood::HalfOpen || failed == failures);
                            opened = if seen == Seen::Left { now } else { now + PAUSE };
                        }
                        if breaker.mood() == Mood::Closed && before != Mood::Closed {
                            failed = 0;
                        }
                    },
                    Step::Wait { seconds } => now += at(seconds),
                }
            }
            // Whoever holds a permission lets go of it at some time: then, after a pause, somebody may ask.
            for leave in out {
                breaker.tell(leave, Seen::Left, now);
            }
            prop_assert!(breaker.ask(now + PAUSE).is_ok());
        }
    }
}
