//! Pieces of a resident weight in the layout that the block products read, decoded when they are needed and then forgotten:
//! the quantized weights stay what they are, and there is no second copy of the base.
//!
//! A panel is [`COLS`] columns wide. Going forward its columns are rows of the weight (its outputs); going backward they are
//! the weight's inputs, and the depth runs over its outputs.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::kernels::{COLS, GROUP, SCALED};
use crate::model::ops::cpu::Isa;
use crate::model::ops::cpu::packed::{BLOCK, Format, Packed, TILE, unpack_block, unpack_scales};

/// Values of the depth that a panel piece holds in f32: 32 KB, the first-level cache.
pub const F32_DEPTH: usize = 256;
/// Values of the depth that a panel piece holds in 8 bits.
pub const I8_DEPTH: usize = 1024;

/// Which way the weight is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `y = x Wᵀ`: columns are outputs.
    Forward,
    /// `dx = dy W`: columns are inputs.
    Backward,
}

impl Way {
    /// Columns of the product with this weight.
    pub const fn cols(self, weight: &Packed) -> usize {
        match self {
            Self::Forward => weight.n,
            Self::Backward => weight.k,
        }
    }

    /// Depth of the product with this weight.
    pub const fn depth(self, weight: &Packed) -> usize {
        match self {
            Self::Forward => weight.k,
            Self::Backward => weight.n,
        }
    }
}

/// Room of one thread for a panel piece.
#[derive(Debug)]
pub struct Panel {
    /// `[depth][COLS]`.
    pub values: Vec<f32>,
    /// `[depth / 4][COLS][4]`, 128 above the value.
    pub bytes: Vec<u8>,
    /// `[run][COLS]`.
    pub scales: Vec<f32>,
    /// A run in f32: forward `[SCALED][COLS]`, backward `[tile][COLS][TILE]`.
    run: Vec<f32>,
}

impl Default for Panel {
    fn default() -> Self {
        Self {
            values: vec![0.0; F32_DEPTH * COLS],
            bytes: vec![0; I8_DEPTH * COLS],
            scales: vec![0.0; I8_DEPTH / SCALED * COLS],
            run: vec![0.0; SCALED * COLS],
        }
    }
}

impl Panel {
    /// Fills `values` with columns `panel * COLS ..` and depth `depth`, which begins at a multiple of [`F32_DEPTH`].
    pub fn fill_f32(&mut self, isa: Isa, weight: &Packed, way: Way, panel: usize, depth: std::ops::Range<usize>) {
        let mut block = [0f32; BLOCK * TILE];
        match way {
            Way::Forward => {
                forward(isa, weight, panel, depth.clone(), &mut self.values);
            }
            Way::Backward => {
                for at in depth.clone().step_by(TILE) {
                    decode(isa, weight, at / TILE, panel, &mut block);
                    let rows = TILE.min(depth.end - at);
                    let to = (at - depth.start) * COLS;
                    for (row, out) in self.values[to..to + rows * COLS].chunks_exact_mut(COLS).enumerate() {
                        out.iter_mut().enumerate().for_each(|(i, out)| *out = block[i * TILE + row]);
                    }
                }
            }
        }
    }

    /// Fills `bytes` and `scales` with columns `panel * COLS ..` and depth `depth`, which begins at a multiple of [`I8_DEPTH`].
    /// Returns the number of runs; what is past the depth's end in the last one is zero.
    pub fn fill_i8(&mut self, isa: Isa, weight: &Packed, way: Way, panel: usize, depth: std::ops::Range<usize>) -> usize {
        let runs = depth.len().div_ceil(SCALED);
        for run in 0..runs {
            let start = depth.start + run * SCALED;
            let end = (start + SCALED).min(depth.end);
            let bytes = &mut self.bytes[run * SCALED * COLS..(run + 1) * SCALED * COLS];
            let scales = &mut self.scales[run * COLS..(run + 1) * COLS];
            if (end - start) < SCALED {
                self.run.fill(0.0);
            }
            match way {
                Way::Forward => {
                    forward(isa, weight, panel, start..end, &mut self.run);
                    code(isa, Way::Forward, &self.run, bytes, scales);
                }
                Way::Backward => {
                    for (tile, out) in (start..end).step_by(TILE).zip(self.run.chunks_exact_mut(BLOCK * TILE)) {
                        decode(isa, weight, tile / TILE, panel, out);
                    }
                    code(isa, Way::Backward, &self.run, bytes, scales);
                }
            }
        }
        runs
    }
}

