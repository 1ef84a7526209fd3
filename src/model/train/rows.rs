//! Activations and gradients as the block products take them: f32 as they are, or packed to 8 bits with a scale for each row
//! and run of 32.

use super::kernels::{GROUP, ROWS, SCALED};
use super::panel::{scale_of, to_code};
use crate::model::ops::cpu::Isa;

/// Rows in 8 bits: see [`super::kernels::I8Block`] for the layout. Blocks of 12 rows follow one another.
#[derive(Debug, Default)]
pub struct PackedRows {
    /// Runs of a row.
    pub runs: usize,
    /// `[block][run][group][12][4]`.
    pub bytes: Vec<i8>,
    /// `[block][run][12]`.
    pub sums: Vec<i32>,
    /// `[block][run][12]`.
    pub scales: Vec<f32>,
}

impl PackedRows {
    /// Makes room for `rows` of `width` values.
    pub fn shape(&mut self, rows: usize, width: usize) {
        self.runs = width.div_ceil(SCALED);
        let lanes = rows.div_ceil(ROWS) * self.runs * ROWS;
        self.bytes.resize(lanes * SCALED, 0);
        self.sums.resize(lanes, 0);
        self.scales.resize(lanes, 0.0);
    }
}

/// One block of twelve rows of a [`PackedRows`].
pub struct RowBlock<'a> {
    /// `[run][group][12][4]`.
    pub bytes: &'a mut [i8],
    /// `[run][12]`.
    pub sums: &'a mut [i32],
    /// `[run][12]`.
    pub scales: &'a mut [f32],
}

/// Packs up to twelve rows of `width` values, which lie one after the other in `values`.
pub fn pack(isa: Isa, values: &[f32], width: usize, out: RowBlock<'_>) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    unsafe fn wide(values: &[f32], width: usize, out: RowBlock<'_>) {
        pack_plain(values, width, out);
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { wide(values, width, out) },
        Isa::Portable => pack_plain(values, width, out),
    }
}

#[inline(always)]
fn pack_plain(values: &[f32], width: usize, out: RowBlock<'_>) {
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (run, values) in values.chunks(SCALED).enumerate() {
            let mut padded = [0f32; SCALED];
            padded[..values.len()].copy_from_slice(values);
            let mut largest = [0f32; 16];
            for chunk in padded.as_chunks::<16>().0 {
                largest.iter_mut().zip(chunk).for_each(|(largest, v)| *largest = largest.max(v.abs()));
            }
            let (scale, inverse) = scale_of(largest.iter().fold(0.0, |a: f32, b| a.max(*b)));
            let mut codes = [0i8; SCALED];
            codes.iter_mut().zip(&padded).for_each(|(code, v)| *code = (to_code(*v, inverse) ^ 0x80).cast_signed());
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            out.scales[run * ROWS + row] = scale;
            out.sums[run * ROWS + row] = -128 * sum;
            let to = out.bytes[run * SCALED * ROWS..(run + 1) * SCALED * ROWS].as_chunks_mut::<GROUP>().0;
            for (group, four) in codes.as_chunks::<GROUP>().0.iter().enumerate() {
                to[group * ROWS + row] = *four;
            }
        }
    }
}
