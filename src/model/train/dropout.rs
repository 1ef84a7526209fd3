//! Dropout of an adapter's inputs (Srivastava et al. 2014; on the low-rank path only, as PEFT does). Each mask is a function of a
//! key and the element's place: the backward pass and a resumed run draw the same one, and nothing is stored.

use crate::model::config::LinearSite;

/// The masks of one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of a zero, in `[0, 1)`.
    pub rate: f32,
    /// From seed, step and micro-batch.
    pub key: u64,
}

/// One step of SplitMix64 (Steele et al. 2014): 64 well-mixed bits from a counter.
pub const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Dropout {
    fn row_key(self, (layer, site): (usize, LinearSite), row: usize) -> u64 {
        mix(mix(self.key ^ (layer as u64 * 8 + site as u64)) ^ row as u64)
    }

    fn factor(self, key: u64, col: usize) -> f32 {
        let draw = (mix(key ^ col as u64) >> 40) as f32 / (1u64 << 24) as f32;
        if draw < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }

    /// `out = mask * x / (1 - rate)` for one row of a linear's input.
    pub fn apply(self, at: (usize, LinearSite), row: usize, x: &[f32], out: &mut [f32]) {
        let key = self.row_key(at, row);
        for (col, (x, out)) in x.iter().zip(out).enumerate() {
            *out = x * self.factor(key, col);
        }
    }

    /// Adds the gradient that comes back through the mask.
    pub fn add(self, at: (usize, LinearSite), row: usize, grad: &[f32], dx: &mut [f32]) {
        let key = self.row_key(at, row);
        for (col, (grad, dx)) in grad.iter().zip(dx).enumerate() {
            *dx += grad * self.factor(key, col);
        }
    }
}
