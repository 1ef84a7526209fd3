//! Kernels for AVX-512 with VNNI. Each has its plain counterpart in `portable`, which the tests hold it to.
//!
//! Every output element is summed in one order, over the blocks from first to last, whatever the number of rows or
//! tiles computed together: a row's result does not depend on what shares its step.

use std::arch::x86_64::*;

use super::packed::{Format, Packed, TILE};
use super::{OutRows, RowPointers};

/// Runs the body for each index under a constant limit of at most eight, unrolled: arrays indexed by it stay in registers.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $n:expr, $body:block, $($value:literal)*) => {
        $(if $value < $n {
            let $i: usize = $value;
            $body
        })*
    };
}
pub(super) use unroll;

/// How the kernel reads one quantized format.
trait Coding {
    const FORMAT: Format;
    /// Eight groups of 64 unsigned values.
    unsafe fn quants(block: *const u8) -> [__m512i; 8];
    /// What a super-block's blocks share.
    #[inline(always)]
    unsafe fn superblock(scales: *const u8) -> Superblock {
        // SAFETY: a K-quant's super-block has 16 rows of bytes, then its f16.
        unsafe {
            let (d, dmin) = match Self::FORMAT {
                Format::Q6K => (16 * TILE, 16 * TILE),
                Format::Q5K | Format::Q4K => (16 * TILE, 18 * TILE),
                _ => (0, 0),
            };
            Superblock { scales, d: halves(scales.add(d)), dmin: halves(scales.add(dmin)) }
        }
    }
    /// Scales of the block's halves, and its minimum.
    unsafe fn scales(superblock: &Superblock, sub: usize) -> [__m512; 3];
}

/// Scales of sixteen rows' super-blocks.
struct Superblock {
    /// Byte scales.
    scales: *const u8,
    d: __m512,
    dmin: __m512,
}

struct Q8_0;
struct Q5_0;
struct Q4_0;
struct Q6K;
struct Q5K;
struct Q4K;

#[inline(always)]
unsafe fn load(p: *const u8) -> __m512i {
    // SAFETY: the caller's pointer covers 64 bytes.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

#[inline(always)]
unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: the caller's pointer covers 32 bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

#[inline(always)]
unsafe fn low_nibbles(block: *const u8) -> [__m512i; 8] {
    // SAFETY: a block begins with 256 bytes of nibbles.
    unsafe {
        let mask = _mm512_set1_epi8(0x0F);
        let mut out = [_mm512_setzero_si512(); 8];
        for g in 0..4 {
            let pair = load(block.add(64 * g));
            out[g] = _mm512_and_si512(pair, mask);
            out[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(pair), mask);
        }
        out
    }
}

#[inline(always)]
unsafe fn five_bits(block: *const u8) -> [__m512i; 8] {
    // SAFETY: a block has 256 bytes of nibbles and a plane of 64.
    unsafe {
        let (mut out, plane, bit) = (low_nibbles(block), load(block.add(256)), _mm512_set1_epi8(0x10));
        let shifted = [
            _mm512_slli_epi16::<4>(plane),
            _mm512_slli_epi16::<3>(plane),
            _mm512_slli_epi16::<2>(plane),
            _mm512_slli_epi16::<1>(plane),
            plane,
            _mm512_srli_epi16::<1>(plane),
            _mm512_srli_epi16::<2>(plane),
            _mm512_srli_epi16::<3>(plane),
        ];
        for g in 0..8 {
            // or(out, and(shifted, bit))
            out[g] = _mm512_ternarylogic_epi32::<0xF8>(out[g], shifted[g], bit);
        }
        out
    }
}

#[inline(always)]
unsafe fn min_scales(superblock: &Superblock, sub: usize) -> [__m512; 3] {
    // SAFETY: a super-block has 16 rows of byte scales and minima.
    unsafe {
        let scale = _mm512_cvtepu8_epi32(_mm_loadu_si128(superblock.scales.add(sub * TILE).cast()));
        let min = _mm512_cvtepu8_epi32(_mm_loadu_si128(superblock.scales.add((8 + sub) * TILE).cast()));
        let scale = _mm512_mul_ps(superblock.d, _mm512_cvtepi32_ps(scale));
        [scale, scale, _mm512_mul_ps(superblock.dmin, _mm512_cvtepi32_ps(min))]
    }
}

impl Coding for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: a block is 512 bytes.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 8];
            for (g, out) in out.iter_mut().enumerate() {
                *out = load(block.add(64 * g));
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, _sub: usize) -> [__m512; 3] {
        [superblock.d; 3]
    }
}

