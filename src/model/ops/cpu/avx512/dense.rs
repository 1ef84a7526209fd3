//! Products of float weights for AVX-512: f32 sums, each in one order.

use std::arch::x86_64::*;

use super::super::OutRows;
use super::super::packed::{Format, Packed, TILE};
use super::{store, unroll};

/// Loads 16 weights of an element type as f32: 0 is f32, 1 is f16, 2 is bf16.
#[inline(always)]
unsafe fn dense_load<const E: u8>(p: *const u8) -> __m512 {
    // SAFETY: the caller's pointer covers 16 elements.
    unsafe {
        match E {
            0 => _mm512_loadu_ps(p.cast()),
            1 => _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
            _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))),
        }
    }
}

#[inline(always)]
unsafe fn dense<const E: u8, const R: usize, const T: usize>(w: &Packed, t: usize, x: *const f32, out: OutRows) {
    // SAFETY: `T` tiles from `t` exist; `x` and `out` cover `R` rows.
    unsafe {
        let size = if E == 0 { 4 } else { 2 };
        let mut tiles = [std::ptr::null(); T];
        for (i, tile) in tiles.iter_mut().enumerate() {
            *tile = w.tile(t + i).as_ptr();
        }
        let mut acc = [[_mm512_setzero_ps(); R]; T];
        for i in 0..w.k {
            let mut values = [_mm512_setzero_ps(); T];
            unroll!(t < T, {
                values[t] = dense_load::<E>(tiles[t].add(i * TILE * size));
            });
            unroll!(r < R, {
                let x = _mm512_set1_ps(*x.add(r * w.k + i));
                unroll!(t < T, {
                    acc[t][r] = _mm512_fmadd_ps(values[t], x, acc[t][r]);
                });
            });
        }
        for (i, acc) in acc.into_iter().enumerate() {
            store::<R>(acc, t + i, w.n, out);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
unsafe fn dense_tiles<const E: u8>(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: *const f32, out: OutRows) {
    let mut t = tiles.start;
    while t < tiles.end {
        let four = tiles.end - t >= 4;
        let mut row = 0;
        while row < rows {
            // SAFETY: the caller's contract, and the bounds just computed.
            unsafe {
                let (x, out) = (x.add(row * w.k), out.row(row, w.n));
                row += match (four, rows - row) {
                    (true, 4..) => {
                        dense::<E, 4, 4>(w, t, x, out);
                        4
                    }
                    (true, _) => {
                        dense::<E, 1, 4>(w, t, x, out);
                        1
                    }
                    (false, 4..) => {
                        dense::<E, 4, 1>(w, t, x, out);
                        4
                    }
                    (false, _) => {
                        dense::<E, 1, 1>(w, t, x, out);
                        1
                    }
                };
            }
        }
        t += if four { 4 } else { 1 };
    }
}

/// `out[r][n] = w x[r] + bias` for the given tiles, float weights, f32 arithmetic.
///
/// # Safety
/// As [`super::matmul_quantized`]; `x` is `rows * k` values.
pub unsafe fn matmul_dense(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: *const f32, out: OutRows) {
    // SAFETY: the caller's contract.
    unsafe {
        match w.format {
            Format::F32 => dense_tiles::<0>(w, tiles, rows, x, out),
            Format::F16 => dense_tiles::<1>(w, tiles, rows, x, out),
            _ => dense_tiles::<2>(w, tiles, rows, x, out),
        }
    }
}
