//! Updates in 8 bits: beside a quantized base, whose inputs come in 8 bits as well.
//!
//! Blocks of 32 weights share a scale, of `A` along the inputs, of `B` along the ranks. A scale is an f16 times the module's unit, so
//! that small ones keep their precision; with one scale for each 16 lanes' block, a weight costs 8.5 bits (9 of `B` at rank 16).
//!
//! `A` is `[rank tile][k / 32]` blocks: groups of 64 bytes for `vpdpbusd`, sixteen lanes of four inputs, as many lanes in turn of one
//! rank as [`lanes`] says, so that small ranks are not padded to sixteen; then the f16 scales of the lanes. `B` is `[n / 16]` tiles: `[rank / 4]` groups of sixteen outputs of four ranks, then the scales
//! `[rank / 32][16]`. Values are stored plus 128.
//!
//! Between the halves a row is `[rank / 4]` words of ranks in 8 bits, then for each 32 of them their scale (f32, times `B`'s unit)
//! and -128 times their sum (i32).

use std::ops::Range;

use half::f16;

use super::{Coding, Isa, Module, Parts, Update};
use crate::model::lora::LoraModule;
use crate::model::ops::cpu::activation::{self, Block, Field, Quantized, Row};
use crate::model::ops::cpu::packed::{BLOCK, TILE};

/// Bytes of a group: one register.
const GROUP: usize = 64;
/// Bytes of sixteen lanes' scales.
const SCALES: usize = 2 * TILE;

/// Lanes that share a rank.
const fn lanes(rank: usize) -> usize {
    match rank {
        0..=4 => 4,
        5..=8 => 2,
        _ => 1,
    }
}

/// How `A`'s bytes are ordered.
#[derive(Clone, Copy)]
struct Down {
    lanes: usize,
    tiles: usize,
    blocks: usize,
}

impl Down {
    const fn new(rank: usize, k: usize) -> Self {
        Self { lanes: lanes(rank), tiles: rank.div_ceil(TILE), blocks: k / BLOCK }
    }

    /// Groups of a block.
    const fn groups(self) -> usize {
        BLOCK / 4 / self.lanes
    }

    const fn block_bytes(self) -> usize {
        self.groups() * GROUP + SCALES
    }

    const fn tile_bytes(self) -> usize {
        self.blocks * self.block_bytes()
    }

    /// Where a value is, and its scale.
    const fn place(self, r: usize, input: usize) -> (usize, usize) {
        let per_tile = TILE / self.lanes;
        let (tile, block, within) = (r / per_tile, input / BLOCK, input % BLOCK);
        let lane = r % per_tile * self.lanes + within % (4 * self.lanes) / 4;
        let group = within / (4 * self.lanes);
        let start = tile * self.tile_bytes() + block * self.block_bytes();
        (start + group * GROUP + 4 * lane + within % 4, start + self.groups() * GROUP + 2 * lane)
    }
}

/// How `B`'s bytes are ordered.
#[derive(Clone, Copy)]
struct Up {
    tiles: usize,
    /// Groups of a tile.
    groups: usize,
    /// Blocks of ranks of a tile.
    blocks: usize,
}

impl Up {
    const fn new(rank: usize, n: usize) -> Self {
        Self { tiles: n.div_ceil(TILE), groups: rank.div_ceil(4), blocks: rank.div_ceil(BLOCK) }
    }

    const fn tile_bytes(self) -> usize {
        self.groups * GROUP + self.blocks * SCALES
    }

    /// Where a value is, and its scale.
    const fn place(self, output: usize, r: usize) -> (usize, usize) {
        let (tile, lane) = (output / TILE * self.tile_bytes(), output % TILE);
        (tile + r / 4 * GROUP + 4 * lane + r % 4, tile + self.groups * GROUP + r / BLOCK * SCALES + 2 * lane)
    }
}

pub(super) const fn a_bytes(rank: usize, k: usize) -> usize {
    let down = Down::new(rank, k);
    down.tiles * down.tile_bytes()
}

pub(super) const fn b_bytes(rank: usize, n: usize) -> usize {
    let up = Up::new(rank, n);
    up.tiles * up.tile_bytes()
}

/// What is read for these tiles.
pub(super) fn second_half(update: Update<'_>, tiles: Range<usize>) -> &[u8] {
    let bytes = Up::new(update.module.rank, update.module.n).tile_bytes();
    &update.b()[tiles.start * bytes..tiles.end * bytes]
}

/// Words between the halves.
pub(super) const fn words(rank: usize) -> usize {
    rank.div_ceil(4) + 2 * rank.div_ceil(BLOCK)
}

