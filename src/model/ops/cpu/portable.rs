//! The kernels in plain Rust: what runs where AVX-512 VNNI is missing, and what the fast ones are tested against.
//! The same sums in the same order as far as the language fixes it; results agree with `avx512` within rounding.

use super::activation::{Field, place};
use super::packed::{BLOCK, Format, Packed, TILE, dense_element, unpack_block, unpack_scales};
use super::{OutRows, RowPointers};

/// `out[r][n] = w x[r] + bias` for the given tiles, quantized weights.
///
/// # Safety
/// `x` and `out` cover `rows` rows; no other thread writes these tiles' outputs.
#[inline(always)]
pub unsafe fn matmul_quantized(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: RowPointers, out: OutRows) {
    /// Rows that share an unpacked block.
    const R: usize = 16;
    let (format, blocks) = (w.format, w.k / BLOCK);
    let mut values = [0u8; 512];
    for t in tiles {
        for first in (0..rows).step_by(R) {
            let count = R.min(rows - first);
            let mut acc = [[0f32; TILE]; R];
            for b in 0..blocks {
                let ((quants, scales), sub) = (w.block(t, b), b % format.blocks_per_super());
                unpack_block(format, quants, &mut values);
                let mut lanes = [(0f32, 0f32, 0f32); TILE];
                lanes.iter_mut().enumerate().for_each(|(lane, out)| *out = unpack_scales(format, scales, sub, lane));
                for (r, acc) in acc.iter_mut().enumerate().take(count) {
                    let place = place(rows, blocks, first + r);
                    // SAFETY: the row's words are within those of `rows` rows.
                    let word = |at: usize| unsafe { *x.words.add(at) };
                    let int = |field| word(place.field(b, field)).cast_signed();
                    let float = |field| f32::from_bits(word(place.field(b, field)));
                    let (d, dsum) = (float(Field::Scale), float(Field::ScaledSum));
                    let sums = [int(Field::LowSum), int(Field::HighSum)];
                    let mut q = [0i8; BLOCK];
                    for (q, at) in q.as_chunks_mut::<4>().0.iter_mut().zip(place.values(b)) {
                        *q = word(at).to_le_bytes().map(u8::cast_signed);
                    }
                    let mut dots = [[0i32; TILE]; 2];
                    for (group, values) in values.as_chunks::<64>().0.iter().enumerate() {
                        let q = &q[4 * group..4 * group + 4];
                        for (dot, w) in dots[group / 4].iter_mut().zip(values.as_chunks::<4>().0) {
                            *dot += (0..4).map(|i| i32::from(w[i]) * i32::from(q[i])).sum::<i32>();
                        }
                    }
                    for lane in 0..TILE {
                        let (first, second, min) = lanes[lane];
                        let low = dots[0][lane] + format.offset() * sums[0];
                        let high = dots[1][lane] + format.offset() * sums[1];
                        if format == Format::Q6K {
                            acc[lane] += low as f32 * (first * d);
                            acc[lane] += high as f32 * (second * d);
                        } else {
                            acc[lane] += (low + high) as f32 * (first * d);
                            acc[lane] -= min * dsum;
                        }
                    }
                }
            }
            // SAFETY: the caller's contract.
            unsafe { store(&acc[..count], t, w.n, out.row(first, w.n)) };
        }
    }
}

/// `out[r][n] = w x[r] + bias` for the given tiles, float weights.
///
/// # Safety
/// As [`matmul_quantized`]; `x` is `rows * k` values.
#[inline(always)]
pub unsafe fn matmul_dense(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: *const f32, out: OutRows) {
    for t in tiles {
        let tile = w.tile(t);
        for row in 0..rows {
            // SAFETY: `x` covers `rows` rows of `k` values.
            let x = unsafe { std::slice::from_raw_parts(x.add(row * w.k), w.k) };
            let mut acc = [0f32; TILE];
            for (i, x) in x.iter().enumerate() {
                acc.iter_mut().enumerate().for_each(|(lane, acc)| *acc += dense_element(w.format, tile, i, lane) * x);
            }
            // SAFETY: the caller's contract.
            unsafe { store(&[acc], t, w.n, out.row(row, w.n)) };
        }
    }
}

/// Writes a tile's results, bias added.
unsafe fn store(acc: &[[f32; TILE]], tile: usize, n: usize, out: OutRows) {
    for (r, acc) in acc.iter().enumerate() {
        for (lane, sum) in acc.iter().enumerate().take(n - tile * TILE) {
            let at = tile * TILE + lane;
            // SAFETY: `out` covers the rows, the bias every output.
            unsafe {
                let bias = if out.bias.is_null() { 0.0 } else { *out.bias.add(at) };
                out.values.add(r * n + at).write(sum + bias);
            }
        }
    }
}

/// `gate = silu(gate) * up`.
#[inline(always)]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
}
