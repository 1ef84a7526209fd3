//! Kernels for AVX-512 with VNNI. Each has its plain counterpart in `portable`, which the tests hold it to.
//!
//! Every output element is summed in one order, over the blocks from first to last, whatever the number of rows or
//! tiles computed together: a row's result does not depend on what shares its step.

mod dense;

use std::arch::x86_64::*;

pub use dense::matmul_dense;

use super::activation::{Block, Field, GROUP, WORDS};
use super::packed::{BLOCK, Format, Packed, TILE};
use super::{Aside, OutRows, RowPointers};

/// Runs the body for each index under a constant limit of at most sixteen, unrolled: arrays indexed by it stay in registers.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
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
    /// Eight groups of 64 unsigned values; `IN_ORDER` as of [`load`].
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8];
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

/// 64 bytes. Compilers mix loads as they like; where the memory is waited for, the processor's own fetching wants them `IN_ORDER`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const IN_ORDER: bool>(p: *const u8) -> __m512i {
    // SAFETY: the caller's pointer covers 64 bytes.
    unsafe {
        if IN_ORDER {
            let value: __m512i;
            std::arch::asm!("vmovdqu64 {}, [{}]", out(zmm_reg) value, in(reg) p, options(readonly, nostack, preserves_flags));
            value
        } else {
            _mm512_loadu_si512(p.cast())
        }
    }
}

/// Sixteen `f16` as `f32`.
///
/// # Safety
///
/// AVX-512 is there, and 32 bytes can be read at `p`.
#[inline(always)]
pub unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: the caller's pointer covers 32 bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

#[inline(always)]
unsafe fn low_nibbles<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
    // SAFETY: a block begins with 256 bytes of nibbles.
    unsafe {
        let mask = _mm512_set1_epi8(0x0F);
        let mut out = [_mm512_setzero_si512(); 8];
        for g in 0..4 {
            let pair = load::<IN_ORDER>(block.add(64 * g));
            out[g] = _mm512_and_si512(pair, mask);
            out[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(pair), mask);
        }
        out
    }
}

