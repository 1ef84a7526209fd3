//! The kernels in plain Rust: the reference of the fast ones, and what other processors run.

use super::{COLS, F32Block, GROUP, I8Block, ROWS, SCALED};

/// See [`super::f32_block`].
///
/// # Safety
/// As there.
pub unsafe fn f32_block(block: &F32Block) {
    for row in 0..block.rows {
        let mut acc = [0f32; COLS];
        // SAFETY: the caller's contract: everything named is inside its matrix.
        unsafe {
            let c = std::slice::from_raw_parts_mut(block.c.add(row * block.c_row), block.cols);
            if block.add {
                acc[..block.cols].copy_from_slice(c);
            }
            for depth in 0..block.depth {
                let x = *block.a.add(row * block.a_row + depth * block.a_col);
                let b = std::slice::from_raw_parts(block.b.add(depth * block.b_row), block.cols);
                acc.iter_mut().zip(b).for_each(|(acc, b)| *acc += x * b);
            }
            c.copy_from_slice(&acc[..block.cols]);
        }
    }
}

/// See [`super::i8_block`].
///
/// # Safety
/// As there.
pub unsafe fn i8_block(block: &I8Block) {
    for row in 0..block.rows {
        // SAFETY: the caller's contract: everything named is inside its matrix.
        unsafe {
            let c = std::slice::from_raw_parts_mut(block.c.add(row * block.c_row), block.cols);
            for scaled in 0..block.scaled {
                let mut acc = [*block.sums.add(scaled * ROWS + row); COLS];
                for group in 0..SCALED / GROUP {
                    let at = scaled * SCALED + group * GROUP;
                    let a: [i8; GROUP] = block.a.add(at * ROWS + row * GROUP).cast::<[i8; GROUP]>().read();
                    let b = std::slice::from_raw_parts(block.b.add(at * COLS).cast::<[u8; GROUP]>(), COLS);
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc += a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>();
                    }
                }
                let scale = *block.a_scales.add(scaled * ROWS + row);
                let scales = std::slice::from_raw_parts(block.b_scales.add(scaled * COLS), COLS);
                let fresh = scaled == 0 && !block.add;
                for ((c, acc), b) in c.iter_mut().zip(acc).zip(scales) {
                    *c = acc as f32 * (b * scale) + if fresh { 0.0 } else { *c };
                }
            }
        }
    }
}