impl Coding for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { five_bits(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, _sub: usize) -> [__m512; 3] {
        [superblock.d; 3]
    }
}

impl Coding for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { low_nibbles(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, _sub: usize) -> [__m512; 3] {
        [superblock.d; 3]
    }
}

impl Coding for Q6K {
    const FORMAT: Format = Format::Q6K;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: a block has 256 bytes of nibbles and two planes of 64.
        unsafe {
            let (mut out, bits) = (low_nibbles(block), _mm512_set1_epi8(0x30));
            for half in 0..2 {
                let plane = load(block.add(256 + 64 * half));
                let shifted =
                    [_mm512_slli_epi16::<4>(plane), _mm512_slli_epi16::<2>(plane), plane, _mm512_srli_epi16::<2>(plane)];
                for g in 0..4 {
                    out[4 * half + g] = _mm512_ternarylogic_epi32::<0xF8>(out[4 * half + g], shifted[g], bits);
                }
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, sub: usize) -> [__m512; 3] {
        // SAFETY: a super-block has 16 rows of 16 signed scales, then one row of f16.
        unsafe {
            let (d, scales) = (superblock.d, superblock.scales);
            let first = _mm512_cvtepi8_epi32(_mm_loadu_si128(scales.add(2 * sub * TILE).cast()));
            let second = _mm512_cvtepi8_epi32(_mm_loadu_si128(scales.add((2 * sub + 1) * TILE).cast()));
            [_mm512_mul_ps(d, _mm512_cvtepi32_ps(first)), _mm512_mul_ps(d, _mm512_cvtepi32_ps(second)), d]
        }
    }
}

impl Coding for Q5K {
    const FORMAT: Format = Format::Q5K;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { five_bits(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, sub: usize) -> [__m512; 3] {
        // SAFETY: as the caller's.
        unsafe { min_scales(superblock, sub) }
    }
}

impl Coding for Q4K {
    const FORMAT: Format = Format::Q4K;
    #[inline(always)]
    unsafe fn quants(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { low_nibbles(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, sub: usize) -> [__m512; 3] {
        // SAFETY: as the caller's.
        unsafe { min_scales(superblock, sub) }
    }
}

/// Adds the products of a block's eight groups with a row's 32 values: groups 0 to 3 to `low`, 4 to 7 to `high`.
///
/// In assembly, so that every product is one instruction with its broadcast folded in; compilers split them.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_halves(mut low: __m512i, mut high: __m512i, w: &[__m512i; 8], q: *const i8) -> [__m512i; 2] {
    // SAFETY: `q` covers 32 values.
    unsafe {
        std::arch::asm!(
            "vpdpbusd {low}, {w0}, dword ptr [{q}]{{1to16}}",
            "vpdpbusd {high}, {w4}, dword ptr [{q} + 16]{{1to16}}",
            "vpdpbusd {low}, {w1}, dword ptr [{q} + 4]{{1to16}}",
            "vpdpbusd {high}, {w5}, dword ptr [{q} + 20]{{1to16}}",
            "vpdpbusd {low}, {w2}, dword ptr [{q} + 8]{{1to16}}",
            "vpdpbusd {high}, {w6}, dword ptr [{q} + 24]{{1to16}}",
            "vpdpbusd {low}, {w3}, dword ptr [{q} + 12]{{1to16}}",
            "vpdpbusd {high}, {w7}, dword ptr [{q} + 28]{{1to16}}",
            low = inout(zmm_reg) low,
            high = inout(zmm_reg) high,
            w0 = in(zmm_reg) w[0], w1 = in(zmm_reg) w[1], w2 = in(zmm_reg) w[2], w3 = in(zmm_reg) w[3],
            w4 = in(zmm_reg) w[4], w5 = in(zmm_reg) w[5], w6 = in(zmm_reg) w[6], w7 = in(zmm_reg) w[7],
            q = in(reg) q,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// The same into one sum; integers have no order, so both give the same bits. Many rows hide its latency.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot(mut sum: __m512i, w: &[__m512i; 8], q: *const i8) -> __m512i {
    // SAFETY: `q` covers 32 values.
    unsafe {
        std::arch::asm!(
            "vpdpbusd {sum}, {w0}, dword ptr [{q}]{{1to16}}",
            "vpdpbusd {sum}, {w1}, dword ptr [{q} + 4]{{1to16}}",
            "vpdpbusd {sum}, {w2}, dword ptr [{q} + 8]{{1to16}}",
            "vpdpbusd {sum}, {w3}, dword ptr [{q} + 12]{{1to16}}",
            "vpdpbusd {sum}, {w4}, dword ptr [{q} + 16]{{1to16}}",
            "vpdpbusd {sum}, {w5}, dword ptr [{q} + 20]{{1to16}}",
            "vpdpbusd {sum}, {w6}, dword ptr [{q} + 24]{{1to16}}",
            "vpdpbusd {sum}, {w7}, dword ptr [{q} + 28]{{1to16}}",
            sum = inout(zmm_reg) sum,
            w0 = in(zmm_reg) w[0], w1 = in(zmm_reg) w[1], w2 = in(zmm_reg) w[2], w3 = in(zmm_reg) w[3],
            w4 = in(zmm_reg) w[4], w5 = in(zmm_reg) w[5], w6 = in(zmm_reg) w[6], w7 = in(zmm_reg) w[7],
            q = in(reg) q,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds one block's share of one row.
#[inline(always)]
unsafe fn row_block<C: Coding, const R: usize>(
    acc: __m512,
    w: &[__m512i; 8],
    [first, second, min]: [__m512; 3],
    x: RowPointers,
    q: *const i8,
    at: usize,
) -> __m512 {
    // SAFETY: the row's pointers cover the block.
    unsafe {
        let format = C::FORMAT;
        let (d, sums, zero) = (_mm512_set1_ps(*x.d.add(at)), x.sums.add(2 * at), _mm512_setzero_si512());
        if matches!(format, Format::Q6K) {
            let low = _mm512_set1_epi32(-format.offset() * *sums);
            let high = _mm512_set1_epi32(-format.offset() * *sums.add(1));
            let [low, high] = dot_halves(low, high, w, q);
            let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(first, d), acc);
            return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(second, d), acc);
        }
        let start = match format.offset() {
            0 => zero,
            offset => _mm512_set1_epi32(-offset * (*sums + *sums.add(1))),
        };
        let sum = if R > 4 {
            dot(start, w, q)
        } else {
            let [low, high] = dot_halves(start, zero, w, q);
            _mm512_add_epi32(low, high)
        };
        let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(first, d), acc);
        if matches!(format, Format::Q4K | Format::Q5K) {
            return _mm512_fnmadd_ps(min, _mm512_set1_ps(*x.dsums.add(at)), acc);
        }
        acc
    }
}

/// Dot products of one tile with `R` rows.
#[inline(always)]
unsafe fn tile<C: Coding, const R: usize>(quants: *const u8, scales: *const u8, blocks: usize, x: RowPointers) -> [__m512; R] {
    // SAFETY: the pointers cover `blocks` blocks of the tile and of `R` rows.
    unsafe {
        let format = C::FORMAT;
        let mut acc = [_mm512_setzero_ps(); R];
        let per_super = format.blocks_per_super();
        for index in 0..blocks / per_super {
            let superblock = C::superblock(scales.add(index * format.scale_bytes()));
            for sub in 0..per_super {
                let b = index * per_super + sub;
                let w = C::quants(quants.add(b * format.quant_bytes()));
                let s = C::scales(&superblock, sub);
                unroll!(r < R, {
                    acc[r] = row_block::<C, R>(acc[r], &w, s, x, x.q.add(r * x.k + b * 32), r * blocks + b);
                });
            }
        }
        acc
    }
}

/// Writes a tile's results for `R` rows, bias added.
#[inline(always)]
unsafe fn store<const R: usize>(acc: [__m512; R], tile: usize, n: usize, out: OutRows) {
    // SAFETY: `out` covers `R` rows of `n` values and the bias `n` rounded up to a tile.
    unsafe {
        let first = tile * TILE;
        let bias = if out.bias.is_null() { _mm512_setzero_ps() } else { _mm512_loadu_ps(out.bias.add(first)) };
        let mask = if n - first >= TILE { 0xFFFF } else { (1u16 << (n - first)) - 1 };
        for (r, acc) in acc.into_iter().enumerate() {
            let value = if out.bias.is_null() { acc } else { _mm512_add_ps(acc, bias) };
            _mm512_mask_storeu_ps(out.values.add(r * n + first), mask, value);
        }
    }
}

#[inline(always)]
unsafe fn quantized<C: Coding>(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: RowPointers, out: OutRows) {
    /// Rows whose accumulators stay in registers beside a block's eight groups.
    const R: usize = 8;
    let blocks = w.k / 32;
    for t in tiles {
        let (quants, scales) = w.tile(t);
        let (quants, scales) = (quants.as_ptr(), scales.as_ptr());
        let mut row = 0;
        // SAFETY: the tile's slices hold `blocks` blocks; `x` and `out` cover `rows` rows by the caller's contract.
        unsafe {
            while rows - row >= R {
                store::<R>(tile::<C, R>(quants, scales, blocks, x.row(row)), t, w.n, out.row(row, w.n));
                row += R;
            }
            if rows - row >= 4 {
                store::<4>(tile::<C, 4>(quants, scales, blocks, x.row(row)), t, w.n, out.row(row, w.n));
                row += 4;
            }
            if rows - row >= 2 {
                store::<2>(tile::<C, 2>(quants, scales, blocks, x.row(row)), t, w.n, out.row(row, w.n));
                row += 2;
            }
            if rows - row >= 1 {
                store::<1>(tile::<C, 1>(quants, scales, blocks, x.row(row)), t, w.n, out.row(row, w.n));
            }
        }
    }
}

macro_rules! quantized_kernel {
    ($name:ident, $coding:ty) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")]
        unsafe fn $name(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: RowPointers, out: OutRows) {
            // SAFETY: as the caller's.
            unsafe { quantized::<$coding>(w, tiles, rows, x, out) }
        }
    };
}
quantized_kernel!(q8_0, Q8_0);
quantized_kernel!(q5_0, Q5_0);
quantized_kernel!(q4_0, Q4_0);
quantized_kernel!(q6k, Q6K);
quantized_kernel!(q5k, Q5K);
quantized_kernel!(q4k, Q4K);

/// `out[r][n] = w x[r] + bias` for the given tiles, quantized weights.
///
/// # Safety
/// The processor has the features; `x` and `out` cover `rows` rows; no other thread writes these tiles' outputs.
pub unsafe fn matmul_quantized(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: RowPointers, out: OutRows) {
    // SAFETY: the caller's contract.
    unsafe {
        match w.format {
            Format::Q8_0 => q8_0(w, tiles, rows, x, out),
            Format::Q5_0 => q5_0(w, tiles, rows, x, out),
            Format::Q4_0 => q4_0(w, tiles, rows, x, out),
            Format::Q6K => q6k(w, tiles, rows, x, out),
            Format::Q5K => q5k(w, tiles, rows, x, out),
            Format::Q4K => q4k(w, tiles, rows, x, out),
            Format::F32 | Format::F16 | Format::BF16 => {}
        }
    }
}

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
            *tile = w.tile(t + i).0.as_ptr();
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
/// As [`matmul_quantized`]; `x` is `rows * k` values.
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

/// `e^x`, relative error under 2e-7: Cody and Waite's reduction, then a polynomial of degree 6.
///
/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
pub unsafe fn exp(x: __m512) -> __m512 {
    // SAFETY: the caller's processor has AVX-512F.
    unsafe {
        // Of a NaN and a number this is the second operand: the NaN stays.
        let x = _mm512_max_ps(_mm512_set1_ps(-104.0), x);
        let n = _mm512_roundscale_ps::<8>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
        let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
        let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
        let mut p = _mm512_set1_ps(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
        }
        _mm512_scalef_ps(p, n)
    }
}

/// `gate = gate / (1 + e^-gate) * up`.
///
/// # Safety
/// The processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let n = gate.len().min(up.len());
    let mut i = 0;
    while i < n {
        // SAFETY: masked to the slices' ends.
        unsafe {
            let mask = if n - i >= 16 { 0xFFFF } else { (1u16 << (n - i)) - 1 };
            let g = _mm512_maskz_loadu_ps(mask, gate.as_ptr().add(i));
            let u = _mm512_maskz_loadu_ps(mask, up.as_ptr().add(i));
            let one = _mm512_set1_ps(1.0);
            let e = exp(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), g), _mm512_set1_ps(88.0)));
            let silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
            _mm512_mask_storeu_ps(gate.as_mut_ptr().add(i), mask, _mm512_mul_ps(silu, u));
        }
        i += 16;
    }
}