/// Two tiles side by side: `out[depth][COLS]` of the depth named, which begins at a multiple of [`BLOCK`].
fn forward(isa: Isa, weight: &Packed, panel: usize, depth: std::ops::Range<usize>, out: &mut [f32]) {
    let mut block = [0f32; BLOCK * TILE];
    for side in 0..2 {
        let tile = 2 * panel + side;
        for at in depth.clone().step_by(BLOCK) {
            let rows = BLOCK.min(depth.end - at);
            let to = (at - depth.start) * COLS + side * TILE;
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx512 && weight.format.is_quantized() && tile < weight.tiles() {
                let out = &mut out[to..to + (BLOCK - 1) * COLS + TILE];
                // SAFETY: the instruction set was detected; quantized depths are whole blocks.
                unsafe { avx512::decode(weight, tile, at / BLOCK, out.as_mut_ptr(), COLS) };
                continue;
            }
            if tile < weight.tiles() {
                decode(isa, weight, tile, at / BLOCK, &mut block);
            } else {
                block.fill(0.0);
            }
            for (row, values) in block.chunks_exact(TILE).take(rows).enumerate() {
                out[to + row * COLS..to + row * COLS + TILE].copy_from_slice(values);
            }
        }
    }
}

/// Block `block` of a tile as f32, `[input][row]`; inputs past the matrix's end are zero.
fn decode(isa: Isa, weight: &Packed, tile: usize, block: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
    unsafe fn wide(weight: &Packed, tile: usize, block: usize, out: &mut [f32]) {
        decode_plain(weight, tile, block, out);
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected; `out` is a block.
        Isa::Avx512 if weight.format.is_quantized() => unsafe {
            avx512::decode(weight, tile, block, out[..BLOCK * TILE].as_mut_ptr(), TILE);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { wide(weight, tile, block, out) },
        Isa::Portable => decode_plain(weight, tile, block, out),
    }
}

#[inline(always)]
fn decode_plain(weight: &Packed, tile: usize, block: usize, out: &mut [f32]) {
    let format = weight.format;
    let out = &mut out[..BLOCK * TILE];
    if !format.is_quantized() {
        let inputs = BLOCK.min(weight.k - block * BLOCK);
        out[inputs * TILE..].fill(0.0);
        let out = &mut out[..inputs * TILE];
        let (stored, from) = (weight.tile(tile), block * BLOCK * TILE);
        match format {
            Format::F16 => {
                let stored = &stored[2 * from..2 * (from + out.len())].as_chunks::<2>().0;
                out.iter_mut().zip(*stored).for_each(|(out, b)| *out = half::f16::from_le_bytes(*b).to_f32());
            }
            Format::BF16 => {
                let stored = &stored[2 * from..2 * (from + out.len())].as_chunks::<2>().0;
                out.iter_mut().zip(*stored).for_each(|(out, b)| *out = half::bf16::from_le_bytes(*b).to_f32());
            }
            _ => {
                let stored = &stored[4 * from..4 * (from + out.len())].as_chunks::<4>().0;
                out.iter_mut().zip(*stored).for_each(|(out, b)| *out = f32::from_le_bytes(*b));
            }
        }
        return;
    }
    let ((quants, scales), per) = (weight.block(tile, block), format.blocks_per_super());
    let mut unpacked = [0u8; 512];
    unpack(format, quants, &mut unpacked);
    let (mut low, mut high, mut min) = ([0f32; TILE], [0f32; TILE], [0f32; TILE]);
    for lane in 0..TILE {
        (low[lane], high[lane], min[lane]) = unpack_scales(format, scales, block % per, lane);
    }
    let offset = format.offset() as f32;
    for (group, (values, out)) in unpacked.chunks_exact(4 * TILE).zip(out.chunks_exact_mut(4 * TILE)).enumerate() {
        // Sixteen inputs share a scale in Q6_K, thirty-two in the others.
        let scale = if group < 4 { &low } else { &high };
        for (i, out) in out.chunks_exact_mut(TILE).enumerate() {
            for lane in 0..TILE {
                out[lane] = (f32::from(values[4 * lane + i]) - offset) * scale[lane] - min[lane];
            }
        }
    }
}

/// As [`unpack_block`], written so that the compiler finds its vectors.
#[inline(always)]
fn unpack(format: Format, quants: &[u8], out: &mut [u8; 512]) {
    match format {
        Format::Q8_0 => out.copy_from_slice(quants),
        Format::Q4_0 | Format::Q4K => {
            let (low, high) = out.split_at_mut(256);
            low.iter_mut().zip(quants).for_each(|(out, q)| *out = q & 0x0F);
            high.iter_mut().zip(quants).for_each(|(out, q)| *out = q >> 4);
        }
        _ => unpack_block(format, quants, out),
    }
}

/// Codes a run of f32 values in 8 bits, a scale per column.
fn code(isa: Isa, way: Way, run: &[f32], bytes: &mut [u8], scales: &mut [f32]) {
    match (isa, way) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected; the slices are a run's.
        (Isa::Avx512, Way::Forward) => unsafe { avx512::code_forward(run, bytes, scales) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512, Way::Backward) => unsafe { avx512::code_backward(run, bytes, scales) },
        (Isa::Portable, _) => code_plain(way, run, bytes, scales),
    }
}

