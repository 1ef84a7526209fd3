//! Where the time of steps goes, by kind of operation.

use std::time::{Duration, Instant};

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Part {
    Embed,
    Norms,
    QueryKeyValue,
    Attention,
    Output,
    GateUp,
    Activation,
    Down,
    Sums,
    Head,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Embed,
        Self::Norms,
        Self::QueryKeyValue,
        Self::Attention,
        Self::Output,
        Self::GateUp,
        Self::Activation,
        Self::Down,
        Self::Sums,
        Self::Head,
    ];

    /// Its name; matrices with their adapters' updates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embedding",
            Self::Norms => "norms",
            Self::QueryKeyValue => "q k v",
            Self::Attention => "attention",
            Self::Output => "o",
            Self::GateUp => "gate up",
            Self::Activation => "activation",
            Self::Down => "down",
            Self::Sums => "sums",
            Self::Head => "head",
        }
    }
}

/// Time by part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Profile([Duration; Part::ALL.len()]);

impl Profile {
    /// Time of a part.
    pub const fn time(&self, part: Part) -> Duration {
        self.0[part as usize]
    }

    /// Counts what has passed.
    pub fn add(&mut self, part: Part, since: Instant) {
        self.0[part as usize] += since.elapsed();
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, time)| *sum += time);
    }

    /// All parts together.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}
