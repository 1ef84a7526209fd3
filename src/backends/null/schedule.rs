//! When tokens of the null backend are due. Pure: times are passed in; knows neither threads nor what is released.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// When the tokens of an answer come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From the submission to the first token.
    pub delay: Duration,
    /// From each token to the next; zero has all tokens come at once.
    pub gap: Duration,
}

impl Pace {
    /// When token `index` of an answer that was submitted at `start` is due.
    fn due(&self, start: Instant, index: usize) -> Instant {
        let gaps = self.gap.saturating_mul(u32::try_from(index).unwrap_or(u32::MAX));
        // A time beyond the clock is as good as now: settings are bounded so that it does not come to that.
        start.checked_add(self.delay.saturating_add(gaps)).unwrap_or(start)
    }

    /// Tokens of `length` that are due `now`, once the first is.
    fn count(&self, start: Instant, now: Instant, length: usize) -> usize {
        let since_first = now.saturating_duration_since(start).saturating_sub(self.delay);
        match since_first.as_nanos().checked_div(self.gap.as_nanos()) {
            None => length,
            Some(gaps) => usize::try_from(gaps).unwrap_or(usize::MAX).saturating_add(1).min(length),
        }
    }
}

/// Answers that still have tokens to come, in the order in which the next ones are due.
#[derive(Debug)]
pub struct Schedule<J> {
    pace: Pace,
    waiting: BinaryHeap<Reverse<Entry<J>>>,
    /// Breaks ties: who came first is first.
    number: u64,
}

#[derive(Debug)]
struct Entry<J> {
    due: Instant,
    number: u64,
    start: Instant,
    length: usize,
    job: J,
}

impl<J> PartialEq for Entry<J> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl<J> Eq for Entry<J> {}

impl<J> PartialOrd for Entry<J> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<J> Ord for Entry<J> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// What became due.
#[derive(Debug, PartialEq, Eq)]
pub struct Release<J> {
    /// Whose tokens.
    pub job: J,
    /// How many of its tokens are due by now, from the first one on.
    pub tokens: usize,
}

impl<J: Clone> Schedule<J> {
    /// An empty schedule.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, waiting: BinaryHeap::new(), number: 0 }
    }

    /// An answer of `length` tokens was submitted at `start`. True where it is due before all others.
    pub fn add(&mut self, job: J, length: usize, start: Instant) -> bool {
        let due = self.pace.due(start, 0);
        let first = self.next().is_none_or(|next| due < next);
        self.waiting.push(Reverse(Entry { due, number: self.number, start, length, job }));
        self.number += 1;
        first
    }

    /// When the next token is due.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(entry)| entry.due)
    }

    /// Takes what is due, the longest due first. An answer whose last token is due leaves the schedule.
    pub fn take_due(&mut self, now: Instant, releases: &mut Vec<Release<J>>) {
        while self.next().is_some_and(|due| due <= now) {
            let Some(Reverse(entry)) = self.waiting.pop() else { break };
            let tokens = self.pace.count(entry.start, now, entry.length);
            releases.push(Release { job: entry.job.clone(), tokens });
            if tokens < entry.length {
                let due = self.pace.due(entry.start, tokens);
                self.waiting.push(Reverse(Entry { due, ..entry }));
            }
        }
    }

    /// Takes everything, due or not.
    pub fn take_all(&mut self) -> Vec<J> {
        self.waiting.drain().map(|Reverse(entry)| entry.job).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn due(schedule: &mut Schedule<u32>, now: Instant) -> Vec<(u32, usize)> {
        let mut releases = Vec::new();
        schedule.take_due(now, &mut releases);
        releases.into_iter().map(|release| (release.job, release.tokens)).collect()
    }

    #[test]
    fn without_a_gap_all_tokens_come_after_the_delay() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace { delay: 5 * MS, gap: Duration::ZERO });
        assert!(schedule.add(1, 16, start));
        assert!(!schedule.add(2, 3, start + MS), "it is due later");
        assert_eq!(due(&mut schedule, start + 5 * MS - Duration::from_nanos(1)), []);
        assert_eq!(due(&mut schedule, start + 5 * MS), [(1, 16)]);
        assert_eq!(schedule.next(), Some(start + 6 * MS));
        assert_eq!(due(&mut schedule, start + 7 * MS), [(2, 3)]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn an_answer_of_no_tokens_is_due_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace { delay: MS, gap: MS });
        schedule.add(1, 0, start);
        assert_eq!(due(&mut schedule, start + MS), [(1, 0)]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_late_look_finds_all_tokens_that_came_meanwhile() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace { delay: 5 * MS, gap: 2 * MS });
        schedule.add(1, 4, start);
        assert_eq!(due(&mut schedule, start + 5 * MS), [(1, 1)]);
        assert_eq!(schedule.next(), Some(start + 7 * MS));
        assert_eq!(due(&mut schedule, start + 10 * MS), [(1, 3)]);
        assert_eq!(due(&mut schedule, start + 60 * MS), [(1, 4)]);
        assert_eq!(schedule.next(), None);
    }

    proptest! {
        #[test]
        fn every_token_comes_once_and_never_early(
            answers in prop::collection::vec((0u64..40, 0usize..6), 1..20),
            looks in prop::collection::vec(0u64..9, 0..40),
            delay in 0u64..9, gap in 0u64..4,
        ) {
            let start = Instant::now();
            let at = |ms: u64| start + Duration::from_millis(ms);
            let mut schedule = Schedule::new(Pace { delay: Duration::from_millis(delay), gap: Duration::from_millis(gap) });
            for (index, (when, length)) in answers.iter().enumerate() {
                schedule.add(u32::try_from(index).unwrap(), *length, at(*when));
            }
            let mut given = vec![None; answers.len()];
            let mut now = 0;
            for step in looks.into_iter().chain([1000]) {
                now += step;
                for (job, tokens) in due(&mut schedule, at(now)) {
                    let (when, length) = answers[job as usize];
                    // The definition, token by token.
                    let right = (0..length as u64).filter(|token| when + delay + token * gap <= now).count();
                    prop_assert!(when + delay <= now);
                    prop_assert_eq!(tokens, right);
                    prop_assert!(given[job as usize].is_none_or(|before| before < tokens));
                    given[job as usize] = Some(tokens);
                }
            }
            for (given, (_, length)) in given.iter().zip(&answers) {
                prop_assert_eq!(*given, Some(*length));
            }
            prop_assert_eq!(schedule.next(), None);
        }
    }
}
