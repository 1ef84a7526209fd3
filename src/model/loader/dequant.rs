//! Stored elements to f32, bit-equal to the `gguf` Python package: the slow reference beside every fast kernel.
//!
//! Block layouts are GGML's (`ggml-common.h`); each product is rounded to f32 before the next operation, as NumPy does.

use half::{bf16, f16};

use super::{DType, RawTensor};
use crate::model::ModelError;

impl RawTensor {
    /// Row `row` in Hugging Face's order, as f32; `out` has `cols` elements.
    /// A vector of an interleaved projection (its bias) comes in Hugging Face's order too.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), ModelError> {
        let invalid = |what: &str| ModelError::Invalid(format!("{what} (rows {}, cols {})", self.rows, self.cols));
        if row >= self.rows || out.len() != self.cols {
            return Err(invalid("a row outside a tensor, or of another width, was asked for"));
        }
        dequantize(self.dtype, self.row_bytes(row)?, out);
        if self.rows == 1 && self.interleaved_head_dim.is_some() {
            let stored = out.to_vec();
            for (index, value) in out.iter_mut().enumerate() {
                *value = stored.get(self.source_row(index)).copied().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Stored bytes of the row that is `row` in Hugging Face's order. Of a vector, as it is stored.
    pub fn row_bytes(&self, row: usize) -> Result<&[u8], ModelError> {
        let width = self.dtype.row_bytes(self.cols);
        let source = if self.rows == 1 { row } else { self.source_row(row) };
        let range = width.and_then(|width| Some((source.checked_mul(width)?, width)));
        range.and_then(|(start, width)| self.bytes().get(start..start.checked_add(width)?)).ok_or_else(|| {
            ModelError::Invalid(format!("row {row} of a [{}, {}] tensor is not in its file", self.rows, self.cols))
        })
    }

    /// The whole tensor as f32, row-major, in Hugging Face's order.
    pub fn dequantize(&self) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, out) in values.chunks_exact_mut(self.cols).enumerate() {
                self.dequantize_row(row, out)?;
            }
        }
        Ok(values)
    }
}

/// Whole blocks to f32: `out` has as many elements as `bytes` has blocks' worth; what does not pair up is left alone.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let (elements, size) = dtype.block();
    let blocks = bytes.chunks_exact(size).zip(out.chunks_exact_mut(elements));
    match dtype {
        DType::F32 => blocks.for_each(|(block, out)| out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
        DType::F16 => blocks.for_each(|(block, out)| out[0] = half_at(block, 0)),
        DType::BF16 => blocks.for_each(|(block, out)| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32()),
        DType::Q8_0 => blocks.for_each(|(block, out)| q8_0(block, out)),
        DType::Q6K => blocks.for_each(|(block, out)| q6_k(block, out)),
        DType::Q5K => blocks.for_each(|(block, out)| q5_k(block, out)),
        DType::Q4K => blocks.for_each(|(block, out)| q4_k(block, out)),
        DType::Q5_0 => blocks.for_each(|(block, out)| q5_0(block, out)),
        DType::Q4_0 => blocks.for_each(|(block, out)| q4_0(block, out)),
    }
}

/// The f16 at a byte offset.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (value, quant) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(quant.cast_signed()) * scale;
    }
}

/// Elements `0..16` are low nibbles, `16..32` high ones.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (index, byte) in block[2..].iter().enumerate() {
        out[index] = scale * f32::from((byte & 15).cast_signed() - 8);
        out[index + 16] = scale * f32::from((byte >> 4).cast_signed() - 8);
    }
}

/// As Q4_0 with a fifth bit per element, in order, in four bytes.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let fifth = |index: usize| (((high >> index) & 1) as u8) << 4;
    for (index, byte) in block[6..].iter().enumerate() {
        out[index] = scale * f32::from(((byte & 15) | fifth(index)).cast_signed() - 16);
        out[index + 16] = scale * f32::from(((byte >> 4) | fifth(index + 16)).cast_signed() - 16);
    }
}

/// Six-bit scale and minimum of sub-block `index` (of eight, 32 elements each) from the 12 packed bytes of Q4_K and Q5_K.
fn scale_min(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let shared = packed[index + 4];
        ((shared & 15) | ((packed[index - 4] >> 2) & 0x30), (shared >> 4) | ((packed[index] >> 2) & 0x30))
    }
}

/// Sub-blocks go in pairs over 32 bytes: low nibbles, then high ones.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (index, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = scale_min(&block[4..16], index);
        let (scale, minimum) = (scale * f32::from(sub_scale), minimum * f32::from(sub_minimum));
        let quants = &block[16 + index / 2 * 32..][..32];
        for (value, byte) in out.iter_mut().zip(quants) {
            *value = scale * f32::from((byte >> (index % 2 * 4)) & 15) - minimum;
        }
    }
}

/// As Q4_K with a fifth bit: bit `index` of byte `i` belongs to element `i` of sub-block `index`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (index, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = scale_min(&block[4..16], index);
        let (scale, minimum) = (scale * f32::from(sub_scale), minimum * f32::from(sub_minimum));
        let quants = &block[48 + index / 2 * 32..][..32];
        for ((value, byte), high) in out.iter_mut().zip(quants).zip(high) {
            let quant = ((byte >> (index % 2 * 4)) & 15) | (((high >> index) & 1) << 4);
            *value = scale * f32::from(quant) - minimum;
        }
    }
}

/// Two halves of 128 elements; in each, four runs of 32 share 64 low bytes (nibbles) and 32 high bytes (pairs of bits).
fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 208);
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, within) = (run / 4, run % 4);
        let low = &block[half * 64 + within % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        for (index, value) in out.iter_mut().enumerate() {
            let quant = ((low[index] >> (within / 2 * 4)) & 15) | (((high[index] >> (within * 2)) & 3) << 4);
            let sub_scale = block[192 + run * 2 + index / 16].cast_signed();
            *value = scale * f32::from(sub_scale) * f32::from(quant.cast_signed() - 32);
        }
    }
}
