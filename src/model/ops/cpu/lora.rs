//! Segment LoRA: each adapter's low-rank update over its own rows (Chen et al. 2023, "Punica"; Sheng et al. 2023, "S-LoRA").
//!
//! Rows of other adapters, and of the base, are not touched; ranks need no padding to each other. An adapter is one piece of memory in the
//! order in which a step reads it. A row's sums have one order whatever shares its step.

mod eight_bit;
mod exact;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::Isa;
use super::activation::Quantized;
use super::memory::Piece;
use super::packed::BLOCK;
use super::pool::Parts;
use crate::model::ModelError;
use crate::model::config::LinearSite;
use crate::model::lora::{LoraModule, LoraWeights};

/// Rows of one adapter that are updated together.
pub const ROWS: usize = 8;

/// Where one linear's update lies, and how it is kept.
#[derive(Clone, Copy)]
struct Module {
    rank: usize,
    k: usize,
    n: usize,
    scale: f32,
    coding: Coding,
    /// First byte of what is kept of `A`.
    a: usize,
    /// First byte of what is kept of `B`.
    b: usize,
    /// Bytes of what a step reads after this `B`: the next `A`s.
    next: (usize, usize),
}

/// How a module's weights are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coding {
    /// In f32, for inputs in f32.
    Exact,
    /// In 8 bits with a scale for each 32, for inputs in 8 bits; each half's scales are multiples of one number.
    EightBit { a: f32, b: f32 },
}

/// Which input of a layer a linear reads: those of one are computed together.
const fn input(site: LinearSite) -> u8 {
    match site {
        LinearSite::Q | LinearSite::K | LinearSite::V => 0,
        LinearSite::O => 1,
        LinearSite::Gate | LinearSite::Up => 2,
        LinearSite::Down => 3,
    }
}

/// An adapter's weights.
pub struct CpuLora {
    layers: Vec<[Option<Module>; 7]>,
    data: Piece,
}

/// One linear's update.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    module: &'a Module,
    data: &'a [u8],
}

/// A step's input of a linear, in the forms that updates read.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// In f32, `rows x k`.
    pub values: &'a [f32],
    /// In 8 bits; of this step only where an update wants it.
    pub quantized: &'a Quantized,
}

impl CpuLora {
    /// Packs checked weights for a model of `layers` layers; in 8 bits, unless products have to be `exact`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(weights: &LoraWeights, layers: usize, exact: bool) -> Result<Self, ModelError> {
        let mut places: Vec<[Option<Module>; 7]> = (0..layers).map(|_| Default::default()).collect();
        let mut len = 0usize;
        let mut take = |bytes: usize| {
            len += bytes.next_multiple_of(64);
            len - bytes.next_multiple_of(64)
        };
        let mut modules: Vec<&LoraModule> = weights.modules.iter().collect();
        modules.sort_by_key(|module| (module.layer, module.site as usize));
        // As a step reads them: of linears on one input first every `A`, then every `B`.
        let mut last: Option<(usize, LinearSite)> = None;
        for group in modules.chunk_by(|a, b| (a.layer, input(a.site)) == (b.layer, input(b.site))) {
            let mut packed: Vec<Module> = group
                .iter()
                .map(|module| {
                    let (rank, k, n) = (module.rank, module.a.len() / module.rank, module.b.len() / module.rank);
                    let (coding, bytes) = if exact || !k.is_multiple_of(BLOCK) {
                        (Coding::Exact, exact::a_bytes(rank, k))
                    } else {
                        let coding = Coding::EightBit { a: eight_bit::unit(&module.a), b: eight_bit::unit(&module.b) };
                        (coding, eight_bit::a_bytes(rank, k))
                    };
                    Module { rank, k, n, scale: module.scale, coding, a: take(bytes), b: 0, next: (0, 0) }
                })
                .collect();
            for module in &mut packed {
                module.b = take(match module.coding {
                    Coding::Exact => exact::b_bytes(module.rank, module.n),
                    Coding::EightBit { .. } => eight_bit::b_bytes(module.rank, module.n),
                });
            }
            if let Some((layer, site)) = last
                && let Some(before) = &mut places[layer][site as usize]
            {
                before.next = (packed[0].a, packed[0].b);
            }
            last = Some((group[0].layer, group[0].site));
            for (weights, module) in group.iter().zip(packed) {
                places[weights.layer][weights.site as usize] = Some(module);
            }
        }
        let no_memory = |error| ModelError::Device(format!("cannot allocate an adapter: {error}"));
        let mut data = Piece::alone(len).map_err(no_memory)?;
        for weights in &modules {
            let Some(module) = &places[weights.layer][weights.site as usize] else { continue };
            let (front, b) = data.split_at_mut(module.b);
            let a = &mut front[module.a..];
            match module.coding {
                Coding::Exact => exact::pack(module, weights, a, b),
                Coding::EightBit { .. } => eight_bit::pack(module, weights, a, b),
            }
        }
        Ok(Self { layers: places, data })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The update of a linear; `None` where it has none.
    pub fn update(&self, layer: usize, site: LinearSite) -> Option<Update<'_>> {
        let module = self.layers[layer][site as usize].as_ref()?;
        Some(Update { module, data: &self.data })
    }
}

impl<'a> Update<'a> {
    /// Words of scratch that a row needs from [`Self::down`] to [`Self::up`].
    pub const fn words(self) -> usize {
        match self.module.coding {
            Coding::Exact => self.module.rank,
            Coding::EightBit { .. } => eight_bit::words(self.module.rank),
        }
    }

    /// Whether it reads inputs in 8 bits.
    pub const fn reads_quantized(self) -> bool {
        matches!(self.module.coding, Coding::EightBit { .. })
    }

    fn a(self) -> &'a [u8] {
        &self.data[self.module.a..]
    }

    fn b(self) -> &'a [u8] {
        &self.data[self.module.b..]
    }

    /// What [`Self::up`] reads for these tiles.
    pub fn second_half(self, tiles: Range<usize>) -> &'a [u8] {
        match self.module.coding {
            // Nobody hurries there.
            Coding::Exact => &[],
            Coding::EightBit { .. } => eight_bit::second_half(self, tiles),
        }
    }

    /// What a step reads of the adapter when it has done with the linears of this one's input; empty unless this is the first of them.
    pub fn what_follows(self) -> &'a [u8] {
        let (start, end) = self.module.next;
        &self.data[start..end]
    }

    /// The low-rank half, `scale * A x`, of some rows of the input: [`Self::words`] of scratch each.
    pub fn down(self, isa: Isa, x: Input<'_>, rows: &[usize], t: &mut [u32]) {
        assert_eq!(t.len(), rows.len() * self.words(), "scratch of the wrong size: this is a bug");
        match self.module.coding {
            Coding::Exact => exact::down(self, isa, x.values, rows, t),
            Coding::EightBit { .. } => eight_bit::down(self, isa, x.quantized, rows, t),
        }
    }

    /// `out[rows[i]] += B t[i]` for the outputs of some tiles; `out` is a whole step's output of `n` values a row.
    ///
    /// # Safety
    /// No other thread touches these outputs of these rows.
    pub unsafe fn up(self, isa: Isa, t: &[u32], rows: &[usize], tiles: Range<usize>, out: &Parts<f32>) {
        assert_eq!(t.len(), rows.len() * self.words(), "scratch of the wrong size: this is a bug");
        // SAFETY: the caller's contract.
        unsafe {
            match self.module.coding {
                Coding::Exact => exact::up(self, isa, t, rows, tiles, out),
                Coding::EightBit { .. } => eight_bit::up(self, isa, t, rows, tiles, out),
            }
        }
    }
}