/// What scales are multiples of: that of the largest weight.
pub(super) fn unit(weights: &[f32]) -> f32 {
    weights.iter().fold(0f32, |peak, w| peak.max(w.abs())) / 127.0
}

pub(super) fn pack(module: &Module, weights: &LoraModule, a: &mut [u8], b: &mut [u8]) {
    let Module { rank, k, n, coding: Coding::EightBit { a: a_unit, b: b_unit }, .. } = *module else { return };
    let (down, up) = (Down::new(rank, k), Up::new(rank, n));
    for (r, row) in weights.a.chunks_exact(k).enumerate() {
        for (index, block) in row.chunks_exact(BLOCK).enumerate() {
            pack_block(block, a_unit, a, |i| down.place(r, index * BLOCK + i));
        }
    }
    for (output, row) in weights.b.chunks_exact(rank).enumerate() {
        for (index, block) in row.chunks(BLOCK).enumerate() {
            pack_block(block, b_unit, b, |i| up.place(output, index * BLOCK + i));
        }
    }
}

/// Codes weights that share a scale.
fn pack_block(weights: &[f32], unit: f32, out: &mut [u8], place: impl Fn(usize) -> (usize, usize)) {
    let stored = if unit > 0.0 { f16::from_f32(self::unit(weights) / unit) } else { f16::ZERO };
    let scale = stored.to_f32() * unit;
    for (i, weight) in weights.iter().enumerate() {
        let (value, scales) = place(i);
        let q = if scale > 0.0 { (weight / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 };
        out[value] = q.cast_unsigned().wrapping_add(128);
        out[scales..scales + 2].copy_from_slice(&stored.to_le_bytes());
    }
}

fn weight(data: &[u8], (value, scale): (usize, usize)) -> (i32, f32) {
    (i32::from(data[value]) - 128, f16::from_le_bytes([data[scale], data[scale + 1]]).to_f32())
}

impl Update<'_> {
    /// The units of both halves.
    const fn units(self) -> (f32, f32) {
        match self.module.coding {
            Coding::EightBit { a, b } => (a, b),
            Coding::Exact => (1.0, 1.0),
        }
    }
}

/// A weight of `A` as it is kept.
#[cfg(test)]
pub(super) fn a(update: Update<'_>, r: usize, input: usize) -> f32 {
    let (q, scale) = weight(update.a(), Down::new(update.module.rank, update.module.k).place(r, input));
    q as f32 * scale * update.units().0
}

/// A weight of `B` as it is kept.
#[cfg(test)]
pub(super) fn b(update: Update<'_>, output: usize, r: usize) -> f32 {
    let (q, scale) = weight(update.b(), Up::new(update.module.rank, update.module.n).place(output, r));
    q as f32 * scale * update.units().1
}

/// Writes a block of ranks of a row.
#[inline(always)]
fn keep(block: &Block, index: usize, rank: usize, unit: f32, t: &mut [u32]) {
    let groups = rank.div_ceil(4);
    let first = index * BLOCK / 4;
    for (t, q) in t[first..groups].iter_mut().zip(block.q.as_chunks::<4>().0) {
        *t = u32::from_le_bytes(q.map(i8::cast_unsigned));
    }
    t[groups + 2 * index] = (block.scale * unit).to_bits();
    t[groups + 2 * index + 1] = (-128 * (block.sums[0] + block.sums[1])).cast_unsigned();
}

pub(super) fn down(update: Update<'_>, isa: Isa, x: &Quantized, rows: &[usize], t: &mut [u32]) {
    assert_eq!(x.width(), update.module.k, "input of the wrong size: this is a bug");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { avx512::down(update, x, rows, t) },
        Isa::Portable => {
            let (Module { rank, k, scale, .. }, (a_unit, b_unit)) = (*update.module, update.units());
            let (down, a) = (Down::new(rank, k), update.a());
            for (row, t) in rows.iter().zip(t.chunks_exact_mut(words(rank))) {
                let row = x.row(*row);
                for first in (0..rank).step_by(BLOCK) {
                    let mut low = [0f32; BLOCK];
                    for (r, low) in (first..rank).zip(&mut low) {
                        let blocks = (0..k / BLOCK).map(|block| portable_dot(a, down, r, row, block));
                        *low = blocks.sum::<f32>() * (scale * a_unit);
                    }
                    keep(&activation::quantize_block(&low), first / BLOCK, rank, b_unit, t);
                }
            }
        }
    }
}

