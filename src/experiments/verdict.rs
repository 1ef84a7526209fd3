//! What the numbers of an experiment say so far: the words for it. Every verdict may be read at any time and as often as one likes.

use serde::Serialize;

use super::settings::Metric;

/// What the numbers say of one arm against the control.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Too few answers to say anything.
    Waiting {
        /// As many more answers of the arm are needed.
        needed: u64,
    },
    /// No goal was set, and all guards hold.
    Holding,
    /// All guards hold; the goal is open, and its planned sample is not used up.
    Undecided {
        /// As many more answers of the arm until the planned sample is used up.
        needed: u64,
    },
    /// All guards hold, and the goal is met.
    Better,
    /// All guards hold, and the goal's metric is not worse than the margin allows.
    NotWorse,
    /// The planned sample is used up without a verdict: a person decides, or a deadline.
    Inconclusive,
    /// The goal's metric is worse than the control's.
    Worse,
    /// A guard does not hold.
    Breached {
        /// Which.
        guard: Metric,
    },
    /// The arms do not get the shares of traffic that they should: no number of this experiment can be trusted.
    Uneven,
}

impl Standing {
    /// Whether the arm may get more traffic.
    pub const fn may_go_on(&self) -> bool {
        matches!(self, Self::Holding | Self::Better | Self::NotWorse)
    }

    /// Whether the arm must be taken back.
    pub const fn must_go_back(&self) -> bool {
        matches!(self, Self::Breached { .. } | Self::Worse)
    }
}

/// What the numbers say of one arm, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmVerdict {
    /// The arm.
    pub arm: String,
    /// What.
    #[serde(flatten)]
    pub standing: Standing,
    /// A plain sentence.
    pub why: String,
    /// Answers of the arm that were counted.
    pub answers: u64,
}
