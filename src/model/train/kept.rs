//! What a layer's forward pass leaves for its backward pass. In 8-bit training the large ones are kept in bf16.

use half::bf16;

use super::elementwise::{narrow, widen};
use super::product::{Compute, Workers};
use crate::model::ops::cpu::pool::Parts;

/// Values that one piece narrows or widens.
const PIECE: usize = 1 << 16;

/// A matrix kept for later.
#[derive(Debug, Default)]
pub struct Kept {
    wide: Vec<f32>,
    narrow: Vec<bf16>,
}

impl Kept {
    /// Keeps `values`; in f32 the two change places, so that nothing is copied.
    pub fn put(&mut self, workers: &mut Workers, values: &mut Vec<f32>) {
        if workers.compute() == Compute::F32 {
            std::mem::swap(&mut self.wide, values);
            return;
        }
        self.narrow.resize(values.len(), bf16::ZERO);
        let (isa, out) = (workers.isa(), Parts::new(&mut self.narrow));
        workers.run(values.len().div_ceil(PIECE), |piece| {
            let range = piece * PIECE..values.len().min((piece + 1) * PIECE);
            // SAFETY: pieces differ in elements.
            narrow(isa, &values[range.clone()], unsafe { out.slice(range) });
        });
    }

    /// Gives back what was kept; `out` then holds it, and this does no more in f32.
    pub fn take(&mut self, workers: &mut Workers, out: &mut Vec<f32>) {
        if workers.compute() == Compute::F32 {
            std::mem::swap(&mut self.wide, out);
            return;
        }
        let values = &self.narrow;
        out.resize(values.len(), 0.0);
        let (isa, out) = (workers.isa(), Parts::new(out));
        workers.run(values.len().div_ceil(PIECE), |piece| {
            let range = piece * PIECE..values.len().min((piece + 1) * PIECE);
            // SAFETY: pieces differ in elements.
            widen(isa, &values[range.clone()], unsafe { out.slice(range) });
        });
    }
}

/// All that a layer keeps. `rows x width` each.
#[derive(Debug, Default)]
pub struct KeptLayer {
    /// The layer's input.
    pub x: Vec<f32>,
    pub q: Kept,
    pub k: Kept,
    pub v: Kept,
    pub attended: Kept,
    /// `rows x heads`.
    pub log_sums: Vec<f32>,
    /// Input of the second half.
    pub middle: Vec<f32>,
    pub gate: Kept,
    pub up: Kept,
    /// `scale * A x` of each site, `rows x padded rank`.
    pub low: [Vec<f32>; 7],
}