#[inline(always)]
unsafe fn five_bits<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
    // SAFETY: a block has 256 bytes of nibbles and a plane of 64.
    unsafe {
        let (mut out, plane, bit) = (low_nibbles::<IN_ORDER>(block), load::<IN_ORDER>(block.add(256)), _mm512_set1_epi8(0x10));
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
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: a block is 512 bytes.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 8];
            for (g, out) in out.iter_mut().enumerate() {
                *out = load::<IN_ORDER>(block.add(64 * g));
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
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { five_bits::<IN_ORDER>(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, _sub: usize) -> [__m512; 3] {
        [superblock.d; 3]
    }
}

impl Coding for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    #[inline(always)]
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { low_nibbles::<IN_ORDER>(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, _sub: usize) -> [__m512; 3] {
        [superblock.d; 3]
    }
}

impl Coding for Q6K {
    const FORMAT: Format = Format::Q6K;
    #[inline(always)]
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: a block has 256 bytes of nibbles and two planes of 64.
        unsafe {
            let (mut out, bits) = (low_nibbles::<IN_ORDER>(block), _mm512_set1_epi8(0x30));
            for half in 0..2 {
                let plane = load::<IN_ORDER>(block.add(256 + 64 * half));
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
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { five_bits::<IN_ORDER>(block) }
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
    unsafe fn quants<const IN_ORDER: bool>(block: *const u8) -> [__m512i; 8] {
        // SAFETY: as the caller's.
        unsafe { low_nibbles::<IN_ORDER>(block) }
    }
    #[inline(always)]
    unsafe fn scales(superblock: &Superblock, sub: usize) -> [__m512; 3] {
        // SAFETY: as the caller's.
        unsafe { min_scales(superblock, sub) }
    }
}

/// Adds one block's share of one row of a group of `R`, whose values are at `q` and whose fields begin at `at`.
///
/// In assembly, so that every product is one instruction with its broadcast folded in, and that nothing but sums and weights lives in
/// registers from row to row: compilers split the one and reorder the other until both spill.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn row_block<C: Coding, const R: usize>(
    mut acc: __m512,
    w: &[__m512i; 8],
    [first, second, min]: [__m512; 3],
    q: *const u32,
    at: *const u32,
) -> __m512 {
    let (mut _sum, mut _high, mut _scale): (__m512i, __m512i, __m512);
    macro_rules! block {
        ([$($before:literal)*], [$($products:literal)*], [$($after:literal)*], $($operand:tt)*) => {
            std::arch::asm!(
                $($before,)*
                $($products,)*
                $($after,)*
                sum = out(zmm_reg) _sum,
                scale = out(zmm_reg) _scale,
                acc = inout(zmm_reg) acc,
                first = in(zmm_reg) first,
                q = in(reg) q,
                at = in(reg) at,
                w0 = in(zmm_reg) w[0], w1 = in(zmm_reg) w[1], w2 = in(zmm_reg) w[2], w3 = in(zmm_reg) w[3],
                w4 = in(zmm_reg) w[4], w5 = in(zmm_reg) w[5], w6 = in(zmm_reg) w[6], w7 = in(zmm_reg) w[7],
                $($operand)*
                options(pure, readonly, nostack, preserves_flags),
            )
        };
        // Eight products into one sum.
        ([$($before:literal)*], [$($after:literal)*], $($operand:tt)*) => {
            block!(
                [$($before)*],
                [
                    "vpdpbusd {sum}, {w0}, dword ptr [{q}]{{1to16}}"
                    "vpdpbusd {sum}, {w1}, dword ptr [{q} + 4]{{1to16}}"
                    "vpdpbusd {sum}, {w2}, dword ptr [{q} + 8]{{1to16}}"
                    "vpdpbusd {sum}, {w3}, dword ptr [{q} + 12]{{1to16}}"
                    "vpdpbusd {sum}, {w4}, dword ptr [{q} + 16]{{1to16}}"
                    "vpdpbusd {sum}, {w5}, dword ptr [{q} + 20]{{1to16}}"
                    "vpdpbusd {sum}, {w6}, dword ptr [{q} + 24]{{1to16}}"
                    "vpdpbusd {sum}, {w7}, dword ptr [{q} + 28]{{1to16}}"
                    "vcvtdq2ps {sum}, {sum}"
                    "vmulps {scale}, {first}, dword ptr [{at}]{{1to16}}"
                    "vfmadd231ps {acc}, {sum}, {scale}"
                ],
                [$($after)*],
                $($operand)*
            )
        };
    }
    // SAFETY: `q` covers a block's values, `at` its fields.
    unsafe {
        match C::FORMAT {
            Format::Q6K => block!(
                [
                    "vpbroadcastd {sum}, dword ptr [{at} + {low_sum}]"
                    "vpbroadcastd {high}, dword ptr [{at} + {high_sum}]"
                    "vpslld {sum}, {sum}, {shift}"
                    "vpslld {high}, {high}, {shift}"
                ],
                [
                    "vpdpbusd {sum}, {w0}, dword ptr [{q}]{{1to16}}"
                    "vpdpbusd {high}, {w4}, dword ptr [{q} + 16]{{1to16}}"
                    "vpdpbusd {sum}, {w1}, dword ptr [{q} + 4]{{1to16}}"
                    "vpdpbusd {high}, {w5}, dword ptr [{q} + 20]{{1to16}}"
                    "vpdpbusd {sum}, {w2}, dword ptr [{q} + 8]{{1to16}}"
                    "vpdpbusd {high}, {w6}, dword ptr [{q} + 24]{{1to16}}"
                    "vpdpbusd {sum}, {w3}, dword ptr [{q} + 12]{{1to16}}"
                    "vpdpbusd {high}, {w7}, dword ptr [{q} + 28]{{1to16}}"
                    "vcvtdq2ps {sum}, {sum}"
                    "vcvtdq2ps {high}, {high}"
                    "vmulps {scale}, {first}, dword ptr [{at}]{{1to16}}"
                    "vfmadd231ps {acc}, {sum}, {scale}"
                ],
                [
                    "vmulps {scale}, {second}, dword ptr [{at}]{{1to16}}"
                    "vfmadd231ps {acc}, {high}, {scale}"
                ],
                high = out(zmm_reg) _high,
                second = in(zmm_reg) second,
                low_sum = const 4 * R * Field::LowSum as usize,
                high_sum = const 4 * R * Field::HighSum as usize,
                shift = const C::FORMAT.offset().trailing_zeros(),
            ),
            Format::Q4K | Format::Q5K => block!(
                ["vpxord {sum}, {sum}, {sum}"],
                ["vfnmadd231ps {acc}, {min}, dword ptr [{at} + {scaled_sum}]{{1to16}}"],
                min = in(zmm_reg) min,
                scaled_sum = const 4 * R * Field::ScaledSum as usize,
            ),
            _ => block!(
                [
                    "vpbroadcastd {sum}, dword ptr [{at} + {whole_sum}]"
                    "vpslld {sum}, {sum}, {shift}"
                ],
                [],
                whole_sum = const 4 * R * Field::Sum as usize,
                shift = const C::FORMAT.offset().trailing_zeros(),
            ),
        }
    }
    acc
}

/// As [`super::activation::quantize_block`], bit for bit.
///
/// # Safety
/// The processor has AVX-512F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn quantize_block(x: &[f32; BLOCK]) -> Block {
    let mut block = Block { q: [0; BLOCK], scale: 0.0, sums: [0; 2] };
    // SAFETY: both halves of `x` are read, and `q` is written, whole.
    unsafe {
        let halves = [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))];
        let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFF_FFFF));
        let peak = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(halves[0]), magnitude(halves[1])));
        let peak = f32::from_bits(peak);
        let inverse = _mm512_set1_ps(if peak > 0.0 { 127.0 / peak } else { 0.0 });
        block.scale = peak / 127.0;
        // To the nearest integer, ties to even.
        let [low, high] = halves.map(|x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse))));
        let q = _mm256_set_m128i(high, low);
        _mm256_storeu_si256(block.q.as_mut_ptr().cast(), q);
        // Sums of four, of eight, of sixteen.
        let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
        block.sums = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
    }
    block
}

