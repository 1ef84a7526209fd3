//! Chooses the next token from a row of logits, and reports log-probabilities. Pure: a choice depends on the row, the request's
//! settings, the tokens so far and their number, never on what else runs.
//!
//! Order: repetition penalty, presence and frequency penalties, bias, temperature, `top_k`, `top_p` (over what `top_k` left),
//! `min_p`. Equal logits rank by token id, lowest first. The vocabulary is never sorted: the few best are selected.

mod select;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use toktrie::SimpleVob;

use super::request::{Sampling, TokenLogprob};
use select::{best, select_best, shortest_front};

/// No token can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// A logit is not a number.
    #[error("the model gave a logit that is not a number")]
    NotANumber,
    /// The best logit is infinite, or all are minus infinity.
    #[error("the model gave no finite best logit")]
    NotFinite,
    /// A hidden state has a value that is not a finite number.
    #[error("the model gave a hidden state that is not finite")]
    NoState,
    /// The grammar allows no token of this vocabulary.
    #[error("the grammar allows no token here")]
    NothingAllowed,
    /// The model gave no logits where they were asked for.
    #[error("the model gave no logits for position {position}")]
    NoRow {
        /// The position.
        position: usize,
    },
}

/// Buffers used again from token to token and shared by all sequences.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A row with penalties and bias applied, `vocab` values.
    row: Vec<f32>,
    /// The best of a row.
    best: Vec<(f32, u32)>,
}

/// The sampling state of one sequence. It survives preemption: a token computed again is not drawn again.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// Stream named by the seed; the draw of token `i` is word pair `i` of the stream.
    random: ChaCha8Rng,
    /// Tokens generated.
    drawn: u64,
    /// How often each token of prompt and answer was generated; kept only when a penalty needs it.
    seen: HashMap<u32, u32>,
}

