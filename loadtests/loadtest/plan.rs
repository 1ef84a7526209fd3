//! What is sent when, decided beforehand from a seed: arrival times, and whose request it is. Pure; knows no sockets.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// At intended times, whatever happened to earlier ones: what a crowd of clients does.
    Open {
        /// Requests a second.
        rate: f64,
        /// Times between them.
        arrivals: Arrivals,
        /// More requests, many at once.
        burst: Option<Burst>,
    },
    /// So many connections, each sends when its answer is there: the most that a server can do.
    Closed {
        /// Connections.
        connections: usize,
    },
}

/// Times between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Random and independent (a Poisson process).
    Poisson,
    /// All the same.
    Even,
}

/// Requests that come at the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// How many.
    pub size: usize,
    /// From each burst to the next.
    pub every: Duration,
}

/// Intended times since the beginning, in order, up to an end.
pub struct Times {
    rate: f64,
    arrivals: Arrivals,
    burst: Option<Burst>,
    random: ChaCha8Rng,
    end: f64,
    next_single: f64,
    /// Time of the next burst, and how many of it are left to give.
    next_burst: (f64, usize),
}

impl Times {
    /// Times for `rate`, until `end`.
    pub fn new(rate: f64, arrivals: Arrivals, burst: Option<Burst>, end: Duration, seed: u64) -> Self {
        let next_burst = burst.map_or((f64::INFINITY, 0), |burst| (burst.every.as_secs_f64(), burst.size));
        let mut times = Self {
            rate,
            arrivals,
            burst,
            random: ChaCha8Rng::seed_from_u64(seed),
            end: end.as_secs_f64(),
            next_single: 0.0,
            next_burst,
        };
        times.next_single = times.gap();
        times
    }

    fn gap(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Even => 1.0 / self.rate,
            // Inverse of the exponential distribution; 1 - u is never 0.
            Arrivals::Poisson => -(1.0 - self.random.random::<f64>()).ln() / self.rate,
        }
    }
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (burst_at, left) = self.next_burst;
        let at = if left > 0 && burst_at <= self.next_single {
            let every = self.burst.map_or(f64::INFINITY, |burst| burst.every.as_secs_f64());
            let size = self.burst.map_or(0, |burst| burst.size);
            self.next_burst = if left > 1 { (burst_at, left - 1) } else { (burst_at + every, size) };
            burst_at
        } else {
            let at = self.next_single;
            self.next_single += self.gap();
            at
        };
        (at < self.end).then(|| Duration::from_secs_f64(at))
    }
}

/// How an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream,
    /// Server-sent events, read a few bytes at a time.
    Slow,
}

impl Kind {
    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Stream => "stream",
            Self::Slow => "slow",
        }
    }
}

/// How often each kind is.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// Of streams among requests that are read at once.
    pub stream: f64,
    /// Of streams that are read slowly, among all.
    pub slow: f64,
}

impl Shares {
    /// Draws a kind.
    pub fn draw(self, random: &mut impl Rng) -> Kind {
        if self.slow > 0.0 && random.random::<f64>() < self.slow {
            return Kind::Slow;
        }
        match self.stream {
            share if share >= 1.0 => Kind::Stream,
            share if share > 0.0 && random.random::<f64>() < share => Kind::Stream,
            _ => Kind::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_and_random_arrivals_have_the_rate() {
        let end = Duration::from_secs(10);
        let even: Vec<Duration> = Times::new(100.0, Arrivals::Even, None, end, 1).collect();
        assert!((even.len() as i64 - 999).abs() <= 1, "{}", even.len());
        let random: Vec<Duration> = Times::new(1000.0, Arrivals::Poisson, None, end, 1).collect();
        // Three standard deviations of a Poisson count of 10,000.
        assert!((9700..10_300).contains(&random.len()), "{}", random.len());
        assert!(random.is_sorted() && random.iter().all(|at| *at < end));
        let again: Vec<Duration> = Times::new(1000.0, Arrivals::Poisson, None, end, 1).collect();
        assert_eq!(random, again);
    }

    #[test]
    fn bursts_come_whole_and_in_their_place() {
        let burst = Burst { size: 5, every: Duration::from_millis(400) };
        let times: Vec<Duration> = Times::new(10.0, Arrivals::Even, Some(burst), Duration::from_secs(1), 1).collect();
        assert!(times.is_sorted());
        assert_eq!(times.iter().filter(|at| **at == Duration::from_millis(400)).count(), 5 + 1);
        assert!(times.iter().filter(|at| at.as_millis() == 800).count() >= 5);
    }
}