/// A rank's product with a block of a row, but for the unit.
fn portable_dot(a: &[u8], down: Down, r: usize, row: Row<'_>, block: usize) -> f32 {
    let mut sum = 0;
    for (word, q) in row.values(block).iter().enumerate() {
        for (i, q) in q.to_le_bytes().into_iter().enumerate() {
            sum += weight(a, down.place(r, block * BLOCK + 4 * word + i)).0 * i32::from(q.cast_signed());
        }
    }
    sum as f32 * (weight(a, down.place(r, block * BLOCK)).1 * f32::from_bits(row.field(block, Field::Scale)))
}

pub(super) unsafe fn up(update: Update<'_>, isa: Isa, t: &[u32], rows: &[usize], tiles: Range<usize>, out: &Parts<f32>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected; the caller's contract.
        Isa::Avx512 => unsafe { avx512::up(update, t, rows, tiles, out) },
        Isa::Portable => {
            let Module { rank, n, .. } = *update.module;
            let (up, b) = (Up::new(rank, n), update.b());
            let outputs = tiles.start * TILE..(tiles.end * TILE).min(n);
            for (row, t) in rows.iter().zip(t.chunks_exact(words(rank))) {
                // SAFETY: the caller's contract.
                let out = unsafe { out.slice(row * n + outputs.start..row * n + outputs.end) };
                for (output, out) in outputs.clone().zip(out) {
                    let mut sum = 0f32;
                    for first in (0..rank).step_by(BLOCK) {
                        let q = |r: usize| i32::from(t[r / 4].to_le_bytes()[r % 4].cast_signed());
                        let ranks = first..rank.min(first + BLOCK);
                        let dot: i32 = ranks.map(|r| weight(b, up.place(output, r)).0 * q(r)).sum();
                        let scale = f32::from_bits(t[up.groups + 2 * (first / BLOCK)]);
                        sum += dot as f32 * (weight(b, up.place(output, first)).1 * scale);
                    }
                    *out += sum;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The same for AVX-512 with VNNI. Only called under detected features.

    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::{BLOCK, Down, Field, GROUP, Module, Parts, Quantized, SCALES, TILE, Up, Update, keep, lanes, second_half, words};
    use crate::model::ops::cpu::avx512::{ahead, fetch, halves, quantize_block, unroll};

    /// Rows whose sums are kept in registers together.
    const R: usize = 4;

    /// One row of the input: the first words of its values and of its fields, the rows between its fields, the words between blocks.
    #[derive(Clone, Copy)]
    struct Words {
        values: *const u32,
        fields: *const u32,
        rows: usize,
        step: usize,
    }

    /// Four, eight or sixteen bytes of a row to all lanes.
    #[inline(always)]
    unsafe fn spread<const LANES: usize>(p: *const u32) -> __m512i {
        // SAFETY: the caller's pointer covers `LANES` words.
        unsafe {
            match LANES {
                1 => _mm512_set1_epi32(p.cast::<i32>().read_unaligned()),
                2 => _mm512_set1_epi64(p.cast::<i64>().read_unaligned()),
                _ => _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())),
            }
        }
    }

    /// A tile's products with `N` rows, but for unit and scale: the sums of ranks in the first lanes. Alone on its way through `A` a row
    /// fetches ahead.
    #[inline(always)]
    unsafe fn dots<const N: usize, const LANES: usize>(update: Update<'_>, tile: usize, x: [Words; N]) -> [__m512; N] {
        let Module { rank, k, .. } = *update.module;
        let down = Down::new(rank, k);
        // SAFETY: the tile is one of `A`'s, the rows are those of the input.
        unsafe {
            let a = update.a();
            let mut quants = a[tile * down.tile_bytes()..][..down.tile_bytes()].as_ptr();
            let (mut acc, offset) = ([_mm512_setzero_ps(); N], _mm512_set1_epi8(i8::MIN));
            for block in 0..down.blocks {
                if N == 1 {
                    fetch(quants.wrapping_add(ahead(N)), BLOCK / 4 / LANES * GROUP + SCALES);
                }
                let mut w = [_mm512_setzero_si512(); TILE];
                unroll!(g < BLOCK / 4 / LANES, {
                    w[g] = _mm512_loadu_si512(quants.add(g * GROUP).cast());
                });
                let scale = halves(quants.add(BLOCK / 4 / LANES * GROUP));
                unroll!(r < N, {
                    let Words { values, fields, rows, step } = x[r];
                    let (values, fields) = (values.add(block * step), fields.add(block * step));
                    let mut sum = if LANES == 1 {
                        _mm512_slli_epi32::<7>(_mm512_set1_epi32((*fields.add(rows * Field::Sum as usize)).cast_signed()))
                    } else {
                        _mm512_setzero_si512()
                    };
                    let mut extra = _mm512_setzero_si512();
                    unroll!(g < BLOCK / 4 / LANES, {
                        let x = spread::<LANES>(values.add(g * LANES));
                        sum = _mm512_dpbusd_epi32(sum, w[g], x);
                        if LANES > 1 {
                            // A lane sees a part of the block alone, whose sum nobody has taken. As a byte the offset is 128.
                            extra = _mm512_dpbusd_epi32(extra, offset, x);
                        }
                    });
                    if LANES > 1 {
                        sum = _mm512_sub_epi32(sum, extra);
                    }
                    let d = _mm512_set1_ps(f32::from_bits(*fields.add(rows * Field::Scale as usize)));
                    acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, d), acc[r]);
                });
                quants = quants.add(BLOCK / 4 / LANES * GROUP + SCALES);
            }
            if LANES > 1 {
                unroll!(r < N, {
                    acc[r] = _mm512_add_ps(acc[r], _mm512_permute_ps::<0b10_11_00_01>(acc[r]));
                    if LANES == 4 {
                        acc[r] = _mm512_add_ps(acc[r], _mm512_permute_ps::<0b01_00_11_10>(acc[r]));
                    }
                    acc[r] = _mm512_maskz_compress_ps(if LANES == 2 { 0x5555 } else { 0x1111 }, acc[r]);
                });
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn rows<const N: usize, const LANES: usize>(update: Update<'_>, x: [Words; N], t: &mut [u32]) {
        let (Module { rank, scale, .. }, (a_unit, b_unit)) = (*update.module, update.units());
        // SAFETY: the features are there.
        let factor = unsafe { _mm512_set1_ps(scale * a_unit) };
        for first in (0..rank).step_by(BLOCK) {
            let mut low = [[0f32; BLOCK]; N];
            for half in 0..2 {
                let tile = first / TILE + half;
                if tile * TILE < rank {
                    // SAFETY: the tile has ranks; the caller's rows.
                    let sums = unsafe { dots::<N, LANES>(update, tile, x) };
                    for (low, sum) in low.iter_mut().zip(sums) {
                        // SAFETY: half a block is sixteen values.
                        unsafe { _mm512_storeu_ps(low.as_mut_ptr().add(TILE * half), _mm512_mul_ps(sum, factor)) };
                    }
                }
            }
            for (low, t) in low.iter().zip(t.chunks_exact_mut(words(rank))) {
                // SAFETY: the features are there.
                keep(&unsafe { quantize_block(low) }, first / BLOCK, rank, b_unit, t);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")]
    pub unsafe fn down(update: Update<'_>, x: &Quantized, of: &[usize], t: &mut [u32]) {
        let rank = update.module.rank;
        let words_of = |row: usize| {
            let (values, fields, rows, step) = x.row(row).pointers();
            Words { values, fields, rows, step }
        };
        let mut first = 0;
        while first < of.len() {
            let count = if of.len() - first >= R { R } else { 1 };
            let t = &mut t[first * words(rank)..(first + count) * words(rank)];
            // SAFETY: rows are those of the input, which checks them.
            unsafe {
                if count == R {
                    let x: [Words; R] = std::array::from_fn(|r| words_of(of[first + r]));
                    match lanes(rank) {
                        1 => rows::<R, 1>(update, x, t),
                        2 => rows::<R, 2>(update, x, t),
                        _ => rows::<R, 4>(update, x, t),
                    }
                } else {
                    let x = [words_of(of[first])];
                    match lanes(rank) {
                        1 => rows::<1, 1>(update, x, t),
                        2 => rows::<1, 2>(update, x, t),
                        _ => rows::<1, 4>(update, x, t),
                    }
                }
            }
            first += count;
        }
    }

    /// Adds a tile's update to `N` rows.
    #[inline(always)]
    unsafe fn tile<const N: usize>(up: Up, b: *const u8, t: [*const u32; N], out: [*mut f32; N], mask: u16) {
        // SAFETY: the pointers cover the tile, the rows' words, and the masked outputs.
        unsafe {
            let scales = b.add(up.groups * GROUP);
            let mut acc = [_mm512_setzero_ps(); N];
            unroll!(r < N, {
                acc[r] = _mm512_maskz_loadu_ps(mask, out[r]);
            });
            for block in 0..up.blocks {
                let mut sum = [_mm512_setzero_si512(); N];
                unroll!(r < N, {
                    sum[r] = _mm512_set1_epi32((*t[r].add(up.groups + 2 * block + 1)).cast_signed());
                });
                for g in block * BLOCK / 4..up.groups.min((block + 1) * BLOCK / 4) {
                    let w = _mm512_loadu_si512(b.add(g * GROUP).cast());
                    unroll!(r < N, {
                        sum[r] = _mm512_dpbusd_epi32(sum[r], w, _mm512_set1_epi32((*t[r].add(g)).cast_signed()));
                    });
                }
                let scale = halves(scales.add(block * SCALES));
                unroll!(r < N, {
                    let d = _mm512_set1_ps(f32::from_bits(*t[r].add(up.groups + 2 * block)));
                    acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), _mm512_mul_ps(scale, d), acc[r]);
                });
            }
            unroll!(r < N, {
                _mm512_mask_storeu_ps(out[r], mask, acc[r]);
            });
        }
    }

    /// Adds tiles' updates to one row, whose `G` words stay in registers from tile to tile. The same sums in the same order.
    #[inline(always)]
    unsafe fn row<const G: usize>(b: &[u8], t: *const u32, out: &mut [f32]) {
        // SAFETY: `t` has the row's words; tiles have `G` groups and one block of scales, and the outputs end with the last of them.
        unsafe {
            let mut q = [_mm512_setzero_si512(); G];
            unroll!(g < G, {
                q[g] = _mm512_set1_epi32((*t.add(g)).cast_signed());
            });
            let (d, offset) = (_mm512_set1_ps(f32::from_bits(*t.add(G))), _mm512_set1_epi32((*t.add(G + 1)).cast_signed()));
            let tile = |b: *const u8, before: __m512| {
                let mut sum = offset;
                unroll!(g < G, {
                    sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(b.add(g * GROUP).cast()), q[g]);
                });
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(halves(b.add(G * GROUP)), d), before)
            };
            let (whole, rest) = out.as_chunks_mut::<TILE>();
            let mut b = b.as_ptr();
            for out in whole {
                let sum = tile(b, _mm512_loadu_ps(out.as_ptr()));
                _mm512_storeu_ps(out.as_mut_ptr(), sum);
                b = b.add(G * GROUP + SCALES);
            }
            if !rest.is_empty() {
                let mask = (1u16 << rest.len()) - 1;
                let sum = tile(b, _mm512_maskz_loadu_ps(mask, rest.as_ptr()));
                _mm512_mask_storeu_ps(rest.as_mut_ptr(), mask, sum);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")]
    pub unsafe fn up(update: Update<'_>, t: &[u32], of: &[usize], tiles: Range<usize>, out: &Parts<f32>) {
        let Module { rank, n, .. } = *update.module;
        let (up, words) = (Up::new(rank, n), words(rank));
        let b = second_half(update, tiles.clone());
        // A few rows come one by one: most have an adapter of their own.
        let together = if up.blocks == 1 { of.len() / R * R } else { of.len() };
        for (of, t) in of[together..].iter().zip(t[together * words..].chunks_exact(words)) {
            // SAFETY: the outputs are the caller's alone; `t` has the row's words, and `b` the tiles.
            unsafe {
                let out = out.slice(of * n + tiles.start * TILE..of * n + (tiles.end * TILE).min(n));
                match up.groups {
                    1 => row::<1>(b, t.as_ptr(), out),
                    2 => row::<2>(b, t.as_ptr(), out),
                    3 => row::<3>(b, t.as_ptr(), out),
                    4 => row::<4>(b, t.as_ptr(), out),
                    5 => row::<5>(b, t.as_ptr(), out),
                    6 => row::<6>(b, t.as_ptr(), out),
                    7 => row::<7>(b, t.as_ptr(), out),
                    _ => row::<8>(b, t.as_ptr(), out),
                }
            }
        }
        if together == 0 {
            return;
        }
        for (at, b) in tiles.zip(b.chunks_exact(up.tile_bytes())) {
            let (first, left) = (at * TILE, (n - at * TILE).min(TILE));
            let mask = if left == TILE { 0xFFFF } else { (1u16 << left) - 1 };
            // SAFETY: `b` is the tile, `t` has the rows; the outputs are the caller's alone.
            unsafe {
                let out = |row: usize| out.slice(of[row] * n + first..of[row] * n + first + left).as_mut_ptr();
                let words = |row: usize| t[row * words..].as_ptr();
                let mut row = 0;
                while together - row >= R {
                    let (t, out) = (std::array::from_fn(|r| words(row + r)), std::array::from_fn(|r| out(row + r)));
                    tile::<R>(up, b.as_ptr(), t, out, mask);
                    row += R;
                }
                while row < together {
                    tile::<1>(up, b.as_ptr(), [words(row)], [out(row)], mask);
                    row += 1;
                }
            }
        }
    }
}
