//! Rows of a dataset as batches for the base, and the losses over them.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::model::train::Batch;
use crate::training::dataset::render::{Rendered, Sample};

/// Rows in order, in groups of at most `rows` rows and `tokens` tokens; a longer row is a group of its own.
pub fn groups(lengths: &[usize], tokens: usize, rows: usize) -> Vec<Vec<usize>> {
    let (mut groups, mut sum) = (Vec::<Vec<usize>>::new(), 0);
    for (row, length) in lengths.iter().enumerate() {
        sum += length;
        match groups.last_mut().filter(|group| group.len() < rows && sum <= tokens) {
            Some(group) => group.push(row),
            None => {
                groups.push(vec![row]);
                sum = *length;
            }
        }
    }
    groups
}

/// Tokens of the longest example.
pub fn longest(rows: &Rendered) -> usize {
    let samples: Box<dyn Iterator<Item = &Sample>> = match rows {
        Rendered::Supervised(samples) => Box::new(samples.iter()),
        Rendered::Preference(pairs) => Box::new(pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected])),
    };
    samples.map(|sample| sample.tokens.len()).max().unwrap_or(0)
}

/// Digest of all tokens and weights, in order.
pub fn digest(rows: &Rendered, hash: &mut Sha256) {
    let mut add = |sample: &Sample| {
        hash.update((sample.tokens.len() as u64).to_le_bytes());
        sample.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        sample.weights.iter().for_each(|weight| hash.update(weight.to_le_bytes()));
        for (at, among) in &sample.among {
            hash.update(at.to_le_bytes());
            among.iter().for_each(|token| hash.update(token.to_le_bytes()));
        }
    };
    match rows {
        Rendered::Supervised(samples) => samples.iter().for_each(add),
        Rendered::Preference(pairs) => pairs.iter().for_each(|pair| {
            add(&pair.chosen);
            add(&pair.rejected);
        }),
    }
}

/// A batch, and the weight of each of its targets.
#[derive(Debug, Default)]
pub struct Weighted {
    /// Tokens, spans, targets.
    pub batch: Batch,
    /// Of each target.
    pub weights: Vec<f32>,
    /// Targets of each span.
    pub ends: Vec<std::ops::Range<usize>>,
}

impl Weighted {
    fn add(&mut self, sample: &Sample) {
        let (start, first) = (self.batch.tokens.len(), self.weights.len());
        self.batch.tokens.extend_from_slice(&sample.tokens);
        self.batch.spans.push(start..self.batch.tokens.len());
        let mut among = sample.among.iter().peekable();
        for (at, (token, weight)) in sample.tokens.iter().zip(&sample.weights).enumerate().skip(1) {
            while among.next_if(|(index, _)| (*index as usize) < at).is_some() {}
            if *weight > 0.0 {
                if let Some((_, others)) = among.next_if(|(index, _)| *index as usize == at) {
                    self.batch.among.push((self.batch.targets.len(), Arc::clone(others)));
                }
                self.batch.targets.push((start + at - 1, *token));
                self.weights.push(*weight);
            }
        }
        self.ends.push(first..self.weights.len());
    }

    /// The rows of a micro-batch; of preference pairs each chosen answer is followed by its rejected one.
    pub fn of(rows: &Rendered, micro: &[usize]) -> Self {
        let mut out = Self::default();
        for row in micro {
            match rows {
                Rendered::Supervised(samples) => out.add(&samples[*row]),
                Rendered::Preference(pairs) => {
                    out.add(&pairs[*row].chosen);
                    out.add(&pairs[*row].rejected);
                }
            }
        }
        out
    }

    /// Tokens that go through the base.
    pub fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }
}

/// What divides a step's loss: the weights of its targets, or its pairs.
pub fn denominator(rows: &Rendered, micros: &[Vec<usize>]) -> f64 {
    let all = micros.iter().flatten();
    match rows {
        Rendered::Supervised(samples) => {
            let weights = all.flat_map(|row| samples[*row].weights.iter().skip(1)).filter(|weight| **weight > 0.0);
            weights.map(|weight| f64::from(*weight)).sum()
        }
        Rendered::Preference(_) => all.count() as f64,
    }
}

/// Direct preference optimisation of one pair (Rafailov et al. 2023, equation 7): `-log sigmoid(beta * margin)`, where the margin is
/// how much more the adapter prefers the chosen answer than the reference does. Returns the loss and its derivative by the margin.
pub fn dpo(beta: f64, margin: f64) -> (f64, f64) {
    let z = beta * margin;
    // log(1 + e^-z) without overflow
    let loss = (-z.abs()).exp().ln_1p() + (-z).max(0.0);
    (loss, -beta / (1.0 + z.exp()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn groups_keep_their_limits() {
        assert_eq!(groups(&[5, 5, 5, 30, 1, 1, 1, 1], 12, 3), [vec![0, 1], vec![2], vec![3], vec![4, 5, 6], vec![7]]);
        assert!(groups(&[], 12, 3).is_empty());
    }

    #[test]
    fn preference_loss_is_the_published_formula() {
        // torch in float64: -logsigmoid(beta * margin), as TRL computes it, and its derivative by the margin
        for (beta, margin, loss, slope) in [
            (0.1, 0.0, std::f64::consts::LN_2, -0.05),
            (0.1, 3.5, 0.533_382_155_418_777, -0.041_338_242_108_267_004),
            (0.5, -2.0, 1.313_261_687_518_222_8, -0.365_529_289_315_002_45),
            (2.0, -400.0, 800.0, -2.0),
            (2.0, 400.0, 0.0, 0.0),
        ] {
            let (got, derivative) = dpo(beta, margin);
            assert!((got - loss).abs() < 1e-9 && (derivative - slope).abs() < 1e-7, "{beta} {margin}: {got} {derivative}");
        }
    }

    #[test]
    fn targets_are_the_weighted_tokens_and_ask_the_row_before() {
        let sample =
            |tokens: &[u32], weights: &[f32]| Sample { tokens: tokens.to_vec(), weights: weights.to_vec(), among: Vec::new() };
        let rows = Rendered::Supervised(vec![sample(&[5, 6, 7], &[0.0, 0.0, 1.0]), sample(&[8, 9], &[0.0, 0.5])]);
        let weighted = Weighted::of(&rows, &[1, 0]);
        assert_eq!(weighted.batch.tokens, [8, 9, 5, 6, 7]);
        assert_eq!(weighted.batch.spans, [0..2, 2..5]);
        assert_eq!(weighted.batch.targets, [(0, 9), (3, 7)]);
        assert_eq!((weighted.weights.clone(), denominator(&rows, &[vec![1], vec![0]])), (vec![0.5, 1.0], 1.5));
    }
}
