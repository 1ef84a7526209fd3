//! Decoding and coding of panels for AVX-512. The plain versions beside it are the reference.

use std::arch::x86_64::*;

use super::{LARGEST, scale_of};
use crate::model::ops::cpu::packed::{BLOCK, Format, Packed, TILE};
use crate::model::train::kernels::{COLS, GROUP};

/// Block `block` of a quantized tile: input `i` of all sixteen rows goes to `out[i * step..][..16]`.
///
/// # Safety
/// `out` covers that; tile and block are the matrix's; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
pub unsafe fn decode(weight: &Packed, tile: usize, block: usize, out: *mut f32, step: usize) {
    let (format, (quants, scales)) = (weight.format, weight.block(tile, block));
    let sub = block % format.blocks_per_super();
    // SAFETY: offsets are inside the block's quants and scales by the format; `out` by the caller's contract.
    unsafe {
        let half = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().add(at).cast()));
        let bytes = |at: usize| _mm_loadu_si128(scales.as_ptr().add(at * TILE).cast());
        let (low, high, min) = match format {
            Format::Q6K => {
                let d = half(16 * TILE);
                let scale = |at: usize| _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(at))));
                (scale(2 * sub), scale(2 * sub + 1), _mm512_setzero_ps())
            }
            Format::Q4K | Format::Q5K => {
                let number = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(at)));
                let scale = _mm512_mul_ps(half(16 * TILE), number(sub));
                (scale, scale, _mm512_mul_ps(half(18 * TILE), number(8 + sub)))
            }
            _ => (half(0), half(0), _mm512_setzero_ps()),
        };
        let offset = _mm512_set1_ps(format.offset() as f32);
        let load = |at: usize| _mm512_loadu_si512(quants.as_ptr().add(at).cast());
        let nibble = _mm512_set1_epi8(0x0F);
        for group in 0..8usize {
            let values = if format == Format::Q8_0 {
                load(64 * group)
            } else {
                let shift = |v: __m512i, bits: usize| _mm512_srl_epi16(v, _mm_cvtsi32_si128(bits as i32));
                let four = _mm512_and_si512(shift(load(64 * (group % 4)), 4 * (group / 4)), nibble);
                match format {
                    Format::Q5_0 | Format::Q5K => {
                        let bit = _mm512_and_si512(shift(load(256), group), _mm512_set1_epi8(1));
                        _mm512_or_si512(four, _mm512_slli_epi16::<4>(bit))
                    }
                    Format::Q6K => {
                        let bits = shift(load(256 + 64 * (group / 4)), 2 * (group % 4));
                        _mm512_or_si512(four, _mm512_slli_epi16::<4>(_mm512_and_si512(bits, _mm512_set1_epi8(3))))
                    }
                    _ => four,
                }
            };
            // Sixteen inputs share a scale in Q6_K, thirty-two in the others.
            let scale = if group < 4 { low } else { high };
            let bias = _mm512_fmadd_ps(offset, scale, min);
            let byte = _mm512_set1_epi32(0xFF);
            let inputs = [
                _mm512_and_si512(values, byte),
                _mm512_and_si512(_mm512_srli_epi32::<8>(values), byte),
                _mm512_and_si512(_mm512_srli_epi32::<16>(values), byte),
                _mm512_srli_epi32::<24>(values),
            ];
            for (i, input) in inputs.into_iter().enumerate() {
                let value = _mm512_fmsub_ps(_mm512_cvtepi32_ps(input), scale, bias);
                _mm512_storeu_ps(out.add((GROUP * group + i) * step), value);
            }
        }
    }
}

/// Codes a run `[depth][COLS]` in 8 bits.
///
/// # Safety
/// Lengths are those of a run; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn code_forward(run: &[f32], bytes: &mut [u8], scales: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut inverse = [_mm512_setzero_ps(); 2];
        for (side, inverse) in inverse.iter_mut().enumerate() {
            let mut largest = _mm512_setzero_ps();
            for row in run.chunks_exact(COLS) {
                largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(row.as_ptr().add(16 * side))));
            }
            let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_set1_ps(1e-30));
            let scale = _mm512_maskz_div_ps(some, largest, _mm512_set1_ps(LARGEST));
            *inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(LARGEST), largest);
            _mm512_storeu_ps(scales.as_mut_ptr().add(16 * side), scale);
        }
        let byte = _mm512_set1_epi32(0xFF);
        for (rows, out) in run.chunks_exact(GROUP * COLS).zip(bytes.chunks_exact_mut(GROUP * COLS)) {
            for (side, inverse) in inverse.iter().enumerate() {
                let code = |i: usize| {
                    let value = _mm512_loadu_ps(rows.as_ptr().add(i * COLS + 16 * side));
                    _mm512_cvtps_epi32(_mm512_mul_ps(value, *inverse))
                };
                let low =
                    _mm512_or_si512(_mm512_and_si512(code(0), byte), _mm512_slli_epi32::<8>(_mm512_and_si512(code(1), byte)));
                let high =
                    _mm512_or_si512(_mm512_slli_epi32::<16>(_mm512_and_si512(code(2), byte)), _mm512_slli_epi32::<24>(code(3)));
                let codes = _mm512_xor_si512(_mm512_or_si512(low, high), _mm512_set1_epi8(-128));
                _mm512_storeu_si512(out.as_mut_ptr().add(64 * side).cast(), codes);
            }
        }
    }
}

/// Codes a run `[tile][COLS][TILE]` in 8 bits: the depth runs over rows of the tiles.
///
/// # Safety
/// Lengths are those of a run; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn code_backward(run: &[f32], bytes: &mut [u8], scales: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        for (col, scale_out) in scales.iter_mut().enumerate().take(BLOCK) {
            let mut largest = _mm512_setzero_ps();
            for tile in run.chunks_exact(COLS * TILE) {
                largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(tile.as_ptr().add(col * TILE))));
            }
            let (scale, inverse) = scale_of(_mm512_reduce_max_ps(largest));
            *scale_out = scale;
            let inverse = _mm512_set1_ps(inverse);
            for (tile, out) in run.chunks_exact(COLS * TILE).zip(bytes.chunks_exact_mut(COLS * TILE)) {
                let value = _mm512_mul_ps(_mm512_loadu_ps(tile.as_ptr().add(col * TILE)), inverse);
                let codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value));
                let codes = _mm_xor_si128(codes, _mm_set1_epi8(-128));
                let to = out.as_mut_ptr().add(col * GROUP).cast::<i32>();
                const STEP: usize = COLS;
                to.write_unaligned(_mm_extract_epi32::<0>(codes));
                to.add(STEP).write_unaligned(_mm_extract_epi32::<1>(codes));
                to.add(2 * STEP).write_unaligned(_mm_extract_epi32::<2>(codes));
                to.add(3 * STEP).write_unaligned(_mm_extract_epi32::<3>(codes));
            }
        }
    }
}
