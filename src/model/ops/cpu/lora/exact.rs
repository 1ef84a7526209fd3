//! Updates in f32: beside a base whose products are exact, and where inputs do not come in whole blocks.
//!
//! `A` is `[k / 16][rank][16]`, inputs beyond `k` zero; `B` is `[n / 16][rank][16]`, outputs beyond `n` zero.

use std::ops::Range;

use super::{Isa, Module, Parts, Update};
use crate::model::lora::LoraModule;
use crate::model::ops::cpu::packed::TILE;

/// Inputs that lie together.
const COLUMN: usize = 16;

pub(super) fn a_bytes(rank: usize, k: usize) -> usize {
    k.next_multiple_of(COLUMN) * rank * size_of::<f32>()
}

pub(super) fn b_bytes(rank: usize, n: usize) -> usize {
    n.next_multiple_of(TILE) * rank * size_of::<f32>()
}

pub(super) fn pack(module: &Module, weights: &LoraModule, a: &mut [u8], b: &mut [u8]) {
    let Module { rank, k, .. } = *module;
    let put = |out: &mut [u8], at: usize, value: f32| out[4 * at..4 * at + 4].copy_from_slice(&value.to_ne_bytes());
    for (r, row) in weights.a.chunks_exact(k).enumerate() {
        row.iter().enumerate().for_each(|(i, value)| put(a, (i / COLUMN * rank + r) * COLUMN + i % COLUMN, *value));
    }
    for (o, row) in weights.b.chunks_exact(rank).enumerate() {
        row.iter().enumerate().for_each(|(r, value)| put(b, (o / TILE * rank + r) * TILE + o % TILE, *value));
    }
}

fn at(data: &[u8], index: usize) -> f32 {
    let bytes = data.as_chunks::<4>().0[index];
    f32::from_ne_bytes(bytes)
}

/// A weight of `A`.
pub(super) fn a(update: Update<'_>, r: usize, input: usize) -> f32 {
    at(update.a(), (input / COLUMN * update.module.rank + r) * COLUMN + input % COLUMN)
}

/// A weight of `B`.
pub(super) fn b(update: Update<'_>, output: usize, r: usize) -> f32 {
    at(update.b(), (output / TILE * update.module.rank + r) * TILE + output % TILE)
}

pub(super) fn down(update: Update<'_>, isa: Isa, x: &[f32], rows: &[usize], t: &mut [u32]) {
    let Module { rank, k, scale, .. } = *update.module;
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { avx512::down(update, x, rows, t) },
        Isa::Portable => {
            for (row, t) in rows.iter().zip(t.chunks_exact_mut(rank)) {
                let x = &x[row * k..(row + 1) * k];
                for (r, t) in t.iter_mut().enumerate() {
                    *t = (scale * x.iter().enumerate().map(|(i, x)| a(update, r, i) * x).sum::<f32>()).to_bits();
                }
            }
        }
    }
}

pub(super) unsafe fn up(update: Update<'_>, isa: Isa, t: &[u32], rows: &[usize], tiles: Range<usize>, out: &Parts<f32>) {
    let Module { rank, n, .. } = *update.module;
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected; the caller's contract.
        Isa::Avx512 => unsafe { avx512::up(update, t, rows, tiles, out) },
        Isa::Portable => {
            let outputs = tiles.start * TILE..(tiles.end * TILE).min(n);
            for (row, t) in rows.iter().zip(t.chunks_exact(rank)) {
                // SAFETY: the caller's contract.
                let out = unsafe { out.slice(row * n + outputs.start..row * n + outputs.end) };
                for (output, out) in outputs.clone().zip(out) {
                    *out += t.iter().enumerate().map(|(r, t)| b(update, output, r) * f32::from_bits(*t)).sum::<f32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The same for AVX-512. Only called under detected features.

    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::super::ROWS;
    use super::{COLUMN, Module, Parts, TILE, Update};
    use crate::model::ops::cpu::avx512::unroll;

    /// The lanes of `left` values.
    fn mask(left: usize) -> u16 {
        if left >= 16 { 0xFFFF } else { (1u16 << left) - 1 }
    }

    /// A row with `J` rows of `A` from `j`.
    #[inline(always)]
    unsafe fn dots<const J: usize>(update: Update<'_>, x: *const f32, j: usize, t: &mut [u32]) {
        let Module { rank, k, scale, .. } = *update.module;
        // SAFETY: `x` covers `k` inputs, `j + J <= rank`, tails are masked.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); J];
            let mut column = update.a().as_ptr().cast::<f32>().add(j * COLUMN);
            for i in (0..k).step_by(COLUMN) {
                let x = _mm512_maskz_loadu_ps(mask(k - i), x.add(i));
                unroll!(c < J, {
                    acc[c] = _mm512_fmadd_ps(_mm512_loadu_ps(column.add(c * COLUMN)), x, acc[c]);
                });
                column = column.add(rank * COLUMN);
            }
            unroll!(c < J, {
                t[j + c] = (scale * _mm512_reduce_add_ps(acc[c])).to_bits();
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub unsafe fn down(update: Update<'_>, x: &[f32], rows: &[usize], t: &mut [u32]) {
        let Module { rank, k, .. } = *update.module;
        for (row, t) in rows.iter().zip(t.chunks_exact_mut(rank)) {
            let x = &x[row * k..(row + 1) * k];
            let mut j = 0;
            while j < rank {
                // SAFETY: bounds as just computed.
                unsafe {
                    j += match rank - j {
                        8.. => {
                            dots::<8>(update, x.as_ptr(), j, t);
                            8
                        }
                        _ => {
                            dots::<1>(update, x.as_ptr(), j, t);
                            1
                        }
                    };
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub unsafe fn up(update: Update<'_>, t: &[u32], rows: &[usize], tiles: Range<usize>, out: &Parts<f32>) {
        let Module { rank, n, .. } = *update.module;
        for tile in tiles {
            let (first, left) = (tile * TILE, (n - tile * TILE).min(TILE));
            let b = update.b()[tile * rank * TILE * size_of::<f32>()..][..rank * TILE * size_of::<f32>()].as_ptr().cast::<f32>();
            for (rows, t) in rows.chunks(ROWS).zip(t.chunks(ROWS * rank)) {
                let mut acc = [_mm512_setzero_ps(); ROWS];
                // SAFETY: the slices cover what is read; the outputs are the caller's alone.
                unsafe {
                    for j in 0..rank {
                        let b = _mm512_loadu_ps(b.add(j * TILE));
                        for (acc, t) in acc.iter_mut().zip(t.chunks_exact(rank)) {
                            *acc = _mm512_fmadd_ps(b, _mm512_set1_ps(f32::from_bits(t[j])), *acc);
                        }
                    }
                    for (row, acc) in rows.iter().zip(acc) {
                        let out = out.slice(row * n + first..row * n + first + left).as_mut_ptr();
                        let sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask(left), out), acc);
                        _mm512_mask_storeu_ps(out, mask(left), sum);
                    }
                }
            }
        }
    }
}