impl Sampler {
    /// The state before the first token.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut sampler = Self { sampling, random, drawn: 0, seen: HashMap::new() };
        if sampler.sampling.repetition_penalty != 1.0 {
            sampler.seen.extend(prompt.iter().map(|&token| (token, 0)));
        }
        sampler
    }

    /// Notes that `token` was generated.
    pub fn accept(&mut self, token: u32) {
        self.drawn += 1;
        if self.has_penalties() {
            *self.seen.entry(token).or_default() += 1;
        }
    }

    /// Chooses the next token. The same until [`Sampler::accept`] is called.
    pub fn sample(&mut self, row: &[f32], scratch: &mut Scratch) -> Result<u32, SampleError> {
        if !self.has_penalties() && self.sampling.logit_bias.is_empty() {
            return self.choose(row, &mut scratch.best);
        }
        // Checked before penalties, which must not hide what the model did.
        best(row)?;
        scratch.row.clear();
        scratch.row.extend_from_slice(row);
        self.adjust(&mut scratch.row);
        self.choose(&scratch.row, &mut scratch.best)
    }

    /// [`Sampler::sample`] among the allowed tokens; with the natural logarithm of the token's probability among them (temperature 1,
    /// before penalties and truncation).
    pub fn sample_within(&mut self, row: &[f32], allowed: &SimpleVob, scratch: &mut Scratch) -> Result<(u32, f32), SampleError> {
        best(row)?;
        scratch.row.clear();
        scratch.row.resize(row.len(), f32::NEG_INFINITY);
        allowed.iter_set_entries(|id| {
            if let (Some(kept), Some(logit)) = (scratch.row.get_mut(id), row.get(id)) {
                *kept = *logit;
            }
        });
        let (max, _) = best(&scratch.row).map_err(|_| SampleError::NothingAllowed)?;
        let mut sum = 0.0;
        allowed.iter_set_entries(|id| sum += row.get(id).map_or(0.0, |logit| f64::from((logit - max).exp())));
        self.adjust(&mut scratch.row);
        let id = self.choose(&scratch.row, &mut scratch.best)?;
        let own = row.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Ok((id, (f64::from(own - max) - sum.ln()) as f32))
    }

    fn has_penalties(&self) -> bool {
        let Sampling { presence_penalty, frequency_penalty, repetition_penalty, .. } = self.sampling;
        presence_penalty != 0.0 || frequency_penalty != 0.0 || repetition_penalty != 1.0
    }

    fn adjust(&self, row: &mut [f32]) {
        let Sampling { presence_penalty, frequency_penalty, repetition_penalty, .. } = self.sampling;
        for (&token, &count) in &self.seen {
            let Some(logit) = row.get_mut(token as usize) else { continue };
            // Keskar et al. 2019, "CTRL", with the sign fix that everyone uses.
            *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            if count > 0 {
                *logit -= presence_penalty + count as f32 * frequency_penalty;
            }
        }
        for &(token, bias) in &*self.sampling.logit_bias {
            if let Some(logit) = row.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    fn choose(&mut self, row: &[f32], buffer: &mut Vec<(f32, u32)>) -> Result<u32, SampleError> {
        let (top, top_id) = best(row)?;
        if self.sampling.temperature == 0.0 {
            return Ok(top_id);
        }
        let uniform = self.uniform();
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        // Probability relative to the best token's, 0 to 1.
        let weight = |logit: f32| f64::from(((logit - top) / temperature).exp());
        let floor = f64::from(min_p);
        if top_k == 0 && top_p >= 1.0 {
            let kept = row.iter().zip(0..).map(|(&logit, id)| (weight(logit), id)).filter(|(weight, _)| *weight >= floor);
            return Ok(draw(kept, uniform, top_id));
        }
        let count = if top_k == 0 { FIRST_LOOK } else { top_k };
        select_best(row, count.min(row.len()), buffer);
        if top_p < 1.0 {
            let candidates: f64 = if top_k == 0 {
                row.iter().map(|&logit| weight(logit)).sum()
            } else {
                buffer.iter().map(|&(logit, _)| weight(logit)).sum()
            };
            let share = f64::from(top_p) * candidates;
            // The nucleus is small as a rule; only when it is not, all tokens are looked at.
            let few: f64 = buffer.iter().map(|&(logit, _)| weight(logit)).sum();
            if top_k == 0 && few < share && buffer.len() < row.len() {
                buffer.clear();
                buffer.extend(row.iter().copied().zip(0..));
            }
            let len = shortest_front(buffer, weight, |sum| sum >= share);
            buffer.truncate(len);
        }
        buffer.retain(|&(logit, _)| weight(logit) > 0.0 && weight(logit) >= floor);
        let target = uniform * buffer.iter().map(|&(logit, _)| weight(logit)).sum::<f64>();
        let len = shortest_front(buffer, weight, |sum| sum > target);
        Ok(buffer.get(len.saturating_sub(1)).map_or(top_id, |&(_, id)| id))
    }

    /// 53 random bits as a number from 0 (included) to 1 (excluded).
    fn uniform(&mut self) -> f64 {
        self.random.set_word_pos(u128::from(self.drawn) * 2);
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Candidates looked at first when only `top_p` cuts.
const FIRST_LOOK: usize = 64;

/// The candidate at `uniform` of the summed weights.
fn draw(candidates: impl Iterator<Item = (f64, u32)> + Clone, uniform: f64, fallback: u32) -> u32 {
    let total: f64 = candidates.clone().map(|(weight, _)| weight).sum();
    let (target, mut sum, mut last) = (uniform * total, 0.0, fallback);
    for (weight, id) in candidates.filter(|(weight, _)| *weight > 0.0) {
        sum += weight;
        last = id;
        if sum > target {
            break;
        }
    }
    last
}

/// Log-probability of `token` under the unmodified row, and the `top` most likely tokens.
pub fn logprob(row: &[f32], token: u32, top: usize, scratch: &mut Scratch) -> Result<TokenLogprob, SampleError> {
    let (max, _) = best(row)?;
    let sum: f64 = row.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    let log_total = f64::from(max) + sum.ln();
    let of = |logit: f32| (f64::from(logit) - log_total) as f32;
    select_best(row, top.min(row.len()), &mut scratch.best);
    let own = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    Ok(TokenLogprob { logprob: of(own), top: scratch.best.iter().map(|&(logit, id)| (id, of(logit))).collect() })
}
