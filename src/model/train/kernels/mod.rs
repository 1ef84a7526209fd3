//! Block products of training: what one processor core does between two looks at the gate.
//!
//! All of them compute `C (+)= A B` for up to [`COLS`] columns of `C`, so that a weight panel is decoded once and meets every row.
//! A result's sum runs over the depth in ascending order, whatever rows share the call: training repeats bit for bit.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::model::ops::cpu::Isa;

/// Columns of a panel: two 512-bit registers of f32.
pub const COLS: usize = 32;
/// Rows of a packed block of 8-bit activations.
pub const ROWS: usize = 12;
/// Consecutive values of the depth that one 32-bit lane of `vpdpbusd` takes.
pub const GROUP: usize = 4;
/// Values of the depth that share a scale, in activations and panels.
pub const SCALED: usize = 32;

/// `C (+)= A B` in f32. Element `(i, d)` of A is at `a[i * a_row + d * a_col]`, `(d, j)` of B at `b[d * b_row + j]`, `(i, j)` of C at
/// `c[i * c_row + j]`.
#[derive(Debug, Clone, Copy)]
pub struct F32Block {
    pub rows: usize,
    /// At most [`COLS`].
    pub cols: usize,
    pub depth: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    pub b: *const f32,
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// Whether C is added to, not replaced.
    pub add: bool,
}

/// `C (+)= A B` in 8 bits: `scaled` runs of [`SCALED`] values, each with a scale for its row of A and its column of B.
///
/// A: `[run][group of 4][row of 12][4]`, signed. B: `[run][group of 4][column of 32][4]`, unsigned, 128 above the value.
/// `sums`: `[run][12]`, -128 times the sum of the row's values in the run. `a_scales`: `[run][12]`, `b_scales`: `[run][32]`.
#[derive(Debug, Clone, Copy)]
pub struct I8Block {
    /// At most [`ROWS`].
    pub rows: usize,
    /// At most [`COLS`].
    pub cols: usize,
    pub scaled: usize,
    pub a: *const i8,
    pub sums: *const i32,
    pub a_scales: *const f32,
    pub b: *const u8,
    pub b_scales: *const f32,
    pub c: *mut f32,
    pub c_row: usize,
    /// Whether C is added to, not replaced.
    pub add: bool,
}

/// Runs an f32 block.
///
/// # Safety
/// The matrices cover what the block names, C is written by nobody else, and `isa` was detected.
pub unsafe fn f32_block(isa: Isa, block: &F32Block) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::f32_block(block),
            Isa::Portable => portable::f32_block(block),
        }
    }
}

/// Runs an 8-bit block.
///
/// # Safety
/// As [`f32_block`].
pub unsafe fn i8_block(isa: Isa, block: &I8Block) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::i8_block(block),
            Isa::Portable => portable::i8_block(block),
        }
    }
}