/// Largest code; the scale of a column is its largest value by this.
const LARGEST: f32 = 127.0;
/// Adding this rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `value` in 8 bits, 128 above it.
#[inline(always)]
pub fn to_code(value: f32, inverse: f32) -> u8 {
    // Of |value * inverse| <= 127 the sum's low byte is the rounded value in two's complement.
    ((value * inverse + ROUND).to_bits() as u8) ^ 0x80
}

/// The scale of values of which the largest is `largest`, and its inverse.
#[inline(always)]
pub fn scale_of(largest: f32) -> (f32, f32) {
    // What is too small to be divided by is nothing.
    if largest > 1e-30 { (largest / LARGEST, LARGEST / largest) } else { (0.0, 0.0) }
}

#[inline(always)]
fn code_plain(way: Way, run: &[f32], bytes: &mut [u8], scales: &mut [f32]) {
    let mut inverse = [0f32; COLS];
    match way {
        Way::Forward => {
            let mut largest = [0f32; COLS];
            for row in run.chunks_exact(COLS) {
                largest.iter_mut().zip(row).for_each(|(largest, v)| *largest = largest.max(v.abs()));
            }
            for col in 0..COLS {
                (scales[col], inverse[col]) = scale_of(largest[col]);
            }
            for (rows, out) in run.chunks_exact(GROUP * COLS).zip(bytes.chunks_exact_mut(GROUP * COLS)) {
                let out = out.as_chunks_mut::<GROUP>().0;
                for col in 0..COLS {
                    let code = |i: usize| u32::from(to_code(rows[i * COLS + col], inverse[col])) << (8 * i);
                    out[col] = (code(0) | code(1) | code(2) | code(3)).to_le_bytes();
                }
            }
        }
        Way::Backward => {
            // [tile][column][row of 16]
            for col in 0..COLS {
                let mut largest = [0f32; TILE];
                for tile in run.chunks_exact(COLS * TILE) {
                    let values = &tile[col * TILE..(col + 1) * TILE];
                    largest.iter_mut().zip(values).for_each(|(largest, v)| *largest = largest.max(v.abs()));
                }
                (scales[col], inverse[col]) = scale_of(largest.iter().fold(0.0, |a: f32, b| a.max(*b)));
            }
            for (tile, out) in run.chunks_exact(COLS * TILE).zip(bytes.chunks_exact_mut(COLS * TILE)) {
                for col in 0..COLS {
                    let mut codes = [0u8; TILE];
                    let values = &tile[col * TILE..(col + 1) * TILE];
                    codes.iter_mut().zip(values).for_each(|(code, v)| *code = to_code(*v, inverse[col]));
                    for (group, four) in codes.as_chunks::<GROUP>().0.iter().enumerate() {
                        let to = (group * COLS + col) * GROUP;
                        out[to..to + GROUP].copy_from_slice(four);
                    }
                }
            }
        }
    }
}