/// How far ahead of the products of `rows` rows weights are fetched, bytes: the hardware's own fetching stays behind a stream that it can
/// compute on as fast as this. A few rows are done before the memory answers.
pub const fn ahead(rows: usize) -> usize {
    if rows < GROUP { 8 << 10 } else { 4 << 10 }
}

/// Asks for `bytes` bytes that will be read soon; where there are none nothing happens.
#[inline(always)]
pub fn fetch(from: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: a hint reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast()) };
    }
}

/// Asks for a line that will be read, but not so soon that it should take room in the first-level cache.
#[inline(always)]
pub fn fetch_later(line: *const u8) {
    // SAFETY: a hint reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// Dot products of one tile with a group of `R` rows at `x`. The first group to read the tile `FETCH`es ahead, and what was asked for
/// aside.
#[inline(always)]
unsafe fn tile<C: Coding, const R: usize, const FETCH: bool>(
    tile: Tile,
    mut x: *const u32,
    aside: &mut Aside<'_>,
) -> [__m512; R] {
    // SAFETY: the pointers cover the tile's blocks and those of `R` rows.
    unsafe {
        let format = C::FORMAT;
        let mut acc = [_mm512_setzero_ps(); R];
        let Tile { start: mut scales, blocks } = tile;
        for _ in 0..blocks / format.blocks_per_super() {
            if FETCH {
                fetch(scales.wrapping_add(ahead(R)), format.scale_bytes());
            }
            let superblock = C::superblock(scales);
            let mut quants = scales.add(format.scale_bytes());
            for sub in 0..format.blocks_per_super() {
                if FETCH {
                    // Behind the last block lies the next tile.
                    fetch(quants.wrapping_add(ahead(R)), format.quant_bytes());
                    aside.fetch();
                }
                let w = if R < GROUP { C::quants::<true>(quants) } else { C::quants::<false>(quants) };
                let s = C::scales(&superblock, sub);
                unroll!(r < R, {
                    acc[r] = row_block::<C, R>(acc[r], &w, s, x.add(BLOCK / 4 * r), x.add(BLOCK / 4 * R + r));
                });
                quants = quants.add(format.quant_bytes());
                x = x.add(WORDS * R);
            }
            scales = quants;
        }
        acc
    }
}

/// A tile's bytes.
#[derive(Clone, Copy)]
struct Tile {
    start: *const u8,
    blocks: usize,
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
unsafe fn quantized<C: Coding>(
    w: &Packed,
    tiles: std::ops::Range<usize>,
    rows: usize,
    x: RowPointers,
    (out, aside): (OutRows, &mut Aside<'_>),
) {
    for t in tiles {
        let it = Tile { start: w.tile(t).as_ptr(), blocks: w.k / BLOCK };
        let mut row = 0;
        // SAFETY: the tile's slices hold its blocks; `x` and `out` cover `rows` rows by the caller's contract, in these groups.
        unsafe {
            macro_rules! group {
                ($rows:literal) => {
                    let (x, out) = (x.group(row), out.row(row, w.n));
                    if row == 0 {
                        store::<$rows>(tile::<C, $rows, true>(it, x, aside), t, w.n, out);
                    } else {
                        store::<$rows>(tile::<C, $rows, false>(it, x, aside), t, w.n, out);
                    }
                    row += $rows;
                };
            }
            while rows - row >= GROUP {
                group!(16);
            }
            if rows - row >= 8 {
                group!(8);
            }
            if rows - row >= 4 {
                group!(4);
            }
            if rows - row >= 2 {
                group!(2);
            }
            if rows - row >= 1 {
                group!(1);
            }
            debug_assert!(row == rows);
        }
    }
}

macro_rules! quantized_kernel {
    ($name:ident, $coding:ty) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")]
        unsafe fn $name(w: &Packed, tiles: std::ops::Range<usize>, rows: usize, x: RowPointers, to: (OutRows, &mut Aside<'_>)) {
            // SAFETY: as the caller's.
            unsafe { quantized::<$coding>(w, tiles, rows, x, to) }
        }
    };
}
quantized_kernel!(q8_0, Q8_0);
quantized_kernel!(q5_0, Q5_0);
quantized_kernel!(q4_0, Q4_0);
quantized_kernel!(q6k, Q6K);
quantized_kernel!(q5k, Q5K);
quantized_kernel!(q4k, Q4K);

/// `out[r][n] = w x[r] + bias` for the given tiles, quantized weights; each of them fetches what is asked for aside.
///
/// # Safety
/// The processor has the features; `x` and `out` cover `rows` rows; no other thread writes these tiles' outputs.
pub unsafe fn matmul_quantized(
    w: &Packed,
    tiles: std::ops::Range<usize>,
    rows: usize,
    x: RowPointers,
    to: (OutRows, &mut Aside<'_>),
) {
    // SAFETY: the caller's contract.
    unsafe {
        match w.format {
            Format::Q8_0 => q8_0(w, tiles, rows, x, to),
            Format::Q5_0 => q5_0(w, tiles, rows, x, to),
            Format::Q4_0 => q4_0(w, tiles, rows, x, to),
            Format::Q6K => q6k(w, tiles, rows, x, to),
            Format::Q5K => q5k(w, tiles, rows, x, to),
            Format::Q4K => q4k(w, tiles, rows, x, to),
            Format::F32 | Format::F16 | Format::BF16 => {}
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
