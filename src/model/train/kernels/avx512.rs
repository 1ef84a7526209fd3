//! The kernels for AVX-512 with VNNI. Each has its slow twin in [`super::portable`]; layouts and contracts are in [`super`].

use std::arch::x86_64::*;

use super::{COLS, GROUP, ROWS, SCALED};

/// Lane masks of the two registers that hold `cols` columns.
#[inline(always)]
fn masks(cols: usize) -> [u16; 2] {
    let mask = |cols: usize| if cols >= 16 { u16::MAX } else { (1u16 << cols) - 1 };
    [mask(cols), mask(cols.saturating_sub(16))]
}

/// See [`super::f32_block`].
///
/// # Safety
/// As there; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn f32_block(block: &super::F32Block) {
    let mut row = 0;
    while row < block.rows {
        // SAFETY: the caller's contract; the pieces are disjoint rows.
        unsafe {
            match block.rows - row {
                12.. => (f32_rows::<12>(block, row), row += 12),
                8.. => (f32_rows::<8>(block, row), row += 8),
                4.. => (f32_rows::<4>(block, row), row += 4),
                2.. => (f32_rows::<2>(block, row), row += 2),
                _ => (f32_rows::<1>(block, row), row += 1),
            };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn f32_rows<const R: usize>(block: &super::F32Block, row: usize) {
    let [low, high] = masks(block.cols);
    // SAFETY: the caller's contract: rows, columns and depth are inside all three matrices.
    unsafe {
        let c = block.c.add(row * block.c_row);
        let a = block.a.add(row * block.a_row);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        if block.add {
            for (r, acc) in acc.iter_mut().enumerate() {
                let c = c.add(r * block.c_row);
                *acc = [_mm512_maskz_loadu_ps(low, c), _mm512_maskz_loadu_ps(high, c.wrapping_add(16))];
            }
        }
        let (mut a, mut b) = (a, block.b);
        for _ in 0..block.depth {
            let b0 = _mm512_maskz_loadu_ps(low, b);
            let b1 = _mm512_maskz_loadu_ps(high, b.wrapping_add(16));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(r * block.a_row));
                acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
            }
            a = a.wrapping_add(block.a_col);
            b = b.wrapping_add(block.b_row);
        }
        for (r, acc) in acc.iter().enumerate() {
            let c = c.add(r * block.c_row);
            _mm512_mask_storeu_ps(c, low, acc[0]);
            _mm512_mask_storeu_ps(c.wrapping_add(16), high, acc[1]);
        }
    }
}

/// See [`super::i8_block`].
///
/// # Safety
/// As there; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn i8_block(block: &super::I8Block) {
    macro_rules! dispatch {
        ($($rows:literal)*) => {
            match block.rows {
                // SAFETY: the caller's contract.
                $($rows => unsafe { i8_rows::<$rows>(block) },)*
                _ => {}
            }
        };
    }
    dispatch!(1 2 3 4 5 6 7 8 9 10 11 12);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn i8_rows<const R: usize>(block: &super::I8Block) {
    let [low, high] = masks(block.cols);
    // SAFETY: the caller's contract: packed rows, panel, scales and results cover what is named.
    unsafe {
        // Kept apart from C until the end: its rows are far from each other, and each visit would cost a translation.
        let mut sum = [[_mm512_setzero_ps(); 2]; R];
        if block.add {
            for (r, sum) in sum.iter_mut().enumerate() {
                let c = block.c.add(r * block.c_row);
                *sum = [_mm512_maskz_loadu_ps(low, c), _mm512_maskz_loadu_ps(high, c.wrapping_add(16))];
            }
        }
        for scaled in 0..block.scaled {
            let mut a = block.a.add(scaled * SCALED * ROWS);
            let mut b = block.b.add(scaled * SCALED * COLS);
            let sums = block.sums.add(scaled * ROWS);
            // The panel's values are 128 too large: that many times the row's sum is taken off first.
            let mut acc = [[_mm512_setzero_si512(); 2]; R];
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_set1_epi32(*sums.add(r)); 2];
            }
            for _ in 0..SCALED / GROUP {
                let b0 = _mm512_loadu_si512(b.cast());
                let b1 = _mm512_loadu_si512(b.add(64).cast());
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(a.add(r * GROUP).cast::<i32>().read_unaligned());
                    acc[0] = _mm512_dpbusd_epi32(acc[0], b0, x);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], b1, x);
                }
                a = a.add(ROWS * GROUP);
                b = b.add(COLS * GROUP);
            }
            let s0 = _mm512_loadu_ps(block.b_scales.add(scaled * COLS));
            let s1 = _mm512_loadu_ps(block.b_scales.add(scaled * COLS + 16));
            let a_scales = block.a_scales.add(scaled * ROWS);
            for (r, (acc, sum)) in acc.iter().zip(&mut sum).enumerate() {
                let scale = _mm512_set1_ps(*a_scales.add(r));
                sum[0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[0]), _mm512_mul_ps(s0, scale), sum[0]);
                sum[1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[1]), _mm512_mul_ps(s1, scale), sum[1]);
            }
        }
        for (r, sum) in sum.iter().enumerate() {
            let c = block.c.add(r * block.c_row);
            _mm512_mask_storeu_ps(c, low, sum[0]);
            _mm512_mask_storeu_ps(c.wrapping_add(16), high, sum[1]);
        }
    }
}
